//! How many changes to ask for at a time.
//!
//! Each call decodes the log again from the slot's `restart_lsn`, which favours large gulps: pgbench
//! arrives at 79 k transactions/s with 100,000 changes a call and at 138 k/s with 400,000. Blue
//! holds a whole gulp in its work_mem or in a temporary file, which favours small ones.

/// The first gulp, from which the size of a change is learned.
const FIRST: u32 = 20_000;

/// No gulp is smaller, whatever a change's size: `temp_file_limit` guards blue then.
const SMALLEST: u32 = 1_000;

/// No gulp is larger: little is gained beyond.
const LARGEST: u32 = 400_000;

/// The size of the gulps of one reader.
#[derive(Debug)]
pub(super) struct GulpSize {
    /// Wanted for one gulp.
    bytes: u64,
    changes: u32,
}

impl GulpSize {
    pub(super) fn new(bytes: u64) -> Self {
        Self { bytes, changes: FIRST }
    }

    /// Changes to ask for.
    pub(super) fn changes(&self) -> u32 {
        self.changes
    }

    /// A gulp of so many changes and bytes arrived.
    pub(super) fn learn(&mut self, changes: u64, bytes: u64) {
        // Too few changes say little about the next ones.
        if changes < u64::from(SMALLEST) {
            return;
        }
        let wanted = self.bytes.saturating_mul(changes) / bytes.max(1);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        self.changes = wanted.clamp(SMALLEST, LARGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_changes_make_the_largest_gulp_and_large_ones_a_small_one() {
        let mut size = GulpSize::new(64 << 20);
        assert_eq!(size.changes(), FIRST);
        size.learn(20_000, 20_000 * 80);
        assert_eq!(size.changes(), LARGEST);
        size.learn(400_000, 400_000 << 10);
        assert_eq!(size.changes(), 64 << 10);
        size.learn(64 << 10, 64 << 30);
        assert_eq!(size.changes(), SMALLEST);
        size.learn(3, 3);
        assert_eq!(size.changes(), SMALLEST, "three changes are no sample");
        size.learn(1_000, 0);
        assert_eq!(size.changes(), LARGEST);
    }
}
