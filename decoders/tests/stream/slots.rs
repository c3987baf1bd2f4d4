//! Slots: created in time or not at all, refused with a remedy when they can't be trusted.

use std::time::Duration;

use decoders::postgres::session;
use decoders::postgres::slot::{self, SlotKind};
use decoders::postgres::stream::{PgStream, SystemIdentity};
use decoders::postgres::wire::ReplicationConnection;
use decoders::source::{Disposition, SourceError};
use decoders::{Lsn, Position, Source};
use tests::postgres::Stop;
use tests::wait;

use crate::stage::{NAME, PUBLICATION, SLOT, Stage, table, transaction};

async fn a_snapshot_shows_what_the_stream_will_not_send(major: u32) {
    let stage = Stage::new(major).await;
    stage.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    stage.publish(&[table("t")]).await;
    let mut replication = ReplicationConnection::connect(&stage.info, NAME).await.unwrap();
    let timeout = Duration::from_secs(5);
    let created = slot::create(&mut replication, &stage.session, SLOT, SlotKind::Lasting, timeout)
        .await
        .unwrap();
    stage.sql("INSERT INTO t VALUES (2)").await;
    let snapshot = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{}'",
        created.snapshot
    );
    stage.sql(&snapshot).await;
    let row = stage.session.query_one("SELECT max(id) FROM t", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 1);
    stage.sql("COMMIT").await;
    drop(replication);

    let state = slot::inspect(&stage.session, SLOT).await.unwrap().unwrap();
    assert_eq!(state.confirmed_flush_lsn, Some(created.consistent_point));
    assert_eq!(
        (state.plugin.as_deref(), state.database.as_deref()),
        (Some("pgoutput"), Some("postgres"))
    );
    assert!(!state.is_lost());
    let mut stream = stage.stream().await;
    assert_eq!(crate::stage::transaction(&mut stream).await.changes.len(), 1);
    stream.close().await.unwrap();
    slot::drop(&stage.session, SLOT, None).await.unwrap();
    slot::drop(&stage.session, SLOT, Some(NAME)).await.unwrap();
    assert_eq!(slot::inspect(&stage.session, SLOT).await.unwrap(), None);
}

#[tokio::test]
async fn a_snapshot_shows_what_the_stream_will_not_send_10() {
    a_snapshot_shows_what_the_stream_will_not_send(10).await;
}

#[tokio::test]
async fn a_snapshot_shows_what_the_stream_will_not_send_15() {
    a_snapshot_shows_what_the_stream_will_not_send(15).await;
}

#[tokio::test]
async fn a_snapshot_shows_what_the_stream_will_not_send_18() {
    a_snapshot_shows_what_the_stream_will_not_send(18).await;
}

async fn the_one_in_the_way_is_named(major: u32) {
    let stage = Stage::new(major).await;
    stage.sql("CREATE TABLE t (id int)").await;
    let writer = session::connect(&stage.info, "night job").await.unwrap();
    writer.batch_execute("BEGIN; INSERT INTO public.t VALUES (1)").await.unwrap();
    let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    stage.sql("BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'it''s'").await;

    let mut replication = ReplicationConnection::connect(&stage.info, NAME).await.unwrap();
    let timeout = Duration::from_millis(300);
    let error = slot::create(&mut replication, &stage.session, SLOT, SlotKind::Lasting, timeout)
        .await
        .unwrap_err();
    assert_eq!(error.disposition, Disposition::Retry);
    assert!(
        error.message.contains(&format!("pid {pid} (user postgres, application \"night job\"")),
        "{error}"
    );
    assert!(error.message.contains("prepared transaction 'it''s'"), "{error}");
    assert!(error.remedy.unwrap().contains("pg_terminate_backend"));
    assert_eq!(slot::inspect(&stage.session, SLOT).await.unwrap(), None);

    // The connection is as good as new once they are gone.
    writer.batch_execute("COMMIT").await.unwrap();
    stage.sql("ROLLBACK PREPARED 'it''s'").await;
    slot::create(&mut replication, &stage.session, SLOT, SlotKind::Lasting, timeout).await.unwrap();
}

