//! The controller's ports over the simulated world.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use decoders::Lsn;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::world::{
    Item, Link, Process, Role, Shared, SimClaim, SimLease, State, lsn_behind, router_name,
};
use crate::api::{Act, Check, Member, Server};
use crate::evidence::Committed;
use crate::lag::LagReading;
use crate::marker::Token;
use crate::phase::Verdict;
use crate::ports::{
    Airlock, Claim, Claimed, Clock, Decision, Entry, Epoch, Fence, FenceActs, FenceReport, Journal,
    Leaks, Lease, LeaseRow, Leftover, MarkerDecoded, MarkerDurable, MarkerWritten, Moves, Nature,
    PortError, PortResult, Progress, Replication, SealReport, SequenceReport, Sequences, Standby,
    SwitchActs, SwitchTraits, TrafficSwitch, WayBackStream, World, Writers,
};
use crate::side::{Direction, Side};

const SOON: Duration = Duration::from_secs(5);
/// Whose lease has not been renewed for so long has lost it.
pub const LEASE: Duration = Duration::from_secs(3);

fn soon() -> Instant {
    Instant::now() + SOON
}

/// Where a process keeps its journal.
#[derive(Clone)]
pub enum Paper {
    /// The state directory.
    Disk,
    /// A watchdog's memory.
    Memory(Arc<Mutex<Vec<Entry>>>),
}

/// All ports of one direction, as one process sees them.
pub struct Ports {
    direction: Direction,
    fences: [SimFence; 2],
    decisions: [SimDecision; 2],
    engine: Engine,
    way_back: Engine,
    link: SimLink,
}

/// What needs no more than the connection.
pub struct SimLink {
    link: Link,
    direction: Direction,
    paper: Paper,
}

pub struct SimFence(Link, Side);
pub struct SimDecision(Link, Side);

/// A stream. `None`: this process has no engine.
pub struct Engine {
    link: Link,
    direction: Direction,
    runs: bool,
    progress: watch::Sender<Progress>,
}

impl Ports {
    pub fn new(link: &Link, direction: Direction, paper: Paper, has_engine: bool) -> Self {
        let both =
            |make: fn(Link, Side) -> SimFence| Side::ALL.map(|side| make(link.clone(), side));
        let engine = |direction| {
            let lag = LagReading {
                at: Instant::now() + Duration::from_secs(36_000),
                seconds: Some(0.0),
                bytes: Some(0),
                transactions: 0,
                drain_estimate_seconds: Some(0.0),
                reason: None,
            };
            let progress = Progress { lag, blocked: None, transactions_per_second: None };
            let progress = watch::Sender::new(progress);
            Engine { link: link.clone(), direction, runs: has_engine, progress }
        };
        Self {
            direction,
            fences: both(SimFence),
            decisions: Side::ALL.map(|side| SimDecision(link.clone(), side)),
            engine: engine(direction),
            way_back: engine(direction.reversed()),
            link: SimLink { link: link.clone(), direction, paper },
        }
    }
}

impl World for Ports {
    type Fence = SimFence;
    type Switch = SimLink;
    type Replication = Engine;
    type Sequences = SimLink;
    type Decision = SimDecision;
    type Journal = SimLink;
    type Clock = SimLink;
    type WayBack = Engine;
    type Lease = SimLink;

    fn direction(&self) -> Direction {
        self.direction
    }
    fn fence_of(&self, side: Side) -> &SimFence {
        &self.fences[side as usize]
    }
    fn switch(&self) -> &SimLink {
        &self.link
    }
    fn replication(&self) -> &Engine {
        &self.engine
    }
    fn way_back(&self) -> &Engine {
        &self.way_back
    }
    fn lease(&self) -> &SimLink {
        &self.link
    }
    fn sequences(&self) -> &SimLink {
        &self.link
    }
    fn decision_of(&self, side: Side) -> &SimDecision {
        &self.decisions[side as usize]
    }
    fn journal(&self) -> &SimLink {
        &self.link
    }
    fn clock(&self) -> &SimLink {
        &self.link
    }
    fn servers(&self) -> (Server, Server) {
        let server = |side: Side| Server {
            url: side.name().into(),
            database: "shop".into(),
            version: None,
            up: true,
        };
        (server(Side::Blue), server(Side::Green))
    }
}

impl Clock for SimLink {
    fn now(&self) -> Instant {
        Instant::now()
    }
    fn wall(&self) -> Timestamp {
        let ms = self.link.shared.lock().began.elapsed().as_millis() as i64;
        Timestamp::from_millisecond(ms).unwrap()
    }
    async fn sleep_until(&self, at: Instant) {
        self.link.process.sleep_until(at).await;
    }
}

