//! `replicator run` between two servers of MySQL or MariaDB.

use std::sync::Arc;

use cutover::lease::MysqlLease;
use cutover::login::Login;
use cutover::switch::Switch;
use cutover::{Defaults, Direction, MysqlPair, MysqlWorld, Service};
use decoders::mysql::server::ServerUrl;
use tokio::sync::watch;

use super::recovery::{guard_recovery, look_at_held_runs, recover};
use super::running::{
    Outset, both_shared, open_chronicle, pass_servers_on, stream_both, watchdog_of,
};
use crate::alerts;
use crate::config::Config;
use crate::controller::{BinlogReplication, Controller, MysqlController};
use crate::http::Api;
use crate::pipeline::Ends;
use crate::pipeline::failure::Failure;
use crate::pipeline::mysql::{
    BinlogPipeline, BinlogRoute, CopyFirst, Reading, replica_id, watch_server,
};
use crate::proxy::{self, Keeper};
use crate::status::Shared;
use crate::store::{RocksJournal, Store};
use crate::verify::Verifier;
use crate::verify::mysql::{BinlogPair, EngineStream};
use crate::watchdog::SidecarLease;

/// Runs until stopped, or halted by something that only a person can resolve.
///
/// # Errors
/// The failure that halted it.
pub(super) async fn run(
    config: Config,
    urls: [ServerUrl; 2],
    keeper: Option<Keeper>,
) -> Result<(), Failure> {
    let other = |store: &_| Ok(Store::stage(store)?.is_some().then_some("PostgreSQL"));
    let Outset { store, tenant, desk, quiesced: _quiesced } = Outset::of(&config, other).await?;
    let [blue, green] = &urls;
    let database = blue.database().or(green.database()).map(str::to_owned);
    let back_config = config.reversed();
    let [shared, back_shared] = both_shared(&config, [blue, green].map(Login::from));
    let stop = watch::Sender::new(false);
    let finished = [watch::Sender::new(false), watch::Sender::new(false)];
    let switch = Switch::new(&config.cutover, blue, green);
    let switch = switch
        .map_err(|error| Failure::halt("configuration", error.to_string(), "correct [cutover]"))?;
    let guard = watchdog_of(&config, Default::default())?;
    let journal = RocksJournal::new(store.clone()).watched_by(guard.clone());
    let chronicle = open_chronicle(&config.state_dir, &journal).await?;
    let journal = journal.chronicled_by(chronicle.clone());
    let pair = MysqlPair::new(blue, green, switch, journal.clone());
    let pair = Arc::new(pair.leased_to(&tenant, [&back_config.name, &config.name]));
    let ends = Ends { source: blue.clone(), target: green.clone(), direction: Direction::Forward };
    let engine =
        |config: &Config, ends: Ends<ServerUrl>, ours: &Arc<Shared>, other: &Arc<Shared>| {
            let [forward, back] = &finished;
            let finished = if ends.direction == Direction::Forward { forward } else { back };
            BinlogReplication::new(
                Arc::clone(ours),
                Arc::clone(other),
                store.towards(ends.direction),
                Arc::new(BinlogRoute::new(config.clone(), ends, Reading::default())),
                finished.clone(),
            )
        };
    let forward = engine(&config, ends.clone(), &shared, &back_shared);
    let back = engine(&back_config, ends.reversed(), &back_shared, &shared);
    for replication in [&forward, &back] {
        replication.take_role()?;
    }
    let world =
        |direction: Direction, replication: &BinlogReplication, way_back: &BinlogReplication| {
            let (replication, way_back) = (replication.clone(), way_back.clone());
            let deciding = if direction == Direction::Forward { green } else { blue };
            let row = MysqlLease::new(deciding.clone(), direction.to(), tenant.clone());
            let lease = SidecarLease::new(row, guard.clone(), journal.clone());
            Arc::new(MysqlWorld::new(direction, Arc::clone(&pair), replication, way_back, lease))
        };
    let service: Arc<MysqlController> = Service::both(
        world(Direction::Forward, &forward, &back),
        Some(world(Direction::Back, &back, &forward)),
        Defaults { watch: config.watch.window(), ..Defaults::default() },
    );

    let verified = |replication: &BinlogReplication| BinlogPair {
        source: replication.route.ends.source.clone(),
        target: replication.route.ends.target.clone(),
        database: database.clone(),
        tables: config.tables.clone(),
        stream: EngineStream {
            shared: Arc::clone(&replication.shared),
            reading: replication.route.reading.clone(),
        },
        store: replication.store.clone(),
        pipeline: replication.route.config.name.clone(),
        state_dir: config.state_dir.clone(),
    };
    let of_runs = Arc::downgrade(&service);
    let verifier = Verifier::of_binlog(
        [verified(&forward), verified(&back)],
        config.state_dir.clone(),
        Arc::new(move || of_runs.upgrade()?.current()),
    );
    let judge = verifier.clone();
    let judge = move |direction, requirement| judge.judge(direction, requirement);
    service.world().pair().judged_by(judge);
    let controller = Controller::Mysql(Arc::clone(&service));
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
        let (seen, ours) = (Arc::clone(&shared), replication.route.reading.clone());
        let source = Arc::clone(&replication.shared);
        let is_blue = replication.route.ends.direction == Direction::Forward;
        tasks.spawn(watch_server(
            replication.route.ends.source.clone(),
            move |session| ours.opened("probe", session),
            move |version, up| match is_blue {
                true => seen.blue_seen(version, up),
                false => seen.green_seen(version, up),
            },
            move |seconds| source.binlog_expires(seconds),
        ));
        let renewed = replication.clone();
        tasks.spawn(async move { renewed.renew().await });
    }
    let shown = Arc::clone(&service);
    let set = move |blue, green| shown.world().pair().set_servers(blue, green);
    tasks.spawn(pass_servers_on(Arc::clone(&shared), set));
    tracing::info!(
        pipeline = config.name,
        %blue,
        %green,
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
    tasks.spawn(cutover::watch::supervise(
        Arc::clone(&service),
        config.watch.clone(),
        [blue.into(), green.into()],
    ));
    let pipeline = |replication: &BinlogReplication, finished: &watch::Sender<bool>| {
        let route = &replication.route;
        let copies = route.ends.direction == Direction::Forward;
        BinlogPipeline {
            name: route.config.name.clone(),
            counterpart: route.config.counterpart(),
            source: route.ends.source.clone(),
            target: route.ends.target.clone(),
            start: None,
            copy: copies.then(|| CopyFirst::of(&config, &urls, replica_id(&config.name))),
            tables: config.tables.clone(),
            database: database.clone(),
            apply: config.apply.clone(),
            store: replication.store.clone(),
            shared: Arc::clone(&replication.shared),
            reading: route.reading.clone(),
            armed: Arc::clone(&route.armed),
            stop: stop.subscribe(),
            finished: finished.subscribe(),
        }
    };
    let streams = [pipeline(&forward, &finished[0]), pipeline(&back, &finished[1])];
    let [forward, back] = streams;
    let ended = stream_both(forward, back, &service, &stop, &config.halt).await;
    tasks.end().await;
    ended
}
