//! The statements of the fence. What is run and what a plan shows come from the same functions.

use decoders::QualifiedName;

use super::{LOCK_TIMEOUT_MS, LOCKS, PostgresUndo, SealBy, quoted_database};
use crate::api::Act;
use crate::marker::{MarkerKind, Token};
use crate::ports::{Epoch, FenceActs};
use crate::sql::{ident, literal};

/// The next transaction id, 64 bits. The functions' old names work from 10 to 18.
pub(super) const NEXT_XID: &str = "SELECT pg_catalog.txid_snapshot_xmax(\
     pg_catalog.txid_current_snapshot()) AS next_xid";

/// Relations that our own session has locked against writers.
pub(super) const LOCKS_HELD: &str = "SELECT count(*) AS held FROM pg_catalog.pg_locks \
     WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' \
     AND mode = 'ShareLock' AND granted";

/// Sessions that hold a lock which a SHARE lock waits for.
pub(super) const LOCK_HOLDERS: &str = "SELECT DISTINCT 'pid ' || l.pid || ' (' || \
     coalesce(a.usename, '-') || ', ' || coalesce(nullif(a.application_name, ''), \
     a.backend_type, 'no name') || ') has ' || l.mode || ' on ' || l.relation::regclass \
     FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a USING (pid) \
     WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_catalog.pg_backend_pid() \
     AND l.relation >= 16384 AND l.mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', \
     'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') \
     AND l.database = (SELECT oid FROM pg_catalog.pg_database \
                       WHERE datname = pg_catalog.current_database()) LIMIT 5";

/// Sessions of the database that are not ours, as a condition on `pg_stat_activity`.
///
/// A session of ours has our role *and* our name: a name alone could be anybody's. Walsenders
/// can't write. Autovacuum goes by itself when a lock is asked for. What has no `backend_type` is
/// hidden from us, and counts as foreign.
pub(super) fn foreign(database: &str) -> String {
    format!(
        "datname = {} AND pid <> pg_catalog.pg_backend_pid() \
         AND coalesce(backend_type, '') NOT IN ('walsender', 'autovacuum worker', \
             'autovacuum launcher', 'parallel worker') \
         AND NOT (usename = current_user AND application_name LIKE 'cutover%')",
        literal(database)
    )
}

/// Blue's clock.
pub(super) const NOW: &str = "SELECT pg_catalog.clock_timestamp() AS now";

/// Whether a session began before a moment; without a moment: always. What we can't see did.
pub(super) fn began_before(moment: Option<&str>) -> String {
    match moment {
        Some(moment) => format!("coalesce(backend_start <= {}, true)", literal(moment)),
        None => "true".into(),
    }
}

/// Sessions of others with a transaction id, oldest first.
pub(super) fn writers_sql(database: &str, before: Option<&str>) -> String {
    format!(
        "SELECT pid, usename, application_name, \
                extract(epoch FROM pg_catalog.clock_timestamp() - xact_start) AS age_seconds \
         FROM pg_catalog.pg_stat_activity \
         WHERE {} AND {} AND backend_xid IS NOT NULL AND xact_start IS NOT NULL \
         ORDER BY xact_start",
        foreign(database),
        began_before(before)
    )
}

/// Layer 2: new sessions are read-only by default.
pub(super) fn read_only(undo: &PostgresUndo) -> Vec<String> {
    if !undo.may_alter {
        return Vec::new();
    }
    vec![format!("ALTER DATABASE {} SET default_transaction_read_only = on", quoted_database(undo))]
}

/// Opens a transaction that locks the tables; it stays open. The timeouts that might end an idle
/// transaction are off in it.
pub(super) fn lock_sql(tables: &[QualifiedName]) -> String {
    let mut sql = format!(
        "SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0; \
         SET lock_timeout = {LOCK_TIMEOUT_MS}; BEGIN READ WRITE"
    );
    if !tables.is_empty() {
        let names: Vec<_> = tables.iter().map(ToString::to_string).collect();
        sql.push_str("; LOCK TABLE ");
        sql.push_str(&names.join(", "));
        sql.push_str(" IN SHARE MODE");
    }
    sql
}

/// One transaction with the marker in it, flushed when its answer is here.
pub(super) fn mark_sql(kind: MarkerKind, token: &Token) -> String {
    format!(
        "BEGIN READ WRITE; SET LOCAL synchronous_commit = on; {}; \
         SELECT pg_catalog.txid_current() AS xid; COMMIT",
        kind.statement(token)
    )
}

/// Layer 3.
pub(super) fn seal(undo: &PostgresUndo) -> Vec<String> {
    match undo.seal_by {
        SealBy::AllowConnections => {
            vec![format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", quoted_database(undo))]
        }
        SealBy::NoLogin => {
            undo.roles.iter().map(|role| format!("ALTER ROLE {} NOLOGIN", ident(role))).collect()
        }
    }
}

/// Both layers undone.
pub(super) fn lower(undo: &PostgresUndo) -> Vec<String> {
    let database = quoted_database(undo);
    let mut statements = Vec::new();
    if undo.may_alter {
        statements.push(format!(
            "ALTER DATABASE {database} ALLOW_CONNECTIONS {}",
            undo.allow_connections
        ));
        statements.push(match &undo.read_only {
            Some(value) => format!(
                "ALTER DATABASE {database} SET default_transaction_read_only = {}",
                literal(value)
            ),
            None => format!("ALTER DATABASE {database} RESET default_transaction_read_only"),
        });
    }
    statements.extend(undo.roles.iter().map(|role| format!("ALTER ROLE {} LOGIN", ident(role))));
    statements
}

fn our_locks(database: &str) -> String {
    format!(
        "FROM pg_catalog.pg_stat_activity WHERE datname = {} AND usename = current_user \
         AND application_name = '{LOCKS}'",
        literal(database)
    )
}

/// Ends sessions of ours that hold or wait for table locks.
pub(super) fn end_locks_sql(database: &str) -> String {
    format!("SELECT pg_catalog.pg_terminate_backend(pid) {}", our_locks(database))
}

/// How many there are.
pub(super) fn locks_left_sql(database: &str) -> String {
    format!("SELECT count(*) AS sessions {}", our_locks(database))
}

/// Everything, for a plan.
pub(super) fn describe(undo: &PostgresUndo) -> FenceActs {
    let act = |step: &str, text: String| Act { step: step.into(), place: "blue".into(), text };
    let token = Token::draining("RUN", Epoch(0));
    let kind = MarkerKind::for_version(undo.version_num);
    let acts = |step: &'static str, statements: Vec<String>| {
        statements.into_iter().map(move |text| Act {
            step: step.into(),
            place: "blue".into(),
            text,
        })
    };
    let mut raise: Vec<_> = acts("fence", read_only(undo)).collect();
    raise.push(act("fence", super::scan_sql(&undo.database, None)));
    raise.push(act("fence", lock_sql(&undo.tables)));
    let mark = mark_sql(kind, &token).replace(&token.to_string(), "RUN.EPOCH.drain");
    FenceActs {
        raise,
        mark: vec![act("drain", mark)],
        seal: acts("seal", seal(undo)).collect(),
        lower: acts("abort", lower(undo)).collect(),
    }
}
