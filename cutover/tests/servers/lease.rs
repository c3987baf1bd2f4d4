//! Two sidecars for one pipeline: one of them acts.

use std::time::Duration;

use cutover::Side;
use cutover::decision::{Conditions, PostgresDecision};
use cutover::lease::{PostgresLease, Tenant};
use cutover::phase::Verdict;
use cutover::ports::{Decision, Epoch, Lease, Nature};
use decoders::Lsn;

use super::support::{Login, Postgres, deadline, text, until};

/// The pipeline that applies to green.
const STREAM: &str = "it's a shop";
/// Where its marker ends.
const MARKER: Lsn = Lsn(0x100);

fn tenant(holder: &str) -> Tenant {
    Tenant { pipeline: "shop".into(), holder: holder.into() }
}

fn conditions(holder: &str) -> Conditions {
    Conditions { tenant: tenant(holder), stream: STREAM.into() }
}

fn lease(green: &Login, holder: &str) -> PostgresLease {
    PostgresLease::new(green.info(), Side::Green, tenant(holder))
}

fn decision(green: &Login, holder: &str) -> PostgresDecision {
    PostgresDecision::new(green.info(), Side::Green).on(conditions(holder))
}

/// What the engine keeps on green of how far it is: here, up to 0/100.
async fn progress(green: &Login) {
    let table = "CREATE TABLE _cutover.progress (pipeline text, lane int, end_lsn pg_lsn); \
                 INSERT INTO _cutover.progress VALUES ('it''s a shop', 0, '0/20'), \
                 ('it''s a shop', 1, '0/100'), ('it''s a shop', 2, NULL), ('other', 0, '0/900')";
    green.open().await.batch_execute(table).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_renews_it_another_is_refused_and_told_who_acts() {
    let server = Postgres::start().await;
    let green = server.database("green", "SELECT").await;
    let (first, second) = (lease(&green, "host-1:/a"), lease(&green, "host-2:/b"));
    assert_eq!(first.left(), Duration::ZERO, "nothing was taken yet");
    first.acquire(Epoch(1)).await.unwrap();
    let refused = second.acquire(Epoch(1)).await.unwrap_err();
    assert!(refused.what.contains("host-1:/a"), "{refused}");
    assert_eq!(second.left(), Duration::ZERO);
    assert!(!first.left().is_zero());

    // The next life over the same state directory goes on at once.
    lease(&green, "host-1:/a").acquire(Epoch(2)).await.unwrap();
    // And who has given it back is not waited for.
    let third = lease(&green, "host-1:/a");
    third.acquire(Epoch(3)).await.unwrap();
    third.release().await;
    second.acquire(Epoch(4)).await.unwrap();
    // Whose name was replaced finds out.
    until("the first to have lost it", || async { first.left().is_zero() }).await;
    assert!(first.renew().await.is_err());
}

/// The one that was stopped wakes up in the middle of its commit.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_silent_for_too_long_can_not_commit() {
    let server = Postgres::start().await;
    let green = server.database("green", "SELECT").await;
    let mine = decision(&green, "one");
    mine.prepare().await.unwrap();
    progress(&green).await;
    {
        let first = lease(&green, "one");
        first.acquire(Epoch(1)).await.unwrap();
        let verdict = mine.commit(Epoch(1), MARKER, deadline()).await.unwrap();
        assert_eq!(verdict, Verdict::Commit, "while it holds the lease it decides");
        first.acquire(Epoch(2)).await.unwrap();
        // Dropped: nobody renews it any more, and nobody gives it back.
    }
    let second = lease(&green, "two");
    second.acquire(Epoch(3)).await.unwrap();
    let refused = mine.commit(Epoch(2), MARKER, deadline()).await.unwrap_err();
    assert!(!refused.in_doubt, "nothing was decided, and that is certain");
    let verdict = mine.abort(Epoch(2), deadline()).await.unwrap();
    assert_eq!(verdict, Verdict::Abort, "going back needs no lease");
    let other = decision(&green, "two");
    other.prepare().await.unwrap();
    let verdict = other.commit(Epoch(3), MARKER, deadline()).await.unwrap();
    assert_eq!(verdict, Verdict::Commit);
    let rows = "SELECT string_agg(epoch || ' ' || verdict, ', ' ORDER BY epoch) \
                FROM _cutover.decision";
    let rows = text(&green.open().await, rows).await;
    assert_eq!(rows.as_deref(), Some("1 commit, 2 abort, 3 commit"));
}

