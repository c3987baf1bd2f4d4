//! The intake: takes transactions from the source, counts their bytes against the budget, and
//! hands them to the applying thread.
//!
//! Its one `select!` has these priorities:
//! 1. the operator's stop;
//! 2. the end of the applying or checkpointing side, which is always an error here;
//! 3. what became durable, told to the source at once, so that blue can forget;
//! 4. the marker gate's release of what was held;
//! 5. room in the budget for the transaction in hand; meanwhile the source is kept alive, so a slow
//!    green never makes blue drop the connection;
//! 6. the next event.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use decoders::{Lsn, Position, Source, SourceError, SourceEvent, Transaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::apply::Queued;
use super::frontier::Frontier;
use super::marker::{Admission, MarkerGate};
use super::truncation::Truncations;

/// The unit of the budget's permits. A semaphore counts in 32 bits; bytes would overflow it.
const PERMIT_BYTES: usize = 1024;

/// How often an idle position is written to the checkpoint and told to blue. Each costs a synced
/// write here and dirties the slot there.
const IDLE_CHECKPOINT_INTERVAL: Duration = Duration::from_millis(500);

/// What is held behind a marker may take this share of the budget, on top of it.
const HELD_SHARE: usize = 4;

/// Why the intake ended without an error of the source.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The operator asked for it.
    Stopped,
    /// The applying or checkpointing thread is gone; its own result says why.
    Downstream,
}

/// What the intake is connected to.
pub struct Intake<'a, S: Source> {
    /// Where transactions come from.
    pub source: &'a mut S,
    /// Where the stream resumes: what ends at or before it is on green already.
    pub resume: Lsn,
    /// To the applying thread.
    pub queue: Sender<Queued>,
    /// Wakes the checkpoint thread.
    pub checkpoint: Sender<()>,
    /// The stream's positions.
    pub progress: Arc<watch::Sender<Frontier>>,
    /// What a blue before PostgreSQL 11 says of TRUNCATE.
    pub truncations: Truncations,
    /// Markers.
    pub gate: MarkerGate,
    /// Bytes that may be in memory.
    pub budget: Budget,
}

/// A count of bytes in memory, shared by everything between source and green.
#[derive(Clone)]
pub struct Budget {
    permits: Arc<Semaphore>,
    total: usize,
}

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        let total = (bytes / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self { permits: Arc::new(Semaphore::new(total)), total }
    }

    /// All of it.
    fn bytes(&self) -> usize {
        self.total * PERMIT_BYTES
    }

    /// Bytes in use.
    pub fn used_bytes(&self) -> usize {
        (self.total - self.permits.available_permits().min(self.total)) * PERMIT_BYTES
    }

    /// Waits for room. One transaction larger than everything gets everything.
    async fn acquire(&self, bytes: usize) -> OwnedSemaphorePermit {
        let permits = bytes.div_ceil(PERMIT_BYTES).clamp(1, self.total) as u32;
        let acquired = Arc::clone(&self.permits).acquire_many_owned(permits).await;
        acquired.expect("the budget's semaphore is never closed")
    }
}

