//! AUTO_INCREMENT, and the sequences of MariaDB.

use cutover::Direction;
use cutover::api::Severity;
use cutover::ports::Sequences;
use cutover::sequences::MysqlSequences;
use mysql_async::prelude::Queryable;

use super::support::{Site, Version, deadline, open, text};

const TABLES: &str = "CREATE TABLE shop.burnt (id bigint unsigned AUTO_INCREMENT PRIMARY KEY, u int UNIQUE); \
    CREATE TABLE shop.ahead (id int AUTO_INCREMENT PRIMARY KEY); \
    CREATE TABLE shop.`odd ``name` (id int AUTO_INCREMENT PRIMARY KEY); \
    CREATE TABLE shop.untouched (id int AUTO_INCREMENT PRIMARY KEY); \
    CREATE TABLE shop.plain (id int PRIMARY KEY)";
const SEQUENCES: &str = "CREATE SEQUENCE shop.up; CREATE SEQUENCE shop.`odd ``seq` INCREMENT 5; \
    CREATE SEQUENCE shop.down INCREMENT -5 MAXVALUE -1 MINVALUE -1000 START -10 NOCACHE; \
    CREATE SEQUENCE shop.ended MAXVALUE 3 NOCACHE; CREATE SEQUENCE shop.fresh START 100; \
    CREATE SEQUENCE shop.round MAXVALUE 3 CYCLE NOCACHE; CREATE SEQUENCE shop.higher";

async fn green_gives_no_value_that_blue_has_given(version: Version) {
    let (blue, green) = (Site::start(version), Site::start(version));
    for site in [&blue, &green] {
        site.server.run(TABLES).unwrap();
        if version.is_mariadb() {
            site.server.run(SEQUENCES).unwrap();
        }
    }
    let (mut on_blue, mut on_green) = (open(&blue.mover()).await, open(&green.mover()).await);
    on_blue.query_drop("INSERT INTO shop.burnt (u) VALUES (1), (2), (3)").await.unwrap();
    for _ in 0..5 {
        let burn = on_blue.query_drop("INSERT INTO shop.burnt (u) VALUES (3)").await;
        assert!(burn.is_err(), "a duplicate uses a value up");
    }
    on_blue.query_drop("INSERT INTO shop.ahead VALUES (), ()").await.unwrap();
    on_blue.query_drop("INSERT INTO shop.`odd ``name` VALUES (), (), ()").await.unwrap();
    on_blue.query_drop("DELETE FROM shop.`odd ``name`").await.unwrap();
    // The stream brings rows with their keys.
    on_green.query_drop("INSERT INTO shop.burnt VALUES (1, 1), (2, 2), (3, 3)").await.unwrap();
    on_green.query_drop("INSERT INTO shop.ahead VALUES (500)").await.unwrap();
    if version.is_mariadb() {
        for (name, times) in
            [("up", 3), ("`odd ``seq`", 2), ("down", 2), ("ended", 3), ("round", 4), ("higher", 1)]
        {
            for _ in 0..times {
                on_blue.query_drop(format!("SELECT nextval(shop.{name})")).await.unwrap();
            }
        }
        // Somebody has used it there: it is never lowered.
        on_green.query_drop("SELECT setval(shop.higher, 900000)").await.unwrap();
        on_green.query_drop("SELECT nextval(shop.up)").await.unwrap();
    }
    let unlogged = match version.is_mariadb() {
        true => "SELECT @@gtid_binlog_pos",
        false => "SELECT @@gtid_executed",
    };
    let before = text(&mut on_green, unlogged).await;

    let sequences = MysqlSequences::new(blue.mover(), green.mover(), Direction::Forward);
    let checks = sequences.inspect(false).await.unwrap();
    assert!(checks.iter().all(|check| check.severity == Severity::Ok), "{checks:#?}");
    let report = sequences.copy(deadline()).await.unwrap();
    assert!(report.count >= 3, "{report:?}");
    // Again: the same.
    assert_eq!(sequences.copy(deadline()).await.unwrap(), report);
    assert_eq!(text(&mut on_green, unlogged).await, before, "something went to green's binlog");

    for (table, least) in [("burnt", 9), ("ahead", 501), ("`odd ``name`", 4), ("untouched", 1)] {
        on_green.query_drop(format!("INSERT INTO shop.{table} () VALUES ()")).await.unwrap();
        let id = text(&mut on_green, "SELECT last_insert_id()").await;
        assert_eq!(id, least.to_string(), "{table}");
    }
    if version.is_mariadb() {
        for (name, expected) in [
            ("up", "1001"),
            ("`odd ``seq`", "5001"),
            ("down", "-20"),
            ("round", "2"),
            ("fresh", "100"),
            ("higher", "900001"),
        ] {
            let next = text(&mut on_green, &format!("SELECT nextval(shop.{name})")).await;
            assert_eq!(next, expected, "{name}");
        }
        assert!(on_green.query_drop("SELECT nextval(shop.ended)").await.is_err());
    }
}

async fn who_holds_a_table_is_named(version: Version) {
    let (blue, green) = (Site::start(version), Site::start(version));
    blue.server.run("INSERT INTO shop.a (who) VALUES ('one')").unwrap();
    let mut reader = open(&green.app()).await;
    let id = text(&mut reader, "SELECT connection_id()").await;
    reader.query_drop("START TRANSACTION").await.unwrap();
    reader.query_drop("SELECT * FROM shop.a").await.unwrap();
    let sequences = MysqlSequences::new(blue.mover(), green.mover(), Direction::Forward);
    let error = sequences.copy(deadline()).await.unwrap_err();
    assert!(error.what.contains(&format!("session {id} ")), "{error}");
    // The earlier session of ours is ended if it still waits.
    let waiting = MysqlSequences::new(blue.mover(), green.mover(), Direction::Forward);
    let given_up =
        waiting.copy(tokio::time::Instant::now() + std::time::Duration::from_millis(300));
    assert!(given_up.await.is_err());
    reader.query_drop("COMMIT").await.unwrap();
    sequences.copy(deadline()).await.unwrap();
    let mut session = open(&green.mover()).await;
    session.query_drop("INSERT INTO shop.a (who) VALUES ('two')").await.unwrap();
    assert_eq!(text(&mut session, "SELECT last_insert_id()").await, "2");
}

on_all_servers!(green_gives_no_value_that_blue_has_given, who_holds_a_table_is_named);
