//! What can't be kept from happening: it is seen, and stops the run.

use std::process::{Command, Stdio};

use super::*;
use crate::support::until;

/// A superuser opens the door by hand, writes to what is not replicated, and closes it again.
async fn a_door_that_was_opened_by_hand(major: &str) {
    let blue = Blue::start(major, "postgres", "").await;
    let open = "ALTER DATABASE shop ALLOW_CONNECTIONS true";
    let close = "ALTER DATABASE shop ALLOW_CONNECTIONS false";

    let raised = blue.raise().await;
    blue.outside.batch_execute(open).await.unwrap();
    let inside = blue.client("boss").await;
    let error = blue.seal(&raised).await.unwrap_err();
    assert!(error.contains("still accepts connections"), "{error}");
    assert!(inside.batch_execute("SELECT 1").await.is_err());
    blue.lower(&raised).await;

    let raised = blue.raise().await;
    blue.outside.batch_execute(open).await.unwrap();
    let inside = blue.client("boss").await;
    inside.batch_execute("BEGIN READ WRITE; SELECT lo_create(0); COMMIT").await.unwrap();
    drop(inside);
    blue.outside.batch_execute(close).await.unwrap();
    until("nobody is inside", || async { blue.clients_inside().await == 0 }).await;
    let error = blue.seal(&raised).await.unwrap_err();
    assert!(error.contains("altered database"), "{error}");
    blue.fence.lower(&raised.undo, deadline()).await.unwrap();
    assert_eq!(settings(&blue.login, &blue.server.info("postgres")).await, blue.before);
}

/// Who passes for ours (our role, a name that begins like ours, and our badge) and yet writes is seen. Without
/// a badge it is another tool of ours, which would go on writing: it is ended.
async fn sessions_under_our_own_name(major: &str) {
    let blue = Blue::start(major, "postgres", "").await;
    let other = blue.login.open_as("cutover lane of another sidecar").await;
    other.batch_execute("BEGIN; INSERT INTO t VALUES (4, 'another')").await.unwrap();
    let forged = blue.client("app").await;
    forged.batch_execute("SET application_name = 'cutover lane'").await.unwrap();
    forged.batch_execute(&decoders::postgres::badge::take_sql()).await.unwrap();
    let raised = blue.raise().await;
    assert!(other.batch_execute("COMMIT").await.is_err(), "another tool of ours goes on");
    assert!(forged.batch_execute("SELECT 1").await.is_err(), "another role passes for ours");
    blue.seal(&raised).await.unwrap();
    blue.lower(&raised).await;

    for writes in
        ["INSERT INTO t VALUES (5, 'impostor')", "SELECT lo_create(0)", "CREATE TABLE x ()"]
    {
        let impostor = blue.login.open_as_ours("cutover impostor").await;
        let raised = blue.raise().await;
        let statement = format!("BEGIN; {writes}; SELECT 1");
        let task = tokio::spawn(async move {
            let written = impostor.batch_execute(&statement).await;
            (impostor, written)
        });
        until("the impostor writes", || async {
            let query = "SELECT count(*) FROM pg_stat_activity \
                WHERE application_name = 'cutover impostor' AND backend_xid IS NOT NULL";
            number(&blue.outside, query).await > 0
        })
        .await;
        let error = blue.seal(&raised).await.unwrap_err();
        assert!(error.contains("cutover impostor"), "{writes}: {error}");
        blue.fence.lower(&raised.undo, deadline()).await.unwrap();
        let (impostor, _) = task.await.unwrap();
        impostor.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(settings(&blue.login, &blue.server.info("postgres")).await, blue.before);
    }
}

/// A restart, or another server behind the same name: whoever was inside meanwhile is gone, and the door looks
/// as it did.
async fn a_restart_behind_the_fence(major: &str) {
    let blue = Blue::start(major, "postgres", "").await;
    let raised = blue.raise().await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
        WHERE datname = 'shop' AND application_name = 'cutover fence of shop'";
    assert_eq!(number(&blue.outside, end).await, 1);
    let inside = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = 'shop' AND application_name = 'cutover fence of shop'";
    until("it is gone", || async { number(&blue.outside, inside).await == 0 }).await;
    let error = blue.seal(&raised).await.unwrap_err();
    assert!(error.contains("was lost before the seal"), "{error}");
    blue.lower(&raised).await;
}

