//! The statements of the fence. What is run and what a plan shows come from the same functions.

use decoders::QualifiedName;
use decoders::postgres::badge;

use super::claim;
use super::lowering::{Current, lower};
use super::{LOCK_TIMEOUT_MS, LOCKS, MARKER, PostgresUndo, SealBy, quoted_database};
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
/// A session of ours has our role, our name *and* our badge ([`badge`]): the first two may be of
/// another sidecar, which would go on writing. The role is the one that logged in, whatever `SET ROLE`
/// a connection string has in its options. One of ours that is only just connecting has no badge yet;
/// it is ended, and comes back. Autovacuum changes no row, and goes by itself when a lock is asked
/// for. A parallel worker ends with whom it works for. What has no `backend_type` is hidden from us,
/// and counts as foreign.
fn others(database: &str) -> String {
    format!(
        "datname = {} AND pid <> pg_catalog.pg_backend_pid() \
         AND coalesce(backend_type, '') NOT IN ('autovacuum worker', 'autovacuum launcher', \
             'parallel worker') \
         AND NOT (usename = session_user AND application_name LIKE 'cutover%' AND pid IN ({}))",
        literal(database),
        badge::wearers_sql()
    )
}

/// Those of them that are closed: all but walsenders that stream, because a subscriber that was
/// thrown out could not come back for the last of blue's changes. A walsender that does not stream
/// (its state is `startup`) takes any SQL statement (manual, 55.4), and goes.
pub(super) fn foreign(database: &str) -> String {
    format!(
        "{} AND NOT (coalesce(backend_type, '') = 'walsender' AND pid IN (SELECT s.pid \
         FROM pg_catalog.pg_stat_replication s WHERE coalesce(s.state, 'startup') <> 'startup'))",
        others(database)
    )
}

/// All sessions, and whether we may close them: a superuser's takes a superuser (manual, 9.27.2).
const SESSIONS: &str = "SELECT a.*, pg_catalog.current_setting('is_superuser') = 'on' \
     OR NOT coalesce(r.rolsuper, false) AS closable \
     FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid";

/// Finds foreign sessions of the database and closes them if we may; a row for each.
pub(super) fn scan_sql(database: &str, before: Option<&str>) -> String {
    format!(
        "SELECT pid, usename, application_name, backend_type, state, closable, {} AS matters, \
                CASE WHEN closable THEN pg_catalog.pg_terminate_backend(pid) END AS told \
         FROM ({SESSIONS}) AS sessions WHERE {}",
        began_before(before),
        foreign(database)
    )
}

/// A statement for a plan, which is the same whichever process shows it.
fn planned(statement: &str) -> String {
    statement.replace(&badge::wearers_sql(), "..sessions of this sidecar..")
}

/// The same so that a person can run it, too: whoever has our role and name is let be.
fn by_hand(statement: &str) -> String {
    statement.replace(&badge::wearers_sql(), "SELECT NULL::integer")
}

/// Sessions that pass for ours and yet write, or wait to write, to what is not our own: none of
/// ours does while blue is fenced. To be asked within the database.
pub(super) fn impostors_sql(database: &str) -> String {
    let holds = |condition: &str| {
        format!(
            "EXISTS (SELECT FROM pg_catalog.pg_locks l \
             LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation \
             LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE l.pid = a.pid AND l.locktype = 'relation' AND l.database = a.datid \
             AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', \
                            'AccessExclusiveLock') AND {condition})"
        )
    };
    format!(
        "SELECT a.pid, a.usename, a.application_name FROM pg_catalog.pg_stat_activity a \
         WHERE a.datname = {} AND a.usename = session_user AND a.application_name LIKE 'cutover%' \
         AND a.application_name NOT IN ({}, '{LOCKS}', '{MARKER}') \
         AND ({} OR a.backend_xid IS NOT NULL AND NOT {})",
        literal(database),
        literal(&fence_name(database)),
        holds("coalesce(n.nspname, '') NOT IN ('_cutover', 'pg_toast')"),
        // A lane's progress.
        holds("n.nspname = '_cutover'"),
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
        others(database),
        began_before(before)
    )
}

