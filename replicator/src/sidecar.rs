//! The commands: what each starts, and how each ends.

mod binlog;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cutover::controller::{Recovery, Standing};
use cutover::lease::PostgresLease;
use cutover::ports::{Journal, PortError, World};
use cutover::switch::Switch;
use cutover::{Defaults, Direction, Phase, PostgresPair, PostgresWorld, Service, api};
use decoders::postgres::conninfo::ConnInfo;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::alerts;
use crate::backfill::ProgressSender;
use crate::check::mysql::BinlogCheckRequest;
use crate::chronicle::Chronicle;
use crate::cli::{CheckArgs, PipelineArgs, TailArgs, TeardownArgs};
use crate::config::Config;
use crate::controller::{Controller, PostgresController};
use crate::controlling::EngineReplication;
use crate::door::Door;
use crate::engine::intake::Budget;
use crate::http::{self, Api, Token};
use crate::pipeline::arming::SlotRoute;
use crate::pipeline::failure::{EXIT_ERROR, Failure};
use crate::pipeline::preflight::{Moment, preflight};
use crate::pipeline::{
    Attempts, Ended, Ends, Pipeline, ReaderChoice, live, mysql, teardown as removal,
};
use crate::proxy::{self, Keeper};
use crate::status::Shared;
use crate::store::{RocksJournal, Store};
use crate::verify::Verifier;
use crate::watchdog::protocol::Hello;
use crate::watchdog::{Guard, SidecarLease, turn};
use crate::{check, probe, tail as tailing};

/// Exit code for a command line or a configuration that can't be used.
const EXIT_USAGE: u8 = 2;
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
/// Exit code after a second signal.
const EXIT_KILLED: i32 = 130;

/// `replicator run`.
pub async fn run(args: &PipelineArgs) -> u8 {
    let config = match args.resolve() {
        Ok(config) => config,
        Err(error) => return usage(&error),
    };
    let keeper = Keeper::new(args, &config);
    let ran = match config.mysql_urls() {
        Ok(Some(urls)) => binlog::run(config, urls).await.map_err(|mut failure| {
            // Unlike a slot, a binlog does not wait for whoever reads it.
            let state = "replication stopped; blue is serving, and its binlogs go when they expire \
                         (binlog_expire_logs_seconds)";
            failure.state.get_or_insert_with(|| state.to_owned());
            failure
        }),
        Ok(None) => run_pipeline(config, keeper).await,
        Err(problem) => return usage(&problem),
    };
    match ran {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("{}", failure.report());
            failure.exit_code
        }
    }
}

/// `replicator check`.
pub async fn check(args: &CheckArgs) -> u8 {
    let config = match args.pipeline.resolve() {
        Ok(config) => config,
        Err(error) => return usage(&error),
    };
    let report = match config.mysql_urls() {
        Ok(Some([blue, green])) => {
            let request = BinlogCheckRequest::of(&config, &blue, &green);
            check::mysql::check(&request, &blue, &green).await
        }
        Ok(None) => match endpoints(&config) {
            Ok((blue, green)) => preflight(&config, &blue, &green, Moment::Any).await.report,
            Err(failure) => return usage(&failure),
        },
        Err(problem) => return usage(&problem),
    };
    if args.json {
        match serde_json::to_string(&report) {
            Ok(json) => println!("{json}"),
            Err(error) => return usage(&error),
        }
    } else {
        println!("{report}");
    }
    report.exit_code()
}

/// `replicator tail`.
pub async fn tail(args: &TailArgs) -> u8 {
    let stop = watch::Sender::new(false);
    let stopped = stop.subscribe();
    let ended = tokio::select! {
        ended = tailing::tail(args, stopped) => ended,
        () = stop_on_signals(stop) => unreachable!("passes the stop on and never returns"),
    };
    match ended {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("{}", failure.report());
            failure.exit_code
        }
    }
}

/// `replicator teardown`.
pub async fn teardown(args: &TeardownArgs) -> u8 {
    let config = match args.pipeline.resolve() {
        Ok(config) => config,
        Err(error) => return usage(&error),
    };
    let urls = match config.mysql_urls() {
        Ok(urls) => urls,
        Err(problem) => return usage(&problem),
    };
    if !args.yes && urls.is_some() {
        eprintln!(
            "This removes our own tables (_cutover) from both servers and forgets the pipeline: it can't be \
             resumed. Copied data stays on green.\nRun it again with --yes."
        );
        return EXIT_USAGE;
    }
    if !args.yes {
        eprintln!(
            "This removes slot {}, publication {}, the way back and our own tables, and forgets the pipeline: it \
             can't be resumed. Copied data stays on green.\nRun it again with --yes.",
            config.slot(),
            config.publication()
        );
        return EXIT_USAGE;
    }
    let removed = match &urls {
        Some(urls) => mysql::teardown(&config, urls).await,
        None => removal::teardown(&config).await,
    };
    match removed {
        Ok(done) => {
            for line in done {
                println!("{line}");
            }
            0
        }
        Err(failure) => {
            eprintln!(
                "error: {}\n  state: what is left is still there; the other parts are removed\n  \
                 data:  safe\n  next:  replicator teardown --yes, again",
                failure.what
            );
            EXIT_ERROR
        }
    }
}

