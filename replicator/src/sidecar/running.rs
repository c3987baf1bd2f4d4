//! What every run of a pipeline does, whatever its engine: how it begins, what goes on beside the streams,
//! and how it ends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cutover::lease::Tenant;
use cutover::login::Login;
use cutover::ports::{Journal, PortError, World};
use cutover::{Direction, Phase, Service, api};
use tokio::sync::watch;

use super::recovery::until_superseded;
use super::stop_on_signals;
use crate::alerts::{self, Alerting};
use crate::chronicle::Chronicle;
use crate::config::Config;
use crate::engine::intake::Budget;
use crate::http::{Api, BindError, Doors};
use crate::pipeline::failure::Failure;
use crate::pipeline::{Attempts, Ended, HaltConfig, live};
use crate::status::Shared;
use crate::store::{RocksJournal, Store, StoreError};
use crate::watchdog::protocol::Hello;
use crate::watchdog::{Guard, turn};

/// How often the controller is shown what the probes see of the servers.
const SERVERS_INTERVAL: Duration = Duration::from_millis(500);
/// How long an end of the process waits for a run to put everything back.
const RUN_ABORT_GRACE: Duration = Duration::from_secs(30);
/// How long it waits for a run that is past its point of no return.
const RUN_FINISH_GRACE: Duration = Duration::from_secs(60);
/// How long an end of the process waits for alerts to be delivered.
const ALERT_GRACE: Duration = Duration::from_secs(5);

/// What a run has before it looks at a server.
pub(super) struct Outset {
    pub store: Store,
    pub tenant: Tenant,
    pub desk: Desk,
    /// Outlives whatever uses the store.
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
        let doors = Doors::open(config).await.map_err(|error| {
            let (place, remedy) = match &error {
                BindError::Secret(_) => ("configuration", "correct the file, and start again"),
                BindError::Address { .. } => {
                    ("api", "stop what listens there, or choose another api.listen")
                }
            };
            Failure::halt(place, error.to_string(), remedy)
        })?;
        Ok(Self { store, tenant, desk: Desk(doors), quiesced })
    }
}

/// Where others reach a run.
pub(super) struct Desk(Doors);

impl Desk {
    /// Answers requests, hears signals and raises alerts for as long as the tasks live.
    pub fn serve(self, config: &Config, api: Api, stop: &watch::Sender<bool>) -> Tasks {
        let failed = Arc::clone(&api.shared);
        let source = api.source.clone();
        let alerting = alerts::start(
            &config.alerts,
            config.name.clone(),
            move || source.read(),
            move || failed.alert_failed(),
        );
        let mut tasks = Tasks { alerting: Some(alerting), tasks: Vec::new() };
        tasks.spawn(self.0.serve(api, stop.subscribe()));
        tasks.spawn(stop_on_signals(stop.clone()));
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

/// Both streams, until the one that began is stopped, or has ended for good and is stopped.
///
/// # Errors
/// What keeps it from beginning, what halts it if a halt ends the process, and another sidecar that acts for
/// this pipeline.
pub(super) async fn stream_both<W: World + 'static>(
    mut forward: impl Attempts,
    back: impl Attempts + 'static,
    service: &Arc<Service<W>>,
    stop: &watch::Sender<bool>,
    halt: &HaltConfig,
) -> Result<(), Failure> {
    let reins = forward.reins();
    let (name, shared) = (reins.name, reins.shared);
    let way_back = tokio::spawn(run_back(back, halt.clone()));
    let ended = tokio::select! {
        ended = live(&mut forward, halt) => ended,
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
        streams: [config.name.clone(), config.counterpart()],
        tables: config.tables.clone(),
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

/// The way back, for as long as the process lives: what it fails at is no reason to end.
async fn run_back(mut pipeline: impl Attempts + 'static, halt: HaltConfig) {
    let halt = HaltConfig { exit_on_halt: false, ..halt };
    if let Err(failure) = live(&mut pipeline, &halt).await {
        tracing::error!(place = failure.place, error = failure.what, "the way back has ended");
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

/// Asks a run that is under way to stop and waits for its end: one that died with this process
/// would leave blue closed until the next start. Past its point of no return it is not stopped, but
/// waited for.
async fn end_the_run<W: World + 'static>(service: &Arc<Service<W>>) {
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
pub(super) struct Tasks {
    alerting: Option<Alerting>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Tasks {
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(tokio::spawn(task));
    }

    /// Raises what there is to be raised, waits until all that is waiting was delivered, but not for long,
    /// and ends the tasks.
    pub async fn end(mut self) {
        if let Some(alerting) = self.alerting.take() {
            alerting.end(ALERT_GRACE).await;
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
