//! How many rows are read at a time while clients are spared.
//!
//! A statement that takes half a millisecond is over before anybody who waits for its core would have
//! got one, and a pause follows it ([`super::gate`]). How many rows that is depends on how wide they
//! are and on the server, so each table learns it from what its last chunks took. A server whose
//! clients leave nothing over takes longer for the same rows, and is asked for fewer.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// What one statement is meant to take.
const QUANTUM: Duration = Duration::from_micros(500);
/// Where it begins.
const FIRST: i64 = 100;
/// Fewer would be all overhead; more are never needed.
const ROWS: std::ops::RangeInclusive<i64> = 50..=2_000;

/// Of one table.
#[derive(Debug)]
pub(super) struct Stride(AtomicI64);

impl Default for Stride {
    fn default() -> Self {
        Self(AtomicI64::new(FIRST))
    }
}

impl Stride {
    /// Rows of the next chunk, at most `most`.
    pub fn rows(&self, most: i64) -> i64 {
        self.0.load(Ordering::Relaxed).min(most).max(1)
    }

    /// A statement that has read so many rows took so long.
    pub fn took(&self, rows: u64, took: Duration) {
        let before = self.0.load(Ordering::Relaxed);
        let read = i64::try_from(rows).unwrap_or(i64::MAX);
        // The last chunk of a table says nothing about more of them.
        if read < before.min(*ROWS.start()) {
            return;
        }
        let fits = (read as f64 * QUANTUM.as_secs_f64() / took.as_secs_f64().max(1e-6)) as i64;
        // One that had to wait for a core is no reason to read nearly nothing from now on, and one that
        // was lucky none to read much more: a quarter of the way.
        let next = before + (fits.clamp(before / 4, before.saturating_mul(4)) - before) / 4;
        self.0.store(next.clamp(*ROWS.start(), *ROWS.end()), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After as many chunks of a server that takes so long for a row.
    fn after(chunks: usize, row: Duration) -> i64 {
        let stride = Stride::default();
        for _ in 0..chunks {
            let rows = stride.rows(i64::MAX);
            stride.took(rows as u64, row * rows as u32);
        }
        stride.rows(i64::MAX)
    }

    #[test]
    fn it_comes_to_what_takes_half_a_millisecond() {
        let rows = after(50, Duration::from_micros(1));
        assert!((450..=500).contains(&rows), "{rows}");
        assert_eq!(after(50, Duration::from_nanos(10)), 2_000);
        assert_eq!(after(50, Duration::from_millis(1)), 50);
    }

    #[test]
    fn one_statement_does_not_change_much() {
        let stride = Stride::default();
        stride.took(100, Duration::from_secs(1));
        assert_eq!(stride.rows(i64::MAX), 82);
        stride.took(3, Duration::from_secs(1));
        assert_eq!(stride.rows(i64::MAX), 82, "the last rows of a table");
        assert_eq!(stride.rows(20), 20);
    }
}
