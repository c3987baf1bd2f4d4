//! What must stop the stream does, with nothing kept and without row values in the error.

use std::sync::Arc;

use decoders::change::{Part, QualifiedName, ReplicaIdentity as Identity, TableSchema};
use decoders::source::Disposition;
use sinks::postgres::PgTarget;
use sinks::{Lane as _, LaneId, Target as _, TargetError};

use crate::support::{Db, apply, delete, insert, options, part, tx, update, update_from};

/// The error halts, has a remedy, and shows none of the rows' values.
fn assert_halts(error: &TargetError, says: &str) {
    assert_eq!(error.disposition, Disposition::Halt, "{error}");
    assert!(error.remedy.as_ref().is_some_and(|remedy| !remedy.is_empty()), "{error}");
    assert!(error.message.contains(says), "{error} does not say {says:?}");
    let shown = format!("{error:?}");
    assert!(!shown.contains("secret"), "a value is shown: {shown}");
}

#[tokio::test]
async fn an_update_or_delete_of_no_row() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    let t = db.table("t", Identity::Default).await;
    for (n, change) in [
        (1, update(&t, &["1", "secret"])),
        (2, delete(&t, &["1", "~"])),
        (3, update_from(&t, &["1", "~"], &["2", "secret"])),
    ] {
        let mut lane = db.lane().await;
        let pid = lane.backend_pid();
        let changes = vec![insert(&t, &["5", "secret"]), change, insert(&t, &["6", "secret"])];
        let error = apply(&mut lane, n, changes).await.unwrap_err();
        assert_halts(&error, "matched 0 rows");
        assert!(error.message.contains("\"public\".\"t\""), "{error}");
        let again = apply(&mut lane, n, vec![]).await.unwrap_err();
        assert_eq!(again.disposition, Disposition::Retry);
        assert_eq!(db.rows("SELECT count(*) FROM t").await, ["0"]);
        drop(lane);
        db.gone(pid).await;
    }
    let target = db.target().await;
    assert_eq!(target.progress().await.unwrap().through, None);
}

#[tokio::test]
async fn more_than_one_row() {
    let db =
        Db::new("CREATE TABLE t (id int, a text); INSERT INTO t VALUES (1, 'x'), (1, 'y')").await;
    let mut t = (*db.table("t", Identity::Default).await).clone();
    t.columns[0].in_key = true;
    let t = Arc::new(t);
    let mut lane = db.lane().await;
    let error = apply(&mut lane, 1, vec![update(&t, &["1", "secret"])]).await.unwrap_err();
    assert_halts(&error, "matched 2 rows");
    assert_eq!(db.rows("SELECT a FROM t ORDER BY 1").await, ["x", "y"]);
}

#[tokio::test]
async fn the_first_error_is_the_one_told() {
    let db = Db::new("CREATE TABLE t (a text PRIMARY KEY, n int)").await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    let mut changes = vec![insert(&t, &["secret", "1"]), insert(&t, &["secret", "2"])];
    changes.extend((0..3000).map(|n| insert(&t, &[n.to_string().as_str(), "3"])));
    let error = apply(&mut lane, 1, changes).await.unwrap_err();
    assert_halts(&error, "23505");
    assert!(error.message.contains("t_pkey"), "{error}");
}

#[tokio::test]
async fn a_value_that_green_does_not_take() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    assert_halts(&apply(&mut lane, 1, vec![insert(&t, &["secret"])]).await.unwrap_err(), "22P02");
}

#[tokio::test]
async fn a_text_that_a_constraints_function_has_chosen() {
    let db = Db::new(
        "CREATE FUNCTION fits(a text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
             RAISE 'not %', a USING ERRCODE = '42P17', HINT = a, CONSTRAINT = a; END $$;
         CREATE TABLE t (id int PRIMARY KEY, a text CHECK (public.fits(a)))",
    )
    .await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    let error = apply(&mut lane, 1, vec![insert(&t, &["1", "secret"])]).await.unwrap_err();
    assert_halts(&error, "42P17");
}

