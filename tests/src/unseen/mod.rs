//! `make unseen`: blue's catalog, rights and settings change in every way that anybody thought of,
//! before, during and after the copy, with the sidecar up and down, while rows are written. Then a
//! cutover is tried.
//!
//! One run is one pair of fresh servers. It may end in three ways:
//!
//! - *equal*: the cutover completed, and green is what a restore of blue's dump would be, with
//!   blue's rows, rights and settings;
//! - *told*: it completed, green differs only in objects that the plan had named, of kinds that
//!   change neither rows nor rights nor results;
//! - *refused*: it did not complete, and blue serves.
//!
//! Anything else is a defect: *silent* (green differs and nobody was told), *dead* (the sidecar's
//! process is gone) or *wrong* (the run itself ended as none may). A run that changed nothing, or
//! only what is harmless, and was refused is a *false refusal*.
//!
//! [`play`] is the run, the same for all engines. [`postgres`] and [`mysql`] have the servers, what
//! changes on them, and the judge, which asks the servers by itself and shares no code with the
//! product.

mod choice;
mod difference;
mod kinds;
mod load;
mod mysql;
mod play;
mod postgres;
mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::runtime::Builder;

pub use choice::{Change, Choice, Engine, Moment, Versions};
pub use kinds::{Impact, Kind, all as kinds};
pub use report::{Ending, Summary};

/// What to play.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose kinds of changes.
    pub engine: Engine,
    /// What every choice derives from.
    pub seed: u64,
    /// How many runs.
    pub runs: u64,
    /// Number of the first.
    pub at: u64,
    /// How many run side by side.
    pub jobs: u64,
    /// Only kinds whose name has this in it; `none` plays runs without any change.
    pub only: Option<String>,
    /// One change in each run: none hides behind what another one has refused.
    pub is_alone: bool,
    /// Says on standard error how each run ended.
    pub is_loud: bool,
}

/// Plays the runs, each job in a thread of its own: the programs under test are waited for there.
///
/// # Errors
///
/// The harness itself failed; nothing is said of the product.
pub async fn run(options: &Options) -> Result<Summary> {
    let next = Arc::new(AtomicU64::new(options.at));
    let mut jobs = Vec::new();
    for _ in 0..options.jobs.max(1) {
        let (options, next) = (options.clone(), Arc::clone(&next));
        jobs.push(tokio::task::spawn_blocking(move || {
            let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(job(&options, &next))
        }));
    }
    let mut whole = Summary::new(options.seed);
    for job in jobs {
        whole.merge(job.await??);
    }
    Ok(whole)
}

async fn job(options: &Options, next: &AtomicU64) -> Result<Summary> {
    let mut summary = Summary::new(options.seed);
    loop {
        let number = next.fetch_add(1, Ordering::SeqCst);
        if number >= options.at + options.runs {
            return Ok(summary);
        }
        let choice = Choice::of(options, number);
        let ending = match options.engine {
            Engine::Postgres => play::play::<postgres::Servers>(&choice).await?,
            Engine::Mariadb | Engine::Mysql => play::play::<mysql::Servers>(&choice).await?,
        };
        if options.is_loud {
            eprintln!("{}: {}", choice.describe(), ending.describe());
        }
        summary.add(&choice, ending);
    }
}
