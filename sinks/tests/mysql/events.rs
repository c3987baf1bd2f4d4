//! Batches as row events: the same rows and the same errors as by statements, and statements where an
//! event would store something else.

use decoders::source::Disposition;
use sinks::Lane;
use tests::mysql::Version;

use super::support::{PAIRS, Pair};

const BACK: (Version, Version) = (Version::Mariadb11_8, Version::Mariadb10_11);

/// Enough rows for a batch.
fn rows(from: u32) -> String {
    let rows: Vec<String> = (from..from + 40).map(|n| format!("({n},'v{n}',{n})")).collect();
    rows.join(",")
}

const TABLE: &str = "create table t(id int primary key, v varchar(20) character set utf8mb4, u int, unique key(u));";

/// Nothing is passed over: not a row that is missing, not one that is there already.
#[tokio::test]
async fn what_events_do_not_find_stops_the_lane() {
    for versions in [PAIRS[0], PAIRS[1], BACK] {
        let pair = Pair::start(versions, TABLE);
        let mut opened = pair.open().await;
        pair.blue.run(&format!("insert into t.t values {}", rows(0))).unwrap();
        opened.catch_up(&pair.blue, usize::MAX).await;
        pair.assert_same(&["t"]);
        assert!(opened.lane.event_statements() > 0, "{}", pair.name());
        opened.close().await;
        let before =
            |sql: &str| format!("begin; insert into t.t values {}; {sql}; commit", rows(1000));
        for (on_green, on_blue, back, told) in [
            (
                "delete from t.t where id = 1",
                "update t.t set v = 'x' where id = 1",
                "insert into t.t values (1,'v1',1)",
                "0 rows were found",
            ),
            (
                "delete from t.t where id = 2",
                "delete from t.t where id = 2",
                "insert into t.t values (2,'v2',2)",
                "0 rows were found",
            ),
            (
                "insert into t.t values (99,'secret',null)",
                "insert into t.t values (99,'secret',null)",
                "delete from t.t where id = 99",
                "a unique key has that value already",
            ),
            (
                "insert into t.t values (98,'secret',77)",
                "insert into t.t values (97,'y',77)",
                "delete from t.t where id = 98",
                "a unique key has that value already",
            ),
        ] {
            pair.green.run(on_green).unwrap();
            pair.blue.run(&before(on_blue)).unwrap();
            let mut opened = pair.open().await;
            let all = opened.read(&pair.blue).await;
            let error = opened.lane.apply(&all).await.unwrap_err();
            assert_eq!(error.disposition, Disposition::Halt, "{error}");
            assert!(error.message.contains(told), "{error}");
            assert!(!error.message.contains("secret"), "{error}");
            let kept = pair.green.value("select count(*) from t.t where id >= 1000").unwrap();
            assert_eq!(kept, "0", "{on_blue}");
            opened.close().await;
            pair.green.run(back).unwrap();
            let mut opened = pair.open_when_free().await;
            opened.catch_up(&pair.blue, usize::MAX).await;
            pair.blue.run("delete from t.t where id >= 1000").unwrap();
            opened.catch_up(&pair.blue, usize::MAX).await;
            opened.close().await;
        }
        pair.assert_same(&["t"]);
    }
}

/// MariaDB's mode is the server's: somebody may change it under a lane.
#[tokio::test]
async fn a_server_that_passes_over_rows_is_noticed() {
    for versions in [PAIRS[0], BACK] {
        let pair = Pair::start(versions, TABLE);
        pair.blue.run(&format!("insert into t.t values {}", rows(0))).unwrap();
        let mut opened = pair.open().await;
        opened.catch_up(&pair.blue, usize::MAX).await;
        let written = opened.lane.event_statements();
        pair.green
            .run("set global slave_exec_mode = 'IDEMPOTENT'; delete from t.t where id = 3")
            .unwrap();
        // Other rows are written, but not as events.
        pair.blue.run("update t.t set v = 'x' where id > 3").unwrap();
        opened.catch_up(&pair.blue, usize::MAX).await;
        pair.blue.run("update t.t set v = 'y'").unwrap();
        let all = opened.read(&pair.blue).await;
        let error = opened.lane.apply(&all).await.unwrap_err();
        assert!(error.message.contains("0 rows were found"), "{error}");
        assert_eq!(opened.lane.event_statements(), written);
        assert_eq!(pair.green.value("select count(*) from t.t where v = 'y'").unwrap(), "0");
        opened.close().await;
    }
}

/// A start option of replicas makes the servers pass over rows that are missing, and all rows behind them
/// in the same event, without a word.
#[tokio::test]
async fn a_server_that_skips_errors_gets_statements() {
    for (versions, option) in
        [(PAIRS[0], "--slave-skip-errors=1032"), (PAIRS[1], "--replica-skip-errors=1032")]
    {
        let pair = Pair::start_with(versions, &[option], TABLE);
        pair.blue.run(&format!("insert into t.t values {}", rows(0))).unwrap();
        let mut opened = pair.open().await;
        opened.catch_up(&pair.blue, usize::MAX).await;
        pair.green.run("delete from t.t where id = 3").unwrap();
        pair.blue.run("update t.t set v = 'y'").unwrap();
        let all = opened.read(&pair.blue).await;
        let error = opened.lane.apply(&all).await.unwrap_err();
        assert_eq!(error.disposition, Disposition::Halt, "{error}");
        assert_eq!(opened.lane.event_statements(), 0);
        assert_eq!(pair.green.value("select count(*) from t.t where v = 'y'").unwrap(), "0");
        opened.close().await;
    }
}

