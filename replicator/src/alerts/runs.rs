//! What the runs and the monitors of a time of watching mean for the alerts.

use cutover::api::{MonitorState, Outcome, RunStatus};
use cutover::controller::Breached;
use jiff::{SignedDuration, Timestamp};

/// A breach is shown at least for so long: whoever looks once a second must not miss one that was
/// answered sooner.
const SHOWN_FOR: SignedDuration = SignedDuration::from_secs(5);

/// As of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RunReadings {
    /// Monitors of the side that is watched, by state, in the order of [`MonitorState::ALL`].
    pub monitors: [u64; 3],
    /// A monitor is breached, or the rollback that one has led to is not over yet.
    pub breached: bool,
    /// The clients were taken back by the sidecar itself, and no cutover was begun since.
    pub rolled_back: bool,
    /// A rollback that the sidecar has begun by itself did not come to its end.
    pub rollback_failed: bool,
    /// A run waits for a person.
    pub held: bool,
    /// Router members that were not seen to lead to the side that serves.
    pub routers_unverified: u64,
}

impl RunReadings {
    /// From the newest run, and the breach that ended the newest cutover's time of watching.
    pub fn of(run: Option<&RunStatus>, breach: Option<&Breached>, now: Timestamp) -> Self {
        let report = run.and_then(|run| run.report.as_ref());
        // An old run's monitors say nothing about the present.
        let monitors = run.filter(|run| run.report.is_none()).map_or(&[][..], |run| &run.monitors);
        let count = |state| monitors.iter().filter(|monitor| monitor.state == state).count() as u64;
        let outcome = report.map(|report| report.outcome);
        let flipped = matches!(outcome, Some(Outcome::Completed | Outcome::RolledBack));
        let unverified = report.filter(|_| flipped).map_or(0, |report| {
            report.routers.iter().filter(|member| !member.verified).count() as u64
        });
        // The breach is read a moment after a run has ended.
        let is_back =
            |breach: &Breached| breach.rolled_back || outcome == Some(Outcome::RolledBack);
        let at_rest = run.is_none() || report.is_some();
        Self {
            monitors: MonitorState::ALL.map(count),
            breached: count(MonitorState::Breached) > 0
                || breach.is_some_and(|breach| {
                    !is_back(breach) || now.duration_since(breach.at).abs() < SHOWN_FOR
                }),
            rolled_back: breach.is_some_and(is_back),
            rollback_failed: breach
                .is_some_and(|breach| breach.answered && !is_back(breach) && at_rest),
            held: outcome == Some(Outcome::Held),
            routers_unverified: unverified,
        }
    }

    /// Monitors in a state.
    pub fn monitors_in(&self, state: MonitorState) -> u64 {
        let at = MonitorState::ALL.iter().position(|known| *known == state);
        at.map_or(0, |at| self.monitors[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover::api::{MonitorAction, MonitorStatus};
    use cutover::{Direction, Phase};

    fn watching(states: &[MonitorState]) -> RunStatus {
        let monitor = |(number, state): (usize, &MonitorState)| MonitorStatus {
            name: format!("m{number}"),
            state: *state,
            action: MonitorAction::Alert,
            since: Timestamp::UNIX_EPOCH,
            seen: None,
            limit: "2xx".into(),
            why: None,
        };
        let run = serde_json::json!({
            "run": "abc",
            "epoch": 1,
            "direction": Direction::Forward,
            "phase": Phase::Watching,
            "started": Timestamp::UNIX_EPOCH,
            "abortable": false,
            "serving": "green",
            "last_event": 1,
            "monitors": states.iter().enumerate().map(monitor).collect::<Vec<_>>(),
        });
        serde_json::from_value(run).unwrap()
    }

    #[test]
    fn a_breach_stays_until_the_clients_are_back() {
        let run = watching(&[MonitorState::Healthy, MonitorState::Inconclusive]);
        let readings = RunReadings::of(Some(&run), None, Timestamp::UNIX_EPOCH);
        assert_eq!((readings.monitors, readings.breached), ([1, 1, 0], false));
        let run = watching(&[MonitorState::Breached]);
        assert!(RunReadings::of(Some(&run), None, Timestamp::UNIX_EPOCH).breached);
        let due = Breached {
            run: "abc".into(),
            at: Timestamp::UNIX_EPOCH,
            what: "503".into(),
            answered: false,
            rolled_back: false,
        };
        let shown = |breach: &Breached| {
            let later = Timestamp::UNIX_EPOCH + SHOWN_FOR;
            let readings = RunReadings::of(None, Some(breach), later);
            (readings.breached, readings.rollback_failed, readings.rolled_back)
        };
        assert_eq!(shown(&due), (true, false, false));
        let answered = Breached { answered: true, ..due };
        assert_eq!(shown(&answered), (true, true, false));
        assert_eq!(shown(&Breached { rolled_back: true, ..answered }), (false, false, true));
    }
}
