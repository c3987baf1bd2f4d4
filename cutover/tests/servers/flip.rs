//! PgBouncer, and whole runs with it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cutover::api::{Outcome, Severity, StartCutover};
use cutover::lag::LagReading;
use cutover::lease::Uncontested;
use cutover::marker::Token;
use cutover::ports::{
    Entry, Epoch, Journal, Leaks, MarkerDecoded, MarkerDurable, PortError, PortResult, Progress,
    Replication, TrafficSwitch,
};
use cutover::switch::{Switch, SwitchConfig};
use cutover::way_back::NoWayBack;
use cutover::{Defaults, Direction, Phase, PostgresPair, PostgresWorld, Service, Side};
use decoders::Lsn;
use decoders::postgres::session::connect_plain;
use tokio::sync::watch;
use tokio::time::Instant;

use super::support::{Login, PAUSE, PgBouncer, Postgres, deadline, number, text, until};

pub(super) const SCHEMA: &str = "CREATE TABLE t (id bigserial PRIMARY KEY); CREATE SCHEMA _cutover; \
    CREATE TABLE _cutover.marker (token text PRIMARY KEY); \
    CREATE PUBLICATION move FOR TABLE t, _cutover.marker";

pub(super) fn switch(members: &[&PgBouncer], blue: &Login, green: &Login) -> Switch {
    let text: String = members
        .iter()
        .map(|member| {
            format!(
                "[[pgbouncer]]\nadmin = \"{}\"\nconfig_file = \"{}\"\ndatabase = \"shop\"\n",
                member.client("pgbouncer").0,
                member.ini.display()
            )
        })
        .collect();
    let config: SwitchConfig = toml::from_str(&text).unwrap();
    Switch::new(&config, blue.info(), green.info()).unwrap()
}

