//! Rows that the stream has written since they were last proven equal: what a continuous
//! verification has yet to look at.
//!
//! The scheduling task notes the keys of every window before the lanes get it, so a row that the
//! target has from the stream is here, or was here and has been looked at since. A key is held once
//! however often it is written. Memory is bounded: beyond it the table with the most keys is *dirty*,
//! which means that all of it has to be compared again; so is a table whose keys the stream does not
//! tell. Nothing is noted while nobody watches.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use decoders::change::{OldRow, Value};
use decoders::postgres::catalog::CONTROL_SCHEMA;
use decoders::{ChangeEvent, QualifiedName, Row, TableSchema, Transaction};
use tokio::time::Instant;

/// Keys in all.
const ROWS_MAX: usize = 200_000;
/// Bytes of their values in all.
const BYTES_MAX: usize = 32 << 20;
/// How long a table that can't be looked at waits for the others.
const POSTPONED: Duration = Duration::from_secs(10);
/// Table versions whose columns are remembered.
const VERSIONS_MAX: usize = 1024;

/// A row's key as text, in the order of the columns that it was asked for.
pub type Key = Vec<String>;

/// Where the key's columns are in a row, as far as they are there.
type Positions = Arc<[Option<usize>]>;

/// What has been written and not been looked at. Cheap where nobody watches.
#[derive(Default)]
pub struct Touched {
    is_watched: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tables: HashMap<QualifiedName, Table>,
    /// All tables of the stream are to be there.
    is_whole: bool,
    /// What was written and can't be noted.
    void: Option<&'static str>,
    out: Option<Out>,
    rows: usize,
    bytes: usize,
    /// Where the key's columns are in a table's version, by its address; the version is kept, so
    /// that the address stays its own. `None`: nobody watches it.
    columns: HashMap<usize, (Arc<TableSchema>, Option<Positions>)>,
}

/// Taken, and not given back yet.
struct Out {
    rows: usize,
    oldest: Instant,
    dirty: Option<(QualifiedName, Dirty)>,
}

struct Table {
    key: Vec<String>,
    columns: HashSet<String>,
    rows: HashMap<Key, Instant>,
    dirty: Option<Dirty>,
    /// When it could not be looked at: others go first for a while.
    postponed: Option<Instant>,
}

/// A table that is to be watched.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Its name.
    pub name: QualifiedName,
    /// The columns by which its rows are noted; none, if it has no key.
    pub key: Vec<String>,
    /// All that are compared.
    pub columns: Vec<String>,
}

/// Why all of a table has to be compared again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirty {
    /// Since when.
    pub since: Instant,
    /// In words.
    pub why: &'static str,
}

/// How much is not proven.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unproven {
    /// Rows, those that are being looked at included.
    pub rows: usize,
    /// The oldest of them, or of the dirty tables.
    pub oldest: Option<Instant>,
    /// Tables that have to be compared again, by name.
    pub dirty: Vec<(QualifiedName, Dirty)>,
    /// Why nothing is proven any more: something was written that nobody has ever compared.
    pub void: Option<&'static str>,
}

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Rows of a table, and since when each of them is not proven.
    Rows(QualifiedName, Vec<(Key, Instant)>),
    /// A table as a whole.
    Table(QualifiedName, Dirty),
}

impl Touched {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// From now on what is written to these tables is noted. `is_whole`: they are all tables of the
    /// stream, so that a change of another one is of one that came later.
    pub fn watch(&self, tables: impl IntoIterator<Item = Watched>, is_whole: bool) {
        let table = |Watched { name, key, columns }: Watched| {
            let columns = columns.into_iter().collect();
            let (rows, dirty, postponed) = (HashMap::new(), None, None);
            (name, Table { key, columns, rows, dirty, postponed })
        };
        let tables = tables.into_iter().map(table).collect();
        *self.state() = State { tables, is_whole, ..State::default() };
        self.is_watched.store(true, Ordering::Release);
    }

    /// Nothing is noted any more, and nothing is known.
    pub fn forget(&self) {
        self.is_watched.store(false, Ordering::Release);
        *self.state() = State::default();
    }

