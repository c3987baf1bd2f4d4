//! What is to be sampled now, by how far the newest run is.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::api::{Outcome, RunStatus};
use crate::phase::Phase;
use crate::side::{Direction, Side};

/// What is to be sampled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing: clients are being moved, or nobody knows who serves.
    Still,
    /// How the side that serves does before a flip.
    Before {
        /// Which one.
        side: Side,
        /// Whether a run waits for its gate: time is short then.
        is_near: bool,
    },
    /// How the side that opened does.
    After {
        /// The run that opened it.
        run: String,
        /// Which one.
        side: Side,
    },
}

impl Stage {
    /// By the newest run of this process, if there is one. `serving`: who serves by the journal.
    /// `window`: how long a side is watched whose run is over already because it left no way back.
    pub fn of(run: Option<&RunStatus>, serving: Side, window: Duration, now: Timestamp) -> Stage {
        let Some(run) = run else { return Stage::Before { side: serving, is_near: false } };
        let after = || Stage::After { run: run.run.clone(), side: run.direction.to() };
        let Some(report) = &run.report else {
            return match run.phase {
                Phase::Replicating | Phase::Armed => {
                    Stage::Before { side: run.direction.from(), is_near: true }
                }
                Phase::Watching => after(),
                _ => Stage::Still,
            };
        };
        let flipped = matches!(report.outcome, Outcome::Completed | Outcome::RolledBack);
        if flipped && report.way_back != Some(true) {
            let over = SignedDuration::try_from(window)
                .ok()
                .and_then(|window| report.ended.checked_add(window).ok());
            if over.is_some_and(|over| now < over) {
                return after();
            }
        }
        match Side::ALL.into_iter().find(|side| side.name() == run.serving) {
            Some(side) => Stage::Before { side, is_near: false },
            None => Stage::Still,
        }
    }
}

/// Whether what a monitor finds in this run may lead to a rollback: only a cutover that still
/// watches can be rolled back by itself. A rollback that goes wrong needs a person.
pub(super) fn may_roll_back(run: &RunStatus) -> bool {
    run.direction == Direction::Forward && run.phase == Phase::Watching && run.report.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SCHEMA_VERSION;

    fn run(direction: Direction, phase: Phase) -> RunStatus {
        RunStatus {
            schema_version: SCHEMA_VERSION,
            run: "abc".into(),
            epoch: 1,
            direction,
            phase,
            started: Timestamp::UNIX_EPOCH,
            waiting_for: None,
            abortable: false,
            serving: "green".into(),
            watch_until: None,
            monitors: Vec::new(),
            last_event: 0,
            report: None,
        }
    }

    #[test]
    fn only_the_sides_that_serve_are_sampled() {
        let stage = |run: Option<&RunStatus>| {
            Stage::of(run, Side::Blue, Duration::ZERO, Timestamp::UNIX_EPOCH)
        };
        assert_eq!(stage(None), Stage::Before { side: Side::Blue, is_near: false });
        let armed = run(Direction::Forward, Phase::Armed);
        assert_eq!(stage(Some(&armed)), Stage::Before { side: Side::Blue, is_near: true });
        for phase in [Phase::Gate, Phase::Fenced, Phase::Committed, Phase::Reversing] {
            assert_eq!(stage(Some(&run(Direction::Forward, phase))), Stage::Still);
        }
        let watching = run(Direction::Back, Phase::Watching);
        let after = Stage::After { run: "abc".into(), side: Side::Blue };
        assert_eq!(stage(Some(&watching)), after);
    }

    #[test]
    fn only_a_cutover_that_watches_can_be_rolled_back() {
        assert!(may_roll_back(&run(Direction::Forward, Phase::Watching)));
        assert!(!may_roll_back(&run(Direction::Back, Phase::Watching)));
        assert!(!may_roll_back(&run(Direction::Forward, Phase::Reversing)));
    }
}
