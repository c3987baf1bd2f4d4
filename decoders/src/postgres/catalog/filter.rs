//! Which tables take part.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::change::QualifiedName;

/// The schema of the engine's own tables on green and blue; never replicated.
pub const CONTROL_SCHEMA: &str = "_cutover";

/// A pattern for tables: `schema.table`, or a bare `table` for any schema.
///
/// `*` stands for any characters and `?` for one. Without double quotes the case is kept as
/// written (unlike SQL, where it is folded), because names come from the catalog, not from SQL.
/// A part in double quotes is literal: wildcards and dots have no meaning there, `""` is a quote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TablePattern {
    text: String,
    schema: Option<Glob>,
    name: Glob,
}

impl TablePattern {
    /// Whether the table is meant.
    pub fn matches(&self, table: &QualifiedName) -> bool {
        self.schema.as_ref().is_none_or(|schema| schema.matches(&table.schema))
            && self.name.matches(&table.name)
    }

    fn matches_schema(&self, schema: &str) -> bool {
        self.schema.as_ref().is_none_or(|pattern| pattern.matches(schema))
    }
}

impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The text is not a table pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a table pattern: {text:?} ({reason}); write schema.table, with * and ? as wildcards")]
pub struct ParsePatternError {
    text: String,
    reason: &'static str,
}

impl FromStr for TablePattern {
    type Err = ParsePatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |reason| ParsePatternError { text: text.to_owned(), reason };
        let mut parts = vec![Vec::new()];
        let mut chars = text.chars().peekable();
        let mut quoted = false;
        while let Some(c) = chars.next() {
            let part: &mut Vec<Token> = match parts.last_mut() {
                Some(part) => part,
                None => return Err(refuse("empty")),
            };
            match c {
                '"' if quoted && chars.peek() == Some(&'"') => {
                    chars.next();
                    part.push(Token::Char('"'));
                }
                '"' => quoted = !quoted,
                _ if quoted => part.push(Token::Char(c)),
                '.' => parts.push(Vec::new()),
                '*' => part.push(Token::Any),
                '?' => part.push(Token::One),
                _ => part.push(Token::Char(c)),
            }
        }
        if quoted {
            return Err(refuse("a double quote is not closed"));
        }
        if parts.iter().any(Vec::is_empty) {
            return Err(refuse("a part is empty"));
        }
        let mut parts = parts.into_iter().map(Glob);
        let (schema, name) = match (parts.next(), parts.next(), parts.next()) {
            (Some(name), None, None) => (None, name),
            (Some(schema), Some(name), None) => (Some(schema), name),
            _ => return Err(refuse("more than two parts; quote names with a dot in them")),
        };
        Ok(Self { text: text.to_owned(), schema, name })
    }
}

impl Serialize for TablePattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for TablePattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token {
    Char(char),
    One,
    Any,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Glob(Vec<Token>);

impl Glob {
    /// Whether it matches every text.
    fn is_any(&self) -> bool {
        self.0.iter().all(|token| *token == Token::Any) && !self.0.is_empty()
    }

    /// Greedy matching with one backtrack point: linear in practice, never exponential.
    fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut at, mut token) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while at < text.len() {
            match self.0.get(token) {
                Some(Token::Any) => {
                    star = Some((token + 1, at));
                    token += 1;
                    continue;
                }
                Some(Token::One) => {}
                Some(Token::Char(c)) if *c == text[at] => {}
                _ => match star {
                    Some((after, from)) => {
                        star = Some((after, from + 1));
                        (token, at) = (after, from + 1);
                        continue;
                    }
                    None => return false,
                },
            }
            at += 1;
            token += 1;
        }
        self.0[token..].iter().all(|token| *token == Token::Any)
    }
}

/// The tables that take part: those that an include pattern matches (all, when there is none) and
/// no exclude pattern does. System schemas, the engine's own schema and tables that belong to an
/// extension are always left out.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TableFilter {
    /// Patterns to take; empty for all.
    pub include: Vec<TablePattern>,
    /// Patterns to leave out; stronger than `include`.
    pub exclude: Vec<TablePattern>,
}

