//! Replication slots: create with an exported snapshot, look at, release, drop.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use super::error::WireError;
use super::failure::{of_session, of_wire};
use super::ident::{quote_identifier, quote_literal};
use super::session::Session;
use super::wire::ReplicationConnection;
use crate::change::Lsn;
use crate::source::{Disposition, SourceError};

/// The output plugin that everything here is about.
pub const PLUGIN: &str = "pgoutput";

/// How long a stopped walsender may take to let go of its slot.
const RELEASE_DEADLINE: Duration = Duration::from_secs(10);

/// How often the slot is looked at meanwhile.
const RELEASE_POLL: Duration = Duration::from_millis(20);

/// A slot that was just created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Its name.
    pub name: String,
    /// Transactions that commit behind this position are streamed; all earlier ones are visible
    /// in the snapshot.
    pub consistent_point: Lsn,
    /// For `SET TRANSACTION SNAPSHOT` in other sessions, while the creating connection stays open
    /// and runs nothing else.
    pub snapshot: String,
}

/// What the server says about a slot (`pg_replication_slots`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotState {
    /// Its name.
    pub name: String,
    /// The output plugin; `None` for a physical slot.
    pub plugin: Option<String>,
    /// The database it decodes; `None` for a physical slot.
    pub database: Option<String>,
    /// The process that streams from it now.
    pub active_pid: Option<i32>,
    /// The oldest log that it keeps.
    pub restart_lsn: Option<Lsn>,
    /// Acknowledged up to here: a stream never starts before it.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost` (PostgreSQL 13+).
    pub wal_status: Option<String>,
}

impl SlotState {
    /// Whether the server has removed log that the slot needs. Nothing brings it back.
    pub fn is_lost(&self) -> bool {
        self.wal_status.as_deref() == Some("lost") || self.restart_lsn.is_none()
    }
}

/// A transaction that a new slot has to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocker {
    /// A session with an open transaction that has written.
    Session {
        /// Its process.
        pid: i32,
        /// Seconds since its transaction began.
        age_seconds: i64,
        /// Who it is.
        user: String,
        /// What it calls itself.
        application: String,
    },
    /// A transaction that was prepared and neither committed nor rolled back.
    Prepared {
        /// Its name (`gid`).
        gid: String,
        /// Seconds since it was prepared.
        age_seconds: i64,
    },
}

impl std::fmt::Display for Blocker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Blocker::Session { pid, age_seconds, user, application } => write!(
                f,
                "pid {pid} (user {user}, application {application:?}, open for {age_seconds} s)"
            ),
            Blocker::Prepared { gid, age_seconds } => {
                write!(f, "prepared transaction {} ({age_seconds} s)", quote_literal(gid))
            }
        }
    }
}

/// What kind of slot is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// It stays until it is dropped. From PostgreSQL 17 on standbys keep a copy of it, if they are
    /// set up to (`sync_replication_slots`), so that a stream survives the promotion of one (manual,
    /// 47.2.3 Replication Slot Synchronization).
    Lasting,
    /// It goes with the connection: only its snapshot is of use.
    Temporary,
}

/// Creates a logical slot and exports its snapshot on `replication`, which must then stay open
/// and idle while the snapshot is in use.
///
/// The server first waits for every transaction that is writing at that moment, forever by
/// default; `lock_timeout` bounds each such wait. When it expires, the error names who is in the
/// way, found through `session`. No slot is left behind then.
pub async fn create(
    replication: &mut ReplicationConnection,
    session: &Session,
    name: &str,
    kind: SlotKind,
    lock_timeout: Duration,
) -> Result<CreatedSlot, SourceError> {
    let doing = format!("create the replication slot {name}");
    let version_num = session.server_version();
    // The connection's own settings keep every other timeout from ending the idle session that
    // holds the snapshot.
    let setting = format!("SET lock_timeout = {}", lock_timeout.as_millis().max(1));
    replication.simple_query(&setting).await.map_err(|error| of_wire(&doing, error))?;
    let sql = create_sql(version_num, name, kind);
    let created = match replication.simple_query(&sql).await {
        // Some services know the option and allow it to nobody.
        Err(error) if sql.contains(FAILOVER) && is_not_allowed(&error) => {
            let without = sql.replace(FAILOVER, "");
            replication.simple_query(&without).await
        }
        created => created,
    };
    let rows = match created {
        Ok(rows) => rows,
        Err(error) => {
            let timed_out = error
                .server_error()
                .is_some_and(|error| error.sqlstate == SqlState::LOCK_NOT_AVAILABLE.code());
            let failure = of_wire(&doing, error);
            return Err(match timed_out {
                true => explain_timeout(failure, name, lock_timeout, session).await,
                false => failure,
            });
        }
    };
    let field = |at: usize| rows.first().and_then(|row| row.get(at)).and_then(Option::as_deref);
    match (field(1).map(str::parse), field(2)) {
        (Some(Ok(consistent_point)), Some(snapshot)) => Ok(CreatedSlot {
            name: name.to_owned(),
            consistent_point,
            snapshot: snapshot.to_owned(),
        }),
        _ => Err(SourceError::retry(format!("can't {doing}: the server's answer is incomplete"))),
    }
}

