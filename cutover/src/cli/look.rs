//! `cutover status`, `wait`, `history` and `abort`.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::api::{
    AbortRequest, ApiError, ErrorCode, Outcome, PipelinePhase, RetryRequest, RunStatus, Status,
};
use crate::phase::Phase;

use super::args::{AbortArgs, Awaited, CommonArgs, StatusArgs, WaitArgs};
use super::client::Client;
use super::exit::Exit;
use super::failure::Failure;
use super::interrupt;
use super::render::{advice, render_error, render_history, render_report, render_status};
use super::run::actor;
use super::screen::Screen;

/// Between two looks of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Between two looks of `wait`.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two lines of `wait` on how it goes.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// The longest wait for an event.
const WAIT: Duration = Duration::from_secs(2);
/// What an unreachable sidecar means to somebody who only looks.
const UNSEEN: &str = "unknown: a run or the copy may be going on, or the sidecar is stopped";

/// `cutover status`.
pub fn status(client: &Client, screen: &Screen, args: &StatusArgs) -> Result<Exit, Failure> {
    if args.watch {
        return watch(client, screen);
    }
    let status = client.status().map_err(|error| client.failure(error, UNSEEN))?;
    screen.result(&render_status(&status, screen.out_paint()));
    screen.object(&status);
    Ok(Exit::Done)
}

/// Shows the status every second until ^C. A sidecar that is away for a while does not end it.
fn watch(client: &Client, screen: &Screen) -> Result<Exit, Failure> {
    let (to, interrupts) = channel();
    interrupt::forward(to, || ()).map_err(|error| {
        let what = format!("^C can't be caught: {error}");
        Failure::new(Exit::Failed, ApiError::new(ErrorCode::Internal, what, "this command"))
    })?;
    let mut first = true;
    loop {
        let seen = client.status().map_err(|error| client.failure(error, UNSEEN));
        match (&seen, screen.is_json()) {
            (Ok(status), true) => screen.object_line(status),
            (Err(failure), true) => screen.object_line(failure.error.as_ref()),
            (seen, false) => {
                let paint = screen.out_paint();
                let text = match seen {
                    Ok(status) => render_status(status, paint),
                    Err(failure) => render_error(&failure.error, paint),
                };
                screen.raw(&frame(&text, screen.can_redraw(), first));
            }
        }
        first = false;
        match interrupts.recv_timeout(WATCH_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(Exit::Done),
        }
    }
}

/// One look: over the one before on a terminal, below it elsewhere.
fn frame(text: &str, redraw: bool, first: bool) -> String {
    match (redraw, first) {
        // Home, each line cleared to its end, then everything below: no flicker.
        (true, first) => {
            let clear = if first { "\x1b[2J" } else { "" };
            format!("{clear}\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
        }
        (false, true) => text.to_owned(),
        (false, false) => format!("\n{text}"),
    }
}

/// `cutover history`.
pub fn history(client: &Client, screen: &Screen) -> Result<Exit, Failure> {
    let history = client.history().map_err(|error| client.failure(error, UNSEEN))?;
    screen.result(&render_history(&history, screen.out_paint()));
    screen.object(&history);
    Ok(Exit::Done)
}

/// `cutover retry`: asks, and says how to see what came of it.
pub fn retry(client: &Client, screen: &Screen, common: &CommonArgs) -> Result<Exit, Failure> {
    let request = RetryRequest { actor: actor(common), reason: common.reason.clone() };
    let retried = client.retry(&request).map_err(|error| client.failure(error, UNSEEN))?;
    let names: Vec<_> = retried.streams.iter().map(|direction| direction.name()).collect();
    screen.result(&match names.as_slice() {
        [] => "no stream waits: nothing to try again\n".to_owned(),
        names => format!("{} tries again now; how it goes: cutover status\n", names.join(", ")),
    });
    screen.object(&retried);
    Ok(Exit::Done)
}

/// `cutover abort`: asks, and waits until it is known how the run ended.
pub fn abort(
    client: &Client,
    screen: &Screen,
    common: &CommonArgs,
    args: &AbortArgs,
) -> Result<Exit, Failure> {
    let request = AbortRequest { actor: actor(common), reason: common.reason.clone() };
    let asked = client.abort("current", &request).map_err(|error| client.failure(error, UNSEEN))?;
    screen.progress(&format!("run {} was asked to abort", asked.run));
    let until = Instant::now() + args.timeout;
    let mut status = asked;
    while status.report.is_none() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let what = format!("run {} is not over yet: {}", status.run, status.phase.name());
            return Err(Failure::new(
                Exit::TimedOut,
                ApiError::new(ErrorCode::Unavailable, what, "sidecar")
                    .in_state(status.phase.name())
                    .next("cutover status --watch"),
            ));
        }
        match client.update(&status.run, status.last_event, left.min(WAIT)) {
            Ok(update) => {
                let early = update.status.phase.is_final() && update.status.report.is_none();
                status = update.status;
                if early {
                    thread::sleep(LOOK_EVERY.min(left));
                }
            }
            Err(error) if error.may_pass() => thread::sleep(LOOK_EVERY.min(left)),
            Err(error) => return Err(client.failure(error, UNSEEN)),
        }
    }
    let exit = abort_result(&status, screen);
    screen.object(&status);
    Ok(exit)
}

