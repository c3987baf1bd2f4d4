//! The routers.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::world::{State, router_name};
use super::SimLink;
use crate::api::{Act, Check, Member};
use crate::evidence::Committed;
use crate::phase::Verdict;
use crate::ports::{Epoch, Moves, PortError, PortResult, SwitchActs, SwitchTraits, TrafficSwitch};
use crate::side::Side;

impl TrafficSwitch for SimLink {
    fn traits(&self) -> SwitchTraits {
        SwitchTraits { holds: true, moves: Moves::Transparently, members: 2 }
    }
    async fn inspect(&self, _: Side, _: Duration) -> PortResult<Vec<Check>> {
        Ok(Vec::new())
    }
    async fn arm(&self, _: Side, deadline: Instant) -> PortResult<()> {
        self.link.act("arm_router", None, deadline, |_| Ok(())).await
    }
    async fn hold(&self, _: Epoch, deadline: Instant) -> PortResult<String> {
        let id = self.link.process.id;
        let released = *self.link.shared.lock().released.entry(id).or_default();
        let hold = move |state: &mut State| {
            if state.released.get(&id).is_some_and(|now| *now != released) {
                return Err(PortError::new("router", "let go meanwhile"));
            }
            state.each_router(|router| router.held = true)
        };
        self.link.act("hold", None, deadline, hold).await?;
        let idle =
            |state: &mut State| state.routers.iter().all(|router| router.busy == 0).then_some(());
        self.link.until("the last transaction's end", deadline, idle).await?;
        Ok("2/2 hold".into())
    }
    async fn holding(&self, _: Epoch, deadline: Instant) -> PortResult<bool> {
        let holding = |state: &mut State| {
            let mut held = true;
            state.each_router(|router| held &= router.held)?;
            Ok(held)
        };
        self.link.act("holding", None, deadline, holding).await
    }
    async fn switch(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        let (epoch, to) = (proof.epoch(), proof.to());
        let process = Arc::clone(&self.link.process);
        let switch = move |state: &mut State| {
            let has_later = state.sides.iter().any(|side| {
                side.decisions.last_key_value().is_some_and(|(newest, _)| *newest > epoch)
            });
            if has_later && !process.is_alive() {
                // Not simulated: a router that does what a dead process has sent only after another one has
                // ended the run and made a whole one of its own, and answers that one meanwhile.
                return Err(PortError::new("router", "nobody waits for it any more"));
            }
            if state.side(to).decisions.get(&epoch) != Some(&Verdict::Commit) {
                state.violated(format!("flipped to {to} without a decision"));
            }
            state.each_router(|router| router.target = to)?;
            Ok(members(state))
        };
        self.link.act("switch", None, deadline, switch).await
    }
    async fn open_switched(&self, proof: &Committed, deadline: Instant) -> Vec<Member> {
        let to = proof.to();
        let open = move |state: &mut State| {
            // Those that are down are named by nobody, so what is left of them does not matter.
            let told = state.each_router(|router| router.held &= router.target != to);
            let told = told.map_or_else(|error| error.place, |()| String::new());
            state.say(format!("those that lead to {to} go on; not told: {told}"));
            let there = |member: &Member| member.target == to.name();
            Ok(members(state).into_iter().filter(there).collect())
        };
        self.link.act("open_switched", None, deadline, open).await.unwrap_or_default()
    }
    async fn release(&self, _: Epoch, deadline: Instant) -> PortResult<()> {
        let id = self.link.process.id;
        *self.link.shared.lock().released.entry(id).or_default() += 1;
        let release = |state: &mut State| state.each_router(|router| router.held = false);
        self.link.act("release", None, deadline, release).await
    }
    async fn verify(&self, _: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        let verify = |state: &mut State| {
            state.each_router(|_| ())?;
            let mut members = members(state);
            if std::mem::take(&mut state.misled) {
                state.say("a router leads elsewhere");
                members[0].target = "unknown".into();
                members[0].verified = false;
            }
            Ok(members)
        };
        self.link.act("verify", None, deadline, verify).await
    }
    fn name(&self) -> String {
        "sim".into()
    }
    fn describe(&self, to: Side) -> SwitchActs {
        let act = |place| Act { step: "flip".into(), place, text: format!("lead to {to}") };
        let switch = (0..2).map(|at| act(router_name(at))).collect();
        SwitchActs { switch, ..SwitchActs::default() }
    }
}

/// Those that are up.
fn members(state: &State) -> Vec<Member> {
    let up = state.routers.iter().enumerate().filter(|(_, router)| router.is_up());
    up.map(|(at, router)| Member {
        member: router_name(at),
        target: router.target.name().into(),
        verified: true,
        evidence: String::new(),
    })
    .collect()
}
