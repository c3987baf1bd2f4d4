//! What would diverge is refused, and nothing of it stays.

use decoders::postgres::catalog::TableFilter;
use decoders::source::Disposition;
use decoders::{Source, SourceEvent};
use sinks::{Lane, Target};

use super::support::{DEADLINE, PAIRS, Pair};

#[tokio::test]
async fn rows_that_are_not_what_they_were_stop_the_lane() {
    const TABLE: &str = "create table t(id int primary key, v varchar(20), u int, unique key(u));
                         insert into t values (1,'a',1),(2,'b',2),(3,'c',3);";
    for versions in PAIRS {
        let pair = Pair::start(versions, TABLE);
        for (on_green, on_blue, back, told) in [
            (
                "delete from t.t where id = 1",
                "update t.t set v = 'x' where id = 1",
                "insert into t.t values (1,'x',1)",
                "0 rows were found",
            ),
            (
                "delete from t.t where id = 2",
                "delete from t.t where id = 2",
                "insert into t.t values (2,'b',2)",
                "0 rows were found",
            ),
            (
                "insert into t.t values (9,'secret',null)",
                "insert into t.t values (9,'secret',null)",
                "delete from t.t where id = 9",
                "a unique key has that value already",
            ),
            (
                "insert into t.t values (8,'z',77)",
                "insert into t.t values (10,'y',77)",
                "delete from t.t where id = 8",
                "a unique key has that value already",
            ),
        ] {
            pair.green.run(on_green).unwrap();
            pair.blue.run(on_blue).unwrap();
            let mut opened = pair.open().await;
            let all = opened.read(&pair.blue).await;
            let error = opened.lane.apply(&all).await.unwrap_err();
            assert_eq!(error.disposition, Disposition::Halt, "{error}");
            assert!(error.message.contains(told), "{error}");
            assert!(!error.message.contains("secret"), "{error}");
            opened.close().await;
            pair.green.run(back).unwrap();
            let mut opened = pair.open().await;
            opened.catch_up(&pair.blue, usize::MAX).await;
            opened.close().await;
        }
        pair.assert_same(&["t"]);
    }
}

#[tokio::test]
async fn tables_that_do_not_fit_are_named() {
    const TABLES: &str = "create table lacks(id int primary key, v int);
         create table more(id int primary key); create table fires(id int primary key);
         create table shorter(id int primary key, v varchar(20));";
    for versions in PAIRS {
        let pair = Pair::start(versions, TABLES);
        pair.green
            .run(
                "use t; alter table lacks drop column v; alter table more add column w int not null;
                 create trigger tr before insert on fires for each row set @x = 1;
                 alter table shorter modify v varchar(2);",
            )
            .unwrap();
        for (sql, told) in [
            ("insert into t.lacks values (1, 1)", "that green lacks"),
            ("insert into t.more values (1)", "NOT NULL without a default"),
            ("insert into t.fires values (1)", "would fire"),
            ("insert into t.shorter values (1, 'abc')", "does not fit its column"),
        ] {
            pair.blue.run(sql).unwrap();
            let mut opened = pair.open().await;
            let all = opened.read(&pair.blue).await;
            let error = opened.lane.apply(&all[all.len() - 1..]).await.unwrap_err();
            assert_eq!(error.disposition, Disposition::Halt, "{error}");
            assert!(error.message.contains(told), "{error}");
            opened.close().await;
        }
        let target = pair.target().await;
        assert_eq!(target.progress().await.unwrap().through, None);
    }
}

#[tokio::test]
async fn statements_that_change_tables_stop_the_stream_where_they_stand() {
    const TABLE: &str = "create table t(id int primary key, v int);";
    for versions in PAIRS {
        let pair = Pair::start(versions, TABLE);
        let mut opened = pair.open().await;
        pair.blue
            .run(
                "use t; insert into t values (1, 1); create view w as select 1; create user u;
                 analyze table t; insert into t values (2, 2); alter table t add column w int;
                 insert into t values (3, 3, 3);",
            )
            .unwrap();
        let (found, told) = until_it_stops(&mut opened).await;
        assert!(told.contains("ALTER TABLE of t.t"), "{told}");
        // Two rows, and the view, which no row needs: it is said and not made.
        assert_eq!(found, 3);
        assert_eq!(pair.green.value("select count(*) from t.t").unwrap(), "2");
        opened.close().await;
        // The next life stops there too: nothing behind it is ever applied.
        let mut opened = pair.open().await;
        let (found, told) = until_it_stops(&mut opened).await;
        assert!(told.contains("ALTER TABLE of t.t"), "{told}");
        assert_eq!(found, 0);
        assert_eq!(pair.green.value("select count(*) from t.t").unwrap(), "2");
        opened.close().await;
    }
}

