//! Connections that are lost: an error that a new reader heals, from the same anchor.

use decoders::postgres::gulp::GulpStream;
use decoders::source::{Disposition, SourceError};
use decoders::{Position, Source, SourceEvent};

use crate::reading::{open, options, read_all, reader, with_table};
use crate::stage::{DEADLINE, NAME, Stage};

async fn failure(reader: &mut GulpStream) -> SourceError {
    let failed = async {
        loop {
            match reader.next().await {
                Ok(SourceEvent::Handover) => panic!("nothing has failed"),
                Ok(_) => {}
                Err(error) => break error,
            }
        }
    };
    tokio::time::timeout(DEADLINE, failed).await.unwrap()
}

/// More than fits into the buffers of a connection, so that the server is in the middle of it.
async fn large(stage: &Stage) {
    stage.sql("INSERT INTO t SELECT i, repeat('x', 2000) FROM generate_series(1, 20000) i").await;
}

#[tokio::test]
async fn a_session_that_ends_is_a_reason_to_open_another() {
    let stage = with_table(Stage::new(15).await).await;
    large(&stage).await;
    let before = stage.confirmed().await;
    let ours = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE temporary";
    let mut options = options(&stage, None);
    options.stream.part_bytes = 64 << 10;
    let mut gulping = open(&stage, options).await.unwrap();
    assert!(matches!(gulping.next().await, Ok(SourceEvent::Transaction(_))));
    stage.sql(ours).await;
    let error = failure(&mut gulping).await;
    assert_eq!(error.disposition, Disposition::Retry, "{error}");
    assert!(gulping.next().await.is_err(), "a failed reader stays failed");

    // The other session, too, while nothing is read.
    let mut gulping = reader(&stage, None).await;
    let anchors = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = '{NAME}' AND pid <> pg_backend_pid()
             AND query LIKE '%starts_with%'"
    );
    let kept = tokio::time::timeout(DEADLINE, async {
        tokio::join!(gulping.keep_alive(), stage.sql(&anchors)).0
    });
    let error = kept.await.unwrap();
    assert_eq!(error.disposition, Disposition::Retry, "{error}");
    drop(gulping);

    assert_eq!(stage.confirmed().await, before);
    let read = read_all(&mut reader(&stage, None).await).await;
    let rows: usize = read.transactions.iter().map(|part| part.changes.len()).sum();
    assert_eq!(rows, 20_000);
}

/// A copy is gone with its session, and one whose session lingers is ended by the next reader.
#[tokio::test]
async fn copies_do_not_pile_up() {
    let stage = with_table(Stage::new(17).await).await;
    large(&stage).await;
    let stuck = reader(&stage, None).await;
    let mut gulping = reader(&stage, None).await;
    let count = "SELECT count(*) FROM pg_replication_slots WHERE temporary";
    let copies: i64 = stage.session.query_one(count, &[]).await.unwrap().get(0);
    assert_eq!(copies, 1);
    drop(stuck);
    let read = read_all(&mut gulping).await;
    let end = read.ends()[0];
    gulping.acknowledge(Position::Lsn(end)).await.unwrap();
    gulping.close().await.unwrap();
    assert_eq!(stage.confirmed().await, end);
}
