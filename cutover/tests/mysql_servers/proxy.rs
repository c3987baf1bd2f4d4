//! The embedded proxy between real clients and real servers of MySQL and MariaDB.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use cutover::Side;
use cutover::proxy::control::{Answer, Order, order};
use cutover::proxy::{Proxy, ProxyConfig};
use decoders::mysql::server::ServerUrl;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, DriverError, Error, Opts, OptsBuilder, SslOpts};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;

use super::support::{Site, Version, until};

static SERIAL: AtomicU64 = AtomicU64::new(1);

pub(super) const MARIADB: (Version, Version) = (Version::Mariadb10_11, Version::Mariadb11_8);
pub(super) const MYSQL: (Version, Version) = (Version::Mysql9_7, Version::Mysql9_7);

/// A test for each family.
macro_rules! on_both_families {
    ($($name:ident),* $(,)?) => {
        mod mariadb {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::proxy::MARIADB).await;
            })*
        }
        mod mysql {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::proxy::MYSQL).await;
            })*
        }
    };
}
pub(super) use on_both_families;

on_both_families!(
    a_transaction_ends_where_it_began_and_the_next_begins_elsewhere,
    a_session_keeps_what_it_carries,
    what_can_not_be_moved_is_counted_and_cut_once,
    a_session_whose_server_has_ended_it_while_held_goes_on,
    who_logs_in_how,
    who_leaves_before_a_login_is_no_failed_one,
    a_level_for_the_next_transaction_waits_for_it,
);

/// Two servers.
pub(super) async fn sites((blue, green): (Version, Version)) -> (Site, Site) {
    let start = |version| tokio::task::spawn_blocking(move || Site::start(version));
    let (blue, green) = tokio::join!(start(blue), start(green));
    (blue.unwrap(), green.unwrap())
}

/// A proxy that runs in this process.
pub(super) struct Stage {
    proxy: Option<Proxy>,
    ends: [ServerUrl; 2],
    config: ProxyConfig,
    _directory: TempDir,
    pub control: PathBuf,
    pub port: u16,
}

impl Stage {
    pub async fn start(blue: &ServerUrl, green: &ServerUrl) -> Self {
        // The key with which passwords come is made meanwhile, on a machine that may be busy.
        let config = ProxyConfig {
            login_timeout_ms: 60_000,
            ..ProxyConfig::new("127.0.0.1:0".parse().unwrap())
        };
        Self::with(config, blue, green).await
    }

