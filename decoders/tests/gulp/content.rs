//! What arrives: exactly what the stream delivers, whatever the gulps.

use decoders::Transaction;
use decoders::postgres::gulp::HandoverReason;

use crate::reading::{many, open, options, read_all, reader};
use crate::stage::{Stage, drain, table};

/// Everything that a transaction can hold, with commits in another order than begins.
async fn mixed_work(stage: &Stage, major: u32) {
    let slow = stage.server.connect("postgres").await.unwrap();
    slow.batch_execute("BEGIN; INSERT INTO t VALUES (1, repeat('x', 9000))").await.unwrap();
    stage.sql("INSERT INTO f VALUES (1, 'NaN'), (1, NULL)").await;
    stage
        .sql(
            "BEGIN; INSERT INTO t VALUES (2, 'kept');
             SAVEPOINT a; INSERT INTO t VALUES (3, 'gone'); ROLLBACK TO a;
             SAVEPOINT b; INSERT INTO t VALUES (4, 'kept'); RELEASE b; COMMIT",
        )
        .await;
    slow.batch_execute("UPDATE t SET v = v || 'y'; COMMIT").await.unwrap();
    stage.sql("BEGIN; INSERT INTO t VALUES (5, 'never'); ROLLBACK").await;
    stage
        .sql("BEGIN; UPDATE t SET id = id + 100 WHERE id < 100; DELETE FROM f WHERE amount IS NULL; COMMIT")
        .await;
    stage.sql("INSERT INTO unpublished VALUES (1); TRUNCATE f").await;
    if major >= 14 {
        stage.sql("SELECT pg_logical_emit_message(true, 'cutover.marker', 'here')").await;
        stage.sql("SELECT pg_logical_emit_message(false, 'cutover.marker', 'not here')").await;
    }
    stage.sql("DELETE FROM t").await;
}

fn texts(transactions: &[Transaction]) -> Vec<String> {
    transactions.iter().map(|transaction| format!("{transaction:?}")).collect()
}

async fn the_same_as_the_stream(major: u32) {
    let stage = Stage::new(major).await;
    stage
        .sql(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             ALTER TABLE t ALTER COLUMN v SET STORAGE EXTERNAL;
             CREATE TABLE f (id int, amount numeric); ALTER TABLE f REPLICA IDENTITY FULL;
             CREATE TABLE unpublished (id int)",
        )
        .await;
    stage.publish(&[table("t"), table("f")]).await;
    stage.slot().await;
    mixed_work(&stage, major).await;
    // Several gulps: one of 20,000 messages, then small ones.
    many(&stage, 10_000, 8_000).await;
    mixed_work(&stage, major).await;
    let head = stage.head().await;

    let mut gulping = options(&stage, None);
    gulping.gulp_bytes = 1;
    let mut reader = open(&stage, gulping).await.unwrap();
    assert_eq!(reader.is_binary(), major >= 14);
    let gulped = read_all(&mut reader).await;
    assert_eq!(reader.handover(), Some(HandoverReason::NearTip));
    drop(reader);
    let ends = gulped.ends();
    assert!(ends.is_sorted() && ends.len() > 8_000, "{}", ends.len());
    assert!(ends.last().is_some_and(|end| *end >= head), "{:?}", ends.last());

    for from in [None, Some(ends[2]), Some(ends[4_000]), ends.last().copied()] {
        let rest = gulped
            .transactions
            .iter()
            .position(|transaction| from.is_none_or(|from| transaction.commit_lsn >= from));
        let rest = &gulped.transactions[rest.unwrap_or(gulped.transactions.len())..];
        let mut reader = crate::reading::reader(&stage, from).await;
        assert!(texts(&read_all(&mut reader).await.transactions) == texts(rest), "from {from:?}");
        drop(reader);
    }

    let mut stream = stage.stream().await;
    let streamed = texts(&drain(&mut stream, head).await);
    let gulped = texts(&gulped.transactions);
    assert_eq!(gulped.len(), streamed.len());
    for (gulped, streamed) in gulped.iter().zip(&streamed) {
        assert_eq!(gulped, streamed);
    }
}

#[tokio::test]
async fn the_same_as_the_stream_12() {
    the_same_as_the_stream(12).await;
}

#[tokio::test]
async fn the_same_as_the_stream_13() {
    the_same_as_the_stream(13).await;
}

#[tokio::test]
async fn the_same_as_the_stream_14() {
    the_same_as_the_stream(14).await;
}

#[tokio::test]
async fn the_same_as_the_stream_15() {
    the_same_as_the_stream(15).await;
}

#[tokio::test]
async fn the_same_as_the_stream_17() {
    the_same_as_the_stream(17).await;
}

#[tokio::test]
async fn the_same_as_the_stream_18() {
    the_same_as_the_stream(18).await;
}

/// Parts, as in the stream, when one transaction is larger than they.
#[tokio::test]
async fn a_large_transaction_comes_in_parts() {
    let stage = crate::reading::with_table(Stage::new(15).await).await;
    stage.sql("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i").await;
    let mut gulping = options(&stage, None);
    gulping.stream.part_bytes = 256 << 10;
    let mut reader = open(&stage, gulping).await.unwrap();
    let parts = read_all(&mut reader).await.transactions;
    assert!(parts.len() > 10, "{}", parts.len());
    assert_eq!(parts.iter().map(|part| part.changes.len()).sum::<usize>(), 20_000);
    assert_eq!(parts.iter().filter(|part| part.part.ends()).count(), 1);
}

/// The hand-over and the stream behind it, with writes all the while.
#[tokio::test]
async fn the_stream_goes_on_where_the_reader_ends() {
    let stage = crate::reading::with_table(Stage::new(17).await).await;
    many(&stage, 1, 2_000).await;
    let mut reader = reader(&stage, None).await;
    let (read, ()) = tokio::join!(read_all(&mut reader), many(&stage, 2_001, 2_000));
    drop(reader);
    let last = read.idle.iter().chain(&read.ends()).max().copied().unwrap();
    many(&stage, 4_001, 10).await;
    let mut stream = stage.stream_from(last).await;
    let rest = drain(&mut stream, stage.head().await).await;
    assert!(read.transactions.len() >= 2_000);
    assert_eq!(read.transactions.len() + rest.len(), 4_010);
    assert!(rest.iter().all(|transaction| transaction.commit_lsn >= last));
}
