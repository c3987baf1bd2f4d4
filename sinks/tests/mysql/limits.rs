//! What green's settings and types allow.

use std::fmt::Write as _;
use std::time::Duration;

use decoders::source::Disposition;
use sinks::Lane;
use tests::mysql::Version;

use super::support::{PAIRS, Pair};

#[tokio::test]
async fn columns_that_would_alter_values_without_a_word_are_named() {
    const TABLES: &str = "create table a(id int primary key, v datetime(6));
         create table b(id int primary key, v decimal(10,4));
         create table c(id int primary key, v varchar(20));
         create table d(id int primary key, v varbinary(4));
         create table e(id int primary key, v time(3));";
    for versions in PAIRS {
        let pair = Pair::start(versions, TABLES);
        pair.green
            .run(
                "use t; alter table a modify v datetime; alter table b modify v double;
                 alter table c modify v char(20); alter table d modify v binary(8);
                 alter table e modify v time(6);",
            )
            .unwrap();
        for (sql, told) in [
            ("insert into t.a values (1, '2026-01-01 00:00:00.999999')", "datetime(6) on blue"),
            ("insert into t.b values (1, 0.1234)", "decimal(10,4) on blue"),
            ("insert into t.c values (1, 'x  ')", "char(20) on green"),
            ("insert into t.d values (1, 'x')", "binary(8) on green"),
        ] {
            pair.blue.run(sql).unwrap();
            let mut opened = pair.open().await;
            let all = opened.read(&pair.blue).await;
            let error = opened.lane.apply(&all[all.len() - 1..]).await.unwrap_err();
            assert_eq!(error.disposition, Disposition::Halt, "{error}");
            assert!(error.message.contains(told), "{error}");
            opened.close().await;
        }
        // Digits more than blue's hold blue's values.
        pair.blue.run("insert into t.e values (1, '10:11:12.345')").unwrap();
        let mut opened = pair.open().await;
        let last = opened.read(&pair.blue).await.pop().unwrap();
        opened.lane.apply(&[last]).await.unwrap();
        assert_eq!(pair.green.value("select v from t.e").unwrap(), "10:11:12.345000");
        opened.close().await;
    }
}

#[tokio::test]
async fn batches_stay_below_greens_packet_size() {
    for versions in PAIRS {
        let pair = Pair::start(versions, "create table t(id int primary key, v mediumtext);");
        pair.green.run("set global max_allowed_packet = 65536").unwrap();
        let mut opened = pair.open().await;
        let mut rows = String::new();
        for id in 0..64 {
            let _ = write!(rows, "{}({id}, repeat('a', 20000))", if id > 0 { "," } else { "" });
        }
        pair.blue.run(&format!("insert into t.t values {rows}")).unwrap();
        opened.catch_up(&pair.blue, usize::MAX).await;
        pair.blue.run("update t.t set v = repeat('b', 20000 + id)").unwrap();
        opened.catch_up(&pair.blue, usize::MAX).await;
        pair.blue.run("delete from t.t where id > 5").unwrap();
        opened.catch_up(&pair.blue, usize::MAX).await;
        let ways = opened.lane.ways();
        assert_eq!((ways.as_a_whole, ways.refused), (3, 0), "{versions:?}");
        pair.assert_same(&["t"]);
        opened.close().await;
    }
}

/// What is kept of an UPDATE has the row before and behind it, which together may be more than green takes
/// where each is not.
#[tokio::test]
async fn a_prepared_update_that_is_too_large_says_what_helps() {
    for versions in PAIRS {
        let pair = Pair::start(
            versions,
            "create table t(id int primary key, v longblob);
             insert into t values (1, repeat('a', 9000000));",
        );
        pair.green.run("set global max_allowed_packet = 16777216").unwrap();
        pair.blue
            .run(
                "use t; xa start 'x'; update t set v = repeat('b', 9000000); xa end 'x';
                 xa prepare 'x'",
            )
            .unwrap();
        let mut opened = pair.open().await;
        let all = opened.read(&pair.blue).await;
        let mut error = None;
        for each in &all {
            if error.is_none() {
                error = opened.lane.apply(std::slice::from_ref(each)).await.err();
            }
        }
        let error = error.unwrap();
        assert_eq!(error.disposition, Disposition::Halt, "{error}");
        assert!(error.message.contains("max_allowed_packet"), "{error}");
        assert!(!error.message.contains("bbb"), "{error}");
        assert!(error.remedy.unwrap().contains("SET GLOBAL max_allowed_packet"));
        opened.close().await;

        pair.green.run("set global max_allowed_packet = 1073741824").unwrap();
        let mut opened = pair.open_when_free().await;
        opened.catch_up(&pair.blue, 1).await;
        pair.blue.run("xa commit 'x'").unwrap();
        opened.catch_up(&pair.blue, 1).await;
        opened.close().await;
        pair.assert_same(&["t"]);
    }
}

