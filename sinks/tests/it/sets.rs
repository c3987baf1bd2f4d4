//! Many changes in one call: written as their net change, with statements for many rows.

use std::sync::Arc;

use decoders::change::{
    Cell, ChangeEvent, OldRow, Part, ReplicaIdentity as Identity, Row, TableSchema,
};
use decoders::source::Disposition;
use futures_util::TryStreamExt as _;
use sinks::postgres::{PgLane, PgTarget, PgTargetOptions, Ways};
use sinks::{Lane as _, LaneId, Target as _};

use crate::support::{
    Db, apply, delete, end, insert, lane_of, major, options, part, tx, until, update, update_from,
};

fn text(n: usize) -> String {
    n.to_string()
}

fn whole(as_a_whole: u64) -> Ways {
    Ways { as_a_whole, ..Ways::default() }
}

/// The rows of a query as a stream would bring them.
async fn fetch(db: &Db, query: &str, binary: bool) -> Vec<Row> {
    if !binary {
        let messages = db.sql.simple_query(query).await.expect("query");
        let rows = messages.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        return rows
            .map(|row| {
                let values = (0..row.len()).map(|at| row.get(at));
                values.map(|value| value.map_or(Cell::NULL, Cell::text)).collect()
            })
            .collect();
    }
    let copy = format!("COPY ({query}) TO STDOUT (FORMAT binary)");
    let stream = db.sql.copy_out(&copy).await.expect("copy");
    let pieces: Vec<bytes::Bytes> = stream.try_collect().await.expect("copy");
    let data = pieces.concat();
    let mut rest = &data[19..];
    let mut take = |length: usize| {
        let (head, tail) = rest.split_at(length);
        rest = tail;
        head
    };
    let mut rows = Vec::new();
    loop {
        let fields = i16::from_be_bytes(take(2).try_into().expect("two bytes"));
        if fields < 0 {
            return rows;
        }
        let mut cells = Vec::new();
        for _ in 0..fields {
            let length = i32::from_be_bytes(take(4).try_into().expect("four bytes"));
            cells.push(match usize::try_from(length) {
                Ok(length) => Cell::binary(take(length)),
                Err(_) => Cell::NULL,
            });
        }
        rows.push(cells.into_iter().collect());
    }
}

/// Columns whose values arrays can hold.
const PLAIN: &str = "
  id bigint PRIMARY KEY, i2 smallint, i4 int, n numeric, n2 numeric(10,3), f4 real, f8 float8,
  m money, b bool, t text, v varchar(9), c char(9), ch \"char\", na name, by bytea, d date,
  tm time(2), tz timetz, ts timestamp(3), tsz timestamptz, iv interval,
  ivf interval day to second(2), u uuid, ip inet, ci cidr, ma macaddr, bi bit(5), vb varbit(9),
  js json, jb jsonb, x xml, po point, bo box, ls lseg, pa path, ir int4range, tv tsvector,
  tq tsquery, o oid, lsn pg_lsn, mo app.mood, p app.positive";

const PLAIN_VALUES: &str = "
  g, g, -g, g * 1.10, g * 1.25, g / 3.0, CASE g % 4 WHEN 0 THEN 'NaN' WHEN 1 THEN '-0' ELSE g::float8 END,
  g * 100.01, g % 2 = 0, CASE g % 6 WHEN 0 THEN '' WHEN 1 THEN 'NULL' WHEN 2 THEN E'\\\\N \"x\"\\n,{}'
  WHEN 3 THEN NULL ELSE 'äß ' || g END, left('v' || g, 9), CASE g % 3 WHEN 0 THEN '' ELSE 'c' || g END,
  chr(65 + g % 20)::\"char\", 'n' || g, decode(lpad(to_hex(g), 8, '0'), 'hex'),
  CASE g % 5 WHEN 0 THEN date 'infinity' ELSE date '0044-03-15 BC' + g END, time '10:11:12.125' , '10:11:12+02',
  timestamp '2020-01-01 00:00:00.0015' + g * interval '1 day', '2020-01-01 UTC', '1 mon -2 days 3 s',
  interval '2 days 03:04:05.678', lpad(g::text, 32, '0')::uuid, '10.0.0.0/8', '10.0.0.0/8',
  '08:00:2b:01:02:03', g::bit(5), '0101', '{\"a\":  1}', '{\"b\": [1.0, null]}', '<a>é</a>', '(1,2.5)',
  '(1,1),(0,0)', '[(0,0),(1,1)]', '((0,0),(1,1))', int4range(g, g + 5), 'a:1 b''s:2', 'a & !b', g, '0/1A',
  CASE g % 2 WHEN 0 THEN 'sad' ELSE 'so so' END::app.mood, CASE WHEN g % 7 > 0 THEN g END";

