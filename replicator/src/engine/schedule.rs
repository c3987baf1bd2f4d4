//! Which transactions of a window may be applied beside each other; pure.
//!
//! # Why the outcome does not depend on which lane is faster
//! Transactions whose write sets meet (see [`sinks::conflicts`]) are in one group, and a group goes
//! to one lane, in commit order. So transactions on different lanes write different rows, found by
//! different keys, and nothing that one does to its rows depends on the other's, except that a
//! constraint may refuse it:
//!
//! - A unique value that moves between rows: the stream has no old values of keys other than the
//!   replica identity, so it can happen that one lane frees a value and another takes it. Whoever
//!   takes it too early is refused by the unique index (or waits in it for the other's commit).
//! - A foreign key that is checked: a child whose old parent is not in the stream, a parent that is
//!   deleted before its last child moved away. Refused by the foreign key.
//! - Two lanes that wait for each other in indexes: one is the deadlock's victim.
//!
//! Each time the share of the refused lane is rolled back as a whole. Once the other shares are
//! committed, the refused ones are put together in commit order and applied alone. Nothing of the
//! other shares stands in their way then: every value that they put under a constraint is in their
//! write sets, and the refused ones share none of it. What can stand in the way was there before
//! the window, and whoever removes it in commit order has done so, or comes first among the
//! refused. So if that is refused too, it would be in any order, and it is the error that stops the
//! stream. A wrong order can fail; it can not succeed with another outcome.
//!
//! Two hashes that are equal by chance put two transactions in one group that need not be.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use sinks::conflicts::WriteSet;

/// What a transaction costs beside its bytes, in bytes: so that many small ones are not packed as
/// if they were nothing.
const TRANSACTION_COST: usize = 256;

const NOBODY: u32 = u32::MAX;

/// The keys are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Who has touched a hash so far.
#[derive(Clone, Copy)]
struct Touched {
    /// A transaction of the group that has written it.
    writer: u32,
    /// The newest of those that have only read it: a place in `Schedule::readers`.
    reader: u32,
}

/// The transactions of one window, grouped by what they touch as they come.
#[derive(Default)]
pub struct Schedule {
    /// For each transaction, another one of its group, or itself.
    parent: Vec<u32>,
    cost: Vec<usize>,
    touched: HashMap<u64, Touched, BuildHasherDefault<Hashed>>,
    /// Readers of a hash that nobody has written: transaction, and the reader before it.
    readers: Vec<(u32, u32)>,
    /// One of them comes alone: all are one group.
    one_group: bool,
}

impl Schedule {
    /// The next transaction in commit order.
    pub fn push(&mut self, set: &WriteSet, bytes: usize) {
        let own = self.parent.len() as u32;
        self.parent.push(own);
        self.cost.push(bytes + TRANSACTION_COST);
        self.one_group |= set.everything;
        if self.one_group {
            return;
        }
        for hash in &set.reads {
            match self.touched.entry(*hash) {
                Entry::Occupied(mut at) if at.get().writer == NOBODY => {
                    self.readers.push((own, at.get().reader));
                    at.get_mut().reader = self.readers.len() as u32 - 1;
                }
                Entry::Occupied(at) => {
                    let writer = at.get().writer;
                    self.join(own, writer);
                }
                Entry::Vacant(at) => {
                    self.readers.push((own, NOBODY));
                    let reader = self.readers.len() as u32 - 1;
                    at.insert(Touched { writer: NOBODY, reader });
                }
            }
        }
        for hash in &set.writes {
            let fresh = Touched { writer: own, reader: NOBODY };
            let Some(before) = self.touched.insert(*hash, fresh) else { continue };
            if before.writer != NOBODY {
                self.join(own, before.writer);
            }
            let mut reader = before.reader;
            while reader != NOBODY {
                let (transaction, earlier) = self.readers[reader as usize];
                self.join(own, transaction);
                reader = earlier;
            }
        }
    }

    /// All are one group, whatever they touch.
    pub fn keep_order(&mut self) {
        self.one_group = true;
    }

    /// How many transactions it knows.
    pub fn count(&self) -> usize {
        self.parent.len()
    }

    /// The lane of each transaction, on at most `lanes` lanes, by cost; `None` if one lane gets
    /// everything.
    pub fn share_out(mut self, lanes: usize) -> Option<Vec<u16>> {
        if self.one_group || lanes < 2 || self.parent.len() < 2 {
            return None;
        }
        let count = self.parent.len();
        let groups: Vec<u32> = (0..count as u32).map(|at| self.group(at)).collect();
        let mut costs = vec![0usize; count];
        for (group, cost) in groups.iter().zip(&self.cost) {
            costs[*group as usize] += cost;
        }
        // The largest first, each to the lane that has least.
        let mut order: Vec<u32> = (0..count as u32).filter(|at| costs[*at as usize] > 0).collect();
        order.sort_unstable_by_key(|group| (Reverse(costs[*group as usize]), *group));
        if order.len() < 2 {
            return None;
        }
        let mut loads: BinaryHeap<Reverse<(usize, u16)>> =
            (0..lanes as u16).map(|lane| Reverse((0, lane))).collect();
        let mut lane_of = vec![0u16; count];
        for group in order {
            let Reverse((load, lane)) = loads.pop()?;
            lane_of[group as usize] = lane;
            loads.push(Reverse((load + costs[group as usize], lane)));
        }
        Some(groups.iter().map(|group| lane_of[*group as usize]).collect())
    }

