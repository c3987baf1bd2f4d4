//! `full`, every value of every row, beside the package data-diff (its `hashdiff`, both key and all
//! columns, two threads), which `scripts/setup data-diff` installs.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tests::bench::options::{Options, Sides};
use tests::bench::pair::{BLUE, LONG, OURS};
use tests::bench::report::{Better, Report, Series};
use tests::paths;
use tests::process::Launch;

use super::{COLUMNS, Copied};

pub async fn run(options: &Options) -> Result<Report> {
    let mut copied = Copied::start(options, async |_| Ok(())).await?;
    match rounds(&mut copied, options).await {
        Ok(report) => Ok(report),
        Err(error) => Err(error.context(format!("logs: {}", copied.pair.keep().display()))),
    }
}

async fn rounds(copied: &mut Copied, options: &Options) -> Result<Report> {
    let program = paths::cache().join("data-diff/bin/data-diff");
    let has_peer = program.is_file();
    if !has_peer {
        eprintln!("  no {}: scripts/setup data-diff installs it", program.display());
    }
    let rows = copied.rows as f64;
    let (mut ours, mut peer) = (Series::default(), Series::default());
    for round in 0..options.rounds {
        if options.sides != Sides::Native {
            copied.pair.settle().await?;
            let rate = rows / copied.verify_orders("full").await?;
            eprintln!("  round {}: {rate:.0} rows/s", round + 1);
            ours.push(rate);
        }
        if has_peer && options.sides != Sides::Ours {
            copied.pair.settle().await?;
            let rate = rows / data_diff(copied, &program)?;
            eprintln!("  round {}: data-diff {rate:.0} rows/s", round + 1);
            peer.push(rate);
        }
    }
    Ok(Report { bench: "verify_full", ours, peer, unit: "rows/s", better: Better::More })
}

/// Seconds until it has found no difference.
fn data_diff(copied: &Copied, program: &PathBuf) -> Result<f64> {
    // It knows this scheme only, and wants a password where none is needed.
    let user = "postgresql://postgres:none@";
    let url = |url: String| url.replacen("postgres://postgres@", user, 1);
    let mut launch = Launch::new(program)
        .args([&url(copied.pair.blue.url(BLUE)), "orders"])
        .args([&url(copied.pair.green.url(OURS)), "orders"])
        .args(["--key-columns", "id", "--threads", "2", "--no-tracking"]);
    for column in COLUMNS {
        launch = launch.args(["--columns", column]);
    }
    let began = Instant::now();
    let finished = launch.run(LONG)?.success().context("data-diff")?;
    // Warnings go there, too; rows that differ begin with a sign.
    let differs = finished.stdout.lines().any(|line| line.starts_with(['-', '+']));
    ensure!(!differs, "data-diff: {}", finished.stdout);
    Ok(began.elapsed().as_secs_f64())
}
