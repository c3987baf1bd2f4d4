//! The loop around [`step`]: write down the intent, act, observe, let `step` say what is next.
//!
//! - Before the point of no return every act can be interrupted: by the operator, and by the end
//!   of the pause's budget. What it leaves half-done is put back, because undoing is idempotent
//!   and covers the act under way as well as those that are proven.
//! - From the decision on nothing interrupts. An act that fails is done again until the budget for
//!   going forward is used up; then the run is held and says what a person has to do.
//! - The journal has one synced record for each act: what was proven, and what comes next.

mod acts;
mod after;
mod back;
#[cfg(test)]
mod drill_tests;
mod drilling;
pub mod finish;
mod gating;
#[cfg(test)]
mod gating_tests;
mod opening;
mod ownership;
mod recover;
mod refreshing;
mod report;
pub(crate) mod sight;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod simulation;
mod standing;
#[cfg(test)]
mod tests;

use std::time::Duration;

use decoders::Lsn;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::api::{Breach, Check, DrillMeasures, Member, RunEventKind, RunReport, Step, Stepped};
use crate::evidence::Sealed;
use crate::failpoint;
use crate::gate::LagExpr;
use crate::hub::RunHub;
use crate::marker::Token;
use crate::phase::{Effect, Input, Phase, State, Stop, StopKind, step};
use crate::ports::{
    Clock, Entry, Epoch, Fence, Journal, Lease, Nature, PortError, PortResult, Record, Replication,
    SequenceReport, World,
};
use crate::side::Direction;
use crate::verify::{Accepted, Requirement};

pub use recover::{Recovery, Scope, recover};
pub use report::history;
pub use standing::{Breached, Closed, Finish, Standing, Unfinished};

/// What was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The run's id: ASCII letters and digits.
    pub run: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// The lag that the gate waits for.
    pub when_lag: LagExpr,
    /// How long it must hold.
    pub hold_for: Duration,
    /// How long to wait for that.
    pub gate_timeout: Duration,
    /// The longest write pause.
    pub max_pause: Duration,
    /// Whether a stream back has to be ready before the decision, so that a rollback loses
    /// nothing. Without it there is no rollback at all.
    pub way_back: bool,
    /// How long to watch the side that opened, once the way back carries.
    pub watch: Duration,
    /// Go as far as the drain, without a fence, and put everything back: what a run would take is
    /// measured, and nothing is changed over.
    pub drill: bool,
    /// The hash of the plan that was agreed to. `None`: the one that is found while arming counts.
    pub plan_hash: Option<String>,
    /// What is asked of verifications before the pause begins; a drill asks nothing.
    pub require: Requirement,
    /// Differences of definitions that are taken as they are.
    pub accepts: Vec<Accepted>,
    /// Who asks.
    pub actor: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// How long things may take that no operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Part of the pause that is kept for going back.
    pub abort_cost: Duration,
    /// Trying to put everything back.
    pub put_back: Duration,
    /// Finding out what green's decision row says.
    pub decision: Duration,
    /// Going forward after the point of no return.
    pub forward: Duration,
    /// Seeing the way back carry. Clients are served meanwhile.
    pub way_back: Duration,
    /// Between two tries.
    pub retry: Duration,
    /// Between two looks at the gate's conditions.
    pub gate_tick: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            abort_cost: Duration::from_millis(500),
            put_back: Duration::from_secs(30),
            decision: Duration::from_secs(20),
            forward: Duration::from_secs(60),
            way_back: Duration::from_secs(300),
            retry: Duration::from_millis(100),
            gate_tick: Duration::from_millis(100),
        }
    }
}

/// How long writing a journal entry may take at least, and outside of the pause at most.
const JOURNAL_MIN: Duration = Duration::from_millis(250);
const JOURNAL_MAX: Duration = Duration::from_secs(10);

