//! Following a run to its end.
//!
//! Two threads send to one place: a poller what the sidecar says, the other one each ^C. So a ^C is
//! heard while an answer is outstanding, and neither the network nor the terminal can hold up the
//! other.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::api::{
    AbortRequest, ApiError, ErrorCode, Outcome, RunEvent, RunEventKind, RunReport, RunStatus,
    RunUpdate, Step,
};
use crate::phase::Phase;
use crate::side::Direction;

use super::client::{Client, ClientError};
use super::exit::Exit;
use super::failure::Failure;
use super::interrupt;
use super::render::{clock, render_gate, render_report, render_step};
use super::screen::Screen;
use super::successor;

/// The longest wait for an event.
const WAIT: Duration = Duration::from_secs(5);
/// Between two attempts to reach the sidecar.
const RETRY: Duration = Duration::from_millis(250);
/// Before asking again when the run is over but its report is not there yet.
const REPORT_RETRY: Duration = Duration::from_millis(50);
/// Where lines can't be replaced, the gate gets one in so long a time.
const GATE_LINE_EVERY: Duration = Duration::from_secs(1);

/// What the follower hears.
#[derive(Debug)]
enum Heard {
    Update(Box<Result<RunUpdate, ClientError>>),
    /// The run has ended in an earlier life of the sidecar.
    Report(Box<RunReport>),
    Interrupt,
}

/// ^C as it arrives, from before the run is started: none may be lost between the two.
#[derive(Debug)]
pub struct Interrupts {
    to: Sender<Heard>,
    from: Receiver<Heard>,
}

impl Interrupts {
    /// From now on ^C is the follower's.
    pub fn catch() -> Result<Self, Failure> {
        let (to, from) = channel();
        interrupt::forward(to.clone(), || Heard::Interrupt).map_err(|error| {
            let what = format!("^C can't be caught: {error}");
            Failure::new(Exit::Failed, ApiError::new(ErrorCode::Internal, what, "this command"))
        })?;
        Ok(Self { to, from })
    }
}

/// How to follow.
#[derive(Debug, Clone, Default)]
pub struct Following {
    /// Which way was asked for: a rollback that was is done, one that came by itself is another
    /// end of a cutover.
    pub direction: Direction,
    /// How long to try to reach a sidecar that stopped answering.
    pub reconnect_for: Duration,
    /// Who asks for an abort on ^C.
    pub actor: Option<String>,
}

/// Shows the run that was just started until it is over, and gives its exit code.
pub fn follow(
    client: &Client,
    screen: &Screen,
    started: &RunStatus,
    interrupts: Interrupts,
    how: &Following,
) -> Result<Exit, Failure> {
    let Interrupts { to, from } = interrupts;
    {
        let (client, run, to) = (client.clone(), started.run.clone(), to.clone());
        let spawned =
            thread::Builder::new().name("events".into()).spawn(move || poll(&client, &run, &to));
        if let Err(error) = spawned {
            let what = format!("the run can't be followed: {error}");
            return Err(Failure::new(
                Exit::Unwatched,
                ApiError::new(ErrorCode::Internal, what, "this command")
                    .in_state("the run goes on without this command"),
            ));
        }
    }
    let mut follower = Follower {
        client,
        screen,
        how,
        run: started.run.clone(),
        phase: started.phase,
        furthest: started.phase,
        abortable: started.abortable,
        lost_since: None,
        over_since: None,
        gate_line_at: None,
        asked_to_abort: false,
        warned: false,
        shown: Vec::new(),
        breached: None,
    };
    loop {
        let ended = match from.recv_timeout(RETRY) {
            Ok(Heard::Update(update)) => follower.update(*update)?,
            Ok(Heard::Report(report)) => Some(follower.finished(&report)),
            Ok(Heard::Interrupt) => follower.interrupted()?,
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Err(follower.detached()),
        };
        if let Some(exit) = ended {
            let Some(breached) = follower.breached.take() else { return Ok(exit) };
            let is_interrupt = |heard: &Heard| matches!(heard, Heard::Interrupt);
            let rollback = successor::wait(client, &breached, &from, is_interrupt)?;
            screen.progress(&format!(" run {}  epoch {}  back", rollback.run, rollback.epoch));
            let interrupts = Interrupts { to, from };
            return follow(client, screen, &rollback, interrupts, how).map(successor::exit);
        }
        follower.check_patience()?;
    }
}

