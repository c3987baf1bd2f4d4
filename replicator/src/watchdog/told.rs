//! The journal as a watchdog has it: what it was told, and what it adds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cutover::ports::{Entry, Journal, PortResult};

/// A journal in memory. Clones are the same journal.
#[derive(Clone, Default)]
pub struct Told(Arc<Mutex<Vec<Entry>>>);

impl Told {
    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        // A push is whole or was not made.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sidecar has told this.
    pub fn add(&self, entry: Entry) {
        self.lock().push(entry);
    }

    /// All of it.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().clone()
    }
}

impl Journal for Told {
    async fn append(&self, entry: &Entry) -> PortResult<()> {
        self.add(entry.clone());
        Ok(())
    }

    async fn read_all(&self) -> PortResult<Vec<Entry>> {
        Ok(self.entries())
    }
}
