//! The anchor moves to what was acknowledged and never further, and survives everything.

use std::time::Duration;

use decoders::postgres::gulp::GulpStream;
use decoders::source::Disposition;
use decoders::{Lsn, Position, Source, SourceEvent, Transaction};

use crate::reading::{many, options, read_all, reader, with_table};
use crate::stage::{DEADLINE, SLOT, Stage};

async fn transaction(reader: &mut GulpStream) -> Transaction {
    loop {
        match tokio::time::timeout(DEADLINE, reader.next()).await.unwrap().unwrap() {
            SourceEvent::Transaction(transaction) => return transaction,
            SourceEvent::Idle(_) => {}
            SourceEvent::Handover => panic!("nothing is left"),
        }
    }
}

async fn only_what_is_acknowledged_is_confirmed(major: u32) {
    let stage = with_table(Stage::new(major).await).await;
    let before = stage.confirmed().await;
    many(&stage, 1, 100).await;
    let mut gulping = reader(&stage, None).await;
    let read = read_all(&mut gulping).await;
    let ends = read.ends();
    assert_eq!(ends.len(), 100);
    assert_eq!(stage.confirmed().await, before, "reading moves nothing");
    gulping.acknowledge(Position::Lsn(ends[49])).await.unwrap();
    assert!(stage.confirmed().await <= ends[49]);
    gulping.close().await.unwrap();
    assert_eq!(stage.confirmed().await, ends[49]);

    // Only what has been delivered counts.
    let mut gulping = reader(&stage, Some(ends[49])).await;
    let first = transaction(&mut gulping).await.end_lsn.unwrap();
    assert_eq!(first, ends[50]);
    gulping.acknowledge(Position::Lsn(Lsn(first.0 + 1_000_000))).await.unwrap();
    gulping.close().await.unwrap();
    assert_eq!(stage.confirmed().await, first);
}

#[tokio::test]
async fn only_what_is_acknowledged_is_confirmed_12() {
    only_what_is_acknowledged_is_confirmed(12).await;
}

#[tokio::test]
async fn only_what_is_acknowledged_is_confirmed_18() {
    only_what_is_acknowledged_is_confirmed(18).await;
}

/// What a call consumed was consumed from the copy.
#[tokio::test]
async fn a_reader_dropped_in_the_middle_of_a_gulp_loses_nothing() {
    let stage = with_table(Stage::new(15).await).await;
    many(&stage, 1, 3_000).await;
    let mut seen = Vec::new();
    for count in [1, 700, 1] {
        let mut gulping = reader(&stage, seen.last().copied()).await;
        for _ in 0..count {
            seen.push(transaction(&mut gulping).await.end_lsn.unwrap());
        }
    }
    let mut gulping = reader(&stage, seen.last().copied()).await;
    seen.extend(read_all(&mut gulping).await.ends());
    assert_eq!(seen.len(), 3_000);
    assert!(seen.is_sorted_by(|earlier, later| earlier < later));
}

/// `next` may be dropped at any await, for instance by a timer in the caller's `select!`.
#[tokio::test]
async fn dropping_next_loses_nothing() {
    let stage = with_table(Stage::new(15).await).await;
    many(&stage, 1, 20_000).await;
    let mut gulping = options(&stage, None);
    gulping.gulp_bytes = 1;
    let mut gulping = crate::reading::open(&stage, gulping).await.unwrap();
    let mut seen = 0;
    let read = async {
        loop {
            match tokio::time::timeout(Duration::from_micros(50), gulping.next()).await {
                Err(_) => {}
                Ok(Ok(SourceEvent::Transaction(_))) => seen += 1,
                Ok(Ok(SourceEvent::Idle(_))) => {}
                Ok(Ok(SourceEvent::Handover)) => break,
                Ok(Err(error)) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(DEADLINE, read).await.unwrap();
    assert_eq!(seen, 20_000);
    assert!(gulping.next().await.is_err(), "nothing follows a hand-over");
}

/// G8: writes that are not published move the position.
#[tokio::test]
async fn unpublished_writes_are_progress() {
    let stage = with_table(Stage::new(13).await).await;
    stage.sql("INSERT INTO unpublished SELECT generate_series(1, 1000)").await;
    let head = stage.head().await;
    let mut gulping = reader(&stage, None).await;
    let read = read_all(&mut gulping).await;
    assert!(read.transactions.is_empty());
    let reached = read.idle.last().copied().unwrap();
    assert!(reached >= head);
    gulping.acknowledge(Position::Lsn(reached)).await.unwrap();
    gulping.close().await.unwrap();
    assert_eq!(stage.confirmed().await, reached);
}

/// While a transaction is open, what has committed behind its begin is delivered, and it comes
/// whole when it commits.
#[tokio::test]
async fn an_open_transaction_is_not_passed_by() {
    let stage = with_table(Stage::new(15).await).await;
    let slow = stage.server.connect("postgres").await.unwrap();
    slow.batch_execute("BEGIN; INSERT INTO t VALUES (0, 'slow')").await.unwrap();
    many(&stage, 1, 10).await;
    let mut gulping = reader(&stage, None).await;
    let read = read_all(&mut gulping).await;
    assert_eq!(read.transactions.len(), 10);
    let reached = read.idle.iter().chain(&read.ends()).max().copied().unwrap();
    gulping.acknowledge(Position::Lsn(reached)).await.unwrap();
    gulping.close().await.unwrap();
    slow.batch_execute("INSERT INTO t VALUES (-1, 'slow'); COMMIT").await.unwrap();
    let mut gulping = reader(&stage, Some(reached)).await;
    let read = read_all(&mut gulping).await;
    assert_eq!(read.transactions.len(), 1);
    assert_eq!(read.transactions[0].changes.len(), 2);
}

#[tokio::test]
async fn a_slot_that_somebody_else_moves_or_drops_stops_the_reader() {
    let stage = with_table(Stage::new(15).await).await;
    many(&stage, 1, 10).await;
    let mut gulping = reader(&stage, None).await;
    let ends = read_all(&mut gulping).await.ends();
    gulping.acknowledge(Position::Lsn(ends[3])).await.unwrap();
    stage.sql(&format!("SELECT pg_replication_slot_advance('{SLOT}', '{}')", ends[1])).await;
    let error = gulping.close().await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Halt, "{error}");
    assert!(error.message.contains("has moved on"), "{error}");

    let behind = crate::reading::open(&stage, options(&stage, Some(ends[0]))).await.unwrap_err();
    assert!(behind.to_string().contains("has moved on"), "{behind}");

    let mut gulping = reader(&stage, Some(ends[3])).await;
    read_all(&mut gulping).await;
    gulping.acknowledge(Position::Lsn(ends[5])).await.unwrap();
    decoders::postgres::slot::drop(&stage.session, SLOT, None).await.unwrap();
    let error = gulping.close().await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Halt, "{error}");
    assert!(error.message.contains("was dropped"), "{error}");
}
