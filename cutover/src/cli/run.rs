//! `cutover --when-lag`, `cutover rollback` and `cutover plan`.

use std::time::Duration;

use crate::api::{ApiError, ErrorCode, Plan, PlanRequest, StartCutover};
use crate::side::Direction;
use crate::verify::Accepted;

use super::args::{CommonArgs, GateArgs, PlanArgs, RunArgs};
use super::client::{Client, ClientError};
use super::confirm;
use super::exit::Exit;
use super::failure::Failure;
use super::follow::{Following, Interrupts, follow};
use super::render::{Detail, render_plan};
use super::screen::Screen;

/// Nothing has been asked for yet that could change anything.
const NOT_STARTED: &str = "unknown, but this command has started nothing";

/// Whether whatever the last verification has found is accepted.
fn accepts_verification(given: &[Option<Accepted>]) -> bool {
    given.contains(&None)
}

/// The differences of definitions that are accepted by name.
fn accepts(given: &[Option<Accepted>]) -> Vec<Accepted> {
    given.iter().flatten().cloned().collect()
}

/// Plans, asks, starts a run and follows it.
pub fn change_over(
    client: &Client,
    screen: &Screen,
    common: &CommonArgs,
    args: &RunArgs,
    direction: Direction,
) -> Result<Exit, Failure> {
    if !args.dry_run {
        confirm::ensure_possible(args.yes)?;
    }
    let mut plan = fetch_plan(
        client,
        screen,
        PlanRequest {
            direction: Some(direction),
            no_way_back: args.no_way_back,
            require_verified_ms: args.require_verified.map(millis),
            accept_differences: accepts_verification(&args.accept_differences),
            accepts: accepts(&args.accept_differences),
            ..of_gate(&args.gate)
        },
    )?;
    plan.gate = gate(args, plan.gate);
    if args.dry_run {
        return show(&plan, screen);
    }
    let summary = render_plan(&plan, Detail::Summary, screen.err_paint());
    if !plan.ready {
        screen.notice(&summary);
        let what = "a precheck failed";
        screen.object(&plan);
        return Err(Failure::new(
            Exit::NotReady,
            ApiError::new(ErrorCode::PrecheckFailed, what, "the checks above")
                .in_state(format!("unchanged: {} serves", direction.from()))
                .next("fix what is marked FAIL, then: cutover plan"),
        ));
    }
    let confirmation = if args.yes {
        screen.progress(&summary);
        confirm::YES.to_owned()
    } else {
        screen.notice(&summary);
        confirm::ask(&plan.blue.database)?
    };
    let actor = actor(common);
    let request = StartCutover {
        when_lag: args.gate.lag().map(ToString::to_string),
        for_ms: args.hold.map(millis),
        gate_timeout_ms: args.gate_timeout.map(millis),
        max_pause_ms: args.gate.max_pause.map(millis),
        no_way_back: args.no_way_back,
        watch_ms: args.watch.map(millis),
        drill: false,
        require_verified_ms: args.require_verified.map(millis),
        accept_differences: accepts_verification(&args.accept_differences),
        accepts: accepts(&args.accept_differences),
        actor: actor.clone(),
        reason: common.reason.clone(),
        confirmation: Some(confirmation),
        plan_hash: Some(plan.hash.clone()),
    };
    let interrupts = Interrupts::catch()?;
    let started = client.start(direction, &request, screen).map_err(|error| {
        let state = match error {
            // The request may have arrived although no answer came.
            ClientError::Unreachable(_) | ClientError::Foreign(_) => {
                "unknown: the run may have been started and may be going on"
            }
            ClientError::Refused(_) => NOT_STARTED,
        };
        let failure = client.failure(error, state);
        match failure.exit {
            Exit::Failed if failure.error.state == state => {
                Failure { exit: Exit::Unwatched, ..failure }
            }
            _ => failure,
        }
    })?;
    screen.progress(&format!(" run {}  epoch {}  times are UTC", started.run, started.epoch));
    let following = Following { direction, reconnect_for: args.reconnect_for, actor };
    follow(client, screen, &started, interrupts, &following)
}

/// Prints everything that a run would do.
pub fn show_plan(client: &Client, screen: &Screen, args: &PlanArgs) -> Result<Exit, Failure> {
    let plan = fetch_plan(
        client,
        screen,
        PlanRequest {
            no_way_back: args.no_way_back,
            require_verified_ms: args.require_verified.map(millis),
            accept_differences: accepts_verification(&args.accept_differences),
            accepts: accepts(&args.accept_differences),
            ..of_gate(&args.gate)
        },
    )?;
    if let Some(file) = &args.out {
        let text = serde_json::to_string_pretty(&plan).map_err(std::io::Error::other);
        text.and_then(|text| std::fs::write(file, text + "\n")).map_err(|error| {
            let what = format!("the plan can't be written: {error}");
            let place = file.display().to_string();
            Failure::new(Exit::Failed, ApiError::new(ErrorCode::Internal, what, place))
        })?;
        screen.progress(&format!("plan written to {}", file.display()));
    }
    show(&plan, screen)
}

fn show(plan: &Plan, screen: &Screen) -> Result<Exit, Failure> {
    screen.result(&render_plan(plan, Detail::Everything, screen.out_paint()));
    screen.object(plan);
    Ok(if plan.ready { Exit::Done } else { Exit::NotReady })
}

fn of_gate(gate: &GateArgs) -> PlanRequest {
    PlanRequest {
        when_lag: gate.lag().map(ToString::to_string),
        max_pause_ms: gate.max_pause.map(millis),
        ..PlanRequest::default()
    }
}

fn fetch_plan(client: &Client, screen: &Screen, request: PlanRequest) -> Result<Plan, Failure> {
    client.plan(&request, screen).map_err(|error| client.failure(error, NOT_STARTED))
}

/// A plan is asked for without the times that a run waits for its gate: they change no act. What is
/// shown has to be what the run will do.
fn gate(args: &RunArgs, planned: String) -> String {
    let mut gate = match (args.hold, args.gate.lag()) {
        (Some(hold), Some(lag)) => format!("lag {lag} for {}", humantime::format_duration(hold)),
        _ => planned,
    };
    if let Some(timeout) = args.gate_timeout {
        gate.push_str(&format!(", within {}", humantime::format_duration(timeout)));
    }
    gate
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Who asks, for the record: whoever is named, else who called `sudo`, else this user.
pub fn actor(common: &CommonArgs) -> Option<String> {
    let named = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    common.actor.clone().or_else(|| named("SUDO_USER")).or_else(|| {
        let uid = nix::unistd::getuid();
        let user = nix::unistd::User::from_uid(uid).ok().flatten();
        Some(user.map_or_else(|| format!("uid {uid}"), |user| user.name))
    })
}
