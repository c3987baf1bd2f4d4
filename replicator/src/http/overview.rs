//! The status document: what both streams, the controller and the journal know, put together.

use std::sync::Arc;

use cutover::api::{Problem, RunStatus, Status};
use cutover::{Direction, Phase};

use super::Api;
use crate::status::Shared;

impl Api {
    /// The stream that carries; before the first copy is done the one that will.
    pub fn carrying(&self) -> &Arc<Shared> {
        if *self.back.carries.borrow() { &self.back } else { &self.shared }
    }
}

/// Everything about the pipeline now.
pub(super) async fn status(api: &Api) -> Status {
    let run = api.service.current();
    let mut status = api.shared.status(run.clone());
    status.streams = vec![api.shared.stream(), api.back.stream()];
    if *api.back.carries.borrow() {
        let of_back = api.back.status(None);
        status.direction = Direction::Back;
        status.lag = of_back.lag;
        status.positions = of_back.positions;
        status.counters = of_back.counters;
        // Whoever serves goes on; that the other side no longer follows is what went wrong now.
        status.last_error = of_back.last_error.or(status.last_error);
        status.waiting_for = status.waiting_for.or(of_back.waiting_for);
    }
    match api.service.standing().await {
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
