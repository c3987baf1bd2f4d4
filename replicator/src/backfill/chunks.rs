//! The chunks that are still to be copied, and the tables that this snapshot can't give any more.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::counters::TableCounters;

/// A chunk to copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ChunkAt {
    /// Position of the table among all.
    pub table: usize,
    /// Position of the chunk in its table.
    pub chunk: usize,
}

/// The chunks, in the order in which they are given out.
#[derive(Debug)]
pub(super) struct Chunks {
    waiting: Mutex<VecDeque<ChunkAt>>,
    /// How long a table's lock is waited for when nothing else is left to copy.
    patience: Duration,
}

impl Chunks {
    /// All chunks of all tables.
    pub(super) fn new(tables: &[TableCounters], patience: Duration) -> Self {
        let all = tables.iter().enumerate();
        let all = all.flat_map(|(table, counters)| {
            (0..counters.plan.chunks.len()).map(move |chunk| ChunkAt { table, chunk })
        });
        Self { waiting: Mutex::new(all.collect()), patience }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<ChunkAt>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chunks that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting().len()
    }

    /// The next chunk of a table that is not left for a later snapshot.
    pub(super) fn next(&self, tables: &[TableCounters]) -> Option<ChunkAt> {
        let mut waiting = self.waiting();
        loop {
            let at = waiting.pop_front()?;
            let is_left = |table: &TableCounters| table.is_left.load(Ordering::Acquire);
            if tables.get(at.table).is_some_and(|table| !is_left(table)) {
                return Some(at);
            }
        }
    }

    /// Takes a chunk back whose table's lock can't be had. True: its table was waited for long
    /// enough, and so were all that are still to be copied; it is left for a later snapshot, so that
    /// blue need not keep this one for it.
    pub(super) fn put_back(&self, at: ChunkAt, tables: &[TableCounters]) -> bool {
        let is_given_up = |at: &ChunkAt| {
            let since = tables.get(at.table).and_then(TableCounters::busy_since);
            since.is_some_and(|since| since.elapsed() >= self.patience)
        };
        let mut waiting = self.waiting();
        if is_given_up(&at) && waiting.iter().all(is_given_up) {
            return true;
        }
        waiting.push_back(at);
        false
    }
}