impl Lease for SimLink {
    async fn acquire(&self, epoch: Epoch) -> PortResult<()> {
        let to = self.direction.to();
        let mut seen: Option<(SimLease, Instant)> = None;
        loop {
            let sent = Instant::now();
            let found = self.lease_row(to).await?;
            let is_free = found.as_ref().is_none_or(|row| {
                row.directory.is_none() || row.directory == Some(self.link.process.directory)
            });
            let is_stale = match (&found, &seen) {
                (Some(row), Some((before, since))) if row == before => sent - *since > LEASE,
                (Some(row), Some((before, _))) if row.directory == before.directory => {
                    return Err(held_by_another());
                }
                _ => false,
            };
            if (is_free || is_stale) && take_lease(&self.link, to, found.clone(), epoch).await? {
                break;
            }
            if let Some(row) = found
                && seen.as_ref().is_none_or(|(before, _)| *before != row)
            {
                seen = Some((row, Instant::now()));
            }
            self.link.process.sleep(Duration::from_millis(200)).await;
        }
        self.link.process.watch(&self.link.shared);
        Ok(())
    }
    fn left(&self) -> Duration {
        let (until, _, _) = *self.link.process.lease.lock().unwrap();
        until.saturating_duration_since(Instant::now()).min(self.link.process.left())
    }
    async fn renew(&self) -> PortResult<()> {
        renew(&self.link).await
    }
    async fn look(&self, _: Instant) -> PortResult<Option<LeaseRow>> {
        let row = self.lease_row(self.direction.to()).await?;
        let holder = |row: &SimLease| {
            row.directory.map(|directory| directory.to_string()).unwrap_or_default()
        };
        Ok(row.map(|row| LeaseRow { epoch: row.epoch, holder: holder(&row) }))
    }
    async fn inherit(&self, from: &LeaseRow) -> PortResult<bool> {
        let (to, ours) = (self.direction.to(), self.link.process.directory);
        let mut seen: Option<(SimLease, Instant)> = None;
        loop {
            let sent = Instant::now();
            let Some(found) = self.lease_row(to).await? else { return Ok(false) };
            let is_ours = found.directory == Some(ours);
            let is_his = found.directory.is_some_and(|holder| holder.to_string() == from.holder);
            if found.epoch != from.epoch || !(is_ours || is_his) {
                return Ok(false);
            }
            let is_stale = match &seen {
                Some((row, _)) if *row != found => return Err(held_by_another()),
                Some((_, since)) => sent - *since > LEASE,
                None => false,
            };
            if (is_ours || is_stale)
                && take_lease(&self.link, to, Some(found.clone()), from.epoch).await?
            {
                return Ok(true);
            }
            seen.get_or_insert((found, Instant::now()));
            self.link.process.sleep(Duration::from_millis(200)).await;
        }
    }
    async fn release(&self) {
        self.link.process.go_on().await;
        self.link.process.unwatch(&self.link.shared);
        let side = {
            let mut held = self.link.process.lease.lock().unwrap();
            if held.2.take().is_none() {
                return;
            }
            held.1
        };
        let ours = self.link.process.directory;
        let release = move |state: &mut State| {
            let row = state.side(side).lease.as_mut();
            if let Some(row) = row.filter(|row| row.directory == Some(ours)) {
                row.directory = None;
                row.renewal += 1;
            }
            Ok(())
        };
        let deadline = Instant::now() + Duration::from_secs(1);
        // Whoever wants it waits until it has run out.
        let _unheard = self.link.act("give_lease_back", Some(side), deadline, release).await;
    }
}

impl SimLink {
    async fn lease_row(&self, side: Side) -> PortResult<Option<SimLease>> {
        let row = move |state: &mut State| Ok(state.side(side).lease.clone());
        self.link.act("read_lease", Some(side), soon(), row).await
    }
}

fn held_by_another() -> PortError {
    PortError::new("lease", "another sidecar acts").of(Nature::Superseded)
}

