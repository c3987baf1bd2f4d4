//! Several lanes of one stream: whatever they committed, progress says exactly that.

use decoders::change::{Lsn, ReplicaIdentity as Identity};
use decoders::source::Disposition;
use sinks::conflicts::WriteSet;
use sinks::mark::Window;
use sinks::postgres::{PgTarget, PgTargetOptions};
use sinks::{Lane as _, LaneId, Reached, Share, Target as _};

use crate::support::{Db, delete, end, insert, options, tx, update};

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE)";

fn commit(n: u64) -> Lsn {
    tx(n, Vec::new()).commit_lsn
}

fn window(floor: u64, transactions: &[u64]) -> Share {
    let last = transactions.last().map_or(floor, |n| *n);
    let commits = transactions.iter().map(|n| commit(*n));
    Share::Part(Window::new(end(floor), end(last), commits))
}

#[tokio::test]
async fn what_each_lane_committed_is_known_whatever_the_number_of_lanes() {
    let db = Db::new(TABLES).await;
    let t = db.table("t", Identity::Default).await;
    let target = db.target().await;
    let row = |n: u64| tx(n, vec![insert(&t, &[&n.to_string(), "~"])]);
    let mut one = target.open_lane(LaneId(0)).await.unwrap();
    let mut other = target.open_lane(LaneId(3)).await.unwrap();
    one.apply(&[row(1)]).await.unwrap();
    let share = window(1, &[2, 3, 4, 5]);
    one.apply_share(&[row(2), row(5)], share).await.unwrap();
    // Lanes that are open could still commit: nothing can be said.
    let error = target.progress().await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Retry, "{error}");
    assert!(error.message.contains("lane 0"), "{error}");
    db.gone(one.backend_pid()).await;
    let error = target.progress().await.unwrap_err();
    assert!(error.message.contains("lane 3") || error.message.contains("lane 0"), "{error}");
    let pid = other.backend_pid();
    drop((one, other));
    db.gone(pid).await;

    // Another life, with one lane.
    let target = db.target().await;
    let beyond = vec![commit(2), commit(5)];
    assert_eq!(target.progress().await.unwrap(), Reached { through: Some(end(1)), beyond });
    let mut one = target.open_lane(LaneId(0)).await.unwrap();
    let error = one.apply(&[row(2)]).await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Retry, "it is there already: {error}");
    let pid = one.backend_pid();
    drop(one);
    db.gone(pid).await;
    let mut one = target.open_lane(LaneId(0)).await.unwrap();
    one.apply(&[row(3)]).await.unwrap();
    let pid = one.backend_pid();
    one.close().await;
    db.gone(pid).await;
    let beyond = vec![commit(5)];
    assert_eq!(target.progress().await.unwrap(), Reached { through: Some(end(3)), beyond });
    other = target.open_lane(LaneId(1)).await.unwrap();
    other.apply_share(&[row(4)], Share::Rest { through: Some(end(5)) }).await.unwrap();
    other.close().await;
    assert_eq!(target.progress().await.unwrap(), Reached::through(end(5)));
    assert_eq!(db.rows("SELECT count(*), sum(id) FROM t").await, ["5|15"]);
}

#[tokio::test]
async fn a_lane_that_was_refused_beside_another_goes_on() {
    let db = Db::new(TABLES).await;
    let t = db.table("t", Identity::Default).await;
    let target = db.target().await;
    let mut one = target.open_lane(LaneId(0)).await.unwrap();
    let mut other = target.open_lane(LaneId(1)).await.unwrap();
    one.apply(&[tx(1, vec![insert(&t, &["1", "7"])])]).await.unwrap();
    let share = window(1, &[2, 3]);
    // Blue's order is: 7 is freed, then taken.
    let takes = [tx(3, vec![insert(&t, &["2", "7"])])];
    let error = other.apply_share(&takes, share).await.unwrap_err();
    assert!(error.conflict, "{error}");
    one.apply_share(&[tx(2, vec![update(&t, &["1", "8"])])], share).await.unwrap();
    other.apply_share(&takes, Share::Rest { through: Some(end(3)) }).await.unwrap();
    assert_eq!(db.rows("SELECT id, u FROM t ORDER BY 1").await, ["1|8", "2|7"]);
    // What is no question of order is not said to be one, and ends the lane.
    let error = other.apply(&[tx(4, vec![delete(&t, &["9", "~"])])]).await.unwrap_err();
    assert!(!error.conflict, "{error}");
    one.close().await;
    let pid = other.backend_pid();
    drop(other);
    db.gone(pid).await;
    assert_eq!(target.progress().await.unwrap(), Reached::through(end(3)));
}

