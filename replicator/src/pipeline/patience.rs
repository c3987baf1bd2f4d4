//! When a halted stream is tried again; pure.
//!
//! A cause that is still there is looked for again every few seconds: whoever has removed it should not
//! have to say so. A cause that comes back after the stream went on for a while flaps: the pauses double
//! up to minutes. A stream that went on for longer than that has left its halts behind.

use std::time::Duration;

/// Longest pause while the cause is simply still there.
const LOOK_MAX: Duration = Duration::from_secs(30);
/// Longest pause of a cause that comes and goes.
const FLAP_MAX: Duration = Duration::from_secs(300);
/// An attempt that streamed for less than this has only found the cause again.
const LOOKED: Duration = Duration::from_secs(10);
/// One that streamed for so long was healthy.
const HEALTHY: Duration = Duration::from_secs(60);

/// The pauses of one pipeline.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    first: Duration,
    /// What halted last, without its numbers: positions differ from attempt to attempt.
    cause: String,
    looks: u32,
    flaps: u32,
}

impl Patience {
    /// Nothing has failed yet; the first pause is `first`.
    pub(super) fn new(first: Duration) -> Self {
        Self { first, cause: String::new(), looks: 0, flaps: 0 }
    }

    /// The pause behind an attempt that has halted for `cause`, and that had streamed for so long.
    pub(super) fn after(&mut self, cause: &str, streamed: Duration) -> Duration {
        let cause = cause.replace(|c: char| c.is_ascii_digit(), "");
        if self.cause != cause || streamed >= HEALTHY {
            *self = Self { cause, looks: 1, ..Self::new(self.first) };
        } else if streamed >= LOOKED {
            self.flaps = self.flaps.saturating_add(1);
            self.looks = 0;
        } else {
            self.looks = self.looks.saturating_add(1);
        }
        let look = doubled(self.first, self.looks.saturating_sub(1), LOOK_MAX);
        look.max(doubled(self.first, self.flaps, FLAP_MAX))
    }

    /// Somebody has asked for an attempt: what comes next counts from here.
    pub(super) fn asked(&mut self) {
        *self = Self::new(self.first);
    }
}

fn doubled(first: Duration, times: u32, max: Duration) -> Duration {
    let factor = 1u32.checked_shl(times).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(max.max(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(5);

    fn seconds(patience: &mut Patience, streamed: &[u64]) -> Vec<u64> {
        let pause = |s: &u64| patience.after("t: 17 rows", Duration::from_secs(*s)).as_secs();
        streamed.iter().map(pause).collect()
    }

    #[test]
    fn a_cause_that_stays_is_looked_for_every_few_seconds() {
        let mut patience = Patience::new(FIRST);
        assert_eq!(seconds(&mut patience, &[500, 0, 0, 0, 9, 0]), [5, 10, 20, 30, 30, 30]);
    }

    #[test]
    fn a_cause_that_flaps_backs_off_to_minutes_and_health_forgets_it() {
        let mut patience = Patience::new(FIRST);
        let pauses = seconds(&mut patience, &[0, 20, 20, 20, 20, 20, 20, 20, 0, 60, 0]);
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300, 5, 10]);
    }

    #[test]
    fn another_cause_begins_anew_and_another_number_does_not() {
        let mut patience = Patience::new(FIRST);
        seconds(&mut patience, &[20; 9]);
        assert_eq!(patience.after("t: 99 rows", Duration::ZERO).as_secs(), 300);
        assert_eq!(patience.after("u: 99 rows", Duration::ZERO).as_secs(), 5);
    }

    #[test]
    fn whoever_asks_begins_anew() {
        let mut patience = Patience::new(FIRST);
        seconds(&mut patience, &[20; 9]);
        patience.asked();
        assert_eq!(seconds(&mut patience, &[0]), [5]);
    }

    #[test]
    fn no_number_of_attempts_overflows() {
        let (looks, flaps) = (u32::MAX, u32::MAX);
        let mut patience = Patience { first: FIRST, cause: "t:  rows".into(), looks, flaps };
        assert_eq!(seconds(&mut patience, &[0, 20]), [300, 300]);
    }
}
