//! When a row that was seen to differ is a difference.
//!
//! Both sides are written while they are read, so a row that differs at first sight mostly was only
//! read at two moments. It is looked at again, in this order:
//!
//! 1. *before*: the source's row, and the log's position behind it;
//! 2. the stream has applied everything up to that position;
//! 3. *target*: the target's row;
//! 4. *after*: which transactions of the source are under way, then the source's row again.
//!
//! A version is what changes whenever a row is written (`xmin` and `ctid`).
//!
//! **Where the target has the content of before or after, the row is equal.** The target was at one
//! of these states of the source.
//!
//! **It differs when two looks in a row see the same versions on both sides, the source's being the
//! same before and after, and nobody who was still writing at the first look can have changed
//! it.** Proof: let the target's version be constant over both looks.
//!
//! - The source's row is there and constant from *before* to *after*. What the target showed
//!   in between is the source's row at some log position behind *before*. A commit is in the log,
//!   and may be applied, before others see it on the source (it may wait for a synchronous standby);
//!   so a change of the row that the target has and *after* does not see is possible until the
//!   transaction ends. `is_free` (no `xmax` at *after*) excludes it; else it is excluded when of
//!   all transactions that were under way at the first look none is at the second.
//! - The source's row is absent. Then the target's is there, written before the first look's
//!   *target*, and not written since. Were the stream right, the source's row would have been there,
//!   unchanged, from then to the position before the second look's *target*; but the first look's
//!   *after* lies in between and did not see it. The commit that is not visible yet is excluded in
//!   the same way.
//!
//! A snapshot's `xmax` does not tell which transactions are under way: it is the one behind the last
//! that has completed, so the newest ones lie beyond it. Each holds the lock of its own number until
//! others can see what it did, and `pg_locks` shows those locks to every role.
//!
//! Rows without a key are looked at as the set of all rows with the same content; their version is
//! made of all their versions, and they are never free.

use std::collections::BTreeSet;

/// What one look has seen of a row, or of all rows with one key or one content, on one side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Changes whenever one of the rows is written; empty if there is none.
    pub version: String,
    /// Nobody is changing or has locked the row.
    pub is_free: bool,
    /// A hash of each column, of each row, in an order that depends on nothing but them.
    pub rows: Vec<Vec<Option<String>>>,
}

/// One look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// The source's row at first.
    pub before: Seen,
    /// The target's, later.
    pub target: Seen,
    /// The source's again.
    pub after: Seen,
    /// The transactions of the source that were under way, just before *after*.
    pub running: BTreeSet<u32>,
}

/// What a look comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// The row is the same.
    Equal,
    /// The row differs.
    Different,
    /// Not known yet.
    Open,
}

/// What stood at the end of a look that saw a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stand {
    source: String,
    target: String,
    running: BTreeSet<u32>,
}

/// A row that was seen to differ.
#[derive(Debug, Clone, Default)]
pub struct Suspect {
    stand: Option<Stand>,
    moved: bool,
}

impl Suspect {
    /// Takes a look into account.
    pub fn observe(&mut self, look: &Look) -> Ruling {
        self.moved = look.before.version != look.after.version;
        if look.target.rows == look.before.rows || look.target.rows == look.after.rows {
            return Ruling::Equal;
        }
        if self.moved {
            self.stand = None;
            return Ruling::Open;
        }
        let (source, target) = (&look.after.version, &look.target.version);
        match &self.stand {
            Some(stand) if stand.source == *source && stand.target == *target => {
                let is_settled = look.after.is_free || look.running.is_disjoint(&stand.running);
                if is_settled { Ruling::Different } else { Ruling::Open }
            }
            _ => {
                self.stand = Some(Stand {
                    source: source.clone(),
                    target: target.clone(),
                    running: look.running.clone(),
                });
                Ruling::Open
            }
        }
    }

    /// Whether the source's row was written during the last look.
    pub fn is_moving(&self) -> bool {
        self.moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(version: &str, content: &str) -> Seen {
        let rows = if version.is_empty() { vec![] } else { vec![vec![Some(content.to_owned())]] };
        Seen { version: version.to_owned(), is_free: !version.is_empty(), rows }
    }

    fn look(before: Seen, target: Seen, after: Seen) -> Look {
        Look { before, target, after, running: BTreeSet::new() }
    }

    #[test]
    fn a_row_that_differs_in_two_looks_differs() {
        let mut suspect = Suspect::default();
        let one = look(seen("1", "a"), seen("7", "b"), seen("1", "a"));
        assert_eq!(suspect.observe(&one), Ruling::Open);
        assert_eq!(suspect.observe(&one), Ruling::Different);
    }

    #[test]
    fn a_row_that_is_written_meanwhile_does_not() {
        let mut suspect = Suspect::default();
        let still = look(seen("1", "a"), seen("7", "b"), seen("1", "a"));
        let moving = look(seen("1", "a"), seen("7", "b"), seen("2", "c"));
        assert_eq!(suspect.observe(&still), Ruling::Open);
        assert_eq!(suspect.observe(&moving), Ruling::Open);
        assert!(suspect.is_moving());
        assert_eq!(suspect.observe(&still), Ruling::Open);
        let written = look(seen("1", "a"), seen("8", "b"), seen("1", "a"));
        assert_eq!(suspect.observe(&written), Ruling::Open, "the target was written");
        let arrived = look(seen("1", "a"), seen("9", "a"), seen("3", "z"));
        assert_eq!(suspect.observe(&arrived), Ruling::Equal);
    }

    /// A commit that waits for a synchronous standby: on the target, and not visible on the source.
    #[test]
    fn a_commit_that_is_not_visible_yet_is_no_difference() {
        let mut suspect = Suspect::default();
        let locked = |version, content| Seen { is_free: false, ..seen(version, content) };
        let waits = |running: &[u32]| Look {
            running: running.iter().copied().collect(),
            ..look(locked("1", "a"), seen("7", "b"), locked("1", "a"))
        };
        assert_eq!(suspect.observe(&waits(&[50, 60])), Ruling::Open);
        assert_eq!(suspect.observe(&waits(&[50, 60, 70])), Ruling::Open);
        assert_eq!(suspect.observe(&waits(&[60, 70])), Ruling::Open);
        // Everybody who was there at the first look is gone, and the row still is what it was.
        assert_eq!(suspect.observe(&waits(&[70, 80])), Ruling::Different);
    }

    #[test]
    fn a_row_that_only_the_target_has_waits_for_all_who_were_there() {
        let mut suspect = Suspect::default();
        let extra = |running: &[u32]| Look {
            running: running.iter().copied().collect(),
            ..look(seen("", ""), seen("7", "b"), seen("", ""))
        };
        assert_eq!(suspect.observe(&extra(&[5])), Ruling::Open);
        assert_eq!(suspect.observe(&extra(&[5])), Ruling::Open);
        assert_eq!(suspect.observe(&extra(&[9])), Ruling::Different);
    }

    #[test]
    fn gone_on_both_sides_is_equal() {
        let mut suspect = Suspect::default();
        let gone = look(seen("", ""), seen("", ""), seen("", ""));
        assert_eq!(suspect.observe(&gone), Ruling::Equal);
    }
}
