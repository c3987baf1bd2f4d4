//! Transactions that are sent before those before them are answered end as if they had been applied one
//! after the other.

use decoders::change::{Part, ReplicaIdentity as Identity, Transaction};
use decoders::source::Disposition;
use futures_util::FutureExt as _;
use sinks::postgres::PgLane;
use sinks::{Lane as _, LaneId, Target as _, TargetError};

use crate::support::{
    Db, apply, delete, end, insert, killed_at, lane_again, lane_of, part, tx, update,
};

const DDL: &str = "CREATE TABLE t (id int PRIMARY KEY, u int, n int,
                     CONSTRAINT one_u UNIQUE (u) DEFERRABLE INITIALLY DEFERRED);
                   INSERT INTO t VALUES (0, 0, 0)";

async fn state(db: &Db) -> Vec<String> {
    let sql = "SELECT (SELECT string_agg(id::text, ',' ORDER BY id) FROM t), transactions, end_lsn
               FROM _cutover.progress";
    db.rows(sql).await
}

/// Sends all, then hears what became of each until one has failed.
async fn send_all(lane: &mut PgLane, all: &[Transaction]) -> (u64, Option<TargetError>) {
    for one in all {
        assert!(lane.is_ready_for(std::slice::from_ref(one)));
        lane.send(std::slice::from_ref(one)).await.unwrap();
    }
    for (at, one) in all.iter().enumerate() {
        match lane.answer().await {
            Ok(applied) => {
                assert_eq!((applied.end_lsn, applied.transactions), (one.end_lsn, 1))
            }
            Err(error) => return (at as u64, Some(error)),
        }
    }
    (all.len() as u64, None)
}

#[tokio::test]
async fn answers_come_in_order_and_what_is_not_ready_is_told() {
    let db = Db::new(DDL).await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    let row = |n: u64| tx(n, vec![insert(&t, &[&n.to_string(), &n.to_string(), "~"])]);
    assert!(!lane.is_ready_for(&[row(1)]), "green has to be asked about the table");
    apply(&mut lane, 1, row(1).changes).await.unwrap();
    assert!(lane.answer_came().now_or_never().is_none(), "nothing was sent");
    let many = (0..16).map(|n| insert(&t, &[&n.to_string(), "~", "~"])).collect();
    for not in [
        vec![],
        vec![tx(2, many)],
        vec![part(2, Part::First, row(2).changes)],
        vec![tx(2, vec![delete(&t, &["1", "~", "~"])])],
    ] {
        assert!(!lane.is_ready_for(&not));
    }
    assert_eq!(lane.committed(), Some(end(1)));
    let (ok, error) = send_all(&mut lane, &[row(2), row(3), row(4)]).await;
    assert!(ok == 3 && error.is_none(), "{error:?}");
    assert_eq!(lane.committed(), Some(end(4)));
    // Then the lane goes on in any way.
    apply(&mut lane, 5, vec![delete(&t, &["1", "~", "~"])]).await.unwrap();
    assert_eq!(send_all(&mut lane, &[row(6)]).await.0, 1);
    assert_eq!(state(&db).await, [format!("0,2,3,4,6|6|{}", end(6))]);
    let pid = lane.backend_pid();
    lane.close().await;
    db.gone(pid).await;
}

#[tokio::test]
async fn what_was_sent_behind_a_failure_leaves_nothing() {
    let db = Db::new(DDL).await;
    let t = db.table("t", Identity::Default).await;
    let row = |n: u64, u: &str| tx(n, vec![insert(&t, &[&n.to_string(), u, "~"])]);
    let cases = [
        ("a constraint", insert(&t, &["0", "7", "~"]), "23505"),
        ("no such row", update(&t, &["99", "7", "~"]), "matched 0 rows"),
        ("no such value", insert(&t, &["x", "7", "~"]), "22P02"),
    ];
    for (what, change, says) in cases {
        db.exec("DROP SCHEMA IF EXISTS _cutover CASCADE; DELETE FROM t WHERE id > 0").await;
        let target = db.target().await;
        let mut lane = target.open_lane(LaneId(0)).await.unwrap();
        let pid = lane.backend_pid();
        let known = vec![insert(&t, &["1", "1", "~"]), update(&t, &["1", "1", "5"])];
        apply(&mut lane, 1, known).await.unwrap();
        // The third would be as welcome without the second.
        let all = [row(2, "2"), tx(3, vec![change]), row(4, "4"), row(5, "5")];
        let (ok, error) = send_all(&mut lane, &all).await;
        let error = error.expect(what);
        assert!(error.message.contains(says), "{what}: {error}");
        assert_eq!((ok, error.disposition), (1, Disposition::Halt), "{what}: {error}");
        assert_eq!(state(&db).await, [format!("0,1,2|2|{}", end(2))], "{what}");
        // Nothing can be said about the session any more.
        assert!(!lane.is_ready_for(&all[2..3]), "{what}");
        let again = lane.apply(&all[2..3]).await.unwrap_err();
        assert_eq!(again.disposition, Disposition::Retry, "{what}");
        drop(lane);
        db.gone(pid).await;
        assert_eq!(target.progress().await.unwrap().through, Some(end(2)), "{what}");
        let mut lane = target.open_lane(LaneId(0)).await.unwrap();
        apply(&mut lane, 3, row(3, "3").changes).await.unwrap();
        assert_eq!(send_all(&mut lane, &all[2..]).await.0, 2, "{what}");
        assert_eq!(state(&db).await, [format!("0,1,2,3,4,5|5|{}", end(5))], "{what}");
        let pid = lane.backend_pid();
        lane.close().await;
        db.gone(pid).await;
    }
}

