//! Sequence values on green. Logical replication does not carry them.

use std::fmt::Write as _;

use decoders::change::QualifiedName;
use tokio_postgres::Client;

use super::error::target_error;
use crate::target::TargetError;

/// The state of a sequence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SequenceValue {
    /// Its name.
    pub name: QualifiedName,
    /// The value handed out last, or the first one to hand out.
    pub last_value: i64,
    /// Whether `last_value` was handed out. False means that it is the next.
    pub is_called: bool,
}

/// Sequences read by one statement: each is a relation of its own in it.
const READ_AT_ONCE: usize = 500;

/// Sets all `values` in one round trip. Not transactional, and may be repeated.
///
/// # Errors
/// Halts if a sequence is missing, a value is outside of its bounds, or UPDATE is not granted.
pub async fn set(client: &Client, values: &[SequenceValue]) -> Result<(), TargetError> {
    if values.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = values.iter().map(|value| value.name.to_string()).collect();
    let last: Vec<i64> = values.iter().map(|value| value.last_value).collect();
    let called: Vec<bool> = values.iter().map(|value| value.is_called).collect();
    let sql = "SELECT pg_catalog.count(pg_catalog.setval(name::pg_catalog.regclass, last, called))
               FROM unnest($1::text[], $2::bigint[], $3::bool[]) s(name, last, called)";
    let row = client.query_one(sql, &[&names, &last, &called]).await;
    row.map(drop).map_err(|e| target_error("setting sequences on green", &e))
}

/// Reads sequences in the order of `names`, to check what was set.
pub async fn read(
    client: &Client,
    names: &[QualifiedName],
) -> Result<Vec<SequenceValue>, TargetError> {
    let mut values = Vec::with_capacity(names.len());
    for some in names.chunks(READ_AT_ONCE) {
        let mut sql = String::new();
        for (at, name) in some.iter().enumerate() {
            let union = if at > 0 { " UNION ALL " } else { "" };
            let _ = write!(sql, "{union}SELECT {at}, last_value, is_called FROM {name}");
        }
        sql.push_str(" ORDER BY 1");
        let rows = client.query(&sql, &[]).await;
        let rows = rows.map_err(|e| target_error("reading sequences of green", &e))?;
        values.extend(rows.iter().zip(some).map(|(row, name)| SequenceValue {
            name: name.clone(),
            last_value: row.get(1),
            is_called: row.get(2),
        }));
    }
    Ok(values)
}
