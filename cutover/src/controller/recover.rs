//! After a crash: look at the world, then go back or forward.

use std::time::Duration;

use decoders::Lsn;
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::{Driven, Finish, Limits, Order, Run, Standing, ownership, read_undo, stop};
use crate::api::{Outcome, RunReport};
use crate::evidence::Committed;
use crate::hub::RunHub;
use crate::marker::Token;
use crate::phase::{Effect, Found, Phase, Stop, StopKind, Verdict, resume};
use crate::ports::{
    Clock, Decision, Entry, Epoch, Fence, Journal, Nature, PortError, PortResult, Record,
    TrafficSwitch, World,
};
use crate::side::Direction;
use crate::verify::Requirement;
use crate::watch::Baseline;

/// How long a first try to reach the routers may take; every act tries again.
const CONNECT: Duration = Duration::from_secs(2);
/// How long one try to read or to claim the decision may take.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a side may take to say that a state directory is older than itself.
const OUTDATED: Duration = Duration::from_secs(1);
/// The side that was to open is open.
const SERVED: [Phase; 4] = [Phase::Flipped, Phase::Open, Phase::Reversing, Phase::Watching];

/// How far whoever recovers may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Clients are served again, on the side that is right. Nothing is asked of the engine: for a
    /// watchdog, which has none.
    Traffic,
    /// The streams have their roles, too, so that they may be started.
    Roles,
    /// Everything. Needs the streams running.
    Full,
}

impl Scope {
    /// Whether an act is within it.
    pub(super) fn covers(self, effect: &Effect) -> bool {
        match effect {
            Effect::TurnStreams(_) => self != Scope::Traffic,
            Effect::ConfirmWayBack(_) | Effect::Watch(_) => self == Scope::Full,
            _ => true,
        }
    }
}

/// What was found at the start.
#[derive(Debug)]
pub enum Recovery {
    /// No run was left unfinished.
    Nothing,
    /// A run was left unfinished, and now it is not: its report.
    Finished(Box<RunReport>),
    /// A run was left unfinished; all that the scope covers is done, and it is now in this phase.
    Left(Phase),
    /// An earlier run has completed: the stream that it came by does not carry any more.
    CutOver(Box<RunReport>),
}

/// Finds the last run in the journal and, if it did not end, puts everything back or finishes it.
/// With [`Scope::Traffic`] or [`Scope::Roles`] before the streams are started, and
/// with [`Scope::Full`] once they run if it said [`Recovery::Left`]. Show `hub` of the run that
/// `on_found` is given.
///
/// Which way is decided by the decision row alone, unless no commit can ever have been sent: then
/// nobody has to be asked. A state directory that does not count any more changes nothing, which is
/// an error; whether it does is argued in [`ownership`]. `world_of` gives the ports of a direction; `None`: there is no such stream.
pub async fn recover<'a, W: World + 'a>(
    world_of: impl Fn(Direction) -> Option<&'a W>,
    limits: &Limits,
    scope: Scope,
    on_found: impl FnOnce(std::sync::Arc<RunHub>),
) -> PortResult<Recovery> {
    let absent = |direction: Direction| {
        PortError::new(
            "journal",
            format!("the last run went {direction}, and nothing here streams that way"),
        )
        .remedy("start with the configuration that the run had")
    };
    let any = world_of(Direction::Forward).ok_or_else(|| absent(Direction::Forward))?;
    let entries = any.journal().read_all().await?;
    // A watchdog has been told everything that its sidecar knew, and clients wait for it.
    if scope != Scope::Traffic {
        ownership::settle(&world_of, &entries).await?;
    }
    let Some(newest) = LastRun::<W>::direction(&entries) else { return Ok(Recovery::Nothing) };
    let world = world_of(newest).ok_or_else(|| absent(newest))?;
    let Some(last) = LastRun::<W>::read(&entries)? else { return Ok(Recovery::Nothing) };
    let standing = Standing::read(&entries)?;
    if let Some(report) = last.ended {
        reseal(world, &standing).await;
        return Ok(match report.outcome {
            Outcome::Completed | Outcome::RolledBack => Recovery::CutOver(report),
            _ => Recovery::Nothing,
        });
    }
    let order = last.order;
    let hub = std::sync::Arc::new(RunHub::new(
        order.run.clone(),
        order.epoch,
        world.direction(),
        last.started,
    ));
    // Whatever it was about to do is decided, or is being undone: there is nothing left to abort, and
    // nobody who asks for that must be told yes.
    hub.set(|status| status.abortable = false);
    on_found(hub.clone());
    let mut run = Run::new(world, &order, limits, &hub, last.started);
    run.seq = standing.next_seq;
    run.undo = last.undo;
    run.marker = last.marker;
    run.watch_until = last.watch_until;
    hub.keep_journaled_baseline(last.baseline);
    run.opening = read_undo::<W>(&standing, world.direction().to())?;
    run.is_recovered = true;
    run.seen = "recovered".into();
    run.token = Token::draining(&order.run, order.epoch);
    let connect = run.now() + CONNECT;
    if let Err(error) = world.switch().arm(world.direction().to(), connect).await {
        tracing::warn!(run = %order.run, "connecting to the routers: {error}");
    }
    let found = run.look(last.reached, last.commit_intended, scope).await;
    let (state, effect) = resume(found);
    Ok(match run.drive(state, effect, scope).await {
        Driven::Ended(state) => Recovery::Finished(Box::new(run.conclude(&state).await)),
        Driven::Left(state) => Recovery::Left(state.phase()),
    })
}

