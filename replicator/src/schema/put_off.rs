//! Constraints that blue's rows violate, so that green can't have them yet.
//!
//! Rows that were written with triggers off have no parent, and a unique index that another version
//! of the C library sorted can hold one key twice. Neither stands in the way of an exact copy: a
//! foreign key stays NOT VALID on green, a unique index is a plain one for now. No cutover goes past
//! them; they are made as soon as the rows allow it ([`super::settle`]).

use decoders::QualifiedName;
use decoders::postgres::catalog::quote_ident;
use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;

use super::constraints;
use super::foreign_keys::ForeignKey;
use super::task::{BUILT, RESTORED, Task, VALIDATED};

/// What is written down on green of one constraint or index that it can't have yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct PutOff {
    /// `FK CONSTRAINT public.orders orders_customer_fkey`.
    pub what: String,
    /// A query for the operator that lists the rows in the way, on either side.
    pub find: String,
    /// A query that counts them.
    pub count: String,
    /// Statements that make it, in order; each may run outside of a transaction, and is then not
    /// repeated when it succeeded.
    pub make: Vec<String>,
    /// What a statement that breaks off may leave behind, removed.
    pub undo: Option<String>,
    /// Statements that need it, and what served for it until then, removed.
    pub afterwards: Vec<String>,
    /// Comments on it begin so.
    pub comments: Vec<String>,
    /// Whether green has something of its name, which comments can be made on.
    pub is_there: bool,
}

/// What is done instead of a task.
pub(super) struct Substitute {
    pub put_off: PutOff,
    /// A plain index that serves meanwhile.
    pub sql: Option<String>,
    /// Steps of the same entry that have to wait, too.
    pub steps: Vec<&'static str>,
}

/// Whether rows are to blame, or the lack of what was put off before.
pub(super) fn is_violation(code: &SqlState) -> bool {
    [
        SqlState::FOREIGN_KEY_VIOLATION,
        SqlState::UNIQUE_VIOLATION,
        // No unique constraint matches the referenced columns.
        SqlState::INVALID_FOREIGN_KEY,
    ]
    .contains(code)
}

/// How the task is put off; `None` if green can't do without it.
pub(super) fn substitute(task: &Task) -> Option<Substitute> {
    match task.entry.toc.kind.as_str() {
        "FK CONSTRAINT" => foreign_key(task),
        "INDEX" | "CONSTRAINT" if !task.is_needed => unique(task),
        _ => None,
    }
}

fn foreign_key(task: &Task) -> Option<Substitute> {
    let key = ForeignKey::parse(&task.entry.sql)?;
    let from = &key.table;
    // "table constraint": what is behind the table's name is the constraint's.
    let name = task.entry.toc.name.strip_prefix(&format!("{} ", from.name))?;
    let (find, count) = (key.orphans("c.*"), key.orphans("pg_catalog.count(*)"));
    // Added without a check it is there, and only the check has to be made. Else it is made at once.
    let is_there = task.step == VALIDATED;
    let make = if is_there { task.sql() } else { task.entry.sql.as_str() };
    let steps = if is_there { vec![VALIDATED] } else { vec![RESTORED, VALIDATED] };
    let put_off = PutOff {
        what: task.entry.toc.describe(),
        find,
        count,
        make: vec![make.to_owned()],
        undo: None,
        afterwards: Vec::new(),
        comments: vec![format!("COMMENT ON CONSTRAINT {} ON {from} ", quote_ident(name))],
        is_there,
    };
    Some(Substitute { put_off, sql: None, steps })
}