#[tokio::test]
async fn a_gap_where_a_value_is_needed() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    let t = db.table("t", Identity::Default).await;
    let f = db.table("t", Identity::Full).await;
    for change in [
        insert(&t, &["1", "?"]),
        update(&t, &["?", "secret"]),
        delete(&t, &["?", "~"]),
        update_from(&f, &["?", "a"], &["1", "b"]),
    ] {
        let mut lane = db.lane().await;
        let pid = lane.backend_pid();
        assert_halts(&apply(&mut lane, 1, vec![change]).await.unwrap_err(), "was not sent");
        drop(lane);
        db.gone(pid).await;
    }
}

#[tokio::test]
async fn a_table_without_identity() {
    let db = Db::new("CREATE TABLE t (a int)").await;
    for identity in [Identity::Nothing, Identity::Default] {
        let t = db.table("t", identity).await;
        let mut lane = db.lane().await;
        let pid = lane.backend_pid();
        let changes = vec![insert(&t, &["1"]), delete(&t, &["1"])];
        let error = apply(&mut lane, 1, changes).await.unwrap_err();
        assert_halts(&error, "no replica identity");
        drop(lane);
        db.gone(pid).await;
    }
}

/// Applies one insert with a changed schema on a fresh lane.
async fn with_schema(db: &Db, alter: impl Fn(&mut TableSchema), cells: &[&str]) -> TargetError {
    let mut t = (*db.table("t", Identity::Default).await).clone();
    alter(&mut t);
    let t = Arc::new(t);
    let mut lane = db.lane().await;
    let pid = lane.backend_pid();
    let error = apply(&mut lane, 1, vec![insert(&t, cells)]).await.unwrap_err();
    drop(lane);
    db.gone(pid).await;
    error
}

#[tokio::test]
async fn a_table_that_differs() {
    let db = Db::new(
        "CREATE TABLE t (id int PRIMARY KEY, v varchar(10), n numeric(10,2), g text NOT NULL)",
    )
    .await;
    let cells = ["1", "secret", "1", "secret"];
    let error = with_schema(&db, |t| t.columns[1].name = "new".to_owned(), &cells).await;
    assert_halts(&error, "column \"new\" on blue that green lacks");
    assert!(error.remedy.unwrap().contains("altered on blue"));
    let error = with_schema(&db, |t| t.columns[0].type_oid = 20, &cells).await;
    assert_halts(&error, "column \"id\" is integer on green");
    let error = with_schema(&db, |t| t.columns[1].type_modifier = 24, &cells).await;
    assert_halts(&error, "character varying(10) on green");
    let error = with_schema(&db, |t| t.columns[2].type_modifier += 2, &cells).await;
    assert_halts(&error, "numeric(10,2) on green");
    let error = with_schema(&db, |t| drop(t.columns.pop()), &cells[..3]).await;
    assert_halts(&error, "NOT NULL without a default");
    let error = with_schema(&db, |t| t.name = QualifiedName::new("public", "no"), &cells).await;
    assert_halts(&error, "green has no table");
    // A narrower varchar on blue fits.
    let mut narrow = (*db.table("t", Identity::Default).await).clone();
    narrow.columns[1].type_modifier = 9;
    let mut lane = db.lane().await;
    apply(&mut lane, 1, vec![insert(&Arc::new(narrow), &["1", "abcde", "1", "g"])]).await.unwrap();
}

#[tokio::test]
async fn a_view_or_a_foreign_generated_column() {
    let db = Db::new("CREATE TABLE real (id int PRIMARY KEY); CREATE VIEW t AS TABLE real").await;
    let error = with_schema(&db, |_| (), &["1"]).await;
    assert_halts(&error, "not a table on green");
    if crate::support::major() >= 12 {
        db.exec("DROP VIEW t; CREATE TABLE t (id int, g int GENERATED ALWAYS AS (id) STORED)")
            .await;
        let add = |t: &mut TableSchema| {
            let mut g = t.columns[0].clone();
            g.name = "g".to_owned();
            t.columns.push(g);
        };
        assert_halts(&with_schema(&db, add, &["1", "1"]).await, "generated on green");
    }
}

