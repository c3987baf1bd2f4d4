//! What follows from the verdicts.

use super::judge::Verdict;
use super::rule::Rule;
use crate::api::MonitorAction;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Go on watching.
    Stay,
    /// Begin the rollback: why, a sentence.
    RollBack(String),
    /// A rollback is due, but nothing can be rolled back now: why it is due, and why not now.
    CannotRollBack {
        /// Why it is due.
        due: String,
        /// Why not now.
        obstacle: String,
    },
}

/// What follows from all verdicts of one moment. `ready` says why a rollback is impossible now.
pub fn decide<'a>(
    judged: impl IntoIterator<Item = (&'a Rule, &'a Verdict)>,
    ready: Result<(), String>,
) -> Decision {
    let breaches: Vec<String> = judged
        .into_iter()
        .filter(|(rule, _)| rule.action == MonitorAction::Rollback)
        .filter_map(|(rule, verdict)| match verdict {
            Verdict::Breached(seen) => Some(describe(rule, seen)),
            Verdict::Healthy | Verdict::Inconclusive(_) => None,
        })
        .collect();
    if breaches.is_empty() {
        return Decision::Stay;
    }
    let due = breaches.join("; ");
    match ready {
        Ok(()) => Decision::RollBack(due),
        Err(obstacle) => Decision::CannotRollBack { due, obstacle },
    }
}

/// A breach in words.
pub fn describe(rule: &Rule, seen: &str) -> String {
    format!(
        "monitor {}: {} of {} samples against {}, the newest: {seen}",
        rule.name, rule.failures, rule.of, rule.limit
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rule(action: MonitorAction) -> Rule {
        Rule {
            name: "page".into(),
            interval: Duration::from_secs(1),
            patience: Duration::ZERO,
            failures: 3,
            of: 5,
            action,
            needs_before: false,
            limit: "2xx".into(),
        }
    }

    #[test]
    fn only_a_breach_that_is_to_roll_back_does_and_only_if_it_can() {
        let (alert, rollback) = (rule(MonitorAction::Alert), rule(MonitorAction::Rollback));
        let breached = Verdict::Breached("503".into());
        let silent = Verdict::Inconclusive("no answer".into());
        assert_eq!(decide([(&alert, &breached)], Ok(())), Decision::Stay);
        assert_eq!(decide([(&rollback, &silent)], Ok(())), Decision::Stay);
        assert_eq!(decide([(&rollback, &Verdict::Healthy)], Ok(())), Decision::Stay);
        let decided = decide([(&alert, &breached), (&rollback, &breached)], Ok(()));
        let due = "monitor page: 3 of 5 samples against 2xx, the newest: 503".to_owned();
        assert_eq!(decided, Decision::RollBack(due.clone()));
        let obstacle = "the way back is 9 s behind".to_owned();
        let decided = decide([(&rollback, &breached)], Err(obstacle.clone()));
        assert_eq!(decided, Decision::CannotRollBack { due, obstacle });
    }
}