#[tokio::test]
async fn the_one_in_the_way_is_named_10() {
    the_one_in_the_way_is_named(10).await;
}

#[tokio::test]
async fn the_one_in_the_way_is_named_18() {
    the_one_in_the_way_is_named(18).await;
}

async fn refusal(stage: &Stage, start: Option<Lsn>) -> SourceError {
    let mut options = stage.options();
    options.start = start;
    PgStream::open(&stage.info, options).await.unwrap_err()
}

#[tokio::test]
async fn a_stream_that_cannot_be_trusted_is_refused() {
    let stage = Stage::new(15).await;
    stage.sql("CREATE TABLE t (id int PRIMARY KEY)").await;
    let expect = |error: SourceError, part: &str| {
        assert_eq!(error.disposition, Disposition::Halt, "{error}");
        assert!(error.message.contains(part), "{error}");
        assert!(error.remedy.is_some(), "{error}");
    };
    expect(refusal(&stage, None).await, "publication Cutover \"p\" does not exist");
    stage.publish(&[table("t")]).await;
    expect(refusal(&stage, None).await, "slot cutover_slot does not exist");
    stage.sql("SELECT pg_create_logical_replication_slot('cutover_slot', 'test_decoding')").await;
    expect(refusal(&stage, None).await, "output plugin");
    slot::drop(&stage.session, SLOT, None).await.unwrap();
    stage.sql("CREATE DATABASE other").await;
    let other = session::connect(&stage.info.with_dbname("other"), NAME).await.unwrap();
    let create = "SELECT pg_create_logical_replication_slot('cutover_slot', 'pgoutput')";
    other.batch_execute(create).await.unwrap();
    expect(refusal(&stage, None).await, "another database");
    slot::drop(&stage.session, SLOT, None).await.unwrap();

    // Somebody else has consumed what we still need.
    let created = stage.slot().await;
    stage.sql("INSERT INTO t VALUES (1)").await;
    let consume = format!(
        "SELECT count(*) FROM pg_logical_slot_get_binary_changes('{SLOT}', NULL, NULL,
             'proto_version', '1', 'publication_names', '{}')",
        "\"Cutover \"\"p\"\"\""
    );
    stage.sql(&consume).await;
    let passed = refusal(&stage, Some(created.consistent_point)).await;
    expect(passed, "past the position to resume from");
    let beyond = refusal(&stage, Some(Lsn(stage.head().await.0 + (1 << 30)))).await;
    expect(beyond, "the source's log ends at");

    let mut options = stage.options();
    let stream = stage.stream().await;
    let identity = stream.identity();
    stream.close().await.unwrap();
    options.expected_identity = Some(SystemIdentity { timeline: 2, ..identity });
    expect(PgStream::open(&stage.info, options.clone()).await.unwrap_err(), "timeline 2 to 1");
    options.expected_identity = Some(SystemIdentity { system_id: 1, ..identity });
    expect(PgStream::open(&stage.info, options).await.unwrap_err(), "another server");
}

