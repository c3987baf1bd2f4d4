//! A session on green: its settings, what it may do, and who stands in its way.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::error::{Refusal, target_error};
use crate::plan::Fire;
use crate::target::TargetError;

/// How triggers of green are kept from repeating what blue's did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TriggerSuppression {
    /// `session_replication_role = replica`: triggers and foreign keys do not fire.
    ReplicaRole,
    /// The role may not set it. Tables with user triggers, rules or cascading foreign keys are
    /// refused; the others are applied in order with their foreign keys checked, deferred to the
    /// commit where they are deferrable.
    RefuseTables,
}

impl TriggerSuppression {
    /// What fires in such a session.
    pub fn fires(self) -> Fire {
        match self {
            TriggerSuppression::ReplicaRole => Fire::OnReplica,
            TriggerSuppression::RefuseTables => Fire::OnOrigin,
        }
    }
}

/// Whether commits on green are marked as replicated, so that a stream from green can leave them
/// out (PostgreSQL manual, chapter 50 Replication Progress Tracking).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OriginTracking {
    /// They are, under this name.
    Active {
        /// The replication origin.
        name: String,
    },
    /// They are not, and why.
    Unavailable {
        /// For the operator.
        reason: String,
    },
}

/// What a session on green can do: each was tried, not assumed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// `server_version_num`, for example 150004.
    pub server_version: u32,
    /// About triggers.
    pub triggers: TriggerSuppression,
    /// About the replication origin.
    pub origin: OriginTracking,
}

/// Settings beyond those of [`decoders::postgres::session`] (which fix the text of values and switch
/// timeouts off). Servers that lack one are left alone.
const SETTINGS: [(&str, &str); 5] = [
    ("client_min_messages", "error"),
    ("synchronous_commit", "on"),
    ("tcp_keepalives_count", "3"),
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
];

/// Settings of lanes alone. A statement for many rows is one list of keys beside a table: whatever
/// green's statistics say, and a list has none, each key is looked up in the index. With any other
/// plan green would read the table for a handful of rows, or for as many as it once guessed.
/// Sorted keys make neighbours of the lookups.
const LANE_SETTINGS: [(&str, &str); 4] = [
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_seqscan", "off"),
    ("jit", "off"),
];

/// Prepares a session for writing source's rows: settings and trigger suppression. The backfill's
/// sessions need it just as a lane's.
///
/// The search path stays empty, as [`decoders::postgres::session`] sets it and as a subscription's apply worker has it
/// (PostgreSQL manual, 29.13 Security): constraints, indexes and generated columns of a table run with our
/// rights, and whoever may create functions in a schema of the path could give them other ones to call.
pub async fn set_up(client: &Client) -> Result<TriggerSuppression, TargetError> {
    let fail = |e| target_error("setting up a session on green", &e);
    set(client, &SETTINGS).await?;
    notice_a_vanished_client(client).await?;
    match client.batch_execute("SET session_replication_role = replica").await {
        Ok(()) => Ok(TriggerSuppression::ReplicaRole),
        Err(e) if e.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            Ok(TriggerSuppression::RefuseTables)
        }
        Err(e) => Err(fail(e)),
    }
}

/// What a lane's session needs beyond [`set_up`]. If its commits don't wait for green's log, a
/// [`PgFlusher`](super::PgFlusher) has to.
pub(super) async fn set_up_lane(client: &Client, waits_for_log: bool) -> Result<(), TargetError> {
    let not_waiting = (!waits_for_log).then_some(("synchronous_commit", "off"));
    let settings: Vec<_> = LANE_SETTINGS.into_iter().chain(not_waiting).collect();
    set(client, &settings).await?;
    keep_parameters_out_of_logs(client).await
}

/// Rows, and the secret of our marks, are parameters: they have no place in the server's log. PostgreSQL 13+, for
/// who may set it.
async fn keep_parameters_out_of_logs(client: &Client) -> Result<(), TargetError> {
    match client.batch_execute("SET log_parameter_max_length = 0").await {
        Ok(()) => Ok(()),
        Err(e) if e.as_db_error().is_some() => {
            tracing::debug!(reason = Refusal::of(&e).text, "no log_parameter_max_length");
            Ok(())
        }
        Err(e) => Err(target_error("setting up a session on green", &e)),
    }
}