#[tokio::test]
async fn a_table_altered_on_green_is_read_again() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    apply(&mut lane, 1, vec![insert(&t, &["1", "x"])]).await.unwrap();
    db.exec("ALTER TABLE t RENAME a TO b").await;
    let error = apply(&mut lane, 2, vec![insert(&t, &["2", "secret"])]).await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Retry, "{error}");
    let pid = lane.backend_pid();
    drop(lane);
    db.gone(pid).await;
    let mut lane = db.lane().await;
    let error = apply(&mut lane, 2, vec![insert(&t, &["2", "secret"])]).await.unwrap_err();
    assert_halts(&error, "that green lacks");
    assert_eq!(db.rows("SELECT count(*) FROM t").await, ["1"]);
}

#[tokio::test]
async fn transactions_out_of_order() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    apply(&mut lane, 5, vec![insert(&t, &["1"])]).await.unwrap();
    let again = apply(&mut lane, 5, vec![insert(&t, &["2"])]).await.unwrap_err();
    assert_halts(&again, "came again, or behind a later one");
    let pid = lane.backend_pid();
    drop(lane);
    db.gone(pid).await;
    let mut lane = db.lane().await;
    let again = apply(&mut lane, 5, vec![insert(&t, &["2"])]).await.unwrap_err();
    // The COMMIT of an earlier life: the next one knows of it.
    assert_eq!(again.disposition, Disposition::Retry, "{again}");
    assert!(again.message.contains("green has it already"), "{again}");
    for wrong in [
        vec![part(7, Part::Middle, vec![])],
        vec![part(7, Part::First, vec![]), part(8, Part::Last, vec![])],
        vec![part(7, Part::First, vec![]), tx(8, vec![])],
    ] {
        let pid = lane.backend_pid();
        drop(lane);
        db.gone(pid).await;
        lane = db.lane().await;
        let error = lane.apply(&wrong).await.unwrap_err();
        assert_halts(&error, "wrong order");
    }
}

#[tokio::test]
async fn another_stream_of_the_same_name() {
    let db = Db::new("").await;
    db.target().await;
    let mut other = options(&db);
    other.stream.consistent_point = decoders::change::Lsn(0x200);
    let error = PgTarget::open(db.green.clone(), other.clone()).await.err().unwrap();
    assert_halts(&error, "0/100");
    assert!(error.message.contains("0/200"), "both are shown: {error}");
    // Once the old one is removed, the new one may come.
    db.target().await.remove().await.unwrap();
    assert_eq!(db.rows("SELECT to_regnamespace('_cutover')").await, ["~"]);
    PgTarget::open(db.green.clone(), other).await.unwrap();
}

#[tokio::test]
async fn a_second_writer() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let target = db.target().await;
    let lane = target.open_lane(LaneId(0)).await.unwrap();
    let error = target.open_lane(LaneId(0)).await.err().unwrap();
    assert_eq!(error.disposition, Disposition::Retry, "{error}");
    let pid = lane.backend_pid();
    assert!(error.message.contains(&format!("pid {pid}")), "{error}");
    drop(lane);
    db.gone(pid).await;
    // Progress that moved by other means: nothing is committed over it.
    let t = db.table("t", Identity::Default).await;
    let mut lane = target.open_lane(LaneId(0)).await.unwrap();
    db.exec("UPDATE _cutover.progress SET end_lsn = '9/9'").await;
    let error = apply(&mut lane, 1, vec![insert(&t, &["1"])]).await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Retry, "{error}");
    assert_eq!(db.rows("SELECT count(*) FROM t").await, ["0"]);
}
