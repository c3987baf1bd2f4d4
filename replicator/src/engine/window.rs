//! A window: everything that waits, up to the limits; collected while the one before is applied.

use std::collections::HashMap;
use std::sync::Arc;

use decoders::{ChangeEvent, Lsn, QualifiedName, TableSchema, Transaction};
use sinks::conflicts::{TableConflicts, WriteSet};
use sinks::{Target, TargetError};
use tokio::sync::OwnedSemaphorePermit;

use super::schedule::Schedule;

/// Table versions whose facts are remembered; beyond it all are asked for again.
const MOST_TABLES: usize = 16_384;

/// How much goes into one window, and so into one transaction of green if one lane gets it.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Bytes in memory, as [`weight_bytes`](super::budget::weight_bytes) counts them.
    pub bytes: usize,
    /// Transactions of blue.
    pub transactions: usize,
}

/// Transactions on their way to green, with their share of the memory budget; dropping the permit
/// gives it back. Either whole transactions, or one part of a large one.
pub struct Chunk {
    /// In commit order.
    pub transactions: Vec<Transaction>,
    /// What they weigh in memory, in bytes.
    pub weight_bytes: usize,
    /// The same, taken from the budget.
    pub permit: OwnedSemaphorePermit,
}

impl Chunk {
    /// Whether it is a part of a large transaction, or a schema change.
    pub fn stands_alone(&self) -> bool {
        self.transactions.first().is_some_and(Transaction::stands_alone)
    }
}

/// Transactions that are applied together, then the next.
#[derive(Default)]
pub struct Window {
    /// In commit order.
    pub transactions: Vec<Transaction>,
    /// Given back when they are applied.
    pub permits: Vec<OwnedSemaphorePermit>,
    /// One part of a large transaction, or a schema change, and nothing else.
    pub is_alone: bool,
    /// What may be applied beside each other.
    pub schedule: Schedule,
    weight_bytes: usize,
    /// One version of each table that is changed; with a second one, hashes can't be compared.
    versions: HashMap<QualifiedName, Arc<TableSchema>>,
    /// Tables by their columns: one may be a partition of another with the same.
    alike: HashMap<u64, Alike>,
}

/// Tables of a window that have the same columns.
#[derive(Default)]
struct Alike {
    tables: Vec<Arc<TableSchema>>,
    any_partitioned: bool,
}

impl Window {
    /// Whether `chunk` may join.
    pub fn fits(&self, chunk: &Chunk, limits: &BatchLimits) -> bool {
        self.transactions.is_empty()
            || !self.is_alone
                && !chunk.stands_alone()
                && self.weight_bytes + chunk.weight_bytes <= limits.bytes
                && self.transactions.len() + chunk.transactions.len() <= limits.transactions
    }

    /// Whether it is in the source's order, and behind everything up to `floor`.
    pub fn follows(&self, floor: Lsn) -> bool {
        let commits = self.transactions.iter().map(|transaction| transaction.commit_lsn);
        commits.clone().next().is_none_or(|first| first >= floor) && commits.is_sorted()
    }

    /// Where its last transaction ends; `None` for a part that does not end.
    pub fn end(&self) -> Option<Lsn> {
        self.transactions.last().and_then(|transaction| transaction.end_lsn)
    }

    /// Whether it is a schema change: what is behind it can only be looked at when it is on green.
    pub fn is_definition(&self) -> bool {
        self.transactions.first().is_some_and(|first| first.definition().is_some())
    }

    /// Takes the next transactions. Those that are shared out need [`Window::schedule_from`].
    pub fn push(&mut self, chunk: Chunk) {
        self.is_alone |= chunk.stands_alone();
        self.weight_bytes += chunk.weight_bytes;
        self.permits.push(chunk.permit);
        match self.transactions.is_empty() {
            true => self.transactions = chunk.transactions,
            false => self.transactions.extend(chunk.transactions),
        }
    }

