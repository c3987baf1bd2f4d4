//! A pipeline's life from attempt to attempt, whatever its engine. There is one place that tries
//! again: [`live`]. Whatever fails below it ends the attempt, and the next attempt starts from what is
//! recorded.
//!
//! # Halts
//! What only a person can mend halts the stream, and the halt is a state: the process, its API, its alerts
//! and the guard of the source's log go on, and attempts show when the cause is gone. Each of them begins at
//! the durable position, like any other; none makes a slot, and none begins a copy again. So a halted copy
//! that could only begin again waits for somebody to say so ([`Standing`]).

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use cutover::Direction;
use cutover::api::PipelinePhase;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Ended;
use super::failure::{Failure, Resumes};
use super::patience::Patience;
use crate::status::Shared;

/// First and longest pause between attempts. Long outages are common (a failover, an hour of
/// maintenance), so there is no last attempt.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// How long a stop waits for what is under way to end in order.
const STOP_GRACE: Duration = Duration::from_millis(1500);

/// How often it is looked whether an attempt has shown that the cause of a halt is gone.
const MENDED_LOOK: Duration = Duration::from_millis(200);

/// The `[halt]` section: what happens when only a person can mend what stopped the stream.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HaltConfig {
    /// The process ends with an error instead, once the last alerts are out. The source's log is not
    /// guarded then.
    pub exit_on_halt: bool,
    /// How soon it is looked whether the cause is gone, seconds; the pauses grow from there.
    pub retry_first_s: u64,
}

impl Default for HaltConfig {
    fn default() -> Self {
        Self { exit_on_halt: false, retry_first_s: 5 }
    }
}

impl HaltConfig {
    /// Whatever halts it ends it.
    pub(crate) fn ending() -> Self {
        Self { exit_on_halt: true, ..Self::default() }
    }

    /// What is wrong, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        match self.retry_first_s {
            1..=300 => Vec::new(),
            _ => vec!["halt.retry_first_s: 1 to 300".into()],
        }
    }
}

/// What reaches into a pipeline while it lives. Cheap to clone.
#[derive(Clone)]
pub struct Reins {
    /// Its name, for messages.
    pub name: String,
    /// Its self-knowledge.
    pub shared: Arc<Shared>,
    /// Wakes a way back that waits for being armed.
    pub armed: Arc<Notify>,
    /// The operator's stop.
    pub stop: watch::Receiver<bool>,
    /// The stream has to end for good.
    pub finished: watch::Receiver<bool>,
}

/// What another attempt would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// Nothing was begun: what is in the way is told to whoever started the process, and it ends.
    NotBegun,
    /// Begin the copy again, with green's tables emptied: only when somebody asks for it.
    CopiesAgain,
    /// Go on where it stopped.
    GoesOn,
}

/// What is tried again.
pub(crate) trait Attempts: Send {
    /// What reaches into it.
    fn reins(&self) -> Reins;

    /// From what is recorded as far as it goes. `None`: again, at once.
    fn attempt(&mut self) -> impl Future<Output = Result<Option<Ended>, Failure>> + Send;

    /// What the next attempt would do, from what is recorded.
    fn standing(&self) -> Standing;

    /// Looks after its source while it is halted. Returns what that has led to.
    fn guard(&mut self) -> impl Future<Output = Failure> + Send {
        std::future::pending()
    }

    /// A failure in the words of its direction.
    fn put(&self, failure: Failure) -> Failure;
}

/// Runs until stopped or cut over, through every halt.
///
/// # Errors
/// What keeps it from beginning; and with `exit_on_halt` what only a person can resolve.
pub(crate) async fn live(
    pipeline: &mut impl Attempts,
    config: &HaltConfig,
) -> Result<Ended, Failure> {
    let reins = pipeline.reins();
    let shared = Arc::clone(&reins.shared);
    let mut delays = backoff();
    let mut patience = Patience::new(Duration::from_secs(config.retry_first_s));
    loop {
        let applied_before = shared.progress.borrow().applied();
        let mut stop = reins.stop.clone();
        shared.attempt_begins();
        let attempted = tokio::select! {
            attempted = pipeline.attempt() => attempted,
            // What is under way ends in order where it can, and is broken off where it can't: the next
            // start takes it up again.
            () = stopped_for(&mut stop, STOP_GRACE) => return Ok(Ended::Stopped),
            () = mends(&shared) => unreachable!("never returns"),
        };
        let streamed = shared.streamed();
        shared.hot.send_replace(false);
        let failure = match attempted {
            Ok(Some(ended)) => return Ok(ended),
            Ok(None) => continue,
            // Whatever a stop breaks off looks like a failure.
            Err(_) if *reins.stop.borrow() => return Ok(Ended::Stopped),
            Err(failure) => pipeline.put(failure),
        };
        if !failure.is_transient() {
            let next = patience.after(&failure.what, streamed);
            match halted(pipeline, &reins, failure, next, config.exit_on_halt).await? {
                Woken::Stopped => return Ok(Ended::Stopped),
                Woken::Asked => patience.asked(),
                Woken::ByItself => {}
            }
            continue;
        }
        shared.problem(failure.problem());
        if shared.progress.borrow().applied() > applied_before {
            delays = backoff();
        }
        let delay = delays.next().unwrap_or(BACKOFF_MAX);
        tracing::warn!(
            pipeline = reins.name,
            place = failure.place,
            error = failure.what,
            retry_ms = delay.as_millis() as u64,
            "trying again"
        );
        shared.enter(reins.phase_of_failure(PipelinePhase::Reconnecting));
        shared.wait_for(Some(failure.waiting()));
        shared.reconnecting();
        let mut stop = reins.stop.clone();
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = reins.armed.notified() => {}
            () = shared.retry.notified() => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(Ended::Stopped),
        }
    }
}