/// What was closed for good and is not served stays closed, whatever an interrupted act has left.
/// Not once `finish` was asked for: it tells a person how to open that side, and from then on the side
/// is the person's.
async fn reseal<W: World>(world: &W, standing: &Standing) {
    if standing.finish != Finish::NotAsked {
        return;
    }
    let Some(closed) = &standing.sealed else { return };
    let deadline = world.clock().now() + CONNECT;
    let sealed = async {
        let Some(undo) = read_undo::<W>(standing, closed.side)? else { return Ok(()) };
        world.fence_of(closed.side).reseal(&undo, deadline).await
    };
    if let Err(error) = sealed.await {
        // Nobody serves from there, and the routers lead elsewhere: no reason not to start.
        tracing::error!("whether {} is still sealed by us could not be seen: {error}", closed.side);
    }
}

impl<W: World> Run<'_, W> {
    async fn look(&mut self, reached: Phase, commit_intended: bool, scope: Scope) -> Found {
        if !commit_intended && !reached.is_committed() {
            if scope != Scope::Traffic
                && let Some(why) = self.outdated().await
            {
                return Found::Unknown { reached, why };
            }
            return Found::NotCommitted { reached };
        }
        let until = self.now() + self.limits.decision;
        let to = self.direction().to();
        loop {
            let why = match self.ask(reached).await {
                Ok(Some(verdict)) => {
                    return match Committed::recovered(self.order.epoch, to, verdict) {
                        Ok(committed) => Found::Committed { reached, committed },
                        Err(_) => Found::NotCommitted { reached: reached.min(Phase::Sealed) },
                    };
                }
                // The journal knows of a commit that the database has lost: it is another one now.
                Ok(None) if reached.is_committed() => {
                    let why = PortError::new(
                        to.name(),
                        format!("the run was committed, but {to} no longer has its decision row"),
                    );
                    return Found::Unknown { reached, why: stop(why) };
                }
                // The commit may still be on its way: claim the row before going back.
                Ok(None) => match self.claim().await {
                    Ok(_) => continue,
                    Err(error) => stop(error),
                },
                Err(error) => stop(error),
            };
            if self.now() >= until {
                return Found::Unknown { reached, why };
            }
            self.waiting(format!("{to} has to say what was decided: {}", why.what));
            self.world.clock().sleep_until(self.now() + self.limits.retry).await;
        }
    }

    /// Why this is not the newest state of its directory: the run was committed, and it does not
    /// know that it was going to be. Nothing, if nobody answers: going back must not need the other
    /// side.
    async fn outdated(&self) -> Option<Stop> {
        let (to, epoch) = (self.direction().to(), self.order.epoch);
        let read = self.world.decision().read(epoch, self.now() + OUTDATED).await;
        matches!(read, Ok(Some(Verdict::Commit))).then(|| Stop {
            kind: StopKind::Superseded,
            what: format!(
                "{to} says that epoch {epoch} was committed, and this state directory was never \
                 about to: it is from a backup, or another sidecar has changed over"
            ),
            place: to.name().into(),
            remedy: Some(format!("stop this sidecar for good: {to} serves")),
        })
    }

    /// A flip opens the side that was closed before, and a watchdog or an earlier life may have
    /// done it. The airlock, which leaves that side closed behind it, would take it from its
    /// clients: it is for a side that does not let us in, and not at all once clients are served.
    async fn ask(&self, reached: Phase) -> PortResult<Option<Verdict>> {
        let decision = self.world.decision();
        let direct = decision.read(self.order.epoch, self.now() + ANSWER).await;
        let is_open = self.opening.is_none() || SERVED.contains(&reached);
        match &direct {
            // Whatever else keeps us out - no connection is free, no answer in time - it may be open
            // and serve.
            Err(error) if error.nature == Nature::ClosedDoor && !is_open => {}
            _ => return direct,
        }
        let deadline = self.now() + ANSWER;
        let _airlock = self.airlock(deadline).await?;
        decision.read(self.order.epoch, deadline).await
    }

    async fn claim(&self) -> PortResult<Verdict> {
        let deadline = self.now() + ANSWER;
        let _airlock = self.airlock(deadline).await?;
        self.world.decision().abort(self.order.epoch, deadline).await
    }
}

