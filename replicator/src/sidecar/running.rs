//! What every run of a pipeline does, whatever its engine: how it begins, what goes on beside the streams,
//! and how it ends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cutover::controller::{Recovery, Standing};
use cutover::lease::Tenant;
use cutover::login::Login;
use cutover::ports::{Journal, PortError, World};
use cutover::{Direction, Phase, Service, api};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::stop_on_signals;
use crate::alerts;
use crate::chronicle::Chronicle;
use crate::config::Config;
use crate::engine::intake::Budget;
use crate::http::{self, Api, Token};
use crate::pipeline::failure::Failure;
use crate::pipeline::{Attempts, Ended, live};
use crate::status::Shared;
use crate::store::{RocksJournal, Store, StoreError};
use crate::watchdog::protocol::Hello;
use crate::watchdog::{Guard, turn};

/// How often the controller is shown what the probes see of the servers.
const SERVERS_INTERVAL: Duration = Duration::from_millis(500);
/// How often a held run is looked at again.
const HELD_INTERVAL: Duration = Duration::from_millis(500);
/// After what time a held run is looked at again by itself, the first time.
const HELD_RETRY_FIRST: Duration = Duration::from_secs(2);
/// And at most: each look leaves an entry in the journal.
const HELD_RETRY_MAX: Duration = Duration::from_secs(300);
/// How long an end of the process waits for a run to put everything back.
const RUN_ABORT_GRACE: Duration = Duration::from_secs(30);
/// How long it waits for a run that is past its point of no return.
const RUN_FINISH_GRACE: Duration = Duration::from_secs(60);
/// Pause before a way back is tried again that only a person can mend.
const BACK_INTERVAL: Duration = Duration::from_secs(30);

/// What a run has before it looks at a server.
pub(super) struct Outset {
    pub store: Store,
    pub tenant: Tenant,
    pub desk: Desk,
    /// To be dropped last.
    pub quiesced: Quiesced,
}

impl Outset {
    /// Takes the state directory, unless `other` names an engine that it is of, and the API's address.
    ///
    /// # Errors
    /// One of them can't be had.
    pub async fn of(
        config: &Config,
        other: impl FnOnce(&Store) -> Result<Option<&'static str>, StoreError>,
    ) -> Result<Self, Failure> {
        let token = config.api.token_file.as_deref().map(Token::read).transpose();
        let token =
            token.map_err(|problem| Failure::halt("configuration", problem, "write a token"))?;
        let store = open_store(&config.state_dir).await?;
        if let Some(engine) = other(&store)? {
            return Err(of_another_engine(&store, engine));
        }
        turn::settle(&config.state_dir).await;
        let tenant = turn::tenant(&config.name, &config.state_dir).map_err(|error| {
            let what = format!("{}: {error}", config.state_dir.display());
            Failure::halt("state directory", what, "make it writable for the sidecar")
        })?;
        let quiesced = Quiesced(store.clone());
        let listener = http::bind(config.api.listen).await.map_err(|error| {
            Failure::halt(
                "api",
                format!("{} can't be listened on: {error}", config.api.listen),
                "stop what listens there, or choose another api.listen",
            )
        })?;
        Ok(Self { store, tenant, desk: Desk { token, listener }, quiesced })
    }
}

/// Where others reach a run.
pub(super) struct Desk {
    token: Option<Token>,
    listener: TcpListener,
}

impl Desk {
    /// Answers requests, hears signals and raises alerts for as long as the tasks live.
    pub fn serve(self, config: &Config, api: Api, stop: &watch::Sender<bool>) -> Tasks {
        let mut tasks = Tasks::default();
        let (both, runs) = ([&api.shared, &api.back].map(Arc::clone), api.service.clone());
        let failed = Arc::clone(&api.shared);
        tasks.spawn(http::serve(self.listener, api, self.token, stop.subscribe()));
        tasks.spawn(stop_on_signals(stop.clone()));
        tasks.spawn(alerts::watch(
            config.alerts.clone(),
            config.name.clone(),
            move || alerts::read(&both[0], &both[1], &runs),
            move || failed.alert_failed(),
        ));
        tasks
    }
}

/// What the streams know of themselves, forward and back.
pub(super) fn both_shared(config: &Config, ends: [Login; 2]) -> [Arc<Shared>; 2] {
    let [blue, green] = ends.map(|end| end.unseen());
    let budget = Budget::new(config.apply.memory_bytes);
    let of = |name: String, direction, source: &api::Server, target: &api::Server| {
        let (source, target) = (source.clone(), target.clone());
        Arc::new(Shared::new(name, direction, source, target, budget.clone()))
    };
    [
        of(config.name.clone(), Direction::Forward, &blue, &green),
        of(config.counterpart(), Direction::Back, &green, &blue),
    ]
}

