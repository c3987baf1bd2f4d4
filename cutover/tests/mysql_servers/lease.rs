//! Two sidecars for one pipeline: one of them acts, and one of them decides.

use std::time::Duration;

use cutover::Side;
use cutover::decision::{Conditions, MysqlDecision};
use cutover::lease::{MysqlLease, Tenant};
use cutover::phase::Verdict;
use cutover::ports::{Decision, Epoch, Lease, LeaseRow};
use decoders::Lsn;
use mysql_async::prelude::Queryable;

use super::support::{Site, Version, deadline, open, text, until};

/// The pipeline that applies to green.
const STREAM: &str = "it's a shop";
/// The number of its marker.
const MARKER: Lsn = Lsn(100);

fn tenant(holder: &str) -> Tenant {
    Tenant { pipeline: "it's \\a shop".into(), holder: holder.into() }
}

fn conditions(holder: &str) -> Conditions {
    Conditions { tenant: tenant(holder), stream: STREAM.into() }
}

fn lease(green: &Site, holder: &str) -> MysqlLease {
    MysqlLease::new(green.mover(), Side::Green, tenant(holder))
}

fn decision(green: &Site, holder: &str) -> MysqlDecision {
    MysqlDecision::new(green.mover(), Side::Green).on(conditions(holder))
}

/// What the engine keeps on green of how far it is: here, up to number 100.
async fn progress(green: &Site) {
    let mut session = open(&green.mover()).await;
    for sql in [
        "CREATE TABLE _cutover.progress (pipeline varchar(64), lane int, end_number bigint unsigned)",
        "INSERT INTO _cutover.progress VALUES ('it''s a shop', 0, 20), ('it''s a shop', 1, 100), \
         ('it''s a shop', 2, NULL), ('other', 0, 900)",
    ] {
        session.query_drop(sql).await.unwrap();
    }
}

async fn while_one_renews_it_another_is_refused(version: Version) {
    let green = Site::start(version);
    let (first, second) = (lease(&green, "host-1:/a"), lease(&green, "host-2:/b"));
    let row = |epoch, holder: &str| LeaseRow { epoch: Epoch(epoch), holder: holder.into() };
    assert_eq!(first.left(), Duration::ZERO, "nothing was taken yet");
    assert_eq!(first.look(deadline()).await.unwrap(), None, "there is no table yet");
    assert!(!second.inherit(&row(1, "host-1:/a")).await.unwrap());
    first.acquire(Epoch(1)).await.unwrap();
    let refused = second.acquire(Epoch(1)).await.unwrap_err();
    assert!(refused.is_superseded() && refused.what.contains("host-1:/a"), "{refused}");
    let alive = second.inherit(&row(1, "host-1:/a")).await.unwrap_err();
    assert!(alive.is_superseded(), "{alive}");
    assert_eq!(second.left(), Duration::ZERO);
    assert!(!first.left().is_zero());

    // The next life over the same state directory goes on at once, and so does who finds it given
    // back.
    let third = lease(&green, "host-1:/a");
    third.acquire(Epoch(3)).await.unwrap();
    third.release().await;
    second.acquire(Epoch(4)).await.unwrap();
    until("the first to have lost it", || async { first.left().is_zero() }).await;
    assert!(first.renew().await.is_err());

    // Of a dead one it is inherited for exactly its run.
    drop(second);
    assert!(!third.inherit(&row(3, "host-2:/b")).await.unwrap());
    assert!(third.inherit(&row(4, "host-2:/b")).await.unwrap());
    assert_eq!(first.look(deadline()).await.unwrap(), Some(row(4, "host-1:/a")));
}

/// The one that was stopped wakes up in the middle of its commit.
async fn who_was_silent_for_too_long_can_not_commit(version: Version) {
    let green = Site::start(version);
    let mine = decision(&green, "one");
    assert_eq!(mine.last_epoch().await.unwrap(), Epoch(0));
    mine.prepare().await.unwrap();
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
    assert_eq!(other.commit(Epoch(3), MARKER, deadline()).await.unwrap(), Verdict::Commit);
    let late = other.abort(Epoch(3), deadline()).await.unwrap();
    assert_eq!(late, Verdict::Commit, "the first one wins");
    assert_eq!(other.last_epoch().await.unwrap(), Epoch(3));
    let mut session = open(&green.mover()).await;
    let rows = text(&mut session, "SELECT epoch, verdict FROM _cutover.decision").await;
    assert_eq!(rows, "1 commit, 2 abort, 3 commit");
}