/// Columns that must be written one by one, except by COPY.
const NESTED: &str = "
  id int PRIMARY KEY, a int[], ta text[], aa int[][], pr app.pair, prs app.pair[], ms app.mood[],
  iv int2vector, dp app.list";

const NESTED_VALUES: &str = "
  g, ARRAY[g, NULL], ARRAY['a,b', '\"q\"', NULL, ''], '{{1,2},{3,4}}', row(g, 'x \"y\"')::app.pair,
  ARRAY[row(1, NULL)::app.pair], '{sad,\"so so\"}', '1 2', ARRAY[g]";

const TYPES: &str = "
  CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('sad', 'so so');
  CREATE DOMAIN app.positive AS int CHECK (VALUE > 0); CREATE TYPE app.pair AS (a int, b text);
  CREATE DOMAIN app.list AS int[]";

struct Copied<'a> {
    db: &'a Db,
    lane: PgLane,
    table: Arc<TableSchema>,
    binary: bool,
    n: u64,
}

impl Copied<'_> {
    /// One call, as a whole.
    async fn apply(&mut self, changes: Vec<ChangeEvent>) {
        self.n += 1;
        let before = self.lane.ways();
        apply(&mut self.lane, self.n, changes).await.unwrap();
        let after = Ways { as_a_whole: before.as_a_whole + 1, ..before };
        assert_eq!(self.lane.ways(), after);
        let query = |table| format!("SELECT * FROM {table} ORDER BY id");
        let (wanted, written) =
            (self.db.rows(&query("blue")).await, self.db.rows(&query("green")).await);
        assert_eq!(written, wanted);
    }

    async fn blue(&self, condition: &str) -> Vec<Row> {
        let query = format!("SELECT * FROM blue WHERE {condition} ORDER BY id");
        fetch(self.db, &query, self.binary).await
    }

    fn inserts(&self, rows: Vec<Row>) -> Vec<ChangeEvent> {
        rows.into_iter().map(|new| ChangeEvent::Insert { table: self.table.clone(), new }).collect()
    }

    fn updates(&self, rows: Vec<Row>) -> Vec<ChangeEvent> {
        let update = |new| ChangeEvent::Update { table: self.table.clone(), old: None, new };
        rows.into_iter().map(update).collect()
    }
}

/// What is written is what blue has: COPY, small inserts, updates with and without a new key,
/// deletes.
async fn same_as_blue(columns: &str, values: &str, binary: bool) {
    let db = Db::new(&format!(
        "{TYPES}; CREATE TABLE blue ({columns}); CREATE TABLE green ({columns});
         INSERT INTO blue SELECT {values} FROM generate_series(1, 100) g"
    ))
    .await;
    let table = db.table("green", Identity::Default).await;
    let mut it = Copied { db: &db, lane: db.lane().await, table, binary, n: 0 };
    let changes = it.inserts(it.blue("true").await);
    it.apply(changes).await;
    db.exec(&format!("INSERT INTO blue SELECT {values} FROM generate_series(101, 130) g")).await;
    let changes = it.inserts(it.blue("id > 100").await);
    it.apply(changes).await;
    // Every row takes another row's values.
    db.exec(&format!(
        "UPDATE blue SET id = id + 10000; INSERT INTO blue SELECT {values} FROM
           generate_series(1001, 1130) g;
         UPDATE blue SET id = id - 1000 WHERE id < 10000; DELETE FROM blue WHERE id > 10000"
    ))
    .await;
    let changes = it.updates(it.blue("true").await);
    it.apply(changes).await;
    // Half of the keys change.
    let old = it.blue("id % 2 = 0").await;
    db.exec("UPDATE blue SET id = id + 5000 WHERE id % 2 = 0").await;
    let moved = old.into_iter().zip(it.blue("id > 5000").await);
    let moved = moved.map(|(old, new)| {
        let old = Some(OldRow::Key(old));
        ChangeEvent::Update { table: it.table.clone(), old, new }
    });
    let changes = moved.collect();
    it.apply(changes).await;
    let gone = it.blue("id % 3 = 0").await;
    db.exec("DELETE FROM blue WHERE id % 3 = 0").await;
    let table = it.table.clone();
    let delete = |old| ChangeEvent::Delete { table: table.clone(), old: OldRow::Key(old) };
    it.apply(gone.into_iter().map(delete).collect()).await;
}

