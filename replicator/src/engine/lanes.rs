//! The lanes: each applies what it is given, one share at a time; several have a thread each.
//!
//! One alone applies in the task that gives it work: near the head every transaction is a window, and
//! handing it to another thread and back would take longer on a busy machine than applying it.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use decoders::Transaction;
use sinks::{Applied, Lane, LaneId, Share, Target, TargetError};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use super::totals::AppliedTotals;

/// How long an orderly end of a lane's session may take.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// What a lane is to apply.
struct Job {
    transactions: Vec<Transaction>,
    share: Share,
}

/// What became of it.
pub enum Outcome {
    /// It is on green.
    Applied(Applied, AppliedTotals),
    /// Green refused it beside what the other lanes did; another order may be accepted.
    Conflict(Vec<Transaction>, TargetError),
    /// The stream can't go on.
    Failed(TargetError),
    /// It was given up; green rolls it back.
    Cancelled,
    /// The lane's thread has ended.
    Gone,
}

/// The open lanes.
pub struct Lanes<L> {
    lanes: Where<L>,
    give_up: watch::Sender<bool>,
}

/// Where lanes apply.
enum Where<L> {
    Here { lane: Box<Driven<L>>, given: Option<Job> },
    OnThreads { threads: Vec<LaneThread>, done: UnboundedReceiver<Outcome> },
}

struct LaneThread {
    jobs: Sender<Job>,
    thread: std::thread::JoinHandle<()>,
}

