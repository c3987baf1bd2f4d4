//! Distributed transactions (XA): kept when they are prepared, on green when they are committed.

use std::path::Path;
use std::time::Duration;

use replicator::pipeline::failure::Failure;
use tests::mysql::Mysql;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::engine::{Engine, PAIRS, head, pipeline, start, url};

const DEADLINE: Duration = Duration::from_secs(120);

const BEGIN: &str = "create database t; use t;
  create table p(id int primary key, v varchar(9));
  create table c(id int primary key, p int, foreign key (p) references p(id) on delete cascade);
  create table big(id int primary key, filler varchar(2000));
  insert into p values (1, 'a'), (2, 'b'), (3, 'c'); insert into c values (1, 3);";

fn wait(what: &str, mut ready: impl FnMut() -> bool) {
    tests::wait::until_blocking(what, DEADLINE, || Ok(ready().then_some(()))).unwrap();
}

/// The same; a stream that has ended says why.
async fn until(
    running: &mut JoinHandle<Result<(), Failure>>,
    what: &str,
    mut ready: impl FnMut() -> bool,
) {
    let is_there = tests::wait::until(what, DEADLINE, || {
        let (is_there, has_ended) = (ready(), running.is_finished());
        async move { Ok((is_there || has_ended).then_some(is_there)) }
    });
    if !is_there.await.unwrap() {
        panic!("{}", running.await.unwrap().unwrap_err().report());
    }
}

fn gives(server: &Mysql, sql: &str, wanted: &str) -> bool {
    server.value(sql).is_ok_and(|found| found == wanted)
}

fn same(blue: &Mysql, green: &Mysql, name: &str) {
    for table in ["p", "c", "big"] {
        let all =
            |server: &Mysql| server.rows(&format!("select * from t.{table} order by id")).unwrap();
        assert!(all(blue) == all(green), "{name}: {table} differs");
    }
}

/// Prepares a transaction, whose session ends with it.
fn prepare(blue: &Mysql, id: &str, changes: &str) {
    blue.run(&format!("use t; xa start {id}; {changes}; xa end {id}; xa prepare {id}")).unwrap();
}