/// Compare-and-set; counted from before the statement was sent.
async fn take_lease(
    link: &Link,
    side: Side,
    found: Option<SimLease>,
    epoch: Epoch,
) -> PortResult<bool> {
    let (sent, directory) = (Instant::now(), link.process.directory);
    let take = move |state: &mut State| {
        let row = &mut state.side(side).lease;
        if *row != found {
            return Ok(false);
        }
        let renewal = found.map_or(0, |row| row.renewal) + 1;
        *row = Some(SimLease { directory: Some(directory), epoch, renewal });
        Ok(true)
    };
    let is_ours = link.act("take_lease", Some(side), soon(), take).await?;
    if is_ours {
        *link.process.lease.lock().unwrap() = (sent + LEASE, side, Some(epoch));
    }
    Ok(is_ours)
}

/// Counted from before the statement was sent.
pub async fn renew(link: &Link) -> PortResult<()> {
    let sent = Instant::now();
    let (_, side, epoch) = *link.process.lease.lock().unwrap();
    let Some(epoch) = epoch else { return Ok(()) };
    let directory = Some(link.process.directory);
    let renew = move |state: &mut State| {
        let row = state.side(side).lease.as_mut();
        let row = row.filter(|row| row.directory == directory && row.epoch == epoch);
        Ok(row.map(|row| row.renewal += 1).is_some())
    };
    let is_ours = link.act("renew", Some(side), sent + Duration::from_secs(1), renew).await?;
    let mut held = link.process.lease.lock().unwrap();
    if held.2 == Some(epoch) {
        held.0 = if is_ours { sent + LEASE } else { Instant::now() };
    }
    Ok(())
}

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
            database.read_only = true;
            // A dead session is granted no lock.
            database.locked_by = alive.is_alive().then_some(id);
            database.kills += 1;
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
            database.sealed = true;
            database.kills += 1;
            let locks_held = database.locked_by == Some(id);
            Ok(SealReport { refuses_clients: true, locks_held, ..SealReport::default() })
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
            database.locked_by = None;
            Ok(())
        };
        self.0.act("lower", Some(side), deadline, lower).await
    }
    async fn leave(&self) {
        let mut state = self.0.shared.lock();
        let database = state.side(self.1);
        if database.locked_by == Some(self.0.process.id) {
            database.locked_by = None;
        }
    }
    fn describe(&self, _: &SimUndo) -> FenceActs {
        FenceActs::default()
    }
}