/// Somebody takes the lease while a commit is under way: one of them waits for the other.
async fn a_commit_and_a_change_of_hands_exclude_each_other(version: Version) {
    let green = Site::start(version);
    let mine = decision(&green, "one");
    mine.prepare().await.unwrap();
    progress(&green).await;
    lease(&green, "one").acquire(Epoch(1)).await.unwrap();
    let mut taker = open(&green.mover()).await;
    taker.query_drop("START TRANSACTION").await.unwrap();
    taker.query_drop("UPDATE _cutover.lease SET holder = 'two'").await.unwrap();
    let deciding = tokio::spawn({
        let mine = decision(&green, "one");
        mine.prepare().await.unwrap();
        async move { mine.commit(Epoch(1), MARKER, deadline()).await }
    });
    let mut watcher = open(&green.mover()).await;
    let waiting =
        "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'";
    loop {
        if text(&mut watcher, waiting).await == "1" {
            break;
        }
        assert!(!deciding.is_finished(), "it did not wait for the lease's row");
        // The view is made anew only if nobody has asked for 100 ms.
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    taker.query_drop("COMMIT").await.unwrap();
    let refused = deciding.await.unwrap().unwrap_err();
    assert!(refused.what.contains("another sidecar"), "{refused}");
    assert_eq!(mine.read(Epoch(1), deadline()).await.unwrap(), None);
}

/// Behind green's name there is another server, or the same one without its last rows.
async fn a_commit_needs_the_session_that_was_there_before_the_drain(version: Version) {
    let green = Site::start(version);
    let mine = MysqlDecision::new(green.mover(), Side::Green);
    mine.prepare().await.unwrap();
    let mut boss = open(&green.boss()).await;
    // One that has just answered is not asked whether it is alive: that commit would be in doubt.
    let rested = "SELECT id FROM information_schema.processlist WHERE user = 'mover' AND time > 1";
    let mut id = String::new();
    until("our session rests", async || {
        id = text(&mut boss, rested).await;
        !id.is_empty()
    })
    .await;
    boss.query_drop(format!("KILL {id}")).await.unwrap();
    let refused = mine.commit(Epoch(1), MARKER, deadline()).await.unwrap_err();
    assert!(!refused.in_doubt && refused.what.contains("was lost"), "{refused}");
    assert_eq!(mine.read(Epoch(1), deadline()).await.unwrap(), None);
    let verdict = mine.abort(Epoch(1), deadline()).await.unwrap();
    assert_eq!(verdict, Verdict::Abort, "going back needs no session of before");
    mine.prepare().await.unwrap();
    assert_eq!(mine.commit(Epoch(2), MARKER, deadline()).await.unwrap(), Verdict::Commit);
}

/// The stream has gone over to a new primary, and an old one goes on answering this session.
async fn where_the_marker_was_not_applied_nobody_can_commit(version: Version) {
    let green = Site::start(version);
    let mine = decision(&green, "one");
    mine.prepare().await.unwrap();
    lease(&green, "one").acquire(Epoch(1)).await.unwrap();
    let missing = mine.commit(Epoch(1), MARKER, deadline()).await.unwrap_err();
    assert!(!missing.in_doubt && missing.what.contains("progress"), "{missing}");
    progress(&green).await;
    let behind = Lsn(MARKER.0 + 1);
    let refused = mine.commit(Epoch(1), behind, deadline()).await.unwrap_err();
    assert!(!refused.in_doubt && refused.what.contains("has not come to"), "{refused}");
    assert_eq!(mine.read(Epoch(1), deadline()).await.unwrap(), None);
    assert_eq!(mine.commit(Epoch(1), MARKER, deadline()).await.unwrap(), Verdict::Commit);
}

/// Whoever plans another run asks for the last epoch, and may leave in the middle.
async fn who_asks_for_the_last_epoch_leaves_the_prepared_session_alone(version: Version) {
    let green = Site::start(version);
    let mine = MysqlDecision::new(green.mover(), Side::Green);
    mine.prepare().await.unwrap();
    let mut boss = open(&green.boss()).await;
    boss.query_drop("LOCK TABLES _cutover.decision WRITE").await.unwrap();
    let given_up = tokio::time::timeout(Duration::from_millis(200), mine.last_epoch()).await;
    assert!(given_up.is_err(), "it had to wait");
    boss.query_drop("UNLOCK TABLES").await.unwrap();
    assert_eq!(mine.commit(Epoch(1), MARKER, deadline()).await.unwrap(), Verdict::Commit);
}

on_all_servers!(
    where_the_marker_was_not_applied_nobody_can_commit,
    who_asks_for_the_last_epoch_leaves_the_prepared_session_alone,
    a_commit_needs_the_session_that_was_there_before_the_drain,
    while_one_renews_it_another_is_refused,
    who_was_silent_for_too_long_can_not_commit,
    a_commit_and_a_change_of_hands_exclude_each_other,
);
