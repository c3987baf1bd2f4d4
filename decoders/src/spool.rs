//! Where the changes of transactions that are still running wait for their commit.
//!
//! A source that sends large transactions while they run (PostgreSQL 14+, protocol 2) does so in
//! an order that is nobody's business but its own: they may interleave, and any of them may still
//! be rolled back. What arrives is put aside as it came, in batches, and read once when the
//! transaction commits.
//!
//! A spool needs no durability: the source keeps its log for every running transaction, so what is
//! lost with the process is sent again, from the transaction's beginning.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// The spool of one stream. A new stream starts with an empty spool and a new number; what is
/// still under way for the stream before can't get in among its batches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Generation(pub u64);

/// Why the spool can't take or give a batch. The stream can go on without one: large transactions
/// are then read when they commit.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SpoolError {
    /// What happened and where.
    pub message: String,
    /// What a person should do.
    pub remedy: String,
}

/// Batches by number. Every method may block on a disk.
pub trait Spool: Send + Sync + fmt::Debug {
    /// Empties the spool for a new stream.
    fn begin(&self) -> Result<Generation, SpoolError>;

    /// Keeps a batch. Numbers grow within a generation.
    fn put(&self, generation: Generation, number: u64, batch: &[u8]) -> Result<(), SpoolError>;

    /// The batch of that number, byte for byte; an error if it is not there.
    fn get(&self, generation: Generation, number: u64) -> Result<Vec<u8>, SpoolError>;

    /// Forgets batches and gives their room back. `is_last` says that no batch is left that
    /// anybody will ask for.
    fn discard(
        &self,
        generation: Generation,
        numbers: &[Range<u64>],
        is_last: bool,
    ) -> Result<(), SpoolError>;

    /// The source can't send a transaction that still runs: the next stream is better opened
    /// without a spool.
    fn retire(&self);
}

/// A spool in memory, for tests and for tools that may use as much as it takes.
#[derive(Debug, Default)]
pub struct MemorySpool(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    retired: bool,
    generation: u64,
    batches: BTreeMap<u64, Vec<u8>>,
}

impl MemorySpool {
    /// How many batches it holds.
    pub fn len(&self) -> usize {
        self.locked().batches.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether [`Spool::retire`] was called.
    pub fn is_retired(&self) -> bool {
        self.locked().retired
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Memory> {
        // Nothing in here panics between two halves of a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, generation: Generation) -> Result<std::sync::MutexGuard<'_, Memory>, SpoolError> {
        let memory = self.locked();
        match memory.generation == generation.0 {
            true => Ok(memory),
            false => Err(error("the spool belongs to a newer stream")),
        }
    }
}

impl Spool for MemorySpool {
    fn begin(&self) -> Result<Generation, SpoolError> {
        let mut memory = self.locked();
        memory.generation += 1;
        memory.batches.clear();
        Ok(Generation(memory.generation))
    }

    fn put(&self, generation: Generation, number: u64, batch: &[u8]) -> Result<(), SpoolError> {
        self.of(generation)?.batches.insert(number, batch.to_vec());
        Ok(())
    }

    fn get(&self, generation: Generation, number: u64) -> Result<Vec<u8>, SpoolError> {
        let batch = self.of(generation)?.batches.get(&number).cloned();
        batch.ok_or_else(|| error(&format!("batch {number} is not in the spool")))
    }

    fn discard(
        &self,
        generation: Generation,
        numbers: &[Range<u64>],
        _is_last: bool,
    ) -> Result<(), SpoolError> {
        let mut memory = self.of(generation)?;
        memory.batches.retain(|number, _| !numbers.iter().any(|range| range.contains(number)));
        Ok(())
    }

    fn retire(&self) {
        self.locked().retired = true;
    }
}

fn error(message: &str) -> SpoolError {
    SpoolError { message: message.to_owned(), remedy: "report this".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_generation_is_empty_and_shuts_the_one_before_out() {
        let spool = MemorySpool::default();
        let first = spool.begin().unwrap();
        spool.put(first, 1, b"one").unwrap();
        spool.put(first, 2, b"two").unwrap();
        assert_eq!(spool.get(first, 2).unwrap(), b"two");
        spool.discard(first, &[2..3, 7..9], false).unwrap();
        assert!(spool.get(first, 2).is_err());
        assert_eq!(spool.len(), 1);
        let second = spool.begin().unwrap();
        assert!(spool.put(first, 3, b"late").is_err());
        assert!(spool.get(second, 1).is_err() && spool.is_empty());
    }
}
