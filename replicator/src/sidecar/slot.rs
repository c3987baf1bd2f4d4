//! `replicator run` between two PostgreSQL databases.

use std::sync::Arc;

use cutover::lease::PostgresLease;
use cutover::login::Login;
use cutover::switch::Switch;
use cutover::{Defaults, Direction, PostgresPair, PostgresWorld, Service};
use tokio::sync::watch;

use super::endpoints;
use super::recovery::{guard_recovery, look_at_held_runs, recover};
use super::running::{
    Outset, both_shared, open_chronicle, pass_servers_on, stream_both, watchdog_of,
};
use crate::alerts;
use crate::backfill::ProgressSender;
use crate::config::Config;
use crate::controller::{Controller, PostgresController};
use crate::controlling::EngineReplication;
use crate::door::Door;
use crate::http::Api;
use crate::pipeline::arming::SlotRoute;
use crate::pipeline::failure::Failure;
use crate::pipeline::{Ends, Firing, Pipeline, ReaderChoice, keep_triggers};
use crate::probe;
use crate::protect::wal;
use crate::proxy::{self, Keeper};
use crate::status::Shared;
use crate::store::{RocksJournal, Store};
use crate::verify::{Verifier, precheck};
use crate::watchdog::SidecarLease;

/// Runs until stopped, or halted by something that only a person can resolve.
///
/// # Errors
/// The failure that halted it.
pub(super) async fn run(config: Config, keeper: Option<Keeper>) -> Result<(), Failure> {
    let (blue, green) = endpoints(&config)?;
    let other =
        |store: &_| Ok(Store::binlog_stream(store)?.is_some().then_some("MySQL or MariaDB"));
    let Outset { store, tenant, desk, quiesced: _quiesced } = Outset::of(&config, other).await?;
    let back_config = config.reversed();
    let [shared, back_shared] = both_shared(&config, [&blue, &green].map(Login::from));
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
    let pair = Arc::new(pair.leased_to(&tenant, [&back_config.name, &config.name]));
    let door = Door::new(Arc::clone(&pair), journal.clone());
    let ends = Ends { source: blue.clone(), target: green.clone(), direction: Direction::Forward };
    let firing = Arc::<Firing>::default();
    let engine = |config: &Config, ends: Ends, ours: &Arc<Shared>, other: &Arc<Shared>| {
        let [forward, back] = &finished;
        let finished = if ends.direction == Direction::Forward { forward } else { back };
        EngineReplication::new(
            Arc::clone(ours),
            Arc::clone(other),
            store.towards(ends.direction),
            Arc::new(SlotRoute::new(config.clone(), ends, door.clone(), Arc::clone(&firing))),
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

    let of_runs = Arc::downgrade(&service);
    let verifier = Verifier::new(
        forward.clone(),
        back.clone(),
        Arc::new(move || of_runs.upgrade()?.current()),
    );
    let judge = verifier.clone();
    let judge = move |direction, requirement| judge.judge(direction, requirement);
    service.world().pair().judged_by(judge);
    let streams = [forward.clone(), back.clone()];
    service.world().pair().compared_by(move |direction, deadline| {
        let [forward, back] = streams.clone();
        let stream = if direction == Direction::Forward { forward } else { back };
        async move { precheck::compare(&stream, deadline).await }
    });
    let controller = Controller::Postgres(Arc::clone(&service));
    let proxy = keeper.as_ref().map(Keeper::pulse).unwrap_or_default();
    let beside = alerts::Beside { audit: chronicle.audit().clone(), proxy };
    let both = [&shared, &back_shared];
    let source = alerts::Source::of(both, &controller, &verifier, beside, &config);
    let api = Api {
        shared: Arc::clone(&shared),
        back: Arc::clone(&back_shared),
        verifier,
        service: controller,
        source,
        chronicle,
    };
    let mut tasks = desk.serve(&config, api, &stop);
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
    let recovered = recover(&service, &shared, &guard, stop.subscribe(), &config.halt).await;
    if let Err(failure) = recovered {
        tasks.end().await;
        return Err(failure);
    }
    door.recovered();
    tasks.spawn(cutover::watch::supervise(
        Arc::clone(&service),
        config.watch.clone(),
        [(&blue).into(), (&green).into()],
    ));
    for replication in [&forward, &back] {
        let (route, streams) = (Arc::clone(&replication.route), both.map(Arc::clone));
        tasks.spawn(keep_triggers(route, streams));
    }
    let pipeline = |replication: &EngineReplication, finished: &watch::Sender<bool>| Pipeline {
        config: replication.route.config.clone(),
        ends: replication.route.ends.clone(),
        door: door.clone(),
        armed: Arc::clone(&replication.route.armed),
        firing: Arc::clone(&firing),
        store: replication.store.clone(),
        shared: Arc::clone(&replication.shared),
        copied: ProgressSender::default(),
        choice: ReaderChoice::default(),
        log_told: wal::Level::default(),
        stop: stop.subscribe(),
        finished: finished.subscribe(),
    };
    let streams = [pipeline(&forward, &finished[0]), pipeline(&back, &finished[1])];
    let [forward, back] = streams;
    let ended = stream_both(forward, back, &service, &stop, &config.halt).await;
    tasks.end().await;
    ended
}
