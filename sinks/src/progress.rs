//! What green remembers of the stream: `_cutover.stream` says which stream it is, and
//! `_cutover.progress` how far each lane got, written in the same transaction as the rows.
//!
//! Progress belongs to one incarnation of a slot. A slot that was dropped and made again starts
//! elsewhere, so a stream that differs from the registered one is refused, and positions of two
//! incarnations are never combined. What the rows say is in [`crate::mark`].

use decoders::change::Lsn;
use decoders::postgres::state_schema;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use crate::mark::LaneMark;
use crate::own::keys;
use crate::postgres::session::{self, drop_origin};
use crate::postgres::target_error;
use crate::target::{LaneId, TargetError};

/// Version of the two tables.
const SCHEMA_VERSION: i32 = 2;

/// The version that knew one lane: no `floor_lsn` and no `above`, as `end_lsn` said it all.
const ONE_LANE_VERSION: i32 = 1;

/// One incarnation of a slot, under the name of a pipeline.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StreamIdentity {
    /// The operator's name for the replication.
    pub pipeline: String,
    /// `pg_control_system().system_identifier` of the source.
    pub system_identifier: String,
    /// The source's database.
    pub database: String,
    /// The slot's name.
    pub slot: String,
    /// Where the slot's stream begins: differs whenever a slot was made again.
    pub consistent_point: Lsn,
}

impl StreamIdentity {
    fn describe(&self) -> String {
        format!(
            "slot {:?} of database {:?}, system {}, from {}",
            self.slot, self.database, self.system_identifier, self.consistent_point
        )
    }
}

/// How far a lane got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LaneProgress {
    /// The lane.
    pub lane: LaneId,
    /// What its row says.
    pub mark: LaneMark,
}

// The rows are updated by every transaction: a page with room keeps those updates HOT.
const CREATE: &str = "
CREATE SCHEMA IF NOT EXISTS _cutover;
CREATE TABLE IF NOT EXISTS _cutover.stream (
  pipeline text PRIMARY KEY,
  system_identifier text NOT NULL,
  database text NOT NULL,
  slot text NOT NULL,
  consistent_point pg_lsn NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  schema_version int NOT NULL
);
CREATE TABLE IF NOT EXISTS _cutover.progress (
  pipeline text NOT NULL,
  lane int NOT NULL,
  end_lsn pg_lsn,
  commit_lsn pg_lsn,
  transactions bigint NOT NULL DEFAULT 0,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (pipeline, lane)
) WITH (fillfactor = 20);
ALTER TABLE _cutover.progress ADD COLUMN IF NOT EXISTS floor_lsn pg_lsn;
ALTER TABLE _cutover.progress ADD COLUMN IF NOT EXISTS above bytea;
";

/// Serialises those who create or remove the tables: `IF NOT EXISTS` alone is not enough when two
/// sessions create at once.
pub(crate) const LOCK: &str =
    "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('_cutover'), -1)";

const EXISTS: &str = "SELECT pg_catalog.to_regclass('_cutover.stream') IS NOT NULL \
                      AND EXISTS (SELECT FROM pg_catalog.pg_attribute
                                  WHERE attrelid = pg_catalog.to_regclass('_cutover.progress')
                                    AND attname = 'above' AND NOT attisdropped)
                      AND pg_catalog.to_regclass('_cutover.own_mark') IS NOT NULL";

/// Creates the schema and its tables where they are missing, and the columns that an earlier
/// version did not have. Needs CREATE on the database only if they are.
///
/// # Errors
/// Halts if the schema is not ours alone ([`decoders::postgres::state_schema`]).
pub async fn create(client: &Client) -> Result<(), TargetError> {
    let fail = |e| target_error("creating green's progress tables (schema _cutover)", &e);
    keys::refuse_strangers(client).await?;
    if client.query_one(EXISTS, &[]).await.map_err(fail)?.get(0) {
        return Ok(());
    }
    let sql = format!("{LOCK};{CREATE};{};{}", keys::CREATE, state_schema::REVOKE);
    in_transaction(client, &sql).await.map_err(fail)?;
    // Somebody may have been faster than we were.
    keys::refuse_strangers(client).await
}

/// Several statements, all or nothing: the simple protocol makes one transaction of them
/// (PostgreSQL manual, 55.2.2.1 Multiple Statements in a Simple Query).
async fn in_transaction(client: &Client, sql: &str) -> Result<(), tokio_postgres::Error> {
    client.batch_execute(sql).await
}

