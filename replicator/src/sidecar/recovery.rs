//! What an interrupted cutover needs before anything streams, and one that is held.

use std::sync::Arc;
use std::time::Duration;

use cutover::controller::{Recovery, Standing};
use cutover::ports::{Journal, PortError, World};
use cutover::{Phase, Service, api};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use crate::pipeline::HaltConfig;
use crate::pipeline::failure::Failure;
use crate::status::Shared;
use crate::store::RocksJournal;
use crate::watchdog::Guard;

/// How often a held run is looked at again.
const HELD_INTERVAL: Duration = Duration::from_millis(500);
/// After what time a held run is looked at again by itself, the first time.
const HELD_RETRY_FIRST: Duration = Duration::from_secs(2);
/// And at most: each look leaves an entry in the journal.
const HELD_RETRY_MAX: Duration = Duration::from_secs(300);
/// What an interrupted run still does to clients is watched over, too. Without a watchdog it is
/// done all the same.
pub(super) async fn guard_recovery(guard: &Guard, journal: &RocksJournal) {
    let watching = async {
        let entries = journal.read_all().await?;
        match Standing::read(&entries)?.unfinished {
            Some(_) => guard.watch(entries).await,
            None => Ok(()),
        }
    };
    if let Err(error) = watching.await {
        tracing::error!("an interrupted run is resumed without a watchdog: {error}");
    }
}

/// Before anything streams: a cutover that a crash interrupted is put back or finished. What it can't do
/// yet, because a server does not answer, halts the pipeline and is tried again.
pub(super) async fn recover<W: World + 'static>(
    service: &Arc<Service<W>>,
    shared: &Shared,
    guard: &Guard,
    mut stop: watch::Receiver<bool>,
    halt: &HaltConfig,
) -> Result<(), Failure> {
    let mut pause = HELD_RETRY_FIRST;
    let recovered = loop {
        let recovered = tokio::select! {
            recovered = service.recover() => recovered,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        let failure = match recovered {
            Err(error) if !error.is_superseded() => unrecovered(error),
            recovered => break recovered,
        };
        if halt.exit_on_halt {
            return Err(failure);
        }
        tracing::error!(place = failure.place, error = failure.what, "nothing streams yet");
        let retry_at = SignedDuration::try_from(pause).ok().map(|pause| Timestamp::now() + pause);
        shared.halts(api::PipelinePhase::Halted, &failure, retry_at);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.retry.notified() => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        shared.attempt_begins();
        pause = (2 * pause).min(HELD_RETRY_MAX);
    };
    shared.end_halt();
    match recovered {
        // A run that was finished now recorded it with the engine (`Replication::finish`), and the
        // pipeline's stage says so.
        Ok(
            Recovery::Nothing | Recovery::Finished(_) | Recovery::Left(_) | Recovery::CutOver(_),
        ) => {
            tokio::select! {
                () = hold_while_held(service, shared, stop) => Ok(()),
                failure = until_superseded(service) => Err(failure),
            }
        }
        Err(error) if error.is_superseded() => {
            // Nor for its watchdog is anything left to do.
            guard.over().await;
            Err(superseded(error.place, error.what, error.remedy))
        }
        Err(error) => Err(unrecovered(error)),
    }
}

fn unrecovered(error: PortError) -> Failure {
    let failure = Failure::halt(
        error.place.clone(),
        format!("an interrupted cutover can't be recovered: {error}"),
        error
            .remedy
            .clone()
            .unwrap_or("see to it that the servers answer: it is tried again".into()),
    );
    let state = "nothing streams, and clients may be held or turned away, until the run is put back or finished";
    Failure { state: Some(state.into()), ..failure }
}

/// This state directory does not count any more: nothing may go on from it.
fn superseded(place: String, what: String, remedy: Option<String>) -> Failure {
    let remedy = remedy.unwrap_or_else(|| "stop this sidecar for good".into());
    Failure {
        state: Some("nothing was changed; another sidecar acts for this pipeline".into()),
        ..Failure::halt(place, what, remedy)
    }
}

/// Ends once a run was held because somebody else acts for this pipeline.
pub(super) async fn until_superseded<W: World + 'static>(service: &Service<W>) -> Failure {
    loop {
        tokio::time::sleep(HELD_INTERVAL).await;
        let report = service.current().and_then(|run| run.report);
        let error = report.and_then(|report| report.error);
        if let Some(error) = error.filter(|error| error.code == api::ErrorCode::Superseded) {
            return superseded(error.place, error.what, error.next_command);
        }
    }
}

/// A run that only a person can resolve: nothing may stream meanwhile, because green may be open.
async fn hold_while_held<W: World + 'static>(
    service: &Service<W>,
    shared: &Shared,
    mut stop: watch::Receiver<bool>,
) {
    // A held run that is being resolved is a run without a report, whatever its phase says yet.
    // One whose clients are served already only waits for the streams.
    let is_held = || {
        service.current().is_some_and(|run| {
            let served = matches!(run.phase, Phase::Reversing | Phase::Watching);
            run.phase == Phase::Held || (run.report.is_none() && !served)
        })
    };
    if is_held() {
        shared.enter(api::PipelinePhase::Halted);
        shared.wait_for(Some("a person to resolve the held cutover: cutover status".into()));
        tracing::error!("a cutover is held; nothing streams until it is resolved");
    }
    while is_held() {
        tokio::select! {
            () = tokio::time::sleep(HELD_INTERVAL) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// A held run is looked at again and again, at ever longer intervals: most often it is a server or a
/// router that was away, and it comes back while nobody is awake. What a person would be asked for
/// is decided already, on the side that was to open.
pub(super) async fn look_at_held_runs<W: World + 'static>(service: Arc<Service<W>>) {
    let mut pause = HELD_RETRY_FIRST;
    loop {
        tokio::time::sleep(pause).await;
        match service.try_held_again().await {
            Ok(false) => pause = HELD_RETRY_FIRST,
            Ok(true) => pause = (2 * pause).min(HELD_RETRY_MAX),
            Err(error) => {
                tracing::error!("the held cutover can't be looked at again: {error}");
                pause = (2 * pause).min(HELD_RETRY_MAX);
            }
        }
    }
}
