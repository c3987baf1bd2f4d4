//! `cutover drill`.

use std::time::Duration;

use crate::api::{Outcome, PlanRequest, RunEventKind, RunReport, StartCutover};
use crate::drill::{Prediction, Source, predict};
use crate::side::Direction;

use super::args::{CommonArgs, DrillArgs};
use super::client::Client;
use super::confirm;
use super::exit::Exit;
use super::failure::Failure;
use super::render::{render_gate, render_report, render_step, units};
use super::run::actor;
use super::screen::Screen;

/// The longest wait for an event.
const WAIT: Duration = Duration::from_secs(2);
/// What a sidecar that stopped answering means to a drill.
const UNSEEN: &str = "unknown; a drill that is under way ends by itself and changes nothing over";

/// Rehearses the pause, and says what a run would cost.
pub fn drill(
    client: &Client,
    screen: &Screen,
    common: &CommonArgs,
    args: &DrillArgs,
) -> Result<Exit, Failure> {
    confirm::ensure_possible(args.yes)?;
    let lag = args.gate.lag().map_or_else(|| "<1s".to_owned(), ToString::to_string);
    let max_pause_ms = args.gate.max_pause.map(|time| time.as_millis() as u64);
    let request = PlanRequest {
        when_lag: Some(lag.clone()),
        max_pause_ms,
        no_way_back: args.no_way_back,
        accept_differences: true,
        ..PlanRequest::default()
    };
    let plan = client.plan(&request, screen).map_err(|error| client.failure(error, UNSEEN))?;
    let most = units::ms(plan.max_pause_ms as f64);
    let notice = format!(
        " drill {}: {} times the clients of {} wait at {}, {most} at most each time. Nothing is \
         closed and nothing is changed over.",
        plan.direction,
        args.rounds,
        plan.direction.from(),
        plan.router
    );
    let confirmation = if args.yes {
        screen.progress(&notice);
        confirm::YES.to_owned()
    } else {
        screen.notice(&notice);
        confirm::ask(&plan.blue.database)?
    };
    let mut drills = Vec::new();
    for round in 1..=args.rounds {
        let request = StartCutover {
            when_lag: Some(lag.clone()),
            for_ms: args.hold.map(|time| time.as_millis() as u64),
            gate_timeout_ms: args.gate_timeout.map(|time| time.as_millis() as u64),
            max_pause_ms,
            no_way_back: args.no_way_back,
            drill: true,
            actor: actor(common),
            reason: common.reason.clone(),
            confirmation: Some(confirmation.clone()),
            ..StartCutover::default()
        };
        let started = client.start(plan.direction, &request, screen);
        let started = started.map_err(|error| client.failure(error, UNSEEN))?;
        screen.progress(&format!(
            " round {round}/{}  run {}  epoch {}  times are UTC",
            args.rounds, started.run, started.epoch
        ));
        let report = follow(client, screen, &started.run)?;
        if report.outcome != Outcome::Drilled {
            screen.result(&render_report(&report, screen.out_paint()));
            screen.object(&report);
            let exit = Exit::from(report.outcome);
            return match report.error {
                Some(error) => Err(Failure::new(exit, error)),
                None => Ok(exit),
            };
        }
        drills.push(report);
    }
    let last_run = last_run(client, plan.direction)?;
    let Some(predicted) = predict(&drills, last_run.as_ref()) else {
        return Ok(Exit::Failed);
    };
    screen.result(&text(&predicted, plan.max_pause_ms as f64));
    screen.object(&predicted);
    Ok(Exit::Done)
}

/// Shows a drill until it is over. Killing this command leaves the drill to its own end.
fn follow(client: &Client, screen: &Screen, run: &str) -> Result<RunReport, Failure> {
    let paint = screen.err_paint();
    let mut after = 0;
    loop {
        let update = client.update(run, after, WAIT);
        let update = update.map_err(|error| client.failure(error, UNSEEN))?;
        for event in &update.events {
            after = after.max(event.number);
            match &event.kind {
                RunEventKind::Step(step) => screen.progress(&render_step(step, paint)),
                kind @ RunEventKind::Gate { .. } if screen.can_replace() => {
                    if let Some(line) = render_gate(kind, paint) {
                        screen.replace(&line);
                    }
                }
                RunEventKind::Note { text } => screen.progress(&format!(" note {text}")),
                RunEventKind::Gate { .. }
                | RunEventKind::Phase { .. }
                | RunEventKind::Ended { .. } => {}
            }
        }
        if let Some(report) = update.status.report {
            return Ok(report);
        }
    }
}

/// The last run of this direction that has completed.
fn last_run(client: &Client, direction: Direction) -> Result<Option<RunReport>, Failure> {
    let history = client.history().map_err(|error| client.failure(error, UNSEEN))?;
    let completed = |outcome| matches!(outcome, Some(Outcome::Completed | Outcome::RolledBack));
    let mut runs = history.runs.iter();
    let last = runs.find(|run| run.direction == direction && completed(run.outcome));
    let Some(last) = last else { return Ok(None) };
    client.report(&last.run).map(Some).map_err(|error| client.failure(error, UNSEEN))
}

fn text(predicted: &Prediction, max_pause_ms: f64) -> String {
    let mut text = format!(
        "predicted pause {}: p50 {}, at most {} ({} drills)\n",
        predicted.direction,
        units::ms(predicted.p50_ms),
        units::ms(predicted.max_ms),
        predicted.rounds
    );
    for part in &predicted.parts {
        let source = match &part.source {
            Source::Measured => "measured".to_owned(),
            Source::Run(run) => format!("as in run {run}"),
            Source::Estimated(how) => format!("estimated: {how}"),
        };
        text.push_str(&format!(
            " {:<8} {:>10} {:>10}  {source}\n",
            part.step.name(),
            units::ms(part.p50_ms),
            units::ms(part.max_ms)
        ));
    }
    if predicted.max_ms > max_pause_ms {
        text.push_str(&format!(
            "that is more than the {} that a run may take: it might be aborted\n",
            units::ms(max_pause_ms)
        ));
    }
    text
}
