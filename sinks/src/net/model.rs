//! Random changes, reduced and written, are what a naive model makes of them one by one.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use decoders::change::{Cell, ChangeEvent, Lsn, OldRow, ReplicaIdentity as Id, Row, Value};
use proptest::prelude::*;

use super::fixture::{Made, delete, insert, truncate, update, update_from};
use super::{NetTable, Step, reduce};
use crate::plan::{ColumnSet, TablePlan};

type Key = Vec<String>;
/// Per table.
type State = Vec<BTreeMap<Key, Vec<String>>>;

const TABLES: usize = 4;

/// Plain, composite, FULL, and one with keys too long to be packed.
fn plans() -> [Arc<TablePlan>; TABLES] {
    [
        Made::new(1, Id::Default, 3, 1).plan(),
        Made::new(2, Id::Default, 4, 2).plan(),
        Made::new(3, Id::Full, 3, 1).plan(),
        Made::new(4, Id::Default, 3, 1).plan(),
    ]
}

/// What happens to a row of one table; ids become keys, values the other two columns.
#[derive(Clone, Debug)]
enum Act {
    Insert {
        id: u8,
        values: (u8, u8),
    },
    /// `gaps`: values that are not sent. `old`: the old image comes even if the key stays, and the
    /// key's last column is left out of the new one.
    Update {
        id: u8,
        to: u8,
        values: (u8, u8),
        gaps: (bool, bool),
        old: bool,
    },
    Delete {
        id: u8,
    },
    /// By a key that is free.
    Swap {
        a: u8,
        b: u8,
    },
    Truncate,
}

#[derive(Clone, Debug)]
struct Wanted {
    table: usize,
    act: Act,
    /// Say it even if it can't be.
    forced: bool,
}

fn wanted() -> impl Strategy<Value = Vec<Wanted>> {
    let id = || 0..6u8;
    let values = || (0..10u8, 0..10u8);
    let act = prop_oneof![
        6 => (id(), values()).prop_map(|(id, values)| Act::Insert { id, values }),
        8 => (id(), id(), any::<bool>(), values(), any::<(bool, bool)>(), any::<bool>()).prop_map(
            |(id, other, moves, values, gaps, old)| {
                Act::Update { id, to: if moves { other } else { id }, values, gaps, old }
            }
        ),
        4 => id().prop_map(|id| Act::Delete { id }),
        1 => (id(), id()).prop_map(|(a, b)| Act::Swap { a, b }),
        1 => Just(Act::Truncate),
    ];
    let one = (0..TABLES, act, prop::bool::weighted(0.02))
        .prop_map(|(table, act, forced)| Wanted { table, act, forced });
    prop::collection::vec(one, 0..60)
}

fn key(table: usize, id: u8) -> Key {
    match table {
        1 => vec![(id / 3).to_string(), (id % 3).to_string()],
        3 => vec![format!("a key that is long {id}")],
        _ => vec![id.to_string()],
    }
}

fn shown(row: &Row) -> Vec<String> {
    let text = |value: Value<'_>| value.bytes().map(|b| String::from_utf8_lossy(b).into_owned());
    let cell = |cell: Cell<'_>| match cell.value() {
        None => "?".to_owned(),
        Some(value) => text(value).unwrap_or("~".to_owned()),
    };
    row.cells().map(cell).collect()
}

/// What a change would say; `state` is only asked for complete old rows.
fn say(plans: &[Arc<TablePlan>], state: &State, table: usize, act: &Act) -> Vec<ChangeEvent> {
    let plan = &plans[table];
    let full = plan.schema().identity == Id::Full;
    let named = |id: u8| {
        let key = key(table, id);
        let known = state[table].get(&key).filter(|_| full).cloned();
        let unknown = || [key, vec!["~".to_owned(); 2]].concat();
        known.unwrap_or_else(unknown)
    };
    let text = |value: u8, gap: bool| if gap { "?".to_owned() } else { value.to_string() };
    match *act {
        Act::Insert { id, values: (a, b) } => {
            vec![insert(plan, &[key(table, id), vec![text(a, false), text(b, false)]].concat())]
        }
        Act::Update { id, to, values: (a, b), gaps, old } => {
            let mut new = [key(table, to), vec![text(a, gaps.0), text(b, gaps.1)]].concat();
            if id == to && !old && !full {
                return vec![update(plan, &new)];
            }
            if id == to && old {
                let last = new.len() - 3;
                new[last] = "?".to_owned();
            }
            vec![update_from(plan, &named(id), &new)]
        }
        Act::Delete { id } => vec![delete(plan, &named(id))],
        Act::Swap { a, b } => {
            let hop =
                |id, to| Act::Update { id, to, values: (7, 7), gaps: (true, true), old: true };
            let mut scratch = state.clone();
            let mut changes = Vec::new();
            for (from, to) in [(a, 200), (b, a), (200, b)] {
                let said = say(plans, &scratch, table, &hop(from, to));
                for change in &said {
                    // Whether that can be is judged where all changes are.
                    let _ = perform(plans, &mut scratch, change);
                }
                changes.extend(said);
            }
            changes
        }
        Act::Truncate => vec![truncate(&[plan])],
    }
}