/// Registers the stream under its pipeline's name, or checks that it is the one registered.
///
/// A stream of the version with one lane is taken over: its row then says what that version meant.
///
/// # Errors
/// Halts if another stream, or another incarnation of the slot, has the name. Retry while the
/// version before still has a session on green.
pub async fn register(client: &Client, stream: &StreamIdentity) -> Result<(), TargetError> {
    let fail = |e| target_error("registering the stream on green", &e);
    let sql = "INSERT INTO _cutover.stream (pipeline, system_identifier, database, slot, \
               consistent_point, schema_version) VALUES ($1, $2, $3, $4, $5, $6) \
               ON CONFLICT (pipeline) DO NOTHING";
    let consistent_point = PgLsn::from(stream.consistent_point.0);
    client
        .execute(
            sql,
            &[
                &stream.pipeline,
                &stream.system_identifier,
                &stream.database,
                &stream.slot,
                &consistent_point,
                &SCHEMA_VERSION,
            ],
        )
        .await
        .map_err(fail)?;
    match read_stream(client, &stream.pipeline).await? {
        Some((known, ONE_LANE_VERSION)) if known == *stream => {
            upgrade(client, &stream.pipeline).await
        }
        Some((known, _)) if known == *stream => Ok(()),
        Some((known, _)) => Err(TargetError::halt(
            format!(
                "green already holds pipeline {:?} of another stream: {}; this one is {}",
                stream.pipeline,
                known.describe(),
                stream.describe()
            ),
            "If the old stream is done with, remove it (replicator teardown) and copy the database \
             again; otherwise use another pipeline name",
        )),
        None => Err(TargetError::retry("the stream's registration on green was just removed")),
    }
}

/// The stream that is registered under a pipeline's name. The tables must exist.
pub async fn registered(
    client: &Client,
    pipeline: &str,
) -> Result<Option<StreamIdentity>, TargetError> {
    Ok(read_stream(client, pipeline).await?.map(|(stream, _)| stream))
}

/// The stream and the version that wrote it.
async fn read_stream(
    client: &Client,
    pipeline: &str,
) -> Result<Option<(StreamIdentity, i32)>, TargetError> {
    let fail = |e| target_error("reading the stream registered on green", &e);
    let sql = "SELECT system_identifier, database, slot, consistent_point, schema_version \
               FROM _cutover.stream WHERE pipeline = $1";
    let Some(row) = client.query_opt(sql, &[&pipeline]).await.map_err(fail)? else {
        return Ok(None);
    };
    let version: i32 = row.get(4);
    if !(ONE_LANE_VERSION..=SCHEMA_VERSION).contains(&version) {
        return Err(TargetError::halt(
            format!(
                "green's progress tables have version {version}, this program's is {SCHEMA_VERSION}"
            ),
            "Use the version of the replicator that began this stream",
        ));
    }
    let stream = StreamIdentity {
        pipeline: pipeline.to_owned(),
        system_identifier: row.get(0),
        database: row.get(1),
        slot: row.get(2),
        consistent_point: Lsn(row.get::<_, PgLsn>(3).into()),
    };
    Ok(Some((stream, version)))
}

/// Gives the row of the version with one lane the meaning that it has now. Under the lane's lock:
/// that version's session would go on to move `end_lsn` alone.
async fn upgrade(client: &Client, pipeline: &str) -> Result<(), TargetError> {
    session::take_lane(client, pipeline, 0, &application_name(pipeline, LaneId(0))).await?;
    let sql = "WITH stream AS (
                 UPDATE _cutover.stream SET schema_version = $2
                 WHERE pipeline = $1 AND schema_version = $3 RETURNING pipeline)
               UPDATE _cutover.progress p SET floor_lsn = p.end_lsn, above = NULL
               FROM stream s WHERE p.pipeline = s.pipeline";
    let upgraded = client.execute(sql, &[&pipeline, &SCHEMA_VERSION, &ONE_LANE_VERSION]).await;
    session::give_back_lane(client, pipeline, 0).await?;
    upgraded.map(drop).map_err(|e| target_error("upgrading green's progress", &e))
}

/// Progress of all lanes of a pipeline, by lane. The tables may be of the version with one lane.
///
/// # Errors
/// Halts if a row is not one that a lane wrote.
pub async fn read(client: &Client, pipeline: &str) -> Result<Vec<LaneProgress>, TargetError> {
    // Through jsonb, as the columns may not be there yet.
    let sql = "SELECT p.lane, p.end_lsn, p.transactions,
                      CASE s.schema_version WHEN $2 THEN p.end_lsn
                           ELSE (pg_catalog.to_jsonb(p) ->> 'floor_lsn')::pg_lsn END,
                      (pg_catalog.to_jsonb(p) ->> 'above')::bytea
               FROM _cutover.progress p LEFT JOIN _cutover.stream s USING (pipeline)
               WHERE p.pipeline = $1 ORDER BY p.lane";
    let rows = client.query(sql, &[&pipeline, &ONE_LANE_VERSION]).await;
    let rows = rows.map_err(|e| target_error("reading green's progress", &e))?;
    let by_hand =
        |what: String| TargetError::halt(what, "_cutover.progress was changed by hand: restore it");
    rows.iter()
        .map(|row| {
            let lane: i32 = row.get(0);
            let number = u16::try_from(lane)
                .map_err(|_| by_hand(format!("green's progress has a lane {lane}")))?;
            let lsn = |value: Option<PgLsn>| value.map(|lsn| Lsn(lsn.into()));
            let above: Option<&[u8]> = row.get(4);
            let mark = LaneMark::stored(lsn(row.get(1)), lsn(row.get(3)), above, row.get(2));
            let mark =
                mark.map_err(|e| by_hand(format!("green's progress of lane {lane}: {e}")))?;
            Ok(LaneProgress { lane: LaneId(number), mark })
        })
        .collect()
}