/// What ends the wait of a halted pipeline.
enum Woken {
    /// It is time to look whether the cause is gone.
    ByItself,
    /// Somebody has asked for an attempt, or its role has changed.
    Asked,
    /// The process stops.
    Stopped,
}

/// Shows the halt and waits for a reason to try again.
async fn halted(
    pipeline: &mut impl Attempts,
    reins: &Reins,
    mut failure: Failure,
    pause: Duration,
    ends: bool,
) -> Result<Woken, Failure> {
    let shared = &reins.shared;
    loop {
        let standing = pipeline.standing();
        let stands_by = !*shared.carries.borrow();
        let waits = standing == Standing::CopiesAgain || failure.resumes == Resumes::OnRequest;
        let pause = (!waits && standing != Standing::NotBegun).then_some(pause);
        let at = |pause| SignedDuration::try_from(pause).ok().map(|pause| Timestamp::now() + pause);
        let phase = reins.phase_of_failure(PipelinePhase::Halted);
        shared.halts(phase, &failure, pause.and_then(at));
        let may_end = standing == Standing::NotBegun || (ends && !stands_by);
        if !may_end {
            tracing::error!(
                pipeline = reins.name,
                place = failure.place,
                error = failure.what,
                remedy = failure.remedy,
                retry_ms = pause.map(|pause| pause.as_millis() as u64),
                "{}",
                match shared.direction {
                    Direction::Forward => "halted; it goes on by itself once the cause is gone",
                    Direction::Back => "THE WAY BACK IS BROKEN; whoever serves now goes on",
                }
            );
        }
        let mut gate = shared.gate.watch();
        let (mut stop, mut finished) = (reins.stop.clone(), reins.finished.clone());
        // A cutover that is under way puts back or finishes what it began first: an attempt, or an end of
        // the process, in the middle of it would leave blue closed for longer.
        let run_is_over = async {
            // A sender that is gone ends the pipeline by itself.
            let _ = gate.wait_for(|state| state.armed.is_none()).await;
        };
        let in_time = async {
            match pause {
                _ if may_end => run_is_over.await,
                Some(pause) => {
                    tokio::time::sleep(pause).await;
                    if !stands_by {
                        run_is_over.await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = turns(&mut finished) => return Ok(Woken::Asked),
            () = reins.armed.notified() => return Ok(Woken::Asked),
            () = shared.retry.notified() => return Ok(Woken::Asked),
            _ = stop.wait_for(|stop| *stop) => {
                return if may_end { Err(failure) } else { Ok(Woken::Stopped) };
            }
            () = in_time => return if may_end { Err(failure) } else { Ok(Woken::ByItself) },
            // What was given up is not given up again.
            guarded = pipeline.guard(), if failure.resumes == Resumes::ByItself => failure = pipeline.put(guarded),
        }
    }
}

/// Ends the halt once an attempt has shown that its cause is gone.
async fn mends(shared: &Shared) {
    loop {
        tokio::time::sleep(MENDED_LOOK).await;
        shared.end_halt_if_mended(Instant::now());
    }
}

impl Reins {
    /// What a stream that stands by fails at does not change who serves.
    fn phase_of_failure(&self, phase: PipelinePhase) -> PipelinePhase {
        if *self.shared.carries.borrow() { phase } else { PipelinePhase::CutOver }
    }

    /// False if the stream is over before it began.
    pub(super) async fn wait_until_armed(&mut self) -> bool {
        tokio::select! {
            () = self.armed.notified() => true,
            _ = self.stop.wait_for(|stop| *stop) => true,
            () = turns(&mut self.finished) => false,
        }
    }
}

/// Waits until it is true; for ever, if nobody is left who could say so.
pub(super) async fn turns(said: &mut watch::Receiver<bool>) {
    if said.wait_for(|said| *said).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Returns some time after the stop.
async fn stopped_for(stop: &mut watch::Receiver<bool>, grace: Duration) {
    // An error means that nobody is left to wait for us: the same.
    let _ = stop.wait_for(|stop| *stop).await;
    tokio::time::sleep(grace).await;
}

fn backoff() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(BACKOFF_MIN)
        .with_max_delay(BACKOFF_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}