    /// Notes what is about to be applied.
    pub fn note(&self, transactions: &[Transaction]) {
        if !self.is_watched.load(Ordering::Acquire) {
            return;
        }
        let now = Instant::now();
        let mut state = self.state();
        for change in transactions.iter().flat_map(|transaction| &transaction.changes) {
            state.note(change, now);
        }
        state.keep_to(ROWS_MAX, BYTES_MAX, now);
    }

    /// What is not proven now.
    pub fn unproven(&self) -> Unproven {
        let state = self.state();
        let held = state.tables.values().flat_map(|table| table.rows.values().copied());
        let dirty = state
            .tables
            .iter()
            .filter_map(|(name, table)| table.dirty.clone().map(|dirty| (name.clone(), dirty)));
        let out = state.out.as_ref();
        let taken = out.and_then(|out| out.dirty.clone());
        let mut dirty: Vec<(QualifiedName, Dirty)> = dirty.chain(taken).collect();
        dirty.sort_by(|a, b| a.0.cmp(&b.0));
        dirty.dedup_by(|a, b| a.0 == b.0);
        let since = dirty.iter().map(|(_, dirty)| dirty.since);
        Unproven {
            rows: state.rows + out.map_or(0, |out| out.rows),
            oldest: held.chain(out.map(|out| out.oldest)).chain(since).min(),
            dirty,
            void: state.void,
        }
    }

    /// Takes what has waited longest: the rows of a table, or a table that has to be compared again.
    /// What was taken before has been looked at or given back. Of a table that is taken, what is
    /// written from now on is noted row by row again.
    pub fn take(&self) -> Option<Next> {
        let mut state = self.state();
        state.out = None;
        let waits = |table: &Table| {
            let oldest = table.rows.values().copied().min();
            oldest.or(table.dirty.as_ref().map(|dirty| dirty.since))
        };
        let now = Instant::now();
        let is_postponed = |table: &Table| {
            table.postponed.is_some_and(|at| now.saturating_duration_since(at) < POSTPONED)
        };
        let waiting = state
            .tables
            .iter()
            .filter_map(|(name, table)| Some((is_postponed(table), waits(table)?, name)));
        let (_, oldest, name) = waiting.min_by_key(|(later, oldest, _)| (*later, *oldest))?;
        let name = name.clone();
        let table = state.tables.get_mut(&name)?;
        if let Some(dirty) = table.dirty.take() {
            state.out = Some(Out { rows: 0, oldest, dirty: Some((name.clone(), dirty.clone())) });
            return Some(Next::Table(name, dirty));
        }
        let rows: Vec<(Key, Instant)> = table.rows.drain().collect();
        state.rows -= rows.len();
        state.bytes -= rows.iter().map(|(key, _)| bytes(key)).sum::<usize>();
        state.out = Some(Out { rows: rows.len(), oldest, dirty: None });
        Some(Next::Rows(name, rows))
    }

    /// Gives back what could not be settled; the rest of what was taken is proven.
    pub fn settle(&self, table: &QualifiedName, open: Vec<(Key, Instant)>) {
        let mut state = self.state();
        state.out = None;
        for (key, since) in open {
            state.put(table, key, since);
        }
    }

    /// A table that can't be looked at now: others go first for a while.
    pub fn postpone(&self, table: &QualifiedName) {
        if let Some(known) = self.state().tables.get_mut(table) {
            known.postponed = Some(Instant::now());
        }
    }

    /// A table that has to be compared again.
    pub fn soil(&self, table: &QualifiedName, dirty: Dirty) {
        let mut state = self.state();
        state.out = None;
        state.soil(table, dirty);
    }
}