/// Makes sure that a lane has its row, and reads it. After this the lane only updates.
pub async fn open_lane(
    client: &Client,
    pipeline: &str,
    lane: LaneId,
) -> Result<LaneProgress, TargetError> {
    let sql = "INSERT INTO _cutover.progress (pipeline, lane) VALUES ($1, $2) \
               ON CONFLICT (pipeline, lane) DO NOTHING";
    let number = i32::from(lane.0);
    let made = client.execute(sql, &[&pipeline, &number]).await;
    made.map_err(|e| target_error("creating the lane's progress on green", &e))?;
    let all = read(client, pipeline).await?;
    let own = all.into_iter().find(|progress| progress.lane == lane);
    own.ok_or_else(|| TargetError::retry("the lane's progress on green was just removed"))
}

/// The statement that moves a lane's progress inside its transaction. It gives a row, or none if the
/// progress is not what the lane last saw, so two writers can't both commit.
///
/// Parameters: pipeline text, lane int, then the new row's end_lsn, commit_lsn, floor_lsn, above
/// (may be NULL) and transactions bigint, then what was last seen: end_lsn (may be NULL) and
/// transactions bigint.
pub const ADVANCE: &str = "
UPDATE _cutover.progress
SET end_lsn = $3, commit_lsn = $4, floor_lsn = $5, above = $6, transactions = $7,
    updated_at = pg_catalog.clock_timestamp()
WHERE pipeline = $1 AND lane = $2 AND end_lsn IS NOT DISTINCT FROM $8 AND transactions = $9
RETURNING 1";

/// How many parameters [`ADVANCE`] has.
pub const ADVANCE_PARAMETERS: usize = 9;

/// `application_name` of a lane's session: what an earlier life of the lane is known by.
pub fn application_name(pipeline: &str, lane: LaneId) -> String {
    format!("cutover apply {pipeline} {}", lane.0)
}

/// No lane: what a repair writes beside the stream is marked under this number.
pub const REPAIR: LaneId = LaneId(u16::MAX);

/// Name of the replication origin that marks a lane's commits.
pub fn origin_name(pipeline: &str, lane: LaneId) -> String {
    match lane {
        LaneId(0) => format!("cutover_{pipeline}"),
        LaneId(lane) => format!("cutover_{pipeline}_{lane}"),
    }
}

/// Forgets how far a pipeline is, and which stream it is: for a stream that begins anew. Its
/// replication origins stay, because somebody may still have to know them in the target's log. The
/// tables must exist.
pub async fn forget(client: &Client, pipeline: &str) -> Result<(), TargetError> {
    for table in ["progress", "stream"] {
        let sql = format!("DELETE FROM _cutover.{table} WHERE pipeline = $1");
        let forgotten = client.execute(&sql, &[&pipeline]).await;
        forgotten.map_err(|e| target_error("forgetting an earlier stream on green", &e))?;
    }
    Ok(())
}

/// Forgets a pipeline: its progress, its replication origins, and with the last pipeline the schema.
///
/// # Errors
/// Retry while a lane's session still uses the origin.
pub async fn remove(client: &Client, pipeline: &str) -> Result<(), TargetError> {
    let fail = |e| target_error("removing the stream from green", &e);
    let schema = "SELECT pg_catalog.to_regnamespace('_cutover') IS NOT NULL";
    if !client.query_one(schema, &[]).await.map_err(fail)?.get::<_, bool>(0) {
        return drop_origin(client, &origin_name(pipeline, LaneId(0))).await;
    }
    create(client).await?;
    let mut lanes = vec![LaneId(0)];
    lanes.extend(read(client, pipeline).await?.into_iter().map(|progress| progress.lane));
    lanes.dedup();
    lanes.push(REPAIR);
    for lane in lanes {
        drop_origin(client, &origin_name(pipeline, lane)).await?;
    }
    crate::catalog_record::remove(client, pipeline).await?;
    for table in ["progress", "stream", "own_mark"] {
        let sql = format!("DELETE FROM _cutover.{table} WHERE pipeline = $1");
        client.execute(&sql, &[&pipeline]).await.map_err(fail)?;
    }
    let drop_if_unused = format!(
        "{LOCK};
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM _cutover.stream) THEN
    DROP TABLE _cutover.progress, _cutover.stream, _cutover.own_mark;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_class
                   WHERE relnamespace = '_cutover'::pg_catalog.regnamespace) THEN
      DROP SCHEMA _cutover;
    END IF;
  END IF;
END $$"
    );
    in_transaction(client, &drop_if_unused).await.map_err(fail)
}
