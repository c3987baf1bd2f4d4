//! Counters of what green took.

use decoders::{ChangeEvent, Transaction};

/// Counters of everything that green took since the process started; a part of a large transaction
/// counts when it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedTotals {
    /// Transactions of blue.
    pub transactions: u64,
    /// Transactions of green.
    pub batches: u64,
    /// Rows inserted.
    pub inserts: u64,
    /// Rows updated.
    pub updates: u64,
    /// Rows deleted.
    pub deletes: u64,
    /// TRUNCATE statements.
    pub truncates: u64,
    /// Bytes of blue's frames.
    pub bytes: u64,
    /// Windows that were shared out to several lanes.
    pub shared_windows: u64,
    /// Shares that green refused beside the others, and took after them.
    pub conflicts: u64,
}

impl AppliedTotals {
    /// What `transactions` come to.
    pub fn of(transactions: &[Transaction]) -> Self {
        let mut totals = Self::default();
        for transaction in transactions {
            totals.bytes += transaction.bytes as u64;
            for change in &transaction.changes {
                match change {
                    ChangeEvent::Insert { .. } => totals.inserts += 1,
                    ChangeEvent::Update { .. } => totals.updates += 1,
                    ChangeEvent::Delete { .. } => totals.deletes += 1,
                    ChangeEvent::Truncate { .. } => totals.truncates += 1,
                    ChangeEvent::Message { .. }
                    | ChangeEvent::Definition(_)
                    | ChangeEvent::Distributed(_) => {}
                }
            }
        }
        totals
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: &Self) {
        self.transactions += other.transactions;
        self.batches += other.batches;
        self.inserts += other.inserts;
        self.updates += other.updates;
        self.deletes += other.deletes;
        self.truncates += other.truncates;
        self.bytes += other.bytes;
        self.shared_windows += other.shared_windows;
        self.conflicts += other.conflicts;
    }
}
