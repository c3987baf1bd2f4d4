//! Each rule of the reducer, by example.

use std::sync::Arc;

use decoders::change::{Cell, ChangeEvent, Lsn, OldRow, ReplicaIdentity as Id, Row};

use super::fixture::{Made, delete, insert, row, truncate, update, update_from};
use super::{NetTable, NotReducible, Step, Why, reduce};
use crate::plan::TablePlan;

/// Key `c0`, then `c1` and `c2`.
fn keyed() -> Arc<TablePlan> {
    Made::new(1, Id::Default, 3, 1).plan()
}

fn steps<'a>(
    plans: &[&Arc<TablePlan>],
    changes: &'a [ChangeEvent],
) -> Result<Vec<Step<'a>>, NotReducible> {
    let numbered = changes.iter().zip(1..).map(|(change, n)| (change, Lsn(n)));
    reduce(numbered, |schema| {
        plans.iter().find(|plan| Arc::ptr_eq(plan.schema(), schema)).map(|plan| Arc::clone(plan))
    })
}

fn shown(row: &Row) -> String {
    let cell = |cell: Cell<'_>| match cell.value() {
        None => "?".to_owned(),
        Some(value) => value.bytes().map_or("~".into(), |b| String::from_utf8_lossy(b).into()),
    };
    row.cells().map(cell).collect::<Vec<_>>().join(",")
}

fn table(table: &NetTable<'_>) -> String {
    let mut out = Vec::new();
    let key = |row: &Row| {
        let positions = table.plan.key_positions().unwrap_or_default();
        let cell = |at: &usize| row.cell(*at).expect("as wide");
        shown(&positions.iter().map(cell).collect())
    };
    out.extend(table.deletes.iter().map(|row| format!("-{}", key(row))));
    for group in &table.updates {
        out.extend(group.rows.iter().map(|row| format!("{}:{}", key(row.key), shown(&row.new))));
    }
    out.extend(table.inserts.iter().map(|row| format!("+{}", shown(row))));
    if !table.in_order.is_empty() {
        out.push(format!("{} in order", table.in_order.len()));
    }
    out.join(" ")
}

/// The steps as text: `-key`, `key:new`, `+new`.
fn net(plans: &[&Arc<TablePlan>], changes: &[ChangeEvent]) -> String {
    let steps = steps(plans, changes).expect("reducible");
    let shown = steps.iter().map(|step| match step {
        Step::Rows(rows) => rows.tables.iter().map(table).collect::<Vec<_>>().join(" | "),
        Step::Truncate(..) => "truncate".to_owned(),
    });
    shown.collect::<Vec<_>>().join("; ")
}

fn refused(plan: &Arc<TablePlan>, changes: &[ChangeEvent]) -> (Why, Lsn) {
    let refusal = steps(&[plan], changes).expect_err("not reducible");
    (refusal.why, refusal.commit_lsn)
}

#[test]
fn nothing_comes_to_nothing() {
    assert_eq!(net(&[], &[]), "");
    let message = ChangeEvent::Message { prefix: "p".into(), content: Default::default() };
    assert_eq!(net(&[], &[message]), "");
}

#[test]
fn a_row_updated_often_is_updated_once() {
    let t = keyed();
    let changes = [update(&t, &["1", "a", "b"]), update(&t, &["1", "c", "d"])];
    assert_eq!(net(&[&t], &changes), "1:1,c,d");
}

#[test]
fn gaps_keep_earlier_values_or_stay_gaps() {
    let t = keyed();
    let changes = [
        update(&t, &["1", "?", "b"]),
        update(&t, &["1", "?", "c"]),
        update(&t, &["2", "x", "y"]),
        update(&t, &["2", "?", "z"]),
        insert(&t, &["3", "big", "n"]),
        update(&t, &["3", "?", "m"]),
    ];
    assert_eq!(net(&[&t], &changes), "1:1,?,c 2:2,x,z +3,big,m");
}

