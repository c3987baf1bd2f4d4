//! Where the sequences of one database stand.
//!
//! `pg_sequence_last_value(oid)` reads many in one statement. It is NULL for one that gave out no value
//! yet, and only those are then read one by one. Each statement locks the sequences that it reads until
//! it ends, so it names at most [`CHUNK`] of them.

use std::collections::BTreeMap;

use decoders::QualifiedName;
use tokio::time::Instant;

use crate::ports::PortResult;
use crate::sql::{Sql, SqlError};

/// Sequences in one statement: with one lock each, far below what a server of stock settings has room
/// for (64 for each of 100 connections).
pub(super) const CHUNK: usize = 1000;

/// All sequences, without what they stand at.
pub(super) const LIST: &str = "SELECT c.oid, n.nspname AS schema, c.relname AS name, \
     s.seqincrement AS step, s.seqmin AS low, s.seqmax AS high, s.seqcycle AS cycles, \
     pg_catalog.has_sequence_privilege(c.oid, 'SELECT') AS readable, \
     pg_catalog.has_sequence_privilege(c.oid, 'UPDATE') AS settable, \
     EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e' \
     AND d.classid = 'pg_catalog.pg_class'::regclass) AS of_extension \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid \
     WHERE c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', \
     '_cutover') AND n.nspname NOT LIKE 'pg\\_toast%' ORDER BY 2, 3";

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
    for row in sql.rows(LIST, deadline).await.map_err(failed)? {
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
    let mut values = BTreeMap::new();
    for chunk in listed.chunks(CHUNK) {
        let rows = sql.rows(&called_sql(chunk), deadline).await.map_err(failed)?;
        let mut called = BTreeMap::new();
        for row in rows.iter().filter(|row| row.get("last").is_some()) {
            let oid: u32 = row.number("oid").map_err(failed)?;
            called.insert(oid, row.number("last").map_err(failed)?);
        }
        let mut uncalled = Vec::new();
        for one in chunk {
            let of_extension = one.of_extension;
            match called.get(&one.oid) {
                Some(last) => {
                    let value = Value { last: *last, called: true, of_extension };
                    values.insert(one.name.clone(), value);
                }
                None => uncalled.push(one),
            }
        }
        if uncalled.is_empty() {
            continue;
        }
        for row in sql.rows(&uncalled_sql(&uncalled), deadline).await.map_err(failed)? {
            let at: usize = row.number("at").map_err(failed)?;
            let last = row.number("last_value").map_err(failed)?;
            let called = row.is_true("is_called");
            if let Some(one) = uncalled.get(at) {
                let of_extension = one.of_extension;
                values.insert(one.name.clone(), Value { last, called, of_extension });
            }
        }
    }
    Ok(values)
}

fn called_sql(chunk: &[Listed]) -> String {
    let oids = chunk.iter().map(|one| one.oid.to_string()).collect::<Vec<_>>().join(",");
    format!(
        "SELECT c.oid, pg_catalog.pg_sequence_last_value(c.oid) AS last \
         FROM pg_catalog.pg_class c WHERE c.oid IN ({oids})"
    )
}

fn uncalled_sql(uncalled: &[&Listed]) -> String {
    let selects: Vec<_> = uncalled
        .iter()
        .enumerate()
        .map(|(at, one)| format!("SELECT {at} AS at, last_value, is_called FROM {}", one.name))
        .collect();
    selects.join(" UNION ALL ")
}

/// The statements that read, for a plan.
pub(super) fn describe() -> [String; 2] {
    [LIST.into(), "SELECT pg_catalog.pg_sequence_last_value(..each sequence..)".into()]
}
