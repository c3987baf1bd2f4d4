//! A limit on bytes per second, shared by all workers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Lets bytes through at a steady rate. What is taken may be more than is there: the next taker
/// waits for it, so a large row is never stuck.
///
/// The rate is the operator's limit, or what blue's health allows if that is less.
#[derive(Debug)]
pub(super) struct Throttle {
    /// Bytes per second; 0 is no limit.
    configured: u64,
    /// Likewise.
    healthy: AtomicU64,
    free_at: Mutex<Instant>,
}

impl Throttle {
    /// `per_s` 0 is no limit.
    pub(super) fn new(per_s: u64) -> Self {
        Self { configured: per_s, healthy: AtomicU64::new(0), free_at: Mutex::new(Instant::now()) }
    }

    /// What blue's health allows from now on, bytes per second; `None`: no limit.
    pub(super) fn pace(&self, per_s: Option<u64>) {
        self.healthy.store(per_s.map_or(0, |per_s| per_s.max(1)), Ordering::Relaxed);
    }

    /// Bytes per second; 0 is no limit.
    fn per_s(&self) -> u64 {
        match (self.configured, self.healthy.load(Ordering::Relaxed)) {
            (0, rate) | (rate, 0) => rate,
            (configured, healthy) => configured.min(healthy),
        }
    }

    /// Waits for the turn of `bytes` more.
    pub(super) async fn pass(&self, bytes: usize) {
        let wait = self.reserve(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Books `bytes` and tells how long to wait before sending them.
    fn reserve(&self, bytes: usize, now: Instant) -> Duration {
        let per_s = self.per_s();
        if per_s == 0 {
            return Duration::ZERO;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / per_s as f64);
        // The value is only ever replaced whole, so a panic elsewhere can't have broken it.
        let mut free_at = self.free_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let turn = (*free_at).max(now);
        *free_at = turn + cost;
        turn - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_one_pays_for_the_last() {
        let throttle = Throttle::new(1_000);
        let now = Instant::now() + Duration::from_secs(1);
        assert_eq!(throttle.reserve(500, now), Duration::ZERO);
        assert_eq!(throttle.reserve(500, now), Duration::from_millis(500));
        assert_eq!(throttle.reserve(1, now), Duration::from_secs(1));
        let later = now + Duration::from_secs(60);
        assert_eq!(throttle.reserve(1, later), Duration::ZERO, "an idle time is not saved up");
    }

    #[test]
    fn the_lower_of_two_limits_holds() {
        let throttle = Throttle::new(0);
        assert_eq!(throttle.per_s(), 0);
        throttle.pace(Some(500));
        assert_eq!(throttle.per_s(), 500);
        let throttle = Throttle::new(1_000);
        for (healthy, per_s) in [(Some(500), 500), (Some(9_000), 1_000), (None, 1_000)] {
            throttle.pace(healthy);
            assert_eq!(throttle.per_s(), per_s);
        }
    }
}
