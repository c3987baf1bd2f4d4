//! The lanes: each applies what it is given, one share at a time; several have a thread each.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use decoders::Transaction;
use sinks::{Applied, Lane, LaneId, Share, Target, TargetError};
use tokio::runtime::Runtime;
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
pub struct Lanes {
    lanes: Where,
    done: Receiver<Outcome>,
    give_up: watch::Sender<bool>,
}

/// Where lanes apply. One alone does so on the thread that gives it work: near the tip every
/// transaction is a window, and handing it to another thread and back would take longer on a busy
/// machine than applying it.
enum Where {
    Here { lane: Box<dyn Applies>, say: Sender<Outcome> },
    OnThreads(Vec<LaneThread>),
}

struct LaneThread {
    jobs: Sender<Job>,
    thread: std::thread::JoinHandle<()>,
}

impl Lanes {
    /// Opens `count` lanes; `None` if cancelled meanwhile. One is opened on this thread, and applies
    /// on it.
    ///
    /// # Errors
    /// The target's.
    pub fn open<T: Target + 'static>(
        target: &Arc<T>,
        count: u16,
        cancel: &watch::Receiver<bool>,
    ) -> Result<Option<Self>, TargetError>
    where
        T::Lane: 'static,
    {
        let (say, done) = crossbeam_channel::unbounded();
        let give_up = watch::Sender::new(false);
        if count == 1 {
            let opening = target.open_lane(LaneId(0));
            let lane = Driven::open(opening, [cancel.clone(), give_up.subscribe()]);
            return Ok(lane.transpose()?.map(|lane| Self {
                lanes: Where::Here { lane: Box::new(lane), say },
                done,
                give_up,
            }));
        }
        let (say_opened, opened) = crossbeam_channel::unbounded();
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
        let lanes = Self { lanes: Where::OnThreads(threads), done, give_up };
        drop(say_opened);
        let mut open = 0;
        for outcome in opened {
            match outcome {
                Some(Ok(())) => open += 1,
                Some(Err(error)) => {
                    lanes.give_up();
                    lanes.close();
                    return Err(error);
                }
                None => {}
            }
        }
        if open < lanes.count() {
            lanes.close();
            return Ok(None);
        }
        Ok(Some(lanes))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match &self.lanes {
            Where::Here { .. } => 1,
            Where::OnThreads(threads) => threads.len(),
        }
    }

    /// Gives a share to a lane that has none. Its outcome comes out of [`Lanes::done`]; with one
    /// lane it is there already when this returns.
    pub fn give(&mut self, lane: usize, transactions: Vec<Transaction>, share: Share) {
        let job = Job { transactions, share };
        match &mut self.lanes {
            Where::Here { lane, say } => {
                let outcome = lane.apply(job);
                say.send(outcome).expect("the receiver is ours");
            }
            Where::OnThreads(threads) => {
                // A lane whose thread is gone has said so.
                let _ = threads[lane].jobs.send(job);
            }
        }
    }

    /// Tells all lanes to give up what they do: one of them can't go on, so the run is over.
    pub fn give_up(&self) {
        self.give_up.send_replace(true);
    }

    /// One outcome for each share that was given.
    pub fn done(&self) -> &Receiver<Outcome> {
        &self.done
    }

    /// Ends the lanes; those in the middle of a share go on until it is applied or cancelled. A
    /// panic in one goes on here.
    pub fn close(self) {
        match self.lanes {
            Where::Here { lane, .. } => lane.close(),
            Where::OnThreads(threads) => {
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
struct SaysGone(Sender<Outcome>);

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
    opened: Sender<Option<Result<(), TargetError>>>,
    jobs: &Receiver<Job>,
    done: Sender<Outcome>,
    ends: [watch::Receiver<bool>; 2],
) {
    let gone = SaysGone(done);
    let (said, lane) = match Driven::open(opening, ends) {
        None => (None, None),
        Some(Ok(lane)) => (Some(Ok(())), Some(lane)),
        Some(Err(error)) => (Some(Err(error)), None),
    };
    // Nobody listens any more when another lane could not be opened.
    let _ = opened.send(said);
    drop(opened);
    let Some(mut lane) = lane else { return };
    while let Ok(job) = jobs.recv() {
        let outcome = lane.apply(job);
        if gone.0.send(outcome).is_err() || !lane.goes_on {
            return;
        }
    }
    Box::new(lane).close();
}

/// A lane that is given its work, whatever its target.
trait Applies {
    fn apply(&mut self, job: Job) -> Outcome;

    /// Ends its session in order, if it has not given up.
    fn close(self: Box<Self>);
}

/// A lane, and what drives its connection: a runtime of the thread that applies. On a shared one
/// every answer of green would wake a worker first, and only that one this thread.
struct Driven<L> {
    lane: L,
    runtime: Runtime,
    ends: [watch::Receiver<bool>; 2],
    goes_on: bool,
}

impl<L: Lane> Driven<L> {
    fn open(
        opening: impl Future<Output = Result<L, TargetError>>,
        ends: [watch::Receiver<bool>; 2],
    ) -> Option<Result<Self, TargetError>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("the operating system refuses an epoll instance");
        let [mut cancel, mut give_up] = ends.clone();
        let lane = runtime.block_on(async {
            tokio::select! {
                biased;
                () = cancelled(&mut cancel) => None,
                () = cancelled(&mut give_up) => None,
                lane = opening => Some(lane),
            }
        });
        lane.map(|lane| lane.map(|lane| Self { lane, runtime, ends, goes_on: true }))
    }
}

impl<L: Lane> Applies for Driven<L> {
    fn apply(&mut self, Job { transactions, share }: Job) -> Outcome {
        let Self { lane, runtime, ends: [cancel, give_up], goes_on } = self;
        let applied = runtime.block_on(async {
            tokio::select! {
                biased;
                applied = lane.apply_share(&transactions, share) => Some(applied),
                () = cancelled(cancel) => None,
                () = cancelled(give_up) => None,
            }
        });
        let outcome = match applied {
            None => Outcome::Cancelled,
            Some(Ok(applied)) => Outcome::Applied(applied, AppliedTotals::of(&transactions)),
            Some(Err(error)) if error.conflict => Outcome::Conflict(transactions, error),
            Some(Err(error)) => Outcome::Failed(error),
        };
        *goes_on = matches!(outcome, Outcome::Applied(..) | Outcome::Conflict(..));
        outcome
    }

    fn close(self: Box<Self>) {
        if !self.goes_on {
            return;
        }
        let Self { lane, runtime, .. } = *self;
        runtime.block_on(async {
            // Late is as good as not at all: the server notices the end of the connection.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, lane.close()).await;
        });
    }
}

/// Returns when the run is cancelled. A dropped sender is not a cancellation: the stream may still
/// be ending in good order.
pub async fn cancelled(cancel: &mut watch::Receiver<bool>) {
    if cancel.wait_for(|cancelled| *cancelled).await.is_err() {
        std::future::pending::<()>().await;
    }
}
