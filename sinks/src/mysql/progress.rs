//! What green remembers of a stream of MySQL or MariaDB: `_cutover.stream` says which stream it is, and
//! `_cutover.progress` how far each lane got, written in the same transaction as the rows.
//! `_cutover.definition` has the schema changes: see [`definitions`]; `_cutover.prepared` and `_cutover.prepared_piece`
//! what distributed transactions wait with: see [`prepared`]. `_cutover.mark` and `_cutover.own_mark` say whose a
//! transaction is: see [`own`].
//!
//! Numbers are those of [`decoders::mysql::Ledger`]. Beside them stands a *place*: a number with the
//! source's own position behind it, which a stream can be asked for. It is at the floor or, if what
//! follows the floor needs nothing on green, a little behind it; so green alone can say where to go on.
//! Numbers belong to one incarnation of a stream (a source and a start), and another one is refused.

use decoders::change::Lsn;
use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::literal;
use decoders::mysql::{Ledger, Place};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use serde::{Deserialize, Serialize};

use super::definitions;
use super::error::target_error;
use super::literal::hexadecimal;
use super::own;
use super::prepared;
use crate::mark::LaneMark;
use crate::target::{LaneId, TargetError};

/// Version of the tables.
const SCHEMA_VERSION: u32 = 1;

/// What else is kept by the numbers of a stream's transactions.
const BY_NUMBER: [&str; 3] = ["definition", "prepared", "prepared_piece"];

/// One incarnation of a stream of a binlog, under the name of a pipeline.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BinlogStreamIdentity {
    /// The operator's name for the replication.
    pub pipeline: String,
    /// The server that is read: `server_uuid` of MySQL, `server_id` of MariaDB.
    pub source: String,
    /// Where the stream begins: the copy holds everything before. Its number is [`Ledger::START`].
    pub start: BinlogPosition,
}

impl BinlogStreamIdentity {
    /// The place where the stream begins.
    pub fn start_place(&self) -> Place {
        Place { number: Ledger::START, position: self.start.clone() }
    }
}

/// How far a lane got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LaneProgress {
    pub lane: LaneId,
    pub mark: LaneMark,
    pub place: Option<Place>,
}

const NAME: &str = "varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL";

/// Makes the database and its tables where they are missing.
pub(super) async fn create(conn: &mut Conn) -> Result<(), TargetError> {
    let exists: Result<Option<u32>, _> = conn
        .query_first(
            "SELECT count(*) FROM information_schema.tables
             WHERE table_schema = '_cutover' AND table_name IN ('stream', 'progress', 'definition',
               'prepared', 'prepared_piece', 'mark', 'own_mark')",
        )
        .await;
    let doing = "creating green's progress tables (database _cutover)";
    if exists.map_err(|error| target_error(doing, error))? == Some(7) {
        return Ok(());
    }
    let stream = format!(
        "CREATE TABLE IF NOT EXISTS _cutover.stream (
           pipeline {NAME} PRIMARY KEY,
           source {NAME},
           start_position longtext CHARACTER SET ascii NOT NULL,
           created_at datetime NOT NULL,
           schema_version int NOT NULL
         ) ENGINE = InnoDB"
    );
    // `opened` is of a version that marked its transactions here: see [`own`].
    let progress = format!(
        "CREATE TABLE IF NOT EXISTS _cutover.progress (
           pipeline {NAME},
           lane int NOT NULL,
           opened bigint unsigned NOT NULL DEFAULT 0,
           end_number bigint unsigned,
           floor_number bigint unsigned,
           above longblob,
           place_number bigint unsigned,
           place_position longtext CHARACTER SET ascii,
           transactions bigint NOT NULL DEFAULT 0,
           updated_at datetime(6),
           PRIMARY KEY (pipeline, lane)
         ) ENGINE = InnoDB"
    );
    let definition = definitions::create_statement(NAME);
    let [names, pieces] = prepared::create_statements(NAME);
    let database = "CREATE DATABASE IF NOT EXISTS _cutover";
    let [own_mark, mark] = own::create_statements(NAME);
    for sql in [database, &stream, &progress, &definition, &names, &pieces, &own_mark, &mark] {
        conn.query_drop(sql).await.map_err(|error| target_error(doing, error))?;
    }
    Ok(())
}

