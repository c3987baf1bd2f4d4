//! Transactions that arrive while they run: put aside block by block, read back at their commit.
//!
//! ```text
//! S .. E  ──► batch (≤ 1 MiB) ──► Spool::put        one write under way, one batch filling
//! A       ──► subtransaction noted, or all batches discarded
//! c       ──► Replay: Spool::get, one batch ahead ──► Verdicts ──► the stream's Assembler
//! ```
//!
//! The spool may block, so it is called on tokio's blocking threads, one call at a time and in
//! order; a call's handle stays in here until its result is taken, so whoever waits for it may be
//! dropped. What was rolled back is left out as `verdict.rs` finds out.
//!
//! In memory there is, however many transactions run: one batch that fills and one that is written,
//! or two that come back; and of each transaction where its batches are and at most
//! [`ABORTS_NOTED`] ids.
//!
//! # Why nothing is lost
//!
//! Nothing of a running transaction is ever acknowledged by itself. What is acknowledged are
//! commits and idle positions, and those may lie behind changes of a transaction that still runs.
//! The server keeps its log from the beginning of the oldest one (`restart_lsn`: the manual,
//! `pg_replication_slots`; `SnapBuildProcessRunningXacts` in `snapbuild.c`), and a new stream gets
//! a transaction whole if it commits behind the position where the stream starts
//! (`SnapBuildXactNeedsSkip`). So the spool of a stream dies with it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::task::{JoinError, JoinHandle};

use super::replay::{Judged, Replay, Replayed};
use super::verdict::{Court, NoVerdict, Verdicts};
use crate::assemble::{AssembleError, Moment};
use crate::postgres::delivery::Delivery;
use crate::postgres::pgoutput::{
    Begin, DecodeError, StreamAbort, StreamCommit, StreamStart, streamed_xid,
};
use crate::spool::{Generation, Spool, SpoolError};

/// A batch is written when it has this size; a single larger frame makes a larger one.
const BATCH_BYTES: usize = 1 << 20;

/// Subtransactions of one transaction that are noted as rolled back. The source is asked about the
/// others, as it is about those that it never named.
const ABORTS_NOTED: usize = 1 << 14;

/// What breaks the rules of protocol 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BlockError {
    #[error("a block of transaction {inner} begins inside a block of transaction {outer}")]
    Nested { outer: u32, inner: u32 },
    #[error("{0} outside of a block")]
    Stray(&'static str),
    #[error("{0} inside a block")]
    Inside(&'static str),
    #[error("a message about a streamed transaction inside of another transaction")]
    Amid,
    #[error("the first block of transaction {0} is not its first")]
    NotFirst(u32),
    #[error("transaction {0} goes on and has not begun")]
    Unknown(u32),
    #[error("of transaction {xid} the spool gave {found} messages of {expected}")]
    Incomplete { xid: u32, expected: u64, found: u64 },
}

/// Why a running transaction can't be followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolingError {
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    NoVerdict(#[from] NoVerdict),
}

/// A transaction that is running on the source.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// Its batches, as runs of consecutive numbers: one run for each block or less.
    pub(super) batches: Vec<Range<Moment>>,
    /// Messages in them, and in the batch that is filling.
    pub(super) frames: u64,
    /// Its subtransactions that the server has named as rolled back; not all that were.
    pub(super) aborted: HashSet<u32>,
}

/// What the spool is to do next.
#[derive(Debug)]
enum Order {
    Put { number: Moment, batch: Bytes },
    Get { number: Moment },
    Discard { batches: Vec<Range<Moment>>, is_last: bool },
}

/// The batch, if one was asked for, and who judges the next.
type Done = Result<Option<(Judged, Verdicts)>, SpoolingError>;

/// All transactions of one stream that are running, and the one that is being read back.
#[derive(Debug)]
pub(super) struct Spooling {
    spool: Arc<dyn Spool>,
    generation: Generation,
    running: HashMap<u32, Running>,
    block: Option<u32>,
    batch: BytesMut,
    /// In order; the first is started as soon as nothing is under way.
    orders: VecDeque<Order>,
    under_way: Option<JoinHandle<Done>>,
    replay: Option<Replay>,
    court: Court,
    /// While a transaction is read back and no batch of it is under way.
    verdicts: Option<Verdicts>,
}

