//! `_cutover.own_mark`: by what the transactions of a pipeline's lanes are known where they write. One row for
//! each pipeline, on the server that it applies to; only our role can read it, and who reads that
//! server's log for us does.
//!
//! # Marks of a version that had no secrets
//! Their message held the pipeline's name alone. The row says where the server's log was when the secret was
//! made, under the locks of all lanes, so no lane of that version could still commit. A name alone is
//! believed before that position and nowhere behind it.

use decoders::change::Lsn;
use decoders::postgres::state_schema;
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use super::Secret;
use crate::postgres::session::{self, may_use_origins};
use crate::postgres::target_error;
use crate::progress;
use crate::target::{LaneId, TargetError};

pub(crate) const CREATE: &str = "
CREATE TABLE IF NOT EXISTS _cutover.own_mark (
  pipeline text PRIMARY KEY,
  secret bytea NOT NULL,
  since pg_lsn NOT NULL,
  origin_since pg_lsn,
  has_written boolean NOT NULL
)";

/// By what the transactions of a pipeline's lanes are known on the server that they write to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    /// What their messages hold. None if the pipeline was never set up there.
    pub secret: Option<Secret>,
    /// A message with the name alone is believed before this position.
    pub since: Lsn,
    /// Each commit from this position on has a replication origin.
    pub origin_since: Option<Lsn>,
    /// Whether a lane was ever opened there. If not, nothing can be ours.
    pub has_written: bool,
    /// Where the server's log was before this was read: of later commits it may know nothing.
    pub as_of: Lsn,
}

impl Known {
    /// Of a pipeline that was never set up there.
    pub fn never(as_of: Lsn) -> Self {
        Self { secret: None, since: as_of, origin_since: None, has_written: false, as_of }
    }
}

const HEAD: &str = "CASE WHEN pg_catalog.pg_is_in_recovery() \
                         THEN pg_catalog.pg_last_wal_replay_lsn() \
                         ELSE pg_catalog.pg_current_wal_insert_lsn() END";

const READING: &str = "reading by what our own transactions are known";

/// Refuses a `_cutover` that is not ours alone.
///
/// # Errors
/// Halts and names what is not ours.
pub async fn refuse_strangers(client: &Client) -> Result<(), TargetError> {
    let found = state_schema::strangers(client).await;
    let found = found.map_err(|e| target_error("looking whose the schema _cutover is", &e))?;
    match state_schema::foreign(&found) {
        None => Ok(()),
        Some(what) => Err(TargetError::halt(what, state_schema::REMEDY)),
    }
}

/// What is known of a pipeline on the server that it applies to, for who reads that server's log. Makes a secret
/// where a version without them has written.
///
/// # Errors
/// The server's; halts if `_cutover` is not ours alone.
pub async fn learn(client: &Client, pipeline: &str) -> Result<Known, TargetError> {
    let fail = |e| target_error(READING, &e);
    refuse_strangers(client).await?;
    // Before the row: what commits later is not claimed to be known.
    let as_of: PgLsn = client.query_one(&format!("SELECT {HEAD}"), &[]).await.map_err(fail)?.get(0);
    let as_of = Lsn(as_of.into());
    if let Some(known) = read(client, pipeline, as_of).await? {
        return Ok(known);
    }
    if !is_registered(client, pipeline).await? {
        return Ok(Known::never(as_of));
    }
    let writable = client.batch_execute("SET default_transaction_read_only = off").await;
    writable.map_err(fail)?;
    progress::create(client).await?;
    ensure(client, pipeline, true).await?;
    read(client, pipeline, as_of).await?.ok_or_else(just_removed)
}

fn just_removed() -> TargetError {
    TargetError::retry("the mark of our own transactions was just removed")
}

/// Makes the pipeline's secret, if it has none. The tables must exist. `uses_origin`: its lanes take an origin
/// if they may.
///
/// # Errors
/// Retry while a lane's session of another life is there.
pub(crate) async fn ensure(
    client: &Client,
    pipeline: &str,
    uses_origin: bool,
) -> Result<Secret, TargetError> {
    let fail = |e| target_error("making the mark of our own transactions", &e);
    if let Some(secret) = stored_secret(client, pipeline).await? {
        return Ok(secret);
    }
    let has_origins = uses_origin && may_use_origins(client).await?;
    let lanes = taken_lanes(client, pipeline).await?;
    let sql = format!(
        "INSERT INTO _cutover.own_mark (pipeline, secret, since, origin_since, has_written)
         SELECT $1, $2, here.lsn, CASE WHEN $3 THEN here.lsn END,
                EXISTS (SELECT FROM _cutover.progress WHERE pipeline = $1)
         FROM (SELECT {HEAD} AS lsn) here ON CONFLICT (pipeline) DO NOTHING"
    );
    let made = client.execute(&sql, &[&pipeline, &Secret::random().bytes(), &has_origins]).await;
    for lane in lanes {
        session::give_back_lane(client, pipeline, lane.0).await?;
    }
    made.map_err(fail)?;
    secret(client, pipeline).await
}

