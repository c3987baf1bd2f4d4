//! Autovacuum in the way of the table locks.
//!
//! A worker's SHARE UPDATE EXCLUSIVE lock conflicts with our SHARE lock. It yields to whoever waits
//! for it, but only once the waiter has waited for `deadlock_timeout`, 1 s by default (manual,
//! 25.1.6); a worker against transaction id wraparound does not yield at all. Our tries are shorter
//! than that, so the worker is cancelled instead. It comes back by itself later.

use tokio::time::Instant;

use super::{LOCK_TIMEOUT_MS, PostgresFence, doing};
use crate::ports::PortResult;
use crate::sql::{Sql, literal};

/// How much longer than `deadlock_timeout` to wait: the worker has to end its work.
const YIELD_MS: u64 = 250;

const DEADLOCK_TIMEOUT: &str = "SELECT setting AS deadlock_timeout_ms \
     FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout'";

/// Cancels autovacuum workers that hold a lock which conflicts with SHARE on a published table,
/// or on a child of one: `LOCK TABLE` locks these too. A row for each.
fn cancel_sql(publication: &str) -> String {
    format!(
        "WITH RECURSIVE locked(oid) AS ( \
             SELECT c.oid FROM pg_catalog.pg_publication_tables t \
             JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname \
             JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename \
             WHERE t.pubname = {} \
             UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i \
             JOIN locked ON i.inhparent = locked.oid) \
         SELECT pid, pg_catalog.pg_cancel_backend(pid) FROM ( \
             SELECT DISTINCT l.pid FROM pg_catalog.pg_locks l \
             JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
             JOIN locked ON locked.oid = l.relation \
             WHERE a.backend_type = 'autovacuum worker' AND l.locktype = 'relation' AND l.granted \
             AND a.datname = pg_catalog.current_database() AND l.database = a.datid \
             AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'ShareLock') \
         ) AS workers",
        literal(publication)
    )
}

/// Makes autovacuum get out of the way after a try at the locks has timed out, and says how long
/// the next try may queue, in milliseconds: longer than usual if only waiting can help. To cancel
/// a worker takes a superuser, or `pg_signal_autovacuum_worker` from version 18 on.
pub(super) async fn next_lock_timeout_ms(
    fence: &PostgresFence,
    admin: &Sql,
    deadline: Instant,
) -> PortResult<u64> {
    match admin.rows(&cancel_sql(&fence.publication), deadline).await {
        Ok(workers) => {
            if !workers.is_empty() {
                tracing::info!("cancelled {} autovacuum workers", workers.len());
            }
            Ok(LOCK_TIMEOUT_MS)
        }
        Err(error) if error.is("42501") => {
            tracing::debug!("autovacuum can't be cancelled: {}", error.text);
            let row = admin.row(DEADLOCK_TIMEOUT, deadline).await;
            let yields_after: u64 = row
                .and_then(|row| row.number("deadlock_timeout_ms"))
                .map_err(doing(fence.place, "reading deadlock_timeout"))?;
            Ok(yields_after + YIELD_MS)
        }
        Err(error) => Err(doing(fence.place, "cancelling autovacuum")(error)),
    }
}
