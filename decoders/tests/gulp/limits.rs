//! Where gulping is not for: old servers, missing rights, no room, transactions that are too large.

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::gulp::{GulpStream, HandoverReason, OpenError};
use tests::postgres::Postgres;

use crate::reading::{many, open, options, read_all, reader, with_table};
use crate::stage::{Stage, transaction};

fn unavailable(opened: Result<GulpStream, OpenError>) -> String {
    match opened {
        Err(OpenError::Unavailable { reason }) => reason,
        Err(OpenError::Failed(error)) => panic!("{error}"),
        Ok(_) => panic!("it opened"),
    }
}

async fn old_servers_are_for_the_stream(major: u32) {
    let stage = with_table(Stage::new(major).await).await;
    let reason = unavailable(open(&stage, options(&stage, None)).await);
    assert!(reason.contains("older than PostgreSQL 12"), "{reason}");
}

#[tokio::test]
async fn old_servers_are_for_the_stream_10() {
    old_servers_are_for_the_stream(10).await;
}

#[tokio::test]
async fn old_servers_are_for_the_stream_11() {
    old_servers_are_for_the_stream(11).await;
}

#[tokio::test]
async fn rights_decide() {
    let mut stage = with_table(Stage::new(15).await).await;
    stage.sql("CREATE ROLE plain LOGIN; CREATE ROLE repl LOGIN REPLICATION").await;
    many(&stage, 1, 10).await;
    let info_as = |stage: &Stage, user: &str| {
        ConnInfo::parse(&stage.server.url_as(user, "postgres")).unwrap()
    };
    let open_as = async |stage: &Stage, user: &str| {
        GulpStream::open(&info_as(stage, user), options(stage, None)).await
    };
    unavailable(open_as(&stage, "plain").await);
    let reason = unavailable(open_as(&stage, "repl").await);
    assert!(reason.contains("temp_file_limit"), "{reason}");

    stage.sql("GRANT SET ON PARAMETER temp_file_limit TO repl").await;
    let mut reader = open_as(&stage, "repl").await.unwrap();
    assert_eq!(read_all(&mut reader).await.transactions.len(), 10);
    drop(reader);

    stage.sql("REVOKE SET ON PARAMETER temp_file_limit FROM repl").await;
    stage.server.set("temp_file_limit", "20GB").unwrap();
    stage.server.reload().unwrap();
    let wanted = "SELECT 1 FROM pg_settings WHERE name = 'temp_file_limit' AND setting <> '-1'";
    let start = std::time::Instant::now();
    while stage.session.query_opt(wanted, &[]).await.unwrap().is_none() {
        assert!(start.elapsed() < crate::stage::DEADLINE);
        tokio::task::yield_now().await;
    }
    let mut reader = open_as(&stage, "repl").await.unwrap();
    assert_eq!(read_all(&mut reader).await.transactions.len(), 10);
}

#[tokio::test]
async fn a_copy_needs_a_slot_of_its_own() {
    let server = Postgres::builder(14).setting("max_replication_slots", "1").start().unwrap();
    let stage = with_table(Stage::on(server).await).await;
    let reason = unavailable(open(&stage, options(&stage, None)).await);
    assert!(reason.contains("all replication slots are in use"), "{reason}");
    // Nothing is left behind that would disturb the stream.
    many(&stage, 1, 1).await;
    transaction(&mut stage.stream().await).await;
}

async fn too_large_for_a_gulp(major: u32) {
    let stage = with_table(Stage::new(major).await).await;
    many(&stage, 1, 10).await;
    let mut whole = reader(&stage, None).await;
    let small = read_all(&mut whole).await;
    drop(whole);
    let huge = "INSERT INTO t SELECT i, repeat('x', 2000) FROM generate_series(100, 50000) i";
    stage.sql(huge).await;
    many(&stage, 100_000, 10).await;
    let mut gulping = options(&stage, small.ends().last().copied());
    gulping.temp_bytes = 1 << 20;
    let mut gulping = open(&stage, gulping).await.unwrap();
    let read = read_all(&mut gulping).await;
    assert!(read.transactions.is_empty() && read.idle.is_empty());
    assert_eq!(gulping.handover(), Some(HandoverReason::TooLarge));
    drop(gulping);
    let mut stream = stage.stream_from(*small.ends().last().unwrap()).await;
    let mut rows = 0;
    loop {
        let part = transaction(&mut stream).await;
        rows += part.changes.len();
        if part.part.ends() {
            break;
        }
    }
    assert_eq!(rows, 49_901);
}

#[tokio::test]
async fn too_large_for_a_gulp_12() {
    too_large_for_a_gulp(12).await;
}

#[tokio::test]
async fn too_large_for_a_gulp_18() {
    too_large_for_a_gulp(18).await;
}
