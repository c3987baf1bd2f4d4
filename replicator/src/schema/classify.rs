//! Which of the second half's statements may run at the same time.

use std::collections::BTreeSet;

use decoders::QualifiedName;

use super::script::Entry;

/// Statements of one object, in order: the one that makes it and those that adjust it.
pub(super) type Group = Vec<Entry>;

/// The second half, sorted by when it may run.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Indexes, primary keys, unique and exclusion constraints, by table.
    pub indexes: Vec<(QualifiedName, Group)>,
    /// Indexes of partitions that join their parents' index: quick, but in order.
    pub attachments: Vec<Entry>,
    /// Foreign keys.
    pub foreign_keys: Vec<Entry>,
    /// Everything else, in the dump's order.
    pub rest: Vec<Entry>,
}

impl Plan {
    /// Indexes of partitions that are attached to one of the partitioned table, as the dump names them.
    pub(super) fn attached(&self) -> BTreeSet<String> {
        let name = |entry: &Entry| {
            let (_, name) = entry.sql.split_once(" ATTACH PARTITION ")?;
            Some(name.trim_end().trim_end_matches(';').to_owned())
        };
        self.attachments.iter().filter_map(name).collect()
    }
}

/// Sorts the statements. An index of something that `tables` does not hold (a view that the dump
/// makes late) waits for it among the rest.
pub(super) fn classify(entries: Vec<Entry>, tables: &BTreeSet<QualifiedName>) -> Plan {
    let mut plan = Plan::default();
    for entry in entries {
        match entry.toc.kind.as_str() {
            "INDEX" | "CONSTRAINT" => {
                let continued = plan.indexes.last_mut().filter(|(_, group)| {
                    group.last().is_some_and(|last| std::sync::Arc::ptr_eq(&last.toc, &entry.toc))
                });
                if let Some((_, group)) = continued {
                    group.push(entry);
                    continue;
                }
                match target(&entry.sql).filter(|table| tables.contains(table)) {
                    Some(table) => plan.indexes.push((table, vec![entry])),
                    None => plan.rest.push(entry),
                }
            }
            "INDEX ATTACH" => plan.attachments.push(entry),
            "FK CONSTRAINT" => plan.foreign_keys.push(entry),
            _ => plan.rest.push(entry),
        }
    }
    plan
}

/// The table that `CREATE INDEX .. ON [ONLY] t` or `ALTER TABLE [ONLY] t` is about.
pub(super) fn target(sql: &str) -> Option<QualifiedName> {
    let mut words = Words(sql);
    let is_constraint = match (words.next()?, words.next()?) {
        (Word::Bare("ALTER"), Word::Bare("TABLE")) => true,
        (Word::Bare("CREATE"), Word::Bare("UNIQUE" | "INDEX")) => false,
        _ => return None,
    };
    if !is_constraint {
        words.find(|word| *word == Word::Bare("ON"))?;
    }
    qualified(&mut words)
}

/// The table that `.. REFERENCES t` points to.
pub(super) fn referenced(sql: &str) -> Option<QualifiedName> {
    let mut words = Words(sql);
    words.find(|word| *word == Word::Bare("REFERENCES"))?;
    qualified(&mut words)
}

/// A name of two parts, after an optional ONLY.
fn qualified(words: &mut Words<'_>) -> Option<QualifiedName> {
    let mut schema = words.next()?;
    if schema == Word::Bare("ONLY") {
        schema = words.next()?;
    }
    match words.next()? {
        Word::Symbol('.') => Some(QualifiedName::new(schema.name()?, words.next()?.name()?)),
        _ => None,
    }
}

#[derive(PartialEq, Eq, Debug)]
enum Word<'a> {
    Bare(&'a str),
    Quoted(String),
    Symbol(char),
}

impl Word<'_> {
    fn name(self) -> Option<String> {
        match self {
            Word::Bare(name) => Some(name.to_owned()),
            Word::Quoted(name) => Some(name),
            Word::Symbol(_) => None,
        }
    }
}

/// The words of a statement as far as the names that we look for; literals are not understood,
/// and none comes before those names.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = Word<'a>;

    fn next(&mut self) -> Option<Word<'a>> {
        let rest = self.0.trim_start();
        let first = rest.chars().next()?;
        if first == '"' {
            let mut name = String::new();
            let mut chars = rest.char_indices().skip(1).peekable();
            while let Some((at, c)) = chars.next() {
                if c != '"' {
                    name.push(c);
                } else if chars.peek().is_some_and(|(_, next)| *next == '"') {
                    name.push('"');
                    chars.next();
                } else {
                    self.0 = &rest[at + 1..];
                    return Some(Word::Quoted(name));
                }
            }
            return None;
        }
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        if length == 0 {
            self.0 = &rest[first.len_utf8()..];
            return Some(Word::Symbol(first));
        }
        self.0 = &rest[length..];
        Some(Word::Bare(&rest[..length]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_found_in_statements() {
        let table = |sql| target(sql).map(|name| name.to_string());
        for (sql, expected) in [
            (
                r#"CREATE UNIQUE INDEX "ON" ON ONLY "S x"."t""q" USING "btree" ("a");"#,
                r#""S x"."t""q""#,
            ),
            (r#"CREATE INDEX i ON public.t USING btree (a)"#, r#""public"."t""#),
            (
                "ALTER TABLE ONLY \"a\".\"b\"\n    ADD CONSTRAINT \"c\" PRIMARY KEY (\"d\");",
                r#""a"."b""#,
            ),
        ] {
            assert_eq!(table(sql).as_deref(), Some(expected));
        }
        assert_eq!(table("COMMENT ON TABLE a.b IS 'x'"), None);
    }

    #[test]
    fn foreign_keys_point_somewhere() {
        let sql = r#"ALTER TABLE ONLY "a"."b" ADD CONSTRAINT "REFERENCES" FOREIGN KEY ("x") REFERENCES "p é"."q"("id") ON DELETE CASCADE;"#;
        assert_eq!(referenced(sql), Some(QualifiedName::new("p é", "q")));
    }
}
