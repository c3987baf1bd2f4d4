//! Every operation on every kind of table, in green's own words.

use bytes::Bytes;
use decoders::change::{
    Cell, ChangeEvent, OldRow, QualifiedName, ReplicaIdentity as Identity, Row,
};
use sinks::Lane as _;

use crate::support::{Db, apply, cell, delete, end, insert, major, tx, update, update_from};

#[tokio::test]
async fn insert_update_delete_by_primary_key() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY, a text, b numeric)").await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    let first = vec![
        insert(&t, &["1", "one", "1.00"]),
        insert(&t, &["2", "~", "~"]),
        insert(&t, &["3", "x", "NaN"]),
        update(&t, &["2", "two", "2.50"]),
        delete(&t, &["3", "~", "~"]),
    ];
    apply(&mut lane, 1, first).await.unwrap();
    assert_eq!(db.rows("SELECT * FROM t ORDER BY id").await, ["1|one|1.00", "2|two|2.50"]);
    apply(&mut lane, 2, vec![update_from(&t, &["1", "~", "~"], &["10", "~", "1.0"])])
        .await
        .unwrap();
    assert_eq!(db.rows("SELECT * FROM t ORDER BY id").await, ["2|two|2.50", "10|~|1.0"]);
}

#[tokio::test]
async fn several_transactions_are_one_commit() {
    let db = Db::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    let transactions: Vec<_> =
        (1..=50).map(|n| tx(n, vec![insert(&t, &[n.to_string().as_str()])])).collect();
    let applied = lane.apply(&transactions).await.unwrap();
    assert_eq!((applied.end_lsn, applied.transactions, applied.changes), (Some(end(50)), 50, 50));
    assert_eq!(db.rows("SELECT count(*), count(DISTINCT xmin::text) FROM t").await, ["50|1"]);
    let progress = db.rows("SELECT transactions, end_lsn::text FROM _cutover.progress").await;
    assert_eq!(progress, [format!("50|{}", end(50))]);
}

#[tokio::test]
async fn unchanged_toast_stays() {
    let db = Db::new(
        "CREATE TABLE t (id int PRIMARY KEY, big text, small text);
         INSERT INTO t VALUES (1, repeat('x', 100000), 'a')",
    )
    .await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    let changes = vec![
        update(&t, &["1", "?", "b"]),
        update_from(&t, &["1", "~", "~"], &["2", "?", "c"]),
        update(&t, &["2", "?", "d"]),
    ];
    apply(&mut lane, 1, changes).await.unwrap();
    assert_eq!(db.rows("SELECT id, length(big), small FROM t").await, ["2|100000|d"]);
    apply(&mut lane, 2, vec![update(&t, &["2", "~", "?"])]).await.unwrap();
    assert_eq!(db.rows("SELECT * FROM t").await, ["2|~|d"]);
}