impl Spooling {
    pub(super) fn new(spool: Arc<dyn Spool>, generation: Generation, court: Court) -> Self {
        Self {
            spool,
            generation,
            running: HashMap::new(),
            block: None,
            batch: BytesMut::new(),
            orders: Default::default(),
            under_way: None,
            replay: None,
            court,
            verdicts: None,
        }
    }

    /// The source can't go on so; see [`Spool::retire`].
    pub(super) fn retire(&self) {
        self.spool.retire();
    }

    /// Whether a block is open: all that comes belongs to it.
    pub(super) fn in_block(&self) -> bool {
        self.block.is_some()
    }

    pub(super) fn is_replaying(&self) -> bool {
        self.replay.is_some()
    }

    pub(super) fn start(&mut self, start: StreamStart) -> Result<(), BlockError> {
        if let Some(outer) = self.block {
            return Err(BlockError::Nested { outer, inner: start.xid });
        }
        match (start.first, self.running.contains_key(&start.xid)) {
            (true, true) => return Err(BlockError::NotFirst(start.xid)),
            (false, false) => return Err(BlockError::Unknown(start.xid)),
            (true, false) => drop(self.running.insert(start.xid, Running::default())),
            (false, true) => {}
        }
        self.block = Some(start.xid);
        Ok(())
    }

    /// Puts a message of the open block aside.
    pub(super) fn add(
        &mut self,
        frame: &Bytes,
        delivery: &mut Delivery,
    ) -> Result<(), SpoolingError> {
        // Refused here already if it can be none.
        streamed_xid(frame)?;
        let running = self.block.and_then(|xid| self.running.get_mut(&xid));
        running.ok_or(BlockError::Stray("a message of a block"))?.frames += 1;
        if self.batch.capacity() == 0 {
            self.batch.reserve(BATCH_BYTES + BATCH_BYTES / 8);
        }
        self.batch.put_u32(u32::try_from(frame.len()).unwrap_or(u32::MAX));
        self.batch.put_slice(frame);
        if self.batch.len() >= BATCH_BYTES {
            self.cut(delivery);
        }
        Ok(())
    }

    pub(super) fn stop(&mut self, delivery: &mut Delivery) -> Result<(), BlockError> {
        if self.block.is_none() {
            return Err(BlockError::Stray("a stream stop"));
        }
        self.cut(delivery);
        self.block = None;
        Ok(())
    }

    /// Orders the batch to be written.
    fn cut(&mut self, delivery: &mut Delivery) {
        let Some(running) = self.block.and_then(|xid| self.running.get_mut(&xid)) else { return };
        if self.batch.is_empty() {
            return;
        }
        let number = delivery.moment();
        match running.batches.last_mut() {
            Some(run) if run.end == number => run.end += 1,
            _ => running.batches.push(number..number + 1),
        }
        let batch = std::mem::take(&mut self.batch).freeze();
        self.orders.push_back(Order::Put { number, batch });
    }

    pub(super) fn abort(&mut self, abort: StreamAbort) -> Result<(), BlockError> {
        if self.in_block() {
            return Err(BlockError::Inside("a stream abort"));
        }
        if abort.sub_xid == abort.xid {
            if let Some(running) = self.running.remove(&abort.xid) {
                self.forget(running.batches);
            }
        } else if let Some(running) = self.running.get_mut(&abort.xid)
            && running.aborted.len() < ABORTS_NOTED
        {
            running.aborted.insert(abort.sub_xid);
        }
        // What is not here leaves no trace either way.
        Ok(())
    }

    fn forget(&mut self, batches: Vec<Range<Moment>>) {
        let is_last = self.running.values().all(|running| running.batches.is_empty());
        self.orders.push_back(Order::Discard { batches, is_last });
    }