#[tokio::test]
async fn progress_of_the_version_with_one_lane_is_taken_over() {
    let db = Db::new(
        "CREATE SCHEMA _cutover;
         CREATE TABLE _cutover.stream (pipeline text PRIMARY KEY, system_identifier text NOT NULL,
           database text NOT NULL, slot text NOT NULL, consistent_point pg_lsn NOT NULL,
           created_at timestamptz NOT NULL DEFAULT now(), schema_version int NOT NULL);
         CREATE TABLE _cutover.progress (pipeline text NOT NULL, lane int NOT NULL, end_lsn pg_lsn,
           commit_lsn pg_lsn, transactions bigint NOT NULL DEFAULT 0,
           updated_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (pipeline, lane));
         CREATE TABLE t (id int PRIMARY KEY)",
    )
    .await;
    let stream = options(&db).stream;
    db.exec(&format!(
        "INSERT INTO _cutover.stream (pipeline, system_identifier, database, slot,
                                      consistent_point, schema_version)
         VALUES ('{0}', '{1}', '{2}', '{3}', '{4}', 1), ('other', 'x', 'x', 'x', '0/1', 1);
         INSERT INTO _cutover.progress (pipeline, lane, end_lsn, transactions)
         VALUES ('{0}', 0, '{5}', 7), ('other', 0, '0/99', 1)",
        stream.pipeline,
        stream.system_identifier,
        stream.database,
        stream.slot,
        stream.consistent_point,
        end(7)
    ))
    .await;
    // Read before anything is changed, as the adoption of a stream does.
    let read = sinks::progress::read(&db.sql, &stream.pipeline).await.unwrap();
    assert_eq!(Reached::by(read.iter().map(|row| &row.mark)), Reached::through(end(7)));
    let target = PgTarget::open(db.green.clone(), options(&db)).await.unwrap();
    assert_eq!(target.progress().await.unwrap(), Reached::through(end(7)));
    let versions = "SELECT schema_version FROM _cutover.stream ORDER BY pipeline = 'other'";
    assert_eq!(db.rows(versions).await, ["2", "1"], "a pipeline is upgraded when it runs");
    let t = db.table("t", Identity::Default).await;
    let mut lane = target.open_lane(LaneId(0)).await.unwrap();
    lane.apply(&[tx(8, vec![insert(&t, &["1"])])]).await.unwrap();
    let row = "SELECT end_lsn, floor_lsn, above, transactions FROM _cutover.progress WHERE lane = 0
               AND pipeline <> 'other'";
    assert_eq!(db.rows(row).await, [format!("{0}|{0}|~|8", end(8))]);
}

#[tokio::test]
async fn greens_catalog_says_what_must_stay_in_order() {
    let db = Db::new(
        "CREATE TABLE p (id int PRIMARY KEY);
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p, u int UNIQUE, w text);
         CREATE TABLE e (id int PRIMARY KEY, w text);
         CREATE UNIQUE INDEX ON e (lower(w));
         CREATE TABLE n (k numeric PRIMARY KEY);
         CREATE TABLE b (id int)",
    )
    .await;
    let target = db.target().await;
    let mut sets: Vec<WriteSet> = Vec::new();
    for (table, values) in [
        ("p", vec!["1"]),
        ("c", vec!["5", "1", "~", "x"]),
        ("c", vec!["6", "1", "9", "x"]),
        ("c", vec!["7", "2", "9", "x"]),
        ("e", vec!["1", "a"]),
        ("e", vec!["2", "b"]),
        ("n", vec!["1"]),
        ("n", vec!["2"]),
        ("b", vec!["1"]),
        ("b", vec!["1"]),
    ] {
        let schema = db.table(table, Identity::Default).await;
        let conflicts = target.conflicts(&schema).await.unwrap();
        let mut set = WriteSet::default();
        conflicts.add(&insert(&schema, &values), &mut set);
        sets.push(set);
    }
    let meets = |one: usize, other: usize| {
        let (one, other) = (&sets[one], &sets[other]);
        one.writes.iter().any(|hash| other.writes.contains(hash) || other.reads.contains(hash))
            || one.reads.iter().any(|hash| other.writes.contains(hash))
    };
    assert!(meets(0, 1) && meets(0, 2) && !meets(0, 3), "a parent and its children");
    assert!(!meets(1, 2) && meets(2, 3), "children; one unique value");
    assert!(meets(4, 5), "an index over an expression: the whole table");
    assert!(meets(6, 7), "1 and 1.0 are one number");
    assert!(!meets(8, 9), "rows without a key are only added");
}

