//! Primary keys and unique constraints in two steps: the index, then the constraint on it.
//!
//! `ALTER TABLE .. ADD PRIMARY KEY` has the table to itself while it builds the index; the same
//! index by `CREATE UNIQUE INDEX` is built together with the table's others. Adopting it reads
//! nothing (PostgreSQL manual, ALTER TABLE, `ADD table_constraint_using_index`).

use std::collections::BTreeSet;

use decoders::QualifiedName;
use decoders::postgres::catalog::quote_ident;

use super::script::Entry;

/// The two steps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct TwoSteps {
    pub build: String,
    pub adopt: String,
}

/// The name of a constraint: the dump calls it "table constraint".
pub(super) fn name<'a>(entry: &'a Entry, table: &QualifiedName) -> Option<&'a str> {
    entry.toc.name.strip_prefix(table.name.as_str())?.strip_prefix(' ')
}

/// The steps for the constraint of `table` that a statement makes; `None` if it has to be made at
/// once: what a plain unique index can't say (INCLUDE, DEFERRABLE, storage parameters, NULLS NOT
/// DISTINCT ..), or on a partitioned table, which has no index of its own to adopt.
pub(super) fn two_steps(
    entry: &Entry,
    table: &QualifiedName,
    partitioned: &BTreeSet<QualifiedName>,
) -> Option<TwoSteps> {
    if entry.toc.kind != "CONSTRAINT" || partitioned.contains(table) {
        return None;
    }
    let index = quote_ident(name(entry, table)?);
    let definition = entry.sql.trim_end().strip_suffix(';')?;
    let head = format!("ALTER TABLE ONLY {table}");
    let rest = definition.strip_prefix(&head)?.trim_start();
    let rest = rest.strip_prefix(&format!("ADD CONSTRAINT {index} "))?;
    let (kind, columns) = ["PRIMARY KEY", "UNIQUE"]
        .iter()
        .find_map(|kind| Some((*kind, rest.strip_prefix(kind)?.strip_prefix(" (")?)))?;
    let columns = columns.strip_suffix(')')?;
    // Quoted names and commas only: a bracket or a keyword is something that we don't know.
    if !is_plain_list(columns) {
        return None;
    }
    Some(TwoSteps {
        build: format!("CREATE UNIQUE INDEX {index} ON ONLY {table} USING \"btree\" ({columns});"),
        adopt: format!("{head} ADD CONSTRAINT {index} {kind} USING INDEX {index};"),
    })
}

/// Whether a list is `"a", "b""c"` and nothing else.
fn is_plain_list(list: &str) -> bool {
    let mut rest = list;
    loop {
        let Some(name) = rest.strip_prefix('"') else { return false };
        let mut chars = name.char_indices().peekable();
        let mut end = None;
        while let Some((at, c)) = chars.next() {
            if c == '"' {
                if chars.peek().is_some_and(|(_, next)| *next == '"') {
                    chars.next();
                } else {
                    end = Some(at + 1);
                    break;
                }
            }
        }
        let Some(end) = end else { return false };
        match &name[end..] {
            "" => return true,
            more => match more.strip_prefix(", ") {
                Some(next) => rest = next,
                None => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::schema::script::{Settings, Toc};

    fn steps(rest: &str) -> Option<TwoSteps> {
        let toc = Toc { name: "a b k\"k".into(), kind: "CONSTRAINT".into(), schema: "s".into() };
        let entry = Entry {
            ordinal: 0,
            toc: Arc::new(toc),
            sql: format!("ALTER TABLE ONLY \"s\".\"a b\"\n    ADD CONSTRAINT \"k\"\"k\" {rest};"),
            settings: Arc::new(Settings::new()),
        };
        two_steps(&entry, &QualifiedName::new("s", "a b"), &BTreeSet::new())
    }

    #[test]
    fn the_index_comes_first() {
        let steps = steps(r#"PRIMARY KEY ("id", "o)""d")"#).unwrap();
        assert_eq!(
            steps.build,
            r#"CREATE UNIQUE INDEX "k""k" ON ONLY "s"."a b" USING "btree" ("id", "o)""d");"#
        );
        assert_eq!(
            steps.adopt,
            r#"ALTER TABLE ONLY "s"."a b" ADD CONSTRAINT "k""k" PRIMARY KEY USING INDEX "k""k";"#
        );
        assert!(self::steps(r#"UNIQUE ("a")"#).is_some());
    }

    #[test]
    fn what_an_index_alone_can_not_say_stays_whole() {
        for rest in [
            r#"PRIMARY KEY ("id") INCLUDE ("x")"#,
            r#"UNIQUE ("id") DEFERRABLE"#,
            r#"UNIQUE ("id") WITH ("fillfactor"='70')"#,
            r#"UNIQUE NULLS NOT DISTINCT ("id")"#,
            r#"PRIMARY KEY ("id", "valid" WITHOUT OVERLAPS)"#,
            r#"EXCLUDE USING "gist" ("r" WITH &&)"#,
        ] {
            assert_eq!(steps(rest), None, "{rest}");
        }
    }
}
