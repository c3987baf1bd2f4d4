//! The effects that go forward.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::sight::way_back_blocked;
use super::{Pause, Run, lease_lost, name_of, stop};
use crate::api::{Check, Severity, Step};
use crate::evidence::{Committed, Drained, Fenced, Sealed, Unproven, WayBack, WayBackReady};
use crate::failpoint;
use crate::phase::{Effect, Input, State, Stop, StopKind, Verdict};
use crate::ports::{
    Airlock, Clock, Decision, Fence, Lease, PortResult, Replication, Sequences, TrafficSwitch,
    WayBackStream, World,
};

/// Connecting to the routers takes no longer than this.
const CONNECT: Duration = Duration::from_secs(10);
/// Between two looks whether the routers still hold.
const HOLD_TICK: Duration = Duration::from_millis(50);
/// A stream that is down for so long within the pause is not waited for: the clients wait, too.
const STALLED: Duration = Duration::from_millis(400);
/// How long an answer to whether they hold may take.
const HOLD_ANSWER: Duration = Duration::from_secs(1);

impl<W: World> Run<'_, W> {
    /// Does what an effect says and gives back what has happened.
    pub(super) async fn perform(&mut self, state: &State, effect: Effect) -> Input {
        if let Some(why) = self.lease_lost(&effect) {
            return match state {
                State::Sealed(_) => Input::NotDecided(why),
                _ => Input::Stop(why),
            };
        }
        let name = name_of(&effect);
        if let Err(error) = failpoint::reach_of("act", name, "before").await {
            return self.failed_at_point(state, &effect, stop(error)).await;
        }
        let input = self.perform_now(state, effect).await;
        if let Err(error) = failpoint::reach_of("act", name, "after").await {
            // The act was done; all that is lost is what is known about it.
            tracing::warn!("{error}");
        }
        input
    }

    /// An act that was not begun because a test said so counts as one that failed.
    async fn failed_at_point(&mut self, state: &State, effect: &Effect, why: Stop) -> Input {
        match (state, effect) {
            (State::Sealed(_), Effect::Decide(_)) => Input::NotDecided(why),
            (state, _) if state.phase().is_committed() => {
                self.again_or_give_up(self.limits.forward, why).await
            }
            (State::Aborting { .. }, _) => self.again_or_give_up(self.limits.put_back, why).await,
            (State::Sealed(_), _) => self.again_or_give_up(self.limits.decision, why).await,
            _ => Input::Stop(why),
        }
    }

    async fn perform_now(&mut self, state: &State, effect: Effect) -> Input {
        if self.is_drilled(&effect) {
            return self.drill().await;
        }
        let Some(kind) = step_of(&effect) else {
            let Effect::PutBack { reached } = effect else {
                return Input::GiveUp(internal(name_of(&effect)));
            };
            return self.put_back(reached, state).await;
        };
        let at = self.begin(kind);
        let result = match effect {
            Effect::Arm => self.arm().await.map(|seen| (seen, Input::Armed)),
            Effect::AwaitGate => self.gate().await.map(|seen| (seen, Input::GatePassed)),
            Effect::HoldTraffic => self.hold().await.map(|seen| (seen, Input::TrafficHeld)),
            Effect::RaiseFence => self.raise().await.map(|(s, proof)| (s, Input::Fenced(proof))),
            Effect::Drain(fenced) => {
                self.drain(&fenced).await.map(|(seen, proof)| (seen, Input::Drained(proof)))
            }
            Effect::SyncSequences(drained) => {
                self.sync(&drained).await.map(|(seen, back)| (seen, Input::SequencesSet(back)))
            }
            Effect::Seal(drained, back) => {
                self.seal(&drained, back).await.map(|(seen, proof)| (seen, Input::Sealed(proof)))
            }
            Effect::Decide(sealed) => return self.decide(at, &sealed).await,
            Effect::ClaimAbort(sealed, why) => return self.claim_abort(at, &sealed, why).await,
            Effect::Flip(committed) => self.flip(&committed).await.map(|s| (s, Input::Flipped)),
            Effect::Release(committed) => {
                self.open(&committed).await.map(|seen| (seen, Input::Released))
            }
            Effect::TurnStreams(committed) => self.turn_streams(&committed).await,
            Effect::ConfirmWayBack(committed) => {
                self.confirm_way_back(&committed).await.map(|seen| (seen, Input::WayBackProven))
            }
            Effect::Watch(committed) => return self.watch(&committed).await,
            Effect::PutBack { .. } => return Input::GiveUp(internal("put_back")),
        };
        match result {
            Ok((seen, input)) => {
                self.stepped(at, Ok(&seen));
                input
            }
            Err(why) => {
                self.stepped(at, Err(&why));
                if !state.phase().is_committed() {
                    return Input::Stop(why);
                }
                if why.kind == StopKind::Superseded {
                    return Input::GiveUp(why);
                }
                if !matches!(state, State::Reversing(_)) {
                    return self.again_or_give_up(self.limits.forward, why).await;
                }
                let input = self.again_or_give_up(self.limits.way_back, why).await;
                if let Input::GiveUp(why) = &input {
                    self.no_way_back(why);
                }
                input
            }
        }
    }

    /// A failure of something that is tried again and again: waits, or says that it is enough.
    pub(super) async fn again_or_give_up(&mut self, budget: Duration, why: Stop) -> Input {
        let now = self.now();
        let until = *self.until.get_or_insert(now + budget);
        if now >= until {
            return Input::GiveUp(why);
        }
        self.waiting(format!("trying again: {}", why.what));
        self.world.clock().sleep_until(now + self.limits.retry).await;
        Input::Stop(why)
    }

    /// An act before the decision: ends early when somebody asks for it or time is up.
    pub(super) async fn act<T>(
        &self,
        what: &str,
        deadline: Instant,
        act: impl Future<Output = PortResult<T>>,
    ) -> Result<T, Stop> {
        self.waiting(what);
        let mut act = pin!(act);
        // Looked at before each of its steps: a process that was stopped for a while would
        // otherwise do one more when it wakes, whoever acts by then.
        let act = poll_fn(|context| match self.too_late(what, deadline) {
            Some(why) => Poll::Ready(Err(why)),
            None => act.as_mut().poll(context).map(|result| result.map_err(stop)),
        });
        tokio::select! {
            biased;
            asked = self.hub.asked_to_stop() => Err(asked),
            result = act => result,
            let_go = self.let_go(), if self.holds => Err(let_go),
            stalled = self.stalled(), if self.holds => Err(stalled),
            () = self.world.clock().sleep_until(deadline) => Err(self.too_long(what)),
        }
    }

    /// Why an act of the pause must not take another step.
    fn too_late(&self, what: &str, deadline: Instant) -> Option<Stop> {
        self.pause.filter(|pause| pause.ended.is_none())?;
        if self.world.lease().left().is_zero() {
            return Some(lease_lost());
        }
        (self.now() >= deadline).then(|| self.too_long(what))
    }

    /// Ends when a router no longer holds its clients although the pause goes on.
    async fn let_go(&self) -> Stop {
        loop {
            let now = self.now();
            self.world.clock().sleep_until(now + HOLD_TICK).await;
            let holding = self.world.switch().holding(self.order.epoch, now + HOLD_ANSWER).await;
            // A console that does not answer proves nothing; before the decision it has to.
            if matches!(holding, Ok(false)) {
                return somebody_let_go();
            }
        }
    }

    /// Ends when a stream that the run needs has been down for [`STALLED`].
    async fn stalled(&self) -> Stop {
        let mut since: Option<Instant> = None;
        loop {
            let now = self.now();
            let progress = self.world.replication().progress();
            let forward = progress.borrow().blocked.as_ref().map(ToString::to_string);
            let why = forward.or_else(|| self.way_back_blocked());
            match (why, since) {
                (None, _) => since = None,
                (Some(_), None) => since = Some(now),
                (Some(why), Some(began)) if now >= began + STALLED => return stream_down(why),
                (Some(_), Some(_)) => {}
            }
            self.world.clock().sleep_until(now + HOLD_TICK).await;
        }
    }

    /// Why the way back is not ready, if this run is to leave one.
    pub(super) fn way_back_blocked(&self) -> Option<String> {
        self.order.way_back.then(|| way_back_blocked(self.world)).flatten()
    }

    fn too_long(&self, what: &str) -> Stop {
        Stop {
            kind: StopKind::Deadline,
            what: format!(
                "the write pause would have exceeded {} ms while {what}",
                self.order.max_pause.as_millis()
            ),
            place: "controller".into(),
            remedy: Some("look at the timeline; allow more with --max-pause".into()),
        }
    }

    async fn arm(&mut self) -> Result<String, Stop> {
        let deadline = self.now() + self.order.gate_timeout;
        let world = self.world;
        let (from, to) = (self.direction().from(), self.direction().to());
        let checking = format!("checking {from}");
        let mut checks = self.act(&checking, deadline, world.fence().inspect()).await?;
        let routers = world.switch().inspect(from, self.order.max_pause);
        checks.extend(self.act("checking the routers", deadline, routers).await?);
        // A side that we have closed ourselves: whoever has to look inside, and whatever is to stay
        // connected there until the decision, goes in now.
        let opening = self.act(&format!("entering {to}"), deadline, self.airlock(deadline)).await?;
        let sealed = self.opening.is_some();
        let beside_rows = async {
            let mut checks = world.sequences().inspect(sealed).await?;
            checks.extend(world.replication().inspect().await?);
            Ok(checks)
        };
        checks.extend(self.act("checking what is no row", deadline, beside_rows).await?);
        if self.order.way_back {
            let way_back = world.way_back().inspect();
            checks.extend(self.act("checking the way back", deadline, way_back).await?);
        }
        let comparing = world.definitions(self.order, deadline);
        checks.extend(self.act("comparing definitions and rights", deadline, comparing).await?);
        let failed: Vec<_> =
            checks.iter().filter(|check| check.severity == Severity::Fail).cloned().collect();
        self.checks = checks;
        if let [first, ..] = failed.as_slice() {
            return Err(precheck_failed(first, failed.len()));
        }
        let lease = world.lease().acquire(self.order.epoch);
        self.act("taking the lease", deadline, lease).await?;
        let preparing = format!("preparing {to}");
        self.act(&preparing, deadline, world.decision().prepare()).await?;
        let routers = world.switch().arm(to, (self.now() + CONNECT).min(deadline));
        self.act("connecting to the routers", deadline, routers).await?;
        if self.order.way_back {
            let way_back = world.way_back().arm(&self.token, deadline);
            let armed = self.act("arming the way back", deadline, way_back).await?;
            tracing::info!(run = %self.order.run, "the way back: {armed}");
        }
        drop(opening);
        if self.plan.is_none() {
            self.plan = self.act("making the plan", deadline, world.plan_hash(self.order)).await?;
        }
        self.act("arming the engine", deadline, world.replication().arm(&self.token)).await?;
        Ok(format!("{} checks passed", self.checks.len()))
    }

    async fn hold(&mut self) -> Result<String, Stop> {
        self.pause = Some(Pause { began: self.now(), ended: None });
        let deadline = self.window_ends();
        let hold = self.world.switch().hold(self.order.epoch, deadline);
        let seen =
            self.act("waiting for the routers to hold their clients", deadline, hold).await?;
        self.holds = true;
        Ok(seen)
    }

    /// Lets us into the side that is to open, if an earlier run has closed it.
    pub(super) async fn airlock(&self, deadline: Instant) -> PortResult<Option<Airlock>> {
        let Some(undo) = &self.opening else { return Ok(None) };
        self.world.fence_of(self.direction().to()).airlock(undo, deadline).await.map(Some)
    }

    async fn raise(&mut self) -> Result<(String, Fenced), Stop> {
        let deadline = self.window_ends();
        let undo = self.undo()?;
        let raise = self.world.fence().raise(&undo, deadline);
        let side = self.direction().from();
        let report = self.act(&format!("fencing {side}"), deadline, raise).await?;
        let fenced =
            Fenced::prove(self.order.epoch, side, &report).map_err(unproven(side.name()))?;
        let mut seen = format!("{} sessions closed", report.sessions_closed);
        if report.tables_locked > 0 {
            seen.push_str(&format!(", {} tables locked", report.tables_locked));
        }
        Ok((seen, fenced))
    }

    fn undo(&self) -> Result<<W::Fence as Fence>::Undo, Stop> {
        self.undo.clone().ok_or_else(|| internal("the prior settings are not known"))
    }

    async fn drain(&mut self, fenced: &Fenced) -> Result<(String, Drained), Stop> {
        let deadline = self.window_ends();
        let world = self.world;
        let written =
            self.act("writing the marker", deadline, world.fence().mark(&self.token, deadline));
        let written = written.await?;
        let durable = world.replication().await_marker(&self.token, deadline);
        let to = self.direction().to();
        let is_beside_rows = world.sequences().is_beside_rows();
        // The fence is up, so no sequence moves any more; see `fence::postgres`.
        let carried = async {
            match is_beside_rows {
                true => world.sequences().copy(deadline).await.map(Some),
                false => Ok(None),
            }
        };
        let mut waiting = format!("waiting for the marker to be durable on {to}");
        if is_beside_rows {
            waiting.push_str(", and setting its sequences");
        }
        let both = async { tokio::try_join!(durable, carried) };
        let (durable, carried) = self.act(&waiting, deadline, both).await?;
        self.carried = carried;
        let drained = Drained::prove(fenced, &written, &durable).map_err(unproven("stream"))?;
        self.marker = Some(drained.marker());
        Ok((format!("marker {} durable on {to}", durable.end_lsn), drained))
    }

    /// Sequences, unless they were set during the drain, and at the same time the marker that shows that the
    /// way back reads.
    async fn sync(&mut self, drained: &Drained) -> Result<(String, WayBack), Stop> {
        let deadline = self.window_ends();
        let world = self.world;
        let carried = self.carried.take();
        let copy = async {
            let copied = async {
                match carried {
                    Some(report) => Ok(report),
                    None => world.sequences().copy(deadline).await,
                }
            };
            let noted = world.replication().prepare_hand_over(deadline);
            tokio::try_join!(copied, noted).map(|(report, ())| report)
        };
        let setting = format!("setting {}'s sequences", self.direction().to());
        if !self.order.way_back {
            let report = self.act(&setting, deadline, copy).await?;
            return Ok((format!("{} sequences", report.count), WayBack::Waived));
        }
        let token = self.token.way_back();
        let reading = async {
            let written = world.way_back().mark(&token, deadline).await?;
            let decoded = world.way_back().await_decoded(&token, deadline).await?;
            Ok((written, decoded))
        };
        let both = async { tokio::try_join!(copy, reading) };
        let doing = format!("{setting}, and waiting for the way back to read");
        let (report, (written, decoded)) = self.act(&doing, deadline, both).await?;
        let ready = WayBackReady::prove(drained, &written, &decoded);
        let ready = ready.map_err(unproven("way back"))?;
        let seen = format!("{} sequences, the way back reads {}", report.count, ready.position());
        Ok((seen, WayBack::Ready(ready)))
    }

    async fn seal(
        &mut self,
        drained: &Drained,
        way_back: WayBack,
    ) -> Result<(String, Sealed), Stop> {
        let deadline = self.window_ends();
        let world = self.world;
        let undo = self.undo()?;
        let seal = world.fence().seal(&undo, deadline);
        let side = self.direction().from();
        let report = self.act(&format!("sealing {side}"), deadline, seal).await?;
        let token = drained.token().sealing();
        let mark = world.fence().mark(&token, deadline);
        let written = self.act("writing the second marker", deadline, mark).await?;
        let decoded = world.replication().await_decoded(&token, deadline);
        let decoded = self.act("waiting for the second marker", deadline, decoded).await?;
        let sealed = Sealed::prove(drained, &report, &written, &decoded, way_back)
            .map_err(unproven(side.name()))?;
        self.sealed = Some(sealed.clone());
        Ok((format!("{}, {}", report.mechanism, sealed.xids()), sealed))
    }

    async fn decide(&mut self, at: super::StepStart, sealed: &Sealed) -> Input {
        // From here on an answer may be lost, so nothing may interrupt; look once more before.
        if let Some(asked) = self.hub.no_more_stops() {
            self.stepped(at, Err(&asked));
            return Input::NotDecided(asked);
        }
        // What the answer is waited for must end before the lease does.
        let deadline = self.window_ends().min(self.lease_ends());
        if let Some(why) = self.refusal(deadline).await {
            self.stepped(at, Err(&why));
            return Input::NotDecided(why);
        }
        self.waiting("deciding");
        let epoch = self.order.epoch;
        match self.world.decision().commit(epoch, sealed.marker(), deadline).await {
            Ok(verdict) => self.decided(at, sealed, verdict, None),
            Err(error) => {
                let in_doubt = error.in_doubt;
                let why = stop(error);
                self.stepped(at, Err(&why));
                if in_doubt { Input::Stop(why) } else { Input::NotDecided(why) }
            }
        }
    }

    /// The last look before the decision.
    async fn refusal(&self, deadline: Instant) -> Option<Stop> {
        let world = self.world;
        // As long as in the acts before: a stream that has just come back knows its lag a moment later. First,
        // so that everything else is looked at as it is when it is decided.
        let patience = (self.now() + STALLED).min(deadline);
        while let Some(why) = self.way_back_blocked() {
            if self.now() >= patience {
                return Some(stream_down(why));
            }
            world.clock().sleep_until((self.now() + HOLD_TICK).min(patience)).await;
        }
        if self.now() >= deadline {
            return Some(self.too_long("deciding"));
        }
        if world.replication().leaks().count > 0 {
            return Some(internal("row changes were seen after the marker"));
        }
        if self.order.way_back && world.way_back().standby().foreign.count > 0 {
            let to = self.direction().to();
            return Some(internal(&format!("{to} was written by somebody else")));
        }
        let holding = world.switch().holding(self.order.epoch, deadline);
        let holding = tokio::time::timeout_at(deadline, holding).await;
        match holding {
            Ok(Ok(true)) => None,
            Ok(Ok(false)) => Some(somebody_let_go()),
            Ok(Err(error)) => Some(stop(error)),
            Err(_) => Some(self.too_long("asking the routers whether they still hold")),
        }
    }

    /// Until when the lease is certainly ours.
    fn lease_ends(&self) -> Instant {
        // Far away rather than never: the sum must not overflow.
        self.now() + self.world.lease().left().min(Duration::from_secs(3600))
    }

    /// The commit's answer was lost. Inserting the opposite settles it either way.
    async fn claim_abort(&mut self, at: super::StepStart, sealed: &Sealed, why: Stop) -> Input {
        self.waiting(format!("finding out what {} decided", self.direction().to()));
        let deadline = self.now() + Duration::from_secs(2);
        // Its session may have been lost together with the answer.
        let verdict = async {
            let _airlock = self.airlock(deadline).await?;
            self.world.decision().abort(self.order.epoch, deadline).await
        };
        match verdict.await {
            Ok(verdict) => self.decided(at, sealed, verdict, Some(why)),
            Err(error) => {
                let unreadable = stop(error);
                self.stepped(at, Err(&unreadable));
                match self.again_or_give_up(self.limits.decision, unreadable).await {
                    Input::Stop(_) => Input::Stop(why),
                    give_up => give_up,
                }
            }
        }
    }

    fn decided(
        &mut self,
        at: super::StepStart,
        sealed: &Sealed,
        verdict: Verdict,
        why: Option<Stop>,
    ) -> Input {
        match Committed::decide(sealed, self.order.epoch, verdict) {
            Ok(committed) => {
                self.stepped(at, Ok(&format!("point of no return, epoch {}", self.order.epoch)));
                Input::DecidedCommit(committed)
            }
            Err(unproven) => {
                let why = why.unwrap_or_else(|| Stop {
                    kind: StopKind::Failed,
                    what: unproven.to_string(),
                    place: self.direction().to().name().into(),
                    remedy: None,
                });
                self.stepped(at, Err(&why));
                Input::DecidedAbort(why)
            }
        }
    }

    /// The next deadline for an act that is tried again.
    pub(super) fn try_until(&self) -> Instant {
        self.now() + Duration::from_secs(5)
    }
}