/// Forgets what is registered under a pipeline's name, and how far it got. Both, or the one that is there:
/// progress without the stream that it is of would be taken for another's. By what its transactions are known
/// stays: they are in the log.
pub(super) async fn forget(conn: &mut Conn, pipeline: &str) -> Result<(), TargetError> {
    let doing = "forgetting a stream on green";
    let tables: Result<Vec<String>, _> = conn
        .query(
            "SELECT table_name AS name FROM information_schema.tables
             WHERE table_schema = '_cutover' AND table_name IN ('stream', 'progress', 'definition',
               'prepared', 'prepared_piece')",
        )
        .await;
    let tables = tables.map_err(|error| target_error(doing, error))?;
    let name = literal(pipeline);
    let deletions =
        tables.iter().map(|table| format!("DELETE FROM _cutover.{table} WHERE pipeline = {name}"));
    let begin = std::iter::once("START TRANSACTION".to_owned());
    for sql in begin.chain(deletions).chain(["COMMIT".to_owned()]) {
        conn.query_drop(sql).await.map_err(|error| target_error(doing, error))?;
    }
    Ok(())
}

/// Registers the stream under its pipeline's name, or checks that it is the one registered.
///
/// # Errors
/// Halts if another stream, or another incarnation of it, has the name.
pub(super) async fn register(
    conn: &mut Conn,
    stream: &BinlogStreamIdentity,
) -> Result<(), TargetError> {
    let doing = "registering the stream on green";
    let known = match registered(conn, &stream.pipeline).await? {
        Some(known) => known,
        None => {
            // Of an incarnation whose registration was removed by hand: its numbers mean nothing any more.
            for table in BY_NUMBER {
                let name = literal(&stream.pipeline);
                let sql = format!("DELETE FROM _cutover.{table} WHERE pipeline = {name}");
                conn.query_drop(sql).await.map_err(|error| target_error(doing, error))?;
            }
            let sql = format!(
                "INSERT IGNORE INTO _cutover.stream \
                 VALUES ({}, {}, {}, utc_timestamp(), {SCHEMA_VERSION})",
                literal(&stream.pipeline),
                literal(&stream.source),
                literal(&stream.start.to_string()),
            );
            conn.query_drop(sql).await.map_err(|error| target_error(doing, error))?;
            let known = registered(conn, &stream.pipeline).await?;
            known.ok_or_else(|| {
                TargetError::retry("the stream's registration on green was just removed")
            })?
        }
    };
    // By its text: an empty position has no family.
    let same_start = known.start.to_string() == stream.start.to_string();
    if (same_start, &known.pipeline, &known.source) == (true, &stream.pipeline, &stream.source) {
        return Ok(());
    }
    let told = |stream: &BinlogStreamIdentity| {
        format!("of server {} from {}", stream.source, stream.start)
    };
    Err(TargetError::halt(
        format!(
            "green already holds pipeline {:?} of another stream: {}; this one is {}",
            stream.pipeline,
            told(&known),
            told(stream)
        ),
        "If the old stream is done with, remove its rows from _cutover.stream and \
         _cutover.progress on green and copy the database again; otherwise use another pipeline name",
    ))
}

/// The stream that is registered under a pipeline's name. The tables must exist.
pub(super) async fn registered(
    conn: &mut Conn,
    pipeline: &str,
) -> Result<Option<BinlogStreamIdentity>, TargetError> {
    let sql = format!(
        "SELECT source, start_position, schema_version FROM _cutover.stream WHERE pipeline = {}",
        literal(pipeline)
    );
    let row: Result<Option<(String, String, u32)>, _> = conn.query_first(sql).await;
    let row = row.map_err(|error| target_error("reading the stream registered on green", error))?;
    let Some((source, start, version)) = row else { return Ok(None) };
    if version != SCHEMA_VERSION {
        return Err(TargetError::halt(
            format!(
                "green's progress tables have version {version}, this program's is {SCHEMA_VERSION}"
            ),
            "Use the version of the replicator that began this stream",
        ));
    }
    let start = position("the start of the stream", &start)?;
    Ok(Some(BinlogStreamIdentity { pipeline: pipeline.to_owned(), source, start }))
}

