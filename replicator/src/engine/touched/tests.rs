use decoders::change::{Cell, Column, ReplicaIdentity};
use decoders::{Part, TableId};

use super::*;

fn schema(name: &str, type_oid: u32) -> Arc<TableSchema> {
    let column =
        |name: &str, in_key| Column { name: name.into(), type_oid, type_modifier: -1, in_key };
    Arc::new(TableSchema {
        id: TableId(1),
        name: QualifiedName::new("public", name),
        identity: ReplicaIdentity::Default,
        columns: vec![column("id", true), column("v", false)],
    })
}

fn row(id: &str) -> Row {
    [Cell::text(id.as_bytes()), Cell::text("x")].into_iter().collect()
}

fn insert(name: &str, id: usize) -> ChangeEvent {
    ChangeEvent::Insert { table: schema(name, 23), new: row(&id.to_string()) }
}

fn transaction(changes: Vec<ChangeEvent>) -> [Transaction; 1] {
    [Transaction {
        part: Part::Whole,
        xid: 7,
        commit_lsn: Lsn(100),
        end_lsn: Some(Lsn(108)),
        committed_at_us: 0,
        origin: None,
        changes: changes.into_iter().collect(),
        bytes: 1,
    }]
}

fn watched(names: &[&str]) -> Touched {
    let touched = Touched::default();
    let table = |name: &&str| Watched {
        name: QualifiedName::new("public", *name),
        key: vec!["id".to_owned()],
        columns: vec!["id".to_owned(), "v".to_owned()],
        cascades: Cascades::default(),
    };
    touched.watch(names.iter().map(table), false);
    touched
}

fn taken(touched: &Touched) -> (QualifiedName, Vec<(Key, Instant)>) {
    match touched.take() {
        Some(Next::Rows(table, rows)) => (table, rows),
        other => panic!("no rows: {other:?}"),
    }
}

fn keys(touched: &Touched) -> Vec<Key> {
    let mut keys: Vec<Key> = taken(touched).1.into_iter().map(|(key, _)| key).collect();
    keys.sort();
    keys
}

#[test]
fn a_row_is_noted_once_and_by_both_of_its_keys() {
    let (touched, table) = (watched(&["t"]), schema("t", 23));
    let moved = ChangeEvent::Update {
        table: table.clone(),
        old: Some(OldRow::Key([Cell::text("1"), Cell::NULL].into_iter().collect())),
        new: row("2"),
    };
    let inserted = ChangeEvent::Insert { table, new: row("2") };
    touched.note(&transaction(vec![inserted, moved]));
    assert_eq!(touched.unproven().rows, 2);
    assert_eq!(keys(&touched), [["1"], ["2"]]);
    // Taken is not proven.
    assert_eq!(touched.unproven().rows, 2);
    touched.settle(&QualifiedName::new("public", "t"), Vec::new());
    assert_eq!(touched.unproven(), Unproven::default());
}

#[test]
fn what_was_not_settled_keeps_its_age() {
    let (touched, schema) = (watched(&["t"]), schema("t", 23));
    let write = || transaction(vec![ChangeEvent::Insert { table: schema.clone(), new: row("1") }]);
    touched.note(&write());
    let (table, rows) = taken(&touched);
    let first = rows[0].1;
    touched.note(&write());
    touched.settle(&table, rows);
    assert_eq!(touched.unproven().oldest, Some(first));
    assert_eq!(touched.unproven().rows, 1);
}

#[test]
fn beyond_the_bound_the_largest_table_is_dirty() {
    let touched = watched(&["small", "large"]);
    touched.note(&transaction((0..50).map(|id| insert("large", id)).collect()));
    touched.note(&transaction(vec![insert("small", 1)]));
    let now = Instant::now() + Duration::from_secs(1);
    touched.state().keep_to(40, BYTES_MAX, now);
    let unproven = touched.unproven();
    assert_eq!((unproven.rows, unproven.dirty.len()), (1, 1));
    assert_eq!(unproven.dirty[0].0.name, "large");
    assert!(unproven.oldest < Some(now), "as old as its oldest row");
    // Nothing more is noted of it until it is compared.
    touched.note(&transaction(vec![insert("large", 99)]));
    assert_eq!(touched.unproven().rows, 1);
    // It has waited longer than the row.
    assert!(matches!(touched.take(), Some(Next::Table(table, _)) if table.name == "large"));
    touched.note(&transaction(vec![insert("large", 99)]));
    assert_eq!(touched.unproven().rows, 2);
    assert_eq!(taken(&touched).0.name, "small");
}

#[test]
fn a_table_whose_keys_are_not_told_is_dirty() {
    let touched = watched(&["t"]);
    let binary: Row = [Cell::binary(&[0; 8]), Cell::NULL].into_iter().collect();
    let insert = ChangeEvent::Insert { table: schema("t", 1700), new: binary };
    touched.note(&transaction(vec![insert]));
    assert_eq!(touched.unproven().dirty[0].1.why, "its key comes in binary");
    let of_another = ChangeEvent::Insert { table: schema("other", 23), new: row("1") };
    touched.note(&transaction(vec![of_another]));
    assert_eq!(touched.unproven().rows, 0);
}

#[test]
fn what_was_never_compared_voids_all() {
    let insert = |name: &str| {
        transaction(vec![ChangeEvent::Insert { table: schema(name, 23), new: row("1") }])
    };
    let watch = |column: &str, is_whole| {
        let touched = Touched::default();
        let table = Watched {
            name: QualifiedName::new("public", "t"),
            key: vec!["id".to_owned()],
            columns: vec!["id".to_owned(), column.to_owned()],
            cascades: Cascades::default(),
        };
        touched.watch([table], is_whole);
        touched
    };
    let touched = watch("v", true);
    touched.note(&insert("t"));
    assert_eq!(touched.unproven().void, None);
    touched.note(&insert("partition"));
    assert!(touched.unproven().void.is_some());
    let part = watch("v", false);
    part.note(&insert("other"));
    assert_eq!(part.unproven().void, None, "nobody asked for it");
    let altered = watch("w", false);
    altered.note(&insert("t"));
    assert!(altered.unproven().void.is_some());
}

