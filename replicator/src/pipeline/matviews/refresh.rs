//! One REFRESH: the session that runs it, and what becomes of it.

use decoders::postgres::session::Session;
use decoders::source::Disposition;
use sinks::postgres::{Refusal, target_error};

use super::super::failure::Failure;
use super::super::record::make_writable;
use super::view::View;
use crate::cancel::cancelled_on_drop;

/// Policies bound what an owner's query sees; with the `off` of our sessions it would fail.
const ROW_SECURITY: &str = "SET row_security = on";
/// Whoever reads a view keeps its lock, and the stream's TRUNCATE may wait behind us.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '10s'";
/// If we are gone, the statement ends; from 14 on.
const CONNECTION_CHECK: &str = "
SELECT pg_catalog.set_config(name, '10s', false) FROM pg_catalog.pg_settings
WHERE name = 'client_connection_check_interval'";
/// In a database that accepts no connections parallel workers can't start before the minor releases of February 2025,
/// which is an error of the statement.
const ALONE: &str = "
SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
WHERE name IN ('max_parallel_workers_per_gather', 'max_parallel_maintenance_workers')";
/// Event triggers stay quiet.
const REPLICA: &str = "SET session_replication_role = replica";

/// Tables that this transaction has written to.
const WRITTEN: &str = "
SELECT pg_catalog.string_agg(DISTINCT c.oid::pg_catalog.regclass::text, ', ')
FROM pg_catalog.pg_stat_xact_user_tables s JOIN pg_catalog.pg_class c ON c.oid = s.relid
WHERE c.relkind <> 'm' AND s.n_tup_ins + s.n_tup_upd + s.n_tup_del > 0";

/// Who holds a lock of a relation.
const HOLDERS: &str = "
SELECT pg_catalog.string_agg(pg_catalog.format('pid %s of role %s (%s)', a.pid, a.usename, a.application_name), ', ')
FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.relation = $1 AND l.granted AND l.pid <> pg_catalog.pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())";

/// A session that refreshes. `is_closed`: its database takes no other.
pub(super) async fn prepare(session: &Session, is_closed: bool) -> Result<(), Failure> {
    make_writable(session).await?;
    let alone = if is_closed { ALONE } else { "" };
    let all = [ROW_SECURITY, LOCK_TIMEOUT, CONNECTION_CHECK, alone].join(";");
    let set = session.batch_execute(&all).await;
    set.map_err(|error| target_error("preparing a session for views", &error))?;
    match session.batch_execute(REPLICA).await {
        // Without the right to it, what a refresh writes is found all the same.
        Err(error) if error.as_db_error().is_some() => Ok(()),
        set => Ok(set.map_err(|error| target_error("preparing a session for views", &error))?),
    }
}

/// Why one was not refreshed.
pub(super) enum Refused {
    /// Trying again may help.
    Now(String),
    /// Its query fails.
    Always(String),
}

/// In a transaction of its own.
pub(super) async fn refresh(session: &Session, view: &View) -> Result<(), Refused> {
    let refreshed = async {
        session.batch_execute("BEGIN READ WRITE").await?;
        session.batch_execute(&view.statement()).await?;
        session.query_one(WRITTEN, &[]).await?.try_get::<_, Option<String>>(0)
    };
    let refreshed = cancelled_on_drop(session, refreshed).await;
    let end = if matches!(refreshed, Ok(None)) { "COMMIT" } else { "ROLLBACK" };
    let ended = session.batch_execute(end).await;
    match refreshed.and_then(|written| ended.map(|()| written)) {
        Ok(None) => Ok(()),
        Ok(Some(tables)) => Err(Refused::Always(format!(
            "refreshing {} writes to {tables}, through a function or a trigger, which no stream would carry",
            view.name
        ))),
        Err(error) => Err(refused(session, view, &error).await),
    }
}

async fn refused(session: &Session, view: &View, error: &tokio_postgres::Error) -> Refused {
    /// Somebody holds a lock.
    const LOCKED: &str = "55P03";
    let refusal = Refusal::of(error);
    let mut what = format!("refreshing {}: {}", view.name, refusal.text);
    let code = refusal.code.as_deref().unwrap_or_default();
    if code == LOCKED {
        let holders = session.query_one(HOLDERS, &[&view.oid]).await;
        let holders = holders.and_then(|row| row.try_get::<_, Option<String>>(0));
        match holders {
            Ok(Some(holders)) => what.push_str(&format!("; it is held by {holders}")),
            Ok(None) => {}
            Err(error) => tracing::debug!("who holds a lock can't be told: {error}"),
        }
    }
    // A connection that its query makes, to a server of its own, fails for good until somebody mends that.
    match refusal.disposition() {
        Disposition::Retry if !code.starts_with("08") => Refused::Now(what),
        Disposition::Retry | Disposition::Halt => Refused::Always(what),
    }
}