impl<L: Lane> Lanes<L> {
    /// Opens `count` lanes; `None` if cancelled meanwhile.
    ///
    /// # Errors
    /// The target's.
    pub async fn open<T: Target<Lane = L> + 'static>(
        target: &Arc<T>,
        count: u16,
        cancel: &watch::Receiver<bool>,
    ) -> Result<Option<Self>, TargetError> {
        let give_up = watch::Sender::new(false);
        if count == 1 {
            let opening = target.open_lane(LaneId(0));
            let lane = Driven::open(opening, [cancel.clone(), give_up.subscribe()]).await;
            let here = |lane| Where::Here { lane: Box::new(lane), given: None };
            return Ok(lane.transpose()?.map(|lane| Self { lanes: here(lane), give_up }));
        }
        let (say, done) = unbounded_channel();
        let (say_opened, mut opened) = unbounded_channel();
        let start = |number| {
            let (jobs, given) = crossbeam_channel::bounded(1);
            let (target, say, say_opened) = (Arc::clone(target), say.clone(), say_opened.clone());
            let ends = [cancel.clone(), give_up.subscribe()];
            let thread = std::thread::Builder::new()
                .name(format!("lane {number}"))
                .spawn(move || {
                    let opening = async move { target.open_lane(LaneId(number)).await };
                    run_lane(opening, say_opened, &given, say, ends);
                })
                .expect("the operating system refuses another thread");
            LaneThread { jobs, thread }
        };
        let threads = (0..count).map(start).collect();
        let lanes = Self { lanes: Where::OnThreads { threads, done }, give_up };
        drop(say_opened);
        let mut open = 0;
        while let Some(outcome) = opened.recv().await {
            match outcome {
                Some(Ok(())) => open += 1,
                Some(Err(error)) => {
                    lanes.give_up();
                    lanes.close().await;
                    return Err(error);
                }
                None => {}
            }
        }
        if open < lanes.count() {
            lanes.close().await;
            return Ok(None);
        }
        Ok(Some(lanes))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match &self.lanes {
            Where::Here { .. } => 1,
            Where::OnThreads { threads, .. } => threads.len(),
        }
    }

    /// Gives a share to a lane that has none. Its outcome comes out of [`Lanes::outcome`].
    pub fn give(&mut self, lane: usize, transactions: Vec<Transaction>, share: Share) {
        let job = Job { transactions, share };
        match &mut self.lanes {
            Where::Here { given, .. } => *given = Some(job),
            Where::OnThreads { threads, .. } => {
                // A lane whose thread is gone has said so.
                let _ = threads[lane].jobs.send(job);
            }
        }
    }

    /// Tells all lanes to give up what they do: one of them can't go on, so the run is over.
    pub fn give_up(&self) {
        self.give_up.send_replace(true);
    }

    /// The outcome of a share that was given. One lane alone applies it in here, and a future that is
    /// dropped breaks that off; of several lanes no outcome is lost.
    pub async fn outcome(&mut self) -> Outcome {
        match &mut self.lanes {
            Where::Here { lane, given } => match given.take() {
                Some(job) => lane.apply(job).await,
                None => Outcome::Gone,
            },
            Where::OnThreads { done, .. } => done.recv().await.unwrap_or(Outcome::Gone),
        }
    }

    /// Whether [`Lanes::send`] would take a window: one lane alone, that can ([`Lane::is_ready_for`]).
    pub fn is_ready_for(&self, transactions: &[Transaction]) -> bool {
        match &self.lanes {
            Where::Here { lane, .. } => lane.lane.is_ready_for(transactions),
            Where::OnThreads { .. } => false,
        }
    }

    /// Sends a window without waiting for what becomes of it, which [`Lanes::answer`] says; false if the
    /// run is cancelled. Nothing may be given before all are answered.
    ///
    /// # Errors
    /// The lane's.
    pub async fn send(&mut self, transactions: &[Transaction]) -> Result<bool, TargetError> {
        match &mut self.lanes {
            Where::Here { lane, .. } => lane.send(transactions).await,
            Where::OnThreads { .. } => Ok(false),
        }
    }

    /// Waits until it is known what became of the oldest window that was sent, or the run is cancelled;
    /// dropping it loses nothing.
    pub async fn answer_came(&mut self) {
        match &mut self.lanes {
            Where::Here { lane, .. } => lane.answer_came().await,
            Where::OnThreads { .. } => std::future::pending().await,
        }
    }

    /// What became of the oldest window that was sent; without the totals, which the sender knows.
    pub async fn answer(&mut self) -> Outcome {
        match &mut self.lanes {
            Where::Here { lane, .. } => lane.answer().await,
            Where::OnThreads { .. } => Outcome::Gone,
        }
    }

    /// Ends the lanes; those in the middle of a share go on until it is applied or cancelled, and
    /// this thread waits for theirs. A panic in one goes on here.
    pub async fn close(self) {
        match self.lanes {
            Where::Here { lane, .. } => lane.close().await,
            Where::OnThreads { threads, .. } => {
                let threads: Vec<_> = threads.into_iter().map(|lane| lane.thread).collect();
                for thread in threads {
                    if let Err(panic) = thread.join() {
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        }
    }
}

/// Says that the thread has ended, however it did.
struct SaysGone(UnboundedSender<Outcome>);

impl Drop for SaysGone {
    fn drop(&mut self) {
        // Nobody listens any more when the run is over.
        let _ = self.0.send(Outcome::Gone);
    }
}

/// Applies on a thread of its own what is given. `opened` hears how the opening went: `None` if it
/// was cancelled.
fn run_lane<L: Lane>(
    opening: impl Future<Output = Result<L, TargetError>>,
    opened: UnboundedSender<Option<Result<(), TargetError>>>,
    jobs: &Receiver<Job>,
    done: UnboundedSender<Outcome>,
    ends: [watch::Receiver<bool>; 2],
) {
    let gone = SaysGone(done);
    // On a shared runtime every answer of green would wake a worker first, and only that one this
    // thread.
    let runtime = runtime();
    let (said, lane) = match runtime.block_on(Driven::open(opening, ends)) {
        None => (None, None),
        Some(Ok(lane)) => (Some(Ok(())), Some(lane)),
        Some(Err(error)) => (Some(Err(error)), None),
    };
    // Nobody listens any more when another lane could not be opened.
    let _ = opened.send(said);
    drop(opened);
    let Some(mut lane) = lane else { return };
    while let Ok(job) = jobs.recv() {
        let outcome = runtime.block_on(lane.apply(job));
        if gone.0.send(outcome).is_err() || !lane.goes_on {
            return;
        }
    }
    runtime.block_on(lane.close());
}

/// A runtime for the thread that asks.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the operating system refuses an epoll instance")
}

/// A lane, and what ends its work early.
struct Driven<L> {
    lane: L,
    ends: [watch::Receiver<bool>; 2],
    goes_on: bool,
}

impl<L: Lane> Driven<L> {
    async fn open(
        opening: impl Future<Output = Result<L, TargetError>>,
        ends: [watch::Receiver<bool>; 2],
    ) -> Option<Result<Self, TargetError>> {
        let [mut cancel, mut give_up] = ends.clone();
        let lane = tokio::select! {
            biased;
            () = cancelled(&mut cancel) => None,
            () = cancelled(&mut give_up) => None,
            lane = opening => Some(lane),
        };
        lane.map(|lane| lane.map(|lane| Self { lane, ends, goes_on: true }))
    }

    async fn apply(&mut self, Job { transactions, share }: Job) -> Outcome {
        let Self { lane, ends: [cancel, give_up], goes_on } = self;
        let applied = tokio::select! {
            biased;
            applied = lane.apply_share(&transactions, share) => Some(applied),
            () = cancelled(cancel) => None,
            () = cancelled(give_up) => None,
        };
        let outcome = match applied {
            None => Outcome::Cancelled,
            Some(Ok(applied)) => Outcome::Applied(applied, AppliedTotals::of(&transactions)),
            Some(Err(error)) if error.conflict => Outcome::Conflict(transactions, error),
            Some(Err(error)) => Outcome::Failed(error),
        };
        *goes_on = matches!(outcome, Outcome::Applied(..) | Outcome::Conflict(..));
        outcome
    }

    async fn send(&mut self, transactions: &[Transaction]) -> Result<bool, TargetError> {
        let Self { lane, ends: [cancel, give_up], goes_on } = self;
        let sent = tokio::select! {
            biased;
            sent = lane.send(transactions) => Some(sent),
            () = cancelled(cancel) => None,
            () = cancelled(give_up) => None,
        };
        *goes_on = matches!(sent, Some(Ok(())));
        sent.transpose().map(|sent| sent.is_some())
    }

    async fn answer_came(&mut self) {
        let Self { lane, ends: [cancel, give_up], .. } = self;
        tokio::select! {
            biased;
            () = lane.answer_came() => {}
            () = cancelled(cancel) => {}
            () = cancelled(give_up) => {}
        }
    }

    async fn answer(&mut self) -> Outcome {
        let Self { lane, ends: [cancel, give_up], goes_on } = self;
        let answer = tokio::select! {
            biased;
            answer = lane.answer() => Some(answer),
            () = cancelled(cancel) => None,
            () = cancelled(give_up) => None,
        };
        *goes_on = matches!(answer, Some(Ok(_)));
        match answer {
            None => Outcome::Cancelled,
            Some(Ok(applied)) => Outcome::Applied(applied, AppliedTotals::default()),
            Some(Err(error)) => Outcome::Failed(error),
        }
    }

    /// Ends its session in order, if it has not given up.
    async fn close(self) {
        if self.goes_on {
            // Late is as good as not at all: the server notices the end of the connection.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.lane.close()).await;
        }
    }
}

/// Returns when the run is cancelled. A dropped sender is not a cancellation: the stream may still
/// be ending in good order.
pub async fn cancelled(cancel: &mut watch::Receiver<bool>) {
    if cancel.wait_for(|cancelled| *cancelled).await.is_err() {
        std::future::pending::<()>().await;
    }
}
