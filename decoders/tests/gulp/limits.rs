//! Where gulping is not for: old servers, missing rights, no room, transactions that are too large,
//! log that would be decoded again and again.

use decoders::Lsn;
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::gulp::{GulpStream, HandoverReason, OpenError};
use tests::postgres::Postgres;

use crate::reading::{many, open, options, read_all, reader, with_table};
use crate::stage::{Stage, transaction};

fn unavailable(opened: Result<GulpStream, OpenError>) -> String {
    match opened {
        Err(OpenError::Unavailable { reason }) => reason,
        Err(error) => panic!("{error}"),
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
    // It does not get better with fewer changes, and that is tried once.
    for (fewer, reason) in
        [(None, HandoverReason::Fewer(2_000)), (Some(2_000), HandoverReason::TooLarge)]
    {
        let mut gulping = options(&stage, small.ends().last().copied());
        gulping.temp_bytes = 1 << 20;
        gulping.fewer_changes = fewer;
        let mut gulping = open(&stage, gulping).await.unwrap();
        let read = read_all(&mut gulping).await;
        assert!(read.transactions.is_empty() && read.idle.is_empty());
        assert_eq!(gulping.handover(), Some(reason));
    }
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

/// Many transactions that are too large only together.
#[tokio::test]
async fn fewer_changes_fit_where_many_do_not() {
    let stage = with_table(Stage::new(15).await).await;
    stage
        .sql(
            "DO $$ BEGIN FOR i IN 1..6000 LOOP
                 INSERT INTO public.t VALUES (i, repeat('x', 20000)); COMMIT;
             END LOOP; END $$",
        )
        .await;
    let mut gulping = options(&stage, None);
    gulping.temp_bytes = 1 << 20;
    // The pages that hold them are few: they are compressed.
    gulping.near_bytes = 0;
    let mut reader = open(&stage, gulping.clone()).await.unwrap();
    let read = read_all(&mut reader).await;
    let Some(HandoverReason::Fewer(fewer)) = reader.handover() else {
        panic!("{:?}", reader.handover())
    };
    assert!(read.transactions.is_empty());
    drop(reader);
    gulping.fewer_changes = Some(fewer);
    let mut reader = open(&stage, gulping).await.unwrap();
    let read = read_all(&mut reader).await;
    assert_eq!(read.transactions.len(), 6_000);
    assert_eq!(reader.handover(), Some(HandoverReason::NearTip));
}

/// Nothing of it is published, so no number of changes ends the call.
#[tokio::test]
async fn log_without_changes_is_read_in_steps() {
    let stage = with_table(Stage::new(15).await).await;
    let before = stage.head().await;
    for _ in 0..10 {
        stage.sql("INSERT INTO unpublished SELECT generate_series(1, 30000)").await;
    }
    many(&stage, 1, 1).await;
    let head = stage.head().await;
    let mut gulping = options(&stage, None);
    gulping.near_bytes = 64 << 10;
    gulping.log_bytes = 1 << 20;
    let mut gulping = open(&stage, gulping).await.unwrap();
    let read = read_all(&mut gulping).await;
    assert_eq!(gulping.handover(), Some(HandoverReason::NearTip));
    assert_eq!(read.transactions.len(), 1, "not before the end");
    let steps = usize::try_from(head.bytes_since(before) >> 20).unwrap();
    assert!(steps > 10 && read.idle.len() >= steps - 1, "{} of {steps}", read.idle.len());
}

/// Log of some MiB, with a place in it from which decoding could begin if nothing were open.
async fn log(stage: &Stage, first: u32) -> Lsn {
    many(stage, first, 15_000).await;
    stage.sql("CHECKPOINT").await;
    stage.head().await
}

async fn log_that_each_call_would_decode_again(major: u32) {
    let stage = with_table(Stage::new(major).await).await;
    let from = stage.confirmed().await;
    // The slot itself stands far behind, but that is made up for once.
    log(&stage, 1).await;
    let position = log(&stage, 20_000).await;
    let mut gulping = options(&stage, Some(position));
    gulping.reread_bytes = 1 << 20;
    assert!(position.bytes_since(from) > 4 * gulping.reread_bytes, "{position} {from}");
    drop(open(&stage, gulping.clone()).await.unwrap());

    let slow = stage.server.connect("postgres").await.unwrap();
    slow.batch_execute("BEGIN; INSERT INTO t VALUES (0, 'slow')").await.unwrap();
    log(&stage, 40_000).await;
    gulping.stream.start = Some(log(&stage, 60_000).await);
    let refused = open(&stage, gulping.clone()).await;
    assert!(matches!(refused, Err(OpenError::NotNow { .. })), "{refused:?}");
    // Not in the way of the other reader, which gets all of what was open.
    slow.batch_execute("INSERT INTO t VALUES (-1, 'slow'); COMMIT").await.unwrap();
    let mut stream = stage.stream_from(gulping.stream.start.unwrap()).await;
    assert_eq!(transaction(&mut stream).await.changes.len(), 2);
}

#[tokio::test]
async fn log_that_each_call_would_decode_again_12() {
    log_that_each_call_would_decode_again(12).await;
}

#[tokio::test]
async fn log_that_each_call_would_decode_again_17() {
    log_that_each_call_would_decode_again(17).await;
}

/// The slot would be invalidated while its copy is read.
#[tokio::test]
async fn a_timeout_for_idle_slots_is_respected() {
    let server = Postgres::builder(18).setting("idle_replication_slot_timeout", "1d");
    let stage = with_table(Stage::on(server.start().unwrap()).await).await;
    let reason = unavailable(open(&stage, options(&stage, None)).await);
    assert!(reason.contains("idle_replication_slot_timeout"), "{reason}");
}
