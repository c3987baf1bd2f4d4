//! The embedded proxy between real clients and real servers.

use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use cutover::Side;
use cutover::proxy::control::{Answer, Order, order};
use cutover::proxy::{InTransaction, Proxy, ProxyConfig, UserTypes};
use decoders::postgres::session::Session;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, Kind, ToSql, Type, to_sql_checked};

use super::raw::Raw;
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

    pub fn login(&self, user: &str) -> Login {
        Login(format!("postgresql://{user}@127.0.0.1:{}/shop?sslmode=disable", self.port))
    }

    pub async fn client(&self) -> Session {
        self.login("postgres").open().await
    }

    pub async fn order(&self, what: Order) -> Answer {
        order(&self.control, &what).await.unwrap()
    }

    /// An order that must be carried out.
    pub async fn must(&self, what: Order) -> Answer {
        let answer = self.order(what).await;
        assert_eq!(answer.error, None, "{answer:?}");
        answer
    }

    pub async fn status(&self) -> Answer {
        self.must(Order::Status).await
    }

    /// Begins in the background: transactions may have to end first.
    pub fn hold(&self) -> (u64, JoinHandle<Answer>) {
        let serial = SERIAL.fetch_add(1, Ordering::SeqCst);
        let control = self.control.clone();
        let what = Order::Hold { epoch: 1, serial, wait_ms: 30_000, limit_ms: 60_000 };
        (serial, tokio::spawn(async move { order(&control, &what).await.unwrap() }))
    }

    pub async fn route(&self, side: Side) -> Answer {
        self.must(Order::Route { epoch: 1, side }).await
    }

    pub async fn release(&self, serial: u64) -> Answer {
        self.must(Order::Release { epoch: 1, serial }).await
    }

    pub async fn turn(&self, side: Side) -> Answer {
        let (serial, hold) = self.hold();
        let held = hold.await.unwrap();
        assert_eq!(held.error, None, "{held:?}");
        self.route(side).await;
        self.release(serial).await
    }
}

pub(super) const WHERE: &str = "SELECT inet_server_port()";

