//! Which tables were copied from a later snapshot, written down on green.
//!
//! Green keeps it because a stream that is taken up without its state directory needs it, too. It
//! counts for one incarnation of the stream only.

use decoders::postgres::session::Session;
use decoders::{Lsn, QualifiedName};
use sinks::progress::StreamIdentity;
use tokio_postgres::GenericClient;

use super::BackfillError;
use crate::engine::copied_at::CopiedAt;
use crate::schema::{Marks, STATE_TABLE};

const PREFIX: &str = "copied at ";

fn failed(error: tokio_postgres::Error) -> BackfillError {
    BackfillError::database("noting on green from which snapshot tables were copied", &error)
}

/// One incarnation of a stream, in words.
fn incarnation(stream: &StreamIdentity) -> String {
    let StreamIdentity { system_identifier, slot, consistent_point, .. } = stream;
    format!("{system_identifier}/{slot}/{consistent_point}")
}

/// Writes down, instead of whatever is there, from which consistent points tables were copied, by
/// their names in the stream. Flushed when this returns.
///
/// # Errors
/// Nothing has changed.
pub(crate) async fn record(
    green: &mut Session,
    stream: &StreamIdentity,
    tables: &[(QualifiedName, Lsn)],
) -> Result<(), BackfillError> {
    Marks::prepare(green).await?;
    let transaction = green.transaction().await.map_err(failed)?;
    transaction.batch_execute("SET LOCAL synchronous_commit = on").await.map_err(failed)?;
    let forget = format!("DELETE FROM {STATE_TABLE} WHERE item LIKE $1 || '%'");
    transaction.execute(&forget, &[&PREFIX]).await.map_err(failed)?;
    for (table, point) in tables {
        let key = [table.schema.as_str(), table.name.as_str()];
        let detail = serde_json::json!({
            "stream": incarnation(stream), "table": key, "point": point.to_string(),
        });
        let item = format!("{PREFIX}{table}");
        Marks::set(&transaction, &item, &detail.to_string()).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}

/// What is written down for this incarnation of the stream.
///
/// # Errors
/// The target's; or what is there can't be read, which somebody else must have written.
pub(crate) async fn read(
    green: &impl GenericClient,
    stream: &StreamIdentity,
) -> Result<CopiedAt, BackfillError> {
    const THERE: &str = "SELECT pg_catalog.to_regclass($1::text) IS NOT NULL";
    let row = green.query_one(THERE, &[&STATE_TABLE]).await.map_err(failed)?;
    if !row.try_get::<_, bool>(0).map_err(failed)? {
        return Ok(CopiedAt::default());
    }
    let sql = format!("SELECT detail FROM {STATE_TABLE} WHERE item LIKE $1 || '%'");
    let mut tables = Vec::new();
    for row in green.query(&sql, &[&PREFIX]).await.map_err(failed)? {
        let detail: String = row.try_get(0).map_err(failed)?;
        let note: Note = serde_json::from_str(&detail).map_err(|_| unreadable())?;
        if note.stream == incarnation(stream) {
            let point = note.point.parse().map_err(|_| unreadable())?;
            let [schema, name] = note.table;
            tables.push((QualifiedName::new(schema, name), point));
        }
    }
    Ok(tables.into_iter().collect())
}

#[derive(serde::Deserialize)]
struct Note {
    stream: String,
    table: [String; 2],
    point: String,
}

fn unreadable() -> BackfillError {
    BackfillError::halt(
        format!(
            "{STATE_TABLE} says unreadable things of the snapshots that tables were copied from"
        ),
        "somebody else wrote there: replicator teardown, then run with an empty green",
    )
}