fn usage(error: &dyn std::fmt::Display) -> u8 {
    eprintln!("error: {error}");
    EXIT_USAGE
}

fn endpoints(config: &Config) -> Result<(ConnInfo, ConnInfo), Failure> {
    let wrong = |problem: String| Failure::halt("configuration", problem, "correct it");
    Ok((config.blue.resolve("blue").map_err(wrong)?, config.green.resolve("green").map_err(wrong)?))
}

async fn run_pipeline(config: Config, keeper: Option<Keeper>) -> Result<(), Failure> {
    let (blue, green) = endpoints(&config)?;
    let token = config.api.token_file.as_deref().map(Token::read).transpose();
    let token =
        token.map_err(|problem| Failure::halt("configuration", problem, "write a token"))?;
    let store = open_store(&config.state_dir).await?;
    if store.binlog_stream()?.is_some() {
        return Err(of_another_engine(&store, "MySQL or MariaDB"));
    }
    turn::settle(&config.state_dir).await;
    let tenant = turn::tenant(&config.name, &config.state_dir).map_err(|error| {
        let what = format!("{}: {error}", config.state_dir.display());
        Failure::halt("state directory", what, "make it writable for the sidecar")
    })?;
    let _quiesced = Quiesced(store.clone());
    let listener = http::bind(config.api.listen).await.map_err(|error| {
        Failure::halt(
            "api",
            format!("{} can't be listened on: {error}", config.api.listen),
            "stop what listens there, or choose another api.listen",
        )
    })?;
    let server = |info: &ConnInfo| api::Server {
        url: info.redacted(),
        database: info.dbname().to_owned(),
        version: None,
        up: false,
    };
    let budget = Budget::new(config.apply.memory_bytes);
    let back_config = config.reversed();
    let shared = Arc::new(Shared::new(
        config.name.clone(),
        Direction::Forward,
        server(&blue),
        server(&green),
        budget.clone(),
    ));
    let back_shared = Arc::new(Shared::new(
        back_config.name.clone(),
        Direction::Back,
        server(&green),
        server(&blue),
        budget,
    ));
    let stop = watch::Sender::new(false);
    let finished = [watch::Sender::new(false), watch::Sender::new(false)];
    let switch = Switch::new(&config.cutover, &blue, &green);
    let switch = switch
        .map_err(|error| Failure::halt("configuration", error.to_string(), "correct [cutover]"))?;
    let publications = [config.publication(), back_config.publication()];
    let guard = watchdog_of(&config, publications.clone())?;
    let journal = RocksJournal::new(store.clone()).watched_by(guard.clone());
    let chronicle = open_chronicle(&config.state_dir, &journal).await?;
    let journal = journal.chronicled_by(chronicle.clone());
    let [on_blue, on_green] = publications.each_ref().map(String::as_str);
    let pair = PostgresPair::new(&blue, &green, [on_blue, on_green], switch, journal.clone());
    let pair = Arc::new(pair.leased_to(&tenant));
    let door = Door::new(Arc::clone(&pair), journal.clone());
    let ends = Ends { source: blue.clone(), target: green.clone(), direction: Direction::Forward };
    let engine = |config: &Config, ends: Ends, ours: &Arc<Shared>, other: &Arc<Shared>| {
        let [forward, back] = &finished;
        let finished = if ends.direction == Direction::Forward { forward } else { back };
        EngineReplication::new(
            Arc::clone(ours),
            Arc::clone(other),
            store.towards(ends.direction),
            Arc::new(SlotRoute::new(config.clone(), ends, door.clone())),
            finished.clone(),
        )
    };
    let forward = engine(&config, ends.clone(), &shared, &back_shared);
    let back = engine(&back_config, ends.reversed(), &back_shared, &shared);
    for replication in [&forward, &back] {
        replication.take_role()?;
    }
    let world =
        |direction: Direction, replication: &EngineReplication, way_back: &EngineReplication| {
            let (replication, way_back) = (replication.clone(), way_back.clone());
            let pair = Arc::clone(&pair);
            let deciding = if direction == Direction::Forward { &green } else { &blue };
            let row = PostgresLease::new(deciding.clone(), direction.to(), tenant.clone());
            let lease = SidecarLease::new(row, guard.clone(), journal.clone());
            Arc::new(PostgresWorld::new(direction, pair, replication, way_back, lease))
        };
    let service: Arc<PostgresController> = Service::both(
        world(Direction::Forward, &forward, &back),
        Some(world(Direction::Back, &back, &forward)),
        Defaults { watch: config.watch.window(), ..Defaults::default() },
    );

    let mut tasks = Tasks::default();
    let of_runs = Arc::clone(&service);
    let verifier =
        Verifier::new(forward.clone(), back.clone(), Arc::new(move || of_runs.current()));
    let api = Api {
        shared: Arc::clone(&shared),
        back: Arc::clone(&back_shared),
        verifier,
        service: Controller::Postgres(Arc::clone(&service)),
        chronicle,
    };
    tasks.spawn(http::serve(listener, api, token, stop.subscribe()));
    tasks.spawn(stop_on_signals(stop.clone()));
    if let Some(keeper) = keeper {
        tasks.spawn(proxy::keep(keeper));
    }
    for replication in [&forward, &back] {
        let (shared, route) = (&replication.shared, &replication.route);
        let source = || (Arc::clone(shared), route.ends.source.clone(), door.clone());
        let (of_head, from, through) = source();
        tasks.spawn(probe::watch_head(of_head, from, through));
        let (of_slot, from, through) = source();
        tasks.spawn(probe::watch_slot(of_slot, from, through, route.config.slot()));
        let renewed = replication.clone();
        tasks.spawn(async move { renewed.renew().await });
    }
    tasks.spawn(probe::watch_green(Arc::clone(&shared), green.clone(), door.clone()));
    let failed = Arc::clone(&shared);
    let both = [Arc::clone(&shared), Arc::clone(&back_shared)];
    let runs = Controller::Postgres(Arc::clone(&service));
    tasks.spawn(alerts::watch(
        config.alerts.clone(),
        config.name.clone(),
        move || alerts::read(&both[0], &both[1], &runs),
        move || failed.alert_failed(),
    ));
    let shown = Arc::clone(&service);
    let set = move |blue, green| shown.world().pair().set_servers(blue, green);
    tasks.spawn(pass_servers_on(Arc::clone(&shared), set));
    tracing::info!(
        pipeline = config.name,
        blue = blue.redacted(),
        green = green.redacted(),
        api = %config.api.listen,
        "replicator {}",
        env!("CARGO_PKG_VERSION")
    );

    guard_recovery(&guard, &journal).await;
    tasks.spawn(look_at_held_runs(Arc::clone(&service)));
    recover(&service, &shared, &guard, stop.subscribe()).await?;
    door.recovered();
    tasks.spawn(cutover::watch::supervise(
        Arc::clone(&service),
        config.watch.clone(),
        [(&blue).into(), (&green).into()],
    ));
    let name = config.name.clone();
    let pipeline = |replication: &EngineReplication, finished: &watch::Sender<bool>| Pipeline {
        config: replication.route.config.clone(),
        ends: replication.route.ends.clone(),
        door: door.clone(),
        armed: Arc::clone(&replication.route.armed),
        store: replication.store.clone(),
        shared: Arc::clone(&replication.shared),
        copied: ProgressSender::default(),
        choice: ReaderChoice::default(),
        stop: stop.subscribe(),
        finished: finished.subscribe(),
    };
    let way_back = tokio::spawn(run_back(pipeline(&back, &finished[1]), stop.subscribe()));
    let mut carrying = pipeline(&forward, &finished[0]);
    let ended = tokio::select! {
        ended = carrying.run() => ended,
        // What it would stream belongs to somebody else.
        failure = until_superseded(&service) => Err(failure),
    };
    end_the_run(&service).await;
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
fn watchdog_of(config: &Config, publications: [String; 2]) -> Result<Guard, Failure> {
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
async fn guard_recovery(guard: &Guard, journal: &RocksJournal) {
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
async fn pass_servers_on(shared: Arc<Shared>, set: impl Fn(api::Server, api::Server)) {
    let mut tick = tokio::time::interval(SERVERS_INTERVAL);
    loop {
        tick.tick().await;
        let status = shared.status(None);
        set(status.blue, status.green);
    }
}

/// Before anything streams: a cutover that a crash interrupted is put back or finished.
async fn recover<W: World + 'static>(
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
async fn until_superseded<W: World + 'static>(service: &Service<W>) -> Failure {
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
async fn look_at_held_runs<W: World + 'static>(service: Arc<Service<W>>) {
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
async fn open_chronicle(path: &Path, journal: &RocksJournal) -> Result<Chronicle, Failure> {
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

/// Turns SIGTERM and SIGINT into the stop; never returns.
async fn stop_on_signals(stop: watch::Sender<bool>) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals can't be received; stop with SIGKILL, which is safe");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; a second signal ends it at once");
    stop.send_replace(true);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    std::process::exit(EXIT_KILLED)
}

/// Ends the store's own threads with the run, however it ends.
struct Quiesced(Store);

impl Drop for Quiesced {
    fn drop(&mut self) {
        self.0.quiesce();
    }
}

/// Tasks that end with their owner.
#[derive(Default)]
struct Tasks(Vec<tokio::task::JoinHandle<()>>);

impl Tasks {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
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