/// Key before, key after.
type Keys = (Option<Key>, Option<Key>);

fn keys(plan: &TablePlan, change: &ChangeEvent) -> Keys {
    let positions = plan.key_positions().expect("a key");
    let of = |row: &Row| -> Key {
        let cells = shown(row);
        positions.iter().map(|at| cells[*at].clone()).collect()
    };
    match change {
        ChangeEvent::Insert { new, .. } => (None, Some(of(new))),
        ChangeEvent::Update { old, new, .. } => {
            let before = of(old.as_ref().map_or(new, OldRow::row));
            let after = of(new).iter().zip(&before).map(|(new, old)| filled(new, old)).collect();
            (Some(before), Some(after))
        }
        ChangeEvent::Delete { old, .. } => (Some(of(old.row())), None),
        ChangeEvent::Truncate { .. }
        | ChangeEvent::Message { .. }
        | ChangeEvent::Definition(_)
        | ChangeEvent::Distributed(_) => (None, None),
    }
}

fn filled(new: &str, old: &str) -> String {
    if new == "?" { old.to_owned() } else { new.to_owned() }
}

fn place(plans: &[Arc<TablePlan>], change: &ChangeEvent) -> usize {
    let schema = match change {
        ChangeEvent::Insert { table, .. }
        | ChangeEvent::Update { table, .. }
        | ChangeEvent::Delete { table, .. } => table,
        ChangeEvent::Truncate { tables, .. } => &tables[0],
        ChangeEvent::Message { .. } | ChangeEvent::Definition(_) | ChangeEvent::Distributed(_) => {
            panic!("there are none")
        }
    };
    plans.iter().position(|plan| plan.schema() == schema).expect("a table of ours")
}

/// Repeats one change. `None` if it can't be.
fn perform(plans: &[Arc<TablePlan>], state: &mut State, change: &ChangeEvent) -> Option<()> {
    let at = place(plans, change);
    let rows = &mut state[at];
    let (before, after) = keys(&plans[at], change);
    match change {
        ChangeEvent::Truncate { .. } => rows.clear(),
        ChangeEvent::Insert { new, .. } => {
            let key = after?;
            if rows.contains_key(&key) {
                return None;
            }
            rows.insert(key, shown(new));
        }
        ChangeEvent::Update { new, .. } => {
            let row = rows.remove(&before?)?;
            let key = after?;
            let new = shown(new).iter().zip(&row).map(|(new, old)| filled(new, old)).collect();
            if rows.insert(key, new).is_some() {
                return None;
            }
        }
        ChangeEvent::Delete { .. } => {
            rows.remove(&before?)?;
        }
        ChangeEvent::Message { .. } | ChangeEvent::Definition(_) | ChangeEvent::Distributed(_) => {}
    }
    Some(())
}

/// Writes one table's net change as green would, with its key checked row by row. `None` if green
/// would refuse.
fn write(
    plan: &TablePlan,
    rows: &mut BTreeMap<Key, Vec<String>>,
    net: &NetTable<'_>,
) -> Option<()> {
    let positions = plan.key_positions().expect("a key");
    let named = |row: &Row| -> Key {
        let cells = shown(row);
        positions.iter().map(|at| cells[*at].clone()).collect()
    };
    for gone in &net.deletes {
        rows.remove(&named(gone))?;
    }
    for update in net.updates.iter().flat_map(|group| &group.rows) {
        let old = rows.remove(&named(update.key))?;
        let new: Vec<_> =
            shown(&update.new).iter().zip(&old).map(|(new, old)| filled(new, old)).collect();
        let key = positions.iter().map(|at| new[*at].clone()).collect();
        if rows.insert(key, new).is_some() {
            return None;
        }
    }
    for new in &net.inserts {
        assert!(new.is_complete());
        if rows.insert(named(new), shown(new)).is_some() {
            return None;
        }
    }
    Some(())
}

