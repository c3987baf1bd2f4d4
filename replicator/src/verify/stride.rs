//! How many rows are read at a time while clients are spared.
//!
//! A statement of half a millisecond is over before anybody who waits for its core would have got
//! one, and a pause follows it ([`super::gate`]). How many rows that is depends on how wide they are
//! and on the server, so each table learns it from what its last chunks took. The quickest of them
//! counts: the others waited for a core, which says nothing about rows. Fewer rows would not shorten that.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// What one statement is meant to take.
const QUANTUM: Duration = Duration::from_micros(500);
/// Where it begins.
const FIRST: i64 = 100;
/// Fewer would be all overhead; more are never needed.
const ROWS: std::ops::RangeInclusive<i64> = 50..=2_000;
/// Chunks of which the quickest counts.
const REMEMBERED: usize = 16;

/// Of one table.
#[derive(Debug)]
pub(super) struct Stride(Mutex<Learned>);

#[derive(Debug)]
struct Learned {
    rows: i64,
    /// Of the last chunks, seconds a row.
    row_seconds: VecDeque<f64>,
}

impl Default for Stride {
    fn default() -> Self {
        Self(Mutex::new(Learned { rows: FIRST, row_seconds: VecDeque::new() }))
    }
}

impl Stride {
    fn locked(&self) -> MutexGuard<'_, Learned> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Rows of the next chunk, at most `most`.
    pub fn rows(&self, most: i64) -> i64 {
        self.locked().rows.min(most).max(1)
    }

    /// A statement that has read so many rows took so long.
    pub fn took(&self, rows: u64, took: Duration) {
        let mut learned = self.locked();
        // The last rows of a table say nothing about a whole chunk.
        if rows < ROWS.start().unsigned_abs() {
            return;
        }
        learned.row_seconds.push_back(took.as_secs_f64().max(1e-6) / rows as f64);
        if learned.row_seconds.len() > REMEMBERED {
            learned.row_seconds.pop_front();
        }
        let quickest = learned.row_seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let fits = (QUANTUM.as_secs_f64() / quickest) as i64;
        // Part of what a statement takes are not its rows: it is come near step by step.
        let next = fits.clamp(learned.rows / 2, learned.rows * 2);
        learned.rows = next.clamp(*ROWS.start(), *ROWS.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: i64 = i64::MAX;

    /// After as many chunks of a server that takes so long for a statement, and for a row of it.
    fn after(chunks: usize, statement: Duration, row: Duration) -> i64 {
        let stride = Stride::default();
        for _ in 0..chunks {
            let rows = stride.rows(ALL);
            stride.took(rows as u64, statement + row * rows as u32);
        }
        stride.rows(ALL)
    }

    #[test]
    fn it_comes_to_what_takes_half_a_millisecond() {
        let [none, overhead] = [Duration::ZERO, Duration::from_micros(100)];
        assert_eq!(after(50, none, Duration::from_micros(1)), 500);
        let rows = after(50, overhead, Duration::from_micros(1));
        assert!((380..=410).contains(&rows), "{rows}");
        assert_eq!(after(50, none, Duration::from_nanos(10)), 2_000);
        assert_eq!(after(50, none, Duration::from_millis(1)), 50);
    }

    #[test]
    fn who_had_to_wait_does_not_count() {
        let stride = Stride::default();
        stride.took(100, Duration::from_micros(500));
        stride.took(100, Duration::from_secs(1));
        assert_eq!(stride.rows(ALL), 100);
        stride.took(3, Duration::from_micros(1));
        assert_eq!(stride.rows(ALL), 100, "the last rows of a table");
        for _ in 0..REMEMBERED {
            stride.took(100, Duration::from_micros(1_000));
        }
        assert_eq!(stride.rows(ALL), 50, "a server that has become slow");
        assert_eq!(stride.rows(20), 20);
    }
}
