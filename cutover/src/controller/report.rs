//! What a run leaves behind.

use super::{Run, serving};
use crate::api::{
    Act, ApiError, Checks, ErrorCode, HistoryItem, Outcome, RunReport, SCHEMA_VERSION,
};
use crate::phase::{Phase, State, Stop, StopKind};
use crate::ports::{Clock, Entry, Fence, Lease, Record, TrafficSwitch, World};
use crate::side::Direction;

impl<W: World> Run<'_, W> {
    /// Writes the report into the journal and shows it.
    pub(super) async fn conclude(&mut self, state: &State) -> RunReport {
        let (outcome, error) = match state {
            State::Aborted { why } if why.kind == StopKind::Drilled => (Outcome::Drilled, None),
            State::Aborted { why } => (outcome_of(why.kind), Some(self.aborted(why))),
            State::Held { reached, why } => {
                let error = self.held(*reached, why);
                (Outcome::Held, Some(error))
            }
            _ => (self.completed(), None),
        };
        let pause_ms = self.pause.and_then(|pause| {
            let ended = pause.ended?;
            Some(ended.saturating_duration_since(pause.began).as_secs_f64() * 1e3)
        });
        let serving = match state {
            State::Held { reached: Phase::Open | Phase::Flipped, .. } => {
                self.direction().to().name()
            }
            // For the clients of those routers that could be told.
            State::Held { reached: Phase::Committed, .. } if !self.members.is_empty() => {
                self.direction().to().name()
            }
            state => serving(self.direction(), state.phase()),
        };
        let mut report = RunReport {
            schema_version: SCHEMA_VERSION,
            run: self.order.run.clone(),
            epoch: self.order.epoch.0,
            direction: self.direction(),
            outcome,
            actor: self.order.actor.clone(),
            reason: self.order.reason.clone(),
            started: self.started,
            ended: self.world.clock().wall(),
            pause_ms,
            marker: self.marker,
            fence_proof: self.sealed.as_ref().map(|sealed| sealed.xids().to_string()),
            steps: self.steps.clone(),
            checks: Checks::of(&self.checks),
            findings: self.checks.clone(),
            drill: self.measures,
            routers: self.members.clone(),
            way_back: self.way_back,
            breach: self.breach.clone(),
            serving: serving.into(),
            error,
            notes: self.notes.clone(),
        };
        if let Err(error) = self.append(Record::Ended { report: Box::new(report.clone()) }).await {
            self.note(format!("the journal could not be written: {error}"));
            report.notes.clone_from(&self.notes);
        }
        // Who is held may have to be served by somebody else yet.
        if report.outcome != Outcome::Held {
            self.world.lease().release().await;
        }
        self.hub.end(report.clone(), self.world.clock().wall());
        report
    }

    fn completed(&self) -> Outcome {
        match self.direction() {
            Direction::Forward => Outcome::Completed,
            Direction::Back => Outcome::RolledBack,
        }
    }

    fn aborted(&self, why: &Stop) -> ApiError {
        let code = match why.kind {
            StopKind::Precheck => ErrorCode::PrecheckFailed,
            StopKind::GateTimeout | StopKind::Deadline | StopKind::Asked => ErrorCode::Unavailable,
            StopKind::Failed | StopKind::Crash | StopKind::Drilled => ErrorCode::Internal,
            StopKind::Superseded => ErrorCode::Superseded,
        };
        let from = self.direction().from();
        let state = if self.pause.is_some() || why.kind == StopKind::Crash {
            format!("replicating; everything was put back, {from} serves")
        } else {
            format!("replicating; nothing was touched, {from} serves")
        };
        let error = ApiError::new(code, why.what.clone(), why.place.clone()).in_state(state);
        match &why.remedy {
            Some(remedy) => error.next(remedy.clone()),
            None => error,
        }
    }

    /// Nobody but a person can go on: the exact question, and the commands.
    fn held(&mut self, reached: Phase, why: &Stop) -> ApiError {
        if why.kind == StopKind::Superseded {
            // No statement that opens anything: somebody else decides that.
            self.notes.push(
                "This sidecar has changed nothing since, and will not. Stop it; its state directory \
                 is of no use any more."
                    .into(),
            );
            let error = ApiError::new(ErrorCode::Superseded, why.what.clone(), why.place.clone())
                .in_state(format!(
                    "held after {}; another sidecar acts for this pipeline",
                    reached.name()
                ));
            return match &why.remedy {
                Some(remedy) => error.next(remedy.clone()),
                None => error,
            };
        }
        let acts = self.undo.as_ref().map(|undo| self.world.fence().describe(undo));
        let (from, to) = (self.direction().from(), self.direction().to());
        let switch = self.world.switch().describe(to);
        let epoch = self.order.epoch;
        let (question, commands) = if reached.is_committed() {
            // Before the flip is complete these are the ones that lead there and let clients go on.
            let opened = if reached == Phase::Committed { &self.members[..] } else { &[] };
            let is_missing = |act: &&Act| !opened.iter().any(|member| member.member == act.place);
            let mut commands: Vec<_> =
                switch.switch.iter().chain(&switch.release).filter(is_missing).collect();
            commands.dedup();
            let missing = match opened {
                [] => format!("Do all routers lead to {to}?"),
                _ => {
                    let mut names: Vec<_> = commands.iter().map(|act| act.place.as_str()).collect();
                    names.sort_unstable();
                    names.dedup();
                    if !names.contains(&why.place.as_str()) {
                        names.push(&why.place);
                    }
                    format!("All routers lead to {to} but {}.", names.join(", "))
                }
            };
            (
                format!(
                    "It is decided that {to} serves (epoch {epoch}), {from} is sealed. {missing} \
                     Make them, then restart the sidecar: it finishes the rest."
                ),
                commands.into_iter().map(|act| format!("{}: {}", act.place, act.text)).collect(),
            )
        } else if reached == Phase::Sealed {
            (
                format!(
                    "Did {to} record the decision? Ask it: SELECT verdict FROM \
                     _cutover.decision WHERE epoch = {epoch}. Once {to} can be reached again, \
                     `cutover abort` or a restart of the sidecar finds out by itself and goes on. \
                     Only if {to} is lost for good, open {from} again with:"
                ),
                acts.map(|acts| acts.lower).unwrap_or_default(),
            )
                .into_lines(&switch.release)
        } else {
            (
                format!(
                    "{from} could not be opened again. Once it can be reached, `cutover abort` or \
                     a restart of the sidecar tries again. By hand:"
                ),
                acts.map(|acts| acts.lower).unwrap_or_default(),
            )
                .into_lines(&switch.release)
        };
        self.notes.push(question);
        self.notes.extend(commands);
        ApiError::new(ErrorCode::Internal, why.what.clone(), why.place.clone())
            .in_state(format!("held after {}; see the notes", reached.name()))
            .next("cutover status")
    }
}