/// Asks for events until there is a report, or nobody listens any more.
fn poll(client: &Client, run: &str, to: &Sender<Heard>) {
    let mut after = 0;
    loop {
        let update = match client.update(run, after, WAIT) {
            // A sidecar that was started again knows of runs that have ended by their reports alone.
            Err(ClientError::Refused(error)) if error.code == ErrorCode::NotFound => {
                match client.report(run) {
                    Ok(report) => {
                        // Nobody listens: the run's end is not waited for any more.
                        let _ = to.send(Heard::Report(Box::new(report)));
                        return;
                    }
                    Err(_) => Err(ClientError::Refused(error)),
                }
            }
            update => update,
        };
        let pause = match &update {
            Ok(update) if update.status.report.is_some() => None,
            Ok(update) => {
                // A sidecar that was restarted counts from one again.
                after = update.status.last_event;
                let asked_too_early = update.events.is_empty() && update.status.phase.is_final();
                Some(if asked_too_early { REPORT_RETRY } else { Duration::ZERO })
            }
            Err(error) if error.may_pass() => Some(RETRY),
            Err(_) => None,
        };
        if to.send(Heard::Update(Box::new(update))).is_err() {
            return;
        }
        match pause {
            Some(pause) => thread::sleep(pause),
            None => return,
        }
    }
}

struct Follower<'a> {
    client: &'a Client,
    screen: &'a Screen,
    how: &'a Following,
    run: String,
    /// Where the run is, by the newest answer.
    phase: Phase,
    /// The furthest it has been on the way to green.
    furthest: Phase,
    abortable: bool,
    lost_since: Option<Instant>,
    /// Over, but without a report.
    over_since: Option<Instant>,
    gate_line_at: Option<Instant>,
    asked_to_abort: bool,
    /// That it is too late, or that an abort is under way, has been said once.
    warned: bool,
    /// Steps that were shown: a sidecar that was restarted tells them again.
    shown: Vec<(Step, Timestamp)>,
    /// The run's report, if a monitor ended it: a rollback follows.
    breached: Option<RunReport>,
}