#[test]
fn updates_are_grouped_by_their_columns() {
    let t = keyed();
    let changes =
        [update(&t, &["1", "a", "b"]), update(&t, &["2", "?", "b"]), update(&t, &["3", "a", "b"])];
    let steps = steps(&[&t], &changes).expect("reducible");
    let [Step::Rows(rows)] = steps.as_slice() else { panic!("one stretch") };
    let groups = &rows.tables[0].updates;
    assert_eq!(groups.iter().map(|group| group.rows.len()).collect::<Vec<_>>(), [2, 1]);
    assert!(groups[0].present.contains(1) && !groups[1].present.contains(1));
}

#[test]
fn created_rows_take_their_updates_and_vanish_with_their_delete() {
    let t = keyed();
    let changes = [
        insert(&t, &["1", "a", "b"]),
        update(&t, &["1", "c", "d"]),
        insert(&t, &["2", "a", "b"]),
        delete(&t, &["2", "~", "~"]),
    ];
    assert_eq!(net(&[&t], &changes), "+1,c,d");
    assert_eq!(net(&[&t], &changes[2..]), "");
}

#[test]
fn an_existing_row_is_deleted_once_whatever_happened_to_it() {
    let t = keyed();
    let changes = [
        update(&t, &["1", "a", "b"]),
        update_from(&t, &["1", "~", "~"], &["2", "a", "b"]),
        delete(&t, &["2", "~", "~"]),
    ];
    assert_eq!(net(&[&t], &changes), "-1");
}

#[test]
fn a_row_that_comes_back_is_deleted_and_inserted() {
    let t = keyed();
    let changes = [
        delete(&t, &["1", "~", "~"]),
        insert(&t, &["1", "a", "b"]),
        delete(&t, &["1", "~", "~"]),
        insert(&t, &["1", "c", "d"]),
    ];
    assert_eq!(net(&[&t], &changes), "-1 +1,c,d");
}

#[test]
fn a_changed_key_is_one_update_by_the_first_key() {
    let t = keyed();
    let changes = [
        update_from(&t, &["1", "~", "~"], &["2", "a", "b"]),
        update_from(&t, &["2", "~", "~"], &["3", "c", "?"]),
        insert(&t, &["1", "n", "n"]),
        update_from(&t, &["1", "~", "~"], &["2", "n", "n"]),
    ];
    assert_eq!(net(&[&t], &changes), "1:3,c,b +2,n,n");
}

#[test]
fn a_key_that_moves_there_and_back() {
    let t = keyed();
    let changes = [
        update_from(&t, &["1", "~", "~"], &["2", "a", "b"]),
        update_from(&t, &["2", "~", "~"], &["1", "c", "d"]),
    ];
    assert_eq!(net(&[&t], &changes), "1:1,c,d");
}

#[test]
fn a_key_of_a_deleted_row_is_free() {
    let t = keyed();
    let changes =
        [delete(&t, &["2", "~", "~"]), update_from(&t, &["1", "~", "~"], &["2", "a", "b"])];
    assert_eq!(net(&[&t], &changes), "-2 1:2,a,b");
}

#[test]
fn rows_that_wait_for_each_others_keys_keep_their_order() {
    let t = keyed();
    let swap = [
        update_from(&t, &["1", "~", "~"], &["9", "a", "a"]),
        update_from(&t, &["2", "~", "~"], &["1", "b", "b"]),
        update_from(&t, &["9", "~", "~"], &["2", "a", "a"]),
    ];
    assert_eq!(net(&[&t], &swap), "3 in order");
    let chain = [
        update_from(&t, &["2", "~", "~"], &["3", "b", "b"]),
        update_from(&t, &["1", "~", "~"], &["2", "a", "a"]),
    ];
    assert_eq!(net(&[&t], &chain), "2 in order");
}

