//! One run of the stream: intake, scheduling, lanes and checkpoint thread, from connect to the
//! first error, the operator's stop, or the handover to another reader.
//!
//! ```text
//!   source --[task: intake]--> queue --[same task, or thread: apply]--> [here, or threads: lanes] --> green
//!                                                   |  wake
//!   source <--acknowledge-- watch <--[thread: checkpoint]--> green's log flushed, then RocksDB
//! ```
//! Near the head, with one lane, intake and applying are one task ([`Applier::Beside`]): what it costs to
//! wake another thread is then most of what a small transaction takes. Nobody who sends blocks: the byte
//! budget bounds the queue, and of the progress only the newest counts. Nothing is repaired here: any
//! error ends the run, and the next run starts from what green and the checkpoint say.

use std::sync::Arc;
use std::time::Duration;

use decoders::postgres::catalog::TableFilter;
use decoders::source::Positions;
use decoders::{Source, SourceError};
use futures_util::future::Either;
use sinks::{Target, TargetError};
use tokio::sync::{Notify, mpsc, watch};

use super::apply::{AppliedTotals, Applier, Applying, BatchLimits};
use super::checkpointing::{Calls, Checkpoints};
use super::copied_at::CopiedAt;
use super::frontier::Frontier;
use super::hold::Hold;
use super::intake::{Budget, Ended, Intake};
use super::lanes;
use super::marker::MarkerGate;
use super::own::{Counterpart, OwnApply};
use super::resume::Resume;
use super::touched::Touched;
use super::truncation::Truncations;
use crate::store::{Store, StoreError};

/// How long a stop waits for the batch in hand before green is told to roll it back, and for green's log.
const STOP_GRACE: Duration = Duration::from_millis(1000);

/// Why a run of the stream ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Blue's side.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Green's side.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The state directory.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The operator's stop. What was in hand may not be on green; it comes again.
    Stopped,
    /// Another reader is to go on: everything received is on green, in the checkpoint and
    /// acknowledged.
    Handover,
}

/// What a run needs beside its source and target; lives longer than one run.
#[derive(Clone)]
pub struct StreamContext {
    /// Checkpoints.
    pub store: Store,
    /// What positions are in the source's own terms, where the stream counts transactions.
    pub positions: Option<Arc<dyn Positions>>,
    /// Positions, for status, lag and the controller.
    pub progress: Arc<watch::Sender<Frontier>>,
    /// Totals, for status and metrics.
    pub totals: watch::Sender<AppliedTotals>,
    /// Rows that a continuous verification has to look at.
    pub touched: Arc<Touched>,
    /// The tables that are moved.
    pub tables: TableFilter,
    /// Tables that were copied from a later snapshot.
    pub copied_at: CopiedAt,
    /// Markers.
    pub gate: MarkerGate,
    /// The pipeline that streams the other way round: what it writes on our source is left out.
    pub counterpart: Counterpart,
    /// True once all lanes are open.
    pub lanes_open: watch::Sender<bool>,
    /// Where the target may be held between two windows.
    pub hold: Hold,
    /// Memory budget.
    pub budget: Budget,
    /// Limits of a window.
    pub limits: BatchLimits,
    /// How many transactions of green may be under way at once.
    pub lanes: u16,
    /// Where one lane applies.
    pub applier: Applier,
    /// True asks for a handover to another reader; while a marker is awaited it waits.
    pub handover: watch::Receiver<bool>,
}

