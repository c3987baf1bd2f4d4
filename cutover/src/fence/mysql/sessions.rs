//! Ending the sessions of others.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::facts::Facts;
use super::{Turn, xa};
use crate::api::Check;
use crate::fence::long::{NAME, NAMED_MAX, SECONDS, unnamed};
use crate::ports::{PortError, PortResult, Writers};
use crate::sql::TextRow;
use crate::sql::mysql::{MysqlSession, NO_SUCH_SESSION, literal};

/// Between two looks at the sessions.
const SCAN_PAUSE: Duration = Duration::from_millis(2);
/// The name of who has not logged in yet.
const UNKNOWN: &str = "unauthenticated user";
/// "Cannot convert string .. from utf8mb4 to utf8mb3": of tables of `information_schema` with texts of
/// statements, and also for who does not ask for the texts.
const UNSHOWN: u16 = 3854;
/// "Access denied", "You are not owner of thread".
const REFUSED: [u16; 2] = [1227, 1095];

/// Sessions that were ended, by number.
pub(super) type Closed = BTreeMap<u64, String>;

/// Which sessions have to be gone: everybody else's, but for those that are just logging in and have
/// a larger number than this. The door was closed before them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan {
    pub up_to: u32,
}

/// The process list. What a session runs is not asked for: it may hold values.
pub(super) fn list_sql(facts: &Facts) -> String {
    format!(
        "SELECT id AS id, user AS user, host AS host, command AS command, time AS time, \
         state AS state, id = connection_id() AS is_us FROM {}",
        facts.processes()
    )
}

/// Sessions of others.
///
/// # Errors
/// The list does not even show who asks: it would show nobody.
pub(super) async fn others(
    session: &mut MysqlSession,
    facts: &Facts,
    place: &str,
    deadline: Instant,
) -> PortResult<Vec<TextRow>> {
    let rows = session.run(&list_sql(facts), deadline).await;
    let mut rows = rows.map_err(|error| error.at(place, "looking at the sessions"))?.rows;
    if !rows.iter().any(|row| row.is_true("is_us")) {
        return Err(PortError::new(
            place,
            format!("{place}'s list of sessions does not show our own: {}", facts.processes()),
        )
        .remedy("start the server with performance_schema = ON"));
    }
    rows.retain(|row| row.get("user") != Some(&facts.login));
    Ok(rows)
}

pub(super) fn session_of(row: &TextRow) -> String {
    let or = |name, otherwise| row.get(name).filter(|text| !text.is_empty()).unwrap_or(otherwise);
    format!(
        "session {} of {} from {} ({} for {} s: {})",
        or("id", "?"),
        or("user", "nobody"),
        or("host", "an unknown host"),
        or("command", "?"),
        or("time", "?"),
        or("state", "no state")
    )
}

/// What the server itself runs, what sends the binlog to replicas, and who will not be let in.
fn is_exempt(row: &TextRow, scan: Scan) -> bool {
    let command = row.get("command").unwrap_or_default();
    if matches!(row.get("user"), Some("system user" | "event_scheduler")) {
        return command == "Daemon";
    }
    // MariaDB shows who was refused as killed.
    let logs_in = row.get("user") == Some(UNKNOWN)
        || command == "Connect"
        || command == "Killed" && row.get("state") == Some("login");
    let is_new = row.number("id").is_ok_and(|id: u64| id > u64::from(scan.up_to));
    command.starts_with("Binlog Dump") || logs_in && is_new
}

pub(super) fn is_replication(row: &TextRow) -> bool {
    row.get("user") == Some("system user") && row.get("command") != Some("Daemon")
}

/// Those that have run a statement for a while, for a plan: the fence ends them. What they run is not
/// known, because it may hold values.
pub(super) fn long(others: &[TextRow], place: &str) -> Vec<Check> {
    let is_long = |row: &&TextRow| {
        let command = row.get("command").unwrap_or_default();
        let waits = matches!(command, "Sleep" | "Daemon") || command.starts_with("Binlog Dump");
        !waits && row.number("time").is_ok_and(|seconds: i64| seconds > i64::from(SECONDS))
    };
    let found: Vec<_> = others.iter().filter(is_long).collect();
    let fix = "the fence ends it, and what was not committed is rolled back: wait until it is done";
    let named = found.iter().take(NAMED_MAX);
    let mut checks: Vec<_> =
        named.map(|row| Check::warn(NAME, format!("{place}: {}", session_of(row)), fix)).collect();
    checks.extend(unnamed(found.len(), place, fix));
    checks
}

