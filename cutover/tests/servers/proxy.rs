//! The embedded proxy between real clients and real servers.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use cutover::Side;
use cutover::proxy::control::{Answer, Order, order};
use cutover::proxy::{InTransaction, Proxy, ProxyConfig};
use decoders::postgres::session::Session;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::support::{Login, Postgres, number, text, until};

static SERIAL: AtomicU64 = AtomicU64::new(1);

/// A proxy that runs in this process.
pub(super) struct Stage {
    _proxy: Proxy,
    _directory: TempDir,
    pub control: PathBuf,
    pub port: u16,
}

impl Stage {
    pub async fn start(blue: &Login, green: &Login) -> Self {
        let config = ProxyConfig::new("127.0.0.1:0".parse().unwrap());
        Self::with(config, blue, green).await
    }

    pub async fn with(config: ProxyConfig, blue: &Login, green: &Login) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let control = directory.path().join("proxy.sock");
        let proxy = Proxy::start(config, &control, blue.info(), green.info()).await.unwrap();
        let port = proxy.address().port();
        Self { _proxy: proxy, _directory: directory, control, port }
    }

    fn login(&self, user: &str) -> Login {
        Login(format!("postgresql://{user}@127.0.0.1:{}/shop?sslmode=disable", self.port))
    }

    async fn client(&self) -> Session {
        self.login("postgres").open().await
    }

    async fn order(&self, what: Order) -> Answer {
        order(&self.control, &what).await.unwrap()
    }

    /// An order that must be carried out.
    async fn must(&self, what: Order) -> Answer {
        let answer = self.order(what).await;
        assert_eq!(answer.error, None, "{answer:?}");
        answer
    }

    async fn status(&self) -> Answer {
        self.must(Order::Status).await
    }

    /// Begins in the background: transactions may have to end first.
    fn hold(&self) -> (u64, JoinHandle<Answer>) {
        let serial = SERIAL.fetch_add(1, Ordering::SeqCst);
        let control = self.control.clone();
        let what = Order::Hold { epoch: 1, serial, wait_ms: 30_000, limit_ms: 60_000 };
        (serial, tokio::spawn(async move { order(&control, &what).await.unwrap() }))
    }

    async fn route(&self, side: Side) -> Answer {
        self.must(Order::Route { epoch: 1, side }).await
    }

    async fn release(&self, serial: u64) -> Answer {
        self.must(Order::Release { epoch: 1, serial }).await
    }

    async fn turn(&self, side: Side) -> Answer {
        let (serial, hold) = self.hold();
        let held = hold.await.unwrap();
        assert_eq!(held.error, None, "{held:?}");
        self.route(side).await;
        self.release(serial).await
    }
}

const WHERE: &str = "SELECT inet_server_port()";

