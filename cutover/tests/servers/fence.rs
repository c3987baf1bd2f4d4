//! The fence: what passes other fences does not pass it, and it leaves no trace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cutover::Side;
use cutover::api::Severity;
use cutover::evidence::Fenced;
use cutover::fence::{PostgresFence, PostgresUndo};
use cutover::marker::{CREATE_MARKER_TABLE, Token};
use cutover::ports::{Epoch, Fence};
use decoders::postgres::session::{Session, connect_plain};

use super::support::{Login, Postgres, deadline, number, text, until};

const SCHEMA: &str = "CREATE TABLE a (id bigserial PRIMARY KEY, who text); \
    CREATE TABLE \"B b\" (id int PRIMARY KEY); \
    CREATE TABLE p (id int) PARTITION BY RANGE (id); \
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000); \
    CREATE PUBLICATION move FOR ALL TABLES";

/// Everything that the fence may change, as text; who may connect, byte for byte.
pub(super) async fn settings(login: &Login, outside: &Login) -> String {
    let session = outside.open().await;
    let query = format!(
        "SELECT d.datallowconn || ' ' || d.datconnlimit || ' ' || coalesce((SELECT string_agg(\
         setrole || ':' || setconfig::text, ';' ORDER BY setrole) FROM pg_db_role_setting \
         WHERE setdatabase = d.oid), '-') || ' ' || (SELECT string_agg(rolname || rolcanlogin, \
         ',' ORDER BY rolname) FROM pg_roles) || ' ' || (SELECT setting FROM pg_settings \
         WHERE name = 'default_transaction_read_only') || ' ' || \
         coalesce(d.datacl, acldefault('d', d.datdba))::text \
         || ' ' || coalesce(shobj_description(d.oid, 'pg_database'), 'NULL') \
         FROM pg_database d WHERE datname = '{}'",
        login.info().dbname()
    );
    text(&session, &query).await.unwrap()
}

const STORMED: &str = "SELECT count(*) FROM a WHERE who = 'storm'";