/// The newest run in the journal.
struct LastRun<W: World> {
    order: Order,
    started: Timestamp,
    reached: Phase,
    commit_intended: bool,
    undo: Option<<W::Fence as Fence>::Undo>,
    marker: Option<Lsn>,
    watch_until: Option<Timestamp>,
    baseline: Baseline,
    ended: Option<Box<RunReport>>,
}

/// What belongs to runs; `finish` is another matter.
fn of_runs(entries: &[Entry]) -> impl DoubleEndedIterator<Item = &Entry> {
    entries.iter().filter(|entry| !matches!(entry.record, Record::Finishing { .. }))
}

impl<W: World> LastRun<W> {
    /// Which way it went.
    fn direction(entries: &[Entry]) -> Option<Direction> {
        let newest = of_runs(entries).next_back()?;
        let began = of_runs(entries).find_map(|entry| match &entry.record {
            Record::Began { direction, .. } if entry.epoch == newest.epoch => Some(*direction),
            _ => None,
        });
        Some(began.unwrap_or_default())
    }

    fn read(entries: &[Entry]) -> PortResult<Option<Self>> {
        let Some(newest) = of_runs(entries).next_back() else { return Ok(None) };
        let mut last = Self {
            order: order_of(newest.run.clone(), newest.epoch)?,
            started: newest.at,
            reached: Phase::Replicating,
            commit_intended: false,
            undo: None,
            marker: None,
            watch_until: None,
            baseline: Baseline::default(),
            ended: None,
        };
        for entry in entries.iter().filter(|entry| entry.epoch == newest.epoch) {
            match &entry.record {
                Record::Began { request, .. } => {
                    last.started = entry.at;
                    let text = |key: &str| {
                        request.get(key).and_then(|value| value.as_str()).map(str::to_owned)
                    };
                    last.order.actor = text("actor");
                    last.order.reason = text("reason");
                    last.order.way_back =
                        request.get("way_back").and_then(serde_json::Value::as_bool) == Some(true);
                    last.order.drill =
                        request.get("drill").and_then(serde_json::Value::as_bool) == Some(true);
                    let watch = request.get("watch_ms").and_then(serde_json::Value::as_u64);
                    last.order.watch = Duration::from_millis(watch.unwrap_or_default());
                }
                Record::Reached { phase, next, detail, .. } => {
                    // `aborting` says nothing about how far the run had come: keep that.
                    if *phase != Phase::Aborting {
                        last.reached = *phase;
                    }
                    last.commit_intended |= next.as_deref() == Some("decide");
                    if let Some(marker) = detail.get("marker") {
                        last.marker = Some(read_back(marker, "the marker's position")?);
                    }
                    if let Some(until) = detail.get("watch_until") {
                        last.watch_until = Some(read_back(until, "the end of the watching")?);
                    }
                    if let Some(baseline) = detail.get("baseline") {
                        last.baseline = read_back(baseline, "the time before the flip")?;
                    }
                    if let Some(undo) = detail.get("undo") {
                        last.undo = Some(read_back(undo, "the prior settings")?);
                    }
                }
                Record::Stopped { .. } | Record::Finishing { .. } => {}
                // A held run is not over: the world may be better now.
                Record::Ended { report } => {
                    let held = report.outcome == Outcome::Held;
                    last.ended = (!held).then(|| report.clone());
                }
            }
        }
        Ok(Some(last))
    }
}

fn read_back<T: DeserializeOwned>(value: &serde_json::Value, what: &str) -> PortResult<T> {
    serde_json::from_value(value.clone()).map_err(|error| {
        PortError::new("journal", format!("{what} can't be read: {error}"))
            .remedy("start the version of the sidecar that wrote the journal")
    })
}

/// What is needed of an order once its gate is behind it.
fn order_of(run: String, epoch: Epoch) -> PortResult<Order> {
    let when_lag = "<1s"
        .parse()
        .map_err(|error| PortError::new("controller", format!("the default gate: {error}")))?;
    Ok(Order {
        run,
        epoch,
        when_lag,
        hold_for: Duration::ZERO,
        gate_timeout: Duration::ZERO,
        max_pause: Duration::ZERO,
        way_back: false,
        watch: Duration::ZERO,
        drill: false,
        plan_hash: None,
        require: Requirement::default(),
        accepts: Vec::new(),
        actor: None,
        reason: None,
    })
}
