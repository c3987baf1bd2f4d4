//! The lanes' threads: each applies what it is given, one share at a time.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use decoders::Transaction;
use sinks::{Applied, Lane, LaneId, Share, Target, TargetError};
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
    pub fn open<T: Target + 'static>(
        target: &Arc<T>,
        count: u16,
        cancel: &watch::Receiver<bool>,
    ) -> Result<Option<Self>, TargetError>
    where
        T::Lane: 'static,
    {
        let (say, done) = crossbeam_channel::unbounded();
        let (say_opened, opened) = crossbeam_channel::unbounded();
        let give_up = watch::Sender::new(false);
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
        let lanes = Self { threads: (0..count).map(start).collect(), done, give_up };
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

/// Opens a lane and applies with it what is given. `opened` hears how that went: `None` if it was
/// cancelled.
///
/// The lane's connection lives on a runtime of this thread alone: on a shared one every answer of
/// green would wake a worker first, and only that one this thread.
fn run_lane<L: Lane>(
    opening: impl Future<Output = Result<L, TargetError>>,
    opened: Sender<Option<Result<(), TargetError>>>,
    jobs: &Receiver<Job>,
    done: Sender<Outcome>,
    [mut cancel, mut give_up]: [watch::Receiver<bool>; 2],
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the operating system refuses an epoll instance");
    let gone = SaysGone(done);
    let lane = runtime.block_on(async {
        tokio::select! {
            biased;
            () = cancelled(&mut cancel) => None,
            () = cancelled(&mut give_up) => None,
            lane = opening => Some(lane),
        }
    });
    let (said, lane) = match lane {
        None => (None, None),
        Some(Ok(lane)) => (Some(Ok(())), Some(lane)),
        Some(Err(error)) => (Some(Err(error)), None),
    };
    // Nobody listens any more when another lane could not be opened.
    let _ = opened.send(said);
    drop(opened);
    let Some(mut lane) = lane else { return };
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
