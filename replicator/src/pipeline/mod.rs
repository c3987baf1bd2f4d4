//! A pipeline's life: checks, copy, stream, and what a restart makes of each.
//!
//! ```text
//!   (none) --checks--> Preparing --slot--> Copying --rows--> Finishing --indexes--> Streaming --> CutOver
//!               ^                             |
//!               +--- crash: empty green's tables, drop the slot, start over ---+
//! ```
//! A way back has no copy: it waits until a run arms it ([`arming`]), and streams. Neither direction
//! ends at a flip; what is received is applied or held as its role says ([`crate::store::Role`]).
//!
//! Each stage is recorded before its first act ([`crate::store::Stage`]), so a restart knows what
//! may be lying around and whose it is. There is one place that tries again: [`Pipeline::run`].
//! Whatever fails below it ends the attempt, and the next attempt starts from what is recorded.

mod adoption;
pub mod arming;
mod bootstrap;
mod catalog_mark;
mod copying;
mod drift;
mod ends;
pub mod failure;
mod inspecting;
pub mod mysql;
pub mod preflight;
mod published;
mod reader;
mod streaming;
pub mod teardown;
pub(crate) mod truncation;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use cutover::Direction;
use cutover::api::PipelinePhase;
use tokio::sync::{Notify, watch};

use crate::backfill::ProgressSender;
use crate::config::Config;
use crate::door::Door;
use crate::protect::wal;
use crate::status::Shared;
use crate::store::{Role, Stage, Store};
use failure::Failure;

pub use ends::Ends;
pub use reader::Choice as ReaderChoice;

/// First and longest pause between attempts. Long outages are common (a failover, an hour of
/// maintenance), so there is no last attempt.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Pause before a stream that stands by tries again what only a person can mend.
const STANDBY_INTERVAL: Duration = Duration::from_secs(30);

/// How long a stop waits for what is under way to end in order.
const STOP_GRACE: Duration = Duration::from_millis(1500);

/// One pipeline.
pub struct Pipeline {
    /// Its configuration.
    pub config: Config,
    /// From where to where.
    pub ends: Ends,
    /// Into sides that a cutover has closed.
    pub door: Door,
    /// Wakes a way back that waits for being armed.
    pub armed: Arc<Notify>,
    /// Its memory.
    pub store: Store,
    /// Its self-knowledge.
    pub shared: Arc<Shared>,
    /// How far the copy is.
    pub copied: ProgressSender,
    /// What was learned about the ways to read the slot; outlives errors.
    pub choice: ReaderChoice,
    /// The operator's stop.
    pub stop: watch::Receiver<bool>,
    /// The stream has to end for good.
    pub finished: watch::Receiver<bool>,
}

/// How a pipeline ended without an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The operator stopped it; the next start resumes.
    Stopped,
    /// For good: there is nothing left to replicate.
    CutOver,
}

impl Pipeline {
    /// Runs until stopped, cut over, or halted by something that only a person can resolve.
    ///
    /// # Errors
    /// The failure that halted it.
    pub async fn run(&mut self) -> Result<Ended, Failure> {
        let mut delays = backoff();
        loop {
            let applied_before = self.shared.progress.borrow().applied();
            let mut stop = self.stop.clone();
            let (shared, protect) = (Arc::clone(&self.shared), self.config.protect.clone());
            let attempted = tokio::select! {
                attempted = self.attempt() => Some(attempted),
                // The stream, or the copy, ends with its future.
                () = wal::watch(&shared, &protect) => None,
                // What is under way ends in order where it can, and is broken off where it can't:
                // the next start takes it up again.
                () = stopped_for(&mut stop, STOP_GRACE) => return Ok(Ended::Stopped),
            };
            let attempted = match attempted {
                Some(attempted) => attempted,
                None => Err(wal::give_up(&self.config, &self.ends.source, shared.slot()).await),
            };
            self.shared.hot.send_replace(false);
            let failure = match attempted {
                Ok(ended) => return Ok(ended),
                // Whatever a stop breaks off looks like a failure.
                Err(_) if *self.stop.borrow() => return Ok(Ended::Stopped),
                Err(failure) => self.ends.put(failure),
            };
            self.shared.problem(failure.problem());
            if !failure.is_transient() {
                self.shared.enter(self.phase_of_failure(PipelinePhase::Halted));
                if self.outlive_the_run().await {
                    continue;
                }
                return Err(failure);
            }
            if self.shared.progress.borrow().applied() > applied_before {
                delays = backoff();
            }
            let delay = delays.next().unwrap_or(BACKOFF_MAX);
            tracing::warn!(
                pipeline = self.config.name,
                place = failure.place,
                error = failure.what,
                retry_ms = delay.as_millis() as u64,
                "trying again"
            );
            self.shared.enter(self.phase_of_failure(PipelinePhase::Reconnecting));
            self.shared.wait_for(Some(failure.waiting()));
            self.shared.reconnecting();
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.armed.notified() => {}
                _ = self.stop.wait_for(|stop| *stop) => return Ok(Ended::Stopped),
            }
        }
    }

    /// Waits for the end of a cutover that is under way: a process that ended in the middle of it
    /// would leave blue closed. A stream that stands by waits for its turn, or for being armed anew:
    /// its failure is no reason to end, and somebody may mend it. True if it is worth another try.
    async fn outlive_the_run(&mut self) -> bool {
        let mut gate = self.shared.gate.watch();
        let mut finished = self.finished.clone();
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            _ = finished.wait_for(|finished| *finished) => true,
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

    fn stands_by(&self) -> Result<bool, Failure> {
        Ok(matches!(self.store.role()?, Role::Standby { .. }))
    }

    /// False if the stream is over before it began.
    async fn wait_until_armed(&mut self) -> bool {
        tokio::select! {
            () = self.armed.notified() => true,
            _ = self.stop.wait_for(|stop| *stop) => true,
            _ = self.finished.wait_for(|finished| *finished) => false,
        }
    }

    /// From the recorded stage as far as it goes.
    async fn attempt(&mut self) -> Result<Ended, Failure> {
        loop {
            if *self.stop.borrow() {
                return Ok(Ended::Stopped);
            }
            match self.store.stage()? {
                // A way back begins with a run that wants one. A stream that stands by is one,
                // whichever way it goes: it never copies, its target serves.
                None | Some(Stage::Preparing)
                    if self.ends.direction == Direction::Back || self.stands_by()? =>
                {
                    if !self.wait_until_armed().await {
                        return Ok(Ended::CutOver);
                    }
                }
                None if self.adopt().await? => {}
                None => self.first_start().await?,
                Some(Stage::Preparing) => self.copy().await?,
                Some(Stage::Copying { .. }) => {
                    tracing::warn!(
                        pipeline = self.config.name,
                        "the copy was interrupted and its snapshot is gone: starting it over"
                    );
                    self.copy().await?;
                }
                Some(Stage::Finishing { stream }) => self.finish_copy(stream).await?,
                Some(Stage::Streaming { stream }) => {
                    self.stream(stream).await?;
                    self.shared.hot.send_replace(false);
                    if !*self.finished.borrow() {
                        return Ok(Ended::Stopped);
                    }
                }
                Some(Stage::CutOver { .. }) => {
                    self.shared.is_over.store(true, Ordering::Relaxed);
                    self.shared.enter(PipelinePhase::CutOver);
                    return Ok(Ended::CutOver);
                }
            }
        }
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