/// The stream has gone over to a new primary, and an old one goes on answering this session.
#[tokio::test(flavor = "multi_thread")]
async fn where_the_marker_was_not_applied_nobody_can_commit() {
    let server = Postgres::start().await;
    let green = server.database("green", "SELECT").await;
    let mine = decision(&green, "one");
    mine.prepare().await.unwrap();
    lease(&green, "one").acquire(Epoch(1)).await.unwrap();
    let missing = mine.commit(Epoch(1), MARKER, deadline()).await.unwrap_err();
    assert!(!missing.in_doubt && missing.what.contains("progress"), "{missing}");
    progress(&green).await;
    mine.prepare().await.unwrap();
    let behind = Lsn(MARKER.0 + 1);
    let refused = mine.commit(Epoch(1), behind, deadline()).await.unwrap_err();
    assert!(!refused.in_doubt && refused.what.contains("has not come to"), "{refused}");
    assert_eq!(mine.read(Epoch(1), deadline()).await.unwrap(), None);
    let verdict = mine.commit(Epoch(1), MARKER, deadline()).await.unwrap();
    assert_eq!(verdict, Verdict::Commit);
}

/// Whoever plans another run asks for the last epoch, and may leave in the middle.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_the_last_epoch_leaves_the_prepared_session_alone() {
    let server = Postgres::start().await;
    let green = server.database("green", "SELECT").await;
    let mine = PostgresDecision::new(green.info(), Side::Green);
    mine.prepare().await.unwrap();
    let operator = green.open().await;
    let lock = "BEGIN; LOCK TABLE _cutover.decision IN ACCESS EXCLUSIVE MODE";
    operator.batch_execute(lock).await.unwrap();
    let given_up = tokio::time::timeout(Duration::from_millis(200), mine.last_epoch()).await;
    assert!(given_up.is_err(), "it had to wait");
    operator.batch_execute("COMMIT").await.unwrap();
    let verdict = mine.commit(Epoch(1), MARKER, deadline()).await.unwrap();
    assert_eq!(verdict, Verdict::Commit);
}

/// A side that an earlier run has closed is read-only by default.
#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_is_read_only_by_default_takes_a_lease() {
    let server = Postgres::start().await;
    let blue = server.database("shop", "SELECT").await;
    let alter = "ALTER DATABASE shop SET default_transaction_read_only = on";
    blue.open().await.batch_execute(alter).await.unwrap();
    let lease = lease(&blue, "one");
    lease.acquire(Epoch(1)).await.unwrap();
    lease.renew().await.unwrap();
    assert!(!lease.left().is_zero());
}

/// Only a closed door is a closed door: who is kept out by anything else may be kept out of a side
/// that serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_is_full_is_told_from_one_that_is_closed() {
    let server = Postgres::start().await;
    let green = server.database("green", "CREATE ROLE mover LOGIN CONNECTION LIMIT 0").await;
    let mover = server.login("mover", "green");
    let asked = |login: Login| async move {
        let decision = PostgresDecision::new(login.info(), Side::Green);
        decision.read(Epoch(1), deadline()).await.unwrap_err().nature
    };
    assert_eq!(asked(mover).await, Nature::Plain);
    let close = "ALTER DATABASE green ALLOW_CONNECTIONS false";
    server.info("postgres").open().await.batch_execute(close).await.unwrap();
    assert_eq!(asked(green).await, Nature::ClosedDoor);
}