fn position(what: &str, text: &str) -> Result<BinlogPosition, TargetError> {
    text.parse().map_err(|_| by_hand(format!("{what} that green holds is no position")))
}

fn by_hand(what: String) -> TargetError {
    TargetError::halt(what, "The tables of _cutover were changed by hand: restore them")
}

/// Progress of all lanes of a pipeline, by lane.
///
/// # Errors
/// Halts if a row is not one that a lane wrote.
pub(super) async fn read(
    conn: &mut Conn,
    pipeline: &str,
) -> Result<Vec<LaneProgress>, TargetError> {
    let sql = format!(
        "SELECT lane, end_number, floor_number, above, place_number, place_position, transactions
         FROM _cutover.progress WHERE pipeline = {} ORDER BY lane",
        literal(pipeline)
    );
    let rows: Result<Vec<Row>, _> = conn.query(sql).await;
    let rows = rows.map_err(|error| target_error("reading green's progress", error))?;
    rows.into_iter()
        .map(|row| {
            type Fields =
                (u16, Option<u64>, Option<u64>, Option<Vec<u8>>, Option<u64>, Option<String>, i64);
            let fields: Result<Fields, _> = mysql_async::from_row_opt(row);
            let (lane, end, floor, above, number, place, transactions) = fields
                .map_err(|_| by_hand("green's progress has a row that is none".to_owned()))?;
            let mark =
                LaneMark::stored(end.map(Lsn), floor.map(Lsn), above.as_deref(), transactions);
            let mark =
                mark.map_err(|error| by_hand(format!("green's progress of lane {lane}: {error}")))?;
            let place = match (number, place) {
                (Some(number), Some(text)) => {
                    let position = position(&format!("the place of lane {lane}"), &text)?;
                    Some(Place { number: Lsn(number), position })
                }
                _ => None,
            };
            Ok(LaneProgress { lane: LaneId(lane), mark, place })
        })
        .collect()
}

/// Makes sure that a lane has its row, and reads it. After this the lane only updates.
pub(super) async fn open_lane(
    conn: &mut Conn,
    pipeline: &str,
    lane: LaneId,
) -> Result<LaneProgress, TargetError> {
    let sql = format!(
        "INSERT IGNORE INTO _cutover.progress (pipeline, lane) VALUES ({}, {})",
        literal(pipeline),
        lane.0
    );
    let made = conn.query_drop(sql).await;
    made.map_err(|error| target_error("creating the lane's progress on green", error))?;
    let all = read(conn, pipeline).await?;
    let own = all.into_iter().find(|progress| progress.lane == lane);
    own.ok_or_else(|| TargetError::retry("the lane's progress on green was just removed"))
}

/// The statement that moves a lane's progress inside its transaction. It finds one row, or none if the
/// progress is not what the lane last saw, so two writers can't both commit.
pub(super) fn advance_statement(
    pipeline: &str,
    lane: LaneId,
    before: &LaneMark,
    after: &LaneMark,
    place: &Place,
) -> Vec<u8> {
    let number = |lsn: Option<Lsn>| lsn.map_or("NULL".to_owned(), |lsn| lsn.0.to_string());
    let mut above = b"NULL".to_vec();
    if let Some(bytes) = after.encoded_above() {
        above.clear();
        hexadecimal(&mut above, &bytes);
    }
    let sql = format!(
        "UPDATE _cutover.progress SET end_number = {}, floor_number = {}, above = {}, \
         place_number = {}, place_position = {}, transactions = {}, updated_at = utc_timestamp(6) \
         WHERE pipeline = {} AND lane = {} AND end_number <=> {} AND transactions = {}",
        number(after.end),
        number(after.floor),
        String::from_utf8_lossy(&above),
        place.number.0,
        literal(&place.position.to_string()),
        after.transactions,
        literal(pipeline),
        lane.0,
        number(before.end),
        before.transactions,
    );
    sql.into_bytes()
}
