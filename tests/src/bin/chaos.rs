//! `make chaos`: cutovers and rollbacks of real servers while everything that can go wrong does.
//!
//! Exit code 0 only if nothing was lost, nothing is there twice and every run ended as it may,
//! without help. The last line of standard output is one JSON object.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tests::chaos::{self, Engine, Options};

/// Breaks cutovers and rollbacks of real servers under load, and judges how they end.
#[derive(Debug, Parser)]
struct Arguments {
    /// `postgres`, `mariadb` or `mysql`.
    #[arg(long, default_value = "postgres", value_parser = engine)]
    engine: Engine,
    /// What everything derives from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many runs.
    #[arg(long, default_value_t = 300)]
    runs: u64,
    /// Number of the first: with `--runs 1` one run is played again.
    #[arg(long, default_value_t = 0)]
    at: u64,
    /// Only faults whose name or moment has this in it, for example `kill -9 router`.
    #[arg(long)]
    only: Option<String>,
    /// Begin no run after so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
}

fn engine(name: &str) -> Result<Engine, String> {
    let found = Engine::ALL.into_iter().find(|engine| engine.name() == name);
    found.ok_or_else(|| format!("there are {}", Engine::ALL.map(Engine::name).join(", ")))
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        engine: arguments.engine,
        seed: arguments.seed,
        runs: arguments.runs,
        at: arguments.at,
        only: arguments.only,
        within: arguments.minutes.map(|minutes| Duration::from_secs(60 * minutes)),
        is_loud: true,
    };
    let summary = match chaos::run(&options).await {
        Ok(summary) => summary,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            return ExitCode::from(2);
        }
    };
    println!("{}", summary.table());
    for wrong in summary.wrong() {
        println!("{wrong}\n");
    }
    println!("{}", summary.json());
    if summary.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
