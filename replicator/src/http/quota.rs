//! How many refused requests are written down. Pure: callers bring the time.

use std::time::{Duration, Instant};

/// So many at once.
const AT_ONCE: u32 = 60;
/// And one more each time that so much has passed: about 4 MB a day at most.
const ONE_EACH: Duration = Duration::from_secs(10);

/// A share of the log that refused requests may fill.
#[derive(Debug)]
pub struct Quota {
    left: u32,
    counted: Instant,
    unwritten: u64,
}

impl Quota {
    /// A full one.
    pub fn new(now: Instant) -> Self {
        Self { left: AT_ONCE, counted: now, unwritten: 0 }
    }

    /// Whether one more may be written, and how many were not since the last that was.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        let due = now.saturating_duration_since(self.counted).as_nanos() / ONE_EACH.as_nanos();
        let due = u32::try_from(due).unwrap_or(AT_ONCE).min(AT_ONCE);
        self.left = (self.left + due).min(AT_ONCE);
        self.counted = if self.left == AT_ONCE { now } else { self.counted + ONE_EACH * due };
        if self.left == 0 {
            self.unwritten += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.unwritten))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_a_few_of_it_are_written() {
        let start = Instant::now();
        let mut quota = Quota::new(start);
        let written = (0..10_000).filter(|_| quota.take(start).is_some()).count();
        assert_eq!(written, AT_ONCE as usize);
        assert_eq!(quota.take(start + ONE_EACH), Some(10_000 - u64::from(AT_ONCE)));
        assert_eq!(quota.take(start + ONE_EACH), None);
        let day = Duration::from_secs(86_400);
        let mut now = start + ONE_EACH;
        let mut written = 0;
        while now < start + day {
            now += Duration::from_millis(100);
            written += u64::from(quota.take(now).is_some());
        }
        assert!((8_000..9_000).contains(&written), "{written}");
        let later = now + day;
        assert_eq!((0..1_000).filter(|_| quota.take(later).is_some()).count(), AT_ONCE as usize);
    }
}
