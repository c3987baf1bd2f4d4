//! Whatever ends when: rows and progress agree, and every transaction is there once.

use decoders::change::{Part, ReplicaIdentity as Identity};
use decoders::source::Disposition;
use sinks::postgres::PgLane;
use sinks::{Lane as _, LaneId, Target as _};

use crate::support::{Db, apply, end, insert, killed_at, lane_again, part, tx, update};

const DDL: &str = "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (0, 0)";

/// How far green is by its rows and by its progress.
async fn state(db: &Db) -> Vec<String> {
    db.rows(
        "SELECT (SELECT count(*) - 1 FROM t), (SELECT n FROM t WHERE id = 0),
                transactions, end_lsn FROM _cutover.progress",
    )
    .await
}

async fn kill(db: &Db, lane: &PgLane) {
    let pid = lane.backend_pid();
    db.exec(&format!("SELECT pg_terminate_backend({pid})")).await;
    db.gone(pid).await;
}

#[tokio::test]
async fn killed_between_parts() {
    let db = Db::new(DDL).await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    let one = |id: &str| vec![insert(&t, &[id, "1"]), update(&t, &["0", id])];
    apply(&mut lane, 1, one("1")).await.unwrap();
    let open = [tx(2, one("2")), part(3, Part::First, one("3"))];
    let applied = lane.apply(&open).await.unwrap();
    assert_eq!((applied.end_lsn, applied.transactions, applied.changes), (None, 0, 4));
    let applied = lane.apply(&[part(3, Part::Middle, one("4"))]).await.unwrap();
    assert_eq!(applied.end_lsn, None);
    assert_eq!(state(&db).await, [format!("1|1|1|{}", end(1))]);
    kill(&db, &lane).await;
    let error = lane.apply(&[part(3, Part::Last, one("5"))]).await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Retry, "{error}");
    assert_eq!(state(&db).await, [format!("1|1|1|{}", end(1))]);
    // What is resumed from is what green says.
    assert_eq!(db.target().await.progress().await.unwrap().through, Some(end(1)));
    let mut lane = db.lane().await;
    let parts = [
        tx(2, one("2")),
        part(3, Part::First, one("3")),
        part(3, Part::Middle, one("4")),
        part(3, Part::Last, one("5")),
    ];
    let applied = lane.apply(&parts).await.unwrap();
    assert_eq!((applied.end_lsn, applied.transactions), (Some(end(3)), 2));
    assert_eq!(state(&db).await, [format!("5|5|3|{}", end(3))]);
}

#[tokio::test]
async fn killed_at_any_moment() {
    let db = Db::new(DDL).await;
    let t = db.table("t", Identity::Default).await;
    let target = db.target().await;
    let total = 400u64;
    let mut kills = 0;
    let transactions: Vec<_> = (1..=total)
        .map(|n| {
            let id = n.to_string();
            tx(n, vec![insert(&t, &[&id, "1"]), update(&t, &["0", &id])])
        })
        .collect();
    loop {
        let done =
            target.progress().await.unwrap().through.map_or(0, |lsn| (lsn.0 - 0x1000) / 0x100);
        let counted: i64 = db.sql.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
        assert_eq!(counted as u64 - 1, done, "rows and progress agree");
        if done == total {
            break;
        }
        let Some(mut lane) = lane_again(&target).await else { continue };
        let pid = lane.backend_pid();
        let rest = &transactions[done as usize..];
        let work = async {
            for some in rest.chunks(7) {
                lane.apply(some).await?;
            }
            Ok::<(), sinks::TargetError>(())
        };
        let kill = async {
            if kills < 15 {
                // A different moment each time: after some transactions were seen to commit.
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
    assert_eq!(state(&db).await, [format!("{total}|{total}|{total}|{}", end(total))]);
}

#[tokio::test]
async fn a_dropped_call_keeps_nothing() {
    let db = Db::new(DDL).await;
    let t = db.table("t", Identity::Default).await;
    let target = db.target().await;
    let mut lane = target.open_lane(LaneId(0)).await.unwrap();
    let pid = lane.backend_pid();
    db.exec("BEGIN; LOCK TABLE t").await;
    {
        let waiting = [tx(1, vec![insert(&t, &["1", "1"])])];
        let mut call = std::pin::pin!(lane.apply(&waiting));
        // A lock on green stalls the lane, and who holds it can be told.
        let blocker = tokio::select! {
            applied = &mut call => panic!("not blocked: {applied:?}"),
            blocker = async {
                loop {
                    if let Some(one) = target.blockers(pid).await.unwrap().into_iter().next() {
                        break one;
                    }
                }
            } => blocker,
        };
        assert_eq!(blocker.application, "test");
        assert_eq!(blocker.state, "idle in transaction");
    }
    let error = lane.apply(&[tx(1, vec![])]).await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Retry);
    drop(lane);
    db.exec("COMMIT").await;
    db.gone(pid).await;
    assert_eq!(db.rows("SELECT count(*) FROM t").await, ["1"]);
    assert_eq!(target.progress().await.unwrap().through, None);
}

#[tokio::test]
async fn a_large_transaction_in_parts() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    let text = "x".repeat(1000);
    let mut id = 0;
    for at in 0..10 {
        let kind =
            [Part::First, Part::Middle, Part::Last][usize::from(at > 0) + usize::from(at == 9)];
        let changes = (0..2000)
            .map(|_| {
                id += 1;
                insert(&t, &[id.to_string().as_str(), &text])
            })
            .collect();
        let applied = lane.apply(&[part(1, kind, changes)]).await.unwrap();
        assert_eq!(applied.changes, 2000);
        // Nobody sees a part of it.
        let seen = if kind.ends() { "20000" } else { "0" };
        assert_eq!(db.rows("SELECT count(*) FROM t").await, [seen]);
    }
    let progress = "SELECT transactions, end_lsn::text FROM _cutover.progress";
    assert_eq!(db.rows(progress).await, [format!("1|{}", end(1))]);
    assert_eq!(lane.committed(), Some(end(1)));
}

#[tokio::test]
async fn a_deadlock_is_retried() {
    let db =
        Db::new("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)").await;
    let (a, b) = (db.table("a", Identity::Default).await, db.table("b", Identity::Default).await);
    let target = db.target().await;
    let mut lane = target.open_lane(LaneId(0)).await.unwrap();
    lane.apply(&[part(1, Part::First, vec![insert(&a, &["1"])])]).await.unwrap();
    // Ours is the victim: the other side does not look for deadlocks.
    db.exec("SET deadlock_timeout = '1h'; BEGIN; LOCK TABLE b").await;
    let other = db.sql.batch_execute("LOCK TABLE a; COMMIT");
    let last = [part(1, Part::Last, vec![insert(&b, &["1"])])];
    let (ours, theirs) = tokio::join!(lane.apply(&last), other);
    let error = ours.unwrap_err();
    assert_eq!(error.disposition, Disposition::Retry, "{error}");
    assert!(error.message.contains("40P01"), "{error}");
    theirs.unwrap();
}