fn unique(task: &Task) -> Option<Substitute> {
    let table = super::classify::target(&task.entry.sql)?;
    let is_constraint = task.entry.toc.kind == "CONSTRAINT";
    let name = match is_constraint {
        true => constraints::name(&task.entry, &table)?,
        false => task.entry.toc.name.as_str(),
    };
    let in_schema = |name: &str| QualifiedName::new(table.schema.clone(), name).to_string();
    let (index, serving) = (in_schema(name), serving_name(name));
    let steps = is_constraint.then(|| constraints::two_steps(&task.entry, &table, &[].into()));
    let (build, adopt) = match steps {
        Some(steps) => {
            let steps = steps?;
            (steps.build, Some(steps.adopt))
        }
        None => (task.entry.sql.clone(), None),
    };
    let rest = build.strip_prefix(&format!("CREATE UNIQUE INDEX {} ON ", quote_ident(name)))?;
    let (keys, predicate) = keys(rest)?;
    let conditions: Vec<String> = predicate
        .iter()
        .map(|predicate| format!("({predicate})"))
        // NULLs are distinct unless it says otherwise.
        .chain(
            keys.iter()
                .filter(|_| !rest.contains(" NULLS NOT DISTINCT"))
                .map(|key| format!("({key}) IS NOT NULL")),
        )
        .collect();
    let condition = match conditions.is_empty() {
        true => String::new(),
        false => format!(" WHERE {}", conditions.join(" AND ")),
    };
    let groups = keys.iter().map(|key| format!("({key})")).collect::<Vec<_>>().join(", ");
    let find = format!(
        "SELECT {groups}, pg_catalog.count(*), pg_catalog.array_agg(ctid) FROM ONLY {table}\
         {condition} GROUP BY {groups} HAVING pg_catalog.count(*) > 1"
    );
    let count = format!(
        "SELECT coalesce(pg_catalog.sum(n - 1), 0)::int8 FROM (SELECT pg_catalog.count(*) AS n \
         FROM ONLY {table}{condition} GROUP BY {groups} HAVING pg_catalog.count(*) > 1) doubles"
    );
    let mut afterwards: Vec<String> = adopt.into_iter().collect();
    afterwards.push(format!("DROP INDEX IF EXISTS {}", in_schema(&serving)));
    let put_off = PutOff {
        what: task.entry.toc.describe(),
        find,
        count,
        make: vec![format!("CREATE UNIQUE INDEX CONCURRENTLY {} ON {rest}", quote_ident(name))],
        undo: Some(format!("DROP INDEX IF EXISTS {index}")),
        afterwards,
        comments: vec![
            format!("COMMENT ON INDEX {index} "),
            format!("COMMENT ON CONSTRAINT {} ON {table} ", quote_ident(name)),
        ],
        is_there: false,
    };
    // The same index without UNIQUE, and without what only a unique one can say.
    let plain = rest.replace(" NULLS NOT DISTINCT", "");
    let sql = format!("CREATE INDEX {} ON {plain}", quote_ident(&serving));
    let steps = match is_constraint {
        true => vec![BUILT, RESTORED],
        false => vec![RESTORED],
    };
    Some(Substitute { put_off, sql: Some(sql), steps })
}

/// The name of the plain index that serves meanwhile; names have 63 bytes at most.
fn serving_name(name: &str) -> String {
    const NAME_BYTES: usize = 50;
    let end = (0..=NAME_BYTES.min(name.len())).rev().find(|at| name.is_char_boundary(*at));
    format!("{}_not_unique", &name[..end.unwrap_or(0)])
}

/// Of `[ONLY] table USING "btree" (key, ..) ..`: the keys as expressions, and the predicate. `None`
/// if a key has more than its expression (a collation, an operator class), which a query would have to
/// say in other words.
fn keys(rest: &str) -> Option<(Vec<String>, Option<String>)> {
    let list = rest.split_once(" USING \"btree\" (")?.1;
    let (list, behind) = enclosed(list)?;
    let keys: Option<Vec<String>> = split_list(list).into_iter().map(key_expression).collect();
    let predicate = behind.trim_end().strip_suffix(';').unwrap_or(behind);
    let predicate = predicate.split_once(" WHERE ").map(|(_, predicate)| predicate.to_owned());
    Some((keys?, predicate))
}

/// A column or an expression in brackets, without its direction.
fn key_expression(key: &str) -> Option<String> {
    let mut key = key.trim();
    for direction in [" NULLS FIRST", " NULLS LAST", " DESC"] {
        key = key.strip_suffix(direction).unwrap_or(key);
    }
    let is_quoted = key.starts_with('"') && end_of_quoted(key, '"') == Some(key.len());
    let is_bracketed =
        key.starts_with('(') && enclosed(&key[1..]).is_some_and(|(_, b)| b.is_empty());
    let is_call = key.ends_with(')') && key.starts_with('"');
    (is_quoted || is_bracketed || is_call).then(|| key.to_owned())
}

/// What is before the bracket that closes the one before `text`, and what is behind it.
pub(super) fn enclosed(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        match c {
            '"' | '\'' => at += end_of_quoted(&text[at..], c)?,
            '(' => {
                depth += 1;
                at += 1;
            }
            ')' if depth == 0 => return Some((&text[..at], &text[at + 1..])),
            ')' => {
                depth -= 1;
                at += 1;
            }
            other => at += other.len_utf8(),
        }
    }
    None
}

