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
//! [`dump`] judges with pg_dump, [`facts`] with queries of its own, so that the judge shares no code
//! with the product.

mod base;
mod dump;
mod facts;
mod kinds;
mod load;
mod play;
mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::runtime::Builder;

use crate::chaos::random::Random;

pub use kinds::{Impact, Kind, all as kinds};
pub use report::{Ending, Summary};

/// What to play.
#[derive(Debug, Clone)]
pub struct Options {
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
    /// Says on standard error how each run ended.
    pub is_loud: bool,
}

/// When a change is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the sidecar begins.
    Before,
    /// While it copies.
    Copying,
    /// While it streams.
    Streaming,
    /// While it is stopped.
    Down,
}

/// One change of a run.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    pub kind: &'static Kind,
    pub moment: Moment,
}

/// One run, chosen by seed and number.
#[derive(Debug, Clone)]
pub struct Choice {
    pub number: u64,
    pub versions: (u32, u32),
    pub changes: Vec<Change>,
}

impl Choice {
    /// Every kind comes once before any comes again; a run has one to three of them.
    fn of(options: &Options, number: u64) -> Choice {
        let mut random = Random::of(options.seed, "unseen", number);
        let versions = [(13, 17), (15, 18)][random.below(2) as usize];
        let fits = |kind: &&Kind| kind.since <= versions.0;
        let pool: Vec<&Kind> = match options.only.as_deref() {
            Some("none") => Vec::new(),
            Some(part) => kinds::all().filter(|kind| kind.name.contains(part)).collect(),
            None => kinds::all().collect(),
        };
        let mut chosen: Vec<&Kind> = Vec::new();
        if !pool.is_empty() {
            let round = number / pool.len() as u64;
            let mut order: Vec<usize> = (0..pool.len()).collect();
            Random::of(options.seed, "round", round).shuffle(&mut order);
            chosen.push(pool[order[(number % pool.len() as u64) as usize]]);
            for _ in 0..random.below(3) {
                chosen.push(pool[random.below(pool.len() as u64) as usize]);
            }
        }
        let changes = chosen.into_iter().filter(fits).map(|kind| Change {
            kind,
            moment: match random.below(8) {
                0 => Moment::Before,
                1 => Moment::Copying,
                2..=5 => Moment::Streaming,
                _ => Moment::Down,
            },
        });
        let mut changes: Vec<_> = changes.collect();
        changes.sort_by_key(|change| change.moment as u8);
        Choice { number, versions, changes }
    }

    /// Whether all that it changes leaves green equal by itself.
    fn is_harmless(&self) -> bool {
        self.changes.iter().all(|change| change.kind.impact == Impact::Harmless)
    }

    fn describe(&self) -> String {
        let changes = self.changes.iter().map(|change| {
            format!("{} ({})", change.kind.name, format!("{:?}", change.moment).to_lowercase())
        });
        let changes = changes.collect::<Vec<_>>().join(", ");
        let (blue, green) = self.versions;
        let what = if changes.is_empty() { "nothing changes" } else { &changes };
        format!("run {} ({blue} -> {green}): {what}", self.number)
    }
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
        let ending = play::play(&choice).await?;
        if options.is_loud {
            eprintln!("{}: {}", choice.describe(), ending.describe());
        }
        summary.add(&choice, ending);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn options() -> Options {
        Options { seed: 1, runs: 0, at: 0, jobs: 1, only: None, is_loud: false }
    }

    #[test]
    fn kinds_have_names_of_their_own_and_are_many() {
        let names: BTreeSet<_> = kinds::all().map(|kind| kind.name).collect();
        assert_eq!(names.len(), kinds::all().count());
        assert!(names.len() >= 80, "{}", names.len());
    }

    #[test]
    fn a_run_is_the_same_each_time_and_every_kind_comes() {
        let all = kinds::all().count() as u64;
        let mut seen = BTreeSet::new();
        for number in 0..2 * all {
            let choice = Choice::of(&options(), number);
            assert_eq!(choice.describe(), Choice::of(&options(), number).describe());
            seen.extend(choice.changes.iter().map(|change| change.kind.name));
        }
        assert_eq!(seen.len() as u64, all);
    }

    #[test]
    fn runs_without_changes_can_be_asked_for() {
        let options = Options { only: Some("none".into()), ..options() };
        assert!(Choice::of(&options, 5).changes.is_empty());
    }
}
