//! What a cutover would cost, by what drills measured. Pure.
//!
//! Hold, drain and release are measured. The other steps change something, so a drill leaves them
//! out: they are taken from the last run over the same way, or, before there is one, estimated from
//! the round trips that they make.

use serde::{Deserialize, Serialize};

use crate::api::{DrillMeasures, RunReport, SCHEMA_VERSION, Step};
use crate::report::pause_by_step;
use crate::side::Direction;

/// Where a part's number comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Measured in these drills.
    Measured,
    /// As long as in this run.
    Run(String),
    /// Estimated: so many round trips, commits and entries of the journal.
    Estimated(String),
}

/// One step of the pause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Which.
    pub step: Step,
    /// Half of the drills took no longer, milliseconds.
    pub p50_ms: f64,
    /// The longest, milliseconds.
    pub max_ms: f64,
    /// Where that comes from.
    pub source: Source,
}

/// What a run would cost its clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The API's version.
    pub schema_version: u32,
    /// Which way.
    pub direction: Direction,
    /// Drills that it is made from.
    pub rounds: usize,
    /// The sum of the parts' medians, milliseconds.
    pub p50_ms: f64,
    /// The sum of their longest, milliseconds: steps that are slow together.
    pub max_ms: f64,
    /// The parts.
    pub parts: Vec<Part>,
    /// How long the drills themselves have held the clients: the longest, milliseconds.
    pub drill_pause_max_ms: f64,
}

/// Round trips, commits and journal entries of a step that a drill leaves out, counted in the code
/// of the fence, the sequences and the decision. What no count tells - how long sessions take to end,
/// how many sequences there are - is not in them.
const COSTS: [(Step, f64, f64, f64, f64); 5] = [
    // step, round trips, commits, trips through the stream, journal entries
    (Step::Fence, 13.0, 1.0, 0.0, 1.0),
    (Step::Sync, 4.0, 1.0, 1.0, 1.0),
    (Step::Seal, 6.0, 1.0, 1.0, 1.0),
    (Step::Commit, 1.0, 1.0, 0.0, 1.0),
    (Step::Flip, 4.0, 0.0, 0.0, 1.0),
];

/// From the reports of drills, and of the last run the same way that has completed.
///
/// `None`: no drill came to its end.
pub fn predict(drills: &[RunReport], last_run: Option<&RunReport>) -> Option<Prediction> {
    let measured: Vec<(&RunReport, DrillMeasures)> =
        drills.iter().filter_map(|drill| Some((drill, drill.drill?))).collect();
    let (first, _) = measured.first()?;
    let took = |step: Step| -> Vec<f64> {
        let all = measured.iter().flat_map(|(drill, _)| &drill.steps);
        all.filter(|taken| taken.step == step && taken.ok).map(|taken| taken.ms).collect()
    };
    let part = |step: Step, numbers: Vec<f64>, source: Source| {
        let (p50_ms, max_ms) = spread(&numbers)?;
        Some(Part { step, p50_ms, max_ms, source })
    };
    let mut parts: Vec<Part> = Vec::new();
    parts.extend(part(Step::Quiesce, took(Step::Quiesce), Source::Measured));
    let known = last_run.map(|run| (run, pause_by_step(run)));
    for (step, trips, commits, streams, entries) in COSTS {
        if step == Step::Sync {
            // Where it comes in a run; without the questions that only a drill asks.
            let drains =
                measured.iter().map(|(_, m)| m.write_ms + m.stream_ms + m.journal_ms).collect();
            parts.extend(part(Step::Drain, drains, Source::Measured));
        }
        let in_run = known.as_ref().and_then(|(run, parts)| {
            let (_, ms) = parts.iter().find(|(of, _)| *of == step)?;
            Some((*ms, Source::Run(run.run.clone())))
        });
        parts.extend(match in_run {
            Some((ms, source)) => part(step, vec![ms], source),
            None => {
                let cost = |(_, m): &(&RunReport, DrillMeasures)| {
                    trips * m.round_trip_ms
                        + commits * m.write_ms
                        + streams * m.stream_ms
                        + entries * m.journal_ms
                };
                let said = format!("{trips} round trips, {commits} commits, {entries} entries");
                part(step, measured.iter().map(cost).collect(), Source::Estimated(said))
            }
        });
    }
    parts.extend(part(Step::Open, took(Step::Abort), Source::Measured));
    let pauses = measured.iter().filter_map(|(drill, _)| drill.pause_ms);
    Some(Prediction {
        schema_version: SCHEMA_VERSION,
        direction: first.direction,
        rounds: measured.len(),
        p50_ms: parts.iter().map(|part| part.p50_ms).sum(),
        max_ms: parts.iter().map(|part| part.max_ms).sum(),
        parts,
        drill_pause_max_ms: pauses.fold(0.0, f64::max),
    })
}