impl TableFilter {
    /// A filter from patterns as text.
    pub fn parse(include: &[&str], exclude: &[&str]) -> Result<Self, ParsePatternError> {
        fn parse(texts: &[&str]) -> Result<Vec<TablePattern>, ParsePatternError> {
            texts.iter().map(|text| text.parse()).collect()
        }
        Ok(Self { include: parse(include)?, exclude: parse(exclude)? })
    }

    /// Whether the table takes part.
    pub fn takes(&self, table: &QualifiedName) -> bool {
        !is_system_schema(&table.schema) && self.selects(table)
    }

    /// The same without a word on system schemas, which are others elsewhere: `pg_stats` is a database
    /// like any other to MySQL.
    pub fn selects(&self, table: &QualifiedName) -> bool {
        (self.include.is_empty() || self.include.iter().any(|p| p.matches(table)))
            && !self.exclude.iter().any(|p| p.matches(table))
    }

    /// Whether any table of this schema could be selected, whatever its name.
    pub fn reaches(&self, schema: &str) -> bool {
        (self.include.is_empty() || self.include.iter().any(|p| p.matches_schema(schema)))
            && !self.exclude.iter().any(|p| p.matches_schema(schema) && p.name.is_any())
    }

    /// Whether nothing is filtered: the whole database takes part.
    pub fn takes_all(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }
}

/// Schemas that are PostgreSQL's (the `pg_` prefix is reserved; manual, 5.10.5 The System Catalog
/// Schema) or the engine's own.
pub fn is_system_schema(schema: &str) -> bool {
    schema.starts_with("pg_") || schema == "information_schema" || schema == CONTROL_SCHEMA
}

/// The same rule in SQL, for a joined `pg_namespace` named `n`.
pub(crate) const USER_SCHEMAS: &str = "n.nspname !~ '^pg_' \
     AND n.nspname NOT IN ('information_schema', '_cutover')";

#[cfg(test)]
mod tests {
    use super::*;

    fn name(schema: &str, name: &str) -> QualifiedName {
        QualifiedName::new(schema, name)
    }

    #[test]
    fn patterns_match_whole_names() {
        let cases = [
            ("public.orders", "public", "orders", true),
            ("public.orders", "public", "orders2", false),
            ("orders", "any", "orders", true),
            ("public.*", "public", "x", true),
            ("public.*", "private", "x", false),
            ("*.audit_*", "s", "audit_1", true),
            ("*.audit_*", "s", "audit", false),
            ("a?c.*", "abc", "x", true),
            ("\"a.b\".\"c*\"", "a.b", "c*", true),
            ("\"a.b\".\"c*\"", "a.b", "cd", false),
            ("Orders", "public", "orders", false),
            ("größe.*ß", "größe", "maß", true),
            ("\"say \"\"hi\"\"\"", "x", "say \"hi\"", true),
            ("*a*b*a", "x", "aabbaba", true),
            ("*a*b*c", "x", "aabbaba", false),
        ];
        for (pattern, schema, table, expected) in cases {
            let parsed: TablePattern = pattern.parse().unwrap();
            assert_eq!(
                parsed.matches(&name(schema, table)),
                expected,
                "{pattern} {schema}.{table}"
            );
        }
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for text in ["", ".", "a.", ".b", "a.b.c", "\"a", "a.\"b"] {
            assert!(text.parse::<TablePattern>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn system_schemas_never_take_part() {
        let filter = TableFilter::parse(&["*.*"], &[]).unwrap();
        for schema in ["pg_catalog", "information_schema", "pg_toast", "_cutover", "pg_temp_3"] {
            assert!(!filter.takes(&name(schema, "x")), "{schema}");
        }
        assert!(filter.takes(&name("public", "x")));
    }

    #[test]
    fn exclude_is_stronger_than_include() {
        let filter = TableFilter::parse(&["public.*"], &["*.tmp_*"]).unwrap();
        assert!(filter.takes(&name("public", "orders")));
        assert!(!filter.takes(&name("public", "tmp_orders")));
        assert!(!filter.takes(&name("other", "orders")));
    }

    #[test]
    fn a_filter_survives_configuration_files() {
        let filter = TableFilter::parse(&["public.*"], &["*.\"t.x\""]).unwrap();
        let text = serde_json::to_string(&filter).unwrap();
        assert_eq!(serde_json::from_str::<TableFilter>(&text).unwrap(), filter);
        assert!(serde_json::from_str::<TableFilter>(r#"{"include":["a.b.c"]}"#).is_err());
    }
}