/// What holds for every net change, whatever the changes were.
fn well_formed(net: &NetTable<'_>) {
    let positions = net.plan.key_positions().expect("a key");
    let named = |row: &Row| -> Vec<(usize, String)> {
        let cells = shown(row);
        positions.iter().map(|at| (cells[*at].len(), cells[*at].clone())).collect()
    };
    let increasing = |keys: Vec<Vec<(usize, String)>>| keys.is_sorted_by(|a, b| a < b);
    assert!(increasing(net.deletes.iter().map(|row| named(row)).collect()));
    assert!(increasing(net.inserts.iter().map(|row| named(row)).collect()));
    let mut existing: Vec<_> = net.deletes.iter().map(|row| named(row)).collect();
    for group in &net.updates {
        assert!(increasing(group.rows.iter().map(|row| named(row.key)).collect()));
        for row in &group.rows {
            assert_eq!(ColumnSet::present(&row.new), group.present);
            existing.push(named(row.key));
        }
    }
    let all = existing.len();
    existing.sort();
    existing.dedup();
    assert_eq!(existing.len(), all, "a row is named twice");
    assert!(net.in_order.is_empty() || all + net.inserts.len() == 0);
    let complete = |row: &&Cow<'_, Row>| row.is_complete();
    assert_eq!(net.inserts.iter().filter(complete).count(), net.inserts.len());
}

/// How the changes went one by one.
enum Serial {
    Done(State),
    /// A change could not be, and earlier changes of its stretch say so.
    Contradiction,
    /// A change could not be, as only the rows before the batch say.
    Refused,
}

fn serial(plans: &[Arc<TablePlan>], mut state: State, changes: &[ChangeEvent]) -> Serial {
    let mut known: HashMap<(usize, Key), bool> = HashMap::new();
    for change in changes {
        if matches!(change, ChangeEvent::Truncate { .. }) {
            known.clear();
        }
        let table = place(plans, change);
        let (before, after) = keys(&plans[table], change);
        let moves = before != after;
        let says =
            |key: &Option<Key>| key.clone().and_then(|key| known.get(&(table, key)).copied());
        let visible = says(&before) == Some(false) || (moves && says(&after) == Some(true));
        if perform(plans, &mut state, change).is_none() {
            return if visible { Serial::Contradiction } else { Serial::Refused };
        }
        known.extend(before.map(|key| ((table, key), false)));
        known.extend(after.map(|key| ((table, key), true)));
    }
    Serial::Done(state)
}

fn batch(plans: &[Arc<TablePlan>], mut state: State, steps: Vec<Step<'_>>) -> Option<State> {
    for step in &steps {
        match step {
            Step::Truncate(change, _) => perform(plans, &mut state, change)?,
            Step::Rows(rows) => {
                for net in &rows.tables {
                    well_formed(net);
                    let at = plans.iter().position(|plan| Arc::ptr_eq(plan, &net.plan))?;
                    write(&plans[at], &mut state[at], net)?;
                    for (change, _) in &net.in_order {
                        perform(plans, &mut state, change)?;
                    }
                }
            }
        }
    }
    Some(state)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..Default::default() })]

    #[test]
    fn the_net_change_is_what_the_changes_come_to(
        present in prop::collection::vec(prop::collection::btree_set(0..6u8, 0..5), TABLES),
        wanted in wanted(),
    ) {
        let plans = plans();
        let row = |table, id| [key(table, id), vec!["x".to_owned(), "y".to_owned()]].concat();
        let rows = |(table, ids): (usize, &std::collections::BTreeSet<u8>)| {
            ids.iter().map(|id| (key(table, *id), row(table, *id))).collect()
        };
        let start: State = present.iter().enumerate().map(rows).collect();
        let mut state = start.clone();
        let mut changes = Vec::new();
        for Wanted { table, act, forced } in &wanted {
            let said = say(&plans, &state, *table, act);
            let mut next = state.clone();
            let possible =
                said.iter().all(|change| perform(&plans, &mut next, change).is_some());
            if possible {
                state = next;
            }
            if possible || *forced {
                changes.extend(said);
            }
        }
        let numbered = changes.iter().zip(1..).map(|(change, n)| (change, Lsn(n)));
        let reduced = reduce(numbered, |schema| {
            plans.iter().find(|plan| plan.schema() == schema).cloned()
        });
        match serial(&plans, start.clone(), &changes) {
            Serial::Done(expected) => {
                let steps = reduced.expect("reducible");
                prop_assert_eq!(batch(&plans, start, steps), Some(expected));
            }
            Serial::Contradiction => prop_assert!(reduced.is_err()),
            // Green refuses it, or the row that was in the way is gone in the end.
            Serial::Refused => {}
        }
    }
}
