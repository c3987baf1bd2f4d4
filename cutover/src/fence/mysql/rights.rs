//! What our account may do on a server, and what else a run would stumble over there.

use decoders::mysql::catalog::Rights;
use tokio::time::Instant;

use super::facts::Facts;
use super::settings::Current;
use super::{MysqlFence, MysqlUndo, Turn, claim, sessions, settings};
use crate::api::{Check, Severity};
use crate::marker::{MYSQL_MARKER_TABLE, SCHEMA};
use crate::ports::{Claimed, PortError, PortResult};
use crate::sql::TextRow;
use crate::sql::soon;

/// What the fence does on MySQL, and the right that it takes: one of them.
const MYSQL: [(&str, &[&str]); 5] = [
    ("set global variables", &["SYSTEM_VARIABLES_ADMIN", "SUPER"]),
    ("work on a closed server, and end sessions", &["CONNECTION_ADMIN", "SUPER"]),
    ("lock accounts", &["CREATE USER"]),
    ("see all sessions", &["PROCESS"]),
    ("see prepared transactions", &["XA_RECOVER_ADMIN"]),
];
/// Accounts that have it are locked by others who do (MySQL from 8.0.16 on).
const SYSTEM_USER: &str = "SYSTEM_USER";
/// The same on MariaDB.
const MARIADB: [(&str, &[&str]); 6] = [
    ("write to a closed server, and close it", &["READ_ONLY ADMIN"]),
    ("end sessions", &["CONNECTION ADMIN"]),
    ("lock accounts", &["CREATE USER"]),
    ("see all sessions", &["PROCESS"]),
    ("stop commits", &["RELOAD"]),
    ("keep its changes out of the binlog", &["BINLOG ADMIN"]),
];

const ABOUT_MYSQL: &str = "SELECT @@log_bin AND @@gtid_mode = 'ON' AS has_position, \
     @@persisted_globals_load AS persists, @@read_only OR @@super_read_only OR @@offline_mode AS shut, \
     (SELECT count(*) FROM performance_schema.replication_group_members \
     WHERE member_state = 'ONLINE') AS members";
const ABOUT_MARIADB: &str = "SELECT @@log_bin AS has_position, 1 AS persists, @@read_only AS shut, \
     (SELECT count(*) FROM information_schema.global_variables WHERE variable_name = 'WSREP_ON' \
     AND variable_value = 'ON') AS members";

/// What its own tables take: they are made, read and written, and claims are removed.
const OWN_TABLES: [&str; 5] = ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE"];

const DATABASES: &str = "SELECT schema_name FROM information_schema.schemata \
     WHERE schema_name NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema', \
     '_cutover') ORDER BY 1";

const HAS_MARKER_TABLE: &str = "SELECT 1 FROM _cutover.marker LIMIT 0";

fn lacks_marker_table() -> String {
    MYSQL_MARKER_TABLE.join("; ")
}

/// Fails if there is no table for the markers.
pub(super) async fn has_marker_table(turn: &mut Turn<'_>, deadline: Instant) -> PortResult<()> {
    match turn.try_run(HAS_MARKER_TABLE, deadline).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_missing() => {
            let what = format!("{} lacks the table of markers, {SCHEMA}.marker", turn.place);
            Err(PortError::new(turn.place, what).remedy(lacks_marker_table()))
        }
        Err(error) => Err(error.at(turn.place, "looking for the table of markers")),
    }
}

