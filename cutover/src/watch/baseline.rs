//! How things were before the flip.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::sample::{Sample, Timing};

/// So many samples of each monitor are remembered.
const KEPT: usize = 30;

/// What is known of the time before a flip, by monitor. Journaled with the run, so that a restart
/// does not lose it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Baseline(pub BTreeMap<String, Before>);

/// What is known of one monitor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Before {
    /// Samples that were good.
    pub good: u32,
    /// Samples that were bad.
    pub bad: u32,
    /// Median of the 99th percentiles, milliseconds.
    pub p99_ms: Option<f64>,
    /// Share of the runs that failed.
    pub error_rate: Option<f64>,
}

impl Before {
    /// Whether it was seen to be well: more often good than bad.
    pub fn was_well(&self) -> bool {
        self.good > self.bad
    }
}

/// Gathers the samples of one monitor before a flip.
#[derive(Debug, Clone, Default)]
pub struct Gathering {
    samples: VecDeque<(bool, Option<Timing>)>,
}

impl Gathering {
    /// Takes a sample and, if it has one, its timing. One that says nothing leaves no trace.
    pub fn add(&mut self, sample: &Sample, timing: Option<Timing>) {
        let is_good = match sample {
            Sample::Good(_) => true,
            Sample::Bad(_) => false,
            Sample::Nothing(_) | Sample::Timing(_) => return,
        };
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back((is_good, timing));
    }

    /// Forgets everything: another side serves now.
    pub fn clear(&mut self) {
        self.samples.clear();
    }

    /// What it comes to; `None` if there was no sample.
    pub fn before(&self) -> Option<Before> {
        if self.samples.is_empty() {
            return None;
        }
        let good = self.samples.iter().filter(|(is_good, _)| *is_good).count();
        let bad = self.samples.len() - good;
        let timings = || self.samples.iter().filter_map(|(_, timing)| timing.as_ref());
        let mut p99s: Vec<f64> = timings().filter_map(|timing| timing.p99_ms).collect();
        p99s.sort_by(f64::total_cmp);
        let (runs, errors) = timings().fold((0_u64, 0_u64), |(runs, errors), timing| {
            (runs + u64::from(timing.runs), errors + u64::from(timing.errors))
        });
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Some(Before {
            good: count(good),
            bad: count(bad),
            p99_ms: p99s.get(p99s.len() / 2).copied(),
            error_rate: (runs > 0).then(|| errors as f64 / runs as f64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_samples_make_the_baseline() {
        let mut gathering = Gathering::default();
        assert_eq!(gathering.before(), None);
        gathering.add(&Sample::Nothing("away".into()), None);
        assert_eq!(gathering.before(), None, "no data is no sample");
        for n in 0..KEPT + 10 {
            let timing = Timing { runs: 10, errors: 1, p99_ms: Some(n as f64), error: None };
            gathering.add(&Sample::Good(String::new()), Some(timing));
        }
        gathering.add(&Sample::Bad(String::new()), None);
        let before = gathering.before().unwrap();
        assert_eq!((before.good, before.bad, before.error_rate), (29, 1, Some(0.1)));
        assert_eq!(before.p99_ms, Some(25.0));
        assert!(before.was_well());
    }
}
