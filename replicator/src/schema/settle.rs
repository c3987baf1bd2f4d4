//! Makes what was put off, once the rows allow it.

use decoders::postgres::session::Session;
use tokio_postgres::GenericClient;

use super::marks::Marks;
use super::put_off::{PutOff, is_violation};
use super::script::Entry;
use crate::backfill::BackfillError;

/// How long one of the statements may wait for a lock that the stream has.
const LOCK_TIMEOUT_MS: u32 = 2_000;

/// A constraint or index that green still lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Open {
    /// `FK CONSTRAINT public.orders orders_customer_fkey`.
    pub what: String,
    /// A query that lists the rows in the way.
    pub find: String,
    /// How many rows of green were in the way when it was looked at last; `None`: not yet.
    pub rows: Option<i64>,
}

fn failed(error: tokio_postgres::Error) -> BackfillError {
    BackfillError::database("making constraints on green that were put off", &error)
}

async fn read(green: &impl GenericClient) -> Result<Vec<(String, PutOff)>, BackfillError> {
    let notes = Marks::put_off(green).await.map_err(failed)?;
    let parsed = notes.into_iter().map(|(item, detail)| Ok((item, serde_json::from_str(&detail)?)));
    parsed.collect::<Result<_, serde_json::Error>>().map_err(|error| {
        BackfillError::halt(
            format!("green's notes on constraints that were put off can't be read: {error}"),
            "somebody else wrote to _cutover.copy_state: replicator teardown, then run with an empty green",
        )
    })
}

/// What green lacks.
///
/// # Errors
/// Green's.
pub async fn open(green: &impl GenericClient) -> Result<Vec<Open>, BackfillError> {
    let open = |(_, PutOff { what, find, .. })| Open { what, find, rows: None };
    Ok(read(green).await?.into_iter().map(open).collect())
}

/// Counts the rows that are in the way of each, and makes what nothing is in the way of any more. Gives
/// back what green still lacks.
///
/// # Errors
/// Green's; what was made before is made.
pub async fn settle(green: &mut Session) -> Result<Vec<Open>, BackfillError> {
    let notes = read(&**green).await?;
    if notes.is_empty() {
        return Ok(Vec::new());
    }
    let timeout = format!("SET lock_timeout = {LOCK_TIMEOUT_MS}");
    green.batch_execute(&timeout).await.map_err(failed)?;
    let mut open = Vec::new();
    for (item, note) in notes {
        let rows: i64 = green.query_one(&note.count, &[]).await.map_err(failed)?.get(0);
        if rows == 0 && make(green, &item, &note).await? {
            tracing::info!(object = note.what, "made on green: no row is in its way any more");
        } else {
            open.push(Open { what: note.what, find: note.find, rows: Some(rows) });
        }
    }
    Ok(open)
}

/// False: not this time.
async fn make(green: &mut Session, item: &str, note: &PutOff) -> Result<bool, BackfillError> {
    for sql in &note.make {
        let Err(error) = green.batch_execute(sql).await else { continue };
        // A concurrent build that was broken off leaves an invalid index.
        if let Some(undo) = &note.undo {
            green.batch_execute(undo).await.map_err(failed)?;
        }
        let is_later = |code: &tokio_postgres::error::SqlState| {
            is_violation(code) || *code == tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE
        };
        return match error.code() {
            Some(code) if is_later(code) => {
                tracing::debug!(object = note.what, %error, "not made yet");
                Ok(false)
            }
            _ => Err(failed(error)),
        };
    }
    let transaction = green.transaction().await.map_err(failed)?;
    for sql in &note.afterwards {
        transaction.batch_execute(sql).await.map_err(failed)?;
    }
    Marks::forget(&transaction, &[item.to_owned()]).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok(true)
}

/// Whether a statement of the dump is about something that was put off, and so waits with it.
pub(super) async fn wait_for_it(
    green: &Session,
    entry: &Entry,
    mark: &str,
) -> Result<bool, BackfillError> {
    if entry.toc.kind != "COMMENT" {
        return Ok(false);
    }
    for (item, mut note) in read(&**green).await? {
        if !note.comments.iter().any(|start| entry.sql.starts_with(start)) || note.is_there {
            continue;
        }
        note.afterwards.push(entry.sql.clone());
        let detail = serde_json::to_string(&note).unwrap_or_default();
        green.batch_execute("BEGIN").await.map_err(failed)?;
        Marks::set(&**green, &item, &detail).await.map_err(failed)?;
        Marks::set(&**green, mark, "put off").await.map_err(failed)?;
        green.batch_execute("COMMIT").await.map_err(failed)?;
        return Ok(true);
    }
    Ok(false)
}
