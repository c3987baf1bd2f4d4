//! Two sidecars for one pipeline: one of them acts.

use std::time::Duration;

use cutover::Side;
use cutover::decision::PostgresDecision;
use cutover::lease::{PostgresLease, Tenant};
use cutover::phase::Verdict;
use cutover::ports::{Decision, Epoch, Lease, Nature};

use super::support::{Login, Postgres, deadline, text, until};

fn tenant(holder: &str) -> Tenant {
    Tenant { pipeline: "shop".into(), holder: holder.into() }
}

fn lease(green: &Login, holder: &str) -> PostgresLease {
    PostgresLease::new(green.info(), Side::Green, tenant(holder))
}

fn decision(green: &Login, holder: &str) -> PostgresDecision {
    PostgresDecision::new(green.info(), Side::Green).leased_to(tenant(holder))
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
    {
        let first = lease(&green, "one");
        first.acquire(Epoch(1)).await.unwrap();
        let verdict = mine.decide(Epoch(1), Verdict::Commit, deadline()).await.unwrap();
        assert_eq!(verdict, Verdict::Commit, "while it holds the lease it decides");
        first.acquire(Epoch(2)).await.unwrap();
        // Dropped: nobody renews it any more, and nobody gives it back.
    }
    let second = lease(&green, "two");
    second.acquire(Epoch(3)).await.unwrap();
    let refused = mine.decide(Epoch(2), Verdict::Commit, deadline()).await.unwrap_err();
    assert!(!refused.in_doubt, "nothing was decided, and that is certain");
    let verdict = mine.decide(Epoch(2), Verdict::Abort, deadline()).await.unwrap();
    assert_eq!(verdict, Verdict::Abort, "going back needs no lease");
    let other = decision(&green, "two");
    other.prepare().await.unwrap();
    let verdict = other.decide(Epoch(3), Verdict::Commit, deadline()).await.unwrap();
    assert_eq!(verdict, Verdict::Commit);
    let rows = "SELECT string_agg(epoch || ' ' || verdict, ', ' ORDER BY epoch) \
                FROM _cutover.decision";
    let rows = text(&green.open().await, rows).await;
    assert_eq!(rows.as_deref(), Some("1 commit, 2 abort, 3 commit"));
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