    /// Begins to read a transaction back. Until the end of that nothing else may be taken in.
    pub(super) fn commit(&mut self, commit: StreamCommit) -> Result<Begin, BlockError> {
        if self.in_block() {
            return Err(BlockError::Inside("a stream commit"));
        }
        let running = self.running.remove(&commit.xid);
        let mut running = running.ok_or(BlockError::Unknown(commit.xid))?;
        let told = std::mem::take(&mut running.aborted);
        self.verdicts = Some(Verdicts::new(self.court.clone(), commit.xid, told));
        self.replay = Some(Replay::new(commit, running));
        Ok(Begin {
            final_lsn: commit.commit_lsn,
            committed_at_us: commit.committed_at_us,
            xid: commit.xid,
        })
    }

    /// What comes next of the transaction that is read back.
    pub(super) fn replayed(&mut self) -> Result<Replayed, SpoolingError> {
        let Some(replay) = &mut self.replay else {
            return Err(BlockError::Stray("a replay").into());
        };
        let next = replay.next()?;
        match next {
            // Nothing was taken out of what is here.
            Replayed::Frame(..) => {}
            Replayed::Wait => {
                self.orders.extend(replay.wanted().map(|number| Order::Get { number }));
            }
            Replayed::End(_) => {
                self.verdicts = None;
                if let Some(ended) = self.replay.take() {
                    self.forget(ended.into_batches());
                }
            }
        }
        Ok(next)
    }

    /// Whether the spool has to be waited for, before anything else: a call has ended, or as many
    /// are ordered as there is room for. While batches are written one more may fill; while they
    /// are read one is ahead.
    pub(super) fn must_settle(&mut self) -> bool {
        self.proceed();
        let Some(handle) = &self.under_way else { return false };
        let is_waited_for = match &self.replay {
            Some(replay) => replay.is_dry(),
            None => !self.orders.is_empty(),
        };
        is_waited_for || handle.is_finished()
    }

    /// Starts what was ordered, if nothing is under way.
    fn proceed(&mut self) {
        if self.under_way.is_some() {
            return;
        }
        let Some(order) = self.orders.pop_front() else { return };
        let (spool, generation) = (Arc::clone(&self.spool), self.generation);
        self.under_way = Some(match order {
            Order::Put { number, batch } => tokio::task::spawn_blocking(move || {
                spool.put(generation, number, &batch)?;
                Ok(None)
            }),
            Order::Discard { batches, is_last } => tokio::task::spawn_blocking(move || {
                spool.discard(generation, &batches, is_last)?;
                Ok(None)
            }),
            Order::Get { number } => {
                let verdicts = self.verdicts.take();
                tokio::spawn(async move {
                    let mut verdicts = verdicts.ok_or(BlockError::Stray("a batch"))?;
                    let get = move || spool.get(generation, number);
                    let batch: Bytes =
                        tokio::task::spawn_blocking(get).await.map_err(broken)??.into();
                    verdicts.on(&batch).await?;
                    let aborted = verdicts.aborted().clone();
                    Ok(Some((Judged { number, batch, aborted }, verdicts)))
                })
            }
        });
    }

    /// Waits for what is under way and starts what comes after it; returns at once if there is
    /// nothing. Cancel-safe.
    pub(super) async fn settle(&mut self) -> Result<(), SpoolingError> {
        self.proceed();
        let Some(handle) = &mut self.under_way else { return Ok(()) };
        let done = handle.await;
        self.under_way = None;
        if let (Some((batch, verdicts)), Some(replay)) = (done.map_err(broken)??, &mut self.replay)
        {
            self.verdicts = Some(verdicts);
            replay.arrived(batch);
            self.orders.extend(replay.wanted().map(|number| Order::Get { number }));
        }
        self.proceed();
        Ok(())
    }
}

/// The call has panicked, or the runtime ends.
fn broken(error: JoinError) -> SpoolError {
    SpoolError { message: format!("the spool failed: {error}"), remedy: "report this".to_owned() }
}
