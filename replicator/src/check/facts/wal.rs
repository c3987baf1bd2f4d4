//! How fast blue writes its log, and how well it gets rid of it.

use std::time::{Duration, Instant};

use decoders::postgres::catalog::CatalogError;
use tokio_postgres::Client;

use super::Probe;

/// The archiver (`pg_stat_archiver`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Archiver {
    /// The last attempt failed: log is kept until an attempt succeeds.
    pub failing: bool,
    /// The segment that can't be archived.
    pub segment: Option<String>,
    /// Failures so far.
    pub failures: i64,
}

/// Write-ahead log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WalFacts {
    /// Bytes written during `measured_ms`; `None` on a standby.
    pub bytes: Option<u64>,
    /// How long it was measured.
    pub measured_ms: u64,
    /// Bytes per second over the hours or days that blue has counted (PostgreSQL 14+).
    pub average: Option<u64>,
    /// The archiver.
    pub archiver: Archiver,
    /// Bytes in `pg_wal` now; `None` without the rights of `pg_monitor`.
    pub directory_bytes: Option<i64>,
}

impl WalFacts {
    /// Bytes per second: on average where blue has counted long enough, else as measured.
    pub fn rate(&self) -> Option<f64> {
        if self.average.is_some() && self.bytes.is_some() {
            return self.average.map(|average| average as f64);
        }
        let seconds = Duration::from_millis(self.measured_ms).as_secs_f64();
        let bytes = self.bytes? as f64;
        (seconds > 0.0).then(|| bytes / seconds)
    }
}

/// Takes `sample`, because it measures a rate.
pub(super) async fn read(client: &Client, sample: Duration) -> Probe<WalFacts> {
    let failed = |error| CatalogError::query("the write-ahead log's rate", error);
    let before = position(client).await.map_err(failed)?;
    let started = Instant::now();
    let archiver = client
        .query_one(
            "SELECT failed_count, last_failed_wal,
                    coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false)
                        AS failing
             FROM pg_catalog.pg_stat_archiver",
            &[],
        )
        .await
        .map_err(failed)?;
    let may_list: bool = client
        .query_one(
            "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_ls_waldir()', 'EXECUTE')",
            &[],
        )
        .await
        .map_err(failed)?
        .get(0);
    let directory_bytes = if may_list {
        let sql = "SELECT coalesce(sum(size), 0)::int8 FROM pg_catalog.pg_ls_waldir()";
        Some(client.query_one(sql, &[]).await.map_err(failed)?.get(0))
    } else {
        None
    };
    let average = average(client).await.map_err(failed)?;
    tokio::time::sleep(sample.saturating_sub(started.elapsed())).await;
    let after = position(client).await.map_err(failed)?;
    let measured_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let bytes = match (before, after) {
        (Some(before), Some(after)) => Some(u64::try_from(after - before).unwrap_or(0)),
        _ => None,
    };
    Ok(WalFacts {
        bytes,
        measured_ms,
        average,
        archiver: Archiver {
            failing: archiver.get("failing"),
            segment: archiver.get("last_failed_wal"),
            failures: archiver.get("failed_count"),
        },
        directory_bytes,
    })
}

/// What `pg_stat_wal` has counted since it was reset, if that is an hour or more.
async fn average(client: &Client) -> Result<Option<u64>, tokio_postgres::Error> {
    const THERE: &str = "SELECT pg_catalog.to_regclass('pg_catalog.pg_stat_wal') IS NOT NULL";
    const AVERAGE: &str = "
        SELECT (wal_bytes::float8 / seconds)::int8
        FROM (SELECT wal_bytes, pg_catalog.date_part('epoch', pg_catalog.now() - stats_reset) AS seconds
              FROM pg_catalog.pg_stat_wal) counted
        WHERE seconds >= 3600";
    if !client.query_one(THERE, &[]).await?.get::<_, bool>(0) {
        return Ok(None);
    }
    let average = client.query_opt(AVERAGE, &[]).await?.map(|row| row.get::<_, i64>(0));
    Ok(average.and_then(|average| u64::try_from(average).ok()))
}

/// The insert position as bytes; `None` on a standby, which writes no log of its own.
async fn position(client: &Client) -> Result<Option<i64>, tokio_postgres::Error> {
    let sql = "SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN
                   pg_catalog.pg_wal_lsn_diff(
                       pg_catalog.pg_current_wal_insert_lsn(), '0/0')::int8 END";
    Ok(client.query_one(sql, &[]).await?.get(0))
}
