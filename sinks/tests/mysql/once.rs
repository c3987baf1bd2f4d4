//! Each transaction is on green once, wherever a life ends.

use decoders::mysql::stream::{NumberedStream, StreamOptions, foreign_keys_checked};
use decoders::mysql::{Ledger, Place};
use decoders::{Part, Source, SourceEvent, Transaction};
use sinks::own::{self, MESSAGE_PREFIX};
use sinks::{Lane, Share, Target};

use super::support::{PAIRS, Pair, head, stored, url};

const TABLE: &str = "create table t(id int primary key, v int not null);";

fn row(pair: &Pair, n: usize) {
    pair.blue.run(&format!("insert into t.t values ({n}, {n})")).unwrap();
}

#[tokio::test]
async fn a_life_that_ends_before_its_commit_leaves_nothing() {
    for versions in PAIRS {
        let pair = Pair::start(versions, TABLE);
        let mut opened = pair.open().await;
        row(&pair, 1);
        opened.catch_up(&pair.blue, 1).await;
        for n in 2..5 {
            row(&pair, n);
        }
        // The first part of a transaction is sent, and then the session ends.
        let all = opened.read(&pair.blue).await;
        let first = Transaction { part: Part::First, end_lsn: None, ..all[0].clone() };
        let applied = opened.lane.apply(std::slice::from_ref(&first)).await.unwrap();
        assert_eq!(applied.end_lsn, None);
        opened.close().await;
        // As soon as the server has noticed.
        let (place, through) = loop {
            let target = pair.target().await;
            if let Ok(reached) = target.progress().await {
                break (target.place(), reached.through);
            }
        };
        assert_eq!(Some(place.number), through);
        let mut opened = pair.open().await;
        opened.catch_up(&pair.blue, usize::MAX).await;
        pair.assert_same(&["t"]);
        assert_eq!(pair.green.value("select count(*) from t.t").unwrap(), "4");
        // What is there is refused, not repeated.
        let error = opened.lane.apply(&all).await.unwrap_err();
        assert!(error.message.contains("came again"), "{error}");
        opened.close().await;
        let (place, through) = stored(&pair).await;
        assert_eq!(Some(place.number), through);
        assert!(place.position.covers(&head(&pair.blue)));
    }
}

#[tokio::test]
async fn a_lane_belongs_to_one_session() {
    for versions in PAIRS {
        let pair = Pair::start(versions, TABLE);
        let opened = pair.open().await;
        let other = pair.target().await;
        let error = other.progress().await.unwrap_err();
        assert!(error.message.contains("still applies lane 0"), "{error}");
        opened.close().await;
    }
}

#[tokio::test]
async fn a_progress_that_somebody_else_moved_stops_the_lane() {
    for versions in PAIRS {
        let pair = Pair::start(versions, TABLE);
        let mut opened = pair.open().await;
        row(&pair, 1);
        let all = opened.read(&pair.blue).await;
        pair.green.run("update _cutover.progress set transactions = 7").unwrap();
        let error = opened.lane.apply_share(&all, Share::ALL).await.unwrap_err();
        assert!(error.message.contains("somebody else moved"), "{error}");
        assert_eq!(pair.green.value("select count(*) from t.t").unwrap(), "0");
    }
}

/// What a lane writes is known in green's own binlog, large transactions by their first part.
#[tokio::test]
async fn our_own_writes_are_known_in_the_targets_binlog() {
    for versions in PAIRS {
        let pair = Pair::start(versions, TABLE);
        let mut opened = pair.open().await;
        let place = Place { number: Ledger::START, position: head(&pair.green) };
        let options = StreamOptions::new(77, "cutover way back");
        let green = url(&pair.green);
        let mut back = NumberedStream::open(&green, options, place, MESSAGE_PREFIX).await.unwrap();
        row(&pair, 1);
        row(&pair, 2);
        opened.catch_up(&pair.blue, 1).await;
        pair.green.run("insert into t.t values (9, 9)").unwrap();
        let head = head(&pair.green);
        let mut ours = Vec::new();
        while !back.position().covers(&head) {
            if let SourceEvent::Transaction(transaction) = back.next().await.unwrap() {
                let first = transaction.changes.first().unwrap();
                // A lane that checks no foreign keys says so around its rows.
                let said = transaction.changes.iter().filter(|c| foreign_keys_checked(c).is_none());
                ours.push((own::is_mark_of(first, "it's"), said.count()));
            }
        }
        // The row and the mark; the change to the progress is nobody's business.
        let applied = (true, 2);
        assert_eq!(ours, [applied, applied, (false, 1)], "{}", pair.name());
        back.close().await;
        opened.close().await;
    }
}
