//! Positions: what is acknowledged, what an idle source says, what a new stream sees.

use std::time::Duration;

use decoders::{ChangeEvent, Lsn, Source, Transaction};
use tests::postgres::{Postgres, Stop};

use crate::stage::{DEADLINE, Stage, acknowledge, drain, table, texts, transaction};

/// The ids that were inserted.
fn ids(transactions: &[Transaction]) -> Vec<i32> {
    let id = |change: &ChangeEvent| match change {
        ChangeEvent::Insert { new, .. } => match new.value(0) {
            Some(decoders::Value::Binary(bytes)) => i32::from_be_bytes(bytes.try_into().unwrap()),
            _ => texts(new)[0].parse().unwrap(),
        },
        other => panic!("{other:?}"),
    };
    transactions.iter().flat_map(|transaction| transaction.changes.iter().map(id)).collect()
}

async fn with_table(major: u32) -> Stage {
    let stage = Stage::new(major).await;
    stage.sql("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE unpublished (id int)").await;
    stage.publish(&[table("t")]).await;
    stage.slot().await;
    stage
}

async fn a_new_stream_goes_on_behind_what_is_durable(major: u32) {
    let mut stage = with_table(major).await;
    for id in 1..=6 {
        stage.sql(&format!("INSERT INTO t VALUES ({id})")).await;
    }
    let mut stream = stage.stream().await;
    let head = stage.head().await;
    let seen = drain(&mut stream, head).await;
    assert_eq!(ids(&seen), [1, 2, 3, 4, 5, 6]);
    let ends: Vec<Lsn> = seen.iter().map(|transaction| transaction.end_lsn.unwrap()).collect();

    // Nothing acknowledged: all of it again, from any of its ends.
    drop(stream);
    for (position, rest) in [(ends[0], 2..=6), (ends[3], 5..=6)] {
        let mut stream = stage.stream_from(position).await;
        assert_eq!(ids(&drain(&mut stream, head).await), rest.collect::<Vec<_>>());
    }

    // Acknowledged: the slot moves. Before PostgreSQL 17 it may forget so when the server restarts,
    // so the position to resume from has to be ours.
    let mut stream = stage.stream_from(ends[1]).await;
    drain(&mut stream, head).await;
    acknowledge(&mut stream, ends[4]).await;
    stream.close().await.unwrap();
    assert_eq!(stage.confirmed().await, ends[4]);
    stage.server.stop(Stop::Fast).unwrap();
    stage.server.start().unwrap();
    let stage = Stage::on(stage.server).await;
    stage.sql("INSERT INTO t VALUES (7)").await;
    let mut stream = stage.stream_from(ends[4]).await;
    assert_eq!(ids(&drain(&mut stream, stage.head().await).await), [6, 7]);
}

#[tokio::test]
async fn a_new_stream_goes_on_behind_what_is_durable_10() {
    a_new_stream_goes_on_behind_what_is_durable(10).await;
}

#[tokio::test]
async fn a_new_stream_goes_on_behind_what_is_durable_15() {
    a_new_stream_goes_on_behind_what_is_durable(15).await;
}

#[tokio::test]
async fn a_new_stream_goes_on_behind_what_is_durable_18() {
    a_new_stream_goes_on_behind_what_is_durable(18).await;
}

/// G8: writes that are not published move the position and release the log.
async fn an_idle_source_moves_on(major: u32) {
    let stage = with_table(major).await;
    let mut stream = stage.stream().await;
    let before = stage.confirmed().await;
    stage.sql("INSERT INTO unpublished SELECT generate_series(1, 1000)").await;
    let head = stage.head().await;
    assert!(drain(&mut stream, head).await.is_empty());
    acknowledge(&mut stream, head).await;
    stream.close().await.unwrap();
    assert!(before < head);
    assert_eq!(stage.confirmed().await, head);
}

#[tokio::test]
async fn an_idle_source_moves_on_10() {
    an_idle_source_moves_on(10).await;
}

#[tokio::test]
async fn an_idle_source_moves_on_18() {
    an_idle_source_moves_on(18).await;
}

/// An acknowledgement never moves the slot further than the stream has come.
#[tokio::test]
async fn what_was_not_delivered_is_not_confirmed() {
    let stage = with_table(15).await;
    let mut stream = stage.stream().await;
    for id in 1..=2 {
        stage.sql(&format!("INSERT INTO t VALUES ({id})")).await;
    }
    let first = transaction(&mut stream).await.end_lsn.unwrap();
    acknowledge(&mut stream, Lsn(first.0 + 1_000_000)).await;
    stream.close().await.unwrap();
    assert_eq!(stage.confirmed().await, first);
}

/// A consumer without room keeps the connection, however long the server's patience.
#[tokio::test]
async fn feedback_goes_on_while_nothing_is_read() {
    let server = Postgres::builder(15).setting("wal_sender_timeout", "1s").start().unwrap();
    let stage = Stage::on(server).await;
    stage.sql("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    stage.publish(&[table("t")]).await;
    stage.slot().await;
    let mut stream = stage.stream().await;
    let insert = "INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i";
    stage.sql(insert).await;
    let kept = tokio::time::timeout(Duration::from_secs(4), stream.keep_alive()).await;
    assert!(kept.is_err(), "the connection failed: {kept:?}");
    let mut changes = 0;
    loop {
        let part = transaction(&mut stream).await;
        changes += part.changes.len();
        if part.part.ends() {
            break;
        }
    }
    assert_eq!(changes, 20_000);
}

/// `next` may be dropped at any await, for instance by a timer in the caller's `select!`.
#[tokio::test]
async fn dropping_next_loses_nothing() {
    let stage = with_table(15).await;
    let mut stream = stage.stream().await;
    let writer = stage.server.connect("postgres").await.unwrap();
    let write = async {
        for id in 1..=300 {
            writer.batch_execute(&format!("INSERT INTO t VALUES ({id})")).await.unwrap();
        }
    };
    let read = async {
        let mut seen = Vec::new();
        while seen.len() < 300 {
            let next = tokio::time::timeout(Duration::from_micros(200), stream.next()).await;
            if let Ok(Ok(decoders::SourceEvent::Transaction(transaction))) = next {
                seen.push(transaction);
            }
        }
        seen
    };
    let both = async { tokio::join!(write, read) };
    let ((), seen) = tokio::time::timeout(DEADLINE, both).await.unwrap();
    assert_eq!(ids(&seen), (1..=300).collect::<Vec<_>>());
}