/// Closes the door, in one transaction: nobody can connect any more, and who might all the same is
/// read-only by default.
pub(super) fn close_door(undo: &PostgresUndo) -> Vec<String> {
    let mut statements: Vec<_> =
        undo.roles.iter().map(|role| format!("ALTER ROLE {} NOLOGIN", ident(role))).collect();
    if undo.may_alter {
        let database = quoted_database(undo);
        statements
            .push(format!("ALTER DATABASE {database} SET default_transaction_read_only = on"));
    }
    if undo.seal_by == SealBy::AllowConnections {
        statements.push(allow_connections(undo, false));
    }
    statements
}

pub(super) fn allow_connections(undo: &PostgresUndo, allow: bool) -> String {
    format!("ALTER DATABASE {} ALLOW_CONNECTIONS {allow}", quoted_database(undo))
}

/// Opens a transaction that locks the tables; it stays open. The timeouts that might end an idle
/// transaction are off in it.
pub(super) fn lock_sql(tables: &[QualifiedName], timeout_ms: u64) -> String {
    let mut sql = format!(
        "SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0; \
         SET lock_timeout = {timeout_ms}; BEGIN READ WRITE"
    );
    if !tables.is_empty() {
        sql.push_str("; LOCK TABLE ");
        sql.push_str(&names(tables));
        sql.push_str(" IN SHARE MODE");
    }
    sql
}

fn names(tables: &[QualifiedName]) -> String {
    tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// One transaction with the marker in it, flushed when its answer is here.
pub(super) fn mark_sql(kind: MarkerKind, token: &Token) -> String {
    format!(
        "BEGIN READ WRITE; SET LOCAL synchronous_commit = on; {}; \
         SELECT pg_catalog.txid_current() AS xid; COMMIT",
        kind.statement(token)
    )
}

/// The version of the database's entry in `pg_database`: whoever alters the database, or grants
/// something on it, changes this.
pub(super) fn stamp_sql(database: &str) -> String {
    format!(
        "SELECT xmin AS stamp FROM pg_catalog.pg_database WHERE datname = {}",
        literal(database)
    )
}

/// `application_name` of a fence's sessions. It has the database in it, because one of them is in
/// another database, where the fences of other pipelines have theirs.
///
/// The server keeps 63 bytes and replaces what is not printable ASCII (manual, 20.8), so such
/// names are shortened and told apart by a hash (FNV-1a).
pub(super) fn fence_name(database: &str) -> String {
    let plain: String =
        database.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(28).collect();
    if plain == database {
        return format!("cutover fence of {database}");
    }
    let hash = database.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("cutover fence of {plain}-{hash:016x}")
}

/// Ends every session of a fence around the database but the one that asks; a row for each.
pub(super) fn end_own_sql(database: &str) -> String {
    format!(
        "SELECT pid, usename, application_name, pg_catalog.pg_terminate_backend(pid) \
         FROM pg_catalog.pg_stat_activity \
         WHERE usename = session_user AND pid <> pg_catalog.pg_backend_pid() \
         AND (application_name = {} \
              OR datname = {} AND application_name IN ('{LOCKS}', '{MARKER}'))",
        literal(&fence_name(database)),
        literal(database)
    )
}

/// Closes foreign sessions that began between two moments; a row for each, `closable` or not.
pub(super) fn close_since_sql(database: &str, since: &str, until: &str) -> String {
    format!(
        "SELECT pid, usename, application_name, closable, \
                CASE WHEN closable THEN pg_catalog.pg_terminate_backend(pid) END AS told \
         FROM ({SESSIONS}) AS sessions \
         WHERE {} AND backend_start BETWEEN {} AND {}",
        foreign(database),
        literal(since),
        literal(until)
    )
}

/// Sessions that are just starting: until it is ready, and seen in `pg_stat_activity`, a session
/// locks its database's entry.
pub(super) fn starting_sql(database: &str) -> String {
    format!(
        "SELECT pid FROM pg_catalog.pg_locks WHERE locktype = 'object' \
         AND classid = 'pg_catalog.pg_database'::regclass AND mode = 'RowExclusiveLock' \
         AND objid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = {}) \
         AND pid <> pg_catalog.pg_backend_pid()",
        literal(database)
    )
}

/// Everything, for a plan; `place` is the side that is closed and opened.
pub(super) fn describe(place: &'static str, undo: &PostgresUndo) -> FenceActs {
    let act = |step: &str, text: String| Act { step: step.into(), place: place.into(), text };
    let token = Token::draining("RUN", Epoch(0));
    let kind = MarkerKind::for_version(undo.version_num);
    let acts = |step: &'static str, statements: Vec<String>| {
        statements.into_iter().map(move |text| Act { step: step.into(), place: place.into(), text })
    };
    let mut raise: Vec<_> = acts("fence", close_door(undo)).collect();
    raise.extend(claim::mark_planned(undo).into_iter().map(|text| act("fence", text)));
    raise.push(act("fence", planned(&scan_sql(&undo.database, None))));
    raise.push(act(
        "fence",
        match undo.closes_door() {
            // Who agrees to a plan agrees to these tables. A name with a line break would end the comment.
            true => {
                let tables = names(&undo.tables).replace(['\n', '\r'], " ");
                format!("-- nobody is left who could write to {tables}")
            }
            false => lock_sql(&undo.tables, LOCK_TIMEOUT_MS),
        },
    ));
    let mut back = vec![act("abort", end_own_sql(&undo.database))];
    back.extend(acts("abort", lower(undo, &Current::entered(undo)).statements));
    if let Some(at) = undo.at.as_deref().filter(|_| undo.may_alter) {
        back.push(act("abort", by_hand(&close_since_sql(&undo.database, at, "now"))));
    }
    let mark = mark_sql(kind, &token).replace(&token.to_string(), "RUN.EPOCH.drain");
    FenceActs {
        raise,
        mark: vec![act("drain", mark)],
        seal: vec![act("seal", planned(&scan_sql(&undo.database, None)))],
        lower: back,
    }
}