/// All lanes that may have a session of an earlier life.
async fn taken_lanes(client: &Client, pipeline: &str) -> Result<Vec<LaneId>, TargetError> {
    let rows = progress::read(client, pipeline).await?;
    let lanes: Vec<_> = rows.into_iter().map(|row| row.lane).collect();
    for lane in &lanes {
        let application = progress::application_name(pipeline, *lane);
        session::take_lane(client, pipeline, lane.0, &application).await?;
    }
    Ok(lanes)
}

/// Says that a lane is about to write, and whether its commits will have an origin. Before its first.
pub(crate) async fn opens_lane(
    client: &Client,
    pipeline: &str,
    has_origin: bool,
) -> Result<(), TargetError> {
    let sql = "UPDATE _cutover.own_mark SET has_written = true,
                 origin_since = CASE WHEN $2 THEN origin_since END
               WHERE pipeline = $1 AND (NOT has_written OR NOT $2 AND origin_since IS NOT NULL)";
    let noted = client.execute(sql, &[&pipeline, &has_origin]).await;
    noted.map(drop).map_err(|e| target_error("noting that a lane opens", &e))
}

/// From now on all lanes have origins, or not: while none of them is open.
pub(crate) async fn origins_from_now(
    client: &Client,
    pipeline: &str,
    has_origins: bool,
) -> Result<(), TargetError> {
    let sql = format!(
        "UPDATE _cutover.own_mark SET origin_since = CASE WHEN $2 THEN {HEAD} END
         WHERE pipeline = $1 AND (origin_since IS NOT NULL) <> $2"
    );
    let noted = client.execute(&sql, &[&pipeline, &has_origins]).await;
    noted.map(drop).map_err(|e| target_error("noting whether lanes have origins", &e))
}

async fn read(client: &Client, pipeline: &str, as_of: Lsn) -> Result<Option<Known>, TargetError> {
    let fail = |e| target_error(READING, &e);
    if !is_there(client, "_cutover.own_mark").await? {
        return Ok(None);
    }
    let sql = "SELECT secret, since, origin_since, has_written \
               FROM _cutover.own_mark WHERE pipeline = $1";
    let Some(row) = client.query_opt(sql, &[&pipeline]).await.map_err(fail)? else {
        return Ok(None);
    };
    let lsn = |lsn: PgLsn| Lsn(lsn.into());
    Ok(Some(Known {
        secret: Some(stored(row.get(0))?),
        since: lsn(row.get(1)),
        origin_since: row.get::<_, Option<PgLsn>>(2).map(lsn),
        has_written: row.get(3),
        as_of,
    }))
}

/// The pipeline's secret, for who writes.
///
/// # Errors
/// Retry if there is none.
pub(crate) async fn secret(client: &Client, pipeline: &str) -> Result<Secret, TargetError> {
    stored_secret(client, pipeline).await?.ok_or_else(just_removed)
}

async fn stored_secret(client: &Client, pipeline: &str) -> Result<Option<Secret>, TargetError> {
    let sql = "SELECT secret FROM _cutover.own_mark WHERE pipeline = $1";
    let row = client.query_opt(sql, &[&pipeline]).await;
    let row = row.map_err(|e| target_error(READING, &e))?;
    row.map(|row| stored(row.get(0))).transpose()
}

fn stored(bytes: &[u8]) -> Result<Secret, TargetError> {
    Secret::of_bytes(bytes).ok_or_else(|| {
        TargetError::halt(
            "_cutover.own_mark holds something that is no secret of ours",
            "_cutover.own_mark was changed by hand: restore it",
        )
    })
}

/// Whether a stream of this pipeline is applied there, or was.
async fn is_registered(client: &Client, pipeline: &str) -> Result<bool, TargetError> {
    if !is_there(client, "_cutover.stream").await? {
        return Ok(false);
    }
    let sql = "SELECT EXISTS (SELECT FROM _cutover.stream WHERE pipeline = $1)";
    let row = client.query_one(sql, &[&pipeline]).await;
    Ok(row.map_err(|e| target_error(READING, &e))?.get(0))
}

async fn is_there(client: &Client, table: &str) -> Result<bool, TargetError> {
    let row = client.query_one("SELECT pg_catalog.to_regclass($1) IS NOT NULL", &[&table]).await;
    Ok(row.map_err(|e| target_error(READING, &e))?.get(0))
}
