//! What comes before and after the rows of a copy.

use decoders::change::QualifiedName;
use decoders::source::Disposition;
use sinks::postgres::copy::begin_frozen;
use sinks::postgres::sequences::{self, SequenceValue};
use sinks::{Lane as _, LaneId, NullTarget, Target as _};

use crate::support::{Db, end, tx};

#[tokio::test]
async fn only_an_empty_table_of_its_own_is_written_frozen() {
    let db = Db::new(
        "CREATE TABLE t (a int); CREATE TABLE parent (a int PRIMARY KEY);
         CREATE TABLE child (a int REFERENCES parent); CREATE TABLE heir () INHERITS (t);
         CREATE TABLE parted (a int) PARTITION BY LIST (a); CREATE TABLE alone (a int)",
    )
    .await;
    let session = db.target().await.session("copy").await.unwrap();
    for (name, frozen) in
        [("alone", true), ("t", false), ("parent", false), ("parted", false), ("heir", true)]
    {
        let table = QualifiedName::new("public", name);
        assert_eq!(begin_frozen(&session, &table).await.unwrap(), frozen, "{name}");
        if frozen {
            // Refused where the transaction did not truncate the table.
            let copy = format!("COPY {table} FROM PROGRAM 'echo 42' (FREEZE)");
            session.batch_execute(&copy).await.unwrap();
            session.batch_execute("COMMIT").await.unwrap();
            // The second time there are rows: they must stay.
            assert!(!begin_frozen(&session, &table).await.unwrap(), "{name}");
            assert_eq!(db.rows(&format!("SELECT a FROM {name}")).await, ["42"]);
        }
        // No transaction was left open: its lock would be there.
        let locked = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
                      WHERE datname = current_database() AND mode = 'AccessExclusiveLock'";
        assert_eq!(db.rows(locked).await, ["0"], "{name}");
    }
}

#[tokio::test]
async fn sequences_of_every_kind() {
    let db = Db::new(
        "CREATE SCHEMA \"S q\"; CREATE SEQUENCE \"S q\".\"A\";
         CREATE TABLE t (id serial, n bigint GENERATED ALWAYS AS IDENTITY);
         CREATE SEQUENCE down INCREMENT -1 MINVALUE -100 MAXVALUE -1",
    )
    .await;
    let value = |schema: &str, name: &str, last_value, is_called| SequenceValue {
        name: QualifiedName::new(schema, name),
        last_value,
        is_called,
    };
    let values = [
        value("S q", "A", 17, true),
        value("public", "t_id_seq", 5, false),
        value("public", "t_n_seq", 1 << 40, true),
        value("public", "down", -7, true),
    ];
    sequences::set(&db.sql, &values).await.unwrap();
    let names: Vec<QualifiedName> = values.iter().map(|value| value.name.clone()).collect();
    assert_eq!(sequences::read(&db.sql, &names).await.unwrap(), values);
    assert_eq!(db.rows("SELECT nextval('\"S q\".\"A\"'), nextval('t_id_seq')").await, ["18|5"]);
    sequences::set(&db.sql, &[]).await.unwrap();
    assert!(sequences::read(&db.sql, &[]).await.unwrap().is_empty());
    let error = sequences::set(&db.sql, &[value("public", "no", 1, true)]).await.unwrap_err();
    assert!(error.message.contains("no"), "{error}");
    let error = sequences::set(&db.sql, &[value("public", "down", 7, true)]).await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Halt, "{error}");
}

#[tokio::test]
async fn the_null_target_counts() {
    let target = NullTarget::default();
    let mut lane = target.open_lane(LaneId(3)).await.unwrap();
    let applied = lane.apply(&[tx(1, vec![]), tx(2, vec![])]).await.unwrap();
    assert_eq!((applied.end_lsn, applied.transactions), (Some(end(2)), 2));
    assert_eq!(target.transactions(), 2);
    assert_eq!(target.progress().await.unwrap().through, None);
}