impl Follower<'_> {
    fn update(&mut self, update: Result<RunUpdate, ClientError>) -> Result<Option<Exit>, Failure> {
        let update = match update {
            Ok(update) => update,
            Err(error) if error.may_pass() => {
                if self.lost_since.is_none() {
                    self.lost_since = Some(Instant::now());
                    let patience = humantime::format_duration(self.how.reconnect_for);
                    self.screen.progress(&format!(
                        " lost     {error}; the run does not depend on this command; trying for \
                         {patience}"
                    ));
                }
                return Ok(None);
            }
            Err(error) => return Err(self.client.failure(error, &self.may_go_on())),
        };
        if self.lost_since.take().is_some() {
            self.screen.progress(" found    the sidecar answers again");
        }
        for event in &update.events {
            self.event(event);
        }
        let status = update.status;
        self.reached(status.phase);
        self.phase = status.phase;
        self.abortable = status.abortable;
        match status.report {
            Some(report) => Ok(Some(self.finished(&report))),
            None => {
                if !status.phase.is_final() {
                    self.over_since = None;
                } else if self.over_since.is_none() {
                    self.over_since = Some(Instant::now());
                }
                Ok(None)
            }
        }
    }

    fn reached(&mut self, phase: Phase) {
        if !matches!(phase, Phase::Aborting | Phase::Aborted | Phase::Held) {
            self.furthest = self.furthest.max(phase);
        }
    }

    fn event(&mut self, event: &RunEvent) {
        let paint = self.screen.err_paint();
        match &event.kind {
            RunEventKind::Phase { phase } => self.reached(*phase),
            gate @ RunEventKind::Gate { .. } => {
                let now = Instant::now();
                let due =
                    self.gate_line_at.is_none_or(|at| now.duration_since(at) >= GATE_LINE_EVERY);
                if let (true, Some(line)) =
                    (due || self.screen.can_replace(), render_gate(gate, paint))
                {
                    self.screen.replace(&line);
                    self.gate_line_at = Some(now);
                }
            }
            RunEventKind::Step(step) => {
                let key = (step.step, step.start);
                if !self.shown.contains(&key) {
                    self.shown.push(key);
                    self.screen.progress(&render_step(step, paint));
                }
            }
            RunEventKind::Note { text } => {
                let line = format!(" {}             note     {text}", clock(event.at));
                self.screen.progress(&paint.warn(&line));
            }
            RunEventKind::Ended { .. } => {}
        }
    }

    /// Shows the report.
    fn finished(&mut self, report: &RunReport) -> Exit {
        let gate_passed = self.furthest >= Phase::Gate
            || report.pause_ms.is_some()
            || report.steps.iter().any(|step| step.step == Step::Gate && step.ok);
        self.screen.result(&render_report(report, self.screen.out_paint()));
        if report.breach.is_some() {
            self.breached = Some(report.clone());
        } else {
            self.screen.object(report);
        }
        let exit = match report.outcome {
            Outcome::Aborted if self.asked_to_abort && !gate_passed => Exit::Interrupted,
            Outcome::RolledBack if self.how.direction == Direction::Back => Exit::Done,
            outcome => outcome.into(),
        };
        if let Some(error) = &report.error {
            let failure = Failure::new(exit, error.clone());
            self.screen.failure(&failure);
        }
        exit
    }

    /// ^C: before the point of no return it asks for an abort, after it this command only leaves.
    fn interrupted(&mut self) -> Result<Option<Exit>, Failure> {
        if self.phase.is_committed() || self.warned {
            return Err(self.detached());
        }
        if self.asked_to_abort || self.phase.is_final() || !self.abortable {
            self.warned = true;
            self.screen.notice(
                " ^C       the run is already on its way out; ^C again stops watching it, not the run",
            );
            return Ok(None);
        }
        let request = AbortRequest {
            actor: self.how.actor.clone(),
            reason: Some("^C at the command that started the run".into()),
        };
        match self.client.abort(&self.run, &request) {
            Ok(_) => {
                self.asked_to_abort = true;
                self.screen.notice(" ^C       asked the sidecar to abort; everything is put back");
            }
            Err(ClientError::Refused(error)) if error.code == ErrorCode::TooLate => {
                self.warned = true;
                self.screen.notice(
                    " ^C       too late to abort; ^C again stops watching the run, not the run",
                );
            }
            Err(error) => {
                self.warned = true;
                self.screen.notice(&format!(
                    " ^C       the sidecar could not be asked to abort: {error}; ^C again stops \
                     watching the run, not the run"
                ));
            }
        }
        Ok(None)
    }

    fn may_go_on(&self) -> String {
        format!("run {} may be going on; it was last seen {}", self.run, self.phase.name())
    }

    fn detached(&self) -> Failure {
        let what = match self.phase {
            Phase::Watching => {
                "no longer watching: the sidecar watches on, and the clients are served"
            }
            _ => "no longer watching: the run goes on without this command",
        };
        Failure::new(
            Exit::Unwatched,
            ApiError::new(ErrorCode::Unavailable, what, "this command")
                .in_state(format!("run {} was last seen {}", self.run, self.phase.name()))
                .next("cutover status --watch"),
        )
    }

    fn lost(&self, why: &str) -> Failure {
        Failure::new(
            Exit::Unreachable,
            ApiError::new(ErrorCode::Unavailable, why, "the connection to the sidecar")
                .in_state(self.may_go_on())
                .next("cutover status"),
        )
    }

    fn check_patience(&self) -> Result<(), Failure> {
        let is_over = |since: Option<Instant>| {
            since.is_some_and(|since| since.elapsed() >= self.how.reconnect_for)
        };
        if is_over(self.lost_since) {
            return Err(self.lost("the sidecar stopped answering during the run"));
        }
        if is_over(self.over_since) {
            let what = format!("run {} is {} but left no report", self.run, self.phase.name());
            return Err(Failure::new(
                Exit::of_final_phase(self.phase),
                ApiError::new(ErrorCode::Internal, what, "sidecar")
                    .in_state(self.phase.name())
                    .next("cutover history"),
            ));
        }
        Ok(())
    }
}