#[test]
fn contradictions_are_not_reducible() {
    let t = keyed();
    let row = |id: &'static str| insert(&t, &[id, "a", "b"]);
    let gone = |id: &'static str| delete(&t, &[id, "~", "~"]);
    let set = |id: &'static str| update(&t, &[id, "a", "b"]);
    let moved =
        |from: &'static str, to: &'static str| update_from(&t, &[from, "~", "~"], &[to, "a", "b"]);
    for (changes, why) in [
        ([row("1"), row("1")], Why::KeyTaken),
        ([set("1"), row("1")], Why::KeyTaken),
        ([set("2"), moved("1", "2")], Why::KeyTaken),
        ([row("2"), moved("1", "2")], Why::KeyTaken),
        ([gone("1"), gone("1")], Why::RowGone),
        ([gone("1"), set("1")], Why::RowGone),
        ([moved("1", "2"), set("1")], Why::RowGone),
        ([moved("1", "2"), gone("1")], Why::RowGone),
    ] {
        assert_eq!(refused(&t, &changes), (why, Lsn(2)), "{changes:?}");
    }
}

#[test]
fn changes_that_do_not_fit_are_not_reducible() {
    let t = keyed();
    assert_eq!(refused(&t, &[insert(&t, &["1", "?", "b"])]), (Why::Unfit, Lsn(1)));
    assert_eq!(refused(&t, &[update(&t, &["?", "a", "b"])]), (Why::Unfit, Lsn(1)));
    assert_eq!(refused(&t, &[insert(&t, &["1", "a"])]), (Why::Unfit, Lsn(1)));
    let other = Made::new(2, Id::Default, 3, 1).plan();
    assert_eq!(refused(&t, &[insert(&other, &["1", "a", "b"])]), (Why::Unfit, Lsn(1)));
    let nothing = Made::new(3, Id::Nothing, 1, 0).plan();
    assert_eq!(refused(&nothing, &[delete(&nothing, &["1"])]), (Why::Unfit, Lsn(1)));
}

#[test]
fn lists_are_in_key_order_and_tables_in_order_of_first_touch() {
    let (t, u) = (keyed(), Made::new(2, Id::Default, 1, 1).plan());
    let changes = [
        insert(&u, &["1"]),
        update(&t, &["10", "a", "b"]),
        delete(&t, &["22", "~", "~"]),
        update(&t, &["9", "a", "b"]),
        insert(&u, &["0"]),
        delete(&t, &["3", "~", "~"]),
    ];
    assert_eq!(net(&[&t, &u], &changes), "+0 +1 | -3 -22 9:9,a,b 10:10,a,b");
    let steps = steps(&[&t, &u], &changes).expect("reducible");
    let [Step::Rows(rows)] = steps.as_slice() else { panic!("one stretch") };
    assert_eq!(rows.tables[0].commits, (Lsn(1), Lsn(5)));
    assert_eq!(rows.tables[1].commits, (Lsn(2), Lsn(6)));
}

#[test]
fn full_identity_compares_the_keys_of_both_images() {
    let t = Made::new(1, Id::Full, 3, 1).plan();
    let changes = [
        update_from(&t, &["1", "a", "b"], &["1", "c", "d"]),
        update_from(&t, &["2", "a", "b"], &["3", "a", "b"]),
        delete(&t, &["4", "a", "b"]),
    ];
    assert_eq!(net(&[&t], &changes), "-4 1:1,c,d 2:3,a,b");
}

#[test]
fn a_toasted_key_that_did_not_change_is_in_the_old_image() {
    let t = keyed();
    let changes = [
        update_from(&t, &["long", "~", "~"], &["?", "a", "b"]),
        update_from(&t, &["long", "~", "~"], &["new", "c", "?"]),
        delete(&t, &["long2", "~", "~"]),
        update_from(&t, &["new", "~", "~"], &["?", "d", "?"]),
    ];
    assert_eq!(net(&[&t], &changes), "-long2 long:new,d,b");
}

#[test]
fn an_update_without_anything_to_set_keeps_the_order() {
    let t = Made::new(1, Id::Default, 1, 1).plan();
    assert_eq!(net(&[&t], &[update_from(&t, &["long"], &["?"])]), "1 in order");
}

