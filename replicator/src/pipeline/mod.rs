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
//! may be lying around and whose it is. What fails is tried again by [`life`].

mod adoption;
pub mod arming;
mod bootstrap;
mod catalog_mark;
mod constraints;
mod copying;
mod drift;
mod ends;
pub mod failure;
pub(crate) mod firing;
mod inspecting;
pub mod life;
mod matviews;
pub mod mysql;
mod patience;
pub mod preflight;
mod published;
mod reader;
mod record;
pub mod route;
mod slot_route;
mod streaming;
pub mod teardown;
pub(crate) mod truncation;
mod unneeded;

use std::sync::Arc;
use std::sync::atomic::Ordering;

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
use firing::Switching;

pub use ends::Ends;
pub(crate) use ends::words;
pub use firing::{Firing, TriggersAlone, keep as keep_triggers};
pub(crate) use life::{Attempts, Standing, live};
pub use life::{HaltConfig, Reins};
pub use reader::Choice as ReaderChoice;

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
    /// What is known of triggers on both sides.
    pub firing: Arc<Firing>,
    /// Its memory.
    pub store: Store,
    /// Its self-knowledge.
    pub shared: Arc<Shared>,
    /// How far the copy is.
    pub copied: ProgressSender,
    /// What was learned about the ways to read the slot; outlives errors.
    pub choice: ReaderChoice,
    /// How much of the source's log was last said to be kept.
    pub log_told: wal::Level,
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
    fn stands_by(&self) -> Result<bool, Failure> {
        Ok(matches!(self.store.role()?, Role::Standby { .. }))
    }

    fn switching(&self) -> Switching<'_> {
        let Self { config, ends, door, firing, store, .. } = self;
        Switching { config, ends, door, firing, store }
    }

    /// From the recorded stage as far as it goes.
    async fn by_stages(&mut self) -> Result<Ended, Failure> {
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
                    if !self.reins().wait_until_armed().await {
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
                    self.shared.copy_begins_again();
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

impl Attempts for Pipeline {
    fn reins(&self) -> Reins {
        Reins {
            name: self.config.name.clone(),
            shared: Arc::clone(&self.shared),
            armed: Arc::clone(&self.armed),
            stop: self.stop.clone(),
            finished: self.finished.clone(),
        }
    }

    async fn attempt(&mut self) -> Result<Option<Ended>, Failure> {
        let (shared, protect) = (Arc::clone(&self.shared), self.config.protect.clone());
        let mut told = self.log_told;
        let attempted = tokio::select! {
            attempted = self.by_stages() => Some(attempted),
            // The stream, or the copy, ends soon after its future: see `on_own_thread`.
            () = wal::watch(&shared, &protect, &mut told) => None,
        };
        self.log_told = told;
        match attempted {
            Some(attempted) => attempted.map(Some),
            None => Err(wal::give_up(&self.config, &self.ends.source, shared.slot()).await),
        }
    }

    fn standing(&self) -> Standing {
        let is_back = self.ends.direction == Direction::Back;
        match self.store.stage() {
            Ok(None) if !is_back && self.stands_by().is_ok_and(|stands_by| !stands_by) => {
                Standing::NotBegun
            }
            // Its snapshot is gone.
            Ok(Some(Stage::Copying { .. })) => Standing::CopiesAgain,
            // Nothing was copied yet, or nothing is copied any more. A memory that can't be read is looked
            // at again.
            _ => Standing::GoesOn,
        }
    }

    async fn guard(&mut self) -> Failure {
        wal::watch(&self.shared, &self.config.protect, &mut self.log_told).await;
        wal::give_up(&self.config, &self.ends.source, self.shared.slot()).await
    }

    fn put(&self, failure: Failure) -> Failure {
        self.ends.put(failure)
    }
}
