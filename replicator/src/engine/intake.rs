//! The intake: takes transactions from the source, counts their bytes against the budget, and
//! hands them to the scheduling task.
//!
//! What the source has ready is taken in one go, up to [`CHUNK_BYTES`], and costs one permit, one
//! queue item and one update of the positions, however many transactions it is.
//!
//! Its one `select!` has these priorities:
//! 1. the operator's stop;
//! 2. the end of the applying or checkpointing side, which is always an error here;
//! 3. what became durable, told to the source at once, so that blue can forget;
//! 4. the marker gate's release of what was held, and the wish to hand over;
//! 5. room in the budget for what is in hand; meanwhile the source is kept alive, so a slow green
//!    never makes blue drop the connection;
//! 6. the next event.
//!
//! # Handing over to another reader
//! Nothing is read any more, everything that was taken goes on to green and into the checkpoint,
//! and blue is told. Then the run ends, and the next reader begins where this one ended. Not while
//! something is held behind a marker: it would be read, and counted as a leak, twice. Not in the
//! middle of a large transaction: it would begin anew.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use decoders::{Lsn, Position, Source, SourceError, SourceEvent, Transaction};
use futures_util::FutureExt as _;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::Instant;

pub use super::budget::Budget;
use super::budget::weight_bytes;
use super::copied_at::CopiedAt;
use super::frontier::Frontier;
use super::marker::{Admission, MarkerGate};
use super::own::OwnApply;
use super::taken::Taken;
use super::truncation::Truncations;
use super::window::{BatchLimits, Chunk};

/// How much is taken from the source before it is handed on.
const CHUNK_BYTES: usize = 256 << 10;

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
    /// Another reader is to go on; everything that was received is applied, in the checkpoint and
    /// acknowledged.
    Handover,
    /// The applying task or the checkpointing thread is gone; its own result says why.
    Downstream,
}

