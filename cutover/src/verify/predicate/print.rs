//! A condition in a server's SQL. Names and strings are quoted, operators are the server's own.

use std::fmt::Write as _;

use decoders::mysql::server::{identifier, literal};

use super::grammar::{Comparison, Condition, Operand};
use crate::sql;

/// Whose SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL.
    Postgres,
    /// MySQL and MariaDB, under an `sql_mode` without NO_BACKSLASH_ESCAPES.
    Mysql,
}

impl Condition {
    /// As it stands behind WHERE, in parentheses of its own.
    pub fn printed(&self, dialect: Dialect) -> String {
        let mut out = String::new();
        self.print(dialect, &mut out);
        out
    }

    fn print(&self, dialect: Dialect, out: &mut String) {
        out.push('(');
        match self {
            Condition::Any(parts) => joined(parts, " OR ", dialect, out),
            Condition::All(parts) => joined(parts, " AND ", dialect, out),
            Condition::Not(inside) => {
                out.push_str("NOT ");
                inside.print(dialect, out);
            }
            Condition::Is(operand) => operand.print(dialect, out),
            Condition::IsNull(operand) => {
                operand.print(dialect, out);
                out.push_str(" IS NULL");
            }
            Condition::Compare(left, comparison, right) => {
                left.print(dialect, out);
                let sign = comparison.sign(dialect);
                let _ = match dialect {
                    Dialect::Postgres => write!(out, " OPERATOR(pg_catalog.{sign}) "),
                    Dialect::Mysql => write!(out, " {sign} "),
                };
                right.print(dialect, out);
            }
        }
        out.push(')');
    }
}

fn joined(parts: &[Condition], between: &str, dialect: Dialect, out: &mut String) {
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            out.push_str(between);
        }
        part.print(dialect, out);
    }
}

impl Operand {
    fn print(&self, dialect: Dialect, out: &mut String) {
        let text = match (self, dialect) {
            // Without quotes PostgreSQL takes a name in lower case; the others know no case of columns.
            (Operand::Column { name, quoted: false }, Dialect::Postgres) => {
                sql::ident(&name.to_ascii_lowercase())
            }
            (Operand::Column { name, .. }, Dialect::Postgres) => sql::ident(name),
            (Operand::Column { name, .. }, Dialect::Mysql) => identifier(name),
            (Operand::Text(text), Dialect::Postgres) => sql::literal(text),
            (Operand::Text(text), Dialect::Mysql) => literal(text),
            (Operand::Number(number), _) => format!("({number})"),
            (Operand::Bool(true), _) => "TRUE".to_owned(),
            (Operand::Bool(false), _) => "FALSE".to_owned(),
        };
        out.push_str(&text);
    }
}

impl Comparison {
    fn sign(self, dialect: Dialect) -> &'static str {
        match self {
            Comparison::Equal => "=",
            Comparison::Unequal => "<>",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
            Comparison::Like => match dialect {
                Dialect::Postgres => "~~",
                Dialect::Mysql => "LIKE",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn printed(text: &str) -> [String; 2] {
        let condition = Condition::read(text).unwrap();
        [Dialect::Postgres, Dialect::Mysql].map(|dialect| condition.printed(dialect))
    }

    #[test]
    fn everything_is_quoted_and_qualified() {
        let [postgres, mysql] = printed("Id IN (1, -2) AND NOT \"A\"\"b\" LIKE 'it''s\\_' OR x");
        assert_eq!(
            postgres,
            "((((\"id\" OPERATOR(pg_catalog.=) (1)) OR (\"id\" OPERATOR(pg_catalog.=) (-2))) AND \
             (NOT (\"A\"\"b\" OPERATOR(pg_catalog.~~)  E'it''s\\\\_'))) OR (\"x\"))"
        );
        assert_eq!(
            mysql,
            "((((`Id` = (1)) OR (`Id` = (-2))) AND (NOT (`A\"b` LIKE 'it''s\\\\_'))) OR (`x`))"
        );
    }

    proptest! {
        /// Whatever stands between quotes is one name or one string to the server as well.
        #[test]
        fn nothing_gets_out_of_its_quotes(text in "[^\0]{0,20}", name in "[^\0]{1,20}") {
            let said = format!(
                "\"{}\" = '{}'",
                name.replace('"', "\"\""),
                text.replace('\'', "''")
            );
            let [postgres, mysql] = printed(&said);
            prop_assert_eq!(
                postgres,
                format!("({} OPERATOR(pg_catalog.=) {})", sql::ident(&name), sql::literal(&text))
            );
            prop_assert_eq!(mysql, format!("({} = {})", identifier(&name), literal(&text)));
        }
    }
}
