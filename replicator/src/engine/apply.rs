//! The applying thread: takes all whole transactions that are waiting, up to a budget, and hands
//! them to its lane as one batch.
//!
//! A quiet stream therefore applies each transaction at once, with no delay; a backlog coalesces
//! by itself, and one commit of green carries many of blue.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use decoders::{ChangeEvent, Transaction};
use sinks::{Lane, LaneId, Target, TargetError};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::frontier::Frontier;

/// A transaction on its way to green, with its share of the memory budget. Dropping it gives the
/// share back.
pub struct Queued {
    /// The transaction.
    pub transaction: Transaction,
    /// Its bytes in the budget.
    pub permit: OwnedSemaphorePermit,
}

/// How much goes into one transaction of green.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Bytes of changes.
    pub bytes: usize,
    /// Transactions of blue.
    pub transactions: usize,
}

/// Counters of everything that green took since the process started; a part of a large transaction
/// counts when it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedTotals {
    /// Transactions of blue.
    pub transactions: u64,
    /// Transactions of green.
    pub batches: u64,
    /// Rows inserted.
    pub inserts: u64,
    /// Rows updated.
    pub updates: u64,
    /// Rows deleted.
    pub deletes: u64,
    /// TRUNCATE statements.
    pub truncates: u64,
    /// Bytes of blue's frames.
    pub bytes: u64,
}

impl AppliedTotals {
    fn add(&mut self, transactions: &[Transaction]) {
        for transaction in transactions {
            self.bytes += transaction.bytes as u64;
            for change in &transaction.changes {
                match change {
                    ChangeEvent::Insert { .. } => self.inserts += 1,
                    ChangeEvent::Update { .. } => self.updates += 1,
                    ChangeEvent::Delete { .. } => self.deletes += 1,
                    ChangeEvent::Truncate { .. } => self.truncates += 1,
                    ChangeEvent::Message { .. } => {}
                }
            }
        }
    }
}

/// What the applying thread is connected to.
pub struct Applying<T: Target> {
    /// Where to apply.
    pub target: Arc<T>,
    /// Transactions, in commit order. Closed when the stream ends.
    pub queue: Receiver<Queued>,
    /// Told after each commit.
    pub progress: Arc<watch::Sender<Frontier>>,
    /// Wakes the checkpoint thread; a full channel means that it is awake already.
    pub checkpoint: Sender<()>,
    /// Totals for status and metrics.
    pub totals: watch::Sender<AppliedTotals>,
    /// Batch limits.
    pub limits: BatchLimits,
    /// True gives up what is being applied; green rolls it back.
    pub cancel: watch::Receiver<bool>,
}

impl<T: Target> Applying<T> {
    /// Applies until the queue is closed and empty, or cancelled.
    ///
    /// Runs on a thread of its own: it blocks on the queue, and on green through `runtime`.
    ///
    /// # Errors
    /// The lane's. Nothing of the batch that failed is on green.
    pub fn run(mut self, runtime: &Handle) -> Result<(), TargetError> {
        let mut cancel = self.cancel.clone();
        let opened = runtime.block_on(async {
            tokio::select! {
                lane = self.target.open_lane(LaneId(0)) => Some(lane),
                () = cancelled(&mut cancel) => None,
            }
        });
        let Some(lane) = opened else { return Ok(()) };
        let mut lane = lane?;
        while let Ok(first) = self.queue.recv() {
            let (transactions, permits) = self.collect(first);
            let applied = runtime.block_on(async {
                tokio::select! {
                    applied = lane.apply(&transactions) => Some(applied),
                    () = cancelled(&mut cancel) => None,
                }
            });
            let Some(applied) = applied else { return Ok(()) };
            let applied = applied?;
            drop(permits);
            self.totals.send_modify(|totals| totals.add(&transactions));
            if let Some(end) = applied.end_lsn {
                let count = applied.transactions;
                self.progress.send_modify(|frontier| frontier.transactions_applied(end, count));
                self.totals.send_modify(|totals| {
                    totals.transactions += applied.transactions;
                    totals.batches += 1;
                });
                // A full channel means that the checkpoint thread has yet to look: it will see this.
                let _ = self.checkpoint.try_send(());
            }
        }
        Ok(())
    }

    /// `first` and whatever waits behind it, up to the limits.
    fn collect(&mut self, first: Queued) -> (Vec<Transaction>, Vec<OwnedSemaphorePermit>) {
        let mut bytes = first.transaction.bytes;
        let mut transactions = vec![first.transaction];
        let mut permits = vec![first.permit];
        while bytes < self.limits.bytes && transactions.len() < self.limits.transactions {
            let Ok(next) = self.queue.try_recv() else { break };
            bytes += next.transaction.bytes;
            transactions.push(next.transaction);
            permits.push(next.permit);
        }
        (transactions, permits)
    }
}

async fn cancelled(cancel: &mut watch::Receiver<bool>) {
    // A dropped sender is not a cancellation: the stream may still be ending in good order.
    if cancel.wait_for(|cancelled| *cancelled).await.is_err() {
        std::future::pending::<()>().await;
    }
}
