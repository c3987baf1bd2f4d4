//! What blue's clients feel of a verification with its default limits: p99 of pgbench's TPC-B at
//! 1,000 transactions a second, without and with verifications of everything, one after the other.
//! Each of them has to find both sides equal. `BENCH_LOAD_S` is how long each half of a round is measured.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::bench::options::{Options, Sides};
use tests::bench::pair::BLUE;
use tests::bench::report::{Better, Report, Series, percentile};
use tests::pgbench::Latencies;

use super::Copied;
use crate::tpcb;

const RATE_PER_S: u32 = 1_000;
const CLIENTS: u32 = 4;
/// Of each half of a round, at full size.
const MEASURED_S: u64 = 60;
/// Not measured: caches and hint bits.
const WARM_UP: Duration = Duration::from_secs(3);

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
        Err(_) => options.scaled(MEASURED_S).max(10),
    };
    let measured = Duration::from_secs(measured);
    for round in 0..options.rounds {
        let verified_first = round % 2 == 1;
        for verifies in [verified_first, !verified_first] {
            let skipped = if verifies { Sides::Native } else { Sides::Ours };
            if options.sides == skipped {
                continue;
            }
            copied.pair.settle().await?;
            let directory = copied.pair.file(&format!("latencies-{round}-{verifies}"));
            let load =
                Latencies::start(&copied.pair.blue.url(BLUE), CLIENTS, RATE_PER_S, &directory)?;
            tokio::time::sleep(WARM_UP).await;
            let began = SystemTime::now();
            let done = match verifies {
                true => verify_for(copied, measured).await?,
                false => {
                    tokio::time::sleep(measured).await;
                    "no verification".into()
                }
            };
            let mut latencies_ms = load.stop(began)?;
            let p99 = percentile(&mut latencies_ms, 0.99).context("no transaction was measured")?;
            let p50 = percentile(&mut latencies_ms, 0.5).unwrap_or(f64::NAN);
            eprintln!(
                "  round {}: {done}: {} transactions, p50 {p50:.2} ms, p99 {p99:.2} ms",
                round + 1,
                latencies_ms.len()
            );
            if verifies { with.push(p99) } else { without.push(p99) }
        }
    }
    let (ours, peer) = (with, without);
    Ok(Report { bench: "verify_load", ours, peer, unit: "ms p99", better: Better::Less })
}

/// One verification after the other, the last one stopped when time is up. None may find a
/// difference.
async fn verify_for(copied: &mut Copied, time: Duration) -> Result<String> {
    let until = Instant::now() + time;
    let (mut whole, mut rows, mut rechecked) = (0, 0, 0);
    loop {
        let report = copied.verify_until(json!({ "fresh": true }), until).await?;
        ensure!(report["differences"] == 0, "false differences: {report:#}");
        rows += report["rows"].as_u64().unwrap_or_default();
        let tables = report["tables"].as_array().context("no tables")?;
        rechecked += tables.iter().filter_map(|one| one["rechecked"].as_u64()).sum::<u64>();
        if report["stopped"] == true {
            return Ok(format!(
                "{whole} whole verifications and a part, {rows} rows, {rechecked} looked at again"
            ));
        }
        ensure!(report["verdict"] == "equal", "{report:#}");
        whole += 1;
    }
}
