//! `make bench NAME=<name>`: the replicator beside PostgreSQL's own subscription, beside replicas of MySQL
//! and MariaDB and beside the tools that copy a database, on real servers. Each bench ends with a line of JSON on standard
//! output; everything else goes to standard error.

mod backfill;
mod backfill_mariadb;
mod cutover_pause;
mod definitions;
mod huge_transaction;
mod insert;
mod latency;
mod proxy;
mod tpcb;
mod update;
mod verify;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Parser;
use tests::bench::catchup;
use tests::bench::mysql;
use tests::bench::options::{Options, Sides};
use tests::bench::report::{Better, Report, Series};

const NAMES: [&str; 16] = [
    "catchup_tpcb",
    "cpu",
    "catchup_insert",
    "catchup_update",
    "catchup_mariadb",
    "catchup_mysql",
    "backfill",
    "backfill_mariadb",
    "latency",
    "huge_transaction",
    "cutover_pause",
    "definitions",
    "proxy",
    "verify_checksum",
    "verify_full",
    "verify_load",
];

/// The replicator beside its peers.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which benches; all without a name.
    names: Vec<String>,
    /// `cargo bench` gives this to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run_all(&arguments.names).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run_all(names: &[String]) -> Result<()> {
    if let Some(unknown) = names.iter().find(|name| !NAMES.contains(&name.as_str())) {
        bail!("no bench {unknown}; there are: {}", NAMES.join(", "));
    }
    let options = Options::from_env()?;
    for name in NAMES {
        let wanted = names.is_empty() || names.iter().any(|wanted| wanted == name);
        // One run gives both.
        let told_before = name == "cpu"
            && (names.is_empty() || names.iter().any(|wanted| wanted == "catchup_tpcb"));
        if wanted && !told_before {
            eprintln!("{name}");
            let start = Instant::now();
            let reports = run(name, &options).await?;
            eprintln!("  {:.0} s in all", start.elapsed().as_secs_f64());
            reports.iter().filter(|report| asked_for(names, report)).for_each(Report::print);
        }
    }
    Ok(())
}

fn asked_for(names: &[String], report: &Report) -> bool {
    names.is_empty() || names.iter().any(|name| name == report.bench)
}

async fn run(name: &str, options: &Options) -> Result<Vec<Report>> {
    Ok(match name {
        "catchup_tpcb" => {
            let found = catchup::run(options, &tpcb::Tpcb).await?;
            vec![cpu(found.cpu.clone()), rate("catchup_tpcb", "transactions/s", found)]
        }
        "cpu" => {
            let options = Options { sides: Sides::Ours, ..options.clone() };
            vec![cpu(catchup::run(&options, &tpcb::Tpcb).await?.cpu)]
        }
        "catchup_insert" => {
            // New rows seldom meet each other: what `apply.lanes` is for. One core of green is the
            // limit otherwise.
            let options = options.or_config("[apply]\nlanes = 2\n");
            vec![rate("catchup_insert", "rows/s", catchup::run(&options, &insert::Insert).await?)]
        }
        "catchup_update" => {
            vec![rate("catchup_update", "rows/s", catchup::run(options, &update::Update).await?)]
        }
        "catchup_mariadb" => {
            let found = mysql::catchup(options, mysql::MARIADB).await?;
            vec![rate("catchup_mariadb", "transactions/s", found)]
        }
        "catchup_mysql" => {
            let found = mysql::catchup(options, mysql::MYSQL).await?;
            vec![rate("catchup_mysql", "transactions/s", found)]
        }
        "backfill" => vec![backfill::run(options).await?],
        "backfill_mariadb" => vec![backfill_mariadb::run(options).await?],
        "latency" => vec![latency::run(options).await?],
        "huge_transaction" => vec![huge_transaction::run(options).await?],
        "cutover_pause" => {
            cutover_pause::run(options).await?;
            Vec::new()
        }
        "definitions" => {
            definitions::run(options).await?;
            Vec::new()
        }
        "proxy" => {
            proxy::run(options).await?;
            Vec::new()
        }
        "verify_checksum" => vec![verify::checksum::run(options).await?],
        "verify_full" => vec![verify::full::run(options).await?],
        "verify_load" => vec![verify::load::run(options).await?],
        _ => bail!("no bench {name}"),
    })
}

fn rate(bench: &'static str, unit: &'static str, found: catchup::Outcome) -> Report {
    Report { bench, ours: found.ours, peer: found.native, unit, better: Better::More }
}

fn cpu(ours: Series) -> Report {
    Report {
        bench: "cpu",
        ours,
        peer: Series::default(),
        unit: "CPU s / 1 M row changes",
        better: Better::Less,
    }
}
