//! What would diverge is refused, and nothing of it stays.

use decoders::source::Disposition;
use sinks::{Lane, Target};

use super::support::{PAIRS, Pair};

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
