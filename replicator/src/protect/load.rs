//! The copy's pace follows blue's health: additive increase, multiplicative decrease.
//!
//! The sign is how long blue takes to answer `SELECT 1`: it needs no disk and no lock, so when it
//! is slow, blue has no processor left or the way there is full, and its own clients wait as well.
//! The median of some answers counts, so that a single hiccup does not.

use std::collections::VecDeque;
use std::time::Duration;

use crate::backfill::Setting;

/// How often blue is asked.
pub(crate) const ASK_EVERY: Duration = Duration::from_millis(250);
/// Answers that are looked at together: 2 s of them.
const ANSWERS: usize = 8;
/// `auto`: as many times slower than before the copy is too slow...
const SLOWDOWN: u32 = 10;
/// ...but faster than this is never too slow.
const ANSWER_MIN: Duration = Duration::from_millis(50);
/// Never slower than this: a copy without end keeps blue's log and its dead rows without end.
const RATE_MIN: u64 = 1 << 20;

/// Decides how many bytes per second the copy may read; pure.
#[derive(Debug)]
pub(crate) struct Pacer {
    /// What is too slow; `None`: nothing is.
    limit: Option<Duration>,
    answers: VecDeque<Duration>,
    /// Bytes per second; `None`: as fast as it goes.
    rate: Option<u64>,
    /// The rate at which blue was last found too slow.
    ceiling: u64,
}

impl Pacer {
    /// `baseline`: blue's answer before the copy began.
    pub(crate) fn new(answer_ms_max: Setting, baseline: Duration) -> Self {
        let limit = match answer_ms_max {
            Setting::Auto => Some((baseline * SLOWDOWN).max(ANSWER_MIN)),
            Setting::Fixed(0) => None,
            Setting::Fixed(ms) => Some(Duration::from_millis(ms)),
        };
        Self { limit, answers: VecDeque::new(), rate: None, ceiling: u64::MAX }
    }

    /// What is too slow, if anything is.
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// Takes one answer (one that has not come yet counts with the time it has taken so far), and
    /// what the copy reads at now, bytes per second. Gives back the rate from now on; `None`: as
    /// fast as it goes.
    ///
    /// Halves the rate when the median answer is too slow, then waits for new answers before it
    /// judges again. Otherwise raises it by a tenth of what was last too much, until well beyond.
    pub(crate) fn answered(&mut self, took: Duration, copying_at: u64) -> Option<u64> {
        let limit = self.limit?;
        self.answers.push_back(took);
        if self.answers.len() < ANSWERS {
            return self.rate;
        }
        let mut sorted: Vec<Duration> = self.answers.iter().copied().collect();
        sorted.sort_unstable();
        let median = sorted[ANSWERS / 2];
        if median > limit {
            let now = self.rate.map_or(copying_at, |rate| rate.min(copying_at));
            self.ceiling = now.max(RATE_MIN);
            self.rate = Some((now / 2).max(RATE_MIN));
            self.answers.clear();
        } else {
            self.answers.pop_front();
            let step = (self.ceiling / 10 / ANSWERS as u64).max(1);
            self.rate = self
                .rate
                .map(|rate| rate.saturating_add(step))
                .filter(|rate| *rate < self.ceiling.saturating_mul(2));
        }
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// The same answer for a while.
    fn follow(pacer: &mut Pacer, answer: Duration, times: usize, full_speed: u64) -> Option<u64> {
        let mut rate = pacer.rate;
        for _ in 0..times {
            rate = pacer.answered(answer, rate.unwrap_or(full_speed).min(full_speed));
        }
        rate
    }

    #[test]
    fn a_healthy_blue_is_read_as_fast_as_it_goes() {
        let mut pacer = Pacer::new(Setting::Auto, ms(1));
        assert_eq!(follow(&mut pacer, ms(49), 1_000, 100 * MIB), None);
    }

    #[test]
    fn a_single_slow_answer_is_nothing() {
        let mut pacer = Pacer::new(Setting::Auto, ms(1));
        for _ in 0..100 {
            follow(&mut pacer, ms(1), ANSWERS, 100 * MIB);
            assert_eq!(pacer.answered(ms(5_000), 100 * MIB), None);
        }
    }

    #[test]
    fn it_halves_until_blue_is_well_and_comes_back_slowly() {
        let mut pacer = Pacer::new(Setting::Auto, ms(1));
        assert_eq!(follow(&mut pacer, ms(80), ANSWERS, 100 * MIB), Some(50 * MIB));
        assert_eq!(follow(&mut pacer, ms(80), ANSWERS, 100 * MIB), Some(25 * MIB));
        let after_10_s = follow(&mut pacer, ms(2), 40, 100 * MIB).unwrap();
        assert!(after_10_s > 30 * MIB && after_10_s < 60 * MIB, "{after_10_s}");
        assert_eq!(follow(&mut pacer, ms(2), 1_000, 100 * MIB), None, "no limit in the end");
    }

    #[test]
    fn it_never_stands_still() {
        let mut pacer = Pacer::new(Setting::Fixed(5), ms(1));
        assert_eq!(follow(&mut pacer, ms(6), 1_000, 100 * MIB), Some(RATE_MIN));
        assert!(follow(&mut pacer, ms(2), 10, 100 * MIB).is_some_and(|rate| rate > RATE_MIN));
    }

    #[test]
    fn a_slow_line_is_no_sign_of_load() {
        let mut pacer = Pacer::new(Setting::Auto, ms(40));
        assert_eq!(pacer.limit(), Some(ms(400)));
        assert_eq!(follow(&mut pacer, ms(90), 100, MIB), None);
        assert_eq!(Pacer::new(Setting::Fixed(0), ms(1)).answered(ms(9_999), MIB), None);
    }
}
