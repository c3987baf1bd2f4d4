//! One rule's life: quiet, pending, firing, and back; pure.
//!
//! A value that is not known changes nothing: it neither raises nor clears. What does not know
//! its value for too long has a rule of its own (`LagUnknown`).

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::config::RuleConfig;

/// What an observation changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transition {
    /// The alert fires from now on.
    Raised,
    /// The alert is over.
    Cleared,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Quiet { above_since: Option<Instant> },
    Firing { since: Timestamp, below_since: Option<Instant> },
}

/// Follows one value against its levels.
#[derive(Clone, Debug)]
pub struct Evaluator {
    levels: RuleConfig,
    state: State,
}

impl Evaluator {
    /// A quiet rule.
    pub fn new(levels: RuleConfig) -> Self {
        Self { levels, state: State::Quiet { above_since: None } }
    }

    /// Since when the alert fires, if it does.
    pub fn firing_since(&self) -> Option<Timestamp> {
        match self.state {
            State::Firing { since, .. } => Some(since),
            State::Quiet { .. } => None,
        }
    }

    /// Takes one observation. `now` never goes back; `wall` is what a person will read.
    pub fn observe(
        &mut self,
        now: Instant,
        value: Option<f64>,
        wall: Timestamp,
    ) -> Option<Transition> {
        let value = value?;
        let dwell = Duration::from_secs_f64(self.levels.for_seconds);
        match &mut self.state {
            State::Quiet { above_since } => {
                if value <= self.levels.raise {
                    *above_since = None;
                    return None;
                }
                let since = *above_since.get_or_insert(now);
                if now.duration_since(since) < dwell {
                    return None;
                }
                self.state = State::Firing { since: wall, below_since: None };
                Some(Transition::Raised)
            }
            State::Firing { below_since, .. } => {
                if value > self.levels.clear {
                    *below_since = None;
                    return None;
                }
                let since = *below_since.get_or_insert(now);
                if now.duration_since(since) < dwell {
                    return None;
                }
                self.state = State::Quiet { above_since: None };
                Some(Transition::Cleared)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(values: &[(u64, Option<f64>)]) -> Vec<(u64, Transition)> {
        let levels = RuleConfig { raise: 5.0, clear: 2.5, for_seconds: 10.0 };
        let mut evaluator = Evaluator::new(levels);
        let start = Instant::now();
        let mut changes = Vec::new();
        for (second, value) in values {
            let now = start + Duration::from_secs(*second);
            if let Some(change) = evaluator.observe(now, *value, Timestamp::UNIX_EPOCH) {
                changes.push((*second, change));
            }
        }
        changes
    }

    #[test]
    fn raises_after_the_dwell_and_clears_below_the_lower_level() {
        let values = [
            (0, Some(9.0)),
            (9, Some(9.0)),
            (10, Some(9.0)),
            (20, Some(3.0)),
            (60, Some(2.0)),
            (69, Some(2.0)),
            (70, Some(1.0)),
        ];
        assert_eq!(follow(&values), [(10, Transition::Raised), (70, Transition::Cleared)]);
    }

    #[test]
    fn a_dip_starts_the_dwell_again() {
        let values =
            [(0, Some(9.0)), (9, Some(1.0)), (10, Some(9.0)), (19, Some(9.0)), (20, Some(9.0))];
        assert_eq!(follow(&values), [(20, Transition::Raised)]);
    }

    #[test]
    fn an_unknown_value_neither_raises_nor_clears() {
        let values = [(0, Some(9.0)), (5, None), (10, Some(9.0)), (11, None), (500, None)];
        assert_eq!(follow(&values), [(10, Transition::Raised)]);
    }

    #[test]
    fn the_edge_itself_is_not_above() {
        assert_eq!(follow(&[(0, Some(5.0)), (100, Some(5.0))]), []);
    }
}
