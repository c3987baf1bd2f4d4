//! One transaction of 5 M rows while the stream runs: what the replicator holds in memory, and how
//! long after the commit green has it all. Beside it, once and only for information, PostgreSQL's
//! own subscription with and without `streaming`.

use std::time::Instant;

use anyhow::{Context, Result};
use tests::bench::options::{Options, Sides};
use tests::bench::pair::{BLUE, NATIVE, OURS, Pair};
use tests::bench::report::{Better, Report, Series};
use tests::bench::sides::{Running, Side};

const ROWS: u64 = 5_000_000;
const MIB: f64 = 1_048_576.0;

pub async fn run(options: &Options) -> Result<Report> {
    let mut pair = Pair::start(options).await?;
    match rounds(&mut pair).await {
        Ok(report) => Ok(report),
        Err(error) => Err(error.context(format!("logs: {}", pair.keep().display()))),
    }
}

async fn rounds(pair: &mut Pair) -> Result<Report> {
    let sides = pair.options().sides;
    pair.on_blue(
        "CREATE TABLE bulk (id bigint PRIMARY KEY, a int NOT NULL, b timestamptz, note text)",
    )
    .await?;
    pair.copy().await.context("the first copy")?;
    let mut ours = Series::default();
    if sides != Sides::Native {
        for _ in 0..pair.options().rounds {
            ours.push(one(pair, Side::Ours, "").await?);
        }
        pair.ensure_exact(&[OURS]).await?;
    }
    if sides != Sides::Ours {
        forget_backlog(pair).await?;
        for streaming in ["off", "on"] {
            let set = format!("ALTER SUBSCRIPTION {NATIVE} SET (streaming = {streaming})");
            pair.green.execute(NATIVE, &set).await?;
            one(pair, Side::Native, &format!(", streaming = {streaming}")).await?;
        }
        pair.ensure_exact(&[NATIVE]).await?;
    }
    let peer = Series::default();
    Ok(Report { bench: "huge_transaction", ours, peer, unit: "MiB", better: Better::Less })
}

/// The whole table anew, in one transaction. Gives the peak resident size of the first process
/// that the side tells of, MiB.
async fn one(pair: &Pair, side: Side, how: &str) -> Result<f64> {
    pair.on_blue("TRUNCATE bulk").await?;
    let mut running = Running::start(pair, side).await?;
    running.wait_applied(pair, pair.mark().await?).await?;
    let rows = pair.options().scaled(ROWS);
    let insert = format!(
        "INSERT INTO bulk SELECT n, n % 1000, now(), md5(n::text) FROM generate_series(1, {rows}) n"
    );
    let begun = Instant::now();
    pair.on_blue(&insert).await?;
    let committed = Instant::now();
    let marker = pair.mark().await?;
    let (_, applied) = running.wait_applied(pair, marker).await?;
    let peaks = running.peaks(pair).await?;
    running.stop(pair).await?;
    let shown: Vec<_> = peaks
        .iter()
        .map(|(name, bytes)| format!("{name} {:.0} MiB", *bytes as f64 / MIB))
        .collect();
    eprintln!(
        "  {:>6}{how}: {rows} rows written in {:.1} s, applied {:.1} s after the commit; peak {}",
        side.database(),
        (committed - begun).as_secs_f64(),
        applied.saturating_duration_since(committed).as_secs_f64(),
        shown.join(", "),
    );
    let (_, bytes) = peaks.first().context("no process")?;
    Ok(*bytes as f64 / MIB)
}

/// The subscription was down during all of our rounds. Working that off belongs to no figure, and
/// every round begins with an empty table: its slot goes to the end of blue's log.
async fn forget_backlog(pair: &Pair) -> Result<()> {
    let advance =
        format!("SELECT pg_replication_slot_advance('{NATIVE}', pg_current_wal_flush_lsn())");
    pair.blue.execute(BLUE, &advance).await
}