/// Every finding at once.
pub(super) async fn inspect(fence: &MysqlFence) -> PortResult<Vec<Check>> {
    let deadline = soon();
    let place = fence.place;
    // A session keeps the rights that it began with.
    fence.look.close().await;
    let mut session = fence.look.take(deadline).await?;
    let facts = Facts::read(&mut session, place, deadline).await?;
    let grants = session.run("SHOW GRANTS", deadline).await;
    let grants = grants.map_err(|error| error.at(place, "reading our rights"))?.rows;
    let ours = Rights::of(grants.iter().filter_map(|row| row.at(0)));
    let right = rights(&ours, &facts, place);
    let may_look = right.severity != Severity::Fail;
    let mut checks = vec![right];
    if !may_look {
        fence.look.put(session).await;
        return Ok(checks);
    }
    let about = if facts.is_mariadb { ABOUT_MARIADB } else { ABOUT_MYSQL };
    let about = session.row(about, deadline).await;
    let about = about.map_err(|error| error.at(place, "reading the server's settings"))?;
    checks.extend(surroundings(&about, place));
    let now = Current::of(&mut session, &facts, place, deadline).await?;
    checks.extend(accounts(&now, &ours, &facts));
    checks.extend(events(&now, &ours, place, &facts));
    let others = sessions::others(&mut session, &facts, place, deadline).await?;
    checks.push(replication(&others, place));
    checks.extend(sessions::long(&others, place));
    let databases = session.run(DATABASES, deadline).await;
    let databases = databases.map_err(|error| error.at(place, "listing the databases"))?.rows;
    checks.push(whole_server(&databases, place, &facts));
    checks.push(match session.run(HAS_MARKER_TABLE, deadline).await {
        Ok(_) => Check::ok("fence-marker", "the table of markers is there"),
        Err(error) => Check::fail("fence-marker", error.text, lacks_marker_table()),
    });
    fence.look.put(session).await;
    let found = claim::find(&fence.look, place, deadline).await?;
    checks.extend(open(found.as_ref(), &about, &now, place, &facts));
    Ok(checks)
}

/// It is a server that is closed, whichever of its databases is moved; and whoever watches servers to
/// replace those that fail may see one that has failed.
fn whole_server(databases: &[TextRow], place: &str, facts: &Facts) -> Check {
    let names: Vec<_> = databases.iter().filter_map(|row| row.at(0)).take(10).collect();
    let closed = match facts.is_mariadb {
        true => "read-only, and its accounts locked",
        false => "read-only and in offline mode",
    };
    Check::warn(
        "fence-server",
        format!(
            "the whole server of {place} closes, with all of its {} databases ({}): it is {closed}",
            databases.len(),
            names.join(", ")
        ),
        "move what else uses that server first; and pause whatever replaces servers by itself \
         (orchestrator, MHA, MaxScale's monitor, ProxySQL's replication hostgroups, a cloud's failover) \
         until the cutover is over",
    )
}

/// Whether clients may write there. What a claim has closed is opened by the list in it, which goes with
/// it: settings that survive a restart, and locked accounts.
fn open(
    found: Option<&Claimed<MysqlUndo>>,
    about: &TextRow,
    now: &Current,
    place: &str,
    facts: &Facts,
) -> Vec<Check> {
    if let Some(found) = found {
        let statements = settings::by_hand(&found.undo, now).join("; ");
        return vec![Check::fail(
            "fence-claim",
            format!("{place} says that it is closed by {}", found.claim),
            format!(
                "if that run is over, and clients may write to {place}, in one session: \
                 {statements}"
            ),
        )];
    }
    let mut checks = vec![Check::ok("fence-claim", format!("nobody has closed {place}"))];
    if about.get("shut") != Some("0") {
        checks.push(Check::fail(
            "fence-open",
            format!("{place} takes no writes of clients now"),
            match facts.is_mariadb {
                true => "SET GLOBAL read_only = OFF",
                false => {
                    "SET GLOBAL read_only = OFF; SET GLOBAL offline_mode = OFF; \
                     RESET PERSIST IF EXISTS read_only; \
                     RESET PERSIST IF EXISTS super_read_only; \
                     RESET PERSIST IF EXISTS offline_mode"
                }
            },
        ));
    }
    checks
}

fn rights(rights: &Rights, facts: &Facts, place: &str) -> Check {
    let needed: &[(&str, &[&str])] = if facts.is_mariadb { &MARIADB } else { &MYSQL };
    let mut missing: Vec<_> = needed
        .iter()
        .filter(|(_, any_of)| !rights.has(any_of))
        .map(|(what, one)| (*what, one[0]))
        .collect();
    if !rights.has(&["SELECT"]) && !rights.has_on("SELECT", "mysql") {
        missing.push(("read the accounts", "SELECT"));
    }
    let lacks = |right: &&str| !rights.has_on(right, SCHEMA);
    let own: Vec<_> = OWN_TABLES.into_iter().filter(lacks).collect();
    if missing.is_empty() && own.is_empty() {
        return Check::ok("fence-rights", format!("{} may close {place}", facts.account));
    }
    let mut may_not: Vec<_> = missing.iter().map(|(what, _)| *what).collect();
    let grant: Vec<_> = missing.iter().map(|(_, right)| *right).collect();
    let mut fix = Vec::new();
    if !grant.is_empty() {
        fix.push(format!("GRANT {} ON *.* TO {}", grant.join(", "), facts.account));
    }
    if !own.is_empty() {
        may_not.push("work with its own tables");
        fix.push(format!("GRANT {} ON {SCHEMA}.* TO {}", own.join(", "), facts.account));
    }
    Check::fail(
        "fence-rights",
        format!("{} may not {} on {place}", facts.account, may_not.join(", nor ")),
        fix.join("; "),
    )
}