/// A stream in this process, with little memory.
fn stream(
    blue: &Mysql,
    green: &Mysql,
    state: &Path,
    begin: Option<&str>,
    lanes: u16,
) -> (watch::Sender<bool>, JoinHandle<Result<(), Failure>>) {
    let stop = watch::Sender::new(false);
    let mut streaming = pipeline(&url(blue), &url(green), state, begin, lanes, stop.subscribe());
    streaming.apply.memory_bytes = 4 << 20;
    let running = tokio::spawn(async move { streaming.run().await.map(drop) });
    (stop, running)
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_changes_count_when_they_are_committed() {
    for ((blue, green), lanes) in PAIRS.into_iter().zip([1, 3]) {
        let [blue, green] = [blue, green].map(|version| start(version, BEGIN));
        let name = blue.version().name();
        let scratch = tempfile::tempdir().unwrap();
        let begin = head(&blue);
        let (stop, mut running) = stream(&blue, &green, scratch.path(), Some(&begin), lanes);
        prepare(
            &blue,
            "'x1','b',7",
            "insert into p values (10, 'x1'); update p set v = 'x1' where id = 1",
        );
        // Its rows may refer to nothing.
        prepare(
            &blue,
            "'x2'",
            "set foreign_key_checks = 0; insert into c values (2, 99); set foreign_key_checks = 1",
        );
        prepare(&blue, "'x3'", "delete from p where id = 2");
        let large = "insert into big select a.id * 100 + b.id * 10 + c.id, repeat('x', 2000) from
                     (select 0 id union select 1 union select 2 union select 3 union select 4 union select 5 union select 6 union select 7) a,
                     (select 0 id union select 1 union select 2 union select 3 union select 4 union select 5 union select 6 union select 7) b,
                     (select 0 id union select 1 union select 2 union select 3 union select 4 union select 5 union select 6 union select 7) c";
        prepare(&blue, "'large'", large);
        blue.run("use t; xa start 'r'; select 1; xa end 'r'; xa prepare 'r'; xa commit 'r'")
            .unwrap();
        blue.run("use t; xa start 'one'; insert into p values (11, 'one'); xa end 'one'; xa commit 'one' one phase")
            .unwrap();
        blue.run("insert into t.p values (12, 'between')").unwrap();
        until(&mut running, "what was committed between", || {
            gives(&green, "select count(*) from t.p where id > 10", "2")
        })
        .await;
        assert_eq!(
            green.value("select group_concat(id order by id) from t.p").unwrap(),
            "1,2,3,11,12"
        );
        assert_eq!(green.value("select count(*) from _cutover.prepared").unwrap(), "4", "{name}");
        let pieces = "select count(*) from _cutover.prepared_piece";
        assert!(
            green.value(pieces).unwrap().parse::<u32>().unwrap() > 4,
            "{name}: large ones are cut"
        );

        blue.run("xa commit 'x2'; xa rollback 'x3'; xa commit 'large'").unwrap();
        blue.run("insert into t.p values (13, 'again'); xa commit 'x1','b',7").unwrap();
        blue.run("use t; delete from p where id = 3; update p set v = 'last' where id = 10")
            .unwrap();
        until(&mut running, "everything", || {
            gives(&green, "select count(*) from t.p where v = 'last'", "1")
        })
        .await;
        same(&blue, &green, name);
        assert_eq!(green.value("select count(*) from t.big").unwrap(), "512");
        assert_eq!(green.value("select count(*) from _cutover.prepared").unwrap(), "0", "{name}");
        assert_eq!(green.value(pieces).unwrap(), "0", "{name}");

        // Prepared and committed at once, in parts.
        blue.run(&format!(
            "use t; delete from big; xa start 'o'; {large}; xa end 'o'; xa commit 'o' one phase;
             insert into p values (14, 'o')"
        ))
        .unwrap();
        until(&mut running, "the large one", || {
            gives(&green, "select count(*) from t.p where id = 14", "1")
        })
        .await;
        same(&blue, &green, name);
        assert_eq!(green.value(pieces).unwrap(), "0", "{name}");
        stop.send_replace(true);
        running.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_prepared_outlives_the_engine_and_its_state() {
    for (blue, green) in PAIRS {
        let [blue, green] = [blue, green].map(|version| start(version, BEGIN));
        let name = blue.version().name();
        let scratch = tempfile::tempdir().unwrap();
        let begin = head(&blue);
        let mut engine = Engine::start(&blue, &green, &scratch.path().join("0"), Some(&begin), 1);
        for life in 1..=3u32 {
            let lanes = [1, 4][life as usize % 2];
            let (kept, dropped) = (100 * life, 100 * life + 1);
            prepare(
                &blue,
                &format!("'kept {life}'"),
                &format!("insert into p values ({kept}, 'x')"),
            );
            prepare(
                &blue,
                &format!("'dropped {life}'"),
                &format!(
                    "update p set v = 'no' where id = 1; insert into p values ({dropped}, 'no')"
                ),
            );
            blue.run(&format!("insert into t.p values ({}, 'other')", 100 * life + 2)).unwrap();
            wait("both to be kept", || {
                gives(&green, "select count(*) from _cutover.prepared", "2")
            });
            engine.kill();
            blue.run(&format!("xa commit 'kept {life}'; xa rollback 'dropped {life}'")).unwrap();
            let state = scratch.path().join(life.to_string());
            engine = Engine::start(&blue, &green, &state, None, lanes);
            wait("what was kept", || {
                assert!(!engine.has_ended(), "{name}: the engine ended by itself");
                gives(&green, &format!("select count(*) from t.p where id = {kept}"), "1")
                    && gives(&green, "select count(*) from _cutover.prepared", "0")
            });
        }
        blue.run("insert into t.p values (9, 'end')").unwrap();
        wait("the end", || gives(&green, "select count(*) from t.p where id = 9", "1"));
        engine.kill();
        same(&blue, &green, name);
    }
}

/// Its changes were never in the stream, so green can't have them.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_prepared_before_the_stream_stops_it_at_its_commit() {
    for (blue, green) in PAIRS {
        let [blue, green] = [blue, green].map(|version| start(version, BEGIN));
        let name = blue.version().name();
        let scratch = tempfile::tempdir().unwrap();
        prepare(&blue, "'early'", "insert into p values (10, 'early')");
        prepare(&blue, "'undone'", "insert into p values (11, 'undone')");
        let begin = head(&blue);
        let (_stop, running) = stream(&blue, &green, scratch.path(), Some(&begin), 1);
        blue.run("xa rollback 'undone'; insert into t.p values (12, 'x'); xa commit 'early'")
            .unwrap();
        let failure = tokio::time::timeout(DEADLINE, running).await.unwrap().unwrap().unwrap_err();
        let told = failure.report();
        assert!(told.contains("prepared before this stream began"), "{name}: {told}");
        assert_eq!(green.value("select max(id) from t.p").unwrap(), "12", "{name}");
    }
}
