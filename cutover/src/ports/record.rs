//! The decision, and the journal of all runs.

use super::{Epoch, PortResult};
use crate::api::Act;
use crate::phase::{Phase, Verdict};
use crate::side::Direction;
use decoders::Lsn;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::future::Future;
use tokio::time::Instant;

/// The verdict row on the side that is to open: `_cutover.decision(epoch primary key, verdict)`. The primary key
/// makes the first insert win, whoever makes it.
pub trait Decision: Send + Sync {
    /// Creates the table if need be; checks that a row could be inserted. Before the drain: it says through
    /// which session a commit may come.
    fn prepare(&self) -> impl Future<Output = PortResult<()>> + Send;

    /// The highest epoch that has a row. No table: 0. Anybody may ask while a run decides.
    fn last_epoch(&self) -> impl Future<Output = PortResult<Epoch>> + Send;

    /// Inserts a commit unless the epoch has a verdict, and reads back which one it has, committed and
    /// flushed. `in_doubt` errors mean that nobody knows; after any other nothing is decided.
    ///
    /// Refused if the session of [`Decision::prepare`] was lost, if the lease was, and where no lane of the
    /// stream has come to `marker`.
    fn commit(
        &self,
        epoch: Epoch,
        marker: Lsn,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Verdict>> + Send;

    /// The same with an abort, which nothing refuses.
    fn abort(
        &self,
        epoch: Epoch,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Verdict>> + Send;

    /// The epoch's verdict.
    fn read(
        &self,
        epoch: Epoch,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Option<Verdict>>> + Send;

    /// The statements.
    fn describe(&self, epoch: Epoch) -> Vec<Act>;
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number: one more than the line before it.
    pub seq: u64,
    /// The run's id.
    pub run: String,
    /// The run's epoch.
    pub epoch: Epoch,
    /// When, by the sidecar's wall clock.
    pub at: Timestamp,
    /// What.
    pub record: Record,
}

/// What a line of the journal says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// A run began: the request, who and why.
    Began {
        /// The request.
        request: serde_json::Value,
        /// From which side to which.
        #[serde(default)]
        direction: Direction,
    },
    /// A phase was reached, and an act is about to be done. Written, synced, before the act; one
    /// record says both so that the pause has one disk flush for each step.
    Reached {
        /// Which phase, proven.
        phase: Phase,
        /// What was seen.
        seen: String,
        /// The act that comes next: the name of an effect. `None`: no more.
        next: Option<String>,
        /// What undoing or finishing that act needs.
        detail: serde_json::Value,
    },
    /// An act failed, or something else stopped the run.
    Stopped {
        /// Why.
        why: crate::phase::Stop,
    },
    /// `finish` has come to a step, which comes next. Everything before it is done.
    Finishing {
        /// Which.
        step: String,
        /// Who asked for it.
        actor: Option<String>,
    },
    /// The run is over.
    Ended {
        /// The report.
        report: Box<crate::api::RunReport>,
    },
}

/// The append-only log of all runs.
pub trait Journal: Send + Sync {
    /// Appends. Returns when the entry survives a power cut; an error means that it may or may
    /// not be there.
    fn append(&self, entry: &Entry) -> impl Future<Output = PortResult<()>> + Send;

    /// Every entry, oldest first. An entry that can't be read is an error, never skipped.
    fn read_all(&self) -> impl Future<Output = PortResult<Vec<Entry>>> + Send;
}