/// Asks for a slot that standbys keep a copy of.
const FAILOVER: &str = ", FAILOVER true";

fn is_not_allowed(error: &WireError) -> bool {
    let refusals = [SqlState::FEATURE_NOT_SUPPORTED, SqlState::INSUFFICIENT_PRIVILEGE];
    let told = error.server_error().map(|error| error.sqlstate.as_str());
    refusals.iter().any(|refusal| told == Some(refusal.code()))
}

fn create_sql(version_num: u32, name: &str, kind: SlotKind) -> String {
    let name = quote_identifier(name);
    // PostgreSQL 15 brought the list of options in parentheses, 17 slots that survive a failover.
    let options = match (version_num, kind) {
        (170_000.., SlotKind::Lasting) => {
            return format!(
                "CREATE_REPLICATION_SLOT {name} LOGICAL {PLUGIN} (SNAPSHOT 'export'{FAILOVER})"
            );
        }
        (150_000.., _) => "(SNAPSHOT 'export')",
        _ => "EXPORT_SNAPSHOT",
    };
    let temporary = match kind {
        SlotKind::Lasting => "",
        SlotKind::Temporary => "TEMPORARY ",
    };
    format!("CREATE_REPLICATION_SLOT {name} {temporary}LOGICAL {PLUGIN} {options}")
}

async fn explain_timeout(
    failure: SourceError,
    name: &str,
    lock_timeout: Duration,
    session: &Session,
) -> SourceError {
    let who = match blockers(session).await {
        Ok(found) if found.is_empty() => "a transaction that has ended meanwhile".to_owned(),
        Ok(found) => found.iter().map(Blocker::to_string).collect::<Vec<_>>().join(", "),
        Err(_) => "a transaction that could not be looked up".to_owned(),
    };
    SourceError {
        disposition: Disposition::Retry,
        message: format!(
            "can't create the replication slot {name}: after {} s it still waits for older \
             transactions to end: {who}",
            lock_timeout.as_secs_f64()
        ),
        remedy: Some(
            "let them finish, or end them: SELECT pg_terminate_backend(<pid>), \
             ROLLBACK PREPARED '<gid>'"
                .to_owned(),
        ),
        cause: Some(Box::new(failure)),
    }
}

/// Creates a slot that dies with `replication`, which then streams from it; gives back where it
/// begins. Waits for open writers like [`create`], without a bound: nothing of the server's waits
/// for it in turn.
pub async fn create_temporary(
    replication: &mut ReplicationConnection,
    version_num: u32,
    name: &str,
) -> Result<Lsn, SourceError> {
    let doing = format!("create the temporary replication slot {name}");
    let none = if version_num >= 150_000 { "(SNAPSHOT 'nothing')" } else { "NOEXPORT_SNAPSHOT" };
    let name = quote_identifier(name);
    let sql = format!("CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL {PLUGIN} {none}");
    let rows = replication.simple_query(&sql).await.map_err(|error| of_wire(&doing, error))?;
    let field = rows.first().and_then(|row| row.get(1)).and_then(Option::as_deref);
    field.and_then(|text| text.parse().ok()).ok_or_else(|| {
        SourceError::retry(format!("can't {doing}: the server's answer is incomplete"))
    })
}

/// Transactions that have written and are not over, on the whole server, oldest first. Each of
/// them holds up the creation of a slot.
pub async fn blockers(session: &Session) -> Result<Vec<Blocker>, SourceError> {
    let doing = "look for open transactions";
    let rows = session
        .query(
            "SELECT pid, coalesce(usename::text, ''), coalesce(application_name, ''), NULL,
                    extract(epoch FROM clock_timestamp() - xact_start)::int8 AS age
             FROM pg_catalog.pg_stat_activity
             WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()
             UNION ALL
             SELECT NULL, owner::text, '', gid,
                    extract(epoch FROM clock_timestamp() - prepared)::int8
             FROM pg_catalog.pg_prepared_xacts
             ORDER BY age DESC NULLS LAST",
            &[],
        )
        .await
        .map_err(|error| of_session(doing, error))?;
    let blocker = |row: &tokio_postgres::Row| -> Result<Blocker, tokio_postgres::Error> {
        let age_seconds = row.try_get::<_, Option<i64>>(4)?.unwrap_or(0);
        Ok(match (row.try_get(0)?, row.try_get(3)?) {
            (Some(pid), _) => Blocker::Session {
                pid,
                age_seconds,
                user: row.try_get(1)?,
                application: row.try_get(2)?,
            },
            (None, gid) => {
                Blocker::Prepared { gid: Option::<String>::unwrap_or_default(gid), age_seconds }
            }
        })
    };
    let found = rows.iter().map(blocker).collect::<Result<_, _>>();
    found.map_err(|error| of_session(doing, error))
}