/// An abort that was asked for and came is what was wanted: code 0.
fn abort_result(status: &RunStatus, screen: &Screen) -> Exit {
    let Some(report) = &status.report else { return Exit::Failed };
    screen.result(&render_report(report, screen.out_paint()));
    match report.outcome {
        Outcome::Aborted | Outcome::GateTimeout | Outcome::PrecheckFailed | Outcome::Drilled => {
            Exit::Done
        }
        Outcome::Completed | Outcome::RolledBack => Exit::Failed,
        Outcome::Held => Exit::Held,
    }
}

/// `cutover wait`. A sidecar that is not up yet is looked for anew each time: its first start makes the
/// socket and the token by which it is found.
pub fn wait(
    mut client: Client,
    screen: &Screen,
    common: &CommonArgs,
    args: &WaitArgs,
) -> Result<Exit, Failure> {
    let until = Instant::now() + args.timeout;
    let mut first: Option<Status> = None;
    let mut said: Option<(Instant, String)> = None;
    loop {
        let seen = client.status();
        if let Ok(status) = &seen {
            match judge(args.for_state, first.as_ref().unwrap_or(status), status) {
                Verdict::Reached => {
                    screen.result(&format!("{}\n", args.for_state.name()));
                    screen.object(status);
                    return Ok(Exit::Done);
                }
                Verdict::Never(exit, why) => {
                    screen.object(status);
                    return Err(Failure::new(exit, never(status, args.for_state, &why)));
                }
                Verdict::NotYet => {}
            }
        }
        if Instant::now() >= until {
            let status = seen.map_err(|error| client.failure(error, UNSEEN))?;
            let why = format!("it is not there after {}", humantime::format_duration(args.timeout));
            screen.object(&status);
            return Err(Failure::new(Exit::TimedOut, never(&status, args.for_state, &why)));
        }
        let line = match &seen {
            Ok(status) => format!(" {}", status_line(status)),
            // It may only be starting.
            Err(error) => {
                let line = format!(" {error}");
                let found = Client::new(common)?;
                if !error.may_pass() && found.asks_as(&client) {
                    return seen
                        .map(|_| Exit::Failed)
                        .map_err(|error| client.failure(error, UNSEEN));
                }
                client = found;
                line
            }
        };
        let now = Instant::now();
        if said.as_ref().is_none_or(|(at, was)| {
            *was != line && (screen.can_replace() || now.duration_since(*at) >= SAY_EVERY)
        }) {
            screen.replace(&line);
            said = Some((now, line));
        }
        if let Ok(status) = seen {
            first.get_or_insert(status);
        }
        thread::sleep(LOOK_EVERY.min(until.saturating_duration_since(now)));
    }
}

fn status_line(status: &Status) -> String {
    let mut line = status.phase.name().to_owned();
    if let Some(run) = status.cutover.as_ref().filter(|run| run.report.is_none()) {
        line.push_str(&format!(", run {} {}", run.run, run.phase.name()));
    }
    if let Some(waiting_for) = &status.waiting_for {
        line.push_str(&format!(": {waiting_for}"));
    }
    line
}

fn never(status: &Status, wanted: Awaited, why: &str) -> ApiError {
    let what = format!("waited for {}: {why}", wanted.name());
    let advice = advice(status);
    let mut error = ApiError::new(ErrorCode::Unavailable, what, "pipeline")
        .in_state(format!("{}; {}", status_line(status), advice.data))
        .next(advice.next);
    error.data_safe = advice.safe;
    error
}

/// Whether a state has been reached.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Reached,
    NotYet,
    /// It will not come by itself.
    Never(Exit, String),
}

/// `first` is what the first look has shown: a run that was over then is not the one to wait for.
fn judge(wanted: Awaited, first: &Status, now: &Status) -> Verdict {
    match wanted {
        Awaited::Pipeline(wanted) => judge_pipeline(wanted, now),
        Awaited::Run(wanted) => {
            let old = first.cutover.as_ref().filter(|run| run.report.is_some());
            let Some(run) = &now.cutover else { return Verdict::NotYet };
            if run.phase == wanted {
                return Verdict::Reached;
            }
            let on_the_way = |phase: Phase| phase <= Phase::Done;
            if on_the_way(wanted) && on_the_way(run.phase) && run.phase > wanted {
                return Verdict::Reached;
            }
            if run.phase.is_final() && old.is_none_or(|old| old.run != run.run) {
                let exit = Exit::of_final_phase(run.phase);
                let exit = if exit == Exit::Done { Exit::Failed } else { exit };
                let why = format!("run {} is {}", run.run, run.phase.name());
                return Verdict::Never(exit, why);
            }
            Verdict::NotYet
        }
    }
}

fn judge_pipeline(wanted: PipelinePhase, now: &Status) -> Verdict {
    // The way of a pipeline; what is not on it can come at any time.
    let stage = |phase| match phase {
        PipelinePhase::Starting => Some(0),
        PipelinePhase::Copying => Some(1),
        PipelinePhase::Indexing => Some(2),
        PipelinePhase::CatchingUp => Some(3),
        PipelinePhase::Streaming => Some(4),
        PipelinePhase::CuttingOver => Some(5),
        PipelinePhase::CutOver => Some(6),
        PipelinePhase::Reconnecting | PipelinePhase::Halted | PipelinePhase::Stopping => None,
    };
    if now.phase == wanted {
        return Verdict::Reached;
    }
    match (stage(wanted), stage(now.phase)) {
        (Some(wanted), Some(now)) if now > wanted => Verdict::Reached,
        _ if now.phase == PipelinePhase::Halted => {
            Verdict::Never(Exit::Held, "the pipeline is halted by an error".into())
        }
        _ => Verdict::NotYet,
    }
}