/// Applies until the lane stops: how many transactions came before, and what it says.
async fn until_it_stops(opened: &mut super::support::Opened) -> (usize, String) {
    let mut found = 0;
    loop {
        let event = tokio::time::timeout(DEADLINE, opened.stream.next()).await.expect("an event");
        let SourceEvent::Transaction(transaction) = event.unwrap() else { continue };
        match opened.lane.apply(&[transaction]).await {
            Ok(_) => found += 1,
            Err(error) => {
                assert_eq!(error.disposition, Disposition::Halt, "{error}");
                return (found, error.message);
            }
        }
    }
}

#[tokio::test]
async fn statements_about_other_tables_pass_unless_they_take_one_of_ours() {
    const TABLES: &str =
        "create table t(id int primary key); create table other(id int primary key);
         create table parts(id int primary key) partition by range (id)
           (partition a values less than (10), partition b values less than maxvalue);";
    for versions in PAIRS {
        for taking in [
            "alter table parts exchange partition a with table t",
            "alter table other rename to t2, algorithm = copy",
            "rename table other to t3",
            "drop database t",
        ] {
            let mut pair = Pair::start(versions, TABLES);
            // `t` and whatever is called like it.
            pair.filter = TableFilter::parse(&["t.t*"], &[]).unwrap();
            let mut opened = pair.open().await;
            pair.blue
                .run(
                    "create database elsewhere; alter database elsewhere character set utf8mb4;
                     create table elsewhere.x(id int primary key); drop database elsewhere;
                     use t; create table y(id int); alter table y rename to z, add column w int;
                     alter table other comment 'rename to t'; drop table z; insert into t values (1);",
                )
                .unwrap();
            pair.blue.run(&format!("use t; {taking}")).unwrap();
            let (found, told) = until_it_stops(&mut opened).await;
            let words: Vec<&str> = taking.split(' ').take(2).collect();
            assert!(told.contains(&words.join(" ").to_uppercase()), "{taking}: {told}");
            assert_eq!(found, 1, "{taking}");
            opened.close().await;
        }
    }
}

#[tokio::test]
async fn names_in_another_case_are_the_same_where_the_server_says_so() {
    // MySQL decides it when the data directory is made.
    let folding = &["--lower-case-table-names=1"];
    let mut pair = Pair::start_with(PAIRS[0], folding, "create table t(id int primary key);");
    pair.filter = TableFilter::parse(&["t.t"], &[]).unwrap();
    let mut opened = pair.open().await;
    pair.blue
        .run("insert into T.T values (1); truncate table T.T; insert into t.T values (2)")
        .unwrap();
    opened.catch_up(&pair.blue, 1).await;
    pair.assert_same(&["t"]);
    pair.blue.run("alter table T.T add column v int").unwrap();
    let (_, told) = until_it_stops(&mut opened).await;
    assert!(told.contains("ALTER TABLE of t.t"), "{told}");
    opened.close().await;
}

#[tokio::test]
async fn databases_are_not_left_out_for_what_they_would_be_to_postgres() {
    for versions in PAIRS {
        let pair = Pair::start(
            versions,
            "create table pg_stats(id int primary key); create database pg_app;
             create table pg_app.t(id int primary key);",
        );
        let mut opened = pair.open().await;
        pair.blue
            .run("insert into pg_app.t values (1); insert into t.pg_stats values (1)")
            .unwrap();
        opened.catch_up(&pair.blue, 1).await;
        assert_eq!(pair.green.value("select count(*) from pg_app.t").unwrap(), "1");
        pair.assert_same(&["pg_stats"]);
        opened.close().await;
    }
}