#[tokio::test]
async fn every_type_as_text() {
    same_as_blue(PLAIN, PLAIN_VALUES, false).await;
}

#[tokio::test]
async fn every_type_as_binary() {
    same_as_blue(PLAIN, PLAIN_VALUES, true).await;
}

#[tokio::test]
async fn what_arrays_can_not_hold() {
    same_as_blue(NESTED, NESTED_VALUES, false).await;
    same_as_blue(NESTED, NESTED_VALUES, true).await;
}

#[tokio::test]
async fn few_changes_are_written_row_by_row() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    apply(&mut lane, 1, (0..15).map(|n| insert(&t, &[&text(n)])).collect()).await.unwrap();
    assert_eq!(lane.ways(), Ways { row_by_row: 1, ..Ways::default() });
    apply(&mut lane, 2, (15..31).map(|n| insert(&t, &[&text(n)])).collect()).await.unwrap();
    assert_eq!(lane.ways(), Ways { row_by_row: 1, as_a_whole: 1, ..Ways::default() });
    assert_eq!(db.rows("SELECT count(*), sum(id) FROM t").await, ["31|465"]);
}

/// Pairs of rows that exchange their unique values, by way of NULL.
fn swaps(t: &Arc<TableSchema>, rows: std::ops::Range<usize>) -> Vec<ChangeEvent> {
    let swap = |a: usize| {
        [
            update(t, &[&text(a), "~"]),
            update(t, &[&text(a + 1), &text(a)]),
            update(t, &[&text(a), &text(a + 1)]),
        ]
    };
    rows.step_by(2).flat_map(swap).collect()
}

const SWAPPED: &str = "SELECT count(*) FROM t WHERE u = id + 1 - 2 * (id % 2)";

#[tokio::test]
async fn unique_values_that_move_between_rows() {
    let db = Db::new(
        "CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE);
         INSERT INTO t SELECT n, n FROM generate_series(0, 39) n",
    )
    .await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    apply(&mut lane, 1, swaps(&t, 0..40)).await.unwrap();
    assert_eq!(db.rows(SWAPPED).await, ["40"]);
    assert_eq!(lane.ways(), Ways { as_a_whole: 0, row_by_row: 1, refused: 1 });
    // What comes next is tried again.
    apply(&mut lane, 2, (0..20).map(|n| update(&t, &[&text(n), "~"])).collect()).await.unwrap();
    assert_eq!(lane.ways(), Ways { as_a_whole: 1, row_by_row: 1, refused: 1 });
    assert_eq!(db.rows("SELECT count(*) FROM t WHERE u IS NULL").await, ["20"]);
}