/// Runs a cutover to its end. What it does meanwhile is in `hub`; so is the report.
pub async fn run<W: World>(world: &W, order: &Order, limits: &Limits, hub: &RunHub) -> RunReport {
    let mut run = Run::new(world, order, limits, hub, world.clock().wall());
    let request = serde_json::json!({
        "when_lag": order.when_lag.to_string(),
        "hold_for_ms": order.hold_for.as_millis() as u64,
        "gate_timeout_ms": order.gate_timeout.as_millis() as u64,
        "max_pause_ms": order.max_pause.as_millis() as u64,
        "way_back": order.way_back,
        "watch_ms": order.watch.as_millis() as u64,
        "drill": order.drill,
        "plan_hash": order.plan_hash,
        "accepts": order.accepts,
        "actor": order.actor,
        "reason": order.reason,
    });
    let begun = match run.load().await {
        Ok(()) => run.append(Record::Began { request, direction: world.direction() }).await,
        Err(error) => Err(error),
    };
    let (state, effect) = match begun {
        Ok(()) => step(State::Replicating, Input::Start),
        Err(error) => {
            // Nothing has been touched, so there is nothing to put back.
            (State::Aborted { why: stop(error) }, None)
        }
    };
    let (Driven::Ended(state) | Driven::Left(state)) = run.drive(state, effect, Scope::Full).await;
    run.conclude(&state).await
}

/// How driving a run ended.
enum Driven {
    /// The run is over.
    Ended(State),
    /// What comes next is beyond the scope.
    Left(State),
}

/// A run in this process.
struct Run<'a, W: World> {
    world: &'a W,
    order: &'a Order,
    limits: &'a Limits,
    hub: &'a RunHub,
    token: Token,
    started: Timestamp,
    /// Number of the next journal entry.
    seq: u64,
    /// The closed side's settings as they were, once they have been read and journaled.
    undo: Option<<W::Fence as Fence>::Undo>,
    /// What opens the side that is to open, if an earlier run has closed it.
    opening: Option<<W::Fence as Fence>::Undo>,
    /// Whether an earlier life of this process, or another process, has begun the run.
    is_recovered: bool,
    /// Whether the routers were seen to hold.
    holds: bool,
    /// Until when to watch, by the wall clock.
    watch_until: Option<Timestamp>,
    pause: Option<Pause>,
    /// What the last act saw.
    seen: String,
    /// Until when to try what is being tried again and again.
    until: Option<Instant>,
    checks: Vec<Check>,
    /// The hash of the plan that this run follows; `None`: nobody can tell.
    plan: Option<String>,
    /// What a drill has measured.
    measures: Option<DrillMeasures>,
    steps: Vec<Stepped>,
    members: Vec<Member>,
    /// The last try of going back left nothing undone but a router that could not be told.
    only_routers_left: bool,
    /// The drain marker's end on the closed side; from the journal if an earlier life of this
    /// process has written it.
    marker: Option<Lsn>,
    /// What was done about sequences while the marker was on its way; `None`: nothing yet.
    carried: Option<SequenceReport>,
    /// Whether something that runs by itself may have to be made on the side that opens, as it was known when it was
    /// decided. Whoever recovers asks in any case.
    hands_over: bool,
    /// Whether a way back was left that carries.
    way_back: Option<bool>,
    /// What ended the time of watching, if a monitor did.
    breach: Option<Breach>,
    sealed: Option<Sealed>,
    notes: Vec<String>,
}

/// The time during which clients wait.
#[derive(Debug, Clone, Copy)]
struct Pause {
    began: Instant,
    ended: Option<Instant>,
}

impl<'a, W: World> Run<'a, W> {
    fn new(
        world: &'a W,
        order: &'a Order,
        limits: &'a Limits,
        hub: &'a RunHub,
        started: Timestamp,
    ) -> Self {
        Self {
            world,
            order,
            limits,
            hub,
            token: Token::draining(&order.run, order.epoch),
            started,
            seq: 1,
            undo: None,
            opening: None,
            is_recovered: false,
            holds: false,
            watch_until: None,
            pause: None,
            seen: "asked for".into(),
            until: None,
            checks: Vec::new(),
            plan: order.plan_hash.clone(),
            measures: None,
            steps: Vec::new(),
            members: Vec::new(),
            only_routers_left: false,
            marker: None,
            carried: None,
            hands_over: true,
            way_back: None,
            breach: None,
            sealed: None,
            notes: Vec::new(),
        }
    }