impl State {
    fn note(&mut self, change: &ChangeEvent, now: Instant) {
        let (schema, old, new) = match change {
            ChangeEvent::Insert { table, new } => (table, None, Some(new)),
            ChangeEvent::Update { table, old, new } => (table, old.as_ref(), Some(new)),
            ChangeEvent::Delete { table, old } => (table, Some(old), None),
            ChangeEvent::Truncate { tables, .. } => {
                for table in tables {
                    self.soil(&table.name, Dirty { since: now, why: "it was truncated" });
                }
                return;
            }
            ChangeEvent::Message { .. } => return,
            ChangeEvent::Definition(_) => {
                self.void = Some("a table was defined anew");
                return;
            }
            ChangeEvent::Distributed(_) => {
                self.void = Some("a distributed transaction was prepared or ended");
                return;
            }
        };
        let Some(columns) = self.columns_of(schema) else { return };
        if self.tables.get(&schema.name).is_none_or(|table| table.dirty.is_some()) {
            return;
        }
        if columns.is_empty() {
            return self.soil(&schema.name, Dirty { since: now, why: "it has no key" });
        }
        let of_old = |at| old.map(|old| value_of(schema, at, old.row(), is_key_only(old)));
        let before = old.map(|old| {
            let value = |at: &Option<usize>| value_of(schema, *at, old.row(), is_key_only(old));
            columns.iter().map(value).collect()
        });
        let after = new.map(|new| {
            // A value that is too long to be sent again did not change, and is in the old image.
            let value = |at: &Option<usize>| {
                let value = value_of(schema, *at, new, false);
                value.or_else(|why| of_old(*at).unwrap_or(Err(why)))
            };
            columns.iter().map(value).collect()
        });
        let keys: [Option<Result<Key, &'static str>>; 2] = [before, after];
        for key in keys.into_iter().flatten() {
            match key {
                Ok(key) => self.put(&schema.name, key, now),
                Err(why) => return self.soil(&schema.name, Dirty { since: now, why }),
            }
        }
    }

    fn put(&mut self, table: &QualifiedName, key: Key, since: Instant) {
        let Some(known) = self.tables.get_mut(table).filter(|table| table.dirty.is_none()) else {
            return;
        };
        let bytes = bytes(&key);
        match known.rows.entry(key) {
            Entry::Occupied(mut entry) => {
                let oldest = since.min(*entry.get());
                entry.insert(oldest);
            }
            Entry::Vacant(entry) => {
                entry.insert(since);
                self.rows += 1;
                self.bytes += bytes;
            }
        }
    }

    fn soil(&mut self, table: &QualifiedName, dirty: Dirty) {
        let Some(known) = self.tables.get_mut(table) else { return };
        let oldest = known.rows.values().copied().chain([dirty.since]).min();
        self.rows -= known.rows.len();
        self.bytes -= known.rows.keys().map(bytes).sum::<usize>();
        known.rows = HashMap::new();
        let since = oldest.unwrap_or(dirty.since);
        known.dirty.get_or_insert(Dirty { since, ..dirty });
    }

    fn keep_to(&mut self, rows_max: usize, bytes_max: usize, now: Instant) {
        while self.rows > rows_max || self.bytes > bytes_max {
            let most = self.tables.iter().max_by_key(|(_, table)| table.rows.len());
            let Some(name) = most.map(|(name, _)| name.clone()) else { return };
            let why = "more of its rows were written than are kept in mind";
            self.soil(&name, Dirty { since: now, why });
        }
    }

    /// Where the key is in this version of its table; `None` if the table is not watched.
    fn columns_of(&mut self, schema: &Arc<TableSchema>) -> Option<Positions> {
        let address = Arc::as_ptr(schema) as usize;
        if let Some((_, columns)) = self.columns.get(&address) {
            return columns.clone();
        }
        if self.columns.len() >= VERSIONS_MAX {
            self.columns.clear();
        }
        let position =
            |name: &String| schema.column_names().position(|column| column == name.as_str());
        let table = self.tables.get(&schema.name);
        let is_new = table.is_none() && schema.name.schema != CONTROL_SCHEMA;
        let has_more = table.is_some_and(|table| {
            schema.column_names().any(|column| !table.columns.contains(column))
        });
        if self.is_whole && is_new {
            self.void = Some("a table has come that was never compared");
        }
        if has_more {
            self.void = Some("a column has come that was never compared");
        }
        let columns: Option<Positions> =
            table.map(|table| table.key.iter().map(position).collect());
        self.columns.insert(address, (schema.clone(), columns.clone()));
        columns
    }
}

fn is_key_only(old: &OldRow) -> bool {
    matches!(old, OldRow::Key(_))
}

fn bytes(key: &Key) -> usize {
    key.iter().map(String::len).sum()
}

/// A key column's value as text, or why the row does not tell.
fn value_of(
    schema: &TableSchema,
    at: Option<usize>,
    row: &Row,
    identity_only: bool,
) -> Result<String, &'static str> {
    let at = at.ok_or("the stream does not send its key")?;
    let column = schema.columns.get(at).ok_or("the stream does not send its key")?;
    if identity_only && !column.in_key {
        return Err("its replica identity is not the key that it is compared by");
    }
    let value = row.value(at).ok_or("the stream does not send its key")?;
    text(column.type_oid, value).ok_or("its key comes in binary")
}