/// Runs the stream until `stop`, a handover, or an error.
///
/// # Errors
/// The first cause; what follows from it on the other side is not reported.
pub async fn run<S: Source, T: Target + 'static>(
    source: &mut S,
    target: Arc<T>,
    resume: Resume,
    context: &StreamContext,
    stop: &mut watch::Receiver<bool>,
) -> Result<Outcome, StreamError>
where
    T::Lane: 'static,
{
    context.lanes_open.send_replace(false);
    context.progress.send_replace(Frontier::resume(resume.from, resume.transaction));
    let (queue, queued) = mpsc::unbounded_channel();
    let (wake, woken) = crossbeam_channel::bounded(1);
    let (hurry, hurried) = crossbeam_channel::bounded(1);
    let cancel = watch::Sender::new(false);
    let ended = watch::Sender::new(false);

    let flushes = Arc::clone(&target);
    let applying = Applying {
        target,
        lanes: context.lanes,
        lanes_open: context.lanes_open.clone(),
        queue: queued,
        resume: resume.clone(),
        progress: Arc::clone(&context.progress),
        checkpoint: wake.clone(),
        totals: context.totals.clone(),
        touched: Arc::clone(&context.touched),
        hold: context.hold.clone(),
        limits: context.limits,
        cancel: cancel.subscribe(),
    };
    // A run that is dropped leaves nobody behind who goes on writing.
    let _cancels = CancelsWhenDropped(cancel.clone());
    let apply_ended = ended.clone();
    let apply = async move {
        let _ended = SaysEnded(apply_ended);
        applying.run().await
    };
    let apply = match context.applier {
        Applier::Beside if context.lanes == 1 => Either::Left(apply),
        _ => {
            let thread = spawn_thread("apply", move || lanes::runtime().block_on(apply));
            Either::Right(join(thread))
        }
    };
    let calls = Calls {
        wake: woken,
        hurry: hurried,
        gate: context.gate.clone(),
        cancel: cancel.subscribe(),
    };
    let written = Arc::new(Notify::new());
    let checkpoints = Checkpoints {
        store: context.store.clone(),
        positions: context.positions.clone(),
        progress: Arc::clone(&context.progress),
        written: Arc::clone(&written),
        flushed: resume.transaction,
    };
    let checkpoint_ended = ended.clone();
    let checkpoint = spawn_thread("checkpoint", move || {
        let _ended = SaysEnded(checkpoint_ended);
        checkpoints.run(&*flushes, calls)
    });

    let intake = Intake {
        source,
        resume: resume.from,
        beyond: resume.beyond,
        queue,
        checkpoint: wake,
        hurry,
        progress: Arc::clone(&context.progress),
        own: OwnApply::of(context.counterpart.clone()),
        written,
        truncations: Truncations::new(context.tables.clone()),
        copied_at: context.copied_at.clone(),
        gate: context.gate.clone(),
        budget: context.budget.clone(),
        limits: context.limits,
        handover: context.handover.clone(),
    };
    let take = async {
        // The intake owns the queue's sending end: when it returns, the scheduling task runs dry.
        let taken = intake.run(stop, &mut ended.subscribe()).await;
        if !matches!(taken, Ok(Ended::Stopped | Ended::Handover)) {
            cancel.send_replace(true);
        }
        let mut drained = ended.subscribe();
        if tokio::time::timeout(STOP_GRACE, drained.wait_for(|ended| *ended)).await.is_err() {
            cancel.send_replace(true);
        }
        taken
    };
    // In this order: what one poll takes from the source is on its way to green within the same poll.
    let (taken, applied) = tokio::join!(biased; take, apply);
    let mut checkpoint = std::pin::pin!(join(checkpoint));
    let checkpointed = match tokio::time::timeout(STOP_GRACE, &mut checkpoint).await {
        Ok(checkpointed) => checkpointed,
        // Green's log does not answer. What it has not confirmed comes again.
        Err(_) => {
            cancel.send_replace(true);
            checkpoint.await
        }
    };
    // Nobody who could still move it is left. Between two runs nobody may rely on what green could have lost.
    context.progress.send_modify(Frontier::keep_durable);
    // A failure downstream is the cause of the intake's end, never the other way round. What a lane says is
    // never only the consequence of a log that can't be flushed, and may be a reason not to try again.
    applied?;
    checkpointed?;
    match taken? {
        Ended::Handover => Ok(Outcome::Handover),
        Ended::Stopped | Ended::Downstream => Ok(Outcome::Stopped),
    }
}

/// Cancels what still runs.
struct CancelsWhenDropped(watch::Sender<bool>);

impl Drop for CancelsWhenDropped {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// Says that a thread has ended, however it did.
struct SaysEnded(watch::Sender<bool>);

impl Drop for SaysEnded {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

type Thread<T> = std::thread::JoinHandle<T>;

fn spawn_thread<T: Send + 'static>(
    name: &'static str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Thread<T> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .expect("the operating system refuses another thread")
}

/// The thread's result, without blocking the runtime. A panic goes on here.
async fn join<T: Send + 'static>(thread: Thread<T>) -> T {
    let joined = tokio::task::spawn_blocking(move || thread.join()).await;
    match joined {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests;
