//! Samples in, a verdict out.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::baseline::Before;
use super::rule::Rule;
use super::sample::Sample;

/// What the newest samples of a monitor come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Even if everything that is not known were bad, it would be no breach.
    Healthy,
    /// Nobody can say; why.
    Inconclusive(String),
    /// As many bad samples as a breach takes; what the newest of them saw.
    Breached(String),
}

/// Follows one monitor after a flip.
#[derive(Debug, Clone)]
pub struct Judge {
    rule: Rule,
    before: Option<Before>,
    samples: VecDeque<(Instant, Sample)>,
}

impl Judge {
    /// Nothing was sampled yet. `before` is how it was before the flip.
    pub fn new(rule: Rule, before: Option<Before>) -> Self {
        Self { rule, before, samples: VecDeque::new() }
    }

    /// The rule.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// How it was before the flip.
    pub fn before(&self) -> Option<&Before> {
        self.before.as_ref()
    }

    /// The newest sample.
    pub fn newest(&self) -> Option<&Sample> {
        self.samples.back().map(|(_, sample)| sample)
    }

    /// Takes a sample that was begun at `at`.
    pub fn observe(&mut self, at: Instant, sample: Sample) {
        if self.samples.len() == self.rule.of {
            self.samples.pop_front();
        }
        self.samples.push_back((at, sample));
    }

    /// What the samples say now.
    pub fn verdict(&self, now: Instant) -> Verdict {
        let fresh = || {
            let stale_after = self.rule.stale_after();
            self.samples
                .iter()
                .filter(move |(at, _)| now.saturating_duration_since(*at) <= stale_after)
                .map(|(_, sample)| sample)
        };
        let bad = fresh().filter(|sample| matches!(sample, Sample::Bad(_))).count();
        let good = fresh().filter(|sample| matches!(sample, Sample::Good(_))).count();
        if bad >= self.rule.failures {
            let seen = fresh().rev().find_map(|sample| match sample {
                Sample::Bad(seen) => Some(seen.clone()),
                _ => None,
            });
            let seen = seen.unwrap_or_default();
            return match &self.before {
                _ if !self.rule.needs_before => Verdict::Breached(seen),
                Some(before) if before.was_well() => Verdict::Breached(seen),
                Some(_) => {
                    Verdict::Inconclusive(format!("{seen}; but it was no better before the flip"))
                }
                None => Verdict::Inconclusive(format!(
                    "{seen}; but how it was before the flip is not known"
                )),
            };
        }
        let unknown = self.rule.of.saturating_sub(good + bad);
        if bad + unknown < self.rule.failures {
            return Verdict::Healthy;
        }
        let why = fresh().rev().find_map(|sample| match sample {
            Sample::Nothing(why) => Some(why.clone()),
            _ => None,
        });
        Verdict::Inconclusive(why.unwrap_or_else(|| {
            format!("{} of the {} samples that a verdict takes", good + bad, self.rule.of)
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::api::MonitorAction;

    fn rule(failures: usize, of: usize, needs_before: bool) -> Rule {
        Rule {
            name: "page".into(),
            interval: Duration::from_secs(1),
            patience: Duration::ZERO,
            failures,
            of,
            action: MonitorAction::Rollback,
            needs_before,
            limit: "2xx".into(),
        }
    }

    fn well() -> Before {
        Before { good: 3, ..Before::default() }
    }

    fn sample(kind: u8) -> Sample {
        match kind {
            0 => Sample::Good("200".into()),
            1 => Sample::Bad("503".into()),
            _ => Sample::Nothing("no answer".into()),
        }
    }

    /// Verdict after these samples, one a second.
    fn verdict(mut judge: Judge, kinds: &[u8]) -> Verdict {
        let start = Instant::now();
        for (second, kind) in kinds.iter().enumerate() {
            judge.observe(start + Duration::from_secs(second as u64), sample(*kind));
        }
        judge.verdict(start + Duration::from_secs(kinds.len() as u64))
    }

    fn judge(failures: usize, of: usize) -> Judge {
        Judge::new(rule(failures, of, true), Some(well()))
    }

    #[test]
    fn a_breach_takes_enough_bad_samples() {
        assert!(matches!(verdict(judge(3, 5), &[]), Verdict::Inconclusive(_)));
        assert!(matches!(verdict(judge(3, 5), &[0, 0]), Verdict::Inconclusive(_)));
        assert_eq!(verdict(judge(3, 5), &[0, 0, 0]), Verdict::Healthy);
        assert_eq!(verdict(judge(3, 5), &[1, 0, 1, 0, 0]), Verdict::Healthy);
        assert_eq!(verdict(judge(3, 5), &[1, 0, 1, 0, 1]), Verdict::Breached("503".into()));
        assert_eq!(verdict(judge(3, 5), &[1, 1, 1, 0, 0, 0]), Verdict::Healthy, "it is over");
    }

    #[test]
    fn what_was_bad_before_the_flip_is_not_its_doing() {
        let ill = Before { good: 1, bad: 4, ..Before::default() };
        for before in [Some(ill), None] {
            let judge = Judge::new(rule(3, 5, true), before.clone());
            assert!(matches!(verdict(judge, &[1; 5]), Verdict::Inconclusive(_)));
            let judge = Judge::new(rule(3, 5, false), before);
            assert!(matches!(verdict(judge, &[1; 5]), Verdict::Breached(_)));
        }
    }

    #[test]
    fn a_probe_that_went_silent_is_not_healthy() {
        let mut judge = judge(3, 5);
        let start = Instant::now();
        for second in 0..5 {
            judge.observe(start + Duration::from_secs(second), sample(0));
        }
        assert_eq!(judge.verdict(start + Duration::from_secs(6)), Verdict::Healthy);
        let later = judge.verdict(start + Duration::from_secs(60));
        assert!(matches!(later, Verdict::Inconclusive(_)), "{later:?}");
    }

    proptest! {
        #[test]
        fn never_healthy_without_data_and_never_breached_without_bad_samples(
            failures in 1usize..6,
            more in 0usize..5,
            kinds in proptest::collection::vec(0u8..3, 0..30),
        ) {
            let of = failures + more;
            let verdict = verdict(judge(failures, of), &kinds);
            let newest = &kinds[kinds.len().saturating_sub(of)..];
            let count = |kind| newest.iter().filter(|k| **k == kind).count();
            match verdict {
                Verdict::Breached(_) => prop_assert!(count(1) >= failures),
                // Whatever the unknown ones were, it would be no breach.
                Verdict::Healthy => {
                    prop_assert!(of - count(0) < failures);
                    prop_assert!(count(0) > 0);
                }
                Verdict::Inconclusive(_) => {
                    prop_assert!(count(1) < failures && of - count(0) >= failures);
                }
            }
        }

        /// No data in the place of data never turns another verdict into a breach or into health.
        #[test]
        fn losing_samples_makes_nothing_certain(
            kinds in proptest::collection::vec(0u8..2, 1..12),
            lost in proptest::collection::vec(any::<bool>(), 12),
        ) {
            let known = verdict(judge(3, 5), &kinds);
            let holes: Vec<u8> =
                kinds.iter().zip(lost).map(|(kind, lost)| if lost { 2 } else { *kind }).collect();
            let with_holes = verdict(judge(3, 5), &holes);
            let is_inconclusive = matches!(with_holes, Verdict::Inconclusive(_));
            prop_assert!(is_inconclusive || with_holes == known);
        }
    }
}