/// What single changes touch, asked one after the other of lanes that see foreign keys checked.
async fn touched(db: &Db, changes: &[(&str, &str, Vec<&str>)]) -> Vec<WriteSet> {
    let options = PgTargetOptions { accept_triggers: true, ..options(db) };
    let target = PgTarget::open(db.green.clone(), options).await.unwrap();
    let mut sets = Vec::new();
    for (op, table, values) in changes {
        let schema = db.table(table, Identity::Default).await;
        let conflicts = target.conflicts(&schema).await.unwrap();
        let change = match *op {
            "+" => insert(&schema, values),
            "-" => delete(&schema, values),
            _ => update(&schema, values),
        };
        let mut set = WriteSet::default();
        conflicts.add(&change, &mut set);
        sets.push(set);
    }
    sets
}

fn meet(one: &WriteSet, other: &WriteSet) -> bool {
    let both = |a: &[u64], b: &[u64]| a.iter().any(|hash| b.contains(hash));
    one.everything
        || other.everything
        || both(&one.writes, &other.writes)
        || both(&one.writes, &other.reads)
        || both(&one.reads, &other.writes)
}

#[tokio::test]
async fn children_meet_their_parents_whatever_else_keeps_order() {
    let db = Db::new(
        "CREATE TABLE p (id int PRIMARY KEY, w text, code text UNIQUE);
         CREATE UNIQUE INDEX ON p (lower(w));
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p);
         CREATE TABLE k (id int PRIMARY KEY, code text REFERENCES p (code));
         CREATE TABLE other (id bigint PRIMARY KEY, v text);
         CREATE TABLE l (id int PRIMARY KEY, o int REFERENCES other)",
    )
    .await;
    let sets = touched(
        &db,
        &[
            ("+", "p", vec!["1", "a", "x"]),
            ("+", "c", vec!["1", "1"]),
            ("+", "c", vec!["2", "2"]),
            ("-", "p", vec!["1", "~", "~"]),
            ("=", "p", vec!["1", "a", "y"]),
            ("+", "k", vec!["1", "x"]),
            ("+", "l", vec!["1", "1"]),
            ("-", "l", vec!["1", "~"]),
        ],
    )
    .await;
    assert!(meet(&sets[0], &sets[1]), "the parent is in order, and a parent all the same");
    assert!(!meet(&sets[0], &sets[2]), "another parent's child");
    assert!(sets[3].everything && sets[4].everything, "the old code may be referred to");
    assert!(!sets[0].everything && meet(&sets[0], &sets[5]), "a new code is in the stream");
    assert!(sets[6].everything && !sets[7].everything, "int is not spelled as bigint");
}

#[tokio::test]
async fn what_only_partitions_have_counts_for_their_root() {
    let db = Db::new(
        "CREATE TABLE r (id int, u int, v text) PARTITION BY RANGE (id);
         CREATE TABLE r1 PARTITION OF r (PRIMARY KEY (id), UNIQUE (u))
           FOR VALUES FROM (0) TO (100);
         CREATE TABLE r2 (v text, u int, id int NOT NULL);
         ALTER TABLE r ATTACH PARTITION r2 FOR VALUES FROM (100) TO (200);
         CREATE UNIQUE INDEX ON r2 (lower(v));
         CREATE TABLE c (id int PRIMARY KEY, r int REFERENCES r1)",
    )
    .await;
    let two = [("+", "r", vec!["1", "7", "a"]), ("+", "r", vec!["2", "8", "b"])];
    let of_root = touched(&db, &two).await;
    assert!(meet(&of_root[0], &of_root[1]), "an index over an expression on one of them");
    db.exec("DROP INDEX r2_lower_idx").await;
    let sets = touched(
        &db,
        &[
            ("+", "r1", vec!["1", "7", "a"]),
            ("+", "r1", vec!["2", "8", "b"]),
            ("+", "r1", vec!["3", "7", "c"]),
            ("+", "c", vec!["1", "1"]),
        ],
    )
    .await;
    assert!(!meet(&sets[0], &sets[1]) && meet(&sets[0], &sets[2]));
    assert!(meet(&sets[0], &sets[3]) && !meet(&sets[1], &sets[3]));
    // The same with another table's name: by the root, whose identity is not enforced there.
    let schema = with_key(&db, "r", "id").await;
    let conflicts = db.target().await.conflicts(&schema).await.unwrap();
    let set = |change| {
        let mut set = WriteSet::default();
        conflicts.add(&change, &mut set);
        set
    };
    let (one, same) =
        (set(insert(&schema, &["4", "9", "a"])), set(insert(&schema, &["5", "9", "b"])));
    assert!(meet(&one, &same), "one unique value");
    assert!(conflicts.is_partitioned());
    let leaf = db.table("r2", Identity::Default).await;
    let of_leaf = db.target().await.conflicts(&leaf).await.unwrap();
    assert_eq!(conflicts.columns(), of_leaf.columns(), "in any order of columns");
    let target = db.target().await;
    let c = db.table("c", Identity::Default).await;
    assert!(target.shares_rows(&[c.clone(), leaf.clone(), schema]).await.unwrap());
    assert!(!target.shares_rows(&[c, leaf]).await.unwrap());
}

