//! Rows that the stream has written since they were last proven equal: what a continuous
//! verification has yet to look at.
//!
//! The scheduling task notes the keys of every window before the lanes get it, so a row that the
//! target has from the stream is here, or was here and has been looked at since. A key is held once
//! however often it is written. Memory is bounded: beyond it the table with the most keys is *dirty*,
//! which means that all of it has to be compared again; so is a table whose keys the stream does not
//! tell. Nothing is noted while nobody watches.

#[cfg(test)]
mod tests;
mod text;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use decoders::change::OldRow;
use decoders::postgres::catalog::CONTROL_SCHEMA;
use decoders::{ChangeEvent, Lsn, QualifiedName, Row, TableSchema, Transaction};
use tokio::time::Instant;

use text::text;

/// Keys in all.
const ROWS_MAX: usize = 200_000;
/// Bytes of their values in all.
const BYTES_MAX: usize = 32 << 20;
/// How long a table that can't be looked at waits for the others.
const POSTPONED: Duration = Duration::from_secs(10);
/// Table versions whose columns are remembered.
const VERSIONS_MAX: usize = 1024;

/// A row's key as text, in the order of the columns that it was asked for; bytes of MySQL and MariaDB as
/// `0x` and digits.
pub type Key = Vec<String>;

/// Rows of a table, and since when each of them is not proven.
pub type TouchedRows = (QualifiedName, Vec<(Key, Instant)>);

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
    /// Everything that was noted ends before it.
    through: Lsn,
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
    cascades: Cascades,
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
    /// What changes along with its rows and is not in the stream.
    pub cascades: Cascades,
}

/// Tables whose rows foreign keys change along with those of another one, where the source does not log it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cascades {
    /// Columns that are referred to.
    pub columns: Vec<String>,
    /// The tables, also those behind others.
    pub tables: Vec<QualifiedName>,
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
        let table = |Watched { name, key, columns, cascades }: Watched| {
            let columns = columns.into_iter().collect();
            let (rows, dirty, postponed) = (HashMap::new(), None, None);
            (name, Table { key, columns, cascades, rows, dirty, postponed })
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
        for transaction in transactions {
            let end = transaction.end_lsn.unwrap_or(Lsn(transaction.commit_lsn.0 + 1));
            state.through = state.through.max(end);
            for change in &transaction.changes {
                state.note(change, now);
            }
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

    /// Takes the rows of all tables, and a position of the stream behind all that was noted: what is seen
    /// of them once the target has everything before it is at least what was noted. What was taken before
    /// has been looked at or given back.
    pub fn take_rows(&self) -> (Vec<TouchedRows>, Lsn) {
        let mut state = self.state();
        state.out = None;
        let mut taken = Vec::new();
        for (name, table) in state.tables.iter_mut().filter(|(_, table)| !table.rows.is_empty()) {
            taken.push((name.clone(), table.rows.drain().collect::<Vec<_>>()));
        }
        let rows = state.rows;
        (state.rows, state.bytes) = (0, 0);
        let since = taken.iter().flat_map(|(_, rows)| rows).map(|(_, since)| *since);
        state.out = since.min().map(|oldest| Out { rows, oldest, dirty: None });
        (taken, state.through)
    }

    /// Gives back which of these rows could not be settled; the others are proven.
    pub fn settle_rows(&self, open: Vec<TouchedRows>) {
        let mut state = self.state();
        state.out = None;
        for (table, rows) in open {
            for (key, since) in rows {
                state.put(&table, key, since);
            }
        }
        state.keep_to(ROWS_MAX, BYTES_MAX, Instant::now());
    }

    /// Takes the table that has to be compared again since longest, with a position as
    /// [`Touched::take_rows`] gives it. What is written to it from now on is noted row by row again.
    pub fn take_dirty(&self) -> Option<(QualifiedName, Dirty, Lsn)> {
        let mut state = self.state();
        state.out = None;
        let now = Instant::now();
        let waiting = state.tables.iter().filter_map(|(name, table)| {
            let is_postponed =
                table.postponed.is_some_and(|at| now.saturating_duration_since(at) < POSTPONED);
            Some((table.dirty.as_ref().filter(|_| !is_postponed)?.since, name))
        });
        let (oldest, name) = waiting.min_by_key(|(since, _)| *since)?;
        let name = name.clone();
        let dirty = state.tables.get_mut(&name)?.dirty.take()?;
        state.out = Some(Out { rows: 0, oldest, dirty: Some((name.clone(), dirty.clone())) });
        Some((name, dirty, state.through))
    }

    /// Gives back what could not be settled; the rest of what was taken is proven.
    pub fn settle(&self, table: &QualifiedName, open: Vec<(Key, Instant)>) {
        let mut state = self.state();
        state.out = None;
        for (key, since) in open {
            state.put(table, key, since);
        }
        state.keep_to(ROWS_MAX, BYTES_MAX, Instant::now());
    }

    /// A table that has to be compared again, while others are being looked at.
    pub fn note_dirty(&self, table: &QualifiedName, dirty: Dirty) {
        self.state().soil(table, dirty);
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
        self.cascade(schema, old.map(OldRow::row), new, now);
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

    /// What this change changes in other tables, unseen.
    fn cascade(
        &mut self,
        schema: &TableSchema,
        old: Option<&Row>,
        new: Option<&Row>,
        now: Instant,
    ) {
        let Some(table) = self.tables.get(&schema.name) else { return };
        let (Some(old), cascades) = (old, &table.cascades) else { return };
        if cascades.tables.is_empty() {
            return;
        }
        let differs = |column: &String| {
            let at = schema.column_names().position(|name| name == column.as_str());
            at.zip(new).is_none_or(|(at, new)| old.value(at) != new.value(at))
        };
        if cascades.columns.iter().any(differs) {
            let why = "rows of it changed along with those that they refer to";
            for table in cascades.tables.clone() {
                self.soil(&table, Dirty { since: now, why });
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
    text(column, value).ok_or("its key comes in binary")
}
