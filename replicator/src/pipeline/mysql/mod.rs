//! From one MySQL or MariaDB server to another: a copy ([`CopyFirst`]), and the stream behind it. The
//! place where the copy ends is noted on the target with the rows.
//!
//! # Where a stream goes on
//! Three places are known: where the stream began, what the target has stored in its own transactions,
//! and the checkpoint, which may be further while nothing concerned us. The newest of them is asked
//! for; what some lane had committed beyond it is dropped when it comes. With the state directory lost
//! the first two remain, and nothing is missing or done twice.

mod comparing;
mod copying;
mod inspecting;
mod lag;
mod markers;
mod probe;
mod reading;
mod route;
mod streaming;
mod teardown;
mod writable;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cutover::Direction;
use cutover::api::PipelinePhase;
use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::ServerUrl;
use decoders::postgres::catalog::TableFilter;
use tokio::sync::{Notify, watch};

use super::failure::Failure;
use super::{Attempts, Ended, HaltConfig, Reins, Standing, ends, live};
use crate::config::ApplyConfig;
use crate::engine::stream::Outcome;
use crate::status::Shared;
use crate::store::{Role, Store};

pub use copying::CopyFirst;
pub use probe::watch_server;
pub use reading::Reading;
pub use route::BinlogRoute;
pub(crate) use route::handed;
pub use streaming::replica_id;
pub use teardown::teardown;

/// The state after a failure. Unlike a slot, a binlog does not wait for whoever reads it.
pub(crate) const STOPPED: &str = "replication stopped; blue is serving, and its binlogs go when they expire \
                                  (binlog_expire_logs_seconds)";

/// One stream of a binlog.
pub struct BinlogPipeline {
    /// The pipeline's name.
    pub name: String,
    /// The pipeline that streams the other way round: what it writes on our source is left out.
    pub counterpart: String,
    /// Where changes come from.
    pub source: ServerUrl,
    /// Where they go.
    pub target: ServerUrl,
    /// Where the copy ends. `None` takes up the stream that the target knows, or asks `copy`.
    pub start: Option<BinlogPosition>,
    /// The copy that comes before the stream; `None` behind one that was made elsewhere.
    pub copy: Option<CopyFirst>,
    /// The tables that are moved.
    pub tables: TableFilter,
    /// Only this database.
    pub database: Option<String>,
    /// How it is applied.
    pub apply: ApplyConfig,
    /// Its memory.
    pub store: Store,
    /// Its self-knowledge.
    pub shared: Arc<Shared>,
    /// What it tells others while it runs.
    pub reading: Reading,
    /// Wakes a way back that waits for being armed.
    pub armed: Arc<Notify>,
    /// The operator's stop.
    pub stop: watch::Receiver<bool>,
    /// The stream has to end for good.
    pub finished: watch::Receiver<bool>,
}

impl BinlogPipeline {
    /// Streams until stopped, cut over, or halted by something that only a person can resolve, which ends it.
    ///
    /// # Errors
    /// The failure that halted it.
    pub async fn run(&mut self) -> Result<Ended, Failure> {
        live(self, &HaltConfig::ending()).await
    }

    async fn by_stages(&mut self) -> Result<Option<Ended>, Failure> {
        if *self.stop.borrow() {
            return Ok(Some(Ended::Stopped));
        }
        if self.store.binlog_stream_has_ended()? {
            self.shared.is_over.store(true, Ordering::Relaxed);
            self.shared.enter(PipelinePhase::CutOver);
            return Ok(Some(Ended::CutOver));
        }
        // A way back begins with a run that wants one. A stream that stands by is one, whichever way it
        // goes: it never copies, its target serves.
        let is_back = self.shared.direction == Direction::Back;
        if is_back || matches!(self.store.role()?, Role::Standby { .. }) {
            // Where the copy ended is long past: from there on everything would go to a target that serves.
            self.start = None;
            if self.store.binlog_stream()?.is_none() {
                let is_over = !self.reins().wait_until_armed().await;
                return Ok(is_over.then_some(Ended::CutOver));
            }
        } else if let (None, Some(copy)) = (&self.start, &self.copy) {
            self.start = Some(copy.run(&self.shared, &self.stop).await?);
        }
        Ok(match self.stream().await? {
            // The next reader begins where the log was written by another version.
            Outcome::Handover => None,
            Outcome::Stopped if *self.stop.borrow() => Some(Ended::Stopped),
            Outcome::Stopped => None,
        })
    }
}

impl Attempts for BinlogPipeline {
    fn reins(&self) -> Reins {
        Reins {
            name: self.name.clone(),
            shared: Arc::clone(&self.shared),
            armed: Arc::clone(&self.armed),
            stop: self.stop.clone(),
            finished: self.finished.clone(),
        }
    }

    async fn attempt(&mut self) -> Result<Option<Ended>, Failure> {
        self.by_stages().await
    }

    /// A copy goes on by chunks, and a stream where green is.
    fn standing(&self) -> Standing {
        let streams = self.store.binlog_stream().is_ok_and(|stream| stream.is_some());
        let has_begun = self.start.is_some()
            || streams
            || self.shared.direction == Direction::Back
            || self.copy.as_ref().is_none_or(CopyFirst::has_begun);
        if has_begun { Standing::GoesOn } else { Standing::NotBegun }
    }

    fn put(&self, failure: Failure) -> Failure {
        let mut failure = ends::put(self.shared.direction, failure);
        failure.state.get_or_insert_with(|| STOPPED.to_owned());
        failure
    }
}
