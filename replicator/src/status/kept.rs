//! The log that a source keeps for us: how much, how fast it grows, and how old what is read next is.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::alerts::LogReadings;
use crate::protect::ProtectConfig;
use crate::protect::wal::Budget;

/// Growth is measured over this long: a checkpoint must not look like a trend.
const WINDOW: Duration = Duration::from_secs(600);
/// And over no less: what came in a few seconds says nothing of the next hour.
const WINDOW_MIN: Duration = Duration::from_secs(60);
/// Between two samples.
const EVERY: Duration = Duration::from_secs(10);

/// What is kept, and what was.
#[derive(Debug, Default)]
pub(super) struct Kept {
    samples: VecDeque<(Instant, u64)>,
    binlog_expire_seconds: Option<u64>,
}

impl Kept {
    /// A server that does not answer leaves a gap, a slot that is gone has no history.
    pub(super) fn seen(&mut self, now: Instant, retained_bytes: Option<u64>) {
        let Some(bytes) = retained_bytes else { return self.samples.clear() };
        if self.samples.back().is_some_and(|(at, _)| now.duration_since(*at) < EVERY) {
            return;
        }
        self.samples.push_back((now, bytes));
        while self.samples.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Bytes per second; `None` until that can be told.
    fn growth(&self) -> Option<f64> {
        let (&(from, first), &(to, last)) = (self.samples.front()?, self.samples.back()?);
        let took = to.duration_since(from);
        (took >= WINDOW_MIN).then(|| (last as f64 - first as f64) / took.as_secs_f64())
    }
}

impl Shared {
    /// After what time the source removes a binlog, read or not; `None` if it does not say.
    pub fn binlog_expires(&self, seconds: Option<u64>) {
        if let Some(seconds) = seconds {
            self.facts().kept.binlog_expire_seconds = Some(seconds);
        }
    }

    /// What the source keeps for this stream.
    pub fn log_kept(&self, protect: &ProtectConfig) -> LogReadings {
        let lag_seconds = self.lag_now().seconds;
        let mut facts = self.facts();
        let now = Instant::now();
        if let Some(seconds) = lag_seconds {
            facts.lag_seen = (now, seconds);
        }
        let (at, seconds) = facts.lag_seen;
        let slot = facts.slot;
        LogReadings {
            retained_bytes: slot.retained_bytes,
            budget: slot.retained_bytes.map(|_| Budget::of(protect, &slot)),
            growth_bytes_per_second: facts.kept.growth(),
            binlog_expire_seconds: facts.kept.binlog_expire_seconds,
            position_age_seconds: seconds + now.duration_since(at).as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_after_a_minute_and_forgets_after_ten() {
        let start = Instant::now();
        let mut kept = Kept::default();
        let mut growths = Vec::new();
        for second in 0..=1_260_u64 {
            // Grows by 100 bytes a second for ten minutes, then stands still.
            let now = start + Duration::from_secs(second);
            kept.seen(now, Some(100 * second.min(600)));
            if [50, 60, 600, 1_200, 1_260].contains(&second) {
                growths.push(kept.growth().map(|growth| growth.round() as i64));
            }
        }
        assert_eq!(growths, [None, Some(100), Some(100), Some(0), Some(0)]);
        kept.seen(start, None);
        assert_eq!(kept.growth(), None);
    }
}
