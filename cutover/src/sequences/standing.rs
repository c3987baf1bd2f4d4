//! Where the sequences of one database stand.
//!
//! `pg_sequence_last_value(oid)` reads many in one statement. It is NULL for one that gave out no value
//! yet, and only those are then read from themselves, [`UNCALLED_CHUNK`] in a statement. Each statement
//! locks the sequences that it reads until it ends, so it names at most [`CHUNK`] of them. Statements are
//! sent ahead of the answers to those before, so there is no round trip for each.

use std::collections::BTreeMap;

use decoders::QualifiedName;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

use crate::ports::PortResult;
use crate::sql::{Sql, SqlError, TextRow};

/// Sequences in one statement: with one lock each, far below what a server of stock settings has room
/// for (64 for each of 100 connections).
pub(super) const CHUNK: usize = 1000;

/// Sequences in one statement that names each as a relation. Planning takes the square of their number: in
/// tens they take 20 us each, in thousands 400.
const UNCALLED_CHUNK: usize = 20;

/// Statements that are sent ahead.
const AHEAD: usize = 16;

/// Whoever reads may be inside of a database that accepts no connections. There parallel workers can't start
/// before the minor releases of February 2025, which is an error of the statement.
const SERIAL: &str = "SET max_parallel_workers_per_gather = 0";

/// Which of `pg_class c` and `pg_namespace n` are a user's sequences.
macro_rules! of_users {
    () => {
        "c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', \
         'information_schema', '_cutover') AND n.nspname NOT LIKE 'pg\\_toast%'"
    };
}

/// All sequences, without what they stand at, with what a precheck asks for.
pub(super) const LIST: &str = concat!(
    "SELECT c.oid, n.nspname AS schema, c.relname AS name, \
     s.seqincrement AS step, s.seqmin AS low, s.seqmax AS high, s.seqcycle AS cycles, \
     pg_catalog.has_sequence_privilege(c.oid, 'SELECT') AS readable, \
     pg_catalog.has_sequence_privilege(c.oid, 'UPDATE') AS settable, \
     EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e' \
     AND d.classid = 'pg_catalog.pg_class'::regclass) AS of_extension \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid \
     WHERE ",
    of_users!(),
    " ORDER BY 2, 3"
);

/// The same sequences, for the pause: less than half of the work where there are thousands. Nobody looks at
/// rights here but to those of an extension's.
const NAMES: &str = concat!(
    "SELECT c.oid, n.nspname AS schema, c.relname AS name, \
     e.objid IS NOT NULL AS of_extension, CASE WHEN e.objid IS NULL THEN true \
         ELSE pg_catalog.has_sequence_privilege(c.oid, 'SELECT') END AS readable \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     LEFT JOIN (SELECT DISTINCT objid FROM pg_catalog.pg_depend WHERE deptype = 'e' \
         AND classid = 'pg_catalog.pg_class'::regclass) AS e ON e.objid = c.oid \
     WHERE ",
    of_users!()
);

/// What a sequence stands at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    pub last: i64,
    /// Whether `last` was given out.
    pub called: bool,
    pub of_extension: bool,
}

impl Value {
    /// Whether both give out the same value next.
    pub fn is_at(&self, other: &Value) -> bool {
        (self.last, self.called) == (other.last, other.called)
    }
}

/// One sequence of a database.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    oid: u32,
    pub name: QualifiedName,
    of_extension: bool,
}

/// Those that can be read. Of the others, an extension's are left out; the prechecks have refused the
/// rest.
pub(super) async fn list(sql: &Sql, place: &str, deadline: Instant) -> PortResult<Vec<Listed>> {
    let failed = |error: SqlError| error.at(place, "listing sequences");
    let mut listed = Vec::new();
    for row in sql.rows(&format!("{SERIAL}; {NAMES}"), deadline).await.map_err(failed)? {
        let (Some(schema), Some(name)) = (row.get("schema"), row.get("name")) else { continue };
        let of_extension = row.is_true("of_extension");
        if of_extension && !row.is_true("readable") {
            continue;
        }
        let oid = row.number("oid").map_err(failed)?;
        listed.push(Listed { oid, name: QualifiedName::new(schema, name), of_extension });
    }
    Ok(listed)
}

/// What each of these stands at.
pub(super) async fn read(
    sql: &Sql,
    place: &str,
    listed: &[Listed],
    deadline: Instant,
) -> PortResult<BTreeMap<QualifiedName, Value>> {
    let failed = |error: SqlError| error.at(place, "reading sequences");
    let mut called = BTreeMap::new();
    let statements = listed.chunks(CHUNK).map(called_sql).collect();
    for row in answers(sql, statements, deadline).await.map_err(failed)? {
        if row.get("last").is_some() {
            let oid: u32 = row.number("oid").map_err(failed)?;
            called.insert(oid, row.number("last").map_err(failed)?);
        }
    }
    let mut values = BTreeMap::new();
    let mut uncalled = BTreeMap::new();
    for one in listed {
        let of_extension = one.of_extension;
        match called.get(&one.oid) {
            Some(last) => {
                let value = Value { last: *last, called: true, of_extension };
                values.insert(one.name.clone(), value);
            }
            None => drop(uncalled.insert(one.oid, one)),
        }
    }
    let each: Vec<_> = uncalled.values().copied().collect();
    let statements = each.chunks(UNCALLED_CHUNK).map(uncalled_sql).collect();
    for row in answers(sql, statements, deadline).await.map_err(failed)? {
        let oid: u32 = row.number("oid").map_err(failed)?;
        let last = row.number("last_value").map_err(failed)?;
        let called = row.is_true("is_called");
        if let Some(one) = uncalled.get(&oid) {
            let of_extension = one.of_extension;
            values.insert(one.name.clone(), Value { last, called, of_extension });
        }
    }
    Ok(values)
}

/// The rows of all these statements, of which some are sent ahead.
async fn answers(
    sql: &Sql,
    statements: Vec<String>,
    deadline: Instant,
) -> Result<Vec<TextRow>, SqlError> {
    let running = stream::iter(statements)
        .map(|statement| async move { sql.rows(&statement, deadline).await });
    running.buffered(AHEAD).try_concat().await
}

fn called_sql(chunk: &[Listed]) -> String {
    let oids = chunk.iter().map(|one| one.oid.to_string()).collect::<Vec<_>>().join(",");
    format!(
        "SELECT c.oid, pg_catalog.pg_sequence_last_value(c.oid) AS last \
         FROM pg_catalog.pg_class c WHERE c.oid IN ({oids})"
    )
}

fn uncalled_sql(uncalled: &[&Listed]) -> String {
    let select = |one: &&Listed| {
        format!("SELECT {}::oid AS oid, last_value, is_called FROM {}", one.oid, one.name)
    };
    let selects: Vec<_> = uncalled.iter().map(select).collect();
    selects.join(" UNION ALL ")
}

/// The statements that read, for a plan.
pub(super) fn describe() -> [String; 2] {
    [NAMES.into(), "SELECT pg_catalog.pg_sequence_last_value(..each sequence..)".into()]
}