    /// From a state and its effect to the end, or to where the scope ends.
    async fn drive(
        &mut self,
        mut state: State,
        mut effect: Option<Effect>,
        scope: Scope,
    ) -> Driven {
        let mut shown = None;
        loop {
            let phase = state.phase();
            if shown != Some(phase) {
                shown = Some(phase);
                self.until = None;
                self.show(phase);
            }
            let Some(next) = effect else { return Driven::Ended(state) };
            if !scope.covers(&next) {
                return Driven::Left(state);
            }
            let input = match self.intend(&state, &next).await {
                Ok(()) => self.perform(&state, next).await,
                Err(error) if phase.is_committed() || phase == Phase::Aborting => {
                    // The decision row is the truth now, and going back needs no journal:
                    // a recovery that reads an older entry does the same again.
                    self.note(format!("the journal could not be written: {error}"));
                    self.perform(&state, next).await
                }
                // A commit may be on its way: only green can say what became of it.
                Err(error) if matches!(next, Effect::ClaimAbort(..)) => {
                    self.note(format!("the journal could not be written: {error}"));
                    self.perform(&state, next).await
                }
                Err(error) => match state {
                    State::Sealed(_) => Input::NotDecided(stop(error)),
                    _ => Input::Stop(stop(error)),
                },
            };
            if let Input::Stop(why) | Input::NotDecided(why) | Input::DecidedAbort(why) = &input {
                self.failed(why).await;
            }
            (state, effect) = step(state, input);
        }
    }

    /// Shows a phase that was reached.
    fn show(&self, phase: Phase) {
        self.hub.set(|status| {
            status.phase = phase;
            status.abortable =
                !phase.is_committed() && !phase.is_final() && phase != Phase::Aborting;
            status.serving = serving(self.direction(), phase).into();
        });
        self.hub.event(self.world.clock().wall(), RunEventKind::Phase { phase });
    }

    /// Says what the run is doing or waiting for.
    fn waiting(&self, what: impl Into<String>) {
        let what = what.into();
        self.hub.set(|status| status.waiting_for = Some(what));
    }