#[cfg(test)]
mod tests {
    use super::super::undo::{PostgresUndo, SealBy};
    use super::{badge, describe, fence_name};

    #[test]
    fn a_plan_names_the_side_whose_statements_they_are() {
        let undo = PostgresUndo {
            database: "shop".into(),
            at: Some("2026-01-01 00:00:00+00".into()),
            may_alter: true,
            read_only: None,
            allow_connections: true,
            seal_by: SealBy::AllowConnections,
            roles: Vec::new(),
            tables: Vec::new(),
            version_num: 170_000,
            connect: None,
            comments: Vec::new(),
            claim: None,
        };
        let acts = describe("green", &undo);
        let all = [acts.raise, acts.mark, acts.seal, acts.lower].concat();
        assert!(all.iter().any(|act| act.text.contains("ALLOW_CONNECTIONS")), "{all:?}");
        assert!(all.iter().all(|act| act.place == "green"), "{all:?}");
        // Another process, with another badge, shows the same plan.
        let badge = badge::wearers_sql();
        assert!(all.iter().all(|act| !act.text.contains(&badge)), "{all:?}");
    }

    #[test]
    fn names_fit_and_tell_databases_apart() {
        assert_eq!(fence_name("shop"), "cutover fence of shop");
        let long = ["a".repeat(62) + "b", "a".repeat(62) + "c"];
        for name in [&*long[0], "größe", "tab\there"] {
            let shown = fence_name(name);
            assert!(shown.len() <= 63 && shown.is_ascii(), "{shown}");
        }
        assert_ne!(fence_name(&long[0]), fence_name(&long[1]));
        assert_ne!(fence_name("größe"), fence_name("grße"));
    }
}
