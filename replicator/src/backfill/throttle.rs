//! A limit on bytes per second, shared by all workers.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Lets bytes through at a steady rate. What is taken may be more than is there: the next taker
/// waits for it, so a large row is never stuck.
#[derive(Debug)]
pub(super) struct Throttle {
    per_s: u64,
    free_at: Mutex<Instant>,
}

impl Throttle {
    /// `per_s` 0 is no limit.
    pub(super) fn new(per_s: u64) -> Self {
        Self { per_s, free_at: Mutex::new(Instant::now()) }
    }

    /// Waits for the turn of `bytes` more.
    pub(super) async fn pass(&self, bytes: usize) {
        if self.per_s == 0 {
            return;
        }
        let wait = self.reserve(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Books `bytes` and tells how long to wait before sending them.
    fn reserve(&self, bytes: usize, now: Instant) -> Duration {
        let cost = Duration::from_secs_f64(bytes as f64 / self.per_s as f64);
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
}
