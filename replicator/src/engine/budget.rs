//! The memory budget: how many bytes may be between blue and green.

use std::sync::Arc;

use decoders::{ChangeEvent, Transaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit of the budget's permits. A semaphore counts in 32 bits; bytes would overflow it.
const PERMIT_BYTES: usize = 1024;

/// What the cells of a row image cost beside its frame, about: eight bytes a column.
const ROW_BYTES: usize = 64;

/// What a transaction occupies in memory, about: its frames and what is built on them.
pub fn weight_bytes(transaction: &Transaction) -> usize {
    transaction.bytes
        + size_of::<Transaction>()
        + transaction.changes.len() * (size_of::<ChangeEvent>() + ROW_BYTES)
}

/// A count of bytes in memory, shared by everything between source and green.
#[derive(Clone)]
pub struct Budget {
    permits: Arc<Semaphore>,
    total: usize,
}

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        let total = (bytes / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self { permits: Arc::new(Semaphore::new(total)), total }
    }

    /// All of it.
    pub fn bytes(&self) -> usize {
        self.total * PERMIT_BYTES
    }

    /// Bytes in use.
    pub fn used_bytes(&self) -> usize {
        (self.total - self.permits.available_permits().min(self.total)) * PERMIT_BYTES
    }

    /// Waits for room. What is larger than everything gets everything.
    pub(super) async fn acquire(&self, bytes: usize) -> OwnedSemaphorePermit {
        let permits = bytes.div_ceil(PERMIT_BYTES).clamp(1, self.total) as u32;
        let acquired = Arc::clone(&self.permits).acquire_many_owned(permits).await;
        acquired.expect("the budget's semaphore is never closed")
    }
}
