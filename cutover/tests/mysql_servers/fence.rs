//! The fence: what passes other fences does not pass it, and it leaves no trace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cutover::Side;
use cutover::api::Severity;
use cutover::evidence::Fenced;
use cutover::fence::{MysqlFence, MysqlUndo};
use cutover::lease::Tenant;
use cutover::marker::Token;
use cutover::ports::{Epoch, Fence};
use decoders::mysql::server::{ServerUrl, connect};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::support::{Site, Version, deadline, open, settings, text, until};

/// Clients that write and reconnect at once.
struct Storm {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    /// Of each client: who has begun another one has counted what it was told before.
    attempts: Vec<Arc<AtomicU64>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Storm {
    fn start(accounts: &[ServerUrl]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut attempts = Vec::new();
        let tasks = accounts.iter().flat_map(|url| {
            [false, true].map(|in_transaction| {
                let (stop, acknowledged, attempted) =
                    (stop.clone(), acknowledged.clone(), Arc::new(AtomicU64::new(0)));
                attempts.push(attempted.clone());
                let url = url.clone();
                tokio::spawn(async move {
                    while !stop.load(Ordering::SeqCst) {
                        attempted.fetch_add(1, Ordering::SeqCst);
                        let Ok(mut session) = connect(&url).await else {
                            tokio::task::yield_now().await;
                            continue;
                        };
                        for _ in 0..50 {
                            match write(&mut session, in_transaction).await {
                                Ok(()) => acknowledged.fetch_add(1, Ordering::SeqCst),
                                Err(_) => break,
                            };
                        }
                    }
                })
            })
        });
        let tasks = tasks.collect();
        Self { stop, acknowledged, attempts, tasks }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until each client has begun so many more attempts.
    async fn more(&self, attempts: u64) {
        let now = || self.attempts.iter().map(|one| one.load(Ordering::SeqCst));
        let goals: Vec<u64> = now().map(|begun| begun + attempts).collect();
        let reached = || now().zip(&goals).all(|(begun, goal)| begun >= *goal);
        until("the storm goes on", || async { reached() }).await;
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.acknowledged.load(Ordering::SeqCst)
    }
}

async fn write(session: &mut Conn, in_transaction: bool) -> Result<(), mysql_async::Error> {
    let insert = "INSERT INTO shop.a (who) VALUES ('storm')";
    if !in_transaction {
        return session.query_drop(insert).await;
    }
    session.query_drop("START TRANSACTION READ WRITE").await?;
    session.query_drop(insert).await?;
    session.query_drop("COMMIT").await
}

const ROWS: &str = "SELECT count(*) FROM shop.a";
const STORMED: &str = "SELECT count(*) FROM shop.a WHERE who = 'storm'";

async fn nothing_passes_the_fence_and_lowering_it_leaves_no_trace(version: Version) {
    let site = Site::with(version, &["--event-scheduler=ON"]);
    let mut boss = open(&site.boss()).await;
    let event = "CREATE EVENT shop.e ON SCHEDULE EVERY 1 SECOND \
                 DO INSERT INTO shop.a (who) VALUES ('event')";
    boss.query_drop(event).await.unwrap();
    let before = settings(&site).await;
    let fence = MysqlFence::new(site.mover());
    let checks = fence.inspect().await.unwrap();
    assert!(checks.iter().all(|check| check.severity != Severity::Fail), "{checks:#?}");
    let named = checks.iter().find(|check| check.name == "fence-accounts").unwrap();
    assert!(
        named.evidence.contains("'boss'@'%'") && !named.evidence.contains("'app'"),
        "{named:?}"
    );
    let undo = fence.prepare().await.unwrap();
    assert!(undo.accounts.contains(&"'boss'@'%'".to_owned()));
    assert_eq!(undo.accounts.contains(&"'app'@'%'".to_owned()), version.is_mariadb());

    // An open transaction that has written, a statement that runs, a superuser's, and a storm.
    let mut writer = open(&site.app()).await;
    writer.query_drop("START TRANSACTION").await.unwrap();
    writer.query_drop("INSERT INTO shop.a (who) VALUES ('open')").await.unwrap();
    let writers = fence.writers().await.unwrap();
    assert!(writers.oldest.unwrap() < Duration::from_secs(20), "{writers:?}");
    assert!(writers.oldest_who.unwrap().contains(" of app from "));
    let mut long = open(&site.app()).await;
    let long = tokio::spawn(async move {
        long.query_drop("INSERT INTO shop.a (who) SELECT sleep(1000) FROM shop.a LIMIT 1").await
    });
    let mut talker = open(&site.app()).await;
    talker.query_drop("START TRANSACTION").await.unwrap();
    talker.query_drop("INSERT INTO shop.a (who) VALUES ('talker')").await.unwrap();
    let id = talker.id();
    let talker =
        tokio::spawn(async move { talker.query_drop("SELECT sleep(1000), '\u{1f600}'").await });
    // Its text has a character that MySQL's `information_schema` can't show.
    let mut watcher = open(&site.mover()).await;
    let schema = if version.is_mariadb() { "information_schema" } else { "performance_schema" };
    let asleep = format!(
        "SELECT count(*) FROM {schema}.processlist WHERE state = 'User sleep' AND id = {id}"
    );
    while text(&mut watcher, &asleep).await != "1" {}
    let writers = fence.writers().await.unwrap();
    assert!(writers.oldest_who.unwrap().contains(" of app from "));
    drop(watcher);
    let storm = Storm::start(&[site.app(), site.boss()]);
    until("the storm writes", || async { storm.acknowledged() > 200 }).await;

    let began = std::time::Instant::now();
    let report = fence.raise(&undo, deadline()).await.unwrap();
    println!("{version:?}: the fence was up after {:?}", began.elapsed());
    storm.more(1).await;
    let acknowledged = storm.acknowledged();
    Fenced::prove(Epoch(1), Side::Blue, &report).unwrap();
    // MySQL's own mode ends those of ordinary accounts; superusers' are left to us.
    let at_least = if version.is_mariadb() { 3 } else { 1 };
    assert!(report.sessions_closed >= at_least && report.position.is_some(), "{report:?}");
    let mut counting = open(&site.mover()).await;
    let rows = text(&mut counting, ROWS).await;
    let stormed = text(&mut counting, STORMED).await.parse::<u64>().unwrap();
    assert!(stormed >= acknowledged, "{stormed} rows, {acknowledged} acknowledged");
    let token = Token::draining("test", Epoch(1));
    let first = fence.mark(&token, deadline()).await.unwrap();
    assert_eq!(first.xid, report.next_xid);

    // Each way in is tried again and again.
    storm.more(50).await;
    assert_eq!(text(&mut counting, ROWS).await, rows);
    assert_eq!(storm.acknowledged(), acknowledged, "a write was acknowledged behind the fence");
    for url in [site.app(), site.boss()] {
        assert!(connect(&url).await.is_err(), "{url}");
    }
    assert!(writer.query_drop("COMMIT").await.is_err());
    assert!(boss.query_drop("INSERT INTO shop.a (who) VALUES ('boss')").await.is_err());
    assert!(long.await.unwrap().is_err() && talker.await.unwrap().is_err());

    let sealed = fence.seal(&undo, deadline()).await.unwrap();
    assert!(sealed.refuses_clients && sealed.unbroken, "{sealed:?}");
    assert!(sealed.foreign_writers.is_empty() && sealed.prepared.is_empty(), "{sealed:?}");
    let second = fence.mark(&token.sealing(), deadline()).await.unwrap();
    assert_eq!(second.xid, first.xid + 1, "its history moved by the marker alone");
    // A mark whose answer was lost is written again, which is nothing.
    assert_eq!(fence.mark(&token.sealing(), deadline()).await.unwrap(), second);

    // Another process lowers it, from what was written down.
    let json = serde_json::to_string(&undo).unwrap();
    let undo: MysqlUndo = serde_json::from_str(&json).unwrap();
    let other = MysqlFence::new(site.mover());
    other.lower(&undo, deadline()).await.unwrap();
    assert_eq!(settings(&site).await, before);
    until("blue takes writes again", || async { storm.acknowledged() > acknowledged + 20 }).await;
    let events = "SELECT count(*) FROM shop.a WHERE who = 'event'";
    let so_far = text(&mut counting, events).await;
    until("events run again", || async {
        text(&mut open(&site.mover()).await, events).await != so_far
    })
    .await;
    let acknowledged = storm.end().await;
    let there = text(&mut counting, STORMED).await;
    assert!(
        there.parse::<u64>().unwrap() >= acknowledged,
        "{there} rows, {acknowledged} acknowledged"
    );
    // Lowering what is down is fine.
    other.lower(&undo, deadline()).await.unwrap();
    assert_eq!(settings(&site).await, before);
}

/// Our own sessions are told from others whatever our name, and a right that everybody has by a role of
/// the server counts like any other. An account that is dropped meanwhile is no obstacle.
async fn names_and_roles_are_what_the_server_makes_of_them(version: Version) {
    let site = Site::start(version);
    site.server
        .run(
            "CREATE USER 'mo@ver' IDENTIFIED BY 'm'; GRANT ALL ON *.* TO 'mo@ver'; \
             CREATE USER gone IDENTIFIED BY 'g'; GRANT ALL ON *.* TO gone",
        )
        .unwrap();
    if version == Version::Mysql9_7 {
        site.server
            .run(
                "CREATE ROLE 'kill er'; GRANT CONNECTION_ADMIN ON *.* TO 'kill er'; \
                 SET GLOBAL mandatory_roles = '`kill er`@`%`'",
            )
            .unwrap();
    }
    let url = format!("mysql://mo%40ver:m@127.0.0.1:{}?ssl-mode=disabled", site.server.port());
    let fence = MysqlFence::new(ServerUrl::parse(&url).unwrap());
    let checks = fence.inspect().await.unwrap();
    let said = |name: &str| checks.iter().find(|check| check.name == name).unwrap();
    assert_eq!(said("fence-rights").severity, Severity::Ok, "{checks:#?}");
    assert!(said("fence-server").evidence.contains("shop"), "{checks:#?}");
    let undo = fence.prepare().await.unwrap();
    assert!(undo.accounts.contains(&"'app'@'%'".to_owned()), "{undo:?}");
    assert!(!undo.accounts.contains(&"'mo@ver'@'%'".to_owned()), "{undo:?}");
    site.server.run("DROP USER gone").unwrap();
    let report = fence.raise(&undo, deadline()).await.unwrap();
    Fenced::prove(Epoch(1), Side::Blue, &report).unwrap();
    assert!(connect(&site.app()).await.is_err());
    fence.lower(&undo, deadline()).await.unwrap();
    connect(&site.app()).await.unwrap();
}

async fn prepared_transactions_are_refused_with_a_remedy(version: Version) {
    let site = Site::start(version);
    let before = settings(&site).await;
    let fence = MysqlFence::new(site.mover());
    let undo = fence.prepare().await.unwrap();
    let mut app = open(&site.app()).await;
    for sql in [
        "XA START 'a\\tb','it''s',7",
        "INSERT INTO shop.a (who) VALUES ('xa')",
        "XA END 'a\\tb','it''s',7",
        "XA PREPARE 'a\\tb','it''s',7",
    ] {
        app.query_drop(sql).await.unwrap();
    }
    assert_eq!(fence.writers().await.unwrap().prepared.len(), 1);
    let error = fence.raise(&undo, deadline()).await.unwrap_err();
    assert!(error.what.contains("prepared"), "{error}");
    assert_eq!(settings(&site).await, before, "nothing was closed");
    app.query_drop("SELECT 1").await.unwrap();
    drop(app);
    // It outlives its session, and the remedy is a statement that ends it.
    let remedy = error.remedy.unwrap();
    let (_, statement) = remedy.split_once("such as ").unwrap();
    let mut boss = open(&site.boss()).await;
    let ended = |done: Result<(), mysql_async::Error>| done.is_ok();
    let began = std::time::Instant::now();
    while !ended(boss.query_drop(statement).await) {
        assert!(began.elapsed() < Duration::from_secs(20), "{statement}");
    }
    let report = fence.raise(&undo, deadline()).await.unwrap();
    Fenced::prove(Epoch(1), Side::Blue, &report).unwrap();
    fence.lower(&undo, deadline()).await.unwrap();
    assert_eq!(settings(&site).await, before);
}

/// A lock that nobody may break, because it is our own account's.
async fn who_holds_it_up_is_said_and_an_interrupted_act_has_no_effect_later(version: Version) {
    let site = Site::start(version);
    let before = settings(&site).await;
    let fence = MysqlFence::new(site.mover());
    let undo = fence.prepare().await.unwrap();
    let mut holder = open(&site.mover()).await;
    holder.query_drop("CREATE TABLE shop.busy (id int)").await.unwrap();
    let id = text(&mut holder, "SELECT connection_id()").await;
    let held = tokio::spawn(async move {
        let sleeping = "INSERT INTO shop.busy SELECT sleep(1000)";
        holder.query_drop(sleeping).await
    });
    let mut watcher = open(&site.mover()).await;
    let asleep = "SELECT count(*) FROM information_schema.processlist WHERE state = 'User sleep'";
    loop {
        if text(&mut watcher, asleep).await == "1" {
            break;
        }
    }
    let soon = tokio::time::Instant::now() + Duration::from_millis(2500);
    let error = fence.raise(&undo, soon).await.unwrap_err();
    assert!(error.what.contains(&format!("session {id} of mover")), "{error}");
    fence.lower(&undo, deadline()).await.unwrap();
    assert_eq!(settings(&site).await, before);

    // The controller gives a raise up while it waits; what it had sent comes to nothing.
    let raise = fence.raise(&undo, deadline());
    assert!(tokio::time::timeout(Duration::from_millis(500), raise).await.is_err());
    fence.lower(&undo, deadline()).await.unwrap();
    watcher.query_drop(format!("KILL {id}")).await.unwrap();
    assert!(held.await.unwrap().is_err());
    assert_eq!(settings(&site).await, before);
    open(&site.app()).await.query_drop("INSERT INTO shop.a (who) VALUES ('open')").await.unwrap();
}

/// Somebody uses our account, or writes without a session.
async fn a_history_that_moves_stops_the_run(version: Version) {
    let site = Site::start(version);
    let fence = MysqlFence::new(site.mover());
    let undo = fence.prepare().await.unwrap();
    let elsewhere = MysqlUndo { server: "another".into(), ..undo.clone() };
    let error = fence.raise(&elsewhere, deadline()).await.unwrap_err();
    assert!(error.what.contains("another server"), "{error}");
    // Without a fence, as in the rounds of a drill, whoever writes may.
    let mut client = open(&site.app()).await;
    for round in 1..=2 {
        fence.mark(&Token::draining("drill", Epoch(round)), deadline()).await.unwrap();
        client.query_drop("INSERT INTO shop.a (who) VALUES ('client')").await.unwrap();
    }
    let mut impostor = open(&site.mover()).await;
    let token = Token::draining("test", Epoch(1));
    fence.raise(&undo, deadline()).await.unwrap();
    fence.mark(&token, deadline()).await.unwrap();
    impostor.query_drop("INSERT INTO shop.a (who) VALUES ('impostor')").await.unwrap();
    let sealed = fence.seal(&undo, deadline()).await.unwrap();
    assert!(!sealed.unbroken && sealed.foreign_writers.len() == 1, "{sealed:?}");
    let error = fence.mark(&token.sealing(), deadline()).await.unwrap_err();
    assert!(error.what.contains("moved by 1 transactions"), "{error}");
    fence.lower(&undo, deadline()).await.unwrap();
    // And it is everybody's again.
    let mut client = open(&site.app()).await;
    client.query_drop("INSERT INTO shop.a (who) VALUES ('client')").await.unwrap();
    fence.mark(&Token::draining("drill", Epoch(3)), deadline()).await.unwrap();
}

async fn what_others_have_changed_meanwhile_stays(version: Version) {
    let site = Site::with(version, &["--event-scheduler=ON"]);
    let before = settings(&site).await;
    let fence = MysqlFence::new(site.mover());
    let undo = fence.prepare().await.unwrap();
    fence.raise(&undo, deadline()).await.unwrap();
    let mut admin = open(&site.mover()).await;
    // Opened by hand, and one account is gone.
    admin.query_drop("SET GLOBAL read_only = OFF").await.unwrap();
    admin.query_drop("SET GLOBAL event_scheduler = ON").await.unwrap();
    admin.query_drop("DROP USER boss").await.unwrap();
    fence.lower(&undo, deadline()).await.unwrap();
    let after = settings(&site).await;
    assert!(!after.contains("boss") && after.contains("app % "), "{after}");
    let of_others = |all: &str| {
        all.split(", ").filter(|row| !row.contains("boss")).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(of_others(&after), of_others(&before));
}

/// A side that is sealed stays so when its server starts again, and its clients have to stay out.
async fn a_sealed_side_stays_closed_over_a_restart(version: Version) {
    let mut site = Site::start(version);
    let before = settings(&site).await;
    let fence = MysqlFence::new(site.mover());
    let undo = fence.prepare().await.unwrap();
    fence.raise(&undo, deadline()).await.unwrap();
    fence.leave().await;
    site.server.restart().unwrap();
    for url in [site.app(), site.boss()] {
        assert!(connect(&url).await.is_err(), "{url} came in");
    }
    // Ours come in, and may write.
    let mut ours = open(&site.mover()).await;
    ours.query_drop("INSERT INTO shop.a (who) VALUES ('came back')").await.unwrap();
    fence.reseal(&undo, deadline()).await.unwrap();
    assert_eq!(text(&mut ours, "SELECT @@read_only").await, "1");
    fence.lower(&undo, deadline()).await.unwrap();
    assert_eq!(settings(&site).await, before);
    open(&site.app()).await;
}

/// What the checks tell to type is what is missing.
async fn an_account_with_no_more_than_the_rights_asked_for_can_fence(version: Version) {
    let site = Site::start(version);
    site.server.run("CREATE USER little IDENTIFIED BY 'l'").unwrap();
    let little = site.little();
    let fence = MysqlFence::new(little);
    for _ in 0..3 {
        let checks = fence.inspect().await.unwrap();
        let failed: Vec<_> =
            checks.iter().filter(|check| check.severity == Severity::Fail).collect();
        if failed.is_empty() {
            break;
        }
        for check in failed {
            site.server.run(check.fix.as_ref().unwrap()).unwrap();
        }
    }
    let checks = fence.inspect().await.unwrap();
    assert!(checks.iter().all(|check| check.severity != Severity::Fail), "{checks:#?}");
    let before = settings(&site).await;
    let tenant = Tenant { pipeline: "shop".into(), holder: "host-1:/a".into() };
    let fence = fence.leased_to(tenant);
    let undo = fence.signed(fence.prepare().await.unwrap(), "aaaa", Epoch(1));
    let report = fence.raise(&undo, deadline()).await.unwrap();
    Fenced::prove(Epoch(1), Side::Blue, &report).unwrap();
    fence.mark(&Token::draining("test", Epoch(1)), deadline()).await.unwrap();
    let sealed = fence.seal(&undo, deadline()).await.unwrap();
    assert!(sealed.refuses_clients && sealed.foreign_writers.is_empty(), "{sealed:?}");
    fence.lower(&undo, deadline()).await.unwrap();
    fence.leave().await;
    let unmoved = settings(&site).await;
    assert_eq!(unmoved, before);
}

on_all_servers!(
    nothing_passes_the_fence_and_lowering_it_leaves_no_trace,
    names_and_roles_are_what_the_server_makes_of_them,
    prepared_transactions_are_refused_with_a_remedy,
    who_holds_it_up_is_said_and_an_interrupted_act_has_no_effect_later,
    a_history_that_moves_stops_the_run,
    what_others_have_changed_meanwhile_stays,
    a_sealed_side_stays_closed_over_a_restart,
    an_account_with_no_more_than_the_rights_asked_for_can_fence,
);