    /// The group's representative.
    fn group(&mut self, of: u32) -> u32 {
        let mut at = of;
        while self.parent[at as usize] != at {
            let next = self.parent[at as usize];
            self.parent[at as usize] = self.parent[next as usize];
            at = next;
        }
        at
    }

    fn join(&mut self, one: u32, other: u32) {
        let (one, other) = (self.group(one), self.group(other));
        // The older one represents: paths stay short, as most joins are with an old group.
        let (older, newer) = (one.min(other), one.max(other));
        self.parent[newer as usize] = older;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(writes: &[u64], reads: &[u64]) -> WriteSet {
        WriteSet { writes: writes.to_vec(), reads: reads.to_vec(), everything: false }
    }

    fn shared_out(sets: &[WriteSet], lanes: usize) -> Option<Vec<u16>> {
        let mut schedule = Schedule::default();
        sets.iter().for_each(|set| schedule.push(set, 100));
        schedule.share_out(lanes)
    }

    #[test]
    fn what_meets_stays_together_and_the_rest_is_spread() {
        let sets = [set(&[1], &[]), set(&[2], &[]), set(&[1, 3], &[]), set(&[4], &[])];
        let lanes = shared_out(&sets, 2).unwrap();
        assert_eq!(lanes[0], lanes[2]);
        assert_eq!(lanes[1], lanes[3]);
        assert_ne!(lanes[0], lanes[1]);
    }

    #[test]
    fn readers_meet_only_by_a_writer() {
        let apart = shared_out(&[set(&[1], &[9]), set(&[2], &[9])], 2).unwrap();
        assert_ne!(apart[0], apart[1]);
        assert_eq!(shared_out(&[set(&[1], &[9]), set(&[2], &[9]), set(&[9], &[])], 2), None);
        assert_eq!(shared_out(&[set(&[9], &[]), set(&[1], &[9]), set(&[2], &[9])], 2), None);
    }

    #[test]
    fn what_needs_all_order_gets_it() {
        let everything = WriteSet { everything: true, ..WriteSet::default() };
        assert_eq!(shared_out(&[set(&[1], &[]), everything, set(&[2], &[])], 4), None);
        assert_eq!(shared_out(&[set(&[1], &[]), set(&[2], &[])], 1), None);
        assert_eq!(shared_out(&[], 4), None);
    }

    proptest! {
        /// Against the definition: no two transactions on different lanes share a hash that one of
        /// them writes; every transaction has a lane; order within a lane is the window's, as a
        /// lane gets its transactions by filtering the window.
        #[test]
        fn lanes_share_no_written_hash(
            sets in proptest::collection::vec(
                (proptest::collection::vec(0..40u64, 0..4), proptest::collection::vec(0..40u64, 0..3)),
                0..40,
            ),
            lanes in 1..6usize,
        ) {
            let sets: Vec<WriteSet> =
                sets.iter().map(|(writes, reads)| set(writes, reads)).collect();
            let Some(lane_of) = shared_out(&sets, lanes) else { return Ok(()) };
            prop_assert_eq!(lane_of.len(), sets.len());
            prop_assert!(lane_of.iter().all(|lane| usize::from(*lane) < lanes));
            for (at, one) in sets.iter().enumerate() {
                for (after, other) in sets.iter().enumerate().skip(at + 1) {
                    let meets = one.writes.iter().any(|hash| {
                        other.writes.contains(hash) || other.reads.contains(hash)
                    }) || one.reads.iter().any(|hash| other.writes.contains(hash));
                    prop_assert!(!meets || lane_of[at] == lane_of[after]);
                }
            }
        }

        /// Independent transactions of one size fill the lanes evenly.
        #[test]
        fn lanes_are_filled_evenly(count in 2..200usize, lanes in 2..9usize) {
            let sets: Vec<WriteSet> = (0..count as u64).map(|n| set(&[n], &[])).collect();
            let lane_of = shared_out(&sets, lanes).unwrap();
            let load = |lane: usize| lane_of.iter().filter(|at| usize::from(**at) == lane).count();
            let loads: Vec<usize> = (0..lanes).map(load).collect();
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
        }
    }
}