#[tokio::test]
async fn a_part_that_is_refused_is_written_row_by_row_in_the_same_transaction() {
    let db = Db::new(
        "CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE);
         INSERT INTO t SELECT n, n FROM generate_series(0, 39) n",
    )
    .await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    let inserts =
        |from: usize| (from..from + 20).map(|n| insert(&t, &[&text(n), "~"])).collect::<Vec<_>>();
    for (kind, changes) in [
        (Part::First, inserts(100)),
        (Part::Middle, swaps(&t, 0..40)),
        (Part::Middle, inserts(200)),
        (Part::Last, inserts(300)),
    ] {
        lane.apply(&[part(1, kind, changes)]).await.unwrap();
    }
    assert_eq!(lane.committed(), Some(end(1)));
    assert_eq!(lane.ways(), Ways { as_a_whole: 3, row_by_row: 1, refused: 1 });
    assert_eq!(db.rows(SWAPPED).await, ["40"]);
    assert_eq!(db.rows("SELECT count(*) FROM t").await, ["100"]);
    // Nor does a first part that is refused leave anything behind.
    let back = (0..40).map(|n| update(&t, &[&text(n), "~"])).collect();
    apply(&mut lane, 2, back).await.unwrap();
    let set = (0..40).map(|n| update(&t, &[&text(n), &text(n)])).collect();
    apply(&mut lane, 3, set).await.unwrap();
    lane.apply(&[part(4, Part::First, swaps(&t, 0..40))]).await.unwrap();
    lane.apply(&[part(4, Part::Last, inserts(400))]).await.unwrap();
    assert_eq!(lane.ways().refused, 2);
    assert_eq!(db.rows(SWAPPED).await, ["40"]);
}

#[tokio::test]
async fn the_error_is_the_one_of_the_row() {
    let db = Db::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text CHECK (a <> 'secret'));
         INSERT INTO t SELECT n, 'x' FROM generate_series(1, 100) n",
    )
    .await;
    let t = db.table("t", Identity::Default).await;
    let rows = |wrong: ChangeEvent| {
        let some = |n: u64| {
            (1..=20).map(|id| update(&t, &[&text(id), &text(n as usize)])).collect::<Vec<_>>()
        };
        vec![tx(1, some(1)), tx(2, vec![wrong]), tx(3, some(3))]
    };
    let commit = rows(insert(&t, &["0", "x"]))[1].commit_lsn.to_string();
    for (wrong, expected) in [
        (update(&t, &["101", "y"]), "UPDATE on \"public\".\"t\" matched 0 rows"),
        (delete(&t, &["101", "~"]), "DELETE on \"public\".\"t\" matched 0 rows"),
        (insert(&t, &["100", "y"]), "INSERT on \"public\".\"t\" (blue's commit"),
        (insert(&t, &["101", "secret"]), "constraint \"t_a_check\""),
        (insert(&t, &["secret", "y"]), "22P02"),
    ] {
        let mut lane = db.lane().await;
        let error = lane.apply(&rows(wrong)).await.unwrap_err();
        assert_eq!(error.disposition, Disposition::Halt, "{error}");
        let message = &error.message;
        assert!(message.contains(expected) && message.contains(&commit), "{error}");
        assert!(!message.contains("secret"), "{error}");
        assert_eq!(lane.ways().refused, 1);
        let pid = lane.backend_pid();
        drop(lane);
        db.gone(pid).await;
        assert_eq!(db.rows("SELECT count(*), min(a), max(a) FROM t").await, ["100|x|x"]);
    }
}

#[tokio::test]
async fn what_commit_refuses_is_repeated_too() {
    let db = Db::new(
        "CREATE TABLE parent (id int PRIMARY KEY);
         CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent DEFERRABLE)",
    )
    .await;
    let (parent, child) =
        (db.table("parent", Identity::Default).await, db.table("child", Identity::Default).await);
    let mut lane = lane_of(&db, "whole", "").await;
    // Children first: the constraint is deferred.
    let mut changes: Vec<_> = (0..20).map(|n| insert(&child, &[&text(n), &text(n)])).collect();
    changes.extend((0..20).map(|n| insert(&parent, &[&text(n)])));
    apply(&mut lane, 1, changes).await.unwrap();
    assert_eq!(lane.ways(), whole(1));
    let orphans = (20..40).map(|n| insert(&child, &[&text(n), "77"])).collect();
    let error = apply(&mut lane, 2, orphans).await.unwrap_err();
    assert!(error.message.contains("committing") && error.message.contains("23503"), "{error}");
    assert_eq!(lane.ways().refused, 1);
    assert_eq!(db.rows("SELECT count(*) FROM child").await, ["20"]);
}