#[test]
fn a_long_part_of_a_key_is_in_the_old_image() {
    let (touched, schema) = (watched(&["t"]), schema("t", 23));
    let new: Row = [Cell::Unchanged, Cell::text("y")].into_iter().collect();
    let old = Some(OldRow::Key([Cell::text("7"), Cell::NULL].into_iter().collect()));
    touched.note(&transaction(vec![ChangeEvent::Update { table: schema, old, new }]));
    assert_eq!(keys(&touched), [["7"]]);
}

#[test]
fn a_table_that_is_being_compared_is_not_proven() {
    let (touched, schema) = (watched(&["t"]), schema("t", 23));
    let truncated =
        ChangeEvent::Truncate { tables: [schema].into(), cascade: false, restart_identity: false };
    touched.note(&transaction(vec![truncated]));
    let Some(Next::Table(table, dirty)) = touched.take() else { panic!("no table") };
    assert_eq!(touched.unproven().dirty, [(table.clone(), dirty.clone())]);
    touched.settle(&table, Vec::new());
    assert_eq!(touched.unproven(), Unproven::default());
    touched.soil(&table, dirty);
    assert_eq!(touched.unproven().dirty.len(), 1);
}

#[test]
fn a_table_that_can_not_be_looked_at_lets_others_go_first() {
    let touched = watched(&["a", "b"]);
    let insert = |name: &str| {
        transaction(vec![ChangeEvent::Insert { table: schema(name, 23), new: row("1") }])
    };
    touched.note(&insert("a"));
    let (table, rows) = taken(&touched);
    touched.note(&insert("b"));
    touched.settle(&table, rows);
    touched.postpone(&table);
    assert_eq!(taken(&touched).0.name, "b");
    assert_eq!(taken(&touched).0.name, "a", "nothing else is left");
}

#[test]
fn all_rows_are_taken_with_the_position_behind_them() {
    let touched = watched(&["a", "b"]);
    touched.note(&transaction(vec![insert("a", 1), insert("b", 2)]));
    let (mut rows, through) = touched.take_rows();
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!((rows.len(), through), (2, Lsn(108)));
    let unproven = touched.unproven();
    assert!(unproven.rows == 2 && unproven.oldest.is_some(), "they are being looked at");
    touched.settle_rows(rows.split_off(1));
    assert_eq!(touched.unproven().rows, 1);
    let (rows, _) = touched.take_rows();
    assert_eq!(rows[0].0, QualifiedName::new("public", "b"));
    touched.settle_rows(Vec::new());
    assert_eq!(touched.unproven(), Unproven::default());
}

#[test]
fn rows_that_are_given_back_count_like_others() {
    const MANY: usize = ROWS_MAX * 2 / 3;
    let table = schema("t", 23);
    let note = |touched: &Touched, first: usize| {
        let ids = first..first + MANY;
        let insert =
            |id: usize| ChangeEvent::Insert { table: table.clone(), new: row(&id.to_string()) };
        touched.note(&transaction(ids.map(insert).collect()));
    };
    for one_by_one in [true, false] {
        let touched = watched(&["t"]);
        note(&touched, 0);
        let rows = match one_by_one {
            true => vec![taken(&touched)],
            false => touched.take_rows().0,
        };
        note(&touched, MANY);
        for (table, rows) in rows {
            match one_by_one {
                true => touched.settle(&table, rows),
                false => touched.settle_rows(vec![(table, rows)]),
            }
        }
        let unproven = touched.unproven();
        assert_eq!((unproven.rows, unproven.dirty.len()), (0, 1), "more than are kept in mind");
    }
}

#[test]
fn what_changes_unseen_along_with_a_row_is_looked_at_as_a_whole() {
    let touched = Touched::default();
    let table = |name: &str, cascades: Cascades| Watched {
        name: QualifiedName::new("public", name),
        key: vec!["id".to_owned()],
        columns: vec!["id".to_owned(), "v".to_owned()],
        cascades,
    };
    let children = vec![QualifiedName::new("public", "child")];
    let cascades = Cascades { columns: vec!["id".to_owned()], tables: children };
    touched.watch([table("parent", cascades), table("child", Cascades::default())], false);
    touched.note(&transaction(vec![insert("parent", 1)]));
    assert!(touched.take_dirty().is_none(), "nothing refers to a new row");
    let parent = schema("parent", 23);
    let update = |to: &str| ChangeEvent::Update {
        table: parent.clone(),
        old: Some(OldRow::Full(row("1"))),
        new: row(to),
    };
    touched.note(&transaction(vec![update("1")]));
    assert!(touched.take_dirty().is_none());
    touched.note(&transaction(vec![update("2")]));
    let (name, dirty, _) = touched.take_dirty().unwrap();
    assert_eq!(name, QualifiedName::new("public", "child"));
    touched.soil(&name, dirty);
    touched.postpone(&name);
    assert!(touched.take_dirty().is_none(), "others go first for a while");
    touched.settle(&name, Vec::new());
    let delete = ChangeEvent::Delete { table: parent.clone(), old: OldRow::Full(row("2")) };
    touched.note(&transaction(vec![delete]));
    assert_eq!(touched.unproven().dirty.len(), 1);
}