#[tokio::test]
async fn a_left_over_of_ours_is_ended_and_a_stranger_is_named() {
    let stage = Stage::new(15).await;
    stage.sql("CREATE TABLE t (id int PRIMARY KEY)").await;
    stage.publish(&[table("t")]).await;
    stage.slot().await;
    let mut left_over = stage.stream().await;
    let mut stream = stage.stream().await;
    let ended = loop {
        match left_over.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(ended.disposition, Disposition::Retry, "{ended}");

    let mut options = stage.options();
    options.application_name = "somebody else".to_owned();
    let error = PgStream::open(&stage.info, options).await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Halt);
    assert!(error.message.contains("in use by pid"), "{error}");
    assert!(error.message.contains("application \"cutover test\""), "{error}");
    // The holder was left alone.
    stage.sql("INSERT INTO t VALUES (1)").await;
    assert_eq!(crate::stage::transaction(&mut stream).await.changes.len(), 1);
    slot::drop(&stage.session, SLOT, Some(NAME)).await.unwrap();
    assert!(
        stage
            .session
            .query_opt("SELECT FROM pg_publication WHERE pubname = $1", &[&PUBLICATION])
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn a_slot_whose_log_was_removed_is_lost() {
    let server = tests::postgres::Postgres::builder(15)
        .setting("max_slot_wal_keep_size", "1MB")
        .setting("max_wal_size", "32MB")
        .setting("min_wal_size", "32MB")
        .start()
        .unwrap();
    let stage = Stage::on(server).await;
    stage.sql("CREATE TABLE t (id int PRIMARY KEY)").await;
    stage.publish(&[table("t")]).await;
    stage.slot().await;
    for _ in 0..5 {
        stage.sql("SELECT pg_switch_wal()").await;
        stage.sql("INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t").await;
    }
    stage.sql("CHECKPOINT").await;
    let state = slot::inspect(&stage.session, SLOT).await.unwrap().unwrap();
    assert!(state.is_lost(), "{state:?}");
    let error = refusal(&stage, None).await;
    assert_eq!(error.disposition, Disposition::Halt);
    assert!(error.message.contains("has removed log"), "{error}");
}

/// A server that left its timeline behind everything that was applied goes on; before, it is refused.
#[tokio::test]
async fn a_promoted_server_goes_on_where_nothing_that_was_applied_is_missing() {
    let mut stage = Stage::new(17).await;
    stage.sql("CREATE TABLE t (id int PRIMARY KEY)").await;
    stage.publish(&[table("t")]).await;
    stage.slot().await;
    let synced = "SELECT failover::text FROM pg_replication_slots WHERE slot_name = 'cutover_slot'";
    let row = stage.session.query_one(synced, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "true", "standbys keep a copy");
    let mut stream = stage.stream().await;
    let identity = stream.identity();
    stage.sql("INSERT INTO t VALUES (1)").await;
    let applied = transaction(&mut stream).await.end_lsn.unwrap();
    stream.acknowledge(Position::Lsn(applied)).await.unwrap();
    stream.close().await.unwrap();

    // Recovery to the end of the log begins a timeline of its own, as a promotion does.
    stage.server.stop(Stop::Fast).unwrap();
    let signal = stage.server.data_directory().join("recovery.signal");
    std::fs::write(&signal, "").unwrap();
    stage.server.set("restore_command", "/bin/false").unwrap();
    stage.server.start().unwrap();
    wait::until("the end of the recovery", Duration::from_secs(30), async || {
        let recovers = stage.server.value("postgres", "SELECT pg_is_in_recovery()").await?;
        Ok((recovers == "f").then_some(()))
    })
    .await
    .unwrap();
    stage.session = session::connect(&stage.info, NAME).await.unwrap();
    stage.sql("SET search_path = public").await;

    let mut options = stage.options();
    options.expected_identity = Some(identity);
    options.start = Some(applied);
    stage.sql("INSERT INTO t VALUES (2)").await;
    options.applied = Some(stage.head().await);
    let lost = PgStream::open(&stage.info, options.clone()).await.unwrap_err();
    assert_eq!(lost.disposition, Disposition::Halt, "{lost}");
    assert!(
        lost.message.contains("timeline 1 to 2") && lost.message.contains("may lack"),
        "{lost}"
    );
    options.applied = Some(applied);
    let mut stream = PgStream::open(&stage.info, options).await.unwrap();
    assert_eq!(stream.identity().timeline, 2);
    let next = transaction(&mut stream).await;
    assert_eq!(next.changes.len(), 1, "the first transaction of the new timeline");
}
