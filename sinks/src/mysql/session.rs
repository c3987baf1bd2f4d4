//! Sessions on green: how they are set up, and who has a lane.

use decoders::mysql::server::{self, Server, ServerUrl, failure, literal};
use decoders::source::SourceError;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::error::{of_source, target_error};
use crate::target::TargetError;

/// What sessions on green can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// The server.
    pub server: Server,
    /// `max_allowed_packet`: no statement can be longer, in bytes.
    pub packet_bytes: usize,
}

/// Strict: what does not fit is refused and not cut. Zero and impossible dates are values like others,
/// and so is 0 in an AUTO_INCREMENT column.
pub(super) const STRICT: &str = "STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES";
/// For the one kind of value that strict sessions can't write: an ENUM without a label.
pub(super) const LENIENT: &str = "NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES";

/// How long a statement waits for somebody else's row lock, in seconds.
const LOCK_WAIT_S: u32 = 5;

/// How long the server keeps a session that says nothing, in seconds: the longest that it allows. A
/// lane's lock ends with its session, and a quiet blue sends nothing for days.
const IDLE_S: u32 = 31_536_000;

/// The statement that sets what single rows may have changed: at a session's beginning, and after a
/// failure.
pub(super) fn checks(checks_foreign_keys: bool) -> String {
    let checks = u8::from(checks_foreign_keys);
    format!("SET SESSION sql_mode = '{STRICT}', foreign_key_checks = {checks}")
}

/// Opens a session that writes: UTF-8, UTC, strict.
///
/// `checks_foreign_keys`: whether green has to do what blue's cascades did (see
/// [`MysqlTarget::follow`](super::MysqlTarget::follow)).
pub(super) async fn connect(
    url: &ServerUrl,
    checks_foreign_keys: bool,
) -> Result<(Conn, Capabilities), TargetError> {
    let mut conn = server::connect_to_write(url).await.map_err(of_source)?;
    let server = Server::read(&mut conn).await.map_err(of_source)?;
    let settings = format!(
        "SET SESSION time_zone = '+00:00', autocommit = 1, unique_checks = 1, sql_notes = 1, \
         innodb_lock_wait_timeout = {LOCK_WAIT_S}, wait_timeout = {IDLE_S}"
    );
    // `unique_checks` stay on whatever blue's session had: without them InnoDB may store duplicates, and
    // a blue that holds some is better refused.
    for sql in [
        "SET NAMES utf8mb4",
        &checks(checks_foreign_keys),
        &settings,
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    ] {
        let set = conn.query_drop(sql).await;
        set.map_err(|error| target_error("setting up a session on green", error))?;
    }
    // MariaDB repeats each statement beside its rows in green's log. Without the right to leave that away
    // it stays.
    if server.is_mariadb() {
        let set = conn.query_drop("SET SESSION binlog_annotate_row_events = OFF").await;
        if let Err(error) = set
            && server::code(&error).is_none()
        {
            return Err(target_error("setting up a session on green", error));
        }
    }
    let packet: Result<Option<usize>, _> = conn.query_first("SELECT @@max_allowed_packet").await;
    let packet = packet.map_err(|error| target_error("asking green for its packet size", error))?;
    let packet_bytes = packet.unwrap_or(1 << 20);
    Ok((conn, Capabilities { server, packet_bytes }))
}

/// What a lane's session is known by. Names of locks are short, so a long name goes in by its hash.
fn lane_name(pipeline: &str, lane: u16) -> String {
    format!("concat('cutover ', left(sha2({}, 256), 40), ' {lane}')", literal(pipeline))
}

/// Takes a lane for this session, until it ends.
///
/// A session that was cut off keeps its lane until the server has rolled its transaction back, so who
/// has the lane knows that nobody else can still commit in it.
///
/// # Errors
/// Retry while another session has it.
pub(super) async fn take_lane(
    conn: &mut Conn,
    pipeline: &str,
    lane: u16,
) -> Result<(), TargetError> {
    let sql = format!("SELECT get_lock({}, 0)", lane_name(pipeline, lane));
    let taken: Result<Option<Option<u8>>, _> = conn.query_first(sql).await;
    let taken = taken.map_err(|error| target_error("taking a lane on green", error))?;
    match taken.flatten() {
        Some(1) => Ok(()),
        _ => Err(TargetError::retry(format!(
            "another session still applies lane {lane} of pipeline {pipeline:?} on green"
        ))),
    }
}

/// Gives a lane back.
pub(super) async fn give_back_lane(
    conn: &mut Conn,
    pipeline: &str,
    lane: u16,
) -> Result<(), TargetError> {
    let sql = format!("DO release_lock({})", lane_name(pipeline, lane));
    let given = conn.query_drop(sql).await;
    given.map_err(|error| target_error("giving a lane back on green", error))
}

/// Whether a source logs what its cascading foreign keys do: MySQL from 9.6 on, where the server
/// checks foreign keys itself (`innodb_native_foreign_keys = OFF`). No other server has the variable.
/// Of a log that an earlier version wrote only its reader knows
/// ([`NumberedStream::version_logs_cascades`](decoders::mysql::stream::NumberedStream)).
///
/// # Errors
/// The question failed.
pub async fn logs_cascades(conn: &mut Conn, server: &Server) -> Result<bool, SourceError> {
    if server.is_mariadb() {
        return Ok(false);
    }
    let row: Result<Option<(String, String)>, _> =
        conn.query_first("SHOW GLOBAL VARIABLES LIKE 'innodb_native_foreign_keys'").await;
    let row = row.map_err(|error| failure("cannot ask how foreign keys are logged", error))?;
    Ok(row.is_some_and(|(_, value)| value.eq_ignore_ascii_case("OFF") || value == "0"))
}
