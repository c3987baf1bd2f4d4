//! How batches are written, and how soon to try again what failed.

/// How many batches (calls of [`Lane::apply_share`](crate::Lane::apply_share)) were written in which
/// way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ways {
    /// As their net change.
    pub as_a_whole: u64,
    /// Row by row.
    pub row_by_row: u64,
    /// Of those row by row, the ones that were refused as a whole before.
    pub refused: u64,
}

/// Batches that are written row by row, at most, before many rows at once are tried again.
const MOST_SKIPPED: u32 = 64;
/// Batches in a row that must succeed before half of the past is forgotten.
const GOOD_RUN: u32 = 8;

/// Decides which batches are written row by row without being tried as a whole.
///
/// A batch that green refuses as a whole costs its work twice. One such batch means nothing; when
/// they keep coming (unique values that move between rows all the time), twice as many batches as
/// the last time are written row by row before the next attempt.
#[derive(Debug, Default)]
pub(crate) struct Caution {
    /// Batches to skip after the next failure.
    next: u32,
    /// Batches still to skip.
    left: u32,
    /// Successes since the last failure, or since `next` was halved.
    good: u32,
}

impl Caution {
    /// Whether to write this batch row by row at once.
    pub fn skips(&mut self) -> bool {
        let skips = self.left > 0;
        self.left = self.left.saturating_sub(1);
        skips
    }

    /// A batch was refused.
    pub fn failed(&mut self) {
        self.left = self.next;
        self.next = (self.next * 2).clamp(1, MOST_SKIPPED);
        self.good = 0;
    }

    /// A batch was written as a whole.
    pub fn succeeded(&mut self) {
        self.good += 1;
        if self.good >= GOOD_RUN {
            self.good = 0;
            self.next /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped(caution: &mut Caution) -> u32 {
        let mut count = 0;
        while caution.skips() {
            count += 1;
        }
        count
    }

    #[test]
    fn failures_that_keep_coming_are_tried_less_and_less() {
        let mut caution = Caution::default();
        let pauses: Vec<u32> = (0..10)
            .map(|_| {
                caution.failed();
                skipped(&mut caution)
            })
            .collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 64, 64, 64]);
        for _ in 0..7 * GOOD_RUN {
            caution.succeeded();
        }
        caution.failed();
        assert_eq!(skipped(&mut caution), 0);
    }
}