    /// Takes out what is committed at or behind `limit`. Neither half is shared out any more: there is no
    /// schedule of a part of a window.
    pub fn cut(&mut self, limit: Lsn) -> Option<Window> {
        let at = self.transactions.partition_point(|each| each.commit_lsn < limit);
        if at == self.transactions.len() {
            return None;
        }
        let rest = Window {
            transactions: self.transactions.split_off(at),
            // What of them is for which half is not known; it is given back with the last.
            permits: std::mem::take(&mut self.permits),
            is_alone: self.is_alone,
            weight_bytes: self.weight_bytes,
            ..Window::default()
        };
        // Not by its length: what is left may be as many as an earlier cut has left in the schedule.
        (self.schedule, self.versions, self.alike) = Default::default();
        Some(rest)
    }

    /// Keeps all order if rows came under two names, a partitioned table's and its partition's:
    /// their hashes can't be compared. Asked right before the window is shared out, as a table can
    /// be attached at any time.
    ///
    /// # Errors
    /// The target's.
    pub async fn keep_shared_rows_in_order<T: Target>(
        &mut self,
        target: &T,
    ) -> Result<(), TargetError> {
        for alike in self.alike.values() {
            if alike.any_partitioned
                && alike.tables.len() > 1
                && target.shares_rows(&alike.tables).await?
            {
                self.schedule.keep_order();
            }
        }
        Ok(())
    }

    /// Groups the transactions from `first` on by what they touch.
    ///
    /// # Errors
    /// The target's, where a table of green has to be looked at.
    pub async fn schedule_from<T: Target>(
        &mut self,
        first: usize,
        known: &mut KnownTables,
        target: &T,
    ) -> Result<(), TargetError> {
        let mut set = WriteSet::default();
        for transaction in &self.transactions[first..] {
            set.clear();
            for change in &transaction.changes {
                let table = match change {
                    ChangeEvent::Insert { table, .. }
                    | ChangeEvent::Update { table, .. }
                    | ChangeEvent::Delete { table, .. } => table,
                    ChangeEvent::Truncate { .. }
                    | ChangeEvent::Definition(_)
                    | ChangeEvent::Distributed(_) => {
                        set.everything = true;
                        continue;
                    }
                    ChangeEvent::Message { .. } => continue,
                };
                let at = match known.find(table) {
                    Some(at) => at,
                    None => known.learn(table, target.conflicts(table).await?),
                };
                let known_table = &mut known.tables[at];
                known_table.conflicts.add(change, &mut set);
                if known_table.seen_in != known.window {
                    known_table.seen_in = known.window;
                    let version = self.versions.entry(table.name.clone());
                    let version = version.or_insert_with(|| table.clone());
                    set.everything |= **version != **table;
                    let alike = self.alike.entry(known_table.conflicts.columns()).or_default();
                    alike.any_partitioned |= known_table.conflicts.is_partitioned();
                    alike.tables.push(table.clone());
                }
            }
            self.schedule.push(&set, transaction.bytes);
        }
        Ok(())
    }
}

struct KnownTable {
    /// Kept, so that its address stays its own.
    schema: Arc<TableSchema>,
    conflicts: TableConflicts,
    /// The window in which it was last compared with the table's other versions.
    seen_in: u64,
}

/// What the target said of each table version.
#[derive(Default)]
pub struct KnownTables {
    tables: Vec<KnownTable>,
    by_address: HashMap<usize, usize>,
    /// The table of the change before: most changes follow one of their own table.
    last: usize,
    /// Number of the window that is being collected, from 1.
    window: u64,
}

impl KnownTables {
    /// A new window begins.
    pub fn begin_window(&mut self) {
        self.window += 1;
    }

    fn find(&mut self, schema: &Arc<TableSchema>) -> Option<usize> {
        let last = self.tables.get(self.last);
        if last.is_some_and(|known| Arc::ptr_eq(&known.schema, schema)) {
            return Some(self.last);
        }
        self.last = *self.by_address.get(&(Arc::as_ptr(schema) as usize))?;
        Some(self.last)
    }

    fn learn(&mut self, schema: &Arc<TableSchema>, conflicts: TableConflicts) -> usize {
        if self.tables.len() >= MOST_TABLES {
            self.tables.clear();
            self.by_address.clear();
        }
        self.last = self.tables.len();
        self.tables.push(KnownTable { schema: schema.clone(), conflicts, seen_in: u64::MAX });
        self.by_address.insert(Arc::as_ptr(schema) as usize, self.last);
        self.last
    }
}
