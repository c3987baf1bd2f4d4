//! The effects that go forward.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::{Pause, Run, name_of, stop};
use crate::api::{Check, RunEventKind, Severity, Step};
use crate::evidence::{Committed, Drained, Fenced, Sealed, Unproven};
use crate::gate::Gate;
use crate::phase::{Effect, Input, State, Stop, StopKind, Verdict};
use crate::ports::{
    Clock, Decision, Fence, PortResult, Progress, Replication, Sequences, TrafficSwitch, World,
    Writers,
};

/// An answer that takes longer than this counts as none, while the gate waits.
const WRITERS_TIMEOUT: Duration = Duration::from_secs(1);

impl<W: World> Run<'_, W> {
    /// Does what an effect says and gives back what has happened.
    pub(super) async fn perform(&mut self, state: &State, effect: Effect) -> Input {
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
            Effect::SyncSequences(_) => self.sync().await.map(|s| (s, Input::SequencesSet)),
            Effect::Seal(drained) => {
                self.seal(&drained).await.map(|(seen, proof)| (seen, Input::Sealed(proof)))
            }
            Effect::Decide(sealed) => return self.decide(at, &sealed).await,
            Effect::ClaimAbort(sealed, why) => return self.claim_abort(at, &sealed, why).await,
            Effect::Flip(committed) => self.flip(&committed).await.map(|s| (s, Input::Flipped)),
            Effect::Release(committed) => {
                self.open(&committed).await.map(|seen| (seen, Input::Released))
            }
            Effect::Finish(committed) => {
                self.finish(&committed).await.map(|seen| (seen, Input::Finished))
            }
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
                self.again_or_give_up(self.limits.forward, why).await
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
    async fn act<T>(
        &self,
        what: &str,
        deadline: Instant,
        act: impl Future<Output = PortResult<T>>,
    ) -> Result<T, Stop> {
        self.waiting(what);
        tokio::select! {
            biased;
            asked = self.hub.asked_to_stop() => Err(asked),
            result = act => result.map_err(stop),
            () = self.world.clock().sleep_until(deadline) => Err(self.too_long(what)),
        }
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
        let mut checks = self.act("checking blue", deadline, world.fence().inspect()).await?;
        checks.extend(self.act("checking the routers", deadline, world.switch().inspect()).await?);
        checks.extend(
            self.act("checking the sequences", deadline, world.sequences().inspect()).await?,
        );
        let failed: Vec<_> =
            checks.iter().filter(|check| check.severity == Severity::Fail).cloned().collect();
        self.checks = checks;
        if let [first, ..] = failed.as_slice() {
            return Err(precheck_failed(first, failed.len()));
        }
        self.act("preparing green", deadline, world.decision().prepare()).await?;
        self.act("connecting to the routers", deadline, world.switch().arm()).await?;
        self.act("arming the engine", deadline, world.replication().arm(&self.token)).await?;
        Ok(format!("{} checks passed", self.checks.len()))
    }

    async fn gate(&mut self) -> Result<String, Stop> {
        let order = self.order;
        let mut gate = Gate::new(order.when_lag.clone(), order.hold_for, order.max_pause);
        let progress = self.world.replication().progress();
        let ends = self.now() + order.gate_timeout;
        loop {
            if let Some(asked) = self.hub.stop() {
                return Err(asked);
            }
            let mut latest = progress.borrow().clone();
            if progress.has_changed().is_err() {
                latest.blocked = Some("the engine has stopped".into());
            }
            let writers = self.writers(&mut latest).await;
            let now = self.now();
            let state = gate.observe(now, &latest, &writers);
            let lag = latest.lag.seconds;
            self.hub.event(
                self.world.clock().wall(),
                RunEventKind::Gate {
                    lag_seconds: lag,
                    condition: order.when_lag.to_string(),
                    held_seconds: state.held.as_secs_f64(),
                    needed_seconds: order.hold_for.as_secs_f64(),
                    waiting_for: state.waiting_for.clone(),
                    transactions_per_second: latest.transactions_per_second,
                    drain_estimate_ms: latest.lag.drain_estimate_seconds.map(|s| s * 1e3),
                },
            );
            if state.passed {
                let lag = lag.unwrap_or_default();
                return Ok(format!("lag {lag:.2} s, {} held", order.when_lag));
            }
            let reason = state.waiting_for.unwrap_or_else(|| {
                format!("the lag has to stay {} for {:?}", order.when_lag, order.hold_for)
            });
            if now >= ends {
                return Err(Stop {
                    kind: StopKind::GateTimeout,
                    what: format!(
                        "the gate did not pass within {:?}: {reason}",
                        order.gate_timeout
                    ),
                    place: "gate".into(),
                    remedy: Some("resolve what it waited for, or allow a larger lag".into()),
                });
            }
            self.waiting(reason);
            let tick = (now + self.limits.gate_tick).min(ends);
            tokio::select! {
                biased;
                asked = self.hub.asked_to_stop() => return Err(asked),
                () = self.world.clock().sleep_until(tick) => {}
            }
        }
    }

    /// What is under way on blue; if blue does not say, the gate is blocked.
    async fn writers(&self, latest: &mut Progress) -> Writers {
        let deadline = self.now() + WRITERS_TIMEOUT;
        let answer = tokio::select! {
            biased;
            answer = self.world.fence().writers() => answer.map_err(|error| error.what),
            () = self.world.clock().sleep_until(deadline) => Err("no answer".into()),
        };
        answer.unwrap_or_else(|why| {
            latest.blocked.get_or_insert(format!("blue can't be asked for its writers: {why}"));
            Writers::default()
        })
    }

    async fn hold(&mut self) -> Result<String, Stop> {
        self.pause = Some(Pause { began: self.now(), ended: None });
        let deadline = self.window_ends();
        let hold = self.world.switch().hold(self.order.epoch, deadline);
        self.act("waiting for the routers to hold their clients", deadline, hold).await
    }

    async fn raise(&mut self) -> Result<(String, Fenced), Stop> {
        let deadline = self.window_ends();
        let undo = self.undo()?;
        let raise = self.world.fence().raise(&undo, deadline);
        let report = self.act("fencing blue", deadline, raise).await?;
        let fenced = Fenced::prove(self.order.epoch, &report).map_err(unproven("blue"))?;
        let seen = format!(
            "{} sessions closed, {} tables locked",
            report.sessions_closed, report.tables_locked
        );
        Ok((seen, fenced))
    }

    fn undo(&self) -> Result<<W::Fence as Fence>::Undo, Stop> {
        self.undo.clone().ok_or_else(|| internal("blue's prior settings are not known"))
    }

    async fn drain(&mut self, fenced: &Fenced) -> Result<(String, Drained), Stop> {
        let deadline = self.window_ends();
        let world = self.world;
        let written =
            self.act("writing the marker", deadline, world.fence().mark(&self.token, deadline));
        let written = written.await?;
        let durable = world.replication().await_marker(&self.token, deadline);
        let durable =
            self.act("waiting for the marker to be durable on green", deadline, durable).await?;
        let drained = Drained::prove(fenced, &written, &durable).map_err(unproven("stream"))?;
        self.drained = Some(drained.clone());
        Ok((format!("marker {} durable on green", durable.end_lsn), drained))
    }

    async fn sync(&mut self) -> Result<String, Stop> {
        let deadline = self.window_ends();
        let copy = self.world.sequences().copy(deadline);
        let report = self.act("setting green's sequences", deadline, copy).await?;
        Ok(format!("{} sequences", report.count))
    }

    async fn seal(&mut self, drained: &Drained) -> Result<(String, Sealed), Stop> {
        let deadline = self.window_ends();
        let world = self.world;
        let undo = self.undo()?;
        let seal = world.fence().seal(&undo, deadline);
        let report = self.act("sealing blue", deadline, seal).await?;
        let token = drained.token().sealing();
        let mark = world.fence().mark(&token, deadline);
        let written = self.act("writing the second marker", deadline, mark).await?;
        let decoded = world.replication().await_decoded(&token, deadline);
        let decoded = self.act("waiting for the second marker", deadline, decoded).await?;
        let sealed =
            Sealed::prove(drained, &report, &written, &decoded).map_err(unproven("blue"))?;
        self.sealed = Some(sealed.clone());
        Ok((format!("{}, {}", report.mechanism, sealed.xids()), sealed))
    }

    async fn decide(&mut self, at: super::StepStart, sealed: &Sealed) -> Input {
        // From here on an answer may be lost, so nothing may interrupt; look once more before.
        if let Some(asked) = self.hub.no_more_stops() {
            self.stepped(at, Err(&asked));
            return Input::NotDecided(asked);
        }
        let deadline = self.window_ends();
        let leaks = self.world.replication().leaks();
        let refusal = if self.now() >= deadline {
            Some(self.too_long("deciding"))
        } else if leaks.count > 0 {
            Some(internal("row changes were seen after the marker"))
        } else {
            None
        };
        if let Some(why) = refusal {
            self.stepped(at, Err(&why));
            return Input::NotDecided(why);
        }
        self.waiting("deciding");
        let epoch = self.order.epoch;
        match self.world.decision().decide(epoch, Verdict::Commit, deadline).await {
            Ok(verdict) => self.decided(at, sealed, verdict, None),
            Err(error) => {
                let in_doubt = error.in_doubt;
                let why = stop(error);
                self.stepped(at, Err(&why));
                if in_doubt { Input::Stop(why) } else { Input::NotDecided(why) }
            }
        }
    }

    /// The commit's answer was lost. Inserting the opposite settles it either way.
    async fn claim_abort(&mut self, at: super::StepStart, sealed: &Sealed, why: Stop) -> Input {
        self.waiting("finding out what green decided");
        let deadline = self.now() + Duration::from_secs(2);
        match self.world.decision().decide(self.order.epoch, Verdict::Abort, deadline).await {
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
                    place: "green".into(),
                    remedy: None,
                });
                self.stepped(at, Err(&why));
                Input::DecidedAbort(why)
            }
        }
    }

    /// The next deadline for an act that is tried again.
    fn try_until(&self) -> Instant {
        self.now() + Duration::from_secs(5)
    }

    async fn flip(&mut self, committed: &Committed) -> Result<String, Stop> {
        self.waiting("pointing the routers at green");
        let deadline = self.try_until();
        let members = self.world.switch().switch(committed, deadline).await.map_err(stop)?;
        let count = members.len();
        self.members = members;
        Ok(format!("{count} routers point at green"))
    }

    async fn open(&mut self, committed: &Committed) -> Result<String, Stop> {
        self.waiting("letting the clients go on");
        let deadline = self.try_until();
        let world = self.world;
        world.switch().release(self.order.epoch, deadline).await.map_err(stop)?;
        let now = self.now();
        if let Some(pause) = &mut self.pause {
            pause.ended.get_or_insert(now);
        }
        self.hub.set(|status| status.serving = "green".into());
        self.waiting("asking through the routers which server answers");
        let members = world.switch().verify(committed, deadline).await.map_err(stop)?;
        self.members = members;
        if let Some(wrong) = self.members.iter().find(|member| member.target != "green") {
            return Err(Stop {
                kind: StopKind::Failed,
                what: format!("{} leads to {}: {}", wrong.member, wrong.target, wrong.evidence),
                place: wrong.member.clone(),
                remedy: None,
            });
        }
        let verified = self.members.iter().filter(|member| member.verified).count();
        Ok(format!("{verified}/{} verified on green", self.members.len()))
    }

    async fn finish(&mut self, _committed: &Committed) -> Result<String, Stop> {
        self.waiting("closing the stream");
        self.world.replication().finish(&self.token).await.map_err(stop)?;
        self.world.fence().leave().await;
        let leaks = self.world.replication().leaks();
        if leaks.count > 0 {
            self.note(format!(
                "{} row changes came from blue after the marker and were NOT applied, the first: {}",
                leaks.count,
                leaks.first.as_deref().unwrap_or("unknown")
            ));
        }
        Ok("the stream from blue is closed".into())
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
        Effect::Seal(_) => Step::Seal,
        Effect::Decide(_) | Effect::ClaimAbort(..) => Step::Commit,
        Effect::Flip(_) => Step::Flip,
        Effect::Release(_) => Step::Open,
        Effect::Finish(_) => Step::Finish,
        Effect::PutBack { .. } => return None,
    })
}

fn precheck_failed(first: &Check, count: usize) -> Stop {
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

fn internal(what: &str) -> Stop {
    Stop { kind: StopKind::Failed, what: what.to_owned(), place: "controller".into(), remedy: None }
}
