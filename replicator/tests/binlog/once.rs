//! Whatever dies when: green becomes blue, and each transaction is there once.

use std::time::Duration;

use tests::mysql::{Mysql, Version};

use super::engine::{Engine, PAIRS, PIPELINE, head, start};
use super::workload::{Crowd, NAMES, TABLES, rows};

const DEADLINE: Duration = Duration::from_secs(120);

fn server(version: Version) -> Mysql {
    start(version, &format!("create database t; use t; {TABLES}"))
}

/// Transactions that green says it has applied; none before there is a row.
fn applied(green: &Mysql) -> u64 {
    let sql = format!(
        "select ifnull(sum(transactions), 0) from _cutover.progress where pipeline = '{PIPELINE}'"
    );
    green.value(&sql).ok().and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_killed_again_and_again_applies_each_transaction_once() {
    for (blue, green) in PAIRS {
        let (blue, green) = (server(blue), server(green));
        let name = blue.version().name();
        let start = head(&blue);
        let crowd = Crowd::start(&blue);
        let scratch = tempfile::tempdir().unwrap();
        let mut state = scratch.path().join("state-0");
        for life in 0..12u64 {
            // A third of the time with a state directory that knows nothing; without a start as soon
            // as green knows it.
            if life % 3 == 2 {
                state = scratch.path().join(format!("state-{life}"));
            }
            let known = applied(&green) > 0;
            let before = applied(&green);
            let mut engine = Engine::start(
                &blue,
                &green,
                &state,
                (!known).then_some(start.as_str()),
                [1, 4][life as usize % 2],
            );
            // Each life gets on by something, then dies at a moment that its clients choose.
            tests::wait::until_blocking("the engine to get on", DEADLINE, || {
                assert!(!engine.has_ended(), "{name}: the engine ended by itself");
                Ok((applied(&green) > before).then_some(()))
            })
            .unwrap();
            crowd.after(1 + life * 37 % 50);
            engine.kill();
        }
        let committed = crowd.end().await;
        let mut engine = Engine::start(&blue, &green, &state, None, 4);
        tests::wait::until_blocking("green to have everything", DEADLINE, || {
            assert!(!engine.has_ended(), "{name}: the engine ended by itself");
            Ok((applied(&green) >= committed).then_some(()))
        })
        .unwrap();
        engine.kill();
        assert_eq!(applied(&green), committed, "{name}");
        assert!(committed > 300, "{name}: {committed} transactions prove little");
        for table in NAMES {
            let (expected, found) = (rows(&blue, table), rows(&green, table));
            assert!(!expected.is_empty(), "{name} {table}");
            assert!(expected == found, "{name} {table} differs");
        }
    }
}
