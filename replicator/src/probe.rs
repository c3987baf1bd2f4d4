//! The sidecar's eyes: sessions of their own on blue and green that only look.
//!
//! They are apart from the stream so that a stuck stream can't blind them, and so that a blind
//! probe can't look like an idle database: what is not sampled is not known.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cutover::Side;
use cutover::lag::{SAMPLE_INTERVAL, normalized_head};
use decoders::Lsn;
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{self, Session};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_postgres::Statement;
use tokio_postgres::types::PgLsn;

use crate::door::Door;
use crate::protect::wal::WalStatus;
use crate::status::{Shared, SlotReading};

/// How long an answer may take before the sample counts as failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between attempts to connect.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);
const STANDBY_INTERVAL: Duration = Duration::from_secs(10);
/// How often slot, oldest writer and green are looked at: each costs a catalog query.
const SLOW_INTERVAL: Duration = Duration::from_secs(1);

/// Samples the source's head until the stream has ended for good.
///
/// The insert position, not the write position: with `synchronous_commit = off` blue has
/// acknowledged commits that are not written yet.
pub async fn watch_head(shared: Arc<Shared>, blue: ConnInfo, door: Door) {
    while !is_over(&shared) {
        let session = match connect(&blue, &door, shared.direction.from()).await {
            Ok(session) => session,
            Err(reason) => {
                shared.blue_seen(None, false);
                shared.head_unknown(&reason);
                sleep(reconnect_interval(&shared)).await;
                continue;
            }
        };
        let reason = sample_heads(&shared, &session).await;
        shared.blue_seen(None, false);
        shared.head_unknown(&reason);
    }
}

const HEAD: &str = "SELECT pg_catalog.pg_current_wal_insert_lsn()";

/// Version, and the size of a log segment in bytes.
async fn settings(session: &Session) -> Result<(String, u64), String> {
    let sql = "SELECT pg_catalog.current_setting('server_version'), \
               (SELECT setting::bigint * CASE unit WHEN '8kB' THEN 8192 ELSE 1 END \
                FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size')";
    let row = answer(session.query_one(sql, &[])).await?;
    Ok((row.get(0), row.get::<_, i64>(1) as u64))
}

/// Blue's head, as keepalives report it, once.
pub async fn head(session: &Session) -> Result<Lsn, String> {
    let (_, segment_bytes) = settings(session).await?;
    let row = answer(session.query_one(HEAD, &[])).await?;
    Ok(normalized_head(Lsn(row.get::<_, PgLsn>(0).into()), segment_bytes))
}

/// Samples until something fails; gives back what.
async fn sample_heads(shared: &Shared, session: &Session) -> String {
    let segment_bytes = match settings(session).await {
        Ok((version, segment_bytes)) => {
            shared.blue_seen(Some(&version), true);
            segment_bytes
        }
        Err(reason) => return reason,
    };
    let statement = match answer(session.prepare(HEAD)).await {
        Ok(statement) => statement,
        Err(reason) => return reason,
    };
    let mut tick = interval(SAMPLE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let asked_at = Instant::now();
        match answer(session.query_one(&statement, &[])).await {
            Ok(row) => {
                let head = Lsn(row.get::<_, PgLsn>(0).into());
                shared.head_sampled(asked_at, normalized_head(head, segment_bytes));
            }
            Err(reason) => return reason,
        }
    }
}

/// Looks at the slot and at the oldest writer on the source until the stream has ended for good.
pub async fn watch_slot(shared: Arc<Shared>, blue: ConnInfo, door: Door, slot: String) {
    while !is_over(&shared) {
        if let Ok(session) = connect(&blue, &door, shared.direction.from()).await
            && let Ok(statement) = prepare_slot(&session).await
        {
            let mut tick = interval(SLOW_INTERVAL);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let Ok(reading) = read_slot(&session, &statement, &slot).await else { break };
                shared.slot_seen(reading);
            }
        }
        shared.slot_seen(SlotReading::default());
        sleep(reconnect_interval(&shared)).await;
    }
}

/// Prepared: planning costs blue more than running it.
async fn prepare_slot(session: &Session) -> Result<Statement, String> {
    // max_slot_wal_keep_size and wal_status came with version 13; -1 is no limit. Not from
    // pg_settings, which makes every setting's row for each of them.
    // The insert position: what was written with synchronous_commit = off has to be kept as well.
    let wal_status = if session.server_version() >= 130_000 { "wal_status" } else { "NULL::text" };
    let sql = format!(
        "SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), s.restart_lsn)::bigint, \
                COALESCE(s.active, false), \
                pg_catalog.pg_size_bytes( \
                  pg_catalog.current_setting('max_slot_wal_keep_size', true)), \
                (SELECT EXTRACT(EPOCH FROM pg_catalog.max(pg_catalog.clock_timestamp() - xact_start))::float8 \
                 FROM pg_catalog.pg_stat_activity \
                 WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()), \
                {wal_status}, \
                pg_catalog.pg_size_bytes(pg_catalog.current_setting('max_wal_size')) \
         FROM (SELECT 1) AS one LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = $1"
    );
    answer(session.prepare(&sql)).await
}

async fn read_slot(
    session: &Session,
    statement: &Statement,
    slot: &str,
) -> Result<SlotReading, String> {
    let row = answer(session.query_one(statement, &[&slot])).await?;
    let limit_bytes: Option<i64> = row.get(2);
    let max_wal_size_bytes: Option<i64> = row.get(5);
    Ok(SlotReading {
        retained_bytes: row.get::<_, Option<i64>>(0).map(|bytes| bytes.max(0) as u64),
        retained_bytes_max: limit_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
        wal_status: WalStatus::parse(row.get(4)),
        max_wal_size_bytes: max_wal_size_bytes.unwrap_or(0).max(0) as u64,
        active: row.get(1),
        oldest_write_transaction_seconds: Some(row.get::<_, Option<f64>>(3).unwrap_or(0.0)),
    })
}

/// Sees whether the target answers, for as long as it is polled.
pub async fn watch_green(shared: Arc<Shared>, green: ConnInfo, door: Door) {
    loop {
        let sql = "SELECT pg_catalog.current_setting('server_version')";
        if let Ok(session) = connect(&green, &door, shared.direction.to()).await
            && let Ok(statement) = answer(session.prepare(sql)).await
        {
            let mut tick = interval(SLOW_INTERVAL);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let Ok(row) = answer(session.query_one(&statement, &[])).await else { break };
                shared.green_seen(Some(row.get::<_, &str>(0)), true);
            }
        }
        shared.green_seen(None, false);
        sleep(reconnect_interval(&shared)).await;
    }
}

/// Whether the stream has ended for good: its source is sealed then, and knocking at it every second
/// only fills its log.
fn is_over(shared: &Shared) -> bool {
    shared.is_over.load(Ordering::Relaxed)
}

/// The source of a stream that stands by is closed, and each try opens its door.
fn reconnect_interval(shared: &Shared) -> Duration {
    if *shared.carries.borrow() { RECONNECT_INTERVAL } else { STANDBY_INTERVAL }
}

async fn connect(info: &ConnInfo, door: &Door, side: Side) -> Result<Session, String> {
    let _guard = door.enter(side).await.map_err(|error| error.what)?;
    session::connect(info, "cutover probe").await.map_err(|error| error.to_string())
}

/// An answer in time, or why there is none.
async fn answer<T>(
    asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, String> {
    match timeout(ANSWER_TIMEOUT, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(session::describe(&error)),
        Err(_) => Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
    }
}