#[tokio::test]
async fn foreign_keys_that_are_checked_at_once() {
    let db = Db::new(
        "CREATE TABLE parent (id int PRIMARY KEY);
         CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent)",
    )
    .await;
    let (parent, child) =
        (db.table("parent", Identity::Default).await, db.table("child", Identity::Default).await);
    let mut lane = lane_of(&db, "parents", "").await;
    let family = |from: usize| {
        let parents = (from..from + 100).map(|n| insert(&parent, &[&text(n)]));
        let children = (from..from + 100).map(|n| insert(&child, &[&text(n), &text(n)]));
        parents.chain(children).collect::<Vec<_>>()
    };
    apply(&mut lane, 1, family(0)).await.unwrap();
    let mut changes = family(100);
    changes.extend((0..50).map(|n| delete(&child, &[&text(n), "~"])));
    changes.extend((0..50).map(|n| delete(&parent, &[&text(n)])));
    apply(&mut lane, 2, changes).await.unwrap();
    assert_eq!(lane.ways(), whole(2));
    let counts = "SELECT count(*), (SELECT count(*) FROM parent) FROM child";
    assert_eq!(db.rows(counts).await, ["150|150"]);
}

#[tokio::test]
async fn truncate_between_the_rows() {
    let db = Db::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text);
         INSERT INTO t SELECT n, 'old' FROM generate_series(1, 10) n",
    )
    .await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    let truncate = ChangeEvent::Truncate {
        tables: [t.clone()].into(),
        cascade: false,
        restart_identity: false,
    };
    let mut changes: Vec<_> = (1..=10).map(|n| update(&t, &[&text(n), "new"])).collect();
    changes.push(truncate);
    changes.extend((5..=100).map(|n| insert(&t, &[&text(n), "after"])));
    apply(&mut lane, 1, changes).await.unwrap();
    assert_eq!(lane.ways(), whole(1));
    assert_eq!(db.rows("SELECT count(*), min(id), min(a) FROM t").await, ["96|5|after"]);
}

#[tokio::test]
async fn rows_that_move_between_partitions() {
    if major() < 11 {
        return;
    }
    let db = Db::new(
        "CREATE TABLE t (id int, region text, n int, PRIMARY KEY (id, region))
           PARTITION BY LIST (region);
         CREATE TABLE east PARTITION OF t FOR VALUES IN ('e');
         CREATE TABLE west PARTITION OF t FOR VALUES IN ('w')",
    )
    .await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    let insert = |n| insert(&t, &[&text(n), if n % 2 == 0 { "e" } else { "w" }, "0"]);
    apply(&mut lane, 1, (0..100).map(insert).collect()).await.unwrap();
    let moved = |n| update_from(&t, &[&text(n), "e", "~"], &[&text(n), "w", "1"]);
    let mut changes: Vec<_> = (0..50).step_by(2).map(moved).collect();
    changes.extend((51..100).step_by(2).map(|n| update(&t, &[&text(n), "w", "2"])));
    changes.extend((60..100).step_by(2).map(|n| delete(&t, &[&text(n), "e", "~"])));
    apply(&mut lane, 2, changes).await.unwrap();
    assert_eq!(lane.ways(), whole(2));
    let query = "SELECT region, n, count(*) FROM t GROUP BY 1, 2 ORDER BY 1, 2";
    assert_eq!(db.rows(query).await, ["e|0|5", "w|0|25", "w|1|25", "w|2|25"]);
}

#[tokio::test]
async fn rows_without_a_key_are_copied_and_found_again() {
    let db = Db::new("CREATE TABLE t (n numeric, a text)").await;
    let t = db.table("t", Identity::Full).await;
    let mut lane = db.lane().await;
    apply(&mut lane, 1, (0..100).map(|n| insert(&t, &[&text(n % 10), "x"])).collect())
        .await
        .unwrap();
    let mut changes: Vec<_> = (0..10).map(|n| delete(&t, &[&text(n), "x"])).collect();
    changes.extend((0..10).map(|n| update_from(&t, &[&text(n), "x"], &[&text(n), "~"])));
    apply(&mut lane, 2, changes).await.unwrap();
    assert_eq!(lane.ways(), whole(2));
    assert_eq!(db.rows("SELECT count(*), count(a) FROM t").await, ["90|80"]);
}

