//! The scheduling task: collects windows, and has the lanes apply one after the other.
//!
//! ```text
//!   queue --> window W+1 (collected) | window W (in flight) --> lane 0 .. N-1 --> green   (one lane: in this task)
//! ```
//! It runs beside the intake, on its thread, or on a thread of its own: see [`Applier`].
//!
//! A window is everything that waits, up to the limits, so a quiet stream applies each transaction
//! at once and a backlog coalesces by itself. With one lane a window is one transaction of green.
//! With several, what [`schedule`](super::schedule) finds to be independent is shared out. A window
//! begins when the one before is on green completely: what two windows do is in commit order
//! whatever they touch, and green's progress is one floor and a few commits above it
//! ([`sinks::mark`]). Near the head, with one lane, it may be sent before that is known ([`super::ahead`]),
//! and green does the waiting.
//!
//! A part of a large transaction is a window of its own, on lane 0, and so is a schema change.

use std::sync::Arc;

use crossbeam_channel::Sender;
use decoders::{Lsn, Transaction};
use sinks::mark::Window as MarkedWindow;
use sinks::{Lane, Share, Target, TargetError};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

use super::ahead::Ahead;
use super::flight::InFlight;
use super::frontier::Frontier;
use super::hold::{Admission, Hold};
use super::lanes::{Lanes, cancelled};
use super::resume::Resume;
pub use super::totals::AppliedTotals;
use super::touched::Touched;
pub use super::window::{BatchLimits, Chunk};
use super::window::{KnownTables, Window};

/// A lane's share has at least so many transactions of blue: for fewer a commit of its own costs
/// more than it saves.
const SHARE_TRANSACTIONS_MIN: usize = 8;

/// Where a stream is applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applier {
    /// By the thread that reads it: near the head a transaction is on its way to green before another
    /// thread would have woken up. Several lanes are scheduled on a thread all the same.
    Beside,
    /// By a thread of its own: far behind the head reading and applying go on at the same time.
    Apart,
}

/// What the scheduling task is connected to.
pub struct Applying<T: Target> {
    /// Where to apply.
    pub target: Arc<T>,
    /// How many lanes.
    pub lanes: u16,
    /// Told once they are open.
    pub lanes_open: watch::Sender<bool>,
    /// Transactions, in commit order. Closed when the stream ends.
    pub queue: UnboundedReceiver<Chunk>,
    /// Where the stream resumes.
    pub resume: Resume,
    /// Told after each window.
    pub progress: Arc<watch::Sender<Frontier>>,
    /// Wakes the checkpoint thread; a full channel means that it is awake already.
    pub checkpoint: Sender<()>,
    /// Totals for status and metrics.
    pub totals: watch::Sender<AppliedTotals>,
    /// Told of each window before it is applied.
    pub touched: Arc<Touched>,
    /// Where green may be held between two windows.
    pub hold: Hold,
    /// Limits of a window.
    pub limits: BatchLimits,
    /// True gives up what is being applied; green rolls it back.
    pub cancel: watch::Receiver<bool>,
}

/// The collecting side.
struct Collector<T: Target> {
    target: Arc<T>,
    limits: BatchLimits,
    queue: UnboundedReceiver<Chunk>,
    shares_out: bool,
    known: KnownTables,
    window: Window,
    /// Came, and did not fit.
    next: Option<Chunk>,
    cancel: watch::Receiver<bool>,
    /// Given up in the middle of grouping: the window lacks what was not grouped, and no later one
    /// may be applied.
    is_cancelled: bool,
}

