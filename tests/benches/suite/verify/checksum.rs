//! `checksum` of both sides beside what anybody would type: count and a sum of hashes, on the
//! slower of the two servers, with its own settings (so with parallel workers).

use std::time::Instant;

use anyhow::{Context, Result};
use tests::bench::options::{Options, Sides};
use tests::bench::pair::{BLUE, OURS};
use tests::bench::report::{Better, Report, Series};
use tests::postgres::{connect_url, rows};

use super::Copied;

const STATEMENT: &str = "SELECT count(*), sum(hashtextextended(t::text, 0)) FROM orders t";

pub async fn run(options: &Options) -> Result<Report> {
    let mut copied = Copied::start(options, async |_| Ok(())).await?;
    match rounds(&mut copied, options).await {
        Ok(report) => Ok(report),
        Err(error) => Err(error.context(format!("logs: {}", copied.pair.keep().display()))),
    }
}

async fn rounds(copied: &mut Copied, options: &Options) -> Result<Report> {
    let (mut ours, mut peer) = (Series::default(), Series::default());
    for round in 0..options.rounds {
        let ours_first = round % 2 == 0;
        for is_ours in [ours_first, !ours_first] {
            let skipped = if is_ours { Sides::Native } else { Sides::Ours };
            if options.sides == skipped {
                continue;
            }
            copied.pair.settle().await?;
            if is_ours {
                let seconds = copied.verify_orders("checksum").await?;
                eprintln!("  round {}: both sides verified in {seconds:.2} s", round + 1);
                ours.push(seconds);
            } else {
                peer.push(statement(copied, round).await?);
            }
        }
    }
    Ok(Report { bench: "verify_checksum", ours, peer, unit: "s", better: Better::Less })
}

/// The slower side's time in seconds.
async fn statement(copied: &Copied, round: usize) -> Result<f64> {
    let urls = [copied.pair.blue.url(BLUE), copied.pair.green.url(OURS)];
    let mut slower: f64 = 0.0;
    for (url, side) in urls.iter().zip(["blue", "green"]) {
        let client = connect_url(url).await?;
        let mut told = Vec::new();
        for workers in ["DEFAULT", "0"] {
            let set = format!("SET max_parallel_workers_per_gather = {workers}");
            client.batch_execute(&set).await?;
            let began = Instant::now();
            rows(&client, STATEMENT).await.context(side)?;
            told.push(began.elapsed().as_secs_f64());
        }
        eprintln!(
            "  round {}: the statement on {side} {:.2} s, {:.2} s without parallel workers",
            round + 1,
            told[0],
            told[1]
        );
        slower = slower.max(told[0]);
    }
    Ok(slower)
}