#[tokio::test]
async fn identity_always_and_generated_columns() {
    let generated = if major() < 12 { "" } else { ", g int GENERATED ALWAYS AS (a * 2) STORED" };
    let db = Db::new(&format!(
        "CREATE TABLE k (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int{generated});
         CREATE TABLE o (k int PRIMARY KEY, id int GENERATED ALWAYS AS IDENTITY, a int{generated})"
    ))
    .await;
    let (k, o) = (db.table("k", Identity::Default).await, db.table("o", Identity::Default).await);
    let mut lane = db.lane().await;
    let mut changes: Vec<_> = (0..100).map(|n| insert(&k, &[&text(n), "1"])).collect();
    changes.extend((0..20).map(|n| insert(&o, &[&text(n), &text(n + 100), "1"])));
    apply(&mut lane, 1, changes).await.unwrap();
    let mut changes: Vec<_> = (0..50).map(|n| update(&k, &[&text(n), "2"])).collect();
    let moved = |n: usize| update_from(&k, &[&text(n), "~"], &[&text(n + 1000), "3"]);
    changes.extend((50..60).map(moved));
    changes.extend((0..10).map(|n| update(&o, &[&text(n), &text(n + 100), "2"])));
    changes.extend((10..20).map(|n| update(&o, &[&text(n), &text(n + 200), "3"])));
    apply(&mut lane, 2, changes).await.unwrap();
    assert_eq!(lane.ways(), whole(2));
    let query = "SELECT a, count(*), min(id), max(id) FROM {} GROUP BY a ORDER BY a";
    let rows = |table: &str| query.replace("{}", table);
    assert_eq!(db.rows(&rows("k")).await, ["1|40|60|99", "2|50|0|49", "3|10|1050|1059"]);
    assert_eq!(db.rows(&rows("o")).await, ["2|10|100|109", "3|10|210|219"]);
}

#[tokio::test]
async fn large_values_and_many_rows() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    let big = "x".repeat(300_000);
    let value = |n: usize| if n.is_multiple_of(1000) { big.as_str() } else { "small" };
    let rows = 20_000;
    apply(&mut lane, 1, (0..rows).map(|n| insert(&t, &[&text(n), value(n)])).collect())
        .await
        .unwrap();
    let other = |n: usize| update(&t, &[&text(n), value(n + 1)]);
    apply(&mut lane, 2, (0..rows).map(other).collect()).await.unwrap();
    assert_eq!(lane.ways(), whole(2));
    let query = "SELECT count(*), count(*) FILTER (WHERE length(a) = 300000), \
                 bool_and((length(a) > 5) = ((id + 1) % 1000 = 0)) FROM t";
    assert_eq!(db.rows(query).await, ["20000|20|t"]);
}

#[tokio::test]
async fn rows_are_looked_up_in_the_index() {
    // Small, never analyzed: a plan by cost would read the table.
    let db = Db::new(
        "CREATE TABLE t (id int PRIMARY KEY, a int) WITH (autovacuum_enabled = off);
         INSERT INTO t SELECT n, 0 FROM generate_series(1, 300) n",
    )
    .await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    for n in 1..=8 {
        let a = text(n);
        apply(&mut lane, n as u64, (1..=100).map(|id| update(&t, &[&text(id), &a])).collect())
            .await
            .unwrap();
    }
    apply(&mut lane, 9, (1..=100).map(|id| delete(&t, &[&text(id), "~"])).collect()).await.unwrap();
    assert_eq!(lane.ways(), whole(9));
    let pid = lane.backend_pid();
    drop(lane);
    db.gone(pid).await;
    // Building the index read an empty table.
    let scans = "SELECT idx_scan, seq_tup_read FROM pg_stat_user_tables WHERE relname = 't'";
    until("900 keys are looked up, and nothing else", || async {
        db.rows(scans).await == ["900|0"]
    })
    .await;
}

