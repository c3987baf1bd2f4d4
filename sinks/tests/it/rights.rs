//! Triggers, foreign keys, and green's role without superuser.

use decoders::change::ReplicaIdentity as Identity;
use decoders::source::Disposition;
use sinks::postgres::{OriginTracking, PgTarget, TriggerSuppression};
use sinks::{LaneId, Target as _};

use crate::support::{Db, apply, delete, insert, lane_of, major, options, update, update_from};

const DDL: &str = "
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE);
CREATE TABLE log (what text);
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql
  AS $$ BEGIN INSERT INTO public.log VALUES (tg_op); RETURN NULL; END $$;
CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON child
  FOR EACH ROW EXECUTE PROCEDURE noted();
";

#[tokio::test]
async fn triggers_and_foreign_keys_do_not_fire() {
    let db = Db::new(DDL).await;
    let (parent, child) =
        (db.table("parent", Identity::Default).await, db.table("child", Identity::Default).await);
    let mut lane = db.lane().await;
    assert_eq!(lane.capabilities().triggers, TriggerSuppression::ReplicaRole);
    // The child comes before its parent, as blue may have had it within one statement.
    let changes = vec![
        insert(&child, &["1", "1"]),
        insert(&child, &["2", "1"]),
        insert(&parent, &["1"]),
        update(&child, &["2", "~"]),
        delete(&parent, &["1"]),
        delete(&child, &["1", "~"]),
    ];
    apply(&mut lane, 1, changes).await.unwrap();
    assert_eq!(db.rows("SELECT id FROM child").await, ["2"]);
    assert_eq!(db.rows("SELECT count(*) FROM log").await, ["0"]);
}

#[tokio::test]
async fn triggers_that_would_fire_anyway_are_refused() {
    let db = Db::new(DDL).await;
    db.exec("ALTER TABLE child ENABLE ALWAYS TRIGGER noted").await;
    let child = db.table("child", Identity::Default).await;
    let mut lane = db.lane().await;
    let error = apply(&mut lane, 1, vec![insert(&child, &["1", "~"])]).await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Halt);
    assert!(error.message.contains("\"noted\""), "{error}");
    let pid = lane.backend_pid();
    drop(lane);
    db.gone(pid).await;
    let mut accepting = options(&db);
    accepting.accept_triggers = true;
    let target = PgTarget::open(db.green.clone(), accepting).await.unwrap();
    let mut lane = target.open_lane(LaneId(0)).await.unwrap();
    apply(&mut lane, 1, vec![insert(&child, &["1", "~"])]).await.unwrap();
    assert_eq!(db.rows("SELECT count(*) FROM log").await, ["1"]);
}

#[tokio::test]
async fn triggers_of_partitions_count_as_their_roots() {
    if major() < 11 {
        return;
    }
    let db = Db::new(
        "CREATE TABLE t (id int) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF t FOR VALUES FROM (0) TO (10);
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER of_leaf BEFORE INSERT ON low FOR EACH ROW EXECUTE PROCEDURE f();
         ALTER TABLE low ENABLE ALWAYS TRIGGER of_leaf",
    )
    .await;
    let t = db.table("t", Identity::Full).await;
    let mut lane = db.lane().await;
    let error = apply(&mut lane, 1, vec![insert(&t, &["1"])]).await.unwrap_err();
    assert!(error.message.contains("of_leaf"), "{error}");
}

/// Who may create functions in `public` must not have them called with our rights.
#[tokio::test]
async fn what_a_tables_code_calls_is_not_looked_for_in_an_applications_search_path() {
    let db = Db::new(
        "CREATE TABLE helper (a int); INSERT INTO helper VALUES (1);
         CREATE FUNCTION allowed(a int) RETURNS bool LANGUAGE sql
           AS $$ SELECT EXISTS (SELECT FROM helper) $$",
    )
    .await;
    db.exec("SET check_function_bodies = off; CREATE TABLE t (id int CHECK (allowed(id)))").await;
    // Nor where the database sets one.
    db.exec(&format!("ALTER DATABASE {} SET search_path = public", db.name)).await;
    let t = db.table("t", Identity::Full).await;
    let mut lane = db.lane().await;
    let error = apply(&mut lane, 1, vec![insert(&t, &["1"])]).await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Halt, "{error}");
    assert!(error.remedy.unwrap().contains("ALTER FUNCTION .. SET search_path"));
    db.exec("ALTER FUNCTION allowed(int) SET search_path = public").await;
    drop(lane);
    let mut lane = db.lane().await;
    apply(&mut lane, 1, vec![insert(&t, &["1"])]).await.unwrap();
}

