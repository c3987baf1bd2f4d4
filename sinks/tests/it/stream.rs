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

/// Types whose OIDs differ from database to database, and values that carry them inside.
const MADE: &str = "
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE pair AS (m mood, ms mood[], n int);
CREATE TYPE nested AS (p pair, ps pair[]);
CREATE DOMAIN small AS int CHECK (VALUE < 100);
CREATE DOMAIN moods AS mood[];
CREATE TABLE made (id int PRIMARY KEY, m mood, ms mood[], p pair, ps pair[], s small, ss small[],
                   dm moods, n nested, ns nested[]);
CREATE TABLE keyed_by (k mood[] PRIMARY KEY, p pair);
";

const MADE_WORK: &str = "
INSERT INTO made SELECT i, 'ok', '{sad,NULL,ok}', ('ok', '{sad}', i)::pair, ARRAY[('sad', NULL, 1)::pair, NULL], i % 100, '{1,2}', '{ok}', (('sad', '{}', NULL)::pair, ARRAY[('ok', '{ok,sad}', 2)::pair])::nested, ARRAY[(NULL, NULL)::nested] FROM generate_series(1, 300) i;
INSERT INTO keyed_by SELECT array_fill('ok'::mood, ARRAY[i]), ('sad', '{}', i)::pair FROM generate_series(1, 5) i;
UPDATE made SET ms = ms || 'sad'::mood, ps = NULL, n = ((NULL, '{sad}', 3), NULL) WHERE id % 2 = 0; UPDATE made SET m = 'sad', ss = '{}' WHERE id % 3 = 0;
UPDATE keyed_by SET k = k || 'sad'::mood WHERE (p).n > 2; DELETE FROM keyed_by WHERE (p).n = 1; DELETE FROM made WHERE id > 290;
INSERT INTO made VALUES (1000, 'ok', '{{sad,ok},{ok,sad}}', NULL, NULL, 1, '{3}', NULL, NULL, NULL);
";

#[tokio::test]
async fn a_real_stream_makes_a_copy() {
    // TRUNCATE is published since 11.
    if major() < 11 {
        return;
    }
    let (blue, green) = (Db::new(DDL).await, Db::new(DDL).await);
    let binary = copied(&blue, &green, WORK, &TABLES).await;
    assert!(!binary || major() >= 14);
}

#[tokio::test]
async fn values_with_oids_of_user_defined_types_travel_in_binary() {
    // Arrays of domains came with 11.
    if major() < 11 {
        return;
    }
    let (blue, green) = (Db::new(MADE).await, Db::new(MADE).await);
    let binary = copied(&blue, &green, MADE_WORK, &["made", "keyed_by"]).await;
    assert_eq!(binary, major() >= 14);
}

/// Does the work on blue, a transaction a line, and streams it to green. Whether values travelled in
/// binary.
async fn copied(blue: &Db, green: &Db, work: &str, tables: &[&str]) -> bool {
    let slot = format!("slot_{}", blue.name);
    blue.exec(&format!("CREATE PUBLICATION p FOR TABLE {}", tables.join(", "))).await;
    blue.exec(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    let lines: Vec<&str> = work.lines().filter(|line| !line.is_empty()).collect();
    for line in &lines {
        blue.exec(line).await;
    }
    let end: String = blue.rows("SELECT pg_current_wal_flush_lsn()").await.remove(0);
    let end = Position::Lsn(end.parse().unwrap());
    let options = StreamOptions::new(&slot, vec!["p".to_owned()], "test stream");
    let mut stream = PgStream::open(&blue.green, options).await.unwrap();
    let binary = stream.is_binary();
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
    assert!(transactions >= lines.len() as u64, "{transactions}");
    for table in tables {
        let all = format!(
            "SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text COLLATE \"C\")) FROM {table} t"
        );
        assert_eq!(green.rows(&all).await, blue.rows(&all).await, "{table}");
    }
    stream.close().await.unwrap();
    blue.exec(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    binary
}