/// ATTACH PARTITION on blue in the middle of a batch, where changes are published as the root's.
#[tokio::test]
async fn rows_that_come_as_the_partitions_and_then_as_the_roots_keep_their_order() {
    let db = Db::new(
        "CREATE TABLE r (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
         CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (100);
         CREATE TABLE r2 (v text, id int PRIMARY KEY);
         CREATE TABLE other (id int PRIMARY KEY);
         INSERT INTO r SELECT n, 'old' FROM generate_series(0, 99) n;
         INSERT INTO r2 SELECT 'old', n FROM generate_series(100, 199) n",
    )
    .await;
    let root = db.table("r", Identity::Default).await;
    let leaf = db.table("r2", Identity::Default).await;
    let other = db.table("other", Identity::Default).await;
    let mut lane = db.lane().await;
    let batch = |first: u64| {
        let of_root = |from: usize, value: &str| {
            (from..from + 20).map(|n| update(&root, &[&text(n), value])).collect::<Vec<_>>()
        };
        let of_leaf = (100..120).map(|n| update(&leaf, &["before", &text(n)])).collect();
        let more = (0..20).map(|n| insert(&other, &[&text(first as usize * 20 + n)])).collect();
        [(of_root(0, "any")), of_leaf, more, of_root(100, "after")]
            .into_iter()
            .zip(first..)
            .map(|(changes, n)| tx(n, changes))
            .collect::<Vec<_>>()
    };
    // Known before, apart from each other.
    lane.apply(&batch(1)[..3]).await.unwrap();
    assert_eq!(lane.ways().as_a_whole, 1);
    db.exec("ALTER TABLE r ATTACH PARTITION r2 FOR VALUES FROM (100) TO (200)").await;
    lane.apply(&batch(5)).await.unwrap();
    let after = "SELECT count(*) FROM r WHERE id BETWEEN 100 AND 119 AND v = 'after'";
    assert_eq!(db.rows(after).await, ["20"]);
    assert_eq!(lane.ways(), Ways { as_a_whole: 1, row_by_row: 1, refused: 1 });
    // The root alone, or beside a table that is no partition of it, is written as a whole.
    lane.apply(&[
        tx(9, (0..20).map(|n| update(&root, &[&text(n), "x"])).collect()),
        tx(10, (500..520).map(|n| insert(&other, &[&text(n)])).collect()),
    ])
    .await
    .unwrap();
    assert_eq!(lane.ways().as_a_whole, 2);
}

#[tokio::test]
async fn parts_of_a_transaction_whose_triggers_fire_are_written_row_by_row() {
    let db = Db::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text);
         CREATE TABLE log (seq serial, id int);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO public.log (id) VALUES (NEW.id); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();
         ALTER TABLE t ENABLE ALWAYS TRIGGER note",
    )
    .await;
    let t = db.table("t", Identity::Default).await;
    let options = PgTargetOptions { accept_triggers: true, ..options(&db) };
    let target = PgTarget::open(db.green.clone(), options).await.unwrap();
    let mut lane = target.open_lane(LaneId(0)).await.unwrap();
    // Not in the order of the keys: that of the stream is what the trigger must see.
    let some = |from: usize| {
        (0..20).map(|n| insert(&t, &[&text(from + (n * 7) % 20), "x"])).collect::<Vec<_>>()
    };
    let parts = [Part::First, Part::Middle, Part::Middle, Part::Last];
    for (at, kind) in parts.into_iter().enumerate() {
        assert_eq!(db.rows("SELECT count(*) FROM t").await, ["0"]);
        lane.apply(&[part(1, kind, some(100 * at))]).await.unwrap();
    }
    assert_eq!(lane.committed(), Some(end(1)));
    assert_eq!(lane.ways().row_by_row, 4);
    assert_eq!(db.rows("SELECT count(*) FROM t").await, ["80"]);
    let expected: Vec<String> = (0..80).map(|n| text(n / 20 * 100 + (n % 20 * 7) % 20)).collect();
    assert_eq!(db.rows("SELECT id FROM log ORDER BY seq").await, expected);
    // A part that fails takes all of them with it.
    lane.apply(&[part(2, Part::First, some(1000))]).await.unwrap();
    lane.apply(&[part(2, Part::Last, some(100))]).await.unwrap_err();
    assert_eq!(db.rows("SELECT count(*) FROM t").await, ["80"]);
}