#[test]
fn an_unknown_key_in_the_configuration_is_refused() {
    assert!(toml::from_str::<SwitchConfig>("[command]\nswich = [\"x\"]").is_err());
    let one = "[[haproxy]]\nsocket=\"/s\"\nbackend=\"be\"\nblue=\"a\"\ngreen=\"a\"\nclient=\"\"";
    assert!(toml::from_str::<SwitchConfig>(one).unwrap().validate().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pgbouncer_can_not_do_is_found_beforehand() {
    let server = Postgres::start().await;
    let blue = server.database("shop", SCHEMA).await;
    let green = server.database("green", SCHEMA).await;
    let session = PgBouncer::start("shop", server.port, "shop", "session").await;
    let checks = switch(&[&session], &blue, &green).inspect(Side::Blue, PAUSE).await.unwrap();
    let failed: Vec<_> = checks.iter().filter(|c| c.severity == Severity::Fail).collect();
    assert_eq!(failed.len(), 1, "{checks:#?}");
    assert!(failed[0].evidence.contains("session mode"));

    let elsewhere = PgBouncer::start("shop", server.port, "green", "transaction").await;
    let checks = switch(&[&elsewhere], &blue, &green).inspect(Side::Blue, PAUSE).await.unwrap();
    let failed: Vec<_> = checks.iter().filter(|c| c.severity == Severity::Fail).collect();
    assert!(failed[0].evidence.contains("does not lead to blue"), "{checks:#?}");

    let other = PgBouncer::start("other", server.port, "shop", "transaction").await;
    let checks = switch(&[&other], &blue, &green).inspect(Side::Blue, PAUSE).await.unwrap();
    assert!(checks.iter().any(|c| c.evidence.contains("no database shop")), "{checks:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stays_in_its_transaction_stops_the_hold_and_goes_on_afterwards() {
    let server = Postgres::start().await;
    let blue = server.database("shop", SCHEMA).await;
    let green = server.database("green", SCHEMA).await;
    let bouncer = PgBouncer::start("shop", server.port, "shop", "transaction").await;
    let switch = switch(&[&bouncer], &blue, &green);
    switch.arm(Side::Green, deadline()).await.unwrap();
    let client = bouncer.client("shop").open().await;
    client.batch_execute("BEGIN; INSERT INTO t DEFAULT VALUES").await.unwrap();
    let soon = Instant::now() + Duration::from_millis(300);
    let error = switch.hold(Epoch(1), soon).await.unwrap_err();
    assert!(error.what.contains("1 server connections"), "{error}");
    switch.release(Epoch(1), deadline()).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    // And again, with nobody in the way; twice, because acts are repeated.
    for _ in 0..2 {
        switch.hold(Epoch(2), deadline()).await.unwrap();
    }
    for _ in 0..2 {
        switch.release(Epoch(2), deadline()).await.unwrap();
    }
    assert_eq!(number(&client, "SELECT count(*) FROM t").await, 1);
}

/// An engine whose markers come back at once, and that copies only while the gate counts rows: what
/// it would have copied otherwise is not the matter here.
struct Engine {
    blue: Login,
    green: Login,
    /// The last row of blue's that was copied.
    copied: AtomicU64,
    progress: watch::Sender<Progress>,
    fail_marker: AtomicBool,
    finished: AtomicBool,
}

impl Engine {
    fn new(blue: &Login, green: &Login) -> Self {
        let lag = LagReading {
            at: Instant::now(),
            seconds: Some(0.0),
            bytes: Some(0),
            transactions: 0,
            drain_estimate_seconds: Some(0.0),
            reason: None,
        };
        let progress = Progress { lag, blocked: None, transactions_per_second: None };
        Self {
            blue: blue.clone(),
            green: green.clone(),
            copied: AtomicU64::new(0),
            progress: watch::Sender::new(progress),
            fail_marker: AtomicBool::new(false),
            finished: AtomicBool::new(false),
        }
    }
}

impl Replication for Engine {
    fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.send_modify(|progress| {
            progress.lag.at = Instant::now() + Duration::from_secs(60);
        });
        self.progress.subscribe()
    }
    async fn arm(&self, _: &Token) -> PortResult<()> {
        Ok(())
    }
    async fn await_marker(&self, token: &Token, _: Instant) -> PortResult<MarkerDurable> {
        if self.fail_marker.load(Ordering::SeqCst) {
            return Err(PortError::new("stream", "the stream was lost"));
        }
        Ok(MarkerDurable { token: token.clone(), end_lsn: Lsn(1), durable: Lsn(1) })
    }
    async fn await_decoded(&self, token: &Token, _: Instant) -> PortResult<MarkerDecoded> {
        Ok(MarkerDecoded { token: token.clone(), end_lsn: Lsn(2), leaks: Leaks::default() })
    }
    async fn await_applied(&self, _: Lsn, _: Instant) -> PortResult<()> {
        let last = text(&self.blue.open().await, "SELECT string_agg(id::text, ',') FROM t").await;
        let green = self.green.open().await;
        let copy = format!(
            "INSERT INTO t SELECT unnest('{{{}}}'::bigint[]) EXCEPT SELECT id FROM t",
            last.unwrap_or_default()
        );
        green.batch_execute(&copy).await.unwrap();
        let copied = number(&green, "SELECT coalesce(max(id), 0) FROM t").await;
        self.copied.store(copied as u64, Ordering::SeqCst);
        Ok(())
    }
    fn leaks(&self) -> Leaks {
        Leaks::default()
    }
    async fn release(&self, _: &Token) -> PortResult<()> {
        Ok(())
    }
    async fn finish(&self, _: &Token) -> PortResult<()> {
        self.finished.store(true, Ordering::SeqCst);
        Ok(())
    }
}

#[derive(Default)]
struct Memory(Mutex<Vec<Entry>>);

impl Journal for Memory {
    async fn append(&self, entry: &Entry) -> PortResult<()> {
        self.0.lock().unwrap().push(entry.clone());
        Ok(())
    }
    async fn read_all(&self) -> PortResult<Vec<Entry>> {
        Ok(self.0.lock().unwrap().clone())
    }
}

/// Clients through the routers that never stop and never want to see an error.
struct Clients {
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Clients {
    fn start(routers: &[Login]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let writes = Arc::new(AtomicU64::new(0));
        let tasks = (0..6)
            .map(|at| {
                let login = routers[at % routers.len()].clone();
                let (stop, writes) = (stop.clone(), writes.clone());
                tokio::spawn(async move {
                    let session = connect_plain(&login.info(), "app").await.unwrap();
                    let mut errors = Vec::new();
                    while !stop.load(Ordering::SeqCst) && errors.is_empty() {
                        match session.batch_execute("INSERT INTO t DEFAULT VALUES").await {
                            Ok(()) => {
                                writes.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(error) => errors.push(error.to_string()),
                        }
                    }
                    errors
                })
            })
            .collect();
        Self { stop, writes, tasks }
    }

    async fn more(&self) {
        let goal = self.writes.load(Ordering::SeqCst) + 100;
        until("clients write", || async {
            self.writes.load(Ordering::SeqCst) >= goal
                || self.tasks.iter().any(|task| task.is_finished())
        })
        .await;
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            assert_eq!(task.await.unwrap(), Vec::<String>::new(), "a client saw an error");
        }
        self.writes.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_aborts_without_a_trace_and_the_next_one_moves_every_client() {
    let (server, other) = tokio::join!(Postgres::start(), Postgres::start());
    let blue = server.database("shop", SCHEMA).await;
    let green = other.database("shop", SCHEMA).await;
    let bouncers = [
        PgBouncer::start("shop", server.port, "shop", "transaction").await,
        PgBouncer::start("shop", server.port, "shop", "transaction").await,
    ];
    let before: Vec<_> =
        bouncers.iter().map(|bouncer| std::fs::read_to_string(&bouncer.ini).unwrap()).collect();
    let switch = switch(&[&bouncers[0], &bouncers[1]], &blue, &green);
    let pair =
        PostgresPair::new(&blue.info(), &green.info(), ["move", "move"], switch, Memory::default());
    let world = PostgresWorld::new(
        Direction::Forward,
        Arc::new(pair),
        Engine::new(&blue, &green),
        NoWayBack,
        Uncontested,
    );
    let service = Service::new(Arc::new(world), Defaults::default());
    service.recover().await.unwrap();
    let clients = Clients::start(&[bouncers[0].client("shop"), bouncers[1].client("shop")]);
    clients.more().await;

    let plan = service.plan(Default::default()).await.unwrap();
    assert!(plan.ready, "{:#?}", plan.checks);
    assert!(plan.acts.iter().any(|act| act.text == "PAUSE \"shop\""));
    let fenced = "nobody is left who could write to \"public\".\"t\"";
    assert!(plan.acts.iter().any(|act| act.text.contains(fenced)));
    assert!(plan.acts.iter().any(|act| act.text.contains("_cutover.decision")));

    let start = || StartCutover {
        when_lag: Some("<1s".into()),
        for_ms: Some(0),
        confirmation: Some("shop".into()),
        ..StartCutover::default()
    };
    let refused = service.start(StartCutover { confirmation: None, ..start() }).await;
    assert!(refused.unwrap_err().what.contains("shop"));

    // The stream is lost in the middle: everything goes back.
    service.world().as_ref().engine().fail_marker.store(true, Ordering::SeqCst);
    let status = service.start(start()).await.unwrap();
    assert!(service.start(start()).await.is_err(), "two runs at once");
    let report = ended(&service, &status.run).await;
    assert_eq!(report.outcome, Outcome::Aborted, "{report:#?}");
    clients.more().await;
    for (bouncer, before) in bouncers.iter().zip(&before) {
        assert_eq!(std::fs::read_to_string(&bouncer.ini).unwrap(), *before);
    }
    let session = server.info("postgres").open().await;
    let traces = "SELECT count(*) FROM pg_db_role_setting";
    assert_eq!(number(&session, traces).await, 0);

    // And now to the end.
    service.world().as_ref().engine().fail_marker.store(false, Ordering::SeqCst);
    let status = service.start(start()).await.unwrap();
    let report = ended(&service, &status.run).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(report.epoch, 2);
    assert!(report.routers.len() == 2 && report.routers.iter().all(|member| member.verified));
    println!("write pause {:?} ms: {:#?}", report.pause_ms, report.steps);
    // Blue is sealed: seen from outside, nobody is inside, ourselves included.
    until("the last session of ours has left blue", || async {
        let inside = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop'";
        number(&session, inside).await == 0
    })
    .await;
    assert_eq!(report.fence_proof.as_deref().map(|proof| &proof[..10]), Some("xid frozen"));
    clients.more().await;
    let writes = clients.end().await;
    let copied = service.world().as_ref().engine().copied.load(Ordering::SeqCst);
    let theirs = format!("FROM t WHERE id > {copied}");
    let on_green = number(&green.open().await, &format!("SELECT count(*) {theirs}")).await;
    assert!(on_green >= 100, "{on_green} of {writes} writes are on green");
    let first = text(&green.open().await, &format!("SELECT min(id) {theirs}")).await.unwrap();
    // The sequence went on where blue's stood, so no key of blue can come twice.
    assert_eq!(first.parse::<i64>().unwrap() + on_green - 1, writes as i64);
    assert_eq!(service.history().await.unwrap().runs.len(), 2);
    assert!(connect_plain(&blue.info(), "app").await.is_err(), "blue is open");
    assert_eq!(service.current().unwrap().phase, Phase::Done);
}

trait EngineOf {
    fn engine(&self) -> &Engine;
}

impl EngineOf for PostgresWorld<Memory, Engine> {
    fn engine(&self) -> &Engine {
        cutover::ports::World::replication(self)
    }
}

async fn ended(
    service: &Arc<Service<PostgresWorld<Memory, Engine>>>,
    run: &str,
) -> cutover::api::RunReport {
    let mut after = 0;
    loop {
        let update = service.update(run, after, Duration::from_secs(5)).await.unwrap();
        after = update.status.last_event;
        if let Some(report) = update.status.report {
            return report;
        }
    }
}