async fn set(client: &Client, settings: &[(&str, &str)]) -> Result<(), TargetError> {
    let (names, values): (Vec<&str>, Vec<&str>) = settings.iter().copied().unzip();
    let sql = "SELECT pg_catalog.set_config(known.name, wanted.value, false)
               FROM unnest($1::text[], $2::text[]) wanted(name, value)
               JOIN pg_catalog.pg_settings known ON lower(known.name) = wanted.name";
    let done = client.query(sql, &[&names, &values]).await;
    done.map(drop).map_err(|e| target_error("setting up a session on green", &e))
}

/// A backend that waits for a lock does not notice that its client is gone, and would go on to
/// commit. PostgreSQL 14+ can look now and then, on platforms that support it.
async fn notice_a_vanished_client(client: &Client) -> Result<(), TargetError> {
    match client.batch_execute("SET client_connection_check_interval = '2s'").await {
        Ok(()) => Ok(()),
        Err(e) if e.as_db_error().is_some() => {
            tracing::debug!(reason = Refusal::of(&e).text, "no client_connection_check_interval");
            Ok(())
        }
        Err(e) => Err(target_error("setting up a session on green", &e)),
    }
}

/// The session's process on the server.
pub(super) async fn backend_pid(client: &Client) -> Result<i32, TargetError> {
    let row = client.query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await;
    row.map(|row| row.get(0)).map_err(|e| target_error("asking green for the backend's id", &e))
}

/// Whether the role may execute the functions of replication origins. Before PostgreSQL 14 they
/// look for a superuser themselves.
pub(crate) async fn may_use_origins(client: &Client) -> Result<bool, TargetError> {
    let sql = "SELECT bool_and(coalesce(
            pg_catalog.has_function_privilege(pg_catalog.to_regprocedure(f), 'EXECUTE'), false))
          AND (current_setting('server_version_num')::int >= 140000
               OR current_setting('is_superuser') = 'on')
        FROM unnest(ARRAY[
        'pg_catalog.pg_replication_origin_oid(text)',
        'pg_catalog.pg_replication_origin_create(text)',
        'pg_catalog.pg_replication_origin_session_setup(text)',
        'pg_catalog.pg_replication_origin_xact_setup(pg_lsn, timestamptz)']) f";
    let row = client.query_one(sql, &[]).await;
    let row = row.map_err(|e| target_error("asking for rights on replication origins", &e))?;
    Ok(row.get(0))
}

/// What an operator is told who could have origins by a grant.
pub(super) const NO_ORIGIN_RIGHTS: &str =
    "the role on green may not execute the pg_replication_origin functions";

/// Marks everything that the session commits as replicated, where that is permitted.
pub(super) async fn set_up_origin(
    client: &Client,
    name: &str,
) -> Result<OriginTracking, TargetError> {
    if !may_use_origins(client).await? {
        return Ok(OriginTracking::Unavailable { reason: NO_ORIGIN_RIGHTS.to_owned() });
    }
    let create = "SELECT pg_catalog.pg_replication_origin_create($1)
                  WHERE pg_catalog.pg_replication_origin_oid($1) IS NULL";
    let session = "SELECT pg_catalog.pg_replication_origin_session_setup($1)";
    for sql in [create, session] {
        if let Err(e) = client.query(sql, &[&name]).await {
            // Somebody else made it in the meantime.
            if e.code() == Some(&SqlState::UNIQUE_VIOLATION) {
                continue;
            }
            let refusal = Refusal::of(&e);
            return match refusal.code.as_deref() {
                // object_in_use: a session that is about to end still has it.
                None | Some("55006") => {
                    Err(refusal.into_error("taking green's replication origin"))
                }
                _ => Ok(OriginTracking::Unavailable { reason: refusal.text }),
            };
        }
    }
    Ok(OriginTracking::Active { name: name.to_owned() })
}