/// What the intake is connected to.
pub struct Intake<'a, S: Source> {
    /// Where transactions come from.
    pub source: &'a mut S,
    /// Where the stream resumes: what ends at or before it is on green already.
    pub resume: Lsn,
    /// Commits of transactions behind it that are on green too, ascending.
    pub beyond: Vec<Lsn>,
    /// To the scheduling task.
    pub queue: UnboundedSender<Chunk>,
    /// Wakes the checkpoint thread.
    pub checkpoint: Sender<()>,
    /// Ends the checkpoint thread's rest.
    pub hurry: Sender<()>,
    /// The stream's positions.
    pub progress: Arc<watch::Sender<Frontier>>,
    /// Knows what we have written on the source ourselves.
    pub own: OwnApply,
    /// Says when a checkpoint is written. Of `progress` itself the intake would hear several times
    /// for each transaction, half of them its own doing.
    pub written: Arc<Notify>,
    /// What a blue before PostgreSQL 11 says of TRUNCATE.
    pub truncations: Truncations,
    /// Tables that were copied from a later snapshot.
    pub copied_at: CopiedAt,
    /// Markers.
    pub gate: MarkerGate,
    /// Bytes that may be in memory.
    pub budget: Budget,
    /// A chunk is never more than a window.
    pub limits: BatchLimits,
    /// True asks for a handover to another reader.
    pub handover: watch::Receiver<bool>,
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
        let written = Arc::clone(&self.written);
        let mut gate = self.gate.watch();
        let mut handover = self.handover.clone();
        let mut taken = Taken::default();
        let mut in_hand: Option<Vec<Transaction>> = None;
        let mut ending = Ending::default();
        // When the idle position is to be checkpointed. Always set when there is one that is not,
        // or the last one before blue shuts down would never be told, and blue waits for that.
        let mut idle_checkpoint_at: Option<Instant> = None;
        loop {
            let holds = gate.borrow().seen_at.is_some();
            // Also while another marker is awaited already: nothing may overtake what was held.
            if in_hand.is_none() && !taken.has_ready() && !holds {
                taken.release(CHUNK_BYTES);
            }
            if in_hand.is_none() {
                in_hand = taken.next_chunk(&self.limits);
            }
            let wants_room = in_hand.is_some();
            let weight = in_hand.iter().flatten().map(weight_bytes).sum();
            let hands_over = ending.hands_over(&taken, holds, gate.borrow().armed.is_some());
            if hands_over && !wants_room && self.is_complete() {
                return Ok(Ended::Handover);
            }
            let budget = self.budget.clone();
            // What is held is not in the queue and frees no room by being applied: stop reading
            // rather than holding without bound. By then the leak is known.
            let may_read =
                !wants_room && !hands_over && taken.held_bytes() < budget.bytes() / HELD_SHARE;
            let (source, is_over) = (&mut *self.source, ending.source_is_over);
            let from_source = async move {
                match (is_over, may_read) {
                    (true, _) => std::future::pending().await,
                    (false, true) => source.next().await,
                    (false, false) => Err(source.keep_alive().await),
                }
            };
            let turn = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(Ended::Stopped),
                _ = downstream_ended.wait_for(|ended| *ended) => return Ok(Ended::Downstream),
                () = written.notified() => Turn::Checkpoint,
                changed = gate.changed() => {
                    changed.expect("the gate outlives this loop");
                    Turn::Gate
                }
                () = asked(&mut handover), if !ending.is_asked => Turn::Handover,
                permit = budget.acquire(weight), if wants_room => Turn::Room(permit),
                () = sleep_until_set(idle_checkpoint_at), if idle_checkpoint_at.is_some() => {
                    Turn::IdleCheckpoint
                }
                event = from_source => Turn::Event(event?),
            };
            match turn {
                Turn::Checkpoint => self.acknowledge().await?,
                Turn::Gate => {
                    let _ = self.hurry.try_send(());
                }
                Turn::Handover => ending.is_asked = true,
                Turn::IdleCheckpoint => {
                    idle_checkpoint_at = None;
                    // A full channel means that the thread is awake already.
                    let _ = self.checkpoint.try_send(());
                }
                Turn::Room(permit) => {
                    if let Some(transactions) = in_hand.take() {
                        let chunk = Chunk { transactions, weight_bytes: weight, permit };
                        if self.queue.send(chunk).is_err() {
                            return Ok(Ended::Downstream);
                        }
                    }
                }
                Turn::Event(first) => {
                    let mut event = Some(first);
                    while let Some(next) = event.take() {
                        self.own.look_again(&next).await?;
                        if self.receive(next, &mut taken)? == Read::SourceIsOver {
                            ending.source_is_over = true;
                            break;
                        }
                        if taken.ready_bytes() < CHUNK_BYTES && taken.held_bytes() == 0 {
                            // Cancel-safe, so asking once without waiting loses nothing.
                            event = self.source.next().now_or_never().transpose()?;
                        }
                    }
                    if taken.idle.is_some() {
                        idle_checkpoint_at
                            .get_or_insert_with(|| Instant::now() + IDLE_CHECKPOINT_INTERVAL);
                    }
                    self.publish(&mut taken);
                    self.acknowledge().await?;
                }
            }
            if ending.wants_to() {
                // Nothing waits for an interval any more.
                let _ = self.checkpoint.try_send(());
                let _ = self.hurry.try_send(());
            }
        }
    }

    /// Takes one event; what is on green already is dropped.
    fn receive(&mut self, event: SourceEvent, taken: &mut Taken) -> Result<Read, SourceError> {
        let mut transaction = match event {
            SourceEvent::Transaction(transaction) => transaction,
            SourceEvent::Idle(position) => {
                taken.idle = taken.idle.max(position.lsn());
                return Ok(Read::On);
            }
            SourceEvent::Handover => return Ok(Read::SourceIsOver),
        };
        if transaction.commit_lsn < self.resume {
            return Ok(Read::On);
        }
        if self.is_on_green(&transaction) {
            // A quiet source may have nothing behind it.
            taken.idle = taken.idle.max(transaction.end_lsn);
            return Ok(Read::On);
        }
        if self.own.is_ours(&transaction)? {
            taken.is_inside = !transaction.part.ends();
            taken.idle = taken.idle.max(transaction.end_lsn);
            return Ok(Read::On);
        }
        // Before the gate: a TRUNCATE behind the marker is a leak like any other.
        self.truncations.translate(&mut transaction)?;
        self.copied_at.leave_out(&mut transaction);
        taken.is_inside = !transaction.part.ends();
        match self.gate.admit(&mut transaction) {
            Admission::Nothing => {
                taken.idle = taken.idle.max(transaction.end_lsn);
                return Ok(Read::On);
            }
            Admission::Pass => {
                taken.ends.extend(transaction.end_lsn);
                taken.push(transaction);
            }
            Admission::Hold => {
                taken.ends.extend(transaction.end_lsn);
                taken.hold(transaction);
            }
        }
        Ok(Read::On)
    }

    /// Some lane was ahead of the others when the stream was last ended. All parts of a transaction
    /// have the commit.
    fn is_on_green(&self, transaction: &Transaction) -> bool {
        let commit = transaction.commit_lsn;
        self.beyond.last().is_some_and(|newest| commit <= *newest)
            && self.beyond.binary_search(&commit).is_ok()
    }

    /// Writes down what was received.
    fn publish(&self, taken: &mut Taken) {
        if taken.ends.is_empty() && taken.idle.is_none() {
            return;
        }
        self.progress.send_if_modified(|now| {
            let before = *now;
            taken.ends.drain(..).for_each(|end| now.transaction_received(end));
            if let Some(position) = taken.idle.take() {
                now.idle(position);
            }
            *now != before
        });
    }

    /// Tells blue what has become durable.
    async fn acknowledge(&mut self) -> Result<(), SourceError> {
        let frontier = *self.progress.borrow();
        if frontier.durable() > frontier.acked() {
            self.source.acknowledge(Position::Lsn(frontier.durable())).await?;
            self.progress.send_modify(|now| now.acknowledged(frontier.durable()));
        }
        Ok(())
    }

    /// Whether everything that was received is applied, in the checkpoint and acknowledged.
    fn is_complete(&self) -> bool {
        let frontier = *self.progress.borrow();
        frontier.is_settled() && frontier.acked() == frontier.received()
    }
}

/// What woke the intake.
enum Turn {
    IdleCheckpoint,
    Checkpoint,
    Gate,
    Handover,
    Room(OwnedSemaphorePermit),
    Event(SourceEvent),
}

#[derive(PartialEq, Eq)]
enum Read {
    On,
    SourceIsOver,
}

/// What is known of the end of this reader.
#[derive(Default)]
struct Ending {
    /// The source itself has ended; it gives nothing any more.
    source_is_over: bool,
    /// Somebody asked for another reader.
    is_asked: bool,
}

impl Ending {
    fn wants_to(&self) -> bool {
        self.source_is_over || self.is_asked
    }

    /// Whether it may happen now. A marker that is still awaited can come from the next reader as
    /// well, but only a source that has ended is given up for it.
    fn hands_over(&self, taken: &Taken, holds: bool, is_armed: bool) -> bool {
        let is_free = !taken.has_held() && !taken.is_inside && !holds;
        is_free && (self.source_is_over || self.is_asked && !is_armed)
    }
}

async fn asked(handover: &mut watch::Receiver<bool>) {
    // Nobody can ask any more.
    if handover.wait_for(|asked| *asked).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn sleep_until_set(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
