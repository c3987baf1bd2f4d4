//! What the watch over the catalogs tells the rest of the sidecar.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::triggers::Known;

/// Shared by the watch, by verifications and by the gate.
#[derive(Debug, Default)]
pub struct CatalogFacts {
    moved: AtomicU64,
    compared: Mutex<Option<String>>,
    defined: Mutex<Option<(String, Known)>>,
}

impl CatalogFacts {
    /// Rows may have been moved outside of the stream: what was proven before is not any more.
    pub fn rows_moved(&self) {
        self.moved.fetch_add(1, Ordering::AcqRel);
    }

    /// How often that was found. A proof is worth something for as long as this stays what it was when its
    /// work began.
    pub fn times_moved(&self) -> u64 {
        self.moved.load(Ordering::Acquire)
    }

    /// The source's catalog had this mark when it was found to be as it is kept; `None`: it has not been.
    pub fn compared(&self, mark: Option<String>) {
        *self.locked() = mark;
    }

    /// Whether nothing has changed in the source's catalog since it was compared.
    pub fn is_compared(&self, mark: &str) -> bool {
        self.locked().as_deref() == Some(mark)
    }

    /// Definitions were compared when the source's catalog had this mark or a later one, and these triggers.
    pub(crate) fn defined(&self, mark: String, triggers: Known) {
        *self.defined.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) =
            Some((mark, triggers));
    }

    /// The triggers that the source had then, if its catalog has changed since.
    pub(crate) fn defined_otherwise(&self, mark: &str) -> Option<Known> {
        let defined = self.defined.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        defined.as_ref().filter(|(then, _)| then != mark).map(|(_, triggers)| triggers.clone())
    }

    fn locked(&self) -> MutexGuard<'_, Option<String>> {
        self.compared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
