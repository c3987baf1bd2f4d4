//! From one MySQL or MariaDB server to another: a copy ([`CopyFirst`]), and the stream behind it. The
//! place where the copy ends is noted on the target with the rows.
//!
//! # Where a stream goes on
//! Three places are known: where the stream began, what the target has stored in its own transactions,
//! and the checkpoint, which may be further while nothing concerned us. The newest of them is asked
//! for; what some lane had committed beyond it is dropped when it comes. With the state directory lost
//! the first two remain, and nothing is missing or done twice.

mod copying;
mod lag;
mod markers;
mod probe;
mod reading;
mod streaming;
mod teardown;

use std::sync::Arc;

use cutover::api::PipelinePhase;
use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::ServerUrl;
use decoders::postgres::catalog::TableFilter;
use tokio::sync::watch;

use super::failure::Failure;
use super::{BACKOFF_MAX, STOP_GRACE, backoff, stopped_for};
use crate::config::ApplyConfig;
use crate::engine::stream::Outcome;
use crate::status::Shared;
use crate::store::Store;

pub use copying::CopyFirst;
pub use probe::watch_server;
pub use reading::Reading;
pub use streaming::replica_id;
pub use teardown::teardown;

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
    /// The operator's stop.
    pub stop: watch::Receiver<bool>,
}

impl BinlogPipeline {
    /// Streams until stopped, or halted by something that only a person can resolve.
    ///
    /// # Errors
    /// The failure that halted it.
    pub async fn run(&mut self) -> Result<(), Failure> {
        let mut delays = backoff();
        loop {
            let applied_before = self.shared.progress.borrow().applied();
            let mut stop = self.stop.clone();
            let attempted = tokio::select! {
                attempted = self.attempt() => attempted,
                // What is under way ends in order where it can, and is broken off where it can't.
                () = stopped_for(&mut stop, STOP_GRACE) => return Ok(()),
            };
            self.shared.hot.send_replace(false);
            let failure = match attempted {
                Ok(Outcome::Stopped) => return Ok(()),
                // The next reader begins where the log was written by another version.
                Ok(Outcome::Handover) => continue,
                // Whatever a stop breaks off looks like a failure.
                Err(_) if *self.stop.borrow() => return Ok(()),
                Err(failure) => failure,
            };
            self.shared.problem(failure.problem());
            if !failure.is_transient() {
                self.shared.enter(PipelinePhase::Halted);
                return Err(failure);
            }
            if self.shared.progress.borrow().applied() > applied_before {
                delays = backoff();
            }
            let delay = delays.next().unwrap_or(BACKOFF_MAX);
            tracing::warn!(
                pipeline = self.name,
                place = failure.place,
                error = failure.what,
                retry_ms = delay.as_millis() as u64,
                "trying again"
            );
            self.shared.enter(PipelinePhase::Reconnecting);
            self.shared.wait_for(Some(failure.waiting()));
            self.shared.reconnecting();
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = self.stop.wait_for(|stop| *stop) => return Ok(()),
            }
        }
    }

    async fn attempt(&mut self) -> Result<Outcome, Failure> {
        if let (None, Some(copy)) = (&self.start, &self.copy) {
            self.start = Some(copy.run(&self.shared, &self.stop).await?);
        }
        self.stream().await
    }
}
