//! The memory budget: how many bytes may be between blue and green.

use std::sync::Arc;

use decoders::Transaction;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit of the budget's permits. A semaphore counts in 32 bits; bytes would overflow it.
const PERMIT_BYTES: usize = 1024;

/// What a change costs while its batch is written, beside what came: keys, entities, lists and
/// sorting while the net change is found (measured: 360 to 390 bytes a change at the peak, 610 where
/// the key changes), the rows of statements, and the room that lists have to spare.
const WRITING_BYTES: usize = 512;

/// What a transaction occupies in memory, about, until it is on green: its frames, the changes
/// built on them (both in [`Transaction::bytes`]), and what is made of them to be written.
pub fn weight_bytes(transaction: &Transaction) -> usize {
    transaction.bytes + size_of::<Transaction>() + transaction.changes.len() * WRITING_BYTES
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