async fn with_key(
    db: &Db,
    table: &str,
    key: &str,
) -> std::sync::Arc<decoders::change::TableSchema> {
    let mut schema = (*db.table(table, Identity::Default).await).clone();
    schema.columns.iter_mut().for_each(|column| column.in_key |= column.name == key);
    std::sync::Arc::new(schema)
}

#[tokio::test]
async fn an_index_that_compares_otherwise_than_its_columns_is_no_key() {
    let db = Db::new(
        "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE finer (k text COLLATE ci NOT NULL, v int);
         CREATE UNIQUE INDEX ON finer (k COLLATE \"C\");
         CREATE TABLE coarser (id int PRIMARY KEY, k text);
         CREATE UNIQUE INDEX ON coarser (k COLLATE ci);
         CREATE TABLE pattern (id int PRIMARY KEY, k text);
         CREATE UNIQUE INDEX ON pattern (k text_pattern_ops);
         CREATE TABLE net (k cidr PRIMARY KEY, i inet UNIQUE);
         INSERT INTO net SELECT ('10.0.' || n || '.0/24')::cidr FROM generate_series(0, 40) n",
    )
    .await;
    let sets = touched(
        &db,
        &[
            ("+", "coarser", vec!["1", "a"]),
            ("+", "coarser", vec!["2", "A"]),
            ("+", "pattern", vec!["1", "a"]),
            ("+", "pattern", vec!["2", "b"]),
            ("+", "net", vec!["10.0.0.0/24", "10.0.0.1"]),
            ("+", "net", vec!["10.0.1.0/24", "10.0.0.1/24"]),
        ],
    )
    .await;
    assert!(meet(&sets[0], &sets[1]) && meet(&sets[2], &sets[3]));
    assert!(!meet(&sets[4], &sets[5]), "addresses are spelled alike if they are equal");
    // Both spellings are there at once: what finds a row finds two. As sets the counts would be
    // right and the rows wrong.
    db.exec("INSERT INTO finer VALUES ('a', 1), ('A', 2)").await;
    let finer = with_key(&db, "finer", "k").await;
    let mut lane = db.lane().await;
    let changes = (0..20).map(|n| match n % 2 {
        0 => update(&finer, &["a", "5"]),
        _ => update(&finer, &["A", "6"]),
    });
    let error = lane.apply(&[tx(1, changes.collect())]).await.unwrap_err();
    assert_eq!(error.disposition, Disposition::Halt, "{error}");
    let pid = lane.backend_pid();
    drop(lane);
    db.gone(pid).await;
    assert_eq!(db.rows("SELECT k, v FROM finer ORDER BY v").await, ["a|1", "A|2"]);
    let net = db.table("net", Identity::Default).await;
    let mut lane = db.lane().await;
    let change = |n: u64| update(&net, &[&format!("10.0.{n}.0/24"), &format!("10.1.0.{n}")]);
    lane.apply(&[tx(2, (0..40).map(change).collect())]).await.unwrap();
    assert_eq!(lane.ways().as_a_whole, 1);
    assert_eq!(db.rows("SELECT count(i) FROM net").await, ["40"]);
}