/// MariaDB's types that are stored as bytes and shown as text find their rows without a key.
#[tokio::test]
async fn rows_without_a_key_are_found_by_uuids_and_addresses() {
    let versions = (Version::Mariadb10_11, Version::Mariadb11_8);
    let pair = Pair::start(
        versions,
        "create table t(u uuid, four inet4, six inet6, c char(3), s set('a','b'));",
    );
    let mut opened = pair.open().await;
    pair.blue
        .run(
            "use t; insert into t values
               ('123e4567-e89b-12d3-a456-426655440000', '10.0.0.1', '::1', 'x', 'a,b'),
               ('123e4567-e89b-12d3-a456-426655440001', '10.0.0.2', '::2', 'y', ''),
               (null, null, null, null, null);
             update t set c = 'z' where four = '10.0.0.1'; update t set six = '::3' where c = 'y';
             delete from t where u is null; delete from t where c = 'z'",
        )
        .unwrap();
    opened.catch_up(&pair.blue, 1).await;
    pair.assert_same(&["t"]);
    opened.close().await;
}

/// A lane of a quiet stream keeps its session, and with it the lock that makes it the only one.
#[tokio::test]
async fn a_lane_outlives_greens_wait_timeout() {
    for versions in PAIRS {
        let pair = Pair::start(versions, "create table t(id int primary key)");
        pair.green.run("set global wait_timeout = 1").unwrap();
        let mut opened = pair.open().await;
        let idle = "select count(*) from information_schema.processlist
                    where user = 'cutover' and command = 'Sleep' and time >= 3";
        let none = "select count(*) from information_schema.processlist where user = 'cutover'";
        tests::wait::until_blocking("the lane to be idle", Duration::from_secs(30), || {
            let is_over = pair.green.value(idle)? == "1" || pair.green.value(none)? == "0";
            Ok(is_over.then_some(()))
        })
        .unwrap();
        pair.blue.run("insert into t.t values (1)").unwrap();
        opened.catch_up(&pair.blue, 1).await;
        pair.assert_same(&["t"]);
        opened.close().await;
    }
}

/// An ENUM without a label needs a session that is not strict. If the statement fails, the session is
/// strict again before anything else is written.
#[tokio::test]
async fn a_session_is_strict_again_after_a_row_that_failed() {
    for versions in PAIRS {
        let pair = Pair::start(
            versions,
            "create table e(id int primary key, e enum('a','b'));
             create table s(id int primary key, v varchar(20));",
        );
        pair.green.run("alter table t.s modify v varchar(2)").unwrap();
        let mut opened = pair.open().await;
        pair.green.run("insert into t.e values (1, 'a')").unwrap();
        pair.blue
            .run("use t; set sql_mode = ''; insert into e values (1, 'none of them')")
            .unwrap();
        let of_enum = opened.read(&pair.blue).await;
        opened.lane.apply(&of_enum).await.unwrap_err();
        pair.green.run("delete from t.e").unwrap();
        pair.blue.run("use t; insert into s values (1, 'too long')").unwrap();
        let too_long = opened.read(&pair.blue).await;
        // A lane that failed because of a conflict is used again.
        let error = opened.lane.apply(&too_long).await.unwrap_err();
        assert!(error.message.contains("does not fit its column"), "{error}");
        assert_eq!(pair.green.value("select count(*) from t.s").unwrap(), "0");
        opened.close().await;
    }
}