/// Ends foreign sessions until two scans in a row find none. The number of such scans.
pub(super) async fn clear(
    turn: &mut Turn<'_>,
    scan: Scan,
    closed: &mut Closed,
    deadline: Instant,
) -> PortResult<u32> {
    let place = turn.place;
    let facts = turn.facts.clone();
    let mut clean_scans = 0;
    loop {
        let mut rows = others(turn.session(), &facts, place, deadline).await?;
        rows.retain(|row| !is_exempt(row, scan));
        if let Some(applying) = rows.iter().find(|row| is_replication(row)) {
            return Err(PortError::new(
                place,
                format!("{place} receives changes from another server: {}", session_of(applying)),
            )
            .remedy("STOP REPLICA (MariaDB: STOP ALL SLAVES), then run cutover again"));
        }
        for row in &rows {
            let Ok(id) = row.number::<u64>("id") else { continue };
            let is_told = closed.contains_key(&id);
            closed.entry(id).or_insert_with(|| session_of(row));
            if is_told {
                continue;
            }
            match turn.try_run(&format!("KILL {id}"), deadline).await {
                Ok(_) => {}
                Err(error) if error.is(NO_SUCH_SESSION) => {}
                Err(error) if error.code.is_some_and(|code| REFUSED.contains(&code)) => {
                    return Err(PortError::new(
                        place,
                        format!("our account may not end {}: {}", session_of(row), error.text),
                    )
                    .remedy(
                        "end it yourself, or GRANT CONNECTION_ADMIN, SYSTEM_USER (MariaDB: \
                             CONNECTION ADMIN) to our account",
                    ));
                }
                Err(error) => return Err(error.at(place, "ending sessions")),
            }
        }
        if rows.is_empty() {
            clean_scans += 1;
            if clean_scans >= 2 {
                return Ok(clean_scans);
            }
        } else {
            clean_scans = 0;
        }
        if Instant::now() + SCAN_PAUSE >= deadline {
            let left: Vec<_> = rows.iter().map(session_of).collect();
            return Err(PortError::new(
                place,
                format!("sessions on {place} did not end in time: {}", left.join("; ")),
            )
            .remedy("a large transaction takes as long to undo as it took to do: wait until they are gone"));
        }
        tokio::time::sleep(SCAN_PAUSE).await;
    }
}

/// Who does something on the server now, ourselves included, for an error.
pub(super) async fn busy(turn: &mut Turn<'_>) -> String {
    let query = format!(
        "SELECT id AS id, user AS user, host AS host, command AS command, time AS time, \
         state AS state FROM {} WHERE command NOT IN ('Daemon', 'Sleep') AND id <> connection_id()",
        turn.facts.processes()
    );
    match turn.try_run(&query, crate::sql::soon()).await {
        Ok(answer) if answer.rows.is_empty() => "nobody seems to hold them up now".into(),
        Ok(answer) => answer.rows.iter().map(session_of).collect::<Vec<_>>().join("; "),
        Err(error) => format!("and nobody can be asked who holds them up: {}", error.text),
    }
}

/// Who has changed rows in a transaction that is open, the oldest first. `innodb_trx` is made anew only if
/// nobody has looked at it for 100 ms, so who asks more often than that is told what was.
fn writers_sql(facts: &Facts) -> String {
    format!(
        "SELECT p.id AS id, p.user AS user, p.host AS host, p.command AS command, p.time AS time, \
         p.state AS state, timestampdiff(MICROSECOND, t.trx_started, now(6)) AS age_us \
         FROM information_schema.innodb_trx t JOIN {} p ON p.id = t.trx_mysql_thread_id \
         WHERE t.trx_rows_modified > 0 AND p.user <> {} ORDER BY t.trx_started LIMIT 1",
        facts.processes(),
        literal(&facts.login)
    )
}

/// The same without `innodb_trx`, which MySQL can't show while a statement with a character of four bytes
/// runs in a transaction: its texts have no room for that ([`UNSHOWN`]). Whoever has changed rows has an IX lock
/// on their table; so has who has locked some to change them. Each lock of a row is looked at, so it is
/// not asked for at first.
fn lockers_sql(facts: &Facts) -> String {
    format!(
        "SELECT t.processlist_id AS id, t.processlist_user AS user, t.processlist_host AS host, \
         t.processlist_command AS command, t.processlist_time AS time, t.processlist_state AS state, \
         CAST(coalesce(e.timer_wait DIV 1000000, t.processlist_time * 1000000) AS SIGNED) AS age_us \
         FROM (SELECT DISTINCT thread_id FROM performance_schema.data_locks \
         WHERE engine = 'INNODB' AND lock_type = 'TABLE' AND lock_mode = 'IX') l \
         JOIN performance_schema.threads t ON t.thread_id = l.thread_id \
         LEFT JOIN performance_schema.events_transactions_current e \
         ON e.thread_id = l.thread_id AND e.state = 'ACTIVE' \
         WHERE t.processlist_user <> {} ORDER BY age_us DESC LIMIT 1",
        literal(&facts.login)
    )
}

/// What is under way.
pub(super) async fn writers(
    session: &mut MysqlSession,
    place: &str,
    deadline: Instant,
) -> PortResult<Writers> {
    let failed = |error: crate::sql::mysql::MysqlError| error.at(place, "looking for writers");
    let facts = Facts::read(session, place, deadline).await?;
    // InnoDB tells times in the server's own zone.
    session.run("SET SESSION time_zone = 'SYSTEM'", deadline).await.map_err(failed)?;
    let rows = match session.run(&writers_sql(&facts), deadline).await {
        Err(error) if error.is(UNSHOWN) => session.run(&lockers_sql(&facts), deadline).await,
        answer => answer,
    };
    let rows = rows.map_err(failed)?.rows;
    let prepared = xa::recovered(session, facts.is_mariadb, place, deadline).await?;
    let Some(oldest) = rows.first() else { return Ok(Writers { prepared, ..Writers::default() }) };
    let age_us: i64 = oldest.number("age_us").map_err(|error| failed(error.into()))?;
    Ok(Writers {
        oldest: Some(Duration::from_micros(age_us.max(0).unsigned_abs())),
        oldest_who: Some(session_of(oldest)),
        prepared,
    })
}