#[test]
fn keyless_tables_take_inserts_and_keep_the_order_of_anything_else() {
    for t in
        [Made::new(1, Id::Full, 2, 0).plan(), Made::new(1, Id::Full, 2, 1).without_index().plan()]
    {
        let changes = [insert(&t, &["2", "b"]), insert(&t, &["1", "a"]), delete(&t, &["1", "a"])];
        assert_eq!(net(&[&t], &changes[..2]), "+2,b +1,a");
        assert_eq!(net(&[&t], &changes), "3 in order");
    }
    let t = Made::new(1, Id::Nothing, 1, 0).plan();
    assert_eq!(net(&[&t], &[insert(&t, &["1"]), insert(&t, &["1"])]), "+1 +1");
}

#[test]
fn a_key_that_green_does_not_enforce_keeps_the_order() {
    let t = Made::new(1, Id::Default, 2, 1).without_index().plan();
    let changes = [insert(&t, &["2", "b"]), update(&t, &["1", "a"])];
    assert_eq!(net(&[&t], &changes), "2 in order");
}

#[test]
fn identity_columns_that_may_change_keep_the_order() {
    let by_key = Made::new(1, Id::Default, 2, 1).identity_always(0).plan();
    assert_eq!(net(&[&by_key], &[update(&by_key, &["1", "a"])]), "1:1,a");
    let moved = update_from(&by_key, &["1", "~"], &["2", "a"]);
    assert_eq!(net(&[&by_key], &[moved]), "1 in order");
    let other = Made::new(1, Id::Default, 2, 1).identity_always(1).plan();
    let changes = [insert(&other, &["1", "7"]), update(&other, &["1", "7"])];
    assert_eq!(net(&[&other], &changes), "2 in order");
}

#[test]
fn what_fires_is_not_reducible() {
    let t = Made::new(1, Id::Default, 1, 1).firing().plan();
    assert_eq!(refused(&t, &[insert(&t, &["1"])]), (Why::Fires, Lsn(1)));
}

#[test]
fn a_truncate_ends_a_stretch() {
    let t = keyed();
    let changes = [
        insert(&t, &["1", "a", "b"]),
        truncate(&[&t]),
        insert(&t, &["1", "c", "d"]),
        truncate(&[&t]),
    ];
    assert_eq!(net(&[&t], &changes), "+1,a,b; truncate; +1,c,d; truncate");
}

#[test]
fn another_version_of_a_table_ends_a_stretch() {
    let (old, new) = (keyed(), Made::new(1, Id::Default, 2, 1).plan());
    let changes =
        [insert(&old, &["1", "a", "b"]), update(&new, &["1", "x"]), update(&old, &["1", "y", "z"])];
    assert_eq!(net(&[&old, &new], &changes), "+1,a,b; 1:1,x; 1:1,y,z");
}

#[test]
fn keys_in_another_form_start_a_new_stretch() {
    let t = Made::new(1, Id::Default, 2, 1).plan();
    let binary = |key: &[u8], value: &'static str| -> ChangeEvent {
        let new = [Cell::binary(key), Cell::text(value)].into_iter().collect();
        ChangeEvent::Update { table: t.schema().clone(), old: None, new }
    };
    let changes = [update(&t, &["1", "a"]), binary(b"1", "b"), binary(b"1", "c")];
    assert_eq!(net(&[&t], &changes), "1:1,a; 1:1,c");
    let both = ChangeEvent::Update {
        table: t.schema().clone(),
        old: Some(OldRow::Key([Cell::binary(b"1"), Cell::NULL].into_iter().collect())),
        new: row(&["1", "a"]),
    };
    assert_eq!(refused(&t, &[both]), (Why::Unfit, Lsn(1)));
}

#[test]
fn values_that_only_sql_finds_equal_are_different_keys() {
    let t = keyed();
    let changes = [
        delete(&t, &["A", "~", "~"]),
        insert(&t, &["a", "x", "y"]),
        update_from(&t, &["1.0", "~", "~"], &["1.00", "x", "y"]),
    ];
    assert_eq!(net(&[&t], &changes), "-A 1.0:1.00,x,y +a,x,y");
}
