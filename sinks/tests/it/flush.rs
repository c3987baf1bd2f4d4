//! Commits that don't wait for green's log, and what waits for them.

use decoders::change::ReplicaIdentity as Identity;
use decoders::source::Disposition;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sinks::postgres::{PgTarget, PgTargetOptions};
use sinks::{Flusher as _, LaneId, Target as _};

use crate::support::{Db, admin, apply, end, insert, major, options};

/// The process that flushes the log without being asked, stopped.
struct StoppedWriter(Pid);

impl StoppedWriter {
    async fn of(db: &Db) -> StoppedWriter {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'";
        let pid = Pid::from_raw(db.sql.query_one(sql, &[]).await.unwrap().get(0));
        kill(pid, Signal::SIGSTOP).unwrap();
        StoppedWriter(pid)
    }
}

impl Drop for StoppedWriter {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGCONT).unwrap();
    }
}

async fn flushed_up_to(db: &Db, position: &str) -> bool {
    let sql = format!("SELECT pg_current_wal_flush_lsn() >= '{position}'");
    db.rows(&sql).await == ["t"]
}

#[tokio::test]
async fn a_commit_is_in_the_log_once_it_is_flushed() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let t = db.table("t", Identity::Default).await;
    let target = db.target().await;
    let mut flusher = target.open_flusher().await.unwrap();
    let mut lane = target.open_lane(LaneId(0)).await.unwrap();
    // Before 14 nobody could tell the flusher's transaction from others: the lane waits itself.
    let flushes = major() >= 14;
    // A side that is closed for clients is read-only by default: here for what connects later.
    db.exec(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", db.name)).await;
    apply(&mut lane, 1, vec![insert(&t, &["1"])]).await.unwrap();
    flusher.flush(end(1)).await.unwrap();
    // Of what is not there nobody may say that it is flushed.
    let missing = flusher.flush(end(2)).await.map_err(|error| error.disposition);
    assert_eq!(missing, if flushes { Err(Disposition::Retry) } else { Ok(()) });
    let stopped = StoppedWriter::of(&db).await;
    let sql = "SELECT pg_current_wal_insert_lsn()::text";
    for n in 2..10u64 {
        apply(&mut lane, n, vec![insert(&t, &[&n.to_string()])]).await.unwrap();
        let position = db.rows(sql).await.remove(0);
        assert_eq!(flushed_up_to(&db, &position).await, !flushes, "{n}");
        flusher.flush(end(n)).await.unwrap();
        assert!(flushed_up_to(&db, &position).await, "{n}");
    }
    // What is resumed from can't be lost any more.
    apply(&mut lane, 10, vec![insert(&t, &["10"])]).await.unwrap();
    drop(lane);
    let position = db.rows(sql).await.remove(0);
    let reached = loop {
        // The lane's session has yet to end.
        match target.progress().await {
            Ok(reached) => break reached,
            Err(error) => {
                assert_eq!(error.disposition, Disposition::Retry, "{error}")
            }
        }
    };
    assert_eq!(reached.through, Some(end(10)));
    assert!(flushed_up_to(&db, &position).await);
    drop(stopped);
}

#[tokio::test]
async fn without_the_right_to_emit_messages_a_lane_waits_itself() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let revoke = "DO $$ DECLARE f regprocedure; BEGIN
          FOR f IN SELECT oid FROM pg_proc WHERE proname = 'pg_logical_emit_message' LOOP
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f); END LOOP; END $$;
        DROP ROLE IF EXISTS mover; CREATE ROLE mover LOGIN;
        GRANT ALL ON DATABASE {} TO mover; GRANT ALL ON ALL TABLES IN SCHEMA public TO mover";
    db.exec(&revoke.replace("{}", &db.name)).await;
    let options = PgTargetOptions { use_origin: false, ..options(&db) };
    let target = PgTarget::open(db.as_user("mover"), options).await.unwrap();
    let t = db.table("t", Identity::Default).await;
    let mut flusher = target.open_flusher().await.unwrap();
    let mut lane = target.open_lane(LaneId(0)).await.unwrap();
    let stopped = StoppedWriter::of(&db).await;
    apply(&mut lane, 1, vec![insert(&t, &["1"])]).await.unwrap();
    let position = db.rows("SELECT pg_current_wal_insert_lsn()::text").await.remove(0);
    assert!(flushed_up_to(&db, &position).await);
    flusher.flush(end(1)).await.unwrap();
    drop(stopped);
}

/// As on a side that a cutover has closed: the door is open only until the lanes are.
#[tokio::test]
async fn who_has_read_the_progress_flushes_though_nobody_is_let_in_any_more() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let t = db.table("t", Identity::Default).await;
    let target = db.target().await;
    target.progress().await.unwrap();
    let mut lane = target.open_lane(LaneId(0)).await.unwrap();
    let admin = admin().await;
    let close = format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", db.name);
    admin.batch_execute(&close).await.unwrap();
    let mut flusher = target.open_flusher().await.unwrap();
    let stopped = StoppedWriter::of(&db).await;
    apply(&mut lane, 1, vec![insert(&t, &["1"])]).await.unwrap();
    let position = db.rows("SELECT pg_current_wal_insert_lsn()::text").await.remove(0);
    assert_eq!(flushed_up_to(&db, &position).await, major() < 14);
    flusher.flush(end(1)).await.unwrap();
    assert!(flushed_up_to(&db, &position).await);
    drop(stopped);
}

/// A lane that was opened before anybody took that over.
#[tokio::test]
async fn as_long_as_nobody_flushes_for_it_a_lane_waits_itself() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    let stopped = StoppedWriter::of(&db).await;
    apply(&mut lane, 1, vec![insert(&t, &["1"])]).await.unwrap();
    let position = db.rows("SELECT pg_current_wal_insert_lsn()::text").await.remove(0);
    assert!(flushed_up_to(&db, &position).await);
    drop(stopped);
}