/// What would make a closed server no closed one.
fn surroundings(about: &TextRow, place: &str) -> Vec<Check> {
    let mut checks = Vec::new();
    if !about.is_true("has_position") {
        checks.push(Check::fail(
            "fence-position",
            format!("{place} writes no binlog with GTIDs: nothing would prove where it stopped"),
            "turn them on; `replicator check` says how",
        ));
    }
    if !about.is_true("persists") {
        checks.push(Check::fail(
            "fence-durable",
            format!("{place} does not read persisted settings when it starts: it would open"),
            "start it with persisted_globals_load = ON",
        ));
    }
    if about.get("members") != Some("0") {
        checks.push(Check::fail(
            "fence-cluster",
            format!("{place} is part of a cluster: what its other members write comes in"),
            "a cluster can't be fenced; make a server of its own that replicates from it",
        ));
    }
    checks
}

/// MariaDB remembers no variables over a restart.
fn events(now: &Current, ours: &Rights, place: &str, facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    if !facts.is_mariadb || !now.runs_events() {
        return checks;
    }
    if !ours.has(&["SUPER"]) {
        checks.push(Check::fail(
            "fence-events",
            format!("{} may not stop the event scheduler of {place}", facts.account),
            format!("GRANT SUPER ON *.* TO {}", facts.account),
        ));
    }
    checks.push(Check::warn(
        "fence-restart",
        format!("scheduled events would run again if {place} were restarted when it is closed"),
        format!(
            "write event_scheduler = OFF and read_only = ON into its configuration before it is \
             restarted after the cutover; accounts stay locked on {place}"
        ),
    ));
    checks
}

fn accounts(now: &Current, ours: &Rights, facts: &Facts) -> Vec<Check> {
    let accounts = &now.accounts;
    let mut checks = Vec::new();
    if !accounts.namesakes.is_empty() {
        checks.push(Check::fail(
            "fence-own-account",
            format!(
                "{} has the name of {}, and the sessions of both look the same",
                accounts.namesakes.join(", "),
                facts.account
            ),
            "use an account with a name of its own for the cutover",
        ));
    }
    if !accounts.system.is_empty() && !ours.has(&[SYSTEM_USER]) {
        checks.push(Check::fail(
            "fence-system-users",
            format!("{} may not lock {}", facts.account, accounts.system.join(", ")),
            format!("GRANT {SYSTEM_USER} ON *.* TO {}", facts.account),
        ));
    }
    let mut evidence = format!("{} accounts will be locked", accounts.to_lock.len());
    if !accounts.passing.is_empty() {
        evidence = format!(
            "{evidence}; these could write in spite of read-only mode: {}",
            accounts.passing.join(", ")
        );
    }
    checks.push(match accounts.to_lock.is_empty() {
        true => Check::ok("fence-accounts", "no account passes a closed door"),
        false => Check::warn(
            "fence-accounts",
            evidence,
            format!("nothing: they are unlocked if the run is put back. {} stays", facts.account),
        ),
    });
    checks
}

fn replication(others: &[TextRow], place: &str) -> Check {
    match others.iter().find(|row| sessions::is_replication(row)) {
        None => Check::ok("fence-replica", format!("{place} receives nothing from other servers")),
        Some(thread) => Check::fail(
            "fence-replica",
            format!(
                "{place} receives changes from another server: {}",
                sessions::session_of(thread)
            ),
            "STOP REPLICA (MariaDB: STOP ALL SLAVES)",
        ),
    }
}