/// Takes the right to be the only writer of a lane, for as long as the session lives.
///
/// A killed replicator's backend may live on for a while and even commit; while it does, this
/// fails with a `Retry`, so a new lane never reads progress that is about to move. `application` is
/// the name of the lane's own sessions.
pub(crate) async fn take_lane(
    client: &Client,
    pipeline: &str,
    lane: u16,
    application: &str,
) -> Result<(), TargetError> {
    let fail = |e| target_error("taking the lane's lock on green", &e);
    let key = format!("_cutover lane {pipeline}");
    let lane = i32::from(lane);
    let sql = "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtext($1), $2)";
    if client.query_one(sql, &[&key, &lane]).await.map_err(fail)?.get(0) {
        return Ok(());
    }
    // A session of our own user and name can only be an earlier life of this lane: two replicators
    // can't have one pipeline's state directory. It may sit in a lock for hours, so it is ended.
    let sql = "SELECT l.pid, a.usename = current_user
                        AND a.application_name = pg_catalog.left($3, 63)
                        AND pg_catalog.pg_terminate_backend(l.pid)
               FROM pg_catalog.pg_locks l
               LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
               WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
                 AND l.database = (SELECT oid FROM pg_catalog.pg_database
                                   WHERE datname = pg_catalog.current_database())
                 AND l.classid::bigint = (pg_catalog.hashtext($1)::bigint & 4294967295)
                 AND l.objid::bigint = $2::int";
    let holder = client.query_opt(sql, &[&key, &lane, &application]).await.map_err(fail)?;
    let holder = match holder.map(|row| (row.get::<_, i32>(0), row.get::<_, Option<bool>>(1))) {
        None => "has just ended".to_owned(),
        Some((pid, Some(true))) => {
            format!("was a left-over of ours (pid {pid}) and is being ended")
        }
        Some((pid, _)) => format!("has pid {pid}"),
    };
    Err(TargetError::retry(format!(
        "another session applies pipeline {pipeline:?}, lane {lane}, on green; it {holder}"
    )))
}

/// Gives up what [`take_lane`] took.
pub(crate) async fn give_back_lane(
    client: &Client,
    pipeline: &str,
    lane: u16,
) -> Result<(), TargetError> {
    let key = format!("_cutover lane {pipeline}");
    let sql = "SELECT pg_catalog.pg_advisory_unlock(pg_catalog.hashtext($1), $2)";
    let given_back = client.query_one(sql, &[&key, &i32::from(lane)]).await;
    given_back.map(drop).map_err(|e| target_error("giving back the lane's lock on green", &e))
}

/// Gives up the lane and its replication origin, so that its next session need not wait until the
/// server has noticed the end of this one.
pub(super) async fn leave(
    client: &Client,
    pipeline: &str,
    lane: u16,
    origin: &OriginTracking,
) -> Result<(), TargetError> {
    if let OriginTracking::Active { .. } = origin {
        let sql = "SELECT pg_catalog.pg_replication_origin_session_reset()";
        let reset = client.query_one(sql, &[]).await;
        reset.map_err(|e| target_error("giving back the replication origin on green", &e))?;
    }
    give_back_lane(client, pipeline, lane).await
}

/// A session that another one waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blocker {
    /// Backend process id.
    pub pid: i32,
    /// Its user; empty if we may not see it.
    pub user: String,
    /// Its `application_name`.
    pub application: String,
    /// Its state: `active`, `idle in transaction`, ..
    pub state: String,
    /// How long its transaction has been open, in milliseconds; 0 if we may not see it.
    pub transaction_age_ms: i64,
}

/// Who keeps the backend `pid` waiting for a lock; empty if nobody does. `client` is any other
/// session on the same server. Queries are not shown: they may hold values.
pub async fn blockers(client: &Client, pid: i32) -> Result<Vec<Blocker>, TargetError> {
    let sql = "SELECT b.pid, coalesce(a.usename::text, ''), coalesce(a.application_name, ''),
                      coalesce(a.state, ''),
                      coalesce(1000 * extract(epoch FROM pg_catalog.clock_timestamp()
                                                          - a.xact_start), 0)::bigint
               FROM (SELECT DISTINCT unnest(pg_catalog.pg_blocking_pids($1)) AS pid) b
               LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid ORDER BY b.pid";
    let rows = client.query(sql, &[&pid]).await;
    let rows = rows.map_err(|e| target_error("asking green for blocking sessions", &e))?;
    Ok(rows
        .iter()
        .map(|row| Blocker {
            pid: row.get(0),
            user: row.get(1),
            application: row.get(2),
            state: row.get(3),
            transaction_age_ms: row.get(4),
        })
        .collect())
}

/// Drops a replication origin if it is there. Fails with a `Retry` while a session uses it.
pub(crate) async fn drop_origin(client: &Client, name: &str) -> Result<(), TargetError> {
    let fail = |e| target_error("dropping green's replication origin", &e);
    // Asked apart: a mere mention of the function needs the right to execute it.
    let exists = "SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_origin WHERE roname = $1)";
    if client.query_one(exists, &[&name]).await.map_err(fail)?.get(0) {
        let drop = "SELECT pg_catalog.pg_replication_origin_drop($1)";
        client.query(drop, &[&name]).await.map_err(fail)?;
    }
    Ok(())
}
