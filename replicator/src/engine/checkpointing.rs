//! The checkpoint thread: makes green durable and writes how far it is, once for all that waited.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use decoders::Lsn;
use decoders::source::Positions;
use sinks::{Flusher, Target, TargetError};
use tokio::sync::{Notify, watch};

use super::frontier::Frontier;
use super::lanes;
use super::marker::MarkerGate;
use super::stream::StreamError;
use crate::store::{Checkpoint, Store};

/// The thread rests so long behind a write; what is applied meanwhile is covered by the next one.
/// At 500 transactions a second, a write for each took as much CPU as applying them.
const REST: Duration = Duration::from_millis(10);

/// Who calls the thread.
pub struct Calls {
    /// Something was applied.
    pub wake: Receiver<()>,
    /// Ends a rest: somebody waits.
    pub hurry: Receiver<()>,
    /// There is no rest once the marker has come: who waits for it to be durable does so within a write
    /// pause.
    pub gate: MarkerGate,
    /// True gives up a wait for green's log.
    pub cancel: watch::Receiver<bool>,
}

/// What the thread writes, and whom it tells.
pub struct Checkpoints {
    /// Where checkpoints are.
    pub store: Store,
    /// What positions are in the source's own terms, where they are others.
    pub positions: Option<Arc<dyn Positions>>,
    /// How far the stream is, and told of each checkpoint.
    pub progress: Arc<watch::Sender<Frontier>>,
    /// Told of each checkpoint too.
    pub written: Arc<Notify>,
    /// The last transaction that was in green's log before a lane was open.
    pub flushed: Lsn,
}

impl Checkpoints {
    /// Writes checkpoints until the senders of wakes are gone, or the run is cancelled.
    ///
    /// It blocks its thread: who applies is not woken by the answers of green's log.
    ///
    /// # Errors
    /// The store's (a full disk, for instance): green is not affected; blue keeps its log. Or green's.
    pub fn run<T: Target>(self, target: &T, mut calls: Calls) -> Result<(), StreamError> {
        let runtime = lanes::runtime();
        let opened = runtime.block_on(until(&mut calls.cancel, target.open_flusher()))?;
        let Some(mut flusher) = opened else { return Ok(()) };
        let mut flushed = self.flushed;
        while calls.wake.recv().is_ok() {
            let frontier = *self.progress.borrow();
            if frontier.applied() == frontier.durable() {
                continue;
            }
            // An idle source moves on without anything to flush.
            let through = frontier.applied_transaction();
            if through > flushed {
                let done = runtime.block_on(until(&mut calls.cancel, flusher.flush(through)))?;
                if done.is_none() {
                    return Ok(());
                }
                flushed = through;
            }
            self.write(&frontier)?;
            if !calls.gate.is_reached() {
                // Nobody is in a hurry, or nobody can be any more.
                let _ = calls.hurry.recv_timeout(REST);
            }
        }
        Ok(())
    }

    fn write(&self, frontier: &Frontier) -> Result<(), StreamError> {
        let own_terms = |known: &Arc<dyn Positions>| known.in_own_terms(frontier.applied());
        self.store.save_checkpoint(&Checkpoint {
            durable: frontier.applied(),
            applied_transaction: frontier.applied_transaction(),
            position: self.positions.as_ref().and_then(own_terms),
        })?;
        self.progress.send_modify(|now| now.checkpointed(frontier.applied()));
        self.written.notify_one();
        Ok(())
    }
}

/// What comes of a call to green; `None` if the run is cancelled first.
async fn until<R>(
    cancel: &mut watch::Receiver<bool>,
    call: impl Future<Output = Result<R, TargetError>>,
) -> Result<Option<R>, TargetError> {
    tokio::select! {
        done = call => done.map(Some),
        _ = cancel.wait_for(|cancelled| *cancelled) => Ok(None),
    }
}
