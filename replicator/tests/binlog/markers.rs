//! A marker that is written on a live server comes out at the gate, and what is behind it is held.

use std::time::Duration;

use cutover::marker::{MarkerKind, Token};
use cutover::ports::Epoch;
use tests::mysql::{Mysql, Version};
use tokio::sync::watch;

use super::engine::{PAIRS, head, pipeline, start, url};

const DEADLINE: Duration = Duration::from_secs(60);

fn server(version: Version) -> Mysql {
    start(version, "create database t; create table t.t(id int primary key)")
}

async fn count_becomes(green: &Mysql, wanted: &str) {
    tests::wait::until("green to have the rows", DEADLINE, || {
        let found = green.value("select count(*) from t.t");
        async move { Ok((found? == wanted).then_some(())) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_is_seen_and_rows_behind_it_are_held() {
    for (blue, green) in PAIRS {
        let (blue, green) = (server(blue), server(green));
        let name = blue.version().name();
        let scratch = tempfile::tempdir().unwrap();
        let stop = watch::Sender::new(false);
        let start = head(&blue);
        let urls = [url(&blue), url(&green)];
        let mut streaming =
            pipeline(&urls[0], &urls[1], scratch.path(), Some(&start), 1, stop.subscribe());
        // Our own tables are of no database that is chosen, and no filter names them.
        streaming.database = Some("t".to_owned());
        let shared = streaming.shared.clone();
        let running = tokio::spawn(async move { streaming.run().await });
        blue.run("insert into t.t values (1)").unwrap();
        count_becomes(&green, "1").await;

        let token = Token::draining("7f3a", Epoch(7));
        shared.gate.arm(&token).unwrap();
        let marker = MarkerKind::Row.statement(&token);
        blue.run(&format!("insert into t.t values (2); {marker}")).unwrap();
        blue.run("insert into t.t values (3), (4)").unwrap();
        blue.run(&MarkerKind::Row.statement(&token.sealing())).unwrap();
        let mut gate = shared.gate.watch();
        let state = tokio::time::timeout(DEADLINE, gate.wait_for(|state| state.later.is_some()));
        let state = state.await.unwrap().unwrap().clone();
        let (later, end, leaks) = state.later.unwrap();
        assert_eq!((later, leaks.count), (token.sealing(), 2), "{name}");
        assert!(state.seen_at.is_some_and(|seen_at| seen_at < end), "{name}");
        let seen_at = state.seen_at.unwrap();
        let mut progress = shared.progress.subscribe();
        let durable = progress.wait_for(|frontier| frontier.durable() >= seen_at);
        tokio::time::timeout(DEADLINE, durable).await.unwrap().unwrap();
        assert_eq!(green.value("select group_concat(id order by id) from t.t").unwrap(), "1,2");
        let marked = "select count(*) from information_schema.tables
                      where table_schema = '_cutover' and table_name = 'marker'";
        assert_eq!(green.value(marked).unwrap(), "0", "{name}: markers stay on blue");

        shared.gate.release(&token);
        count_becomes(&green, "4").await;
        stop.send_replace(true);
        running.await.unwrap().unwrap();
    }
}