#[tokio::test]
async fn unique_values_move_between_rows_one_by_one() {
    let db = Db::new(
        "CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE);
         CREATE TABLE d (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO t VALUES (1, 10), (2, 20); INSERT INTO d VALUES (1, 10), (2, 20)",
    )
    .await;
    let (t, d) = (db.table("t", Identity::Default).await, db.table("d", Identity::Default).await);
    let mut lane = db.lane().await;
    let changes = vec![
        update(&t, &["1", "~"]),
        update(&t, &["2", "10"]),
        update(&t, &["1", "20"]),
        update(&d, &["1", "20"]),
        update(&d, &["2", "10"]),
    ];
    apply(&mut lane, 1, changes).await.unwrap();
    assert_eq!(db.rows("SELECT * FROM t ORDER BY 1").await, ["1|20", "2|10"]);
    assert_eq!(db.rows("SELECT * FROM d ORDER BY 1").await, ["1|20", "2|10"]);
}

#[tokio::test]
async fn one_of_equal_rows_without_a_key() {
    let db = Db::new(
        "CREATE TABLE t (n numeric, j json, x xml, p point, b box, a int[], c char(5), f float8);
         INSERT INTO t
         SELECT v.* FROM (VALUES
           (1.0::numeric, '{\"a\": 1}'::json, '<a/>'::xml, '(1,2)'::point, '(1,1),(0,0)'::box,
            '{1,2}'::int[], 'ab'::char(5), -0.0::float8),
           (1.00, '{\"a\":1}', '<b/>', '(1,3)', '(2,0.5),(0,0)', NULL, NULL, 0.0)) v,
           generate_series(1, 3)",
    )
    .await;
    let t = db.table("t", Identity::Full).await;
    let mut lane = db.lane().await;
    let one = ["1.0", "{\"a\": 1}", "<a/>", "(1,2)", "(1,1),(0,0)", "{1,2}", "ab   ", "-0"];
    let other = ["1.00", "{\"a\":1}", "<b/>", "(1,3)", "(2,0.5),(0,0)", "~", "~", "0"];
    let changed = ["2", "~", "~", "~", "~", "~", "~", "~"];
    let changes = vec![
        delete(&t, &one),
        update_from(&t, &other, &changed),
        update_from(&t, &changed, &changed),
    ];
    apply(&mut lane, 1, changes).await.unwrap();
    let count =
        "SELECT n, x, count(*) FROM (SELECT n::text, x::text FROM t) q GROUP BY 1, 2 ORDER BY 1, 2";
    assert_eq!(db.rows(count).await, ["1.0|<a/>|2", "1.00|<b/>|2", "2|~|1"]);
}

#[tokio::test]
async fn of_equal_values_the_exact_one() {
    let db =
        Db::new("CREATE TABLE t (n numeric); INSERT INTO t VALUES (1.00), (1.0), (1.000)").await;
    let t = db.table("t", Identity::Full).await;
    let mut lane = db.lane().await;
    apply(&mut lane, 1, vec![delete(&t, &["1.0"])]).await.unwrap();
    assert_eq!(db.rows("SELECT n FROM t ORDER BY n::text").await, ["1.00", "1.000"]);
    apply(&mut lane, 2, vec![update_from(&t, &["1.000"], &["~"])]).await.unwrap();
    assert_eq!(db.rows("SELECT n FROM t ORDER BY n::text").await, ["1.00", "~"]);
    apply(&mut lane, 3, vec![delete(&t, &["~"])]).await.unwrap();
    assert_eq!(db.rows("SELECT n FROM t").await, ["1.00"]);
}

#[tokio::test]
async fn full_identity_uses_a_key_of_greens() {
    let db = Db::new(
        "CREATE TABLE t (id int, code text NOT NULL UNIQUE, j json);
         INSERT INTO t VALUES (1, 'a', '[1]'), (2, 'b', NULL)",
    )
    .await;
    let t = db.table("t", Identity::Full).await;
    let mut lane = db.lane().await;
    let changes =
        vec![update_from(&t, &["1", "a", "[1]"], &["1", "c", "?"]), delete(&t, &["2", "b", "~"])];
    apply(&mut lane, 1, changes).await.unwrap();
    assert_eq!(db.rows("SELECT * FROM t").await, ["1|c|[1]"]);
    let plan = "SELECT count(*) FROM pg_stat_user_tables WHERE relname = 't'";
    assert_eq!(db.rows(plan).await, ["1"]);
}

#[tokio::test]
async fn identity_always_as_a_key() {
    let db =
        Db::new("CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text)").await;
    let t = db.table("t", Identity::Default).await;
    let mut lane = db.lane().await;
    let changes = vec![
        insert(&t, &["7", "a"]),
        insert(&t, &["8", "b"]),
        update(&t, &["7", "c"]),
        update_from(&t, &["8", "~"], &["9", "?"]),
    ];
    apply(&mut lane, 1, changes).await.unwrap();
    assert_eq!(db.rows("SELECT * FROM t ORDER BY 1").await, ["7|c", "9|b"]);
}

#[tokio::test]
async fn identity_always_beside_the_key() {
    let db = Db::new(
        "CREATE TABLE t (k text PRIMARY KEY, n bigint GENERATED ALWAYS AS IDENTITY, a text, e text);
         INSERT INTO t (k, n, a, e) OVERRIDING SYSTEM VALUE VALUES ('x', 5, repeat('a', 9000), 'extra'),
           ('y', 6, 'b', 'extra');
         CREATE TABLE only_id (n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
         INSERT INTO only_id OVERRIDING SYSTEM VALUE VALUES (1)",
    )
    .await;
    let whole = db.table("t", Identity::Default).await;
    // The stream does not know the column `e`: green's value has to survive.
    let mut narrow = (*whole).clone();
    narrow.columns.truncate(3);
    let t = std::sync::Arc::new(narrow);
    let only_id = db.table("only_id", Identity::Default).await;
    let mut lane = db.lane().await;
    let changes = vec![
        // Same value: an UPDATE. Another value: the row is replaced, what was not sent is kept.
        update(&t, &["x", "5", "?"]),
        update(&t, &["y", "60", "?"]),
        update(&only_id, &["1"]),
        update_from(&only_id, &["1"], &["2"]),
    ];
    apply(&mut lane, 1, changes).await.unwrap();
    let query = "SELECT k, n, length(a), e FROM t ORDER BY k";
    assert_eq!(db.rows(query).await, ["x|5|9000|extra", "y|60|1|extra"]);
    assert_eq!(db.rows("SELECT n FROM only_id").await, ["2"]);
    let wrong = apply(&mut lane, 2, vec![update(&t, &["nobody", "5", "?"])]).await.unwrap_err();
    assert!(wrong.message.contains("matched 0 rows"), "{wrong}");
}

#[tokio::test]
async fn generated_columns_are_greens_own() {
    if major() < 12 {
        return;
    }
    let db = Db::new(
        "CREATE TABLE t (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED)",
    )
    .await;
    let t = db.table("t", Identity::Default).await;
    assert_eq!(t.columns.len(), 2);
    let mut lane = db.lane().await;
    apply(&mut lane, 1, vec![insert(&t, &["1", "4"]), update(&t, &["1", "5"])]).await.unwrap();
    assert_eq!(db.rows("SELECT * FROM t").await, ["1|5|10"]);
}

#[tokio::test]
async fn virtual_columns() {
    if major() < 18 {
        return;
    }
    let db = Db::new(
        "CREATE TABLE t (a int, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL);
         CREATE TABLE i (k int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY,
                         twice int GENERATED ALWAYS AS (n * 2) VIRTUAL);",
    )
    .await;
    let (t, i) = (db.table("t", Identity::Full).await, db.table("i", Identity::Default).await);
    let mut lane = db.lane().await;
    let changes = vec![
        insert(&t, &["4"]),
        update_from(&t, &["4"], &["5"]),
        insert(&i, &["1", "1"]),
        update(&i, &["1", "9"]),
    ];
    apply(&mut lane, 1, changes).await.unwrap();
    assert_eq!(db.rows("SELECT * FROM t").await, ["5|10"]);
    assert_eq!(db.rows("SELECT * FROM i").await, ["1|9|18"]);
}

#[tokio::test]
async fn truncate_of_tables_that_refer_to_each_other() {
    let db = Db::new(
        "CREATE TABLE parent (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
         CREATE TABLE child (id serial PRIMARY KEY, p int REFERENCES parent);
         CREATE TABLE other (a int); CREATE TABLE heir () INHERITS (other);
         INSERT INTO parent DEFAULT VALUES; INSERT INTO child (p) VALUES (1);
         INSERT INTO other VALUES (1); INSERT INTO heir VALUES (2)",
    )
    .await;
    let parent = db.table("parent", Identity::Default).await;
    let child = db.table("child", Identity::Default).await;
    let other = db.table("other", Identity::Full).await;
    let mut lane = db.lane().await;
    let both = ChangeEvent::Truncate {
        tables: [parent.clone(), child.clone()].into(),
        cascade: true,
        restart_identity: true,
    };
    let only =
        ChangeEvent::Truncate { tables: [other].into(), cascade: false, restart_identity: false };
    apply(&mut lane, 1, vec![insert(&parent, &["5"]), both, insert(&parent, &["6"]), only])
        .await
        .unwrap();
    assert_eq!(db.rows("SELECT id FROM parent").await, ["6"]);
    assert_eq!(db.rows("SELECT id FROM child").await, Vec::<String>::new());
    assert_eq!(db.rows("SELECT a FROM other").await, ["2"]);
    // Sequences stay where they are: a cutover carries them.
    assert_eq!(db.rows("SELECT nextval('child_id_seq')").await, ["2"]);
    // A table that blue did not empty is not emptied, whatever the event says.
    db.exec("INSERT INTO child (p) VALUES (6)").await;
    let alone =
        ChangeEvent::Truncate { tables: [parent].into(), cascade: true, restart_identity: false };
    let refused = apply(&mut lane, 2, vec![alone]).await.unwrap_err();
    assert!(refused.remedy.unwrap().contains("foreign key"));
    assert_eq!(db.rows("SELECT count(*) FROM child").await, ["1"]);
}

#[tokio::test]
async fn names_are_quoted() {
    let name = QualifiedName::new("Ünï \"s\"", "Tä.b'le; --");
    let db = Db::new(&format!(
        "CREATE SCHEMA \"Ünï \"\"s\"\"\"; CREATE TYPE \"Ünï \"\"s\"\"\".\"E\" AS ENUM ('x', 'y');
         CREATE TABLE {name} (\"Id\" int PRIMARY KEY, \"$1 \"\"c\" text, select_ \"Ünï \"\"s\"\"\".\"E\")"
    ))
    .await;
    let t = db.qualified(&name, Identity::Default).await;
    let f = db.qualified(&name, Identity::Full).await;
    let mut lane = db.lane().await;
    let changes = vec![
        insert(&t, &["1", "a", "x"]),
        update(&t, &["1", "b", "y"]),
        insert(&t, &["2", "c", "~"]),
        delete(&f, &["2", "c", "~"]),
    ];
    apply(&mut lane, 1, changes).await.unwrap();
    assert_eq!(db.rows(&format!("SELECT * FROM {name}")).await, ["1|b|y"]);
}

#[tokio::test]
async fn zero_columns() {
    let db = Db::new("CREATE TABLE t ()").await;
    let t = db.table("t", Identity::Full).await;
    assert!(t.columns.is_empty());
    let mut lane = db.lane().await;
    apply(&mut lane, 1, vec![insert(&t, &[]), insert(&t, &[]), delete(&t, &[])]).await.unwrap();
    assert_eq!(db.rows("SELECT count(*) FROM t").await, ["1"]);
}

#[tokio::test]
async fn sixteen_hundred_columns() {
    let columns: Vec<String> = (1..1600).map(|n| format!("c{n} int")).collect();
    let db = Db::new(&format!("CREATE TABLE t (id int PRIMARY KEY, {})", columns.join(", "))).await;
    let mut lane = db.lane().await;
    let of = |value: &'static str| {
        let mut cells = vec![value; 1600];
        cells[0] = "1";
        cells
    };
    let t = db.table("t", Identity::Default).await;
    apply(&mut lane, 1, vec![insert(&t, &of("2")), update(&t, &of("3"))]).await.unwrap();
    assert_eq!(db.rows("SELECT id, c1, c1599 FROM t").await, ["1|3|3"]);
    db.exec("ALTER TABLE t DROP CONSTRAINT t_pkey").await;
    let mut lane = reopened(&db, lane).await;
    let f = db.table("t", Identity::Full).await;
    let changes = vec![update_from(&f, &of("3"), &of("4")), update_from(&f, &of("4"), &of("~"))];
    apply(&mut lane, 2, changes).await.unwrap();
    assert_eq!(db.rows("SELECT id, c1, c1599 FROM t").await, ["1|~|~"]);
    apply(&mut lane, 3, vec![delete(&f, &of("~"))]).await.unwrap();
    assert_eq!(db.rows("SELECT count(*) FROM t").await, ["0"]);
}

async fn reopened(db: &Db, lane: sinks::postgres::PgLane) -> sinks::postgres::PgLane {
    let pid = lane.backend_pid();
    drop(lane);
    db.gone(pid).await;
    db.lane().await
}

#[tokio::test]
async fn partitions_by_root_and_by_leaf() {
    let db = Db::new(
        "CREATE TABLE t (id int, a text) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF t FOR VALUES FROM (0) TO (10);
         CREATE TABLE high PARTITION OF t FOR VALUES FROM (10) TO (20)",
    )
    .await;
    let (root, leaf) = (db.table("t", Identity::Full).await, db.table("low", Identity::Full).await);
    let mut lane = db.lane().await;
    let mut changes = vec![
        insert(&root, &["1", "a"]),
        insert(&root, &["1", "a"]),
        insert(&root, &["12", "a"]),
        delete(&leaf, &["1", "a"]),
        update_from(&root, &["12", "a"], &["12", "b"]),
    ];
    if major() >= 11 {
        changes.push(update_from(&root, &["12", "b"], &["2", "b"]));
    }
    apply(&mut lane, 1, changes).await.unwrap();
    let moved = if major() >= 11 { ["1|a|low", "2|b|low"] } else { ["1|a|low", "12|b|high"] };
    assert_eq!(db.rows("SELECT *, tableoid::regclass FROM t ORDER BY id").await, moved);
    let all =
        ChangeEvent::Truncate { tables: [root].into(), cascade: false, restart_identity: false };
    apply(&mut lane, 2, vec![all]).await.unwrap();
    assert_eq!(db.rows("SELECT count(*) FROM t").await, ["0"]);
}

#[tokio::test]
async fn types_in_text_and_in_binary() {
    let db = Db::new(
        "CREATE SCHEMA app;
         CREATE TYPE app.mood AS ENUM ('sad', 'ok');
         CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);
         CREATE TYPE app.pair AS (a int, b text);
         CREATE TYPE app.span AS RANGE (subtype = float8);
         CREATE TABLE t (id app.positive PRIMARY KEY, m app.mood, p app.pair, s app.span,
                         ms app.mood[], dates date[], ts timestamptz, i interval, by bytea,
                         money money, net inet, bits bit varying(9), jb jsonb, u uuid)",
    )
    .await;
    let t = db.table("t", Identity::Default).await;
    let f = db.table("t", Identity::Full).await;
    let mut lane = db.lane().await;
    let values = [
        "1",
        "ok",
        "(1,\"x y\")",
        "[1,2.5)",
        "{sad,ok}",
        "{infinity,\"0044-03-15 BC\"}",
        "infinity",
        "-1 days +02:03:00",
        "\\x00ff",
        "$1,000.10",
        "10.0.0.0/8",
        "0101",
        "{\"a\": 1.0}",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    ];
    apply(&mut lane, 1, vec![insert(&t, &values), update(&t, &values)]).await.unwrap();
    let written = db.rows("SELECT * FROM t").await;
    assert_eq!(written, [values.join("|")]);
    let mut cells: Vec<Cell<'_>> = values.iter().map(|text| cell(text)).collect();
    cells[0] = Cell::binary(&[0, 0, 0, 1]);
    cells[8] = Cell::binary(&[1, 0, 255]);
    let binary = Row::from(cells);
    let new = binary.clone();
    let event = ChangeEvent::Update { table: f.clone(), old: Some(OldRow::Full(binary)), new };
    apply(&mut lane, 2, vec![event]).await.unwrap();
    assert_eq!(db.rows("SELECT id, by FROM t").await, ["1|\\x0100ff"]);
    // Without a key of green's, all of these types are compared.
    db.exec("ALTER TABLE t DROP CONSTRAINT t_pkey; UPDATE t SET by = '\\x00ff'").await;
    let mut lane = reopened(&db, lane).await;
    apply(&mut lane, 3, vec![delete(&f, &values)]).await.unwrap();
    assert_eq!(db.rows("SELECT count(*) FROM t").await, ["0"]);
}

#[tokio::test]
async fn messages_change_nothing() {
    let db = Db::new("").await;
    let mut lane = db.lane().await;
    let message =
        ChangeEvent::Message { prefix: "cutover.marker".to_owned(), content: Bytes::new() };
    apply(&mut lane, 1, vec![message]).await.unwrap();
    apply(&mut lane, 2, vec![]).await.unwrap();
    assert_eq!(lane.committed(), Some(end(2)));
}

#[tokio::test]
async fn extra_columns_of_green_are_left_alone() {
    let db = Db::new(
        "CREATE TABLE t (id int PRIMARY KEY, extra text NOT NULL DEFAULT 'd', more int);
         ALTER TABLE t ADD CONSTRAINT positive CHECK (id > 0)",
    )
    .await;
    let mut t = (*db.table("t", Identity::Default).await).clone();
    t.columns.truncate(1);
    let t = std::sync::Arc::new(t);
    let mut lane = db.lane().await;
    apply(&mut lane, 1, vec![insert(&t, &["1"]), update(&t, &["1"])]).await.unwrap();
    assert_eq!(db.rows("SELECT * FROM t").await, ["1|d|~"]);
}
