//! `make unseen`: blue's catalog changes in every way, and a cutover is tried.
//!
//! Exit code 0 only if no run completed on a green that differed unnamed, no process was gone, and
//! nothing was refused that had nothing to refuse. The last line of standard output is one JSON object.

use std::process::ExitCode;

use clap::Parser;
use tests::unseen::{self, Engine, Options};

/// Changes blue's catalog, rights and settings at random, tries a cutover, and judges green.
#[derive(Debug, Parser)]
struct Arguments {
    /// Whose servers: PostgreSQL 13 to 17 and 15 to 18, MariaDB 10.11 to 11.8, MySQL 9.7 to 9.7.
    #[arg(long, value_enum, default_value_t = Engine::Postgres)]
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
    /// How many run side by side.
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// Only kinds whose name has this in it; `none` plays runs without any change.
    #[arg(long)]
    only: Option<String>,
    /// One change in each run, so that none hides behind what another one has refused.
    #[arg(long)]
    alone: bool,
    /// List the kinds of changes, and stop.
    #[arg(long)]
    list: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for kind in unseen::kinds(arguments.engine) {
            println!("{:<28} {:?}", kind.name, kind.impact);
        }
        return ExitCode::SUCCESS;
    }
    let options = Options {
        engine: arguments.engine,
        seed: arguments.seed,
        runs: arguments.runs,
        at: arguments.at,
        jobs: arguments.jobs,
        only: arguments.only,
        is_alone: arguments.alone,
        is_loud: true,
    };
    let summary = match unseen::run(&options).await {
        Ok(summary) => summary,
        Err(error) => {
            eprintln!("unseen: {error:#}");
            return ExitCode::from(2);
        }
    };
    for wrong in summary.wrong() {
        println!("{wrong}\n");
    }
    println!("{}", summary.json());
    if summary.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
