//! A target that counts and forgets: measures everything before the target.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use decoders::change::{TableSchema, Transaction};

use crate::conflicts::TableConflicts;
use crate::mark::{Reached, Share};
use crate::target::{Applied, FlushedByLanes, Lane, LaneId, Target, TargetError};

/// What all lanes of a [`NullTarget`] have seen.
#[derive(Debug, Default)]
struct Counters {
    transactions: AtomicU64,
    changes: AtomicU64,
    bytes: AtomicU64,
}

/// Counts and forgets. It remembers no progress, so a new stream starts at its beginning.
#[derive(Debug, Default, Clone)]
pub struct NullTarget {
    counters: Arc<Counters>,
}

impl NullTarget {
    /// Source transactions seen whole.
    pub fn transactions(&self) -> u64 {
        self.counters.transactions.load(Ordering::Relaxed)
    }

    /// Changes seen.
    pub fn changes(&self) -> u64 {
        self.counters.changes.load(Ordering::Relaxed)
    }

    /// Bytes of the frames that the changes came in.
    pub fn bytes(&self) -> u64 {
        self.counters.bytes.load(Ordering::Relaxed)
    }
}

impl Target for NullTarget {
    type Lane = NullLane;
    type Flusher = FlushedByLanes;

    async fn open_lane(&self, _id: LaneId) -> Result<NullLane, TargetError> {
        Ok(NullLane { counters: self.counters.clone(), open_transactions: 0 })
    }

    async fn open_flusher(&self) -> Result<FlushedByLanes, TargetError> {
        Ok(FlushedByLanes)
    }

    async fn progress(&self) -> Result<Reached, TargetError> {
        Ok(Reached::default())
    }

    async fn conflicts(&self, table: &Arc<TableSchema>) -> Result<TableConflicts, TargetError> {
        Ok(TableConflicts::by_identity(table))
    }

    async fn shares_rows(&self, _tables: &[Arc<TableSchema>]) -> Result<bool, TargetError> {
        Ok(false)
    }
}

/// A lane of a [`NullTarget`].
#[derive(Debug)]
pub struct NullLane {
    counters: Arc<Counters>,
    /// Whole transactions since the last call that committed.
    open_transactions: u64,
}

impl Lane for NullLane {
    async fn apply_share(
        &mut self,
        transactions: &[Transaction],
        _share: Share,
    ) -> Result<Applied, TargetError> {
        let changes = transactions.iter().map(|t| t.changes.len() as u64).sum();
        let bytes = transactions.iter().map(|t| t.bytes as u64).sum();
        let ended = transactions.iter().filter(|t| t.part.ends()).count() as u64;
        self.counters.changes.fetch_add(changes, Ordering::Relaxed);
        self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.counters.transactions.fetch_add(ended, Ordering::Relaxed);
        self.open_transactions += ended;
        match transactions.last() {
            Some(last) if last.part.ends() => Ok(Applied {
                end_lsn: last.end_lsn,
                transactions: std::mem::take(&mut self.open_transactions),
                changes,
            }),
            _ => Ok(Applied { end_lsn: None, transactions: 0, changes }),
        }
    }

    async fn close(self) {}
}
