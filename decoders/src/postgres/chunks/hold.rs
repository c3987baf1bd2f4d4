//! One table's lock for the time in which one chunk of it is read.
//!
//! `TRUNCATE` and an `ALTER TABLE` that rewrites are not MVCC-safe: to an older snapshot the table
//! looks empty (PostgreSQL manual, 13.6 Caveats). They, `VACUUM FULL` and `CLUSTER` give the table
//! a new `relfilenode`. Under ACCESS SHARE none of them can happen, so if the table has the file of
//! the snapshot when the lock is there, the chunk is what the snapshot shows.
//!
//! The lock is taken behind a savepoint and let go by rolling back to it (manual, LOCK), so nobody
//! waits for longer than for one chunk.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{ChunkError, TablePlan, database};

/// What came of asking for a table's lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// It is ours, and the snapshot shows the table's rows.
    Locked,
    /// Somebody else has it, or waits for it before us.
    Busy,
    /// The table was emptied or rewritten after the snapshot, which no longer shows its rows.
    Rewritten,
    /// The table was dropped or has another name.
    Gone,
}

/// Whether a statement has waited for a lock for as long as it may, or would have waited for ever.
pub fn is_lock_timeout(error: &tokio_postgres::Error) -> bool {
    let codes = [&SqlState::LOCK_NOT_AVAILABLE, &SqlState::T_R_DEADLOCK_DETECTED];
    error.code().is_some_and(|code| codes.contains(&code))
}

/// Asks for the table's lock and waits `timeout_ms` at most. `client` is inside the snapshot's
/// transaction. Whatever the answer is, [`let_go`] has to follow, also after an error of what is done
/// under the lock. Whoever reads waits for locks of indexes no longer than for the table's.
///
/// # Errors
/// The server's, other than that it can't be had.
pub async fn hold(client: &Client, table: &TablePlan, timeout_ms: u64) -> Result<Held, ChunkError> {
    // The snapshot's catalog would answer a query; these functions look at the newest.
    const NOW: &str = "SELECT pg_catalog.pg_relation_filenode($1::oid) = $2::oid,
                              pg_catalog.to_regclass($3::text)::oid = $1::oid";
    let name = &table.name;
    let doing = format!("locking {name} for a part of its copy");
    let failed = database(&doing);
    let lock = format!(
        "SAVEPOINT chunk; SET LOCAL lock_timeout = {}; LOCK TABLE ONLY {name} IN ACCESS SHARE MODE",
        timeout_ms.max(1)
    );
    match client.batch_execute(&lock).await {
        Ok(()) => {}
        Err(error) if is_lock_timeout(&error) => return Ok(Held::Busy),
        Err(error) if error.code().is_some_and(is_gone) => return Ok(Held::Gone),
        Err(error) => return Err(failed(error)),
    }
    let named = name.to_string();
    let row = client.query_one(NOW, &[&table.id.0, &table.file_node, &named]).await;
    let row = row.map_err(&failed)?;
    let is_same_file: Option<bool> = row.try_get(0).map_err(&failed)?;
    let is_same_table: Option<bool> = row.try_get(1).map_err(&failed)?;
    Ok(match (is_same_table, is_same_file) {
        (Some(true), Some(true)) => Held::Locked,
        (Some(true), _) => Held::Rewritten,
        _ => Held::Gone,
    })
}

fn is_gone(code: &SqlState) -> bool {
    [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME].contains(code)
}

/// Lets go of the lock; the snapshot stays.
///
/// # Errors
/// The server's; the session is then of no more use.
pub async fn let_go(client: &Client) -> Result<(), ChunkError> {
    client
        .batch_execute("ROLLBACK TO SAVEPOINT chunk; RELEASE SAVEPOINT chunk")
        .await
        .map_err(database("letting go of a table's lock"))
}