/// The slot as it is now, if there is one.
pub async fn inspect(session: &Session, name: &str) -> Result<Option<SlotState>, SourceError> {
    let doing = format!("look at the replication slot {name}");
    let wal_status = match session.server_version() {
        ..130_000 => "NULL::text",
        _ => "wal_status",
    };
    let sql = format!(
        "SELECT plugin::text, database::text, active_pid, restart_lsn::text,
                confirmed_flush_lsn::text, {wal_status}
         FROM pg_catalog.pg_replication_slots WHERE slot_name = $1"
    );
    let row = session.query_opt(&sql, &[&name]).await.map_err(|error| of_session(&doing, error))?;
    let Some(row) = row else {
        return Ok(None);
    };
    let state = || -> Result<SlotState, tokio_postgres::Error> {
        let lsn = |at| Ok(row.try_get::<_, Option<&str>>(at)?.and_then(|text| text.parse().ok()));
        Ok(SlotState {
            name: name.to_owned(),
            plugin: row.try_get(0)?,
            database: row.try_get(1)?,
            active_pid: row.try_get(2)?,
            restart_lsn: lsn(3)?,
            confirmed_flush_lsn: lsn(4)?,
            wal_status: row.try_get(5)?,
        })
    };
    state().map(Some).map_err(|error| of_session(&doing, error))
}

/// Makes sure that nobody streams from the slot.
///
/// A walsender outlives its client by up to `wal_sender_timeout` when the network broke. One that
/// carries our user and `application` is such a left-over and is ended; anybody else's is left
/// alone, and the error names it. True if there is a slot of that name.
pub async fn release(
    session: &Session,
    name: &str,
    application: &str,
) -> Result<bool, SourceError> {
    let doing = format!("release the replication slot {name}");
    let deadline = Instant::now() + RELEASE_DEADLINE;
    let mut ended = None;
    loop {
        let Some(state) = inspect(session, name).await? else {
            return Ok(false);
        };
        let Some(pid) = state.active_pid else {
            return Ok(true);
        };
        if ended != Some(pid) {
            end_left_over(session, &doing, name, pid, application).await?;
            ended = Some(pid);
        }
        if Instant::now() > deadline {
            return Err(SourceError::retry(format!(
                "the replication slot {name} is still held by pid {pid}, which was asked to end"
            )));
        }
        tokio::time::sleep(RELEASE_POLL).await;
    }
}

/// Ends `pid` if it is ours; an error if it is not.
async fn end_left_over(
    session: &Session,
    doing: &str,
    slot: &str,
    pid: i32,
    application: &str,
) -> Result<(), SourceError> {
    let row = session
        .query_opt(
            "SELECT coalesce(usename::text, ''), coalesce(application_name, ''),
                    usename = current_user AND application_name = $2
             FROM pg_catalog.pg_stat_activity WHERE pid = $1",
            &[&pid, &application],
        )
        .await
        .map_err(|error| of_session(doing, error))?;
    // No row: it has ended since.
    let Some(row) = row else {
        return Ok(());
    };
    let read = || -> Result<(String, String, Option<bool>), tokio_postgres::Error> {
        Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
    };
    let (user, holder, ours) = read().map_err(|error| of_session(doing, error))?;
    if ours != Some(true) {
        return Err(SourceError::halt(
            format!(
                "the replication slot {slot} is in use by pid {pid} (user {user}, application \
                 {holder:?})"
            ),
            format!("stop that process; if it is a left-over: SELECT pg_terminate_backend({pid})"),
        ));
    }
    session
        .execute("SELECT pg_catalog.pg_terminate_backend($1)", &[&pid])
        .await
        .map_err(|error| of_session(doing, error))?;
    Ok(())
}

/// Drops the slot; fine if there is none. With `application`, a left-over walsender of ours is
/// ended first (see [`release`]); without, a slot in use is an error.
pub async fn drop(
    session: &Session,
    name: &str,
    application: Option<&str>,
) -> Result<(), SourceError> {
    if let Some(application) = application {
        release(session, name, application).await?;
    }
    let sql = "SELECT pg_catalog.pg_drop_replication_slot($1)";
    match session.execute(sql, &[&name]).await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => Ok(()),
        Err(error) => Err(of_session(&format!("drop the replication slot {name}"), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_fits_the_version() {
        let expected = r#"CREATE_REPLICATION_SLOT "s" LOGICAL pgoutput EXPORT_SNAPSHOT"#;
        let lasting = |version_num| create_sql(version_num, "s", SlotKind::Lasting);
        assert_eq!(lasting(100_023), expected);
        assert_eq!(lasting(140_023), expected);
        let expected = r#"CREATE_REPLICATION_SLOT "s" LOGICAL pgoutput (SNAPSHOT 'export')"#;
        assert_eq!(lasting(160_020), expected);
        let expected =
            r#"CREATE_REPLICATION_SLOT "s" LOGICAL pgoutput (SNAPSHOT 'export', FAILOVER true)"#;
        assert_eq!(lasting(170_000), expected);
        let temporary = |version_num| create_sql(version_num, "s", SlotKind::Temporary);
        let expected = r#"CREATE_REPLICATION_SLOT "s" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT"#;
        assert_eq!(temporary(100_023), expected);
        let expected =
            r#"CREATE_REPLICATION_SLOT "s" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')"#;
        assert_eq!(temporary(180_000), expected);
    }
}