pub(super) async fn pair() -> (Postgres, Postgres, Login, Login) {
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
    let row = client.query_one(&statement, &[&Label("happy"), &7]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "happy7");
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

/// A value of an enum, as text.
#[derive(Debug)]
struct Label(&'static str);

impl ToSql for Label {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
    fn accepts(_: &Type) -> bool {
        true
    }
    to_sql_checked!();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_names_types_by_numbers_of_one_server_is_counted_and_cut() {
    let (_blue_server, green_server, blue, green) = pair().await;
    green.open().await.batch_execute("CREATE TYPE other AS ENUM ('x')").await.unwrap();
    for login in [&blue, &green] {
        let schema = "CREATE TYPE mood AS ENUM ('sad', 'happy')";
        login.open().await.batch_execute(schema).await.unwrap();
    }
    let stage = Stage::start(&blue, &green).await;
    let (tied, free) = (stage.client().await, stage.client().await);
    let oid: u32 = tied.query_one("SELECT 'mood'::regtype::oid", &[]).await.unwrap().get(0);
    let mood = Type::new("mood".into(), oid, Kind::Simple, "public".into());
    let rows = tied.query_typed("SELECT $1::text", &[(&Label("sad"), mood)]).await.unwrap();
    assert_eq!(rows[0].get::<_, String>(0), "sad");
    let pinned = stage.must(Order::Survey).await.pinned;
    let why = "parameters of user-defined types".to_owned();
    assert_eq!(pinned, std::collections::BTreeMap::from([(why, 1)]));
    stage.turn(Side::Green).await;
    until("it is cut", || async { tied.closed_reason().is_some() }).await;
    assert_eq!(number(&free, WHERE).await, i64::from(green_server.port));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_shown_types_by_numbers_of_one_server_is_cut_on_request() {
    let (_blue_server, green_server, blue, green) = pair().await;
    let schema = "CREATE TYPE mood AS ENUM ('sad', 'happy')";
    green.open().await.batch_execute("CREATE TYPE other AS ENUM ('x')").await.unwrap();
    for login in [&blue, &green] {
        login.open().await.batch_execute(schema).await.unwrap();
    }
    for policy in [UserTypes::Keep, UserTypes::Cut] {
        let mut config = ProxyConfig::new("127.0.0.1:0".parse().unwrap());
        config.user_types = policy;
        let stage = Stage::with(config, &blue, &green).await;
        let (shown, free) = (stage.client().await, stage.client().await);
        shown.simple_query("SELECT 'sad'::mood").await.unwrap();
        free.simple_query("SELECT 'sad'::mood::text").await.unwrap();
        stage.turn(Side::Green).await;
        assert_eq!(number(&free, WHERE).await, i64::from(green_server.port));
        match policy {
            UserTypes::Keep => {
                assert_eq!(number(&shown, WHERE).await, i64::from(green_server.port));
            }
            UserTypes::Cut => {
                until("it is cut", || async { shown.closed_reason().is_some() }).await;
                assert_eq!(stage.status().await.cut, 1);
            }
        }
    }
}

/// The unnamed statement is there after the move, or the session is not moved; one that the server
/// has refused is none.
#[tokio::test(flavor = "multi_thread")]
async fn an_unnamed_statement_goes_along() {
    let (_blue_server, _green_server, blue, green) = pair().await;
    let (one, all) =
        ("CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'", [&blue, &green]);
    for login in all {
        login.open().await.batch_execute(one).await.unwrap();
    }
    blue.open().await.batch_execute(&one.replace("one", "only_on_blue")).await.unwrap();
    let stage = Stage::start(&blue, &green).await;
    let mut clients = Vec::new();
    for (sql, parsed) in [("one()", b'1'), ("only_on_blue()", b'1'), ("nowhere()", b'E')] {
        let mut client = Raw::open(stage.port).await;
        client.send(&[(b'P', format!("\0SELECT {sql}\0\0\0").as_bytes()), (b'S', b"")]).await;
        assert_eq!(client.until(b'Z').await.first(), Some(&parsed), "{sql}");
        clients.push(client);
    }
    stage.turn(Side::Green).await;
    until("one is cut", || async { stage.status().await.cut == 1 }).await;
    let bind: [(u8, &[u8]); 3] = [(b'B', b"\0\0\0\0\0\0\0\0"), (b'E', b"\0\0\0\0\0"), (b'S', b"")];
    clients[0].send(&bind).await;
    assert_eq!(clients[0].until(b'Z').await, b"2DCZ");
    assert_eq!(clients[1].until(b'E').await, b"E");
    clients[2].send(&bind).await;
    assert_eq!(clients[2].until(b'Z').await, b"EZ");
    assert_eq!(stage.status().await.moved, 2);
}

/// A survey is about those who are there. Asking who comes later would cost each login of the next
/// weeks a question.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_after_a_survey_is_not_asked() {
    let (_blue_server, _green_server, blue, green) = pair().await;
    let stage = Stage::start(&blue, &green).await;
    stage.must(Order::Survey).await;
    let client = Raw::open(stage.port).await;
    until("it is served", || async { stage.status().await.entering == 0 }).await;
    // The last thing that the proxy says to a server that it asks.
    let asked = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle' AND query = 'ROLLBACK'";
    let admin = blue.open().await;
    assert_eq!(number(&admin, asked).await, 0);
    stage.must(Order::Survey).await;
    assert_eq!(number(&admin, asked).await, 1);
    drop(client);
}

/// What the proxy asks and repeats takes longer than this client allows for its own statements.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_a_short_timeout_is_moved_with_it() {
    let (_blue_server, green_server, blue, green) = pair().await;
    let stage = Stage::start(&blue, &green).await;
    let (client, plain) = (stage.client().await, stage.client().await);
    // 40 MB of statements: to list them takes longer than that, and to prepare them, too.
    let padding = " ".repeat(100 << 10);
    let mut statements = Vec::new();
    for number in 0..400 {
        let sql = format!("SELECT {number}::bigint /*{padding}*/");
        statements.push(client.prepare(&sql).await.unwrap());
    }
    client.batch_execute("SET lock_timeout = '7s'; SET statement_timeout = '50ms'").await.unwrap();
    stage.turn(Side::Green).await;
    let answer = stage.status().await;
    assert_eq!((answer.pinned, answer.cut), (std::collections::BTreeMap::new(), 0));
    client.batch_execute("SET statement_timeout = 0").await.unwrap();
    assert_eq!(number(&client, WHERE).await, i64::from(green_server.port));
    let row = client.query_one(&statements[150], &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 150);
    assert_eq!(text(&client, "SHOW lock_timeout").await.unwrap(), "7s");
    assert_eq!(text(&plain, "SHOW statement_timeout").await.unwrap(), "0");
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

/// The clients of a hold have their own time, whatever became of an earlier one's.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_was_replaced_cuts_nobody() {
    let (_blue_server, _green_server, blue, green) = pair().await;
    let mut config = ProxyConfig::new("127.0.0.1:0".parse().unwrap());
    config.in_transaction = InTransaction::Cut;
    let stage = Stage::with(config, &blue, &green).await;
    let client = stage.client().await;
    client.batch_execute("BEGIN").await.unwrap();
    let hold = |serial, wait_ms| {
        let (control, what) =
            (stage.control.clone(), Order::Hold { epoch: 1, serial, wait_ms, limit_ms: 60_000 });
        tokio::spawn(async move { order(&control, &what).await.unwrap() })
    };
    let stale = hold(1, 1500);
    until("the first one is seen", || async { stage.status().await.serial == 1 }).await;
    let newer = hold(2, 60_000);
    until("the second one is seen", || async { stage.status().await.serial == 2 }).await;
    assert!(stale.await.unwrap().error.unwrap().contains("another hold"));
    client.batch_execute("COMMIT").await.unwrap();
    let held = newer.await.unwrap();
    assert_eq!((held.error, held.cut), (None, 0));
    stage.release(2).await;
}

/// A client that does not wait for its login's end: what it sends ahead opens a transaction, which
/// the proxy has to know of.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_ahead_of_the_login_counts() {
    let (_blue_server, _green_server, blue, green) = pair().await;
    let stage = Stage::start(&blue, &green).await;
    let begin = super::raw::bytes(&[(b'Q', b"BEGIN\0"), (b'Q', b"SELECT 1\0")]);
    let mut client = Raw::open_with(stage.port, &begin).await;
    for answer in [&b"CZ"[..], b"TDCZ"] {
        assert_eq!(client.until(b'Z').await, answer);
    }
    let (serial, hold) = stage.hold();
    let open = || async { stage.status().await.busy.contains_key("in a transaction") };
    until("its transaction is seen", open).await;
    client.send(&[(b'Q', b"COMMIT\0")]).await;
    client.until(b'Z').await;
    assert_eq!(hold.await.unwrap().error, None);
    stage.release(serial).await;
}

/// More notifications come to a held client than the proxy takes in meanwhile, so it stops in the
/// middle of one of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_was_held_hears_everything() {
    let (_blue_server, _green_server, blue, green) = pair().await;
    let stage = Stage::start(&blue, &green).await;
    let mut client = Raw::open(stage.port).await;
    client.send(&[(b'Q', b"LISTEN news\0")]).await;
    client.until(b'Z').await;
    let (serial, hold) = stage.hold();
    assert_eq!(hold.await.unwrap().error, None);
    let notifying = blue.open().await;
    let news =
        "SELECT pg_notify('news', lpad(n::text, 4001, '-')) FROM generate_series(1, 100) AS n";
    notifying.batch_execute(news).await.unwrap();
    let unsent = "SELECT (pg_notification_queue_usage() > 0)::int";
    until("the listener's server has sent them", || async {
        number(&notifying, unsent).await == 0
    })
    .await;
    stage.release(serial).await;
    client.send(&[(b'Q', b"SELECT 1\0")]).await;
    let (mut heard, mut answered) = (0, false);
    while heard < 100 || !answered {
        let tags = client.until_any(b"AZ").await;
        heard += tags.iter().filter(|tag| **tag == b'A').count();
        answered |= tags.contains(&b'Z');
    }
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