async fn pair() -> (Postgres, Postgres, Login, Login) {
    let (one, two) = tokio::join!(Postgres::start(), Postgres::start());
    let blue = one.database("shop", "").await;
    let green = two.database("shop", "").await;
    (one, two, blue, green)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_ends_where_it_began_and_the_next_begins_elsewhere() {
    let (blue_server, green_server, blue, green) = pair().await;
    let stage = Stage::start(&blue, &green).await;
    let client = stage.client().await;
    client.batch_execute("BEGIN").await.unwrap();
    let (serial, hold) = stage.hold();
    until("the hold is seen", || async { stage.status().await.holding }).await;
    // Simple and extended, and a pipeline of both.
    assert_eq!(number(&client, WHERE).await, i64::from(blue_server.port));
    assert_eq!(
        client.query_one(WHERE, &[]).await.unwrap().get::<_, i32>(0),
        i32::from(blue_server.port)
    );
    let commit = client.batch_execute("COMMIT");
    let next = client.query_one(WHERE, &[]);
    let moving = async {
        let held = hold.await.unwrap();
        assert_eq!((held.error, held.held), (None, 1));
        assert_eq!(held.pinned, std::collections::BTreeMap::new());
        stage.route(Side::Green).await;
        stage.release(serial).await
    };
    let (committed, next, _) = tokio::join!(commit, next, moving);
    committed.unwrap();
    assert_eq!(next.unwrap().get::<_, i32>(0), i32::from(green_server.port));
    let answer = stage.status().await;
    assert_eq!((answer.moved, answer.cut, answer.side), (1, 0, Side::Green));
    // A new client belongs there, too; and back again.
    assert_eq!(number(&stage.client().await, WHERE).await, i64::from(green_server.port));
    stage.turn(Side::Blue).await;
    assert_eq!(number(&client, WHERE).await, i64::from(blue_server.port));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_what_it_carries() {
    let (_blue_server, green_server, blue, green) = pair().await;
    // The type has another OID on green.
    let schema = "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE ROLE clerk; CREATE SCHEMA app";
    green.open().await.batch_execute("CREATE TYPE other AS ENUM ('x')").await.unwrap();
    for login in [&blue, &green] {
        login.open().await.batch_execute(schema).await.unwrap();
    }
    let stage = Stage::start(&blue, &green).await;
    let client = stage.client().await;
    let settings = "SET search_path = app, public; SET app.tenant = 'it''s 7'; SET work_mem = '5MB'; \
                    SET application_name = 'mine'; SET DateStyle = 'German'; SET ROLE clerk";
    client.batch_execute(settings).await.unwrap();
    let statement = client.prepare("SELECT $1::mood::text || $2::int").await.unwrap();
    client.query_one("SELECT set_config('app.user', 'u', false)", &[]).await.unwrap();
    stage.turn(Side::Green).await;
    assert_eq!(number(&client, WHERE).await, i64::from(green_server.port));
    let shown = "SELECT concat_ws('|', current_setting('search_path'), current_setting('app.tenant'), \
         current_setting('work_mem'), current_setting('application_name'), \
         current_setting('DateStyle'), current_user, current_setting('app.user'))";
    assert_eq!(
        text(&client, shown).await.unwrap(),
        "app, public|it's 7|5MB|mine|German, DMY|clerk|u"
    );
    let types = "SELECT count(*) FROM pg_prepared_statements \
                 WHERE parameter_types = ARRAY['mood', 'int4']::regtype[]";
    assert_eq!(number(&client, types).await, 1);
    drop(statement);
    // A cancel request finds the session where it is now.
    let sleep = client.batch_execute("SELECT pg_sleep(60)");
    let cancel = async {
        let watcher = green.open().await;
        until("it sleeps", || async {
            let sql = "SELECT count(*) FROM pg_stat_activity \
                       WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'";
            number(&watcher, sql).await == 1
        })
        .await;
        client.canceller().cancel().await.unwrap();
    };
    let (slept, ()) = tokio::join!(sleep, cancel);
    assert_eq!(slept.unwrap_err().code().unwrap().code(), "57014");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_moved_is_counted_and_cut_once() {
    let (_blue_server, green_server, blue, green) = pair().await;
    let stage = Stage::start(&blue, &green).await;
    let ties = [
        ("LISTEN", "LISTEN news"),
        ("temporary objects", "CREATE TEMP TABLE t (x int)"),
        ("an advisory lock", "SELECT pg_advisory_lock(7)"),
        ("a cursor WITH HOLD", "DECLARE c CURSOR WITH HOLD FOR SELECT 1"),
        ("PREPARE", "PREPARE p AS SELECT 1"),
        ("set_config with a computed name", "SELECT set_config(concat('a', '.b'), 'c', false)"),
    ];
    let mut clients = Vec::new();
    for (_, sql) in ties {
        let client = stage.client().await;
        client.simple_query(sql).await.unwrap();
        clients.push(client);
    }
    let free = stage.client().await;
    let surveyed = stage.must(Order::Survey).await;
    let expected: std::collections::BTreeMap<String, u64> =
        ties.iter().map(|(why, _)| ((*why).to_owned(), 1)).collect();
    assert_eq!(surveyed.pinned, expected);
    stage.turn(Side::Green).await;
    for client in &clients {
        until("it is cut", || async { client.closed_reason().is_some() }).await;
        let reason = client.closed_reason().unwrap();
        assert!(reason.contains("57P01") || reason.contains("administrator"), "{reason}");
    }
    assert_eq!(number(&free, WHERE).await, i64::from(green_server.port));
    let answer = stage.status().await;
    assert_eq!((answer.moved, answer.cut, answer.clients), (1, 6, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scram_key_is_overheard_and_used() {
    let (_blue_server, green_server, blue, green) = pair().await;
    let verifier = {
        let admin = blue.open().await;
        admin.batch_execute("SET password_encryption = 'scram-sha-256'; CREATE ROLE app LOGIN PASSWORD 's3cret'; CREATE ROLE other LOGIN PASSWORD 's3cret'").await.unwrap();
        text(&admin, "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").await.unwrap()
    };
    let admin = green.open().await;
    // The same password again is another verifier: other salt, other keys.
    let roles = format!(
        "CREATE ROLE app LOGIN PASSWORD '{verifier}'; CREATE ROLE other LOGIN PASSWORD 's3cret'"
    );
    admin.batch_execute(&roles).await.unwrap();
    for login in [&blue, &green] {
        let admin = login.open().await;
        let file = text(&admin, "SHOW hba_file").await.unwrap();
        let rules = "host all postgres 127.0.0.1/32 trust' UNION ALL SELECT 'host all all 127.0.0.1/32 scram-sha-256";
        admin.batch_execute(&format!("COPY (SELECT '{rules}') TO '{file}'")).await.unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        until("the rules are read", || async { login_refused(login).await }).await;
    }
    let stage = Stage::start(&blue, &green).await;
    let client = stage.login("app:s3cret").open().await;
    let other = stage.login("other:s3cret").open().await;
    stage.turn(Side::Green).await;
    assert_eq!(number(&client, WHERE).await, i64::from(green_server.port));
    until("the other is cut", || async { other.closed_reason().is_some() }).await;
    stage.turn(Side::Blue).await;
    number(&client, WHERE).await;
    assert_eq!(stage.status().await.moved, 2);
}

/// Nobody gets in without a password.
async fn login_refused(login: &Login) -> bool {
    let info = Login(login.0.replace("postgres@", "app@")).info();
    decoders::postgres::session::connect_plain(&info, "app").await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_does_not_notice_what_the_fence_does_to_its_server() {
    let (blue_server, _green_server, blue, green) = pair().await;
    let stage = Stage::start(&blue, &green).await;
    let client = stage.client().await;
    client.batch_execute("SET app.x = '7'").await.unwrap();
    let (serial, hold) = stage.hold();
    assert_eq!(hold.await.unwrap().error, None);
    let fence = blue.open().await;
    // Those that have made the database may still be on their way out.
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop' \
                  AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    until("only the client is there", || async { number(&fence, others).await == 1 }).await;
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                     WHERE datname = 'shop' AND backend_type = 'client backend' \
                     AND pid <> pg_backend_pid()";
    assert_eq!(number(&fence, terminate).await, 1);
    until("it is gone", || async { number(&fence, others).await == 0 }).await;
    // A new client waits.
    let second = stage.login("postgres");
    let second = tokio::spawn(async move { second.open().await });
    until("it waits", || async { stage.status().await.entering == 1 }).await;
    stage.release(serial).await;
    assert_eq!(number(&client, WHERE).await, i64::from(blue_server.port));
    assert_eq!(text(&client, "SELECT current_setting('app.x')").await.unwrap(), "7");
    number(&second.await.unwrap(), WHERE).await;
    assert_eq!(stage.status().await.cut, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_come_late_or_twice() {
    let (_blue_server, _green_server, blue, green) = pair().await;
    let stage = Stage::start(&blue, &green).await;
    let client = stage.client().await;
    let hold = |serial, limit_ms| Order::Hold { epoch: 5, serial, wait_ms: 5_000, limit_ms };
    stage.must(hold(10, 60_000)).await;
    stage.must(hold(10, 60_000)).await;
    stage.must(Order::Release { epoch: 5, serial: 12 }).await;
    stage.must(Order::Release { epoch: 5, serial: 12 }).await;
    // Overtaken by its release.
    assert!(stage.order(hold(11, 60_000)).await.error.is_some());
    assert!(!stage.status().await.holding);
    number(&client, "SELECT 1").await;
    // An older run has nothing to say.
    let old = Order::Route { epoch: 4, side: Side::Green };
    assert!(stage.order(old).await.error.unwrap().contains("newer"));
    // Nobody comes to end it.
    stage.must(hold(13, 50)).await;
    assert_eq!(number(&client, "SELECT 1").await, 1);
    assert!(!stage.status().await.holding);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_does_not_end_fails_the_hold_or_is_cut() {
    let (_blue_server, _green_server, blue, green) = pair().await;
    for policy in [InTransaction::Wait, InTransaction::Cut] {
        let mut config = ProxyConfig::new("127.0.0.1:0".parse().unwrap());
        config.in_transaction = policy;
        let stage = Stage::with(config, &blue, &green).await;
        let client = stage.client().await;
        client.batch_execute("BEGIN").await.unwrap();
        let hold = Order::Hold { epoch: 1, serial: 1, wait_ms: 30, limit_ms: 60_000 };
        let answer = stage.order(hold).await;
        match policy {
            InTransaction::Wait => {
                assert!(answer.error.unwrap().contains("1 in a transaction"));
                stage.release(2).await;
                client.batch_execute("COMMIT").await.unwrap();
            }
            InTransaction::Cut => {
                assert_eq!((answer.error, answer.cut), (None, 1));
                let error = client.batch_execute("COMMIT").await.unwrap_err();
                assert!(error.code().is_none_or(|code| code.code() == "57P01"), "{error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_and_many_idle_clients() {
    use futures_util::SinkExt;
    let (blue_server, green_server, blue, green) = pair().await;
    for login in [&blue, &green] {
        login.open().await.batch_execute("CREATE TABLE c (x int)").await.unwrap();
    }
    let stage = Stage::start(&blue, &green).await;
    let client = stage.client().await;
    let sink = client.copy_in::<_, &[u8]>("COPY c FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    sink.send(b"1\n").await.unwrap();
    let (serial, hold) = stage.hold();
    until("the copy is seen", || async { stage.status().await.busy.contains_key("in a COPY") })
        .await;
    sink.send(b"2\n").await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 2);
    assert_eq!(hold.await.unwrap().error, None);
    stage.release(serial).await;
    assert_eq!(number(&client, WHERE).await, i64::from(blue_server.port));

    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(stage.client().await);
    }
    stage.must(Order::Survey).await;
    stage.turn(Side::Green).await;
    for client in &idle {
        assert_eq!(number(client, WHERE).await, i64::from(green_server.port));
    }
    assert_eq!(stage.status().await.moved, 41);
}