/// OIDs of the types whose binary form is read here (`pg_type.dat`): those that keys are made of.
const BOOL: u32 = 16;
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const OID: u32 = 26;
const TEXTS: [u32; 4] = [19, 25, 1042, 1043];
const UUID: u32 = 2950;
const DATE: u32 = 1082;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
/// From the Unix epoch to PostgreSQL's, 2000-01-01, in days.
const EPOCH_DAYS: i64 = 10_957;
const DAY_US: i64 = 86_400_000_000;

/// A value's text; `None` for NULL and for what is not understood.
fn text(type_oid: u32, value: Value<'_>) -> Option<String> {
    let bytes = match value {
        Value::Null => return None,
        Value::Text(bytes) => return std::str::from_utf8(bytes).ok().map(str::to_owned),
        Value::Binary(bytes) => bytes,
    };
    Some(match type_oid {
        BOOL => if *bytes.first()? == 0 { "f" } else { "t" }.to_owned(),
        INT2 => i16::from_be_bytes(bytes.try_into().ok()?).to_string(),
        INT4 => i32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        INT8 => i64::from_be_bytes(bytes.try_into().ok()?).to_string(),
        OID => u32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        UUID => uuid::Uuid::from_slice(bytes).ok()?.to_string(),
        DATE => {
            let days = i32::from_be_bytes(bytes.try_into().ok()?);
            let at = moment((i64::from(days)).checked_mul(DAY_US)?)?;
            at.strftime("%Y-%m-%d").to_string()
        }
        TIMESTAMP => {
            let at = moment(i64::from_be_bytes(bytes.try_into().ok()?))?;
            at.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string()
        }
        TIMESTAMPTZ => {
            let at = moment(i64::from_be_bytes(bytes.try_into().ok()?))?;
            at.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
        }
        oid if TEXTS.contains(&oid) => std::str::from_utf8(bytes).ok()?.to_owned(),
        _ => return None,
    })
}

/// A time by its microseconds since PostgreSQL's epoch; `None` for infinity and for years that are not
/// written with four digits.
fn moment(since_epoch_us: i64) -> Option<jiff::civil::DateTime> {
    let us = since_epoch_us.checked_add(EPOCH_DAYS * DAY_US)?;
    let at = jiff::Timestamp::from_microsecond(us).ok()?.to_zoned(jiff::tz::TimeZone::UTC);
    Some(at.datetime()).filter(|at| (1..=9999).contains(&at.year()))
}

#[cfg(test)]
mod tests {
    use decoders::change::{Cell, Column, ReplicaIdentity};
    use decoders::{Lsn, Part, TableId};

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
        let write =
            || transaction(vec![ChangeEvent::Insert { table: schema.clone(), new: row("1") }]);
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
        let insert = |name: &str, id: usize| ChangeEvent::Insert {
            table: schema(name, 23),
            new: row(&id.to_string()),
        };
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
        let truncated = ChangeEvent::Truncate {
            tables: [schema].into(),
            cascade: false,
            restart_identity: false,
        };
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
    fn binary_keys_are_read() {
        assert_eq!(text(INT4, Value::Binary(&7_i32.to_be_bytes())).as_deref(), Some("7"));
        assert_eq!(text(INT8, Value::Binary(&(-7_i64).to_be_bytes())).as_deref(), Some("-7"));
        assert_eq!(text(INT4, Value::Binary(&[1])), None);
        assert_eq!(text(25, Value::Binary(b"a b")).as_deref(), Some("a b"));
        let at = |oid, value: i64| text(oid, Value::Binary(&value.to_be_bytes()));
        assert_eq!(at(TIMESTAMPTZ, 1_500_000).unwrap(), "2000-01-01 00:00:01.500000+00");
        assert_eq!(at(TIMESTAMP, -1).unwrap(), "1999-12-31 23:59:59.999999");
        assert_eq!((at(TIMESTAMP, i64::MAX), at(TIMESTAMPTZ, i64::MIN)), (None, None));
        assert_eq!(text(DATE, Value::Binary(&366_i32.to_be_bytes())).unwrap(), "2001-01-01");
    }
}