async fn mark(
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

impl TrafficSwitch for SimLink {
    fn traits(&self) -> SwitchTraits {
        SwitchTraits { holds: true, moves: Moves::Transparently, members: 2 }
    }
    async fn inspect(&self, _: Side) -> PortResult<Vec<Check>> {
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
        let switch = move |state: &mut State| {
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

impl Engine {
    /// Nothing is found by who does not read.
    fn if_reader<T>(
        &self,
        look: impl Fn(&mut State) -> Option<T>,
    ) -> impl Fn(&mut State) -> Option<T> {
        let process = self.link.process.clone();
        move |state| state.reads(&process).then(|| look(state)).flatten()
    }

    fn reads(&self) -> bool {
        self.runs && self.link.shared.lock().reads(&self.link.process)
    }

    fn leaks_seen(&self) -> Leaks {
        if self.reads() { leaks(&self.link.shared, self.direction) } else { Leaks::default() }
    }

    async fn decoded(&self, token: &Token, deadline: Instant) -> PortResult<MarkerDecoded> {
        let (direction, name) = (self.direction, token.to_string());
        let found = move |state: &mut State| state.stream(direction).markers.get(&name).copied();
        let (at, leaks) = self.link.until("the marker", deadline, self.if_reader(found)).await?;
        let leaks = Leaks { count: leaks, first: None };
        Ok(MarkerDecoded { token: token.clone(), end_lsn: lsn_behind(at), leaks })
    }

    fn no_engine<T>() -> PortResult<T> {
        Err(PortError::new("engine", "this process has no engine"))
    }
}

impl Replication for Engine {
    fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }
    async fn arm(&self, token: &Token) -> PortResult<()> {
        self.link.process.go_on().await;
        if !self.reads() {
            return Self::no_engine();
        }
        self.link.shared.lock().stream(self.direction).armed = Some(token.clone());
        Ok(())
    }
    async fn await_marker(&self, token: &Token, deadline: Instant) -> PortResult<MarkerDurable> {
        let direction = self.direction;
        let name = token.to_string();
        let found = move |state: &mut State| {
            let stream = state.stream(direction);
            let at = stream.markers.get(&name)?.0;
            (stream.applied > at).then_some(at)
        };
        let at = self.link.until("the marker", deadline, self.if_reader(found)).await?;
        let (token, end_lsn) = (token.clone(), lsn_behind(at));
        Ok(MarkerDurable { token, end_lsn, durable: end_lsn })
    }
    async fn await_decoded(&self, token: &Token, deadline: Instant) -> PortResult<MarkerDecoded> {
        self.decoded(token, deadline).await
    }
    fn leaks(&self) -> Leaks {
        self.leaks_seen()
    }
    async fn release(&self, _: &Token) -> PortResult<()> {
        self.link.process.go_on().await;
        if self.reads() {
            let mut state = self.link.shared.lock();
            let stream = state.stream(self.direction);
            stream.armed = None;
            if stream.role == Role::Carry {
                stream.closed_at = None;
            }
        }
        Ok(())
    }
    async fn finish(&self, _: &Token) -> PortResult<()> {
        self.link.process.go_on().await;
        self.link.shared.lock().stream(self.direction).exists = false;
        Ok(())
    }
    async fn remove(&self, what: Leftover, deadline: Instant) -> PortResult<String> {
        let direction = self.direction;
        let remove = move |state: &mut State| {
            if state.stream(direction).exists {
                state.violated(format!("{} of a running stream is removed", what.name()));
            }
            Ok(format!("{} {direction}", what.name()))
        };
        self.link.act("remove", Some(direction.from()), deadline, remove).await
    }
}

fn leaks(shared: &Shared, direction: Direction) -> Leaks {
    let count = shared.lock().stream(direction).held.len() as u64;
    Leaks { count, first: None }
}

impl WayBackStream for Engine {
    async fn inspect(&self) -> PortResult<Vec<Check>> {
        Ok(Vec::new())
    }
    async fn arm(&self, _: &Token, deadline: Instant) -> PortResult<String> {
        if !self.reads() {
            return Self::no_engine();
        }
        let direction = self.direction;
        let arm = move |state: &mut State| {
            let since = state.side(direction.from()).log.len();
            let stream = state.stream(direction);
            if !stream.exists {
                stream.exists = true;
                stream.role = Role::Standby(since);
                stream.applied = since;
                stream.restart();
            }
            Ok("armed".into())
        };
        self.link.act("arm_back", Some(direction.from()), deadline, arm).await
    }
    fn standby(&self) -> Standby {
        Standby { blocked: None, foreign: self.leaks_seen() }
    }
    async fn mark(&self, token: &Token, deadline: Instant) -> PortResult<MarkerWritten> {
        mark(&self.link, self.direction.from(), token, deadline).await
    }
    async fn await_decoded(&self, token: &Token, deadline: Instant) -> PortResult<MarkerDecoded> {
        self.decoded(token, deadline).await
    }
    async fn turn(&self, _: &Committed, _: &Token, since: Lsn) -> PortResult<()> {
        self.link.process.go_on().await;
        if !self.runs {
            return Self::no_engine();
        }
        let mut state = self.link.shared.lock();
        let process = &self.link.process.name;
        state.say(format!("{process}: {} carries, standby since {since}", self.direction));
        let since = since.0 as usize;
        let carrying = state.stream(self.direction);
        carrying.role = Role::Carry;
        carrying.closed_at = None;
        let standing_by = state.stream(self.direction.reversed());
        standing_by.role = Role::Standby(since);
        standing_by.armed = None;
        standing_by.closed_at = Some(since);
        Ok(())
    }
    async fn beat(&self, token: &Token, deadline: Instant) -> PortResult<Duration> {
        let began = Instant::now();
        let (direction, name) = (self.direction, token.to_string());
        mark(&self.link, direction.from(), token, deadline).await?;
        let found = move |state: &mut State| {
            let stream = state.stream(direction);
            let at = stream.markers.get(&name)?.0;
            (stream.applied > at).then_some(())
        };
        self.link.until("the beat", deadline, self.if_reader(found)).await?;
        Ok(began.elapsed())
    }
    fn describe(&self) -> Vec<Act> {
        Vec::new()
    }
}

impl Sequences for SimLink {
    async fn inspect(&self, _: bool) -> PortResult<Vec<Check>> {
        let to = self.direction.to();
        let end_sessions = move |state: &mut State| {
            state.side(to).sequence_sessions += 1;
            Ok(Vec::new())
        };
        self.link.act("inspect_sequences", Some(to), soon(), end_sessions).await
    }
    async fn copy(&self, deadline: Instant) -> PortResult<SequenceReport> {
        let direction = self.direction;
        let sessions = self.link.shared.lock().side(direction.to()).sequence_sessions;
        let copy = move |state: &mut State| {
            if state.side(direction.to()).sequence_sessions != sessions {
                return Err(PortError::new(direction.to().name(), "the session was ended"));
            }
            state.side(direction.to()).sequence = state.side(direction.from()).sequence;
            Ok(SequenceReport { count: 1 })
        };
        self.link.act("sequences", Some(direction.to()), deadline, copy).await
    }
    fn describe(&self) -> Vec<Act> {
        Vec::new()
    }
}

impl Decision for SimDecision {
    async fn prepare(&self) -> PortResult<()> {
        self.0.act("prepare_decision", Some(self.1), soon(), |_| Ok(())).await
    }
    async fn last_epoch(&self) -> PortResult<Epoch> {
        let side = self.1;
        let last = move |state: &mut State| {
            Ok(state.side(side).decisions.keys().next_back().copied().unwrap_or_default())
        };
        self.0.act("last_epoch", Some(side), soon(), last).await
    }
    async fn decide(
        &self,
        epoch: Epoch,
        verdict: Verdict,
        deadline: Instant,
    ) -> PortResult<Verdict> {
        let (side, directory) = (self.1, self.0.process.directory);
        let decide = move |state: &mut State| {
            let is_new = !state.side(side).decisions.contains_key(&epoch);
            let lease = state.side(side).lease.clone();
            let is_leased = |row: SimLease| row.directory == Some(directory) && row.epoch == epoch;
            if is_new && verdict == Verdict::Commit && !lease.is_some_and(is_leased) {
                return Err(PortError::new(side.name(), "another sidecar has taken the lease"));
            }
            if is_new && verdict == Verdict::Commit {
                state.committed(side);
            }
            let decided = *state.side(side).decisions.entry(epoch).or_insert(verdict);
            state.say(format!("epoch {epoch}: {}", decided.name()));
            Ok(decided)
        };
        self.0.act("decide", Some(side), deadline, decide).await
    }
    async fn read(&self, epoch: Epoch, deadline: Instant) -> PortResult<Option<Verdict>> {
        let side = self.1;
        let read = move |state: &mut State| Ok(state.side(side).decisions.get(&epoch).copied());
        self.0.act("read_decision", Some(side), deadline, read).await
    }
    fn describe(&self, _: Epoch) -> Vec<Act> {
        Vec::new()
    }
}

impl Journal for SimLink {
    async fn append(&self, entry: &Entry) -> PortResult<()> {
        // Through text, as a store would.
        let text = serde_json::to_vec(entry).unwrap();
        let entry: Entry = serde_json::from_slice(&text).unwrap();
        self.link.process.go_on().await;
        match &self.paper {
            Paper::Memory(entries) => {
                entries.lock().unwrap().push(entry);
                Ok(())
            }
            Paper::Disk => {
                // The watchdog is told first.
                self.link.process.pipe.lock().unwrap().push(entry.clone());
                self.link.process.beat(&self.link.shared);
                // A dead process writes nothing: unlike a server, its disk does not go on for it.
                let (before, fails) = {
                    let mut state = self.link.shared.lock();
                    let lossy = state.lossy;
                    (state.random.ms(0, 3), state.random.per_mille(lossy))
                };
                self.link.process.sleep(before).await;
                let directory = self.link.process.directory;
                let done = {
                    let mut state = self.link.shared.lock();
                    let last = state.journals[directory].last().map_or(0, |last| last.seq);
                    if entry.seq <= last {
                        Err(PortError::new("journal", format!("entry {} is not new", entry.seq)))
                    } else {
                        state.journals[directory].push(entry);
                        Ok(())
                    }
                };
                self.link.process.sleep(Duration::from_millis(1)).await;
                if fails {
                    return Err(PortError::new("journal", "the disk did not answer").in_doubt());
                }
                done
            }
        }
    }
    async fn read_all(&self) -> PortResult<Vec<Entry>> {
        self.link.process.go_on().await;
        Ok(match &self.paper {
            Paper::Memory(entries) => entries.lock().unwrap().clone(),
            Paper::Disk => self.link.shared.lock().journals[self.link.process.directory].clone(),
        })
    }
}

/// A process's ports in both directions.
pub fn ports(
    shared: &Arc<Shared>,
    process: &Arc<Process>,
    paper: &Paper,
    has_engine: bool,
) -> [Arc<Ports>; 2] {
    let link = Link { shared: shared.clone(), process: process.clone() };
    Direction::ALL
        .map(|direction| Arc::new(Ports::new(&link, direction, paper.clone(), has_engine)))
}