/// Servers compare lengths in bytes only; character sets, signs and labels would be stored as they come.
#[tokio::test]
async fn tables_of_another_form_get_statements() {
    const TABLES: &str = "
      create table cs(id int primary key, v varchar(20) character set utf8mb4);
      create table sign(id int primary key, v decimal(6,2));
      create table labels(id int primary key, v enum('a','b'));
      create table turned(id int primary key, v int, w int);
      create table wider(id int primary key, v varchar(20));
      create table computed(id int primary key, v int, w int as (v + 1) stored);
      create table keyless(id int, v int);";
    const NAMES: [&str; 6] = ["cs", "sign", "labels", "turned", "wider", "computed"];
    for versions in PAIRS {
        let pair = Pair::start(versions, TABLES);
        pair.green
            .run(
                "use t; alter table cs modify v varchar(80) character set latin1;
                 alter table sign modify v decimal(6,2) unsigned;
                 alter table labels modify v enum('b','a');
                 alter table turned modify v int after w; alter table wider modify v varchar(30);",
            )
            .unwrap();
        let mut opened = pair.open().await;
        let mut sql = String::from("use t;");
        for (table, values) in [
            ("cs(id, v)", "'ä'"),
            ("sign(id, v)", "1.5"),
            ("labels(id, v)", "'b'"),
            ("turned(id, v, w)", "1, 2"),
            ("wider(id, v)", "'x'"),
            ("computed(id, v)", "5"),
        ] {
            let rows: Vec<String> = (0..20).map(|n| format!("({n}, {values})")).collect();
            sql += &format!("insert into {table} values {};", rows.join(","));
        }
        pair.blue
            .run(&format!("{sql} update turned set v = 7; delete from cs where id = 3"))
            .unwrap();
        opened.catch_up(&pair.blue, usize::MAX).await;
        for name in NAMES {
            let columns = if name == "turned" { "id, v, w" } else { "id, v" };
            let sql = format!("select {columns} from t.{name} order by id");
            assert_eq!(pair.blue.rows(&sql).unwrap(), pair.green.rows(&sql).unwrap(), "{name}");
        }
        assert_eq!(opened.lane.event_statements(), 0);
        // A number that green's column has no sign for is refused, not stored.
        pair.blue.run("insert into t.sign values (100, -1), (101, -1)").unwrap();
        let all = opened.read(&pair.blue).await;
        let error = opened.lane.apply(&all).await.unwrap_err();
        assert!(error.message.contains("does not fit its column"), "{error}");
        opened.close().await;
    }
}

/// What has no primary key comes as events, and is found by all its values.
#[tokio::test]
async fn rows_without_a_key_are_only_inserted_as_events() {
    for versions in PAIRS {
        let pair = Pair::start(versions, "create table keyless(id int, v int);");
        let mut opened = pair.open().await;
        let rows: Vec<String> = (0..40).map(|n| format!("({}, {n})", n % 3)).collect();
        pair.blue.run(&format!("insert into t.keyless values {}", rows.join(","))).unwrap();
        opened.catch_up(&pair.blue, usize::MAX).await;
        let written = opened.lane.event_statements();
        pair.blue.run("delete from t.keyless where v > 20; update t.keyless set id = 7").unwrap();
        opened.catch_up(&pair.blue, usize::MAX).await;
        pair.assert_same(&["keyless"]);
        assert_eq!(opened.lane.event_statements(), written);
        opened.close().await;
    }
}

/// Later than 2038: the same four bytes are a time before 1970 on the older server.
#[tokio::test]
async fn a_time_that_the_older_server_does_not_know_stops_the_lane() {
    let pair = Pair::start(BACK, "create table stamps(id int primary key, v timestamp null);");
    let mut opened = pair.open().await;
    let rows: Vec<String> = (0..40).map(|n| format!("({n}, '2024-01-01')")).collect();
    pair.blue
        .run(&format!("insert into t.stamps values {}, (77, '2100-01-01')", rows.join(",")))
        .unwrap();
    let all = opened.read(&pair.blue).await;
    let error = opened.lane.apply(&all).await.unwrap_err();
    assert!(error.message.contains("does not fit its column"), "{error}");
    assert_eq!(pair.green.value("select count(*) from t.stamps").unwrap(), "0");
    opened.close().await;
}

/// Without the right, everything goes as statements.
#[tokio::test]
async fn an_account_that_may_not_uses_statements() {
    for versions in PAIRS {
        let pair = Pair::start(versions, TABLE);
        pair.green
            .run(
                "revoke all privileges, grant option from 'cutover'@'%';
                 grant select, insert, update, delete, create on *.* to 'cutover'@'%'",
            )
            .unwrap();
        let mut opened = pair.open().await;
        pair.blue.run(&format!("insert into t.t values {}", rows(0))).unwrap();
        opened.catch_up(&pair.blue, usize::MAX).await;
        pair.assert_same(&["t"]);
        assert_eq!(opened.lane.event_statements(), 0);
        opened.close().await;
    }
}
