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
//! made of all their versions, and they are never free. Of such a set only the number is seen, and
//! one number comes back after another: a damaged count could meet the source's while that changes.
//! **They are equal only where the source's were the same before and after.**
//!
//! A row that is written all the time may never be caught at rest, and the stream writes what was
//! changed anew: but not more than that. A column that nobody changes keeps whatever damage it has.
//! So **a column differs, too, if it had one value on the source in all looks, and always another
//! one on the target**, over at least [`LOOKS`] looks of which the last shares no transaction with
//! the first. Looks are moments: a column that is written to and fro could be caught like that by
//! chance, which so many looks make one in a hundred million at worst.

use std::collections::BTreeSet;

/// Looks in which a column has to have differed while its row was never at rest.
pub const LOOKS: u32 = 10;

/// What one look has seen of a row, or of all rows with one key or one content, on one side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Changes whenever one of the rows is written; empty if there is none.
    pub version: String,
    /// Nobody is changing or has locked the row.
    pub is_free: bool,
    /// A hash of each column, of each row, in an order that depends on nothing but them.
    pub rows: Vec<Vec<Option<String>>>,
    /// There is a number of rows with one content, and nothing else to tell them by.
    pub is_count: bool,
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

impl Look {
    /// Whether the target shows what one of the source's readings has shown.
    pub fn is_same(&self) -> bool {
        self.target.rows == self.before.rows || self.target.rows == self.after.rows
    }
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
    /// The source's row was not there for a moment: all of it has been written since.
    was_gone: bool,
    held: Option<Held>,
}

/// What has been the same in all looks at a row.
#[derive(Debug, Clone)]
struct Held {
    looks: u32,
    /// That it is there, then columns' hashes, on the source; `None`: not always the same.
    source: Vec<Option<Option<String>>>,
    /// Whether the target had another one in every look.
    differs: Vec<bool>,
    /// The transactions that were under way at the first look.
    running: BTreeSet<u32>,
}

impl Held {
    fn new(source: &[Option<String>], running: &BTreeSet<u32>) -> Self {
        Self {
            looks: 0,
            source: source.iter().cloned().map(Some).collect(),
            differs: vec![true; source.len()],
            running: running.clone(),
        }
    }
}

/// The one row that was seen: that it is there, then its columns.
fn one(seen: &Seen) -> Option<Vec<Option<String>>> {
    match seen.rows.as_slice() {
        [row] if !seen.is_count => {
            let is_there = std::iter::once(Some(String::new()));
            Some(is_there.chain(row.iter().cloned()).collect())
        }
        _ => None,
    }
}

impl Suspect {
    /// Whether a column of the row has had one value on the source and another one on the target,
    /// for long enough to be damaged.
    fn hold(&mut self, look: &Look) -> bool {
        let (Some(before), Some(after)) = (one(&look.before), one(&look.after)) else {
            self.was_gone |= !look.after.is_count;
            self.held = None;
            return false;
        };
        let target = one(&look.target).unwrap_or_default();
        let held = self.held.get_or_insert_with(|| Held::new(&before, &look.running));
        held.looks += 1;
        for (at, (before, after)) in before.iter().zip(&after).enumerate() {
            let is_constant = before == after && held.source[at].as_ref() == Some(before);
            if !is_constant {
                held.source[at] = None;
            }
            held.differs[at] &= target.get(at) != Some(before);
        }
        let is_old = held.looks >= LOOKS && look.running.is_disjoint(&held.running);
        is_old
            && held
                .source
                .iter()
                .zip(&held.differs)
                .any(|(held, differs)| held.is_some() && *differs)
    }

