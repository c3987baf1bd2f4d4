//! What arrives, and in which order.

use decoders::postgres::stream::{Binary, PgStream};
use decoders::{ChangeEvent, OldRow, Part, ReplicaIdentity, Source, Value};
use tests::postgres::Postgres;

use crate::stage::{DEADLINE, Stage, drain, table, texts, transaction};

async fn changes_arrive_in_commit_order(major: u32) {
    let stage = Stage::new(major).await;
    stage
        .sql(
            "CREATE TABLE account (id int PRIMARY KEY, owner text, note text);
             ALTER TABLE account ALTER COLUMN note SET STORAGE EXTERNAL;
             CREATE TABLE entry (id int, amount numeric);
             ALTER TABLE entry REPLICA IDENTITY FULL",
        )
        .await;
    stage.publish(&[table("account"), table("entry")]).await;
    stage.slot().await;
    let mut options = stage.options();
    options.binary = Binary::Off;
    let mut stream = PgStream::open(&stage.info, options).await.unwrap();

    // The first to begin is the last to commit.
    let slow = stage.server.connect("postgres").await.unwrap();
    slow.batch_execute("BEGIN; INSERT INTO account VALUES (1, 'Ada', repeat('x', 9000))")
        .await
        .unwrap();
    stage.sql("INSERT INTO entry VALUES (1, 'NaN'), (1, NULL)").await;
    slow.batch_execute("COMMIT").await.unwrap();
    stage
        .sql(
            "BEGIN;
             UPDATE account SET owner = 'Bea';
             UPDATE account SET id = 2;
             DELETE FROM entry WHERE amount IS NULL;
             DELETE FROM account;
             COMMIT",
        )
        .await;

    let first = transaction(&mut stream).await;
    assert_eq!(first.part, Part::Whole);
    let [ChangeEvent::Insert { table: entry, new }, ChangeEvent::Insert { new: second, .. }] =
        &first.changes[..]
    else {
        panic!("{first:?}")
    };
    assert_eq!(entry.identity, ReplicaIdentity::Full);
    assert_eq!((texts(new), texts(second)), (words("1 NaN"), words("1 ~")));

    let second = transaction(&mut stream).await;
    assert!(second.commit_lsn >= first.end_lsn.unwrap());
    let [ChangeEvent::Insert { table: account, new }] = &second.changes[..] else {
        panic!("{second:?}")
    };
    assert_eq!((account.name.name.as_str(), account.columns.len()), ("account", 3));
    assert_eq!(account.key_positions().collect::<Vec<_>>(), [0]);
    assert_eq!(texts(new)[2].len(), 9_000);

    let third = transaction(&mut stream).await;
    let [
        ChangeEvent::Update { old: None, new: renamed, .. },
        ChangeEvent::Update { old: Some(OldRow::Key(key)), new: moved, .. },
        ChangeEvent::Delete { old: OldRow::Full(entry), .. },
        ChangeEvent::Delete { old: OldRow::Key(gone), .. },
    ] = &third.changes[..]
    else {
        panic!("{third:?}")
    };
    assert_eq!(texts(renamed), words("1 Bea *"));
    assert_eq!((texts(key), texts(moved)), (words("1 ~ ~"), words("2 Bea *")));
    assert_eq!((texts(entry), texts(gone)), (words("1 ~"), words("2 ~ ~")));
    stream.close().await.unwrap();
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[tokio::test]
async fn changes_arrive_in_commit_order_10() {
    changes_arrive_in_commit_order(10).await;
}

#[tokio::test]
async fn changes_arrive_in_commit_order_15() {
    changes_arrive_in_commit_order(15).await;
}

#[tokio::test]
async fn changes_arrive_in_commit_order_18() {
    changes_arrive_in_commit_order(18).await;
}

#[tokio::test]
async fn messages_and_binary_where_the_server_has_them() {
    let stage = Stage::new(15).await;
    stage.sql("CREATE TABLE t (id int PRIMARY KEY, v text, at timestamptz)").await;
    stage.publish(&[table("t")]).await;
    stage.slot().await;
    let mut stream = stage.stream().await;
    assert!(stream.is_binary());
    stage
        .sql(
            "BEGIN; INSERT INTO t VALUES (258, 'x', '2000-01-01 00:00:00.000001+00');
             SELECT pg_logical_emit_message(true, 'cutover.marker', 'here'); COMMIT;
             SELECT pg_logical_emit_message(false, 'cutover.marker', 'not here')",
        )
        .await;
    let got = transaction(&mut stream).await;
    let [ChangeEvent::Insert { new, .. }, ChangeEvent::Message { prefix, content }] =
        &got.changes[..]
    else {
        panic!("{got:?}")
    };
    let values: Vec<_> = new.cells().filter_map(|cell| cell.value()).collect();
    let binary = |bytes: &'static [u8]| Value::Binary(bytes);
    let at = binary(&[0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(values, [binary(&[0, 0, 1, 2]), binary(b"x"), at]);
    assert_eq!((prefix.as_str(), &content[..]), ("cutover.marker", &b"here"[..]));
    assert!(drain(&mut stream, stage.head().await).await.is_empty());
}

#[tokio::test]
async fn one_unsafe_column_turns_binary_off_and_a_later_one_stops_the_stream() {
    let stage = Stage::new(15).await;
    stage.sql("CREATE TABLE t (id int PRIMARY KEY)").await;
    // Its binary form is an OID, which means another thing on another server.
    stage.sql("CREATE TABLE u (id int PRIMARY KEY, m regclass)").await;
    stage.publish(&[table("t"), table("u")]).await;
    stage.slot().await;
    let stream = stage.stream().await;
    assert!(!stream.is_binary());
    stream.close().await.unwrap();

    stage.sql("ALTER TABLE u DROP COLUMN m").await;
    let mut stream = stage.stream().await;
    assert!(stream.is_binary());
    stage.sql("ALTER TABLE t ADD COLUMN m regclass; INSERT INTO t VALUES (1, 't')").await;
    let error = loop {
        match tokio::time::timeout(DEADLINE, stream.next()).await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(error.message.contains("chosen binary values"), "{error}");
    assert!(stream.next().await.is_err(), "a failed stream stays failed");
}

#[tokio::test]
async fn a_large_transaction_comes_in_parts() {
    let stage = Stage::new(15).await;
    stage.sql("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    stage.publish(&[table("t")]).await;
    stage.slot().await;
    let mut options = stage.options();
    options.part_bytes = 256 << 10;
    let mut stream = PgStream::open(&stage.info, options).await.unwrap();
    stage.sql("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i").await;
    let mut parts = vec![transaction(&mut stream).await];
    while !parts[parts.len() - 1].part.ends() {
        parts.push(transaction(&mut stream).await);
    }
    assert!(parts.len() > 10);
    assert_eq!(parts[0].part, Part::First);
    let middle = &parts[1..parts.len() - 1];
    assert!(middle.iter().all(|part| part.part == Part::Middle && part.end_lsn.is_none()));
    assert!(parts.iter().all(|part| part.bytes < (256 << 10) + 1_000));
    assert_eq!(parts.iter().map(|part| part.changes.len()).sum::<usize>(), 20_000);
    assert!(parts[parts.len() - 1].end_lsn.is_some());
}

#[tokio::test]
async fn a_truncate_arrives_as_one() {
    let server = Postgres::start_major(18).unwrap();
    let stage = Stage::on(server).await;
    stage
        .sql(
            "CREATE TABLE a (id int PRIMARY KEY);
             CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a)",
        )
        .await;
    stage.publish(&[table("a"), table("b")]).await;
    stage.slot().await;
    let mut stream = stage.stream().await;
    stage.sql("TRUNCATE a RESTART IDENTITY CASCADE").await;
    let got = transaction(&mut stream).await;
    let [ChangeEvent::Truncate { tables, cascade: true, restart_identity: true }] =
        &got.changes[..]
    else {
        panic!("{got:?}")
    };
    let names: Vec<_> = tables.iter().map(|table| table.name.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
}
