//! What came out of the source and is not in the queue yet.
//!
//! One line in the source's order. Its front may go on, the rest is held behind the marker. There is one
//! line and not two, because whether something may pass is decided when it comes, and what was held before
//! it is let go a moment later: the gate opens in between, on another thread. What may pass therefore takes
//! everything before it along. If it went first, green's progress would be beyond what was held, and that
//! would never come again.

use std::collections::VecDeque;

use decoders::{Lsn, Transaction};

use super::budget::weight_bytes;
use super::window::BatchLimits;

/// Transactions on their way from the source to the queue.
#[derive(Default)]
pub(super) struct Taken {
    line: VecDeque<Transaction>,
    /// How many of them may go on.
    ready: usize,
    ready_bytes: usize,
    held_bytes: usize,
    /// The last one that came is a part, and more of it follow.
    pub is_inside: bool,
    /// Ends that are still to be written down as received.
    pub ends: Vec<Lsn>,
    /// The source's newest idle position, likewise.
    pub idle: Option<Lsn>,
}

impl Taken {
    /// Whether something may go on.
    pub fn has_ready(&self) -> bool {
        self.ready > 0
    }

    /// Whether something is held.
    pub fn has_held(&self) -> bool {
        self.ready < self.line.len()
    }

    /// Bytes that may go on.
    pub fn ready_bytes(&self) -> usize {
        self.ready_bytes
    }

    /// Bytes that are held.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// One that may go on, and so may all before it.
    pub fn push(&mut self, transaction: Transaction) {
        self.hold(transaction);
        self.release(usize::MAX);
    }

    /// One that has to wait.
    pub fn hold(&mut self, transaction: Transaction) {
        self.held_bytes += transaction.bytes;
        self.line.push_back(transaction);
    }

    /// Lets go of what is held, until so many bytes may go on.
    pub fn release(&mut self, bytes: usize) {
        while self.ready_bytes < bytes
            && let Some(transaction) = self.line.get(self.ready)
        {
            self.held_bytes -= transaction.bytes;
            self.ready_bytes += transaction.bytes;
            self.ready += 1;
        }
    }

    /// Whole transactions up to the limits, or one that stands alone.
    pub fn next_chunk(&mut self, limits: &BatchLimits) -> Option<Vec<Transaction>> {
        let first = self.pop()?;
        if first.stands_alone() {
            return Some(vec![first]);
        }
        let mut weight = weight_bytes(&first);
        let mut chunk = Vec::with_capacity((self.ready + 1).min(limits.transactions));
        chunk.push(first);
        while let Some(next) = self.line.front().filter(|_| self.ready > 0)
            && !next.stands_alone()
            && weight + weight_bytes(next) <= limits.bytes
            && chunk.len() < limits.transactions
        {
            weight += weight_bytes(next);
            chunk.extend(self.pop());
        }
        Some(chunk)
    }

    fn pop(&mut self) -> Option<Transaction> {
        self.ready = self.ready.checked_sub(1)?;
        let transaction = self.line.pop_front()?;
        self.ready_bytes -= transaction.bytes;
        Some(transaction)
    }
}

#[cfg(test)]
mod tests {
    use decoders::Part;
    use proptest::prelude::*;

    use super::*;

    fn whole(n: u64) -> Transaction {
        Transaction {
            part: Part::Whole,
            xid: 0,
            commit_lsn: Lsn(n),
            end_lsn: Some(Lsn(n + 1)),
            committed_at_us: 0,
            origin: None,
            changes: Vec::new(),
            bytes: n as usize % 7,
        }
    }

    proptest! {
        /// Whatever passes, is held and is let go: the source's order stays.
        #[test]
        fn the_order_stays(acts in prop::collection::vec((0..4u8, 0..20usize), 1..200)) {
            let limits = BatchLimits { bytes: 1 << 20, transactions: 3 };
            let (mut taken, mut came, mut gone) = (Taken::default(), 0, Vec::new());
            for (act, bytes) in acts {
                match act {
                    0 => taken.push(whole(came)),
                    1 => taken.hold(whole(came)),
                    2 => taken.release(bytes),
                    _ => gone.extend(taken.next_chunk(&limits).into_iter().flatten()),
                }
                came += u64::from(act < 2);
            }
            taken.release(usize::MAX);
            prop_assert!(!taken.has_held() && taken.held_bytes() == 0);
            while let Some(chunk) = taken.next_chunk(&limits) {
                prop_assert!(chunk.len() <= limits.transactions);
                gone.extend(chunk);
            }
            prop_assert!(!taken.has_ready() && taken.ready_bytes() == 0);
            let gone: Vec<u64> = gone.iter().map(|one| one.commit_lsn.0).collect();
            prop_assert_eq!(gone, (0..came).collect::<Vec<_>>());
        }
    }
}