/// Both streams, until the one that began is stopped, has ended for good and is stopped, or is halted.
///
/// # Errors
/// The failure that halted it, and another sidecar that acts for this pipeline.
pub(super) async fn stream_both<W: World + 'static>(
    mut forward: impl Attempts,
    back: impl Attempts + 'static,
    service: &Arc<Service<W>>,
    stop: &watch::Sender<bool>,
) -> Result<(), Failure> {
    let reins = forward.reins();
    let (name, shared) = (reins.name, reins.shared);
    let way_back = tokio::spawn(run_back(back, stop.subscribe()));
    let ended = tokio::select! {
        ended = live(&mut forward) => ended,
        // What it would stream belongs to somebody else.
        failure = until_superseded(service) => Err(failure),
    };
    end_the_run(service).await;
    if ended.is_err() {
        way_back.abort();
    }
    match ended? {
        Ended::Stopped => {}
        Ended::CutOver => {
            tracing::info!(pipeline = name, "the stream from blue has ended for good");
            // Status, history and metrics stay, for whoever wants to know how it went.
            let mut stopped = stop.subscribe();
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    }
    shared.enter(api::PipelinePhase::Stopping);
    if let Err(error) = way_back.await
        && !error.is_cancelled()
    {
        tracing::error!("the way back: {error}");
    }
    tracing::info!(pipeline = name, "stopped");
    Ok(())
}

/// The watchdog of this pipeline's runs; none runs yet.
pub(super) fn watchdog_of(config: &Config, publications: [String; 2]) -> Result<Guard, Failure> {
    let wrong = |problem: String| Failure::halt("configuration", problem, "correct it");
    let hello = Hello {
        name: config.name.clone(),
        state_dir: config.state_dir.clone(),
        blue: config.blue.text("blue").map_err(wrong)?.0,
        green: config.green.text("green").map_err(wrong)?.0,
        publications,
        switch: config.cutover.clone(),
        sidecar: nix::unistd::Pid::this().as_raw(),
    };
    let failed = |error: PortError| Failure::halt(error.place, error.what, "report this");
    Guard::new(hello).map_err(failed)
}

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

/// The way back, for as long as the process lives: what it fails at is no reason to end.
async fn run_back(mut pipeline: impl Attempts + 'static, mut stop: watch::Receiver<bool>) {
    while let Err(failure) = live(&mut pipeline).await {
        tracing::error!(
            place = failure.place,
            error = failure.what,
            remedy = failure.remedy,
            retry_s = BACK_INTERVAL.as_secs(),
            "THE WAY BACK IS BROKEN; whoever serves now goes on"
        );
        tokio::select! {
            () = tokio::time::sleep(BACK_INTERVAL) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Shows the controller what the probes see of the servers.
pub(super) async fn pass_servers_on(shared: Arc<Shared>, set: impl Fn(api::Server, api::Server)) {
    let mut tick = tokio::time::interval(SERVERS_INTERVAL);
    loop {
        tick.tick().await;
        let status = shared.status(None);
        set(status.blue, status.green);
    }
}

/// Before anything streams: a cutover that a crash interrupted is put back or finished.
pub(super) async fn recover<W: World + 'static>(
    service: &Arc<Service<W>>,
    shared: &Shared,
    guard: &Guard,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Failure> {
    let recovered = tokio::select! {
        recovered = service.recover() => recovered,
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
    };
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
        Err(error) => Err(Failure::halt(
            error.place.clone(),
            format!("an interrupted cutover can't be recovered: {error}"),
            error.remedy.clone().unwrap_or("replicator run, once that server answers".into()),
        )),
    }
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

/// Asks a run that is under way to stop and waits for its end: one that died with this process
/// would leave blue closed until the next start. Past its point of no return it is not stopped, but
/// waited for.
pub(super) async fn end_the_run<W: World + 'static>(service: &Arc<Service<W>>) {
    // What comes after the clients are served goes on at the next start.
    let is_over = |run: &api::RunStatus| {
        run.report.is_some()
            || run.phase.is_final()
            || matches!(run.phase, Phase::Reversing | Phase::Watching)
    };
    let Some(run) = service.current().filter(|run| !is_over(run)) else { return };
    let request = api::AbortRequest {
        actor: Some("replicator".into()),
        reason: Some("it is stopping".into()),
    };
    let grace = match service.abort(&run.run, request).await {
        Ok(_) => RUN_ABORT_GRACE,
        // Too late to stop it.
        Err(_) => RUN_FINISH_GRACE,
    };
    tracing::warn!(run = run.run, "waiting for the cutover that is under way to end");
    let ended = async {
        let mut after = run.last_event;
        while let Ok(update) = service.update(&run.run, after, Duration::from_secs(1)).await {
            if is_over(&update.status) {
                return;
            }
            after = update.status.last_event;
        }
    };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::error!(run = run.run, "the cutover did not end; the next start recovers it");
    }
}

/// The audit log and the reports, with everything in them that the journal has.
pub(super) async fn open_chronicle(
    path: &Path,
    journal: &RocksJournal,
) -> Result<Chronicle, Failure> {
    let entries = journal.read_all().await;
    let entries = entries.map_err(|error| {
        let remedy = error.remedy.clone().unwrap_or_else(|| "report this".into());
        Failure::halt(error.place.clone(), error.what, remedy)
    })?;
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || Chronicle::open(&path, entries)).await;
    let failed = |why: String| Failure::halt("state directory", why, "report this");
    opened.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
}

/// A state directory whose positions mean something else.
fn of_another_engine(store: &Store, engine: &str) -> Failure {
    Failure::halt(
        "state directory",
        format!("{} is of a pipeline that reads {engine}", store.path().display()),
        "give this pipeline a --state-dir of its own",
    )
}

async fn open_store(path: &Path) -> Result<Store, Failure> {
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || Store::open(&path)).await;
    opened
        .map_err(|error| Failure::halt("state directory", error.to_string(), "report this"))?
        .map_err(Failure::from)
}

/// Ends the store's own threads with the run, however it ends.
pub(super) struct Quiesced(Store);

impl Drop for Quiesced {
    fn drop(&mut self) {
        self.0.quiesce();
    }
}

/// Tasks that end with their owner.
#[derive(Default)]
pub(super) struct Tasks(Vec<tokio::task::JoinHandle<()>>);

impl Tasks {
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(task));
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}