#[tokio::test]
async fn a_failure_is_not_lost_by_who_stops_waiting_for_it() {
    let db = Db::new(DDL).await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    apply(&mut lane, 1, vec![insert(&t, &["1", "1", "~"])]).await.unwrap();
    lane.send(&[tx(2, vec![insert(&t, &["1", "2", "~"])])]).await.unwrap();
    let next = [tx(3, vec![insert(&t, &["3", "3", "~"])])];
    lane.send(&next).await.unwrap();
    while lane.answer_came().now_or_never().is_none() {
        tokio::task::yield_now().await;
    }
    assert!(!lane.is_ready_for(&next));
    let error = lane.answer().await.unwrap_err();
    assert!(error.message.contains("23505"), "{error}");
    assert_eq!(state(&db).await, [format!("0,1|1|{}", end(1))]);
}

/// Where triggers fire (the role may not keep them from it) constraints are looked at by COMMIT, and green is
/// outside of a transaction when that fails: only the progress keeps out what comes behind it.
#[tokio::test]
async fn what_was_sent_behind_a_commit_that_failed_leaves_nothing() {
    let db = Db::new(DDL).await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = lane_of(&db, "ahead", "").await;
    let pid = lane.backend_pid();
    apply(&mut lane, 1, vec![insert(&t, &["1", "1", "~"])]).await.unwrap();
    let row = |n: u64, u: &str| tx(n, vec![insert(&t, &[&n.to_string(), u, "~"])]);
    let all = [row(2, "2"), row(3, "0"), row(4, "4"), row(5, "5")];
    let (ok, error) = send_all(&mut lane, &all).await;
    let error = error.unwrap();
    assert!(error.message.contains("committing on green"), "{error}");
    assert!(error.message.contains("one_u"), "{error}");
    assert_eq!((ok, error.disposition), (1, Disposition::Halt));
    assert_eq!(state(&db).await, [format!("0,1,2|2|{}", end(2))]);
    drop(lane);
    db.gone(pid).await;
    let mut lane = lane_of(&db, "ahead", "").await;
    apply(&mut lane, 3, row(3, "3").changes).await.unwrap();
    assert_eq!(send_all(&mut lane, &all[2..]).await.0, 2);
    assert_eq!(state(&db).await, [format!("0,1,2,3,4,5|5|{}", end(5))]);
}

/// The end of a connection at many moments, with two transactions in flight each time.
#[tokio::test]
async fn killed_with_two_in_flight() {
    let db = Db::new(DDL).await;
    let t = db.table("t", Identity::Default).await;
    let target = db.target().await;
    let total = 400u64;
    let all: Vec<_> = (1..=total)
        .map(|n| {
            let id = n.to_string();
            tx(n, vec![insert(&t, &[&id, &id, "1"]), update(&t, &["0", "0", &id])])
        })
        .collect();
    let (mut kills, mut in_flight) = (0, 0);
    loop {
        let done =
            target.progress().await.unwrap().through.map_or(0, |lsn| (lsn.0 - 0x1000) / 0x100);
        let there = "SELECT count(*) - 1, (SELECT n FROM t WHERE id = 0) FROM t";
        assert_eq!(db.rows(there).await, [format!("{done}|{done}")], "rows and progress agree");
        if done == total {
            break;
        }
        let Some(mut lane) = lane_again(&target).await else { continue };
        let pid = lane.backend_pid();
        let rest = &all[done as usize..];
        let work = async {
            let mut sent = 0;
            for one in rest {
                let one = std::slice::from_ref(one);
                if !lane.is_ready_for(one) {
                    while sent > 0 {
                        sent -= 1;
                        lane.answer().await?;
                    }
                    lane.apply(one).await?;
                    continue;
                }
                lane.send(one).await?;
                sent += 1;
                in_flight = in_flight.max(sent);
                if sent == 2 {
                    sent -= 1;
                    lane.answer().await?;
                }
            }
            while sent > 0 {
                sent -= 1;
                lane.answer().await?;
            }
            Ok::<(), TargetError>(())
        };
        let kill = async {
            if kills < 15 {
                killed_at(&db, pid, "t", (done + 3 * kills).min(total - 1) + 1).await;
            }
        };
        let (worked, ()) = tokio::join!(work, kill);
        if let Err(e) = worked {
            assert_eq!(e.disposition, Disposition::Retry, "{e}");
        }
        kills += 1;
        drop(lane);
        db.gone(pid).await;
    }
    assert!(kills > 1 && in_flight == 2);
    let progress = "SELECT transactions, end_lsn FROM _cutover.progress";
    assert_eq!(db.rows(progress).await, [format!("{total}|{}", end(total))]);
}