    pub async fn with(mut config: ProxyConfig, blue: &ServerUrl, green: &ServerUrl) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let control = directory.path().join("proxy.sock");
        let proxy = Proxy::start(config.clone(), &control, blue, green).await.unwrap();
        config.listen = proxy.address();
        let port = config.listen.port();
        let ends = [blue.clone(), green.clone()];
        Self { proxy: Some(proxy), ends, config, _directory: directory, control, port }
    }

    /// It dies, and a supervisor starts it anew.
    pub async fn crash(&mut self) {
        drop(self.proxy.take());
        // Its listeners go with its tasks, one by one.
        until("it is gone", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err()
                && tokio::net::UnixStream::connect(&self.control).await.is_err()
        })
        .await;
        let [blue, green] = &self.ends;
        let proxy = Proxy::start(self.config.clone(), &self.control, blue, green).await;
        self.proxy = Some(proxy.unwrap());
    }

    pub fn options(&self, user: &str, password: &str) -> OptsBuilder {
        OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port)
            .user(Some(user))
            .pass(Some(password))
            .db_name(Some("shop"))
            .prefer_socket(false)
    }

    pub async fn log_in(&self, user: &str, password: &str, tls: bool) -> Result<Conn, Error> {
        let unchecked = SslOpts::default()
            .with_danger_accept_invalid_certs(true)
            .with_danger_skip_domain_validation(true);
        let options = self.options(user, password).ssl_opts(tls.then_some(unchecked));
        Conn::new(Opts::from(options)).await
    }

    pub async fn client(&self) -> Conn {
        self.log_in("app", "a", false).await.unwrap()
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

pub(super) async fn port_of(client: &mut Conn) -> u16 {
    client.query_first("SELECT @@port").await.unwrap().unwrap()
}

pub(super) async fn text(client: &mut Conn, sql: &str) -> String {
    client.query_first::<Option<String>, _>(sql).await.unwrap().flatten().unwrap_or_default()
}

/// The number of a server's error.
pub(super) fn code<T>(result: Result<T, Error>) -> u16 {
    match result {
        Err(Error::Server(error)) => error.code,
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it was not refused"),
    }
}

async fn a_transaction_ends_where_it_began_and_the_next_begins_elsewhere(
    versions: (Version, Version),
) {
    let (blue, green) = sites(versions).await;
    let stage = Stage::start(&blue.mover(), &green.mover()).await;
    let (mut client, mut idle) = (stage.client().await, stage.client().await);
    idle.query_drop("SET autocommit = 0").await.unwrap();
    client.query_drop("BEGIN").await.unwrap();
    client.query_drop("INSERT INTO a (who) VALUES ('blue')").await.unwrap();
    // After an error the proxy has to ask.
    assert_eq!(code(client.query_drop("SELECT nonsense").await), 1054);
    let (serial, hold) = stage.hold();
    until("the hold is seen", async || !stage.status().await.busy.is_empty()).await;
    assert_eq!(stage.status().await.busy, BTreeMap::from([("in a transaction".into(), 1)]));
    assert_eq!(port_of(&mut client).await, blue.server.port());
    client.exec_drop("INSERT INTO a (who) VALUES (?)", ("blue",)).await.unwrap();
    let going_on = async {
        client.query_drop("COMMIT").await.unwrap();
        client.query_drop("INSERT INTO a (who) VALUES ('green')").await.unwrap();
    };
    let moving = async {
        let held = hold.await.unwrap();
        assert_eq!((held.error, held.held), (None, 2));
        assert_eq!(held.pinned, BTreeMap::new());
        stage.route(Side::Green).await;
        stage.release(serial).await
    };
    tokio::join!(going_on, moving);
    assert_eq!(port_of(&mut client).await, green.server.port());
    assert_eq!(text(&mut idle, "SELECT @@autocommit").await, "0");
    let answer = stage.status().await;
    assert_eq!((answer.moved, answer.cut, answer.side), (2, 0, Side::Green));
    let who = "SELECT group_concat(who) FROM shop.a";
    assert_eq!(blue.server.value(who).unwrap(), "blue,blue");
    assert_eq!(green.server.value(who).unwrap(), "green");
    // A new client belongs there, too; and back again.
    assert_eq!(port_of(&mut stage.client().await).await, green.server.port());
    stage.turn(Side::Blue).await;
    assert_eq!(port_of(&mut client).await, blue.server.port());
    assert_eq!(stage.status().await.cut, 0);
}

async fn a_session_keeps_what_it_carries(versions: (Version, Version)) {
    let (blue, green) = sites(versions).await;
    for site in [&blue, &green] {
        let sql = "CREATE DATABASE other; GRANT ALL ON other.* TO app; \
                   CREATE TABLE other.t (id int AUTO_INCREMENT PRIMARY KEY, x varchar(20)) \
                   AUTO_INCREMENT = 41";
        site.server.run(sql).unwrap();
    }
    let stage = Stage::start(&blue.mover(), &green.mover()).await;
    let (mut client, mut plain) = (stage.client().await, stage.client().await);
    client.query_drop("USE other").await.unwrap();
    let settings = "SET NAMES latin1, sql_mode = 'ANSI_QUOTES,NO_ZERO_DATE', time_zone = '+03:00', \
                    lock_wait_timeout = 77, transaction_isolation = 'SERIALIZABLE'";
    let settings = match versions.0.is_mariadb() {
        true => settings.replace("transaction_isolation", "tx_isolation"),
        false => settings.to_owned(),
    };
    client.query_drop(settings).await.unwrap();
    let statement = client.prep("INSERT INTO t (x) VALUES (concat(?, ?))").await.unwrap();
    let read = client.prep("SELECT x FROM t WHERE id = ?").await.unwrap();
    client.exec_drop(&statement, ("one", 1)).await.unwrap();
    for side in [Side::Green, Side::Blue, Side::Green] {
        stage.turn(side).await;
    }
    assert_eq!(stage.status().await.cut, 0);
    assert_eq!(text(&mut client, "SELECT last_insert_id()").await, "41");
    assert_eq!(port_of(&mut client).await, green.server.port());
    let shown = "SELECT concat_ws('|', database(), @@character_set_client, @@sql_mode, @@time_zone, \
                 @@lock_wait_timeout)";
    assert_eq!(text(&mut client, shown).await, "other|latin1|ANSI_QUOTES,NO_ZERO_DATE|+03:00|77");
    let level =
        "SHOW SESSION VARIABLES WHERE variable_name IN ('tx_isolation', 'transaction_isolation')";
    let level: Vec<(String, String)> = client.query(level).await.unwrap();
    assert!(level.iter().all(|(_, level)| level == "SERIALIZABLE") && !level.is_empty());
    client.exec_drop(&statement, ("two", 2)).await.unwrap();
    let found: Option<String> = client.exec_first(&read, (41,)).await.unwrap();
    assert_eq!(found.as_deref(), Some("two2"), "green did not get what blue has");
    client.close(statement).await.unwrap();
    let found: Option<String> = client.exec_first(&read, (41,)).await.unwrap();
    assert_eq!(found.as_deref(), Some("two2"));
    assert_eq!(text(&mut plain, "SELECT database()").await, "shop");

    // What was known about the last statement is not answered wrongly.
    client.query_drop("SELECT 1 UNION SELECT 2").await.unwrap();
    stage.turn(Side::Blue).await;
    assert_eq!(code(client.query_drop("SELECT FOUND_ROWS()").await), 1105);
    assert_eq!(text(&mut client, "SELECT 7").await, "7");
    assert_eq!(text(&mut client, "SELECT FOUND_ROWS()").await, "1");
    // A session that begins anew; and one that becomes somebody else's, on the server that it is on.
    client.reset().await.unwrap();
    assert_eq!(text(&mut client, "SELECT @@lock_wait_timeout <> 77").await, "1");
    let options = mysql_async::ChangeUserOpts::default();
    client.change_user(options).await.unwrap();
    assert_eq!(text(&mut client, "SELECT substring_index(user(), '@', 1)").await, "app");
    stage.turn(Side::Green).await;
    assert_eq!(port_of(&mut client).await, green.server.port());
    assert_eq!(stage.status().await.cut, 0);
}

async fn what_can_not_be_moved_is_counted_and_cut_once(versions: (Version, Version)) {
    let (blue, green) = sites(versions).await;
    let stage = Stage::start(&blue.mover(), &green.mover()).await;
    let hidden = "CREATE PROCEDURE shop.hide() CREATE TEMPORARY TABLE shop.hidden (x int)";
    blue.server.run(hidden).unwrap();
    let ties = [
        ("user variables", "SET @x = 1"),
        ("user variables", "SELECT @y := 1"),
        ("temporary tables", "CREATE TEMPORARY TABLE t (x int)"),
        ("temporary tables", "CALL hide()"),
        ("GET_LOCK", "SELECT GET_LOCK('a', 0)"),
        ("LOCK TABLES", "LOCK TABLES a READ"),
        ("PREPARE", "PREPARE p FROM 'SELECT 1'"),
        ("HANDLER", "HANDLER a OPEN"),
        ("SET timestamp", "SET timestamp = 1000"),
    ];
    let mut clients = Vec::new();
    for (_, sql) in ties {
        let mut client = stage.client().await;
        client.query_drop(sql).await.unwrap();
        clients.push(client);
    }
    let mut free = stage.client().await;
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for (why, _) in ties {
        *expected.entry(why.to_owned()).or_default() += 1;
    }
    // Who has just said something is not asked.
    until("everybody was asked", async || stage.must(Order::Survey).await.pinned == expected).await;
    stage.turn(Side::Green).await;
    assert_eq!(port_of(&mut free).await, green.server.port());
    until("all are cut", async || stage.status().await.cut == ties.len() as u64).await;
    for (client, (why, _)) in clients.iter_mut().zip(ties) {
        match client.query_drop("SELECT 1").await {
            Err(Error::Server(error)) => {
                assert_eq!((error.code, &error.state[..]), (1053, "08S01"));
                assert!(error.message.contains(why), "{why}: {}", error.message);
            }
            // The connection was closed before the question could be sent.
            Err(Error::Io(_) | Error::Driver(_)) => {}
            other => panic!("{why}: {other:?}"),
        }
    }
    let answer = stage.status().await;
    assert_eq!((answer.moved, answer.cut), (1, ties.len() as u64));
}

/// As in a rehearsal, whose fence ends every session and whose clients go on where they were.
async fn a_session_whose_server_has_ended_it_while_held_goes_on(versions: (Version, Version)) {
    let (blue, green) = sites(versions).await;
    let stage = Stage::start(&blue.mover(), &green.mover()).await;
    let mut client = stage.client().await;
    client.query_drop("SET time_zone = '+05:00'").await.unwrap();
    let first = text(&mut client, "SELECT connection_id()").await;
    let (serial, hold) = stage.hold();
    assert_eq!(hold.await.unwrap().error, None);
    // Who comes meanwhile waits.
    let (options, waits) = (Opts::from(stage.options("app", "a")), async |options: Opts| {
        let mut late = Conn::new(options).await.unwrap();
        port_of(&mut late).await
    });
    let late = tokio::spawn(async move { waits(options).await });
    until("it waits", async || stage.status().await.entering == 1).await;
    blue.server.run(&format!("KILL {first}")).unwrap();
    let gone = format!("SELECT count(*) FROM information_schema.processlist WHERE id = {first}");
    until("it is gone", async || blue.server.value(&gone).unwrap() == "0").await;
    stage.release(serial).await;
    assert_eq!(text(&mut client, "SELECT @@time_zone").await, "+05:00");
    assert_ne!(text(&mut client, "SELECT connection_id()").await, first);
    assert_eq!(late.await.unwrap(), blue.server.port());
    let answer = stage.status().await;
    assert_eq!((answer.moved, answer.cut, answer.side), (1, 0, Side::Blue));
}

async fn who_logs_in_how(versions: (Version, Version)) {
    let (blue, green) = sites(versions).await;
    for site in [&blue, &green] {
        let long = "a password that is longer than twenty bytes";
        site.server
            .run(&format!(
                "CREATE USER free IDENTIFIED BY ''; CREATE USER longer IDENTIFIED BY '{long}'; \
                 GRANT ALL ON shop.* TO free; GRANT ALL ON shop.* TO longer"
            ))
            .unwrap();
    }
    let stage = Stage::start(&blue.mover(), &green.mover()).await;
    let mut clients = Vec::new();
    for tls in [true, false] {
        for (user, password) in [
            ("app", "a"),
            ("free", ""),
            ("longer", "a password that is longer than twenty bytes"),
            ("app", "a"),
        ] {
            clients.push(stage.log_in(user, password, tls).await.unwrap());
            for wrong in ["wrong", "A"] {
                assert_eq!(code(stage.log_in(user, wrong, tls).await), 1045, "{user}");
            }
        }
        // MySQL asks whom it does not know by a plugin that depends on the name, also by one that the
        // driver lacks; so of some names the refusal is not seen.
        let mut refused = 0;
        for number in 0..12 {
            match stage.log_in(&format!("nobody{number}"), "a", tls).await {
                Err(Error::Driver(DriverError::UnknownAuthPlugin { .. })) => {}
                other => {
                    assert_eq!(code(other), 1045);
                    refused += 1;
                }
            }
        }
        assert!(refused > 0, "no name was refused by the server");
    }
    until("all were asked", async || {
        let answer = stage.must(Order::Survey).await;
        answer.pinned.is_empty() && answer.opposite.unwrap().refused.is_empty()
    })
    .await;
    stage.turn(Side::Green).await;
    for client in &mut clients {
        assert_eq!(port_of(client).await, green.server.port());
    }
    assert_eq!(stage.status().await.cut, 0);
    // With nothing that could be learned, the file helps, and nothing else does.
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"\"app\" \"a\"\n").unwrap();
    let mut config = ProxyConfig::new("127.0.0.1:0".parse().unwrap());
    config.users_file = Some(file.path().to_path_buf());
    config.clients_max = 1;
    let stage = Stage::with(config, &blue.mover(), &green.mover()).await;
    let mut client = stage.client().await;
    assert_eq!(code(stage.log_in("app", "a", false).await), 1040);
    stage.turn(Side::Green).await;
    assert_eq!(port_of(&mut client).await, green.server.port());
}

