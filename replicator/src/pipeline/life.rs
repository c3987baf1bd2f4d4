//! A pipeline's life from attempt to attempt, whatever its engine. There is one place that tries
//! again: [`live`]. Whatever fails below it ends the attempt, and the next attempt starts from what is
//! recorded.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use cutover::api::PipelinePhase;
use tokio::sync::{Notify, watch};

use super::Ended;
use super::failure::Failure;
use crate::status::Shared;

/// First and longest pause between attempts. Long outages are common (a failover, an hour of
/// maintenance), so there is no last attempt.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Pause before a stream that stands by tries again what only a person can mend.
const STANDBY_INTERVAL: Duration = Duration::from_secs(30);

/// How long a stop waits for what is under way to end in order.
const STOP_GRACE: Duration = Duration::from_millis(1500);

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

/// What is tried again.
pub(crate) trait Attempts: Send {
    /// What reaches into it.
    fn reins(&self) -> Reins;

    /// From what is recorded as far as it goes. `None`: again, at once.
    fn attempt(&mut self) -> impl Future<Output = Result<Option<Ended>, Failure>> + Send;

    /// A failure in the words of its direction.
    fn put(&self, failure: Failure) -> Failure;
}

/// Runs until stopped, cut over, or halted by something that only a person can resolve.
pub(crate) async fn live(pipeline: &mut impl Attempts) -> Result<Ended, Failure> {
    let mut reins = pipeline.reins();
    let shared = Arc::clone(&reins.shared);
    let mut delays = backoff();
    loop {
        let applied_before = shared.progress.borrow().applied();
        let mut stop = reins.stop.clone();
        let attempted = tokio::select! {
            attempted = pipeline.attempt() => attempted,
            // What is under way ends in order where it can, and is broken off where it can't: the next
            // start takes it up again.
            () = stopped_for(&mut stop, STOP_GRACE) => return Ok(Ended::Stopped),
        };
        shared.hot.send_replace(false);
        let failure = match attempted {
            Ok(Some(ended)) => return Ok(ended),
            Ok(None) => continue,
            // Whatever a stop breaks off looks like a failure.
            Err(_) if *reins.stop.borrow() => return Ok(Ended::Stopped),
            Err(failure) => pipeline.put(failure),
        };
        shared.problem(failure.problem());
        if !failure.is_transient() {
            shared.enter(reins.phase_of_failure(PipelinePhase::Halted));
            if reins.outlive_the_run().await {
                continue;
            }
            return Err(failure);
        }
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
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = reins.armed.notified() => {}
            _ = reins.stop.wait_for(|stop| *stop) => return Ok(Ended::Stopped),
        }
    }
}

impl Reins {
    /// Waits for the end of a cutover that is under way: a process that ended in the middle of it
    /// would leave blue closed. A stream that stands by waits for its turn, or for being armed anew:
    /// its failure is no reason to end, and somebody may mend it. True if it is worth another try.
    async fn outlive_the_run(&self) -> bool {
        let mut gate = self.shared.gate.watch();
        let mut finished = self.finished.clone();
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            () = turns(&mut finished) => true,
            () = self.armed.notified() => true,
            () = tokio::time::sleep(STANDBY_INTERVAL), if !*self.shared.carries.borrow() => true,
            _ = gate.wait_for(|state| state.armed.is_none()) => false,
            _ = stop.wait_for(|stop| *stop) => false,
        }
    }

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