/// The parts between commas that are in no brackets and no quotes.
pub(super) fn split_list(list: &str) -> Vec<&str> {
    let (mut parts, mut from, mut at, mut depth) = (Vec::new(), 0, 0, 0_i32);
    while let Some(c) = list[at..].chars().next() {
        match c {
            '"' | '\'' => match end_of_quoted(&list[at..], c) {
                Some(length) => {
                    at += length;
                    continue;
                }
                None => break,
            },
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(list[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
        at += c.len_utf8();
    }
    parts.push(list[from..].trim());
    parts
}

/// Where a quoted text that `text` begins with ends; a doubled quote is a quote.
fn end_of_quoted(text: &str, quote: char) -> Option<usize> {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            if chars.peek().is_some_and(|(_, next)| *next == quote) {
                chars.next();
            } else {
                return Some(at + 1);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::schema::script::{Entry, Settings, Toc};

    fn task(kind: &str, name: &str, sql: &str) -> Task {
        let toc = Toc { name: name.into(), kind: kind.into(), schema: "s".into() };
        let settings = Arc::new(Settings::new());
        Task::whole(Entry { ordinal: 3, toc: Arc::new(toc), sql: sql.into(), settings })
    }

    #[test]
    fn a_foreign_key_is_checked_later() {
        let sql = r#"ALTER TABLE ONLY "s"."c" ADD CONSTRAINT "k" FOREIGN KEY ("a", "b") REFERENCES "s"."p"("x", "y") ON DELETE CASCADE;"#;
        let Substitute { put_off, sql, .. } =
            substitute(&task("FK CONSTRAINT", "c k", sql)).unwrap();
        assert_eq!(sql, None);
        assert_eq!(
            put_off.find,
            r#"SELECT c.* FROM "s"."c" c WHERE c."a" IS NOT NULL AND c."b" IS NOT NULL AND NOT EXISTS (SELECT FROM "s"."p" p WHERE p."x" = c."a" AND p."y" = c."b")"#
        );
    }

    #[test]
    fn a_unique_index_is_plain_for_now() {
        let sql = r#"CREATE UNIQUE INDEX "u" ON ONLY "s"."t" USING "btree" ("lower"("a"), "b" DESC, (("c" || ','::"text"))) WHERE ("d" > 0);"#;
        let Substitute { put_off, sql, steps } = substitute(&task("INDEX", "u", sql)).unwrap();
        assert_eq!(steps, [RESTORED]);
        assert!(sql.unwrap().starts_with(r#"CREATE INDEX "u_not_unique" ON ONLY "s"."t" USING"#));
        assert_eq!(
            put_off.find,
            r#"SELECT ("lower"("a")), ("b"), ((("c" || ','::"text"))), pg_catalog.count(*), pg_catalog.array_agg(ctid) FROM ONLY "s"."t" WHERE (("d" > 0)) AND ("lower"("a")) IS NOT NULL AND ("b") IS NOT NULL AND ((("c" || ','::"text"))) IS NOT NULL GROUP BY ("lower"("a")), ("b"), ((("c" || ','::"text"))) HAVING pg_catalog.count(*) > 1"#
        );
        assert!(put_off.make[0].starts_with(r#"CREATE UNIQUE INDEX CONCURRENTLY "u" ON ONLY "#));
        assert_eq!(put_off.afterwards, [r#"DROP INDEX IF EXISTS "s"."u_not_unique""#]);
    }

    #[test]
    fn a_unique_constraint_is_adopted_later() {
        let sql = r#"ALTER TABLE ONLY "s"."t" ADD CONSTRAINT "k" UNIQUE ("a");"#;
        let Substitute { put_off, steps, .. } =
            substitute(&task("CONSTRAINT", "t k", sql)).unwrap();
        assert_eq!(steps, [BUILT, RESTORED]);
        assert_eq!(
            put_off.afterwards[0],
            r#"ALTER TABLE ONLY "s"."t" ADD CONSTRAINT "k" UNIQUE USING INDEX "k";"#
        );
    }

    #[test]
    fn what_green_needs_is_not_put_off() {
        let sql = r#"ALTER TABLE ONLY "s"."t" ADD CONSTRAINT "k" UNIQUE ("a");"#;
        let needed = Task { is_needed: true, ..task("CONSTRAINT", "t k", sql) };
        assert!(substitute(&needed).is_none());
        let collated = r#"CREATE UNIQUE INDEX "u" ON "s"."t" USING "btree" ("a" COLLATE "x"."y");"#;
        assert!(substitute(&task("INDEX", "u", collated)).is_none(), "no query says the same");
    }
}
