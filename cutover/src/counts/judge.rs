//! What row counts say that were taken while clients write. Pure.
//!
//! A round is three counts of one table: the source's before, the target's once everything is
//! applied that the source had committed by then, and the source's after. The target stood somewhere
//! between the two counts of the source, so a table that nobody writes has the same count three
//! times, and for one that is written the counts of the source bound what the target may have. A
//! row that is inserted and deleted again between the two is in neither, so a single round that does
//! not fit proves nothing: all have to agree, in the same direction.

/// Rounds that have to agree on a difference, if the source did not move in any of them.
pub const STILL_ROUNDS: u32 = 3;
/// Rounds that have to agree, if it did.
pub const MOVING_ROUNDS: u32 = 8;
/// Rounds of a table that is written and fits: more would only narrow it down.
const FITTING_ROUNDS: u32 = 4;

/// What is known about one table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rounds {
    rounds: u32,
    /// Rounds in which the source's two counts differ.
    moved: u32,
    /// Rounds in which the target had fewer rows than the source ever had.
    short: u32,
    /// Rounds in which it had more.
    over: u32,
    /// The smallest difference in a round that did not fit.
    least: Option<u64>,
    /// The width of the narrowest round that fitted; 0: all three counts were equal.
    width: Option<u64>,
    last: [u64; 2],
}

/// What the counts of a table say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Both sides had the same count at one point of the stream.
    Equal,
    /// The table is written all the time: no difference, to within so many rows.
    Within(u64),
    /// The target lacks at least so many rows.
    Missing(u64),
    /// The target has at least so many rows that the source does not have.
    Extra(u64),
    /// Not looked at often enough to tell.
    Undecided,
}

impl Rounds {
    /// One round: the source before, the target, the source after.
    pub fn observe(&mut self, before: u64, target: u64, after: u64) {
        let (low, high) = (before.min(after), before.max(after));
        self.rounds += 1;
        self.moved += u32::from(low != high);
        self.last = [after, target];
        let off = low.saturating_sub(target).max(target.saturating_sub(high));
        if off == 0 {
            let width = high - low;
            self.width = Some(self.width.map_or(width, |narrowest| narrowest.min(width)));
            return;
        }
        self.short += u32::from(target < low);
        self.over += u32::from(target > high);
        self.least = Some(self.least.map_or(off, |least| least.min(off)));
    }

    /// Whether more rounds could change the verdict.
    pub fn is_settled(&self) -> bool {
        match self.verdict() {
            Verdict::Equal | Verdict::Missing(_) | Verdict::Extra(_) => true,
            Verdict::Within(_) => self.rounds >= FITTING_ROUNDS,
            Verdict::Undecided => self.rounds >= 2 * MOVING_ROUNDS,
        }
    }

    /// What the rounds so far say.
    pub fn verdict(&self) -> Verdict {
        if let Some(width) = self.width {
            return if width == 0 { Verdict::Equal } else { Verdict::Within(width) };
        }
        let needed = if self.moved == 0 { STILL_ROUNDS } else { MOVING_ROUNDS };
        let least = self.least.unwrap_or_default();
        if self.rounds < needed {
            Verdict::Undecided
        } else if self.short == self.rounds {
            Verdict::Missing(least)
        } else if self.over == self.rounds {
            Verdict::Extra(least)
        } else {
            Verdict::Undecided
        }
    }

    /// The newest counts: the source's and the target's.
    pub fn last(&self) -> [u64; 2] {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(rounds: &[(u64, u64, u64)]) -> Verdict {
        let mut seen = Rounds::default();
        for (before, target, after) in rounds {
            seen.observe(*before, *target, *after);
        }
        seen.verdict()
    }

    #[test]
    fn a_table_that_nobody_writes_is_told_in_few_rounds() {
        assert_eq!(after(&[(5, 5, 5)]), Verdict::Equal);
        assert_eq!(after(&[(5, 4, 5); 2]), Verdict::Undecided);
        assert_eq!(after(&[(5, 4, 5); 3]), Verdict::Missing(1));
        assert_eq!(after(&[(5, 7, 5); 3]), Verdict::Extra(2));
        assert_eq!(after(&[]), Verdict::Undecided);
    }

    #[test]
    fn a_table_that_is_written_agrees_to_within_what_was_written() {
        assert_eq!(after(&[(5, 7, 9), (9, 10, 11)]), Verdict::Within(2));
        assert_eq!(after(&[(5, 7, 9), (9, 9, 9)]), Verdict::Equal);
        let lost: Vec<_> = (0..8).map(|n| (1000 + n, 500 + n, 1001 + n)).collect();
        assert_eq!(after(&lost), Verdict::Missing(500));
        assert_eq!(after(&lost[..7]), Verdict::Undecided);
    }

    #[test]
    fn a_queue_that_fills_and_empties_accuses_nobody() {
        assert_eq!(after(&[(0, 1, 0), (0, 0, 0)]), Verdict::Equal);
        assert_eq!(after(&[(0, 1, 0), (3, 1, 2), (0, 2, 0)]), Verdict::Undecided);
    }

    proptest! {
        /// The target is a copy of some moment between the two counts, whatever the table does:
        /// with one moment at which nothing happens in between it is never accused.
        #[test]
        fn a_true_copy_is_not_accused(
            sizes in proptest::collection::vec(0u64..50, 3..60), quiet in 0usize..60
        ) {
            let mut seen = Rounds::default();
            let quiet = quiet % (sizes.len() - 2);
            for (at, three) in sizes.windows(3).enumerate() {
                if at == quiet {
                    seen.observe(three[0], three[0], three[0]);
                } else {
                    seen.observe(three[0], three[1], three[2]);
                }
                if at >= quiet {
                    prop_assert!(!matches!(seen.verdict(), Verdict::Missing(_) | Verdict::Extra(_)));
                }
            }
        }

        /// Rows that were lost are always told once the table stands still.
        #[test]
        fn what_is_lost_is_told(count in 1u64..1000, lost in 1u64..1000) {
            let lost = lost.min(count);
            let rounds = [(count, count - lost, count); 3];
            prop_assert_eq!(after(&rounds), Verdict::Missing(lost));
        }
    }
}