/// As a health check. Many of them, and a server lets nobody in from the proxy's host.
async fn who_leaves_before_a_login_is_no_failed_one(versions: (Version, Version)) {
    let (blue, green) = sites(versions).await;
    let stage = Stage::start(&blue.mover(), &green.mover()).await;
    let failed = || blue.server.rows("SHOW GLOBAL STATUS LIKE 'Aborted_connects'").unwrap();
    let before = failed();
    for _ in 0..5 {
        let mut client = tokio::net::TcpStream::connect(("127.0.0.1", stage.port)).await.unwrap();
        // The server has greeted, and waits.
        client.read_u32().await.unwrap();
    }
    let waiting =
        "SELECT count(*) FROM information_schema.processlist WHERE user = 'unauthenticated user'";
    until("nobody is waited for", async || blue.server.value(waiting).unwrap() == "0").await;
    assert_eq!(failed(), before);
    assert_eq!(port_of(&mut stage.client().await).await, blue.server.port());
}

async fn a_level_for_the_next_transaction_waits_for_it(versions: (Version, Version)) {
    let (blue, green) = sites(versions).await;
    let stage = Stage::start(&blue.mover(), &green.mover()).await;
    let mut client = stage.client().await;
    let number = text(&mut client, "SELECT connection_id()").await;
    let variable = if versions.0.is_mariadb() { "tx" } else { "transaction" };
    for sql in [
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE".to_owned(),
        format!("SET @@{variable}_isolation = 'SERIALIZABLE'"),
    ] {
        client.query_drop(&sql).await.unwrap();
        client.query_drop("SELECT 1").await.unwrap();
        let (serial, hold) = stage.hold();
        until("the hold is seen", async || !stage.status().await.busy.is_empty()).await;
        client.query_drop("BEGIN").await.unwrap();
        client.query_drop("SELECT * FROM a").await.unwrap();
        let level = format!(
            "SELECT trx_isolation_level FROM information_schema.innodb_trx \
             WHERE trx_mysql_thread_id = {number}"
        );
        assert_eq!(blue.server.value(&level).unwrap(), "SERIALIZABLE", "{sql}");
        client.query_drop("COMMIT").await.unwrap();
        assert_eq!(hold.await.unwrap().error, None, "{sql}");
        stage.release(serial).await;
    }
}