    fn note(&mut self, text: String) {
        tracing::warn!(run = %self.order.run, epoch = %self.order.epoch, "{text}");
        self.hub.event(self.world.clock().wall(), RunEventKind::Note { text: text.clone() });
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// Writes down what is proven and what comes next, before it is done.
    async fn intend(&mut self, state: &State, effect: &Effect) -> PortResult<()> {
        let mut detail = serde_json::Value::Null;
        if matches!(effect, Effect::HoldTraffic) {
            // Read as late as possible: an operator may have changed a setting during the wait.
            let fence = self.world.fence();
            let undo = fence.signed(fence.prepare().await?, &self.order.run, self.order.epoch);
            detail = serde_json::json!({ "undo": undo, "baseline": self.hub.baseline() });
            self.undo = Some(undo);
        }
        if let (Effect::SyncSequences(_), Some(marker)) = (effect, self.marker) {
            // Where the stream of this direction stands still once the roles have been turned.
            detail = serde_json::json!({ "marker": marker });
        }
        if matches!(effect, Effect::Watch(_)) {
            let until = *self.watch_until.get_or_insert_with(|| {
                let wall = self.world.clock().wall();
                wall.saturating_add(
                    jiff::SignedDuration::try_from(self.order.watch).unwrap_or_default(),
                )
                .unwrap_or(wall)
            });
            detail = serde_json::json!({ "watch_until": until });
        }
        let next = name_of(effect);
        failpoint::reach_of("journal", next, "before").await?;
        let record = Record::Reached {
            phase: state.phase(),
            seen: self.seen.clone(),
            next: Some(if self.is_drilled(effect) { "drill" } else { next }.to_owned()),
            detail,
        };
        match effect {
            // It is done all the same, and clients wait for it.
            Effect::PutBack { .. } => self.append_by(record, self.now() + JOURNAL_MIN).await?,
            _ => self.append(record).await?,
        }
        if matches!(effect, Effect::Decide(_)) {
            // Behind the entry, which whoever notes something looks for: one of both sees the other.
            self.hands_over = self.world.replication().hands_over();
        }
        failpoint::reach_of("journal", next, "after").await
    }

    /// From which side to which this run goes.
    fn direction(&self) -> Direction {
        self.world.direction()
    }

    /// Nothing before the decision may be done by a controller that has lost its lease: somebody
    /// else may be undoing what it does. What comes after the decision is the same whoever does it;
    /// it and going back are bound by the claim on the side that was closed.
    fn lease_lost(&self, before_act: &Effect) -> Option<Stop> {
        // Arming is what takes it.
        let bound = !matches!(
            before_act,
            Effect::Arm
                | Effect::PutBack { .. }
                | Effect::ClaimAbort(..)
                | Effect::Flip(_)
                | Effect::Release(_)
                | Effect::TurnStreams(_)
                | Effect::ConfirmWayBack(_)
                | Effect::Watch(_)
        );
        (bound && self.world.lease().left().is_zero()).then(lease_lost)
    }

    async fn failed(&mut self, why: &Stop) {
        if why.kind == StopKind::Drilled {
            tracing::info!(run = %self.order.run, epoch = %self.order.epoch, "{}", why.what);
        } else {
            tracing::warn!(run = %self.order.run, epoch = %self.order.epoch, place = %why.place, "{}", why.what);
        }
        let record = Record::Stopped { why: why.clone() };
        if let Err(error) = self.append_by(record, self.now() + JOURNAL_MIN).await {
            self.note(format!("the journal could not be written: {error}"));
        }
    }

    /// What the journal says before this run: whether it may be, and what it has to open.
    async fn load(&mut self) -> PortResult<()> {
        let standing = Standing::read(&self.world.journal().read_all().await?)?;
        self.seq = standing.next_seq;
        let refuse = |what: String| Err(PortError::new("journal", what));
        // One that only watches is no obstacle to a plan; a run ends it first.
        let unfinished = standing.unfinished.as_ref();
        if let Some(other) = unfinished.filter(|run| run.reached != Phase::Watching) {
            return refuse(format!("run {} (epoch {}) has not ended", other.run, other.epoch));
        }
        if standing.finish != Finish::NotAsked {
            return refuse("the move was finished: there is nothing to change over".into());
        }
        let (from, to) = (self.direction().from(), self.direction().to());
        if standing.serving != from {
            return refuse(format!("{from} can't be left: {to} serves"));
        }
        if standing.sealed.is_some() && !standing.way_back {
            return refuse(format!("the last run left no way back to {to}"));
        }
        self.opening = read_undo::<W>(&standing, to)?;
        Ok(())
    }

    async fn append(&mut self, record: Record) -> PortResult<()> {
        // A disk that hangs must not hold the clients: within the pause an entry gets no more time
        // than the pause has left.
        let deadline = match self.pause {
            Some(pause) if pause.ended.is_none() => {
                self.window_ends().max(self.now() + JOURNAL_MIN)
            }
            _ => self.now() + JOURNAL_MAX,
        };
        self.append_by(record, deadline).await
    }

    async fn append_by(&mut self, record: Record, deadline: Instant) -> PortResult<()> {
        let entry = Entry {
            seq: self.seq,
            run: self.order.run.clone(),
            epoch: self.order.epoch,
            at: self.world.clock().wall(),
            record,
        };
        // A failed append may have been written all the same: its number is used up.
        self.seq += 1;
        let appended = tokio::time::timeout_at(deadline, self.world.journal().append(&entry)).await;
        appended.unwrap_or_else(|_| {
            Err(PortError::new("journal", "writing the journal took too long").in_doubt())
        })
    }

    fn now(&self) -> Instant {
        self.world.clock().now()
    }

    /// Until when the acts of the pause may go on if there is to be time for going back.
    fn window_ends(&self) -> Instant {
        let began = self.pause.map_or_else(|| self.now(), |pause| pause.began);
        let max = self.order.max_pause;
        began + max.saturating_sub(self.limits.abort_cost.min(max / 4))
    }

    /// Adds a step to the timeline. Tries of one step in a row are one entry.
    fn stepped(&mut self, at: StepStart, result: Result<&str, &Stop>) {
        let now = self.now();
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let offset_ms = match self.pause {
            Some(pause) if pause.ended.is_none_or(|ended| at.began <= ended) => {
                Some(ms(now.saturating_duration_since(pause.began)))
            }
            _ => None,
        };
        let stepped = Stepped {
            step: at.step,
            start: at.wall,
            ms: ms(now.saturating_duration_since(at.began)),
            offset_ms,
            ok: result.is_ok(),
            summary: match result {
                Ok(summary) => summary.to_owned(),
                Err(why) => why.what.clone(),
            },
        };
        self.seen.clone_from(&stepped.summary);
        match self.steps.last_mut() {
            Some(last) if last.step == at.step && !last.ok && !stepped.ok => {
                last.ms += stepped.ms;
                last.summary.clone_from(&stepped.summary);
            }
            _ => {
                self.steps.push(stepped.clone());
                self.hub.event(self.world.clock().wall(), RunEventKind::Step(stepped));
            }
        }
    }

    fn begin(&self, step: Step) -> StepStart {
        StepStart { step, began: self.now(), wall: self.world.clock().wall() }
    }
}

#[derive(Debug, Clone, Copy)]
struct StepStart {
    step: Step,
    began: Instant,
    wall: Timestamp,
}

/// Which database admits clients' writes in a phase.
fn serving(direction: Direction, phase: Phase) -> &'static str {
    match phase {
        Phase::Replicating | Phase::Armed | Phase::Aborted => direction.from().name(),
        Phase::Open | Phase::Reversing | Phase::Watching | Phase::Done => direction.to().name(),
        Phase::Gate
        | Phase::Quiesced
        | Phase::Fenced
        | Phase::Drained
        | Phase::Synced
        | Phase::Sealed
        | Phase::Committed
        | Phase::Flipped
        | Phase::Aborting
        | Phase::Held => "none",
    }
}

