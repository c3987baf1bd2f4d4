//! A pair of servers that is verified.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use cutover::Side;
use cutover::verify::{Mode, TableReport, Verdict, VerifyReport, VerifyRequest};
use decoders::mysql::gtid::BinlogPosition;
use decoders::postgres::catalog::TableFilter;
use jiff::Timestamp;
use replicator::backfill::ProgressSender;
use replicator::backfill::mysql::SetUp;
use replicator::schema::SchemaMode;
use replicator::store::FinishedChunk;
use replicator::verify::Trouble;
use replicator::verify::mysql::{Held, Reached, Stream, Verification};
use tests::mysql::{Mysql, Version};
use tokio::sync::watch;

use super::servers::{schema_copy, url};

/// The moves that are tested.
pub const PAIRS: [(Version, Version); 2] =
    [(Version::Mariadb10_11, Version::Mariadb11_8), (Version::Mysql9_7, Version::Mysql9_7)];

pub const EXACT: [Mode; 2] = [Mode::Checksum, Mode::Full];

/// A stream with nothing to do: nobody writes.
pub struct Still;

pub struct StillHeld;

impl Stream for Still {
    type Held = StillHeld;

    async fn hold(&self) -> Result<StillHeld, Trouble> {
        Ok(StillHeld)
    }

    fn lag_seconds(&self) -> Option<f64> {
        Some(0.0)
    }

    fn sessions(&self) -> Vec<u32> {
        Vec::new()
    }
}

impl Held for StillHeld {
    async fn reach(&mut self, _: &BinlogPosition) -> Result<Reached, Trouble> {
        Ok(Reached::Exactly)
    }
}

/// Makes green blue's copy.
pub async fn copy(blue: &Mysql, green: &Mysql) -> Result<()> {
    let set_up = SetUp {
        schema: schema_copy(blue, green),
        mode: SchemaMode::Copy,
        workers: 2,
        chunk_bytes: 256 << 10,
        rate_limit_bytes_per_s: 0,
    };
    let (_going, cancel) = watch::channel(false);
    set_up.run(&ProgressSender::default(), &cancel).await?;
    Ok(())
}

pub fn request(mode: Mode) -> VerifyRequest {
    VerifyRequest { mode, unlimited: true, chunk_rows: Some(100), ..VerifyRequest::default() }
}

pub fn verification<S: Stream>(
    blue: &Mysql,
    green: &Mysql,
    request: VerifyRequest,
    stream: S,
) -> Verification<S> {
    Verification {
        id: "0badcafe".into(),
        started: Timestamp::now(),
        request,
        source: (Side::Blue, url(blue)),
        target: (Side::Green, url(green)),
        database: None,
        filter: TableFilter::default(),
        stream: Arc::new(stream),
        slice: Duration::from_secs(60),
        before: Vec::<FinishedChunk>::new(),
        finished: None,
        progress: watch::Sender::default(),
    }
}

pub async fn verify(blue: &Mysql, green: &Mysql, request: VerifyRequest) -> Result<VerifyReport> {
    let (_going, stop) = watch::channel(false);
    Ok(verification(blue, green, request, Still).run(stop).await?)
}

/// Fails unless nothing was found and everything compared.
pub fn is_equal(report: &VerifyReport) -> Result<()> {
    let wrong: Vec<&TableReport> = report
        .tables
        .iter()
        .filter(|table| table.differing() > 0 || table.error.is_some())
        .collect();
    ensure!(report.verdict == Verdict::Equal, "{wrong:#?} {:#?}", report.objects);
    Ok(())
}

/// What was found in a table: kind, key, columns, and how many rows on both sides.
pub fn found(report: &VerifyReport, table: &str) -> Vec<String> {
    let name = format!("`{table}`");
    let Some(table) = report.tables.iter().find(|one| one.table.ends_with(&name)) else {
        return vec![format!("there is no {table}")];
    };
    let row = |row: &cutover::verify::RowDifference| {
        let key: Vec<&str> = row.key.iter().map(|part| part.value.as_str()).collect();
        let (kind, columns) = (row.kind.name(), row.columns.join(","));
        format!("{kind} [{}] {columns} {}:{}", key.join("|"), row.on_source, row.on_target)
    };
    let mut rows: Vec<String> = table.differences.iter().map(row).collect();
    rows.extend(table.error.iter().cloned());
    rows.sort();
    rows
}
