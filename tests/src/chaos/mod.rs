//! Cutovers and rollbacks of real servers under load while everything that can go wrong does:
//! `make chaos ENGINE=e RUNS=n SEED=s`.
//!
//! ```text
//! deck     all faults, dealt in the order that a seed gives
//! scene    one run: the fault is prepared, the run started, the fault done and healed
//! pair     two servers with a ledger under load, router, sidecar and its supervisor
//! judge    what is true afterwards, asked of the servers, not of the product
//! report   the table, and one JSON object
//! ```
//!
//! A fault is aimed at a *failpoint*: a named moment of the sidecar, at which it dies by itself or
//! waits until the harness has done its damage. Everything but the timing of the machine derives
//! from the seed; run `i` depends on no run before it, so `RUNS=1 AT=i` plays it again.
//!
//! The harness does nothing that a supervisor (systemd, Kubernetes) would not do: it starts again
//! what died. It never helps the product to decide; a run that needs that is not *unattended*.

mod deck;
mod fault;
mod judge;
mod links;
mod marked;
mod pair;
mod points;
pub(crate) mod random;
mod report;
mod scene;
mod server;
mod ways;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub use deck::{Cast, Deck};
pub use fault::Fault;
pub use points::FAILPOINTS;
pub use report::{Summary, Verdict};
pub use server::Engine;

use pair::Pair;
use report::Told;

/// After this many runs the servers are replaced by fresh ones.
const RUNS_PER_PAIR: u64 = 12;

/// What is run.
#[derive(Debug, Clone)]
pub struct Options {
    pub engine: Engine,
    pub seed: u64,
    pub runs: u64,
    /// Number of the first run.
    pub at: u64,
    /// Only faults whose name has this in it; then a run depends on this text, too.
    pub only: Option<String>,
    /// Begin no run after this time.
    pub within: Option<Duration>,
    /// Progress goes to standard error.
    pub is_loud: bool,
}

/// Runs them all, one after the other. An error means that the harness could not do its work; what
/// the product did wrong is in the summary.
pub async fn run(options: &Options) -> Result<Summary> {
    marked::sweep();
    let deck = Deck::new(options.engine, options.seed, options.only.as_deref())?;
    let mut summary = Summary::new(options);
    let began = Instant::now();
    let mut pair: Option<Pair> = None;
    for number in options.at..options.at + options.runs {
        if options.within.is_some_and(|within| began.elapsed() > within) {
            break;
        }
        let cast = deck.deal(number, RUNS_PER_PAIR);
        if pair.as_ref().is_some_and(|pair| !pair.fits(&cast)) {
            retire(pair.take(), &mut summary).await;
        }
        if pair.is_none() {
            match Pair::start(&cast).await {
                Ok(fresh) => pair = Some(fresh),
                Err(error) => {
                    summary.add(Told::broken(&cast, &error.context("setting the pair up")), None);
                    continue;
                }
            }
        }
        let Some(current) = pair.as_mut() else { continue };
        let told = scene::play(current, &cast).await;
        let wants_fresh = told.is_wrong() || cast.fault.breaks_the_pair();
        let kept = if told.is_wrong() { Some(current.keep_logs()) } else { None };
        let is_wrong = told.is_wrong();
        summary.add(told, kept.transpose().unwrap_or(None));
        if is_wrong {
            // What follows from a failure is no second one.
            pair = None;
        } else if wants_fresh {
            retire(pair.take(), &mut summary).await;
        }
    }
    retire(pair.take(), &mut summary).await;
    summary.took = began.elapsed();
    Ok(summary)
}

/// The last look at a pair: both sides hold the same.
async fn retire(pair: Option<Pair>, summary: &mut Summary) {
    let Some(mut pair) = pair else { return };
    if pair.is_broken {
        return;
    }
    let compared = pair.ensure_sides_equal().await.context("comparing both sides at the end");
    if let Err(error) = compared {
        let kept: Option<PathBuf> = pair.keep_logs().ok();
        summary.sides_differ(&pair, &error, kept);
    } else {
        summary.pairs_equal += 1;
    }
}