/// Transactions that are prepared while the fence goes up: it is refused or they are committed
/// before; never is one left.
async fn prepared_transactions_race_the_door(major: &str) {
    let blue = Blue::start(major, "postgres", "").await;
    let login = blue.server.login("app", "shop");
    let racing = tokio::spawn(async move {
        for n in 0_u32.. {
            let Ok(session) = connect_plain(&login.info(), "app").await else { continue };
            // One by one: COMMIT PREPARED wants to be alone.
            let statements = [
                format!("BEGIN; UPDATE t SET who = who; PREPARE TRANSACTION 'p{n}'"),
                format!("COMMIT PREPARED 'p{n}'"),
                "SELECT pg_sleep(0.01)".to_owned(),
            ];
            for sql in statements {
                // It may be cut between the two: that is what an orphan is.
                if session.batch_execute(&sql).await.is_err() {
                    break;
                }
            }
        }
    });
    let undo = blue.fence.prepare().await.unwrap();
    let (mut up, mut refused) = (0, 0);
    for _ in 0..20 {
        match blue.fence.raise(&undo, deadline()).await.map(|report| {
            Fenced::prove(Epoch(1), Side::Blue, &report).map_err(|unproven| unproven.to_string())
        }) {
            Ok(Ok(_)) => {
                let prepared = "SELECT count(*) FROM pg_prepared_xacts";
                assert_eq!(number(&blue.outside, prepared).await, 0);
                up += 1;
            }
            Ok(Err(why)) => {
                assert!(why.contains("prepared transactions"), "{why}");
                refused += 1;
            }
            Err(error) => {
                assert!(error.what.contains("prepared transactions"), "{error}");
                refused += 1;
            }
        }
        blue.fence.lower(&undo, deadline()).await.unwrap();
        // Orphans are an operator's to resolve.
        let session = blue.login.open_as("cutover operator").await;
        let orphan = "SELECT gid FROM pg_prepared_xacts";
        if let Some(gid) = text(&session, orphan).await {
            let rollback = format!("ROLLBACK PREPARED '{gid}'");
            // Its own client may have been quicker, or be at it (object_not_in_prerequisite_state).
            if let Err(error) = session.batch_execute(&rollback).await {
                let code = error.code().map(|code| code.code().to_owned());
                assert!(matches!(code.as_deref(), Some("42704" | "55000")), "{error}: {code:?}");
            }
        }
    }
    println!("up {up} times, refused {refused} times");
    assert!(up > 0);
    racing.abort();
    assert_eq!(settings(&blue.login, &blue.server.info("postgres")).await, blue.before);
}

/// A subscriber of somebody else's stays: it could not come back for the last of blue's changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_gets_everything_up_to_the_fence() {
    let blue = Blue::start("15", "postgres", "").await;
    blue.login
        .open_as("cutover setup")
        .await
        .batch_execute("SELECT pg_create_logical_replication_slot('theirs', 'test_decoding')")
        .await
        .unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut subscriber = Command::new("/usr/lib/postgresql/15/bin/pg_recvlogical")
        .args(["-h", "127.0.0.1", "-p", &blue.server.port.to_string(), "-U", "boss", "-d", "shop"])
        .args(["-S", "theirs", "--start", "-F", "1", "-f"])
        .arg(file.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("it streams", || async {
        let streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        number(&blue.outside, streams).await == 1
    })
    .await;
    blue.client("app")
        .await
        .batch_execute("INSERT INTO t VALUES (7, 'the last one')")
        .await
        .unwrap();
    let raised = blue.raise().await;
    blue.seal(&raised).await.unwrap();
    until("the last change has come", || async {
        std::fs::read_to_string(file.path()).unwrap().contains("the last one")
    })
    .await;
    blue.lower(&raised).await;
    subscriber.kill().unwrap();
    subscriber.wait().unwrap();
}

on_versions! { a_door_that_was_opened_by_hand:
    a_door_that_was_opened_by_hand_is_seen_on_10 = "10",
    a_door_that_was_opened_by_hand_is_seen_on_15 = "15",
    a_door_that_was_opened_by_hand_is_seen_on_18 = "18",
}

on_versions! { sessions_under_our_own_name:
    sessions_under_our_own_name_are_seen_on_10 = "10",
    sessions_under_our_own_name_are_seen_on_15 = "15",
    sessions_under_our_own_name_are_seen_on_18 = "18",
}

on_versions! { a_restart_behind_the_fence:
    a_restart_behind_the_fence_is_seen_on_10 = "10",
    a_restart_behind_the_fence_is_seen_on_18 = "18",
}

on_versions! { prepared_transactions_race_the_door:
    prepared_transactions_race_the_door_on_13 = "13",
    prepared_transactions_race_the_door_on_17 = "17",
}
