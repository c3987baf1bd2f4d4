//! How many changes to ask for at a time.
//!
//! Each call decodes the log again from the slot's `restart_lsn`, which favours large gulps: pgbench
//! arrives at 79 k transactions/s with 100,000 changes a call and at 138 k/s with 400,000. Blue
//! holds a whole gulp in its work_mem or in a temporary file, which favours small ones. Of a gulp nothing
//! arrives before blue has decoded all of it, and meanwhile the one before is applied: so they grow by
//! steps, or green would wait for the first large one.
//!
//! Where one did not fit into blue's limit, a tenth of it is asked for until as many changes have
//! come as were asked for then. What made it too large has been passed by then, or has shown itself
//! to be one transaction.

/// The first gulp, from which the size of a change is learned.
const FIRST: u32 = 20_000;

/// No gulp is smaller, whatever a change's size: `temp_file_limit` guards blue then.
const SMALLEST: u32 = 1_000;

/// No gulp is larger: little is gained beyond.
const LARGEST: u32 = 400_000;

/// No gulp is more than so many times as large as the one before. Measured with 3 alone: see
/// `catchup_insert` in BENCHMARKS.md.
const GROWTH: u32 = 3;

/// Where a gulp did not fit, so much less is asked for.
const FEWER: u32 = 10;

/// The size of the gulps of one reader.
#[derive(Debug)]
pub(super) struct GulpSize {
    /// Wanted for one gulp.
    bytes: u64,
    changes: u32,
    caution: Option<Caution>,
}

/// A gulp did not fit from where the reader began.
#[derive(Debug)]
struct Caution {
    /// Most to ask for.
    changes: u32,
    /// Changes to come until there is no reason for it any more.
    left: u64,
}

impl GulpSize {
    /// For gulps of so many bytes; `fewer` is what [`GulpSize::fewer`] said to a reader before.
    pub(super) fn new(bytes: u64, fewer: Option<u32>) -> Self {
        let caution = fewer.map(|changes| Caution {
            changes: changes.max(SMALLEST),
            left: u64::from(changes) * u64::from(FEWER),
        });
        Self { bytes, changes: FIRST, caution }
    }

    /// Changes to ask for.
    pub(super) fn changes(&self) -> u32 {
        match &self.caution {
            Some(caution) => self.changes.min(caution.changes),
            None => self.changes,
        }
    }

    /// How many to ask for now that as many as [`GulpSize::changes`] did not fit; `None` if that
    /// will not help.
    pub(super) fn fewer(&self) -> Option<u32> {
        let can_help = self.caution.is_none() && self.changes > SMALLEST;
        can_help.then(|| (self.changes / FEWER).max(SMALLEST))
    }

    /// A gulp of so many changes and bytes arrived.
    pub(super) fn learn(&mut self, changes: u64, bytes: u64) {
        if let Some(caution) = &mut self.caution {
            caution.left = caution.left.saturating_sub(changes);
        }
        self.caution.take_if(|caution| caution.left == 0);
        // Too few changes say little about the next ones.
        if changes < u64::from(SMALLEST) {
            return;
        }
        let wanted = self.bytes.saturating_mul(changes) / bytes.max(1);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let most = LARGEST.min(self.changes.saturating_mul(GROWTH));
        self.changes = wanted.clamp(SMALLEST, most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_changes_make_the_largest_gulp_and_large_ones_a_small_one() {
        let mut size = GulpSize::new(64 << 20, None);
        assert_eq!(size.changes(), FIRST);
        for asked in [60_000, 180_000, LARGEST, LARGEST] {
            size.learn(20_000, 20_000 * 80);
            assert_eq!(size.changes(), asked, "green has the one before to apply meanwhile");
        }
        size.learn(400_000, 400_000 << 10);
        assert_eq!(size.changes(), 64 << 10);
        size.learn(64 << 10, 64 << 30);
        assert_eq!(size.changes(), SMALLEST);
        size.learn(3, 3);
        assert_eq!(size.changes(), SMALLEST, "three changes are no sample");
        size.learn(1_000, 0);
        assert_eq!(size.changes(), SMALLEST * GROWTH);
    }

    #[test]
    fn what_did_not_fit_is_tried_once_with_a_tenth_until_it_is_passed() {
        let mut size = GulpSize::new(64 << 20, None);
        for _ in 0..3 {
            size.learn(20_000, 20_000 * 80);
        }
        let fewer = size.fewer().unwrap();
        assert_eq!(fewer, LARGEST / 10);
        let mut size = GulpSize::new(64 << 20, Some(fewer));
        assert_eq!(size.changes(), FIRST);
        for _ in 0..9 {
            size.learn(u64::from(fewer), 80);
            assert_eq!((size.changes(), size.fewer()), (fewer, None));
        }
        size.learn(u64::from(fewer), 80);
        assert_eq!((size.changes(), size.fewer()), (LARGEST, Some(fewer)));
        size.learn(1_000, 64 << 30);
        assert_eq!(size.fewer(), None, "it is the smallest already");
    }
}
