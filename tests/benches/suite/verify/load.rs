//! What blue's clients feel of a verification with its default limits: p99 of pgbench's TPC-B at
//! 1,000 transactions a second, without and with verifications of everything, one after the other.
//! Each of them has to find both sides equal. `BENCH_LOAD_S` is how long each half of a round is measured.

use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::bench::options::{Options, Sides};
use tests::bench::pair::BLUE;
use tests::bench::report::{Better, Report, Series, percentile};
use tests::pgbench::{Latencies, Latency};

use super::Copied;
use crate::tpcb;

const RATE_PER_S: u32 = 1_000;
const CLIENTS: u32 = 4;
/// Of each half of a round, at full size. What a verification learns about the clients takes some of each
/// piece.
const MEASURED_S: u64 = 120;
/// A half is measured in so many pieces, by turns with those of the other half: a disk or a neighbour
/// that is slow for a while is slow for both.
const PIECES: usize = 3;
/// How long after its beginning a verification is looked at by itself: sessions are opened then,
/// and catalogs read.
const BEGINNING: Duration = Duration::from_secs(2);
/// Not measured: caches and hint bits.
const WARM_UP: Duration = Duration::from_secs(10);

pub async fn run(options: &Options) -> Result<Report> {
    let mut copied = Copied::start(options, tpcb::prepare).await?;
    match rounds(&mut copied, options).await {
        Ok(report) => Ok(report),
        Err(error) => Err(error.context(format!("logs: {}", copied.pair.keep().display()))),
    }
}

async fn rounds(copied: &mut Copied, options: &Options) -> Result<Report> {
    let (mut with, mut without) = (Series::default(), Series::default());
    // Shorter than this no percentile is worth anything.
    let measured = match std::env::var("BENCH_LOAD_S") {
        Ok(seconds) => seconds.parse().with_context(|| format!("BENCH_LOAD_S={seconds}"))?,
        Err(_) => options.scaled(MEASURED_S).max(30),
    };
    let piece = Duration::from_secs(measured).div_f64(PIECES as f64);
    for round in 0..options.rounds {
        copied.pair.settle().await?;
        let directory = copied.pair.file(&format!("latencies-{round}"));
        let load = Latencies::start(&copied.pair.blue.url(BLUE), CLIENTS, RATE_PER_S, &directory)?;
        tokio::time::sleep(WARM_UP).await;
        let (mut quiet, mut verifying, mut done) = (Vec::new(), Vec::new(), Done::default());
        for number in 0..PIECES {
            let verified_first = (round + number) % 2 == 1;
            for verifies in [verified_first, !verified_first] {
                let skipped = if verifies { Sides::Native } else { Sides::Ours };
                if options.sides == skipped {
                    continue;
                }
                let began = SystemTime::now();
                if verifies {
                    verify_for(copied, piece, &mut done).await?;
                    verifying.push(began..SystemTime::now());
                } else {
                    tokio::time::sleep(piece).await;
                    quiet.push(began..SystemTime::now());
                }
            }
        }
        let latencies = load.stop()?;
        let round = round + 1;
        eprintln!("  round {round}: {done:?}");
        if !verifying.is_empty() {
            with.push(p99(&latencies, &verifying, "verifying")?);
            let [beginning, later] = beginnings(&verifying);
            p99(&latencies, &beginning, "  while it begins")?;
            p99(&latencies, &later, "  after that")?;
        }
        if !quiet.is_empty() {
            without.push(p99(&latencies, &quiet, "no verification")?);
        }
    }
    let (ours, peer) = (with, without);
    Ok(Report { bench: "verify_load", ours, peer, unit: "ms p99", better: Better::Less })
}

/// The beginnings of these times, and the rest of them.
fn beginnings(times: &[Range<SystemTime>]) -> [Vec<Range<SystemTime>>; 2] {
    let cut = |time: &Range<SystemTime>| (time.start + BEGINNING).min(time.end);
    [
        times.iter().map(|time| time.start..cut(time)).collect(),
        times.iter().map(|time| cut(time)..time.end).collect(),
    ]
}

fn p99(latencies: &[Latency], times: &[Range<SystemTime>], what: &str) -> Result<f64> {
    let chosen = latencies.iter().filter(|one| one.is_in(times));
    let mut latencies_ms: Vec<f64> = chosen.map(|one| one.latency_ms).collect();
    let shares = [0.5, 0.95, 0.99, 0.999];
    let told = shares.map(|share| percentile(&mut latencies_ms, share).unwrap_or(f64::NAN));
    eprintln!("    {what}: {} transactions, p50 p95 p99 p999 {told:.2?} ms", latencies_ms.len());
    percentile(&mut latencies_ms, 0.99).context("no transaction was measured")
}

/// What verifications have come to.
#[derive(Debug, Default)]
struct Done {
    whole: u32,
    rows: u64,
    /// Of the one that was stopped last.
    rows_unfinished: u64,
    rechecked: u64,
}

/// One verification after the other, the last one stopped when time is up; the next begins where it
/// stopped. None may find a difference.
async fn verify_for(copied: &mut Copied, time: Duration, done: &mut Done) -> Result<()> {
    let until = Instant::now() + time;
    loop {
        let report = copied.verify_until(json!({}), until).await?;
        ensure!(report["differences"] == 0, "false differences: {report:#}");
        let tables = report["tables"].as_array().context("no tables")?;
        let rows = report["rows"].as_u64().unwrap_or_default();
        if report["stopped"] == true {
            done.rows_unfinished = rows;
            return Ok(());
        }
        ensure!(report["verdict"] == "equal", "{report:#}");
        (done.whole, done.rows_unfinished) = (done.whole + 1, 0);
        done.rows += rows;
        done.rechecked += tables.iter().filter_map(|one| one["rechecked"].as_u64()).sum::<u64>();
    }
}