/// The median and the largest.
fn spread(numbers: &[f64]) -> Option<(f64, f64)> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some((sorted[last / 2], sorted[last]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Checks, Outcome, Stepped};

    fn report(steps: &[(Step, f64, f64)], drill: Option<DrillMeasures>) -> RunReport {
        let start = "2026-11-21T12:00:04Z".parse().unwrap();
        let stepped = |(step, ms, offset): &(Step, f64, f64)| Stepped {
            step: *step,
            start,
            ms: *ms,
            offset_ms: Some(*offset),
            ok: true,
            summary: String::new(),
        };
        RunReport {
            schema_version: SCHEMA_VERSION,
            run: "7f3a".into(),
            epoch: 1,
            direction: Direction::Forward,
            outcome: Outcome::Drilled,
            actor: None,
            reason: None,
            started: start,
            ended: start,
            pause_ms: steps.last().map(|(_, _, offset)| *offset),
            marker: None,
            fence_proof: None,
            steps: steps.iter().map(stepped).collect(),
            checks: Checks::default(),
            findings: Vec::new(),
            drill,
            routers: Vec::new(),
            way_back: None,
            breach: None,
            serving: "blue".into(),
            error: None,
            notes: Vec::new(),
        }
    }

    fn drill(hold: f64) -> RunReport {
        let steps = [(Step::Quiesce, hold, hold), (Step::Abort, 3.0, hold + 10.0)];
        let measures =
            DrillMeasures { round_trip_ms: 1.0, write_ms: 2.0, stream_ms: 4.0, journal_ms: 1.0 };
        report(&steps, Some(measures))
    }

    #[test]
    fn without_a_run_the_rest_is_estimated_and_said_to_be() {
        let drills = [drill(10.0), drill(30.0), drill(20.0)];
        let predicted = predict(&drills, None).unwrap();
        let of = |step| predicted.parts.iter().find(|part| part.step == step).unwrap();
        let hold = of(Step::Quiesce);
        assert_eq!((hold.p50_ms, hold.max_ms, &hold.source), (20.0, 30.0, &Source::Measured));
        assert_eq!(of(Step::Drain).p50_ms, 7.0);
        assert_eq!(of(Step::Open).p50_ms, 3.0);
        assert_eq!(of(Step::Fence).p50_ms, 13.0 + 2.0 + 1.0);
        assert!(matches!(of(Step::Fence).source, Source::Estimated(_)));
        let sum: f64 = predicted.parts.iter().map(|part| part.p50_ms).sum();
        assert_eq!((predicted.p50_ms, predicted.rounds), (sum, 3));
        assert_eq!(predicted.drill_pause_max_ms, 40.0);
        let order: Vec<_> = predicted.parts.iter().map(|part| part.step).collect();
        use Step::*;
        assert_eq!(order, [Quiesce, Fence, Drain, Sync, Seal, Commit, Flip, Open]);
    }

    #[test]
    fn what_a_run_has_shown_is_taken_from_it() {
        let steps = [
            (Step::Quiesce, 9.0, 9.0),
            (Step::Fence, 30.0, 40.0),
            (Step::Drain, 5.0, 46.0),
            (Step::Seal, 20.0, 66.0),
        ];
        let run = report(&steps, None);
        let predicted = predict(&[drill(10.0)], Some(&run)).unwrap();
        let fence = predicted.parts.iter().find(|part| part.step == Step::Fence).unwrap();
        assert_eq!((fence.p50_ms, &fence.source), (31.0, &Source::Run("7f3a".into())));
        let commit = predicted.parts.iter().find(|part| part.step == Step::Commit).unwrap();
        assert!(matches!(commit.source, Source::Estimated(_)));
    }

    #[test]
    fn a_drill_that_was_cut_short_predicts_nothing() {
        assert_eq!(predict(&[report(&[(Step::Quiesce, 9.0, 9.0)], None)], None), None);
        assert_eq!(predict(&[], None), None);
    }
}