impl<T: Target + 'static> Applying<T>
where
    T::Lane: 'static,
{
    /// Applies until the queue is closed and empty, or cancelled.
    ///
    /// With several lanes it blocks its thread while they end, and while it groups.
    ///
    /// # Errors
    /// The first lane's. What other lanes have committed of the window is on green, and green's
    /// progress says so; of the share that failed nothing is.
    pub async fn run(self) -> Result<(), TargetError> {
        let beyond = self.resume.beyond.last().map(|commit| Lsn(commit.0 + 1));
        self.hold.resume(beyond.max(Some(self.resume.transaction)).unwrap_or_default());
        let Some(mut lanes) = Lanes::open(&self.target, self.lanes, &self.cancel).await? else {
            return Ok(());
        };
        self.lanes_open.send_replace(true);
        let applied = self.apply_with(&mut lanes).await;
        if applied.is_err() {
            // Nobody waits for what the others still do; what they have committed is in their marks.
            lanes.give_up();
        }
        lanes.close().await;
        applied
    }

    async fn apply_with(self, lanes: &mut Lanes<T::Lane>) -> Result<(), TargetError> {
        let mut collector = Collector {
            target: self.target,
            limits: self.limits,
            queue: self.queue,
            shares_out: lanes.count() > 1,
            known: KnownTables::default(),
            window: Window::default(),
            next: None,
            cancel: self.cancel,
            is_cancelled: false,
        };
        let done =
            Done { progress: self.progress, totals: self.totals, checkpoint: self.checkpoint };
        let mut floor = self.resume.transaction;
        let mut ahead = Ahead::new();
        loop {
            let is_some = tokio::select! {
                biased;
                is_some = collector.wait_for_some(), if ahead.has_room() => is_some?,
                () = lanes.answer_came(), if !ahead.is_empty() => {
                    if !land(lanes, &mut ahead, &done).await? {
                        return Ok(());
                    }
                    continue;
                }
            };
            let first = collector.window.transactions.first();
            let Some(first) = first.filter(|_| is_some).map(|first| first.commit_lsn) else {
                break;
            };
            let is_ready = lanes.is_ready_for(&collector.window.transactions);
            let asked = if is_ready || ahead.is_empty() { self.hold.ask(first) } else { None };
            let admission = match asked {
                Some(admission) => admission,
                // What more comes until then goes along.
                None if !ahead.is_empty() => match land(lanes, &mut ahead, &done).await? {
                    true => continue,
                    false => return Ok(()),
                },
                None => match collector.admit(&self.hold, first).await? {
                    Some(admission) => admission,
                    None => return Ok(()),
                },
            };
            let begun = collector.begin_next(admission.limit).await?;
            let Some(window) = begun else { return Ok(()) };
            if !window.follows(floor) {
                return Err(TargetError::out_of_order(format!(
                    "transactions came out of the source's order, behind {floor}"
                )));
            }
            window.end().into_iter().for_each(|end| admission.ends_at(end));
            self.touched.note(&window.transactions);
            if let Some(end) = window.end().filter(|_| is_ready) {
                let sent = lanes.send(&window.transactions).await?;
                if !sent {
                    return Ok(());
                }
                floor = end;
                ahead.sent(InFlight::sent(window, admission));
                continue;
            }
            let mut flight = give(lanes, window, admission, floor, &self.resume.beyond);
            loop {
                collector.collect_until_done(lanes, &mut flight).await?;
                if flight.error.is_some() || flight.refused.is_empty() {
                    break;
                }
                // Everything else of the window is committed: see `schedule`.
                let mut refused = std::mem::take(&mut flight.refused);
                refused.sort_by_key(|transaction| transaction.end_lsn);
                tracing::debug!(transactions = refused.len(), "applying again after the others");
                flight.is_shared = false;
                flight.running = 1;
                lanes.give(0, refused, Share::Rest { through: flight.end });
            }
            if let Some(error) = flight.error {
                return Err(error);
            }
            if flight.cancelled {
                return Ok(());
            }
            floor = flight.end.unwrap_or(floor);
            done.applied(flight);
        }
        while !ahead.is_empty() {
            if !land(lanes, &mut ahead, &done).await? {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Who is told of what is on green.
struct Done {
    progress: Arc<watch::Sender<Frontier>>,
    totals: watch::Sender<AppliedTotals>,
    checkpoint: Sender<()>,
}

impl Done {
    /// A window is.
    fn applied(&self, mut flight: InFlight) {
        drop(flight.permits);
        // Lets who holds green go on: the last thing here.
        let _admission = flight.admission;
        let Some(end) = flight.end else {
            self.totals.send_modify(|totals| totals.add(&flight.totals));
            return;
        };
        flight.totals.transactions = flight.ended;
        self.progress.send_modify(|frontier| frontier.transactions_applied(end, flight.ended));
        self.totals.send_modify(|totals| totals.add(&flight.totals));
        // A full channel means that the checkpoint thread has yet to look: it will see this.
        let _ = self.checkpoint.try_send(());
    }
}

/// Hears what became of the oldest window that was sent; false if the run is cancelled.
async fn land<L: Lane>(
    lanes: &mut Lanes<L>,
    ahead: &mut Ahead,
    done: &Done,
) -> Result<bool, TargetError> {
    let outcome = lanes.answer().await;
    let Some(mut flight) = ahead.answered() else { return Ok(true) };
    flight.done(outcome);
    if let Some(error) = flight.error {
        return Err(error);
    }
    if flight.cancelled {
        return Ok(false);
    }
    done.applied(flight);
    Ok(true)
}

/// Hands a window to the lanes. `beyond` are commits that green has from an earlier life.
fn give<L: Lane>(
    lanes: &mut Lanes<L>,
    window: Window,
    admission: Admission,
    floor: Lsn,
    beyond: &[Lsn],
) -> InFlight {
    let end = window.end();
    let (mut flight, transactions, schedule) = InFlight::new(window, admission);
    let most = (transactions.len() / SHARE_TRANSACTIONS_MIN).min(lanes.count());
    // A transaction without a place in the schedule would get no lane.
    let is_whole = schedule.count() == transactions.len();
    let shared_out = if is_whole { schedule.share_out(most) } else { None };
    let marked = shared_out.zip(end).map(|(lane_of, end)| {
        let commits = transactions.iter().map(|transaction| transaction.commit_lsn);
        let known = beyond.iter().copied().filter(|known| *known >= floor && *known < end);
        (lane_of, Share::Part(MarkedWindow::new(floor, end, commits.chain(known))))
    });
    let Some((lane_of, share)) = marked else {
        lanes.give(0, transactions, Share::ALL);
        return flight;
    };
    let mut shares: Vec<Vec<Transaction>> = (0..most).map(|_| Vec::new()).collect();
    for (transaction, lane) in transactions.into_iter().zip(lane_of) {
        shares[usize::from(lane)].push(transaction);
    }
    flight.is_shared = true;
    flight.running = 0;
    flight.totals.shared_windows = 1;
    for (lane, transactions) in shares.into_iter().enumerate() {
        if !transactions.is_empty() {
            flight.running += 1;
            lanes.give(lane, transactions, share);
        }
    }
    flight
}

impl<T: Target> Collector<T> {
    /// Waits until there is something to apply; false when there will be nothing any more, or the
    /// run is cancelled. With one lane dropping it loses nothing.
    async fn wait_for_some(&mut self) -> Result<bool, TargetError> {
        if self.window.transactions.is_empty() {
            // What came while a schema change was under way is older than what waits.
            let chunk = match self.next.take() {
                Some(chunk) => Some(chunk),
                None => self.queue.recv().await,
            };
            match chunk {
                Some(chunk) => self.take(chunk).await?,
                None => return Ok(false),
            }
        }
        while self.next.is_none() && !self.is_cancelled {
            match self.queue.try_recv() {
                Ok(chunk) => self.take(chunk).await?,
                Err(_) => break,
            }
        }
        Ok(!self.is_cancelled && !self.window.transactions.is_empty())
    }

    /// Waits until what was collected may be written; `first` is its first commit. `None` if the run is
    /// cancelled.
    async fn admit(&mut self, hold: &Hold, first: Lsn) -> Result<Option<Admission>, TargetError> {
        let mut admission = None;
        let admitted = async {
            admission = Some(hold.admit(first).await);
            Ok(())
        };
        self.is_cancelled |= !until_cancelled(&mut self.cancel, admitted).await?;
        Ok(admission)
    }

    /// What was collected and is committed before `limit`; the next one begins with the rest. `None` if
    /// the run is cancelled.
    async fn begin_next(&mut self, limit: Option<Lsn>) -> Result<Option<Window>, TargetError> {
        self.known.begin_window();
        let mut window = std::mem::take(&mut self.window);
        if let Some(rest) = limit.and_then(|limit| window.cut(limit)) {
            self.window = rest;
        }
        if self.shares_out {
            let ordered = window.keep_shared_rows_in_order(&*self.target);
            self.is_cancelled |= !until_cancelled(&mut self.cancel, ordered).await?;
        }
        Ok((!self.is_cancelled).then_some(window))
    }

    /// Collects the next window until the one in flight has come to an end. With one lane there is
    /// nothing to group, and what comes meanwhile waits in the queue.
    async fn collect_until_done(
        &mut self,
        lanes: &mut Lanes<T::Lane>,
        flight: &mut InFlight,
    ) -> Result<(), TargetError> {
        let mut is_open = self.shares_out && !flight.is_definition;
        if !flight.is_definition
            && let Some(chunk) = self.next.take()
        {
            self.take(chunk).await?;
        }
        while flight.running > 0 {
            let takes = is_open && self.next.is_none() && !self.is_cancelled;
            tokio::select! {
                biased;
                outcome = lanes.outcome() => {
                    flight.done(outcome);
                    if flight.error.is_some() {
                        lanes.give_up();
                    }
                }
                chunk = self.queue.recv(), if takes => match chunk {
                    Some(chunk) => self.take(chunk).await?,
                    None => is_open = false,
                },
            }
        }
        Ok(())
    }

    /// Adds a chunk to the window, or keeps it for the next.
    async fn take(&mut self, chunk: Chunk) -> Result<(), TargetError> {
        if !self.window.fits(&chunk, &self.limits) {
            self.next = Some(chunk);
            return Ok(());
        }
        let first = self.window.transactions.len();
        self.window.push(chunk);
        if !self.shares_out || self.window.is_alone {
            return Ok(());
        }
        let grouped = self.window.schedule_from(first, &mut self.known, &*self.target);
        self.is_cancelled |= !until_cancelled(&mut self.cancel, grouped).await?;
        Ok(())
    }
}

/// Waits for `work`; false if the run was cancelled before it was done.
async fn until_cancelled(
    cancel: &mut watch::Receiver<bool>,
    work: impl Future<Output = Result<(), TargetError>>,
) -> Result<bool, TargetError> {
    tokio::select! {
        biased;
        done = work => done.map(|()| true),
        () = cancelled(cancel) => Ok(false),
    }
}

#[cfg(test)]
mod tests;
