//! The status document: what both streams, the controller and the journal know, put together.

use std::sync::Arc;

use cutover::api::{History, Outcome, Problem, RunStatus, Status};
use cutover::{Direction, Phase};

use super::Api;
use crate::metrics::Sample;
use crate::status::Shared;

impl Api {
    /// The stream that carries; before the first copy is done the one that will.
    pub fn carrying(&self) -> &Arc<Shared> {
        if *self.back.carries.borrow() { &self.back } else { &self.shared }
    }
}

/// Everything about the pipeline now.
pub(super) async fn status(api: &Api) -> Status {
    let Api { back, service, .. } = api;
    let run = service.current();
    let mut status = api.shared.status(run.clone());
    status.verification = api.verifier.continuous();
    status.audit_broken = api.chronicle.audit().broken().map(|broken| broken.to_string());
    status.streams = vec![api.shared.stream(), back.stream()];
    if *back.carries.borrow() {
        let of_back = back.status(None);
        status.direction = Direction::Back;
        status.lag = of_back.lag;
        status.positions = of_back.positions;
        status.counters = of_back.counters;
        // Whoever serves goes on; that the other side no longer follows is what went wrong now.
        status.last_error = of_back.last_error.or(status.last_error);
        status.halt = of_back.halt;
        status.waiting_for = status.waiting_for.or(of_back.waiting_for);
    }
    match service.standing().await {
        Ok(standing) => {
            status.serving = Some(standing.serving.name().to_owned());
            status.sealed = standing.sealed.as_ref().map(|closed| closed.side.name().to_owned());
            status.finish = standing.finish.into();
        }
        // The rest can be seen all the same.
        Err(error) => {
            status.last_error.get_or_insert(Problem {
                what: error.what,
                place: error.place,
                at: status.at,
                data_safe: true,
                next: error.remedy,
            });
        }
    }
    // A run that is under way knows better than what the last one has left.
    let knows_better = |run: &RunStatus| match run.phase {
        Phase::Replicating => false,
        Phase::Held => true,
        _ => run.report.is_none(),
    };
    if let Some(run) = run.filter(knows_better) {
        if run.phase.is_committed() {
            status.sealed = Some(run.direction.from().name().to_owned());
        }
        status.serving = Some(run.serving);
    }
    status
}

/// What a scrape shows.
pub(super) async fn sample(api: &Api, history: &History) -> Sample {
    const OUTCOMES: [Outcome; 4] =
        [Outcome::Completed, Outcome::RolledBack, Outcome::Aborted, Outcome::Held];
    let status = status(api).await;
    let run = status.cutover.as_ref();
    let report = run.and_then(|run| run.report.as_ref());
    let watch_until = run.filter(|run| run.report.is_none()).and_then(|run| run.watch_until);
    let runs = OUTCOMES.map(|outcome| {
        let ended = history.runs.iter().filter(|run| run.outcome == Some(outcome));
        (outcome.name(), ended.count() as u64)
    });
    Sample {
        pipeline: status.pipeline,
        state: match report {
            Some(report) if report.outcome == Outcome::Held => "held",
            _ => status.phase.name(),
        },
        serving: match status.serving.as_deref() {
            Some("blue") => "blue",
            Some("green") => "green",
            _ => "none",
        },
        queue_bytes: api.shared.budget.used_bytes() as u64,
        blue_up: status.blue.up,
        green_up: status.green.up,
        epoch: history.runs.iter().map(|run| run.epoch).max().unwrap_or(0),
        watch_left_seconds: watch_until
            .map_or(0.0, |until| until.duration_since(status.at).as_secs_f64().max(0.0)),
        alert_errors: api.shared.alert_errors(),
        audit_broken: status.audit_broken.is_some(),
        runs: runs.to_vec(),
        last_pause_seconds: history
            .runs
            .iter()
            .filter(|run| run.outcome == Some(Outcome::Completed))
            .find_map(|run| run.pause_ms)
            .map(|pause_ms| pause_ms / 1000.0),
        halted_seconds: status
            .halt
            .as_ref()
            .map_or(0.0, |halt| status.at.duration_since(halt.since).as_secs_f64().max(0.0)),
        pauses_seconds: pauses_seconds(history).collect(),
        alerts: api.source.read(),
        streams: [&api.shared, &api.back].map(|shared| api.source.sample(shared)).into(),
    }
}

/// Write pauses of all runs that have moved the clients.
fn pauses_seconds(history: &History) -> impl Iterator<Item = f64> + '_ {
    let moved = |outcome| matches!(outcome, Some(Outcome::Completed | Outcome::RolledBack));
    let runs = history.runs.iter().filter(move |run| moved(run.outcome));
    runs.filter_map(|run| run.pause_ms).map(|pause_ms| pause_ms / 1000.0)
}
