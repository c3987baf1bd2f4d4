//! What a probe saw once.

use super::baseline::Before;

/// One look, already held against limits that don't depend on the time before the flip.
#[derive(Debug, Clone, PartialEq)]
pub enum Sample {
    /// As it should be; what was seen.
    Good(String),
    /// Not as it should be; what was seen.
    Bad(String),
    /// Nothing was seen; why. Says nothing about what is watched.
    Nothing(String),
    /// Times and errors, which only mean something beside those before the flip.
    Timing(Timing),
}

/// A statement's runs during one sample.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Timing {
    /// How often it was run.
    pub runs: u32,
    /// How often it failed.
    pub errors: u32,
    /// 99th percentile of the times of those that did not fail, milliseconds.
    pub p99_ms: Option<f64>,
    /// The first error.
    pub error: Option<String>,
}

/// How much worse than before the flip a [`Timing`] may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimingLimits {
    /// The largest share of errors...
    pub error_rate_max: f64,
    /// ...unless it was so high before: then three times that.
    pub latency_ratio_max: f64,
    /// A 99th percentile below this is never bad, milliseconds.
    pub latency_ms_floor: f64,
}

/// How much more errors than before are bad.
const ERROR_RATIO: f64 = 3.0;

impl Timing {
    /// From the times of the runs that went well, milliseconds, and the errors of the others.
    pub fn of(mut times_ms: Vec<f64>, errors: u32, error: Option<String>) -> Self {
        times_ms.sort_by(f64::total_cmp);
        // Nearest rank: the smallest time that 99 % do not exceed.
        let rank = (times_ms.len() as f64 * 0.99).ceil() as usize;
        let p99_ms = rank.checked_sub(1).and_then(|at| times_ms.get(at)).copied();
        let runs = u32::try_from(times_ms.len()).unwrap_or(u32::MAX).saturating_add(errors);
        Self { runs, errors, p99_ms, error }
    }

    /// Share of the runs that failed; `None` if there were none.
    pub fn error_rate(&self) -> Option<f64> {
        (self.runs > 0).then(|| f64::from(self.errors) / f64::from(self.runs))
    }

    /// In words.
    pub fn describe(&self) -> String {
        let rate = self.error_rate().unwrap_or_default() * 100.0;
        let p99 = self.p99_ms.map_or("no answer".into(), |ms| format!("p99 {ms:.1} ms"));
        let error = self.error.as_deref().map(|error| format!(", first: {error}"));
        format!("{p99}, {rate:.1}% errors of {}{}", self.runs, error.unwrap_or_default())
    }
}

impl TimingLimits {
    /// Holds a timing against the one before the flip.
    pub fn hold_against(&self, timing: &Timing, before: Option<&Before>) -> Sample {
        let seen = timing.describe();
        let Some(rate) = timing.error_rate() else {
            return Sample::Nothing("the statement was not run".into());
        };
        let usual = before.and_then(|before| before.error_rate).unwrap_or_default();
        if rate > self.error_rate_max.max(ERROR_RATIO * usual) {
            return Sample::Bad(seen);
        }
        let Some(p99_ms) = timing.p99_ms else { return Sample::Bad(seen) };
        if p99_ms <= self.latency_ms_floor {
            return Sample::Good(seen);
        }
        match before.and_then(|before| before.p99_ms) {
            Some(usual_ms) if p99_ms > self.latency_ratio_max * usual_ms => {
                Sample::Bad(format!("{seen}; before the flip p99 {usual_ms:.1} ms"))
            }
            Some(_) => Sample::Good(seen),
            None => Sample::Nothing("its times before the flip are not known".into()),
        }
    }

    /// Before the flip: it is well if it mostly works. How well is what the baseline says.
    pub fn alone(&self, timing: &Timing) -> Sample {
        match timing.error_rate() {
            None => Sample::Nothing("the statement was not run".into()),
            Some(rate) if rate >= 0.5 => Sample::Bad(timing.describe()),
            Some(_) => Sample::Good(timing.describe()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TimingLimits =
        TimingLimits { error_rate_max: 0.01, latency_ratio_max: 2.0, latency_ms_floor: 10.0 };

    fn timing(p99_ms: f64, runs: u32, errors: u32) -> Timing {
        Timing { runs, errors, p99_ms: Some(p99_ms), error: None }
    }

    fn before(p99_ms: f64, error_rate: f64) -> Before {
        Before { good: 5, bad: 0, p99_ms: Some(p99_ms), error_rate: Some(error_rate) }
    }

    #[test]
    fn the_percentile_is_the_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(Timing::of(hundred, 0, None).p99_ms, Some(99.0));
        assert_eq!(Timing::of(vec![3.0, 7.0], 1, None), timing(7.0, 3, 1));
        assert_eq!(Timing::of(Vec::new(), 2, None).p99_ms, None);
    }

    #[test]
    fn worse_than_before_is_bad_and_slow_before_is_not() {
        let bad = |sample| matches!(sample, Sample::Bad(_));
        let good = |sample| matches!(sample, Sample::Good(_));
        assert!(good(LIMITS.hold_against(&timing(39.0, 100, 0), Some(&before(20.0, 0.0)))));
        assert!(bad(LIMITS.hold_against(&timing(41.0, 100, 0), Some(&before(20.0, 0.0)))));
        assert!(good(LIMITS.hold_against(&timing(9.0, 100, 0), Some(&before(1.0, 0.0)))));
        assert!(bad(LIMITS.hold_against(&timing(1.0, 100, 2), Some(&before(1.0, 0.0)))));
        assert!(good(LIMITS.hold_against(&timing(1.0, 100, 2), Some(&before(1.0, 0.01)))));
        let all_failed = Timing { runs: 5, errors: 5, ..Timing::default() };
        assert!(bad(LIMITS.hold_against(&all_failed, Some(&before(1.0, 0.0)))));
    }

    #[test]
    fn without_a_before_a_slow_answer_says_nothing() {
        let sample = LIMITS.hold_against(&timing(50.0, 100, 0), None);
        assert!(matches!(sample, Sample::Nothing(_)), "{sample:?}");
        assert!(matches!(LIMITS.hold_against(&Timing::default(), None), Sample::Nothing(_)));
    }
}
