//! Real transactions: from one database through the decoder and the lane to another.

use decoders::change::Position;
use decoders::postgres::stream::{PgStream, StreamOptions};
use decoders::{Source as _, SourceEvent};
use sinks::Lane as _;

use crate::support::{Db, major};

const DDL: &str = "
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE keyed (id bigint PRIMARY KEY, n int UNIQUE, big text, m mood, j jsonb, at timestamptz,
                    f float8, items int[], money money);
CREATE TABLE always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, k text UNIQUE);
CREATE TABLE beside (k text PRIMARY KEY, id int GENERATED ALWAYS AS IDENTITY, big text);
CREATE TABLE loose (n numeric, x json, p point); ALTER TABLE loose REPLICA IDENTITY FULL;
CREATE TABLE wide_full (id int PRIMARY KEY, big text); ALTER TABLE wide_full REPLICA IDENTITY FULL;
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE);
CREATE TABLE empty (); ALTER TABLE empty REPLICA IDENTITY FULL;
";

const TABLES: [&str; 8] =
    ["keyed", "always", "beside", "loose", "wide_full", "parent", "child", "empty"];

/// Each line is one transaction.
const WORK: &str = "
INSERT INTO keyed SELECT i, i, repeat(md5(i::text), 400), 'ok', '{\"a\": 1.0}', 'infinity', -0.0, ARRAY[i, NULL], 1234.5 FROM generate_series(1, 200) i;
UPDATE keyed SET n = -n WHERE id % 2 = 0; UPDATE keyed SET m = 'sad', f = 'NaN', at = '0044-03-15 BC';
UPDATE keyed SET id = id + 1000 WHERE id <= 20; UPDATE keyed SET big = NULL WHERE id > 190; DELETE FROM keyed WHERE id BETWEEN 50 AND 60;
INSERT INTO always (k) SELECT 'k' || i FROM generate_series(1, 20) i; UPDATE always SET k = k || 'x'; UPDATE always SET id = DEFAULT WHERE id = 3;
INSERT INTO beside (k, big) SELECT i, repeat(md5(i::text), 400) FROM generate_series(1, 5) i; UPDATE beside SET k = k || 'x'; UPDATE beside SET id = DEFAULT WHERE k = '2x';
INSERT INTO loose VALUES (1.0, '{}', '(1,2)'), (1.00, '{}', '(1,2)'), (1.0, '{}', '(1,2)'), (NULL, NULL, NULL), (NULL, NULL, NULL);
DELETE FROM loose WHERE ctid = (SELECT ctid FROM loose WHERE n::text = '1.00'); UPDATE loose SET n = 7 WHERE ctid = (SELECT ctid FROM loose WHERE n IS NULL LIMIT 1); UPDATE loose SET x = NULL WHERE ctid = (SELECT ctid FROM loose WHERE n = 1 LIMIT 1);
INSERT INTO wide_full VALUES (1, repeat(md5('1'), 400)), (2, 'b'); UPDATE wide_full SET id = id + 10; DELETE FROM wide_full WHERE id = 12;
INSERT INTO parent SELECT generate_series(1, 9); INSERT INTO child SELECT i, i FROM generate_series(1, 9) i; DELETE FROM parent WHERE id > 5; 
TRUNCATE parent CASCADE; INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1, 1);
INSERT INTO empty DEFAULT VALUES; INSERT INTO empty DEFAULT VALUES; DELETE FROM empty WHERE ctid = '(0,1)';
";

#[tokio::test]
async fn a_real_stream_makes_a_copy() {
    // TRUNCATE is published since 11.
    if major() < 11 {
        return;
    }
    let (blue, green) = (Db::new(DDL).await, Db::new(DDL).await);
    let slot = format!("slot_{}", blue.name);
    blue.exec(&format!("CREATE PUBLICATION p FOR TABLE {}", TABLES.join(", "))).await;
    blue.exec(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    for line in WORK.lines() {
        blue.exec(line).await;
    }
    let end: String = blue.rows("SELECT pg_current_wal_flush_lsn()").await.remove(0);
    let end = Position::Lsn(end.parse().unwrap());
    let options = StreamOptions::new(&slot, vec!["p".to_owned()], "test stream");
    let mut stream = PgStream::open(&blue.green, options).await.unwrap();
    let mut lane = green.lane().await;
    let mut transactions = 0;
    loop {
        match stream.next().await.unwrap() {
            SourceEvent::Transaction(transaction) => {
                transactions += lane.apply(&[transaction]).await.unwrap().transactions;
            }
            SourceEvent::Idle(position) if position.covers(&end) => break,
            SourceEvent::Idle(_) | SourceEvent::Handover => {}
        }
    }
    assert!(transactions >= 11, "{transactions}");
    for table in TABLES {
        let all = format!(
            "SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text COLLATE \"C\")) FROM {table} t"
        );
        assert_eq!(green.rows(&all).await, blue.rows(&all).await, "{table}");
    }
    stream.close().await.unwrap();
    blue.exec(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
}