    /// Takes a look into account.
    pub fn observe(&mut self, look: &Look) -> Ruling {
        self.moved = look.before.version != look.after.version;
        let is_same = look.is_same();
        let may_coincide = look.after.is_count && self.moved;
        if is_same && !may_coincide {
            return Ruling::Equal;
        }
        if self.hold(look) {
            return Ruling::Different;
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

    /// Whether a look that was just ruled different may be acted upon: nobody wrote the row meanwhile,
    /// and whoever may have is over. A difference that is certain in spite of being written (a column
    /// that stays damaged) is none to act upon: the target may be ahead in the others.
    pub fn is_at_rest(&self, look: &Look) -> bool {
        let (source, target) = (&look.after.version, &look.target.version);
        let stands = self.stand.as_ref().is_some_and(|stand| {
            stand.source == *source
                && stand.target == *target
                && look.running.is_disjoint(&stand.running)
        });
        !self.moved && (look.after.is_free || stands)
    }

    /// Whether the source's row was written during the last look, and looked at often enough to know
    /// that whatever differs is being written.
    pub fn is_moving(&self) -> bool {
        let is_known = self.held.as_ref().is_some_and(|held| held.looks >= LOOKS);
        self.moved && (is_known || self.was_gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(version: &str, content: &str) -> Seen {
        let rows = if version.is_empty() { vec![] } else { vec![vec![Some(content.to_owned())]] };
        Seen { version: version.to_owned(), is_free: !version.is_empty(), rows, is_count: false }
    }

    fn count(version: &str, count: u32) -> Seen {
        Seen { is_free: false, is_count: true, ..seen(version, &count.to_string()) }
    }

    /// Two rows here, three there: while the source goes from two to three they look alike.
    #[test]
    fn a_count_that_coincides_with_a_moving_one_is_not_equal() {
        let mut suspect = Suspect::default();
        let coincides = look(count("1", 2), count("7", 3), count("2", 3));
        assert_eq!(suspect.observe(&coincides), Ruling::Open);
        assert!(!suspect.is_moving(), "it may be damaged for ever");
        let rests = look(count("2", 3), count("8", 3), count("2", 3));
        assert_eq!(suspect.observe(&rests), Ruling::Equal);
        let damaged = look(count("2", 3), count("8", 4), count("2", 3));
        assert_eq!(suspect.observe(&damaged), Ruling::Open);
        assert_eq!(suspect.observe(&damaged), Ruling::Different);
    }

    /// A counter and a long value that nobody changes: an UPDATE does not carry that along.
    #[test]
    fn a_column_that_stays_damaged_while_others_change_is_found() {
        let of = |version: u32, long: &str, counter: u32| Seen {
            version: version.to_string(),
            is_free: true,
            rows: vec![vec![Some(long.to_owned()), Some(counter.to_string())]],
            is_count: false,
        };
        let looks = |target: &dyn Fn(u32) -> Seen| {
            let mut suspect = Suspect::default();
            let mut found = Vec::new();
            for n in (2..).step_by(2).take(LOOKS as usize) {
                assert!(!suspect.is_moving());
                let moving = look(of(n, "long", n), target(n), of(n + 1, "long", n + 1));
                found.push(suspect.observe(&moving));
            }
            (found, suspect.is_moving())
        };
        let (found, _) = looks(&|n| of(n, "damaged", n + 90));
        assert_eq!(found.last(), Some(&Ruling::Different));
        assert_eq!(found[..LOOKS as usize - 1], [Ruling::Open; LOOKS as usize - 1]);
        let (found, _) = looks(&|_| seen("", ""));
        assert_eq!(found.last(), Some(&Ruling::Different), "the target lacks it in every look");
        // Only the counter differs: the stream is on its way with it.
        let found = looks(&|n| of(n, "long", n + 90));
        assert_eq!(found, (vec![Ruling::Open; LOOKS as usize], true));
        // A column that is changed as well is on its way, too.
        let mut suspect = Suspect::default();
        for n in 1..=LOOKS {
            let changed = look(of(n, "a", n), of(n, "z", n + 9), of(n + 1, "b", n + 1));
            assert_eq!(suspect.observe(&changed), Ruling::Open);
        }
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
