//! Sessions that are there before the fence: whatever they are in the middle of, none goes on.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::support::until;

/// Who, what it did before the fence, and what it tries behind it.
const SESSIONS: &[(&str, &str, &str)] = &[
    ("app", "SELECT 1", "INSERT INTO t VALUES (2, 'idle')"),
    ("app", "SELECT 1", "BEGIN READ WRITE; INSERT INTO u (who) VALUES ('x'); COMMIT"),
    ("app", "BEGIN READ WRITE; INSERT INTO t VALUES (3, 'open')", "COMMIT"),
    ("app", "BEGIN READ WRITE; SELECT 1", "INSERT INTO u (who) VALUES ('late'); COMMIT"),
    (
        "app",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "INSERT INTO u (who) VALUES ('characteristics')",
    ),
    ("app", "SET default_transaction_read_only = off", "INSERT INTO u (who) VALUES ('set')"),
    ("rw_role", "SELECT 1", "INSERT INTO u (who) VALUES ('role')"),
    ("rw_here", "SELECT 1", "INSERT INTO u (who) VALUES ('role in database')"),
    ("boss", "SELECT 1", "INSERT INTO u (who) VALUES ('superuser')"),
    ("boss", "BEGIN; LOCK TABLE p1 IN ACCESS EXCLUSIVE MODE", "INSERT INTO p1 VALUES (4); COMMIT"),
    ("boss", "BEGIN; ALTER TABLE w ADD COLUMN x int", "COMMIT"),
    ("boss", "SELECT 1", "CREATE TABLE new (id int)"),
    ("boss", "SELECT 1", "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (1000) TO (2000)"),
    ("boss", "SELECT 1", "TRUNCATE u"),
    ("boss", "SELECT 1", "CREATE ROLE sneaky LOGIN SUPERUSER"),
    ("app", "SELECT 1", "SELECT nextval('s')"),
    ("app", "SELECT 1", "SELECT lo_create(0)"),
    ("app", "BEGIN; SELECT lo_creat(-1)", "COMMIT"),
    ("app", "BEGIN; INSERT INTO u (who) VALUES ('2pc')", "PREPARE TRANSACTION 'late'"),
    ("app", "SELECT 1", "NOTIFY x"),
    ("app", "SELECT 1", "SELECT pg_logical_emit_message(true, 'x', 'x')"),
];

/// A client that speaks the replication protocol and yet takes SQL.
struct Walsender(Child);

impl Walsender {
    fn open(blue: &Blue) -> Self {
        let info = format!(
            "host=127.0.0.1 port={} user=boss dbname=shop replication=database",
            blue.server.port
        );
        let child = Command::new("psql")
            .args(["-X", "-q", &info])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// What psql complains about.
    fn end(mut self, sql: &str) -> String {
        let mut stdin = self.0.stdin.take().unwrap();
        stdin.write_all(sql.as_bytes()).unwrap();
        drop(stdin);
        let mut complaints = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
        self.0.wait().unwrap();
        complaints
    }
}

async fn sessions_end_with_the_door(major: &str) {
    let blue = Blue::start(
        major,
        "postgres",
        "CREATE ROLE rw_role LOGIN; ALTER ROLE rw_role SET default_transaction_read_only = off; \
         CREATE ROLE rw_here LOGIN; \
         ALTER ROLE rw_here IN DATABASE shop SET default_transaction_read_only = off",
    )
    .await;
    // A subscription writes into blue, from a database of the same server.
    let publisher = blue
        .server
        .database(
            "publisher",
            "CREATE TABLE u (id int PRIMARY KEY, who text); CREATE PUBLICATION up FOR TABLE u",
        )
        .await;
    let publisher = publisher.open().await;
    publisher
        .batch_execute("SELECT pg_create_logical_replication_slot('up', 'pgoutput')")
        .await
        .unwrap();
    let subscribe = format!(
        "CREATE SUBSCRIPTION up CONNECTION 'host=127.0.0.1 port={} user=postgres dbname=publisher' \
         PUBLICATION up WITH (create_slot = false, slot_name = 'up', copy_data = false)",
        blue.server.port
    );
    blue.client("boss").await.batch_execute(&subscribe).await.unwrap();
    publisher.batch_execute("INSERT INTO u VALUES (50, 'subscribed')").await.unwrap();
    until("the subscription works", || async {
        number(&blue.witness, "SELECT count(*) FROM u WHERE id = 50").await == 1
    })
    .await;

    // From 16 on an exclusive lock keeps us from listing the tables, so that comes before.
    let undo = blue.fence.prepare().await.unwrap();
    let walsender = Walsender::open(&blue);
    let mut sessions = Vec::new();
    for (who, before, _) in SESSIONS {
        let session = blue.client(who).await;
        session.batch_execute(before).await.unwrap();
        sessions.push(session);
    }
    let running = blue.client("app").await;
    let running = tokio::spawn(async move {
        running.batch_execute("INSERT INTO u (who) SELECT 'slow' FROM pg_sleep(600)").await
    });
    until("the walsender and the slow statement are there", || async {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop' AND \
            (backend_type = 'walsender' OR query LIKE '%pg_sleep(600)' AND state = 'active')";
        number(&blue.outside, query).await == 2
    })
    .await;

    let raised = blue.raise_from(undo).await;
    assert_eq!(blue.clients_inside().await, 0);
    publisher.batch_execute("INSERT INTO u VALUES (51, 'behind')").await.unwrap();
    for (session, (who, before, tries)) in sessions.iter().zip(SESSIONS) {
        let tried = session.batch_execute(tries).await;
        assert!(tried.is_err(), "{who}, after {before}, came through with {tries}");
    }
    assert!(running.await.unwrap().is_err());
    let complaints = walsender.end("INSERT INTO u (who) VALUES ('walsender')");
    assert!(complaints.contains("terminat") || complaints.contains("closed"), "{complaints}");
    assert_eq!(blue.traces().await, raised.traces);
    blue.seal(&raised).await.unwrap();
    assert_eq!(blue.traces().await, raised.traces);
    assert_eq!(blue.clients_inside().await, 0, "the subscription came back");

    blue.fence.lower(&raised.undo, deadline()).await.unwrap();
    // Nothing of the subscription is lost either: it comes back by itself.
    let session = blue.login.open().await;
    until("the subscription goes on", || async {
        number(&session, "SELECT count(*) FROM u WHERE id = 51").await == 1
    })
    .await;
    assert_eq!(settings(&blue.login, &blue.server.info("postgres")).await, blue.before);
    let drop = "ALTER SUBSCRIPTION up DISABLE; ALTER SUBSCRIPTION up SET (slot_name = NONE); \
        DROP SUBSCRIPTION up";
    session.batch_execute(drop).await.unwrap();
}

on_versions! { sessions_end_with_the_door:
    sessions_end_with_the_door_on_10 = "10",
    sessions_end_with_the_door_on_13 = "13",
    sessions_end_with_the_door_on_15 = "15",
    sessions_end_with_the_door_on_16 = "16",
    sessions_end_with_the_door_on_17 = "17",
    sessions_end_with_the_door_on_18 = "18",
}
