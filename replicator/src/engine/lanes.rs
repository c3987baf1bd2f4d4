//! The lanes' threads: each applies what it is given, one share at a time.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use decoders::Transaction;
use futures_util::future::try_join_all;
use sinks::{Applied, Lane, LaneId, Share, Target, TargetError};
use tokio::runtime::Handle;
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
    threads: Vec<LaneThread>,
    done: Receiver<Outcome>,
    give_up: watch::Sender<bool>,
}

struct LaneThread {
    jobs: Sender<Job>,
    thread: std::thread::JoinHandle<()>,
}

impl Lanes {
    /// Opens `count` lanes; `None` if cancelled meanwhile.
    ///
    /// # Errors
    /// The target's.
    pub fn open<T: Target>(
        target: &Arc<T>,
        count: u16,
        runtime: &Handle,
        cancel: &watch::Receiver<bool>,
    ) -> Result<Option<Self>, TargetError>
    where
        T::Lane: 'static,
    {
        let mut cancelled_first = cancel.clone();
        let opened = runtime.block_on(async {
            tokio::select! {
                lanes = try_join_all((0..count).map(|id| target.open_lane(LaneId(id)))) => {
                    Some(lanes)
                }
                () = cancelled(&mut cancelled_first) => None,
            }
        });
        let Some(opened) = opened else { return Ok(None) };
        let (say, done) = crossbeam_channel::unbounded();
        let give_up = watch::Sender::new(false);
        let start = |(number, lane): (usize, T::Lane)| {
            let (jobs, given) = crossbeam_channel::bounded(1);
            let (say, runtime) = (say.clone(), runtime.clone());
            let ends = [cancel.clone(), give_up.subscribe()];
            let thread = std::thread::Builder::new()
                .name(format!("lane {number}"))
                .spawn(move || run_lane(lane, &given, say, &runtime, ends))
                .expect("the operating system refuses another thread");
            LaneThread { jobs, thread }
        };
        let threads = opened?.into_iter().enumerate().map(start).collect();
        Ok(Some(Self { threads, done, give_up }))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Gives a share to a lane that has none. Its outcome comes out of [`Lanes::done`].
    pub fn give(&self, lane: usize, transactions: Vec<Transaction>, share: Share) {
        // A lane whose thread is gone has said so.
        let _ = self.threads[lane].jobs.send(Job { transactions, share });
    }

    /// Tells all lanes to give up what they do: one of them can't go on, so the run is over.
    pub fn give_up(&self) {
        self.give_up.send_replace(true);
    }

    /// One outcome for each share that was given.
    pub fn done(&self) -> &Receiver<Outcome> {
        &self.done
    }

    /// Ends the threads; those in the middle of a share go on until it is applied or cancelled. A
    /// panic in one goes on here.
    pub fn close(self) {
        let threads: Vec<_> = self.threads.into_iter().map(|lane| lane.thread).collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
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

fn run_lane<L: Lane>(
    mut lane: L,
    jobs: &Receiver<Job>,
    done: Sender<Outcome>,
    runtime: &Handle,
    [mut cancel, mut give_up]: [watch::Receiver<bool>; 2],
) {
    let gone = SaysGone(done);
    while let Ok(Job { transactions, share }) = jobs.recv() {
        let applied = runtime.block_on(async {
            tokio::select! {
                biased;
                applied = lane.apply_share(&transactions, share) => Some(applied),
                () = cancelled(&mut cancel) => None,
                () = cancelled(&mut give_up) => None,
            }
        });
        let outcome = match applied {
            None => Outcome::Cancelled,
            Some(Ok(applied)) => Outcome::Applied(applied, AppliedTotals::of(&transactions)),
            Some(Err(error)) if error.conflict => Outcome::Conflict(transactions, error),
            Some(Err(error)) => Outcome::Failed(error),
        };
        let goes_on = matches!(outcome, Outcome::Applied(..) | Outcome::Conflict(..));
        if gone.0.send(outcome).is_err() || !goes_on {
            return;
        }
    }
    runtime.block_on(async {
        // Late is as good as not at all: the server notices the end of the connection.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, lane.close()).await;
    });
}

/// Returns when the run is cancelled. A dropped sender is not a cancellation: the stream may still
/// be ending in good order.
pub async fn cancelled(cancel: &mut watch::Receiver<bool>) {
    if cancel.wait_for(|cancelled| *cancelled).await.is_err() {
        std::future::pending::<()>().await;
    }
}