#[tokio::test]
async fn without_superuser_what_would_fire_is_refused() {
    let db = Db::new(DDL).await;
    db.exec(
        "CREATE TABLE plain (id int PRIMARY KEY); CREATE TABLE leaf (id int PRIMARY KEY,
             p int REFERENCES plain DEFERRABLE)",
    )
    .await;
    let mut lane = lane_of(&db, "poor", "").await;
    let own = lane.capabilities().clone();
    assert_eq!(own.triggers, TriggerSuppression::RefuseTables);
    assert!(matches!(own.origin, OriginTracking::Unavailable { .. }), "{own:?}");
    let (plain, leaf) =
        (db.table("plain", Identity::Default).await, db.table("leaf", Identity::Default).await);
    let fine = vec![
        insert(&leaf, &["1", "1"]),
        insert(&plain, &["1"]),
        update_from(&leaf, &["1", "~"], &["2", "1"]),
    ];
    apply(&mut lane, 1, fine).await.unwrap();
    assert_eq!(db.rows("SELECT * FROM leaf").await, ["2|1"]);
    let child = db.table("child", Identity::Default).await;
    let error = apply(&mut lane, 2, vec![insert(&child, &["1", "~"])]).await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Halt);
    assert!(error.message.contains("\"noted\""), "{error}");
    assert!(error.remedy.unwrap().contains("GRANT SET ON PARAMETER"));
    let pid = lane.backend_pid();
    drop(lane);
    db.gone(pid).await;
    let target = PgTarget::open(db.as_user("poor"), options(&db)).await.unwrap();
    let mut lane = target.open_lane(LaneId(0)).await.unwrap();
    let parent = db.table("parent", Identity::Default).await;
    let error = apply(&mut lane, 2, vec![insert(&parent, &["1"])]).await.unwrap_err();
    assert!(error.message.contains("child_p_fkey"), "{error}");
    target.remove().await.unwrap();
}

#[tokio::test]
async fn grants_instead_of_superuser() {
    if major() < 15 {
        return;
    }
    let db = Db::new(DDL).await;
    let grants = "GRANT SET ON PARAMETER session_replication_role TO granted;
        GRANT EXECUTE ON FUNCTION pg_replication_origin_oid(text),
          pg_replication_origin_create(text), pg_replication_origin_session_setup(text),
          pg_replication_origin_xact_setup(pg_lsn, timestamptz) TO granted";
    db.exec("CREATE ROLE granted LOGIN").await;
    let mut lane = lane_of(&db, "granted", grants).await;
    let capabilities = lane.capabilities().clone();
    assert_eq!(capabilities.triggers, TriggerSuppression::ReplicaRole);
    assert_eq!(
        capabilities.origin,
        OriginTracking::Active { name: format!("cutover_{}", db.name) }
    );
    let child = db.table("child", Identity::Default).await;
    apply(&mut lane, 1, vec![insert(&child, &["1", "5"])]).await.unwrap();
    assert_eq!(db.rows("SELECT count(*) FROM log").await, ["0"]);
}

#[tokio::test]
async fn a_missing_right_is_named() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut lane = lane_of(&db, "meek", "REVOKE INSERT ON t FROM meek").await;
    let t = db.table("t", Identity::Default).await;
    let error = apply(&mut lane, 1, vec![insert(&t, &["1"])]).await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Halt);
    assert!(error.message.contains("permission denied for"), "{error}");
}

#[tokio::test]
async fn policies_never_hide_rows() {
    let db = Db::new(
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);
         ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY none ON t USING (false)",
    )
    .await;
    let mut lane = lane_of(&db, "barred", "").await;
    let t = db.table("t", Identity::Default).await;
    let error = apply(&mut lane, 1, vec![delete(&t, &["1"])]).await.unwrap_err();
    assert!(error.message.contains("row-level security"), "{error}");
}
