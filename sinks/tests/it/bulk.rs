//! COPY and sequences.

use bytes::Bytes;
use decoders::change::QualifiedName;
use decoders::source::Disposition;
use sinks::postgres::copy::{CopyOptions, copy_in};
use sinks::postgres::sequences::{self, SequenceValue};
use sinks::{Lane as _, LaneId, NullTarget, Target as _};

use crate::support::{Db, end, tx};

fn columns(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn copy_text_in_any_pieces() {
    let db =
        Db::new("CREATE TABLE \"T\" (id int GENERATED ALWAYS AS IDENTITY, \"a b\" text)").await;
    let session = db.target().await.session("copy").await.unwrap();
    let table = QualifiedName::new("public", "T");
    let options = CopyOptions::default();
    let mut copy = copy_in(&session, &table, &columns(&["id", "a b"]), options).await.unwrap();
    for piece in ["7\to", "ne\n8\t\\N", "\n9\tthree\n"] {
        copy.send(Bytes::from_static(piece.as_bytes())).await.unwrap();
    }
    assert_eq!(copy.finish().await.unwrap(), 3);
    assert_eq!(db.rows("SELECT * FROM \"T\" ORDER BY 1").await, ["7|one", "8|~", "9|three"]);
}

#[tokio::test]
async fn copy_binary_frozen_where_possible() {
    let db = Db::new("CREATE TABLE t (a int4); CREATE TABLE source AS SELECT 42::int4 AS a").await;
    let session = db.target().await.session("copy").await.unwrap();
    let mut data = Vec::new();
    data.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    data.extend_from_slice(&[0, 1, 0, 0, 0, 4, 0, 0, 0, 42, 0xff, 0xff]);
    let table = QualifiedName::new("public", "t");
    let options = CopyOptions { binary: true, freeze: true };
    for frozen in [true, false] {
        let mut copy = copy_in(&session, &table, &columns(&["a"]), options).await.unwrap();
        // The second time there are rows: they must stay.
        assert_eq!(copy.frozen(), frozen);
        copy.send(Bytes::from(data.clone())).await.unwrap();
        assert_eq!(copy.finish().await.unwrap(), 1);
    }
    assert_eq!(db.rows("SELECT a FROM t").await, ["42", "42"]);
}

#[tokio::test]
async fn copy_that_fails_or_is_dropped_keeps_nothing() {
    let db = Db::new("CREATE TABLE t (a int)").await;
    let session = db.target().await.session("copy").await.unwrap();
    let table = QualifiedName::new("public", "t");
    let options = CopyOptions::default();
    let mut copy = copy_in(&session, &table, &columns(&["a"]), options).await.unwrap();
    copy.send(Bytes::from_static(b"1\nsecret\n")).await.unwrap();
    let error = copy.finish().await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Halt);
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    let mut copy = copy_in(&session, &table, &columns(&["a"]), options).await.unwrap();
    copy.send(Bytes::from_static(b"1\n")).await.unwrap();
    drop(copy);
    session.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(db.rows("SELECT count(*) FROM t").await, ["0"]);
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