impl<S: Source> Intake<'_, S> {
    /// Takes events until stopped, or until something fails.
    ///
    /// # Errors
    /// The source's.
    pub async fn run(
        mut self,
        stop: &mut watch::Receiver<bool>,
        downstream_ended: &mut watch::Receiver<bool>,
    ) -> Result<Ended, SourceError> {
        let mut progress = self.progress.subscribe();
        let mut gate = self.gate.watch();
        let mut in_hand: Option<Transaction> = None;
        let mut held = Held::default();
        // When the idle position is to be checkpointed. Always set when there is one that is not,
        // or the last one before blue shuts down would never be told, and blue waits for that.
        let mut idle_checkpoint_at: Option<Instant> = None;
        loop {
            // Also while another marker is awaited already: nothing may overtake what was held, and
            // nothing is read while a transaction is in hand.
            if in_hand.is_none() && !held.is_empty() && gate.borrow().seen_at.is_none() {
                in_hand = held.pop_front();
            }
            let bytes_in_hand = in_hand.as_ref().map_or(0, |transaction| transaction.bytes);
            let wants_room = in_hand.is_some();
            let budget = self.budget.clone();
            // What is held is not in the queue and frees no room by being applied: stop reading
            // rather than holding without bound. By then the leak is known.
            let may_read = !wants_room && held.bytes < budget.bytes() / HELD_SHARE;
            let source = &mut *self.source;
            let from_source = async move {
                if may_read { source.next().await } else { Err(source.keep_alive().await) }
            };
            let turn = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(Ended::Stopped),
                _ = downstream_ended.wait_for(|ended| *ended) => return Ok(Ended::Downstream),
                changed = progress.changed() => {
                    changed.expect("the sender is ours and outlives this loop");
                    Turn::Progress
                }
                changed = gate.changed() => {
                    changed.expect("the gate outlives this loop");
                    Turn::Gate
                }
                permit = budget.acquire(bytes_in_hand), if wants_room => Turn::Room(permit),
                () = sleep_until_set(idle_checkpoint_at), if idle_checkpoint_at.is_some() => {
                    Turn::IdleCheckpoint
                }
                event = from_source => Turn::Event(event?),
            };
            match turn {
                Turn::Progress => {
                    let frontier = *progress.borrow_and_update();
                    if frontier.durable() > frontier.acked() {
                        self.source.acknowledge(Position::Lsn(frontier.durable())).await?;
                        self.progress.send_modify(|now| now.acknowledged(frontier.durable()));
                    }
                }
                Turn::Gate => {}
                Turn::IdleCheckpoint => {
                    idle_checkpoint_at = None;
                    // A full channel means that the thread is awake already.
                    let _ = self.checkpoint.try_send(());
                }
                Turn::Room(permit) => {
                    if let Some(transaction) = in_hand.take()
                        && self.queue.send(Queued { transaction, permit }).is_err()
                    {
                        return Ok(Ended::Downstream);
                    }
                }
                Turn::Event(SourceEvent::Transaction(transaction)) => {
                    if let Some((admission, transaction)) = self.receive(transaction)? {
                        match admission {
                            Admission::Pass => in_hand = Some(transaction),
                            Admission::Hold => held.push_back(transaction),
                        }
                    }
                }
                Turn::Event(SourceEvent::Handover) => {
                    return Err(SourceError::retry("the reader hands over to the stream"));
                }
                Turn::Event(SourceEvent::Idle(position)) => {
                    let Some(position) = position.lsn() else { continue };
                    self.progress.send_if_modified(|now| {
                        let before = *now;
                        now.idle(position);
                        *now != before
                    });
                    idle_checkpoint_at
                        .get_or_insert_with(|| Instant::now() + IDLE_CHECKPOINT_INTERVAL);
                }
            }
        }
    }

    /// Counts a transaction as received; `None` if green has it already.
    fn receive(
        &mut self,
        mut transaction: Transaction,
    ) -> Result<Option<(Admission, Transaction)>, SourceError> {
        if transaction.commit_lsn < self.resume {
            return Ok(None);
        }
        // Before the gate: a TRUNCATE behind the marker is a leak like any other.
        self.truncations.translate(&mut transaction)?;
        if let Some(end) = transaction.end_lsn {
            self.progress.send_modify(|now| now.transaction_received(end));
        }
        let admission = self.gate.admit(&mut transaction);
        Ok(Some((admission, transaction)))
    }
}

/// What woke the intake.
enum Turn {
    IdleCheckpoint,
    Progress,
    Gate,
    Room(OwnedSemaphorePermit),
    Event(SourceEvent),
}

/// Transactions behind the marker, in order.
#[derive(Default)]
struct Held {
    transactions: VecDeque<Transaction>,
    bytes: usize,
}

impl Held {
    fn push_back(&mut self, transaction: Transaction) {
        self.bytes += transaction.bytes;
        self.transactions.push_back(transaction);
    }

    fn pop_front(&mut self) -> Option<Transaction> {
        let transaction = self.transactions.pop_front()?;
        self.bytes -= transaction.bytes;
        Some(transaction)
    }

    fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }
}

async fn sleep_until_set(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
