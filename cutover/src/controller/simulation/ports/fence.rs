//! The fence of a side.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::super::process::Link;
use super::super::world::{Item, SimClaim, State};
use super::{SimFence, soon};
use crate::api::Check;
use crate::marker::Token;
use crate::ports::{
    Airlock, Claim, Claimed, Epoch, Fence, FenceActs, FenceReport, MarkerWritten, Nature,
    PortError, PortResult, SealReport, Writers,
};
use crate::side::Side;

/// The prior settings, and whose fence it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimUndo(Option<SimClaim>);

impl State {
    /// What a guard says: see `fence::postgres::claim`.
    fn is_ours(&mut self, side: Side, undo: &SimUndo) -> bool {
        let claim = &self.sides[side as usize].claim;
        !self.has_claims || claim.is_some() && *claim == undo.0
    }

    fn is_anothers(&mut self, side: Side, undo: &SimUndo) -> bool {
        self.sides[side as usize].claim.is_some() && !self.is_ours(side, undo)
    }
}

fn not_ours(side: Side, claim: &Option<SimClaim>) -> PortError {
    PortError::new(side.name(), format!("{side} is {claim:?}'s")).of(Nature::Superseded)
}

impl Fence for SimFence {
    type Undo = SimUndo;

    async fn inspect(&self) -> PortResult<Vec<Check>> {
        let side = self.1;
        let inspect = move |state: &mut State| {
            let database = state.side(side);
            Ok(vec![match database.sealed || database.claim.is_some() {
                true => Check::fail("sim", "closed", "open it"),
                false => Check::ok("sim", "fine"),
            }])
        };
        self.0.act("inspect", Some(self.1), soon(), inspect).await
    }
    async fn prepare(&self) -> PortResult<SimUndo> {
        self.0.act("prepare", Some(self.1), soon(), |_| Ok(SimUndo(None))).await
    }
    fn signed(&self, _: SimUndo, run: &str, epoch: Epoch) -> SimUndo {
        let directory = self.0.process.directory;
        SimUndo(Some(SimClaim { directory, run: run.to_owned(), epoch }))
    }
    async fn claimed(&self, deadline: Instant) -> PortResult<Option<Claimed<SimUndo>>> {
        let side = self.1;
        let find = move |state: &mut State| Ok(state.side(side).claim.clone());
        let found = self.0.act("claimed", Some(side), deadline, find).await?;
        Ok(found.map(|claim| Claimed {
            claim: Claim {
                pipeline: "sim".into(),
                holder: claim.directory.to_string(),
                run: claim.run.clone(),
                epoch: claim.epoch,
            },
            undo: SimUndo(Some(claim)),
        }))
    }
    async fn still_ours(&self, undo: &SimUndo, deadline: Instant) -> PortResult<()> {
        let (side, undo) = (self.1, undo.clone());
        let look = move |state: &mut State| match state.is_ours(side, &undo) {
            true => Ok(()),
            false => Err(not_ours(side, &state.side(side).claim)),
        };
        self.0.act("still_ours", Some(side), deadline, look).await
    }
    async fn writers(&self) -> PortResult<Writers> {
        Ok(Writers::default())
    }
    async fn raise(&self, undo: &SimUndo, deadline: Instant) -> PortResult<FenceReport> {
        let (side, id, undo) = (self.1, self.0.process.id, undo.clone());
        let sessions = self.0.shared.lock().side(side).fence_sessions;
        let alive = self.0.process.clone();
        let raise = move |state: &mut State| {
            let is_anothers = state.is_anothers(side, &undo);
            let database = state.side(side);
            if database.fence_sessions != sessions {
                return Err(PortError::new(side.name(), "the fence's session was ended"));
            }
            if is_anothers {
                return Err(not_ours(side, &database.claim));
            }
            database.claim = undo.0;
            // All in one transaction: nobody comes in any more, and who was inside is ended.
            database.read_only = true;
            database.sealed = true;
            database.kills += 1;
            // A dead process sees nothing.
            database.witnessed_by = alive.is_alive().then_some(id);
            Ok(FenceReport { clean_scans: 2, next_xid: 1, ..FenceReport::default() })
        };
        self.0.act("raise", Some(side), deadline, raise).await
    }
    async fn mark(&self, token: &Token, deadline: Instant) -> PortResult<MarkerWritten> {
        mark(&self.0, self.1, token, deadline).await
    }
    async fn seal(&self, undo: &SimUndo, deadline: Instant) -> PortResult<SealReport> {
        let (side, id, undo) = (self.1, self.0.process.id, undo.clone());
        let sessions = self.0.shared.lock().side(side).fence_sessions;
        let seal = move |state: &mut State| {
            let is_ours = state.is_ours(side, &undo);
            let database = state.side(side);
            if database.fence_sessions != sessions {
                return Err(PortError::new(side.name(), "the fence's session was ended"));
            }
            if !is_ours {
                return Err(not_ours(side, &database.claim));
            }
            Ok(SealReport {
                refuses_clients: database.sealed,
                unbroken: database.witnessed_by == Some(id),
                ..SealReport::default()
            })
        };
        self.0.act("seal", Some(side), deadline, seal).await
    }
    async fn reseal(&self, undo: &SimUndo, deadline: Instant) -> PortResult<()> {
        let (side, undo) = (self.1, undo.clone());
        let reseal = move |state: &mut State| {
            let is_ours = state.is_ours(side, &undo);
            let database = state.side(side);
            if !is_ours {
                return Err(not_ours(side, &database.claim));
            }
            database.sealed = true;
            Ok(())
        };
        self.0.act("reseal", Some(side), deadline, reseal).await
    }
    /// What closes behind it is the side, whatever it was before.
    async fn airlock(&self, undo: &SimUndo, deadline: Instant) -> PortResult<Airlock> {
        let (side, undo) = (self.1, undo.clone());
        let enter = move |state: &mut State| {
            let is_ours = state.is_ours(side, &undo);
            let database = state.side(side);
            if !is_ours {
                return Err(not_ours(side, &database.claim));
            }
            database.sealed = true;
            Ok(Airlock::default())
        };
        self.0.act("airlock", Some(side), deadline, enter).await
    }
    async fn lower(&self, undo: &SimUndo, deadline: Instant) -> PortResult<()> {
        let (side, undo) = (self.1, undo.clone());
        let sessions = self.0.shared.lock().side(side).fence_sessions;
        let lower = move |state: &mut State| {
            let (is_anothers, has_claims) = (state.is_anothers(side, &undo), state.has_claims);
            let database = state.side(side);
            if is_anothers {
                return Err(not_ours(side, &database.claim));
            }
            // One that was on its way when somebody else lowered: its session was ended.
            if database.fence_sessions != sessions {
                return Err(PortError::new(side.name(), "the fence's session was ended"));
            }
            database.fence_sessions += 1;
            if database.claim.is_none() && has_claims {
                return match database.sealed {
                    true => Err(not_ours(side, &database.claim)),
                    false => Ok(()),
                };
            }
            database.claim = None;
            database.read_only = false;
            database.sealed = false;
            database.witnessed_by = None;
            Ok(())
        };
        self.0.act("lower", Some(side), deadline, lower).await
    }
    async fn leave(&self) {
        let mut state = self.0.shared.lock();
        let database = state.side(self.1);
        if database.witnessed_by == Some(self.0.process.id) {
            database.witnessed_by = None;
        }
    }
    fn describe(&self, _: &SimUndo) -> FenceActs {
        FenceActs::default()
    }
}

/// Writes a marker into the log.
pub(super) async fn mark(
    link: &Link,
    side: Side,
    token: &Token,
    deadline: Instant,
) -> PortResult<MarkerWritten> {
    let marker = token.clone();
    let written = move |state: &mut State| {
        let log = &mut state.side(side).log;
        log.push(Item::Marker(marker.clone()));
        Ok(MarkerWritten::new(marker, log.len() as u64))
    };
    link.act("mark", Some(side), deadline, written).await
}