/// Clients that write in every way that passes a read-only default, and reconnect at once.
struct Storm {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    /// Of each client: who has begun another one has counted what it was told before.
    attempts: Vec<Arc<AtomicU64>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Storm {
    fn start(login: &Login) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut attempts = Vec::new();
        let insert = "INSERT INTO a (who) VALUES ('storm')";
        let ways = [
            format!("BEGIN READ WRITE; {insert}; COMMIT"),
            format!("SET default_transaction_read_only = off; {insert}"),
            format!("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; {insert}"),
            insert.to_owned(),
        ];
        let tasks = ways
            .into_iter()
            .enumerate()
            .map(|(at, sql)| {
                // The last way: PGOPTIONS.
                let options =
                    if at == 3 { "&options=-c%20default_transaction_read_only%3Doff" } else { "" };
                let login = Login(format!("{}{options}", login.0));
                let (stop, acknowledged, attempted) =
                    (stop.clone(), acknowledged.clone(), Arc::new(AtomicU64::new(0)));
                attempts.push(attempted.clone());
                tokio::spawn(async move {
                    while !stop.load(Ordering::SeqCst) {
                        attempted.fetch_add(1, Ordering::SeqCst);
                        let Ok(session) = connect_plain(&login.info(), "app").await else {
                            tokio::task::yield_now().await;
                            continue;
                        };
                        for _ in 0..20 {
                            match session.batch_execute(&sql).await {
                                Ok(()) => acknowledged.fetch_add(1, Ordering::SeqCst),
                                Err(_) => break,
                            };
                        }
                    }
                })
            })
            .collect();
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

#[tokio::test(flavor = "multi_thread")]
async fn nothing_passes_the_fence_and_lowering_it_leaves_no_trace() {
    let server = Postgres::start().await;
    let blue = server.database("shop", SCHEMA).await;
    // As the engine does for blues that need it.
    blue.open().await.batch_execute(CREATE_MARKER_TABLE).await.unwrap();
    let outside = server.info("postgres");
    let admin = outside.open().await;
    admin
        .batch_execute(
            "CREATE ROLE app LOGIN SUPERUSER; \
             ALTER ROLE app IN DATABASE shop SET default_transaction_read_only = off; \
             ALTER DATABASE shop SET work_mem = '8MB'; \
             ALTER DATABASE shop SET default_transaction_read_only = 'off'",
        )
        .await
        .unwrap();
    let before = settings(&blue, &outside).await;

    let fence = PostgresFence::new(blue.info(), "move");
    let checks = fence.inspect().await.unwrap();
    assert!(checks.iter().all(|check| check.severity != Severity::Fail), "{checks:#?}");
    let undo = fence.prepare().await.unwrap();

    // An open transaction that has written, one that has not, and a storm.
    let writer = blue.open_as("app").await;
    writer.batch_execute("BEGIN READ WRITE; INSERT INTO a (who) VALUES ('open')").await.unwrap();
    let idle = blue.open_as("app").await;
    idle.batch_execute("BEGIN READ WRITE; SELECT 1").await.unwrap();
    let writers = fence.writers().await.unwrap();
    assert!(writers.oldest.is_some() && writers.oldest_who.unwrap().contains("postgres"));
    // Our own role under our own name is let through: it was here before the door was closed.
    let counting = blue.open_as_ours("cutover test").await;
    let storm = Storm::start(&server.login("app", "shop"));
    until("the storm writes", || async { storm.acknowledged() > 20 }).await;

    let report = fence.raise(&undo, deadline()).await.unwrap();
    let fenced = Fenced::prove(Epoch(1), Side::Blue, &report).unwrap();
    assert_eq!(fenced.epoch(), Epoch(1));
    // The two above; of the storm, who was inside at that moment.
    assert!(report.sessions_closed >= 2, "{report:?}");
    let token = Token::draining("test", Epoch(1));
    let first = fence.mark(&token, deadline()).await.unwrap();
    assert!(first.xid >= report.next_xid);

    let rows = number(&counting, "SELECT count(*) FROM a").await;
    storm.more(1).await;
    let acknowledged = storm.acknowledged();
    assert!(number(&counting, STORMED).await as u64 >= acknowledged);
    // Each way in is tried again and again, and nobody comes in: the door is closed.
    storm.more(50).await;
    let inside = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop' \
        AND application_name = 'app'";
    assert_eq!(number(&counting, inside).await, 0);
    assert_eq!(number(&counting, "SELECT count(*) FROM a").await, rows);
    assert_eq!(storm.acknowledged(), acknowledged, "a write was acknowledged behind the fence");
    assert!(writer.batch_execute("COMMIT").await.is_err());
    assert!(idle.batch_execute("INSERT INTO a (who) VALUES ('late')").await.is_err());

    // The seal: nobody comes in, superusers neither.
    let sealed = fence.seal(&undo, deadline()).await.unwrap();
    assert!(sealed.refuses_clients && sealed.unbroken, "{sealed:?}");
    assert!(sealed.foreign_writers.is_empty() && sealed.prepared.is_empty());
    let second = fence.mark(&token.sealing(), deadline()).await.unwrap();
    assert!(second.xid > first.xid);
    storm.more(50).await;
    assert_eq!(number(&counting, "SELECT count(*) FROM a").await, rows);
    assert_eq!(storm.acknowledged(), acknowledged);
    assert!(connect_plain(&blue.info(), "cutover").await.is_err());

    // Another process lowers it, from what was written down; the first one still holds its locks.
    let json = serde_json::to_string(&undo).unwrap();
    let undo: PostgresUndo = serde_json::from_str(&json).unwrap();
    let other = PostgresFence::new(blue.info(), "move");
    other.lower(&undo, deadline()).await.unwrap();
    assert_eq!(settings(&blue, &outside).await, before);
    until("blue takes writes again", || async { storm.acknowledged() > acknowledged + 20 }).await;
    let acknowledged = storm.end().await;
    let rows = number(&blue.open().await, STORMED).await;
    // A commit whose answer was cut off is there without having been acknowledged.
    assert!(rows as u64 >= acknowledged, "{rows} rows, {acknowledged} acknowledged");
    // Lowering what is down is fine.
    other.lower(&undo, deadline()).await.unwrap();
    assert_eq!(settings(&blue, &outside).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_only_owns_the_database_can_fence_it() {
    let server = Postgres::start().await;
    let schema = format!(
        "CREATE TABLE t (id int PRIMARY KEY); {CREATE_MARKER_TABLE}; \
         CREATE PUBLICATION move FOR TABLE t, _cutover.marker"
    );
    server.database("shop", &schema).await;
    let admin = server.info("postgres").open().await;
    admin.batch_execute("CREATE ROLE mover LOGIN; CREATE ROLE app LOGIN").await.unwrap();
    let blue = server.login("mover", "shop");
    let fence = PostgresFence::new(blue.info(), "move");
    let checks = fence.inspect().await.unwrap();
    let failed: Vec<_> = checks
        .iter()
        .filter(|check| check.severity == Severity::Fail)
        .map(|check| check.name.as_str())
        .collect();
    let expected = ["fence-layers", "fence-terminate", "fence-scan", "fence-locks"];
    assert_eq!(failed, expected);
    assert!(checks.iter().all(|c| c.severity != Severity::Fail || c.fix.is_some()));

    // Exactly what the checks told us to do. The owner need not lock a table.
    admin
        .batch_execute(
            "GRANT pg_signal_backend, pg_read_all_stats TO mover; \
             ALTER DATABASE shop OWNER TO mover",
        )
        .await
        .unwrap();
    let checks = fence.inspect().await.unwrap();
    assert!(checks.iter().all(|check| check.severity != Severity::Fail), "{checks:#?}");

    let app = server.login("app", "shop").open().await;
    let before = settings(&blue, &server.info("postgres")).await;
    let undo = fence.prepare().await.unwrap();
    let report = fence.raise(&undo, deadline()).await.unwrap();
    Fenced::prove(Epoch(1), Side::Blue, &report).unwrap();
    assert!(app.batch_execute("SELECT 1").await.is_err(), "the session lives on");
    let sealed = fence.seal(&undo, deadline()).await.unwrap();
    assert!(sealed.refuses_clients && sealed.unbroken);
    fence.lower(&undo, deadline()).await.unwrap();
    assert_eq!(settings(&blue, &server.info("postgres")).await, before);
    server.login("app", "shop").open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_fenced_is_said() {
    let server = Postgres::start().await;
    let blue = server.database("shop", SCHEMA).await;
    let fence = PostgresFence::new(blue.info(), "move");
    let undo = fence.prepare().await.unwrap();
    let session = blue.open().await;
    session
        .batch_execute("BEGIN; INSERT INTO \"B b\" VALUES (1); PREPARE TRANSACTION 'orphan'")
        .await
        .unwrap();
    assert_eq!(fence.writers().await.unwrap().prepared.len(), 1);
    let error = fence.raise(&undo, deadline()).await.unwrap_err();
    assert!(error.what.contains("orphan"), "{error}");
    session.batch_execute("ROLLBACK PREPARED 'orphan'").await.unwrap();

    // A writer that nobody may end: a session of our own.
    let holder = blue.open_as_ours("cutover something else").await;
    holder.batch_execute("BEGIN; INSERT INTO \"B b\" VALUES (2)").await.unwrap();
    let report = fence.raise(&undo, deadline()).await.unwrap();
    let unproven = Fenced::prove(Epoch(1), Side::Blue, &report).unwrap_err().to_string();
    assert!(unproven.contains("cutover something else"), "{unproven}");
    fence.lower(&undo, deadline()).await.unwrap();
    holder.batch_execute("COMMIT").await.unwrap();
    blue.open().await.batch_execute("INSERT INTO \"B b\" VALUES (3)").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_changed_meanwhile_stays() {
    let server = Postgres::start().await;
    let blue = server.database("shop", SCHEMA).await;
    let outside = server.info("postgres").open().await;
    let fence = PostgresFence::new(blue.info(), "move");
    let undo = fence.prepare().await.unwrap();
    fence.raise(&undo, deadline()).await.unwrap();
    // Somebody opens it by hand and connects: read-only.
    outside.batch_execute("ALTER DATABASE shop ALLOW_CONNECTIONS true").await.unwrap();
    let pooled = blue.open().await;
    let read_only = "SHOW default_transaction_read_only";
    assert_eq!(text(&pooled, read_only).await.as_deref(), Some("on"));

    // Another process, from its journal, puts back what is left.
    let json = serde_json::to_string(&undo).unwrap();
    let undo: PostgresUndo = serde_json::from_str(&json).unwrap();
    PostgresFence::new(blue.info(), "move").lower(&undo, deadline()).await.unwrap();
    assert!(pooled.batch_execute("SELECT 1").await.is_err(), "a read-only session lives on");
    let session = blue.open().await;
    assert_eq!(text(&session, read_only).await.as_deref(), Some("off"));

    // A journal of before knows neither when nor who might connect. Lowering what is down is
    // nothing: nobody is closed.
    let mut old: serde_json::Value = serde_json::from_str(&json).unwrap();
    old.as_object_mut().unwrap().retain(|key, _| key != "at" && key != "connect");
    let old: PostgresUndo = serde_json::from_value(old).unwrap();
    assert!(old.at.is_none() && old.connect.is_none());
    fence.lower(&old, deadline()).await.unwrap();
    session.batch_execute("INSERT INTO a (who) VALUES ('still there')").await.unwrap();

    // A setting that is neither ours nor the one of before was somebody's wish.
    fence.raise(&undo, deadline()).await.unwrap();
    let wish = "ALTER DATABASE shop SET default_transaction_read_only = 'no'";
    outside.batch_execute(wish).await.unwrap();
    fence.lower(&undo, deadline()).await.unwrap();
    let kept = "SELECT setconfig::text FROM pg_db_role_setting";
    let expected = "{default_transaction_read_only=no}";
    assert_eq!(text(&outside, kept).await.as_deref(), Some(expected));
    blue.open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_act_has_no_effect_after_it_was_undone() {
    let server = Postgres::start().await;
    let blue = server.database("shop", SCHEMA).await;
    let outside = server.info("postgres");
    let before = settings(&blue, &outside).await;
    let fence = PostgresFence::new(blue.info(), "move");
    let undo = fence.prepare().await.unwrap();
    let watcher = outside.open().await;
    let waiting = || async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        number(&watcher, waiting).await == 1
    };

    // Somebody's open transaction makes the statement wait; the sidecar dies, its session not.
    let blocker = outside.open().await;
    let set = "ALTER DATABASE shop SET default_transaction_read_only =";
    blocker.batch_execute(&format!("BEGIN; {set} off")).await.unwrap();
    let orphan = blue.open_as("cutover fence of shop").await;
    let statement = format!("{set} on");
    let orphan = tokio::spawn(async move { orphan.batch_execute(&statement).await });
    until("the orphan waits", waiting).await;
    let neighbour = outside.open_as("cutover fence of another").await;
    fence.lower(&undo, deadline()).await.unwrap();
    assert!(orphan.await.unwrap().is_err());
    neighbour.batch_execute("SELECT 1").await.unwrap();

    // The controller gives a raise up while it waits; the session is not used again.
    let raise = fence.raise(&undo, deadline());
    assert!(tokio::time::timeout(Duration::from_millis(300), raise).await.is_err());
    fence.lower(&undo, deadline()).await.unwrap();
    blocker.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(settings(&blue, &outside).await, before);

    // The same at its own deadline, held up where the door is closed.
    blocker.batch_execute("BEGIN; ALTER DATABASE shop CONNECTION LIMIT 7").await.unwrap();
    let raise = fence.raise(&undo, tokio::time::Instant::now() + Duration::from_millis(300));
    assert!(raise.await.unwrap_err().in_doubt);
    blocker.batch_execute("ROLLBACK").await.unwrap();
    fence.lower(&undo, deadline()).await.unwrap();
    assert_eq!(settings(&blue, &outside).await, before);
    blue.open().await.batch_execute("INSERT INTO a (who) VALUES ('open')").await.unwrap();
}

/// A table that is being vacuumed for the whole test, on a server whose workers yield to whoever has waited for
/// this long.
async fn vacuumed(server: &Postgres, deadlock_timeout: &str) -> Login {
    let outside = server.info("postgres").open().await;
    let timeout = format!("deadlock_timeout = '{deadlock_timeout}'");
    for setting in ["autovacuum_naptime = '1s'", &timeout] {
        outside.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    outside.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let schema = "CREATE TABLE big (id int PRIMARY KEY, pad text) WITH ( \
            autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0, \
            autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1); \
        INSERT INTO big SELECT i, repeat('x', 200) FROM generate_series(1, 20000) i; \
        DELETE FROM big WHERE id % 2 = 0; CREATE PUBLICATION move FOR TABLE big; \
        CREATE ROLE mover LOGIN CREATEROLE; GRANT UPDATE ON big TO mover; \
        GRANT pg_signal_backend, pg_read_all_stats TO mover";
    let blue = server.database("shop", schema).await;
    until("the table is vacuumed", || is_vacuumed(&outside)).await;
    blue
}

async fn is_vacuumed(outside: &Session) -> bool {
    let workers = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) \
        WHERE backend_type = 'autovacuum worker' AND mode = 'ShareUpdateExclusiveLock' \
        AND locktype = 'relation' AND relation >= 16384 AND datname = 'shop'";
    number(outside, workers).await > 0
}

async fn is_fenced(fence: &PostgresFence) -> u64 {
    let undo = fence.prepare().await.unwrap();
    let report = fence.raise(&undo, deadline()).await.unwrap();
    Fenced::prove(Epoch(1), Side::Blue, &report).unwrap();
    fence.lower(&undo, deadline()).await.unwrap();
    report.tables_locked
}

#[tokio::test(flavor = "multi_thread")]
async fn autovacuum_does_not_stop_the_fence() {
    let server = Postgres::start().await;
    // So long that a worker would not have yielded by itself within this test.
    let blue = vacuumed(&server, "60s").await;
    let outside = server.info("postgres").open().await;
    assert_eq!(is_fenced(&PostgresFence::new(blue.info(), "move")).await, 0);
    assert!(is_vacuumed(&outside).await, "it is in nobody's way, and was ended");
}

/// Where tables are locked it is in the way: who may not cancel a worker waits until it yields.
#[tokio::test(flavor = "multi_thread")]
async fn autovacuum_yields_to_table_locks() {
    let server = Postgres::of("15").await;
    vacuumed(&server, "300ms").await;
    let mover = server.login("mover", "shop");
    assert_eq!(is_fenced(&PostgresFence::new(mover.info(), "move")).await, 1);
}

/// Who may cancel it does.
#[tokio::test(flavor = "multi_thread")]
async fn autovacuum_is_cancelled_for_table_locks() {
    let server = Postgres::of("18").await;
    vacuumed(&server, "60s").await;
    let outside = server.info("postgres").open().await;
    outside.batch_execute("GRANT pg_signal_autovacuum_worker TO mover").await.unwrap();
    let mover = server.login("mover", "shop");
    assert_eq!(is_fenced(&PostgresFence::new(mover.info(), "move")).await, 1);
}

/// More tables than the server has room for locks.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_database_needs_no_lock_for_each_table() {
    let server = Postgres::with("15", &["max_locks_per_transaction=10"]).await;
    let blue = server.database("shop", "CREATE TABLE t (id int PRIMARY KEY)").await;
    let session = blue.open().await;
    for hundred in 0..20 {
        let make = format!(
            "DO $$ BEGIN FOR i IN 1..100 LOOP EXECUTE 'CREATE TABLE t_{hundred}_' || i || ' ()'; \
             END LOOP; END $$"
        );
        session.batch_execute(&make).await.unwrap();
    }
    session
        .batch_execute(
            "CREATE PUBLICATION move FOR ALL TABLES; CREATE ROLE mover LOGIN CREATEROLE; \
             GRANT pg_signal_backend, pg_read_all_stats TO mover",
        )
        .await
        .unwrap();
    let fence = PostgresFence::new(blue.info(), "move");
    let checks = fence.inspect().await.unwrap();
    assert!(checks.iter().all(|check| check.severity != Severity::Fail), "{checks:#?}");
    let undo = fence.prepare().await.unwrap();
    let report = fence.raise(&undo, deadline()).await.unwrap();
    Fenced::prove(Epoch(1), Side::Blue, &report).unwrap();
    assert_eq!(report.tables_locked, 0);
    let sealed = fence.seal(&undo, deadline()).await.unwrap();
    assert!(sealed.refuses_clients && sealed.unbroken, "{sealed:?}");
    fence.lower(&undo, deadline()).await.unwrap();

    // Whoever can't close the database is told before, and how.
    let fence = PostgresFence::new(server.login("mover", "shop").info(), "move");
    let checks = fence.inspect().await.unwrap();
    let room = checks.into_iter().find(|check| check.name == "lock-slots").unwrap();
    assert_eq!(room.severity, Severity::Fail, "{room:?}");
    assert!(room.evidence.starts_with("2001 tables to lock, room for 650"), "{room:?}");
    assert!(room.fix.unwrap().contains("max_locks_per_transaction"));
}

/// FNV-1a of what the fence's lock is named by. Every role can work that out.
fn key_of_the_lock(database: &str) -> i64 {
    let bytes = ["cutover fence", database].into_iter().flat_map(|part| part.bytes().chain([0]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash as i64
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_the_lock_of_the_fence_does_not_keep_the_side_closed() {
    let server = Postgres::start().await;
    let blue = server.database("shop", SCHEMA).await;
    server.info("postgres").open().await.batch_execute("CREATE ROLE nobody LOGIN").await.unwrap();
    let take = format!("SELECT pg_advisory_lock({})", key_of_the_lock("shop"));
    let fence = PostgresFence::new(blue.info(), "move");
    let undo = fence.prepare().await.unwrap();

    let squatter = server.login("nobody", "postgres").open_as("app").await;
    squatter.batch_execute(&take).await.unwrap();
    fence.raise(&undo, deadline()).await.unwrap();
    assert!(squatter.batch_execute("SELECT 1").await.is_err(), "nobody has kept the lock");

    let squatter = server.login("nobody", "postgres").open_as("app").await;
    squatter.batch_execute(&take).await.unwrap();
    fence.lower(&undo, deadline()).await.unwrap();
    assert!(squatter.batch_execute("SELECT 1").await.is_err(), "nobody has kept the lock");
    blue.open_as("app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_that_can_not_be_kept_out_are_named() {
    let server = Postgres::start().await;
    let blue = server.database("shop", SCHEMA).await;
    let session = blue.open().await;
    session
        .batch_execute(
            "CREATE ROLE mover LOGIN CREATEROLE; CREATE ROLE app LOGIN REPLICATION; \
             GRANT pg_signal_backend, pg_read_all_stats TO mover; \
             GRANT UPDATE ON ALL TABLES IN SCHEMA public TO mover",
        )
        .await
        .unwrap();
    let fence = PostgresFence::new(server.login("mover", "shop").info(), "move");
    let layers = async || {
        let checks = fence.inspect().await.unwrap();
        checks.into_iter().find(|check| check.name == "fence-layers").unwrap()
    };
    let check = layers().await;
    assert_eq!(check.severity, Severity::Fail);
    assert!(check.evidence.contains("\"app\""), "{check:?}");

    // Version 16 asks for the ADMIN option, and before that replication roles are a superuser's.
    let since_16 = number(&session, "SELECT current_setting('server_version_num')::int").await;
    session
        .batch_execute(if since_16 >= 160_000 {
            "GRANT app TO mover WITH ADMIN OPTION"
        } else {
            "ALTER ROLE app NOREPLICATION"
        })
        .await
        .unwrap();
    drop(session);
    assert_eq!(layers().await.severity, Severity::Warn);
    let undo = fence.prepare().await.unwrap();
    assert_eq!(undo.roles, ["app"]);
    // A superuser's sessions can't be closed by us, so there are none here.
    let report = fence.raise(&undo, deadline()).await.unwrap();
    Fenced::prove(Epoch(1), Side::Blue, &report).unwrap();
    let sealed = fence.seal(&undo, deadline()).await.unwrap();
    assert!(sealed.refuses_clients, "{sealed:?}");
    assert!(connect_plain(&server.login("app", "shop").info(), "app").await.is_err());
    fence.lower(&undo, deadline()).await.unwrap();
    server.login("app", "shop").open().await;
}