/// What opens `side`, in the fence's own terms.
fn read_undo<W: World>(
    standing: &Standing,
    side: crate::side::Side,
) -> PortResult<Option<<W::Fence as Fence>::Undo>> {
    let Some(undo) = standing.undo_of(side) else { return Ok(None) };
    serde_json::from_value(undo.clone()).map(Some).map_err(|error| {
        PortError::new("journal", format!("{side}'s prior settings can't be read: {error}"))
            .remedy("start the version of the sidecar that wrote the journal")
    })
}

/// The name of an act in the journal.
fn name_of(effect: &Effect) -> &'static str {
    match effect {
        Effect::Arm => "arm",
        Effect::AwaitGate => "await_gate",
        Effect::HoldTraffic => "hold_traffic",
        Effect::RaiseFence => "raise_fence",
        Effect::Drain(_) => "drain",
        Effect::SyncSequences(_) => "sync_sequences",
        Effect::Seal(..) => "seal",
        Effect::Decide(_) => "decide",
        Effect::ClaimAbort(..) => "claim_abort",
        Effect::Flip(_) => "flip",
        Effect::Release(_) => "release",
        Effect::TurnStreams(_) => "turn_streams",
        Effect::ConfirmWayBack(_) => "confirm_way_back",
        Effect::Watch(_) => "watch",
        Effect::PutBack { .. } => "put_back",
    }
}

fn lease_lost() -> Stop {
    Stop {
        kind: StopKind::Failed,
        what: "the lease was lost: the watchdog or another sidecar may be acting".into(),
        place: "lease".into(),
        remedy: Some(
            "make sure that only one sidecar runs for this pipeline, and that its host does not \
             stall for seconds"
                .into(),
        ),
    }
}

/// A port's error as a reason to stop.
fn stop(error: PortError) -> Stop {
    let kind = match error.nature {
        Nature::Superseded => StopKind::Superseded,
        Nature::Plain | Nature::ClosedDoor => StopKind::Failed,
    };
    Stop { kind, what: error.what, place: error.place, remedy: error.remedy }
}