/// The timeline's step of an effect; going back times itself.
fn step_of(effect: &Effect) -> Option<Step> {
    Some(match effect {
        Effect::Arm => Step::Arm,
        Effect::AwaitGate => Step::Gate,
        Effect::HoldTraffic => Step::Quiesce,
        Effect::RaiseFence => Step::Fence,
        Effect::Drain(_) => Step::Drain,
        Effect::SyncSequences(_) => Step::Sync,
        Effect::Seal(..) => Step::Seal,
        Effect::Decide(_) | Effect::ClaimAbort(..) => Step::Commit,
        Effect::Flip(_) => Step::Flip,
        Effect::Release(_) => Step::Open,
        Effect::TurnStreams(_) => Step::Finish,
        Effect::ConfirmWayBack(_) => Step::Reverse,
        Effect::Watch(_) => Step::Watch,
        Effect::PutBack { .. } => return None,
    })
}

fn stream_down(why: String) -> Stop {
    Stop {
        kind: StopKind::Failed,
        what: why,
        place: "stream".into(),
        remedy: Some("cutover status says what the stream waits for; run it again then".into()),
    }
}

fn somebody_let_go() -> Stop {
    Stop {
        kind: StopKind::Failed,
        what: "the routers no longer hold their clients although nobody here has let them go"
            .into(),
        place: "router".into(),
        remedy: Some("find out who has typed RESUME".into()),
    }
}

pub(super) fn precheck_failed(first: &Check, count: usize) -> Stop {
    let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
    Stop {
        kind: StopKind::Precheck,
        what: format!("{}: {}{more}", first.name, first.evidence),
        place: "prechecks".into(),
        remedy: first.fix.clone(),
    }
}

fn unproven(place: &'static str) -> impl Fn(Unproven) -> Stop {
    move |why| Stop {
        kind: StopKind::Failed,
        what: why.to_string(),
        place: place.into(),
        remedy: None,
    }
}

pub(super) fn internal(what: &str) -> Stop {
    Stop { kind: StopKind::Failed, what: what.to_owned(), place: "controller".into(), remedy: None }
}