trait IntoLines {
    fn into_lines(self, more: &[crate::api::Act]) -> (String, Vec<String>);
}

impl IntoLines for (String, Vec<crate::api::Act>) {
    fn into_lines(self, more: &[crate::api::Act]) -> (String, Vec<String>) {
        let lines = self.1.iter().chain(more);
        (self.0, lines.map(|act| format!("{}: {}", act.place, act.text)).collect())
    }
}

fn outcome_of(kind: StopKind) -> Outcome {
    match kind {
        StopKind::Precheck => Outcome::PrecheckFailed,
        StopKind::GateTimeout => Outcome::GateTimeout,
        StopKind::Drilled => Outcome::Drilled,
        StopKind::Deadline
        | StopKind::Asked
        | StopKind::Failed
        | StopKind::Crash
        | StopKind::Superseded => Outcome::Aborted,
    }
}

/// The runs in a journal, newest first.
pub fn history(entries: &[Entry]) -> Vec<HistoryItem> {
    let mut runs: Vec<HistoryItem> = Vec::new();
    for entry in entries {
        if matches!(entry.record, Record::Finishing { .. }) {
            continue;
        }
        let known = runs.iter().position(|run| run.epoch == entry.epoch.0);
        let at = known.unwrap_or_else(|| {
            runs.push(HistoryItem {
                run: entry.run.clone(),
                epoch: entry.epoch.0,
                direction: Direction::default(),
                started: entry.at,
                ended: None,
                actor: None,
                reason: None,
                phase: Phase::Replicating,
                outcome: None,
                pause_ms: None,
            });
            runs.len() - 1
        });
        let run = &mut runs[at];
        match &entry.record {
            Record::Began { request, direction } => {
                run.direction = *direction;
                let text = |key: &str| {
                    request.get(key).and_then(|value| value.as_str()).map(str::to_owned)
                };
                run.actor = text("actor");
                run.reason = text("reason");
            }
            Record::Reached { phase, .. } => run.phase = *phase,
            Record::Stopped { .. } | Record::Finishing { .. } => {}
            Record::Ended { report } => {
                run.ended = Some(report.ended);
                run.outcome = Some(report.outcome);
                run.pause_ms = report.pause_ms;
                run.phase = match report.outcome {
                    Outcome::Completed | Outcome::RolledBack => Phase::Done,
                    Outcome::Held => Phase::Held,
                    Outcome::PrecheckFailed
                    | Outcome::GateTimeout
                    | Outcome::Aborted
                    | Outcome::Drilled => Phase::Aborted,
                };
            }
        }
    }
    runs.reverse();
    runs
}
