//! A world in memory in which any act can fail, hang, or be the last thing that happens.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use decoders::Lsn;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::{Check, Member, Server};
use crate::evidence::Committed;
use crate::lag::LagReading;
use crate::lease::Uncontested;
use crate::marker::Token;
use crate::phase::Verdict;
use crate::ports::{
    Clock, Decision, Entry, Epoch, Fence, FenceActs, FenceReport, Journal, Leaks, MarkerDecoded,
    MarkerDurable, MarkerWritten, Moves, Obstacle, PortError, PortResult, Progress, Refreshed,
    Replication, SealReport, SequenceReport, Sequences, SwitchActs, SwitchTraits, TrafficSwitch,
    World, Writers,
};
use crate::side::{Direction, Side};
use crate::verify::Accepted;
use crate::way_back::NoWayBack;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An error, and nothing was done.
    Fails,
    /// An error, and nobody knows; nothing was done.
    InDoubt,
    /// An error, and nobody knows; it was done.
    DoneInDoubt,
    /// No answer, and nothing was done.
    Hangs,
    /// The process dies before the act.
    CrashBefore,
    /// The process dies after the act.
    CrashAfter,
}

/// What there is.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub held: bool,
    pub read_only: bool,
    pub sealed: bool,
    pub armed: bool,
    pub finished: bool,
    pub at_green: bool,
    pub decisions: BTreeMap<Epoch, Verdict>,
    pub journal: Vec<Entry>,
    pub xid: u64,
    pub writers: Vec<String>,
    pub leaks: u64,
    pub log: Vec<String>,
    /// At which act, which fault, how many times.
    pub faults: Vec<(&'static str, Fault, u32)>,
    /// Both sides admitted writes at one moment.
    pub two_writers: bool,
    /// A drill is under way, which raises no fence.
    pub drill: bool,
    /// What comparing both sides finds, one answer after the other; the last one stays.
    pub compared: Vec<Result<Vec<Check>, &'static str>>,
    /// The same of definitions.
    pub defined: Vec<Result<Vec<Check>, &'static str>>,
    /// How long refreshing views takes and what comes of it, one answer after the other; the last one stays.
    pub refreshed: Vec<(Duration, Result<Refreshed, &'static str>)>,
    /// How often it was begun.
    pub refreshes: u32,
    /// The hashes that the plan has, one after the other; the last one stays. None: no plan.
    pub plans: Vec<Result<&'static str, &'static str>>,
    /// What verifications say, one answer after the other; the last one stays. None: nobody verifies.
    pub proofs: Vec<Result<Check, &'static str>>,
    /// From this act on the journal does not answer.
    pub journal_hangs_after: Option<&'static str>,
    /// The stream stops when the routers hold.
    pub stream_stops_at_hold: bool,
    /// Since when the routers hold, and how long they did.
    pub held_since: Option<Instant>,
    pub held_for: Option<std::time::Duration>,
    /// What is under way on blue, one answer after the other; the last one stays.
    pub under_way: Vec<Writers>,
    /// There is another router, which does whatever it is told.
    pub another: bool,
}

/// The next of some answers; the last one stays.
fn next<T: Clone>(answers: &mut Vec<T>) -> Option<T> {
    if answers.len() > 1 { Some(answers.remove(0)) } else { answers.first().cloned() }
}

impl State {
    fn check(&mut self) {
        let blue_open = !self.read_only && !self.sealed;
        let green_open = self.at_green && !self.held;
        self.two_writers |= blue_open && green_open;
    }
}

pub struct Sim {
    pub state: Mutex<State>,
    progress: watch::Sender<Progress>,
    clock: SimClock,
    /// Tells the test that the process has "died".
    pub crashed: tokio::sync::Notify,
}

#[derive(Debug, Clone, Copy)]
pub struct SimClock;

impl Clock for SimClock {
    fn now(&self) -> Instant {
        Instant::now()
    }
    fn wall(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
    async fn sleep_until(&self, at: Instant) {
        tokio::time::sleep_until(at).await;
    }
}

impl Sim {
    pub fn new() -> Self {
        let lag = LagReading {
            at: Instant::now(),
            seconds: Some(0.0),
            bytes: Some(0),
            transactions: 0,
            drain_estimate_seconds: Some(0.0),
            reason: None,
        };
        let progress = Progress { lag, blocked: None, transactions_per_second: None };
        Self {
            state: Mutex::new(State { xid: 100, ..State::default() }),
            progress: watch::Sender::new(progress),
            clock: SimClock,
            crashed: tokio::sync::Notify::new(),
        }
    }

    pub fn with(faults: &[(&'static str, Fault, u32)]) -> Self {
        let sim = Self::new();
        sim.state.lock().unwrap().faults = faults.to_vec();
        sim
    }

    pub fn get(&self) -> State {
        self.state.lock().unwrap().clone()
    }

    async fn die(&self) -> ! {
        self.crashed.notify_one();
        std::future::pending().await
    }

    async fn act<T>(
        &self,
        name: &'static str,
        act: impl FnOnce(&mut State) -> PortResult<T> + Send,
    ) -> PortResult<T> {
        let fault = {
            let mut state = self.state.lock().unwrap();
            state.log.push(name.into());
            state.faults.iter_mut().find(|(at, _, left)| *at == name && *left > 0).map(
                |(_, fault, left)| {
                    *left -= 1;
                    *fault
                },
            )
        };
        let failed = || PortError::new("sim", format!("{name} failed"));
        match fault {
            Some(Fault::Fails) => return Err(failed()),
            Some(Fault::InDoubt) => return Err(failed().in_doubt()),
            Some(Fault::Hangs) => std::future::pending().await,
            Some(Fault::CrashBefore) => self.die().await,
            Some(Fault::CrashAfter | Fault::DoneInDoubt) | None => {}
        }
        let done = {
            let mut state = self.state.lock().unwrap();
            let done = act(&mut state);
            state.check();
            done
        };
        match fault {
            Some(Fault::CrashAfter) => self.die().await,
            Some(Fault::DoneInDoubt) => Err(failed().in_doubt()),
            _ => done,
        }
    }
}

impl World for Sim {
    type Fence = Self;
    type Switch = Self;
    type Replication = Self;
    type Sequences = Self;
    type Decision = Self;
    type Journal = Self;
    type Clock = SimClock;
    type WayBack = NoWayBack;
    type Lease = Uncontested;
    fn direction(&self) -> Direction {
        Direction::Forward
    }
    fn fence_of(&self, _: Side) -> &Self {
        self
    }
    fn way_back(&self) -> &NoWayBack {
        &NoWayBack
    }
    fn lease(&self) -> &Uncontested {
        &Uncontested
    }
    fn switch(&self) -> &Self {
        self
    }
    fn replication(&self) -> &Self {
        self
    }
    fn sequences(&self) -> &Self {
        self
    }
    fn decision_of(&self, _: Side) -> &Self {
        self
    }
    fn journal(&self) -> &Self {
        self
    }
    fn clock(&self) -> &SimClock {
        &self.clock
    }
    fn servers(&self) -> (Server, Server) {
        let server = |url: &str| Server {
            url: url.into(),
            database: "shop".into(),
            version: None,
            up: true,
        };
        (server("blue"), server("green"))
    }
    async fn definitions(&self, _: &super::Order, _: Instant) -> PortResult<Vec<Check>> {
        let answer = next(&mut self.state.lock().unwrap().defined);
        answer.unwrap_or(Ok(Vec::new())).map_err(|what| PortError::new("green", what))
    }

    async fn compare(&self, _: Instant) -> PortResult<Vec<Check>> {
        let answer = next(&mut self.state.lock().unwrap().compared);
        answer.unwrap_or(Ok(Vec::new())).map_err(|why| PortError::new("sim", why))
    }
    async fn plan_hash(&self, _: &super::Order) -> PortResult<Option<String>> {
        let answer = next(&mut self.state.lock().unwrap().plans).transpose();
        answer.map(|hash| hash.map(str::to_owned)).map_err(|why| PortError::new("sim", why))
    }
    fn proof(&self, _: &super::Order) -> PortResult<Option<Check>> {
        let answer = next(&mut self.state.lock().unwrap().proofs).transpose();
        answer.map_err(|why| PortError::new("sim", why))
    }
}

impl Fence for Sim {
    type Undo = u32;
    async fn inspect(&self) -> PortResult<Vec<Check>> {
        self.act("inspect", |_| Ok(vec![Check::ok("sim", "fine")])).await
    }
    async fn prepare(&self) -> PortResult<u32> {
        self.act("prepare", |_| Ok(7)).await
    }
    async fn writers(&self) -> PortResult<Writers> {
        Ok(next(&mut self.state.lock().unwrap().under_way).unwrap_or_default())
    }
    async fn raise(&self, undo: &u32, _: Instant) -> PortResult<FenceReport> {
        assert_eq!(*undo, 7);
        self.act("raise", |state| {
            assert!(state.held, "fenced before the routers hold");
            state.read_only = true;
            Ok(FenceReport {
                clean_scans: 2,
                tables_locked: 3,
                tables_total: 3,
                next_xid: state.xid,
                foreign_writers: state.writers.clone(),
                ..FenceReport::default()
            })
        })
        .await
    }
    async fn mark(&self, token: &Token, _: Instant) -> PortResult<MarkerWritten> {
        let name = if token.to_string().ends_with("drain") { "mark" } else { "mark_seal" };
        self.act(name, |state| {
            assert!(state.read_only || state.drill, "marked before the fence");
            state.xid += 1;
            Ok(MarkerWritten::new(token.clone(), state.xid - 1))
        })
        .await
    }
    async fn seal(&self, _: &u32, _: Instant) -> PortResult<SealReport> {
        self.act("seal", |state| {
            state.sealed = true;
            Ok(SealReport { refuses_clients: true, unbroken: true, ..SealReport::default() })
        })
        .await
    }
    async fn lower(&self, undo: &u32, deadline: Instant) -> PortResult<()> {
        assert_eq!(*undo, 7);
        let lower = self.act("lower", |state| {
            state.read_only = false;
            state.sealed = false;
            Ok(())
        });
        let late = |_| Err(PortError::new("sim", "lower took too long"));
        tokio::time::timeout_at(deadline, lower).await.unwrap_or_else(late)
    }
    async fn leave(&self) {}
    fn describe(&self, _: &u32) -> FenceActs {
        FenceActs::default()
    }
}

impl TrafficSwitch for Sim {
    fn traits(&self) -> SwitchTraits {
        SwitchTraits { holds: true, moves: Moves::Transparently, members: 1 }
    }
    async fn holding(&self, _: Epoch, _: Instant) -> PortResult<bool> {
        Ok(self.get().held)
    }
    async fn inspect(&self, _: Side, _: Duration) -> PortResult<Vec<Check>> {
        Ok(Vec::new())
    }
    async fn arm(&self, _: Side, _: Instant) -> PortResult<()> {
        self.act("arm_router", |_| Ok(())).await
    }
    async fn hold(&self, _: Epoch, _: Instant) -> PortResult<String> {
        self.act("hold", |state| {
            state.held = true;
            state.held_since = Some(Instant::now());
            Ok("1/1 hold".into())
        })
        .await
    }
    async fn switch(&self, proof: &Committed, _: Instant) -> PortResult<Vec<Member>> {
        self.act("switch", |state| {
            assert_eq!(state.decisions.get(&proof.epoch()), Some(&Verdict::Commit));
            assert!(state.sealed && state.read_only, "flipped before blue was sealed");
            state.at_green = true;
            Ok(vec![member()])
        })
        .await
    }
    async fn open_switched(&self, _: &Committed, _: Instant) -> Vec<Member> {
        if !self.get().another {
            return Vec::new();
        }
        let another = Member { member: "another".into(), ..member() };
        self.act("open_switched", |_| Ok(vec![another])).await.unwrap_or_default()
    }
    async fn release(&self, _: Epoch, _: Instant) -> PortResult<()> {
        self.act("release_router", |state| {
            state.held = false;
            state.held_for =
                state.held_since.take().map(|since| since.elapsed()).or(state.held_for);
            Ok(())
        })
        .await
    }
    async fn verify(&self, _: &Committed, _: Instant) -> PortResult<Vec<Member>> {
        self.act("verify", |_| Ok(vec![Member { verified: true, ..member() }])).await
    }
    fn name(&self) -> String {
        "sim".into()
    }
    fn describe(&self, _: Side) -> SwitchActs {
        SwitchActs::default()
    }
}

fn member() -> Member {
    let text = String::new;
    Member { member: "sim".into(), target: "green".into(), verified: false, evidence: text() }
}

impl Replication for Sim {
    fn progress(&self) -> watch::Receiver<Progress> {
        let state = self.get();
        let blocked = state.stream_stops_at_hold && state.held;
        let blocked = blocked.then(|| Obstacle::passing("it has stopped"));
        self.progress.send_modify(|progress| {
            progress.blocked = blocked;
            progress.lag.at = Instant::now() + std::time::Duration::from_secs(3600);
        });
        self.progress.subscribe()
    }
    async fn arm(&self, _: &Token) -> PortResult<()> {
        self.act("arm", |state| {
            state.armed = true;
            Ok(())
        })
        .await
    }
    async fn await_marker(&self, token: &Token, _: Instant) -> PortResult<MarkerDurable> {
        let token = token.clone();
        let seen = MarkerDurable { token, end_lsn: Lsn(10), durable: Lsn(10) };
        self.act("await_marker", |_| Ok(seen)).await
    }
    async fn await_decoded(&self, token: &Token, _: Instant) -> PortResult<MarkerDecoded> {
        let token = token.clone();
        self.act("await_decoded", |state| {
            let leaks = Leaks { count: state.leaks, first: None };
            Ok(MarkerDecoded { token, end_lsn: Lsn(20), leaks })
        })
        .await
    }
    async fn refresh(&self, _: &[Accepted]) -> PortResult<Refreshed> {
        let answer = {
            let mut state = self.state.lock().unwrap();
            state.refreshes += 1;
            next(&mut state.refreshed)
        };
        let Some((takes, answer)) = answer else { return Ok(Refreshed::Nothing) };
        tokio::time::sleep(takes).await;
        answer.map_err(|why| PortError::new("sim", why))
    }
    fn leaks(&self) -> Leaks {
        Leaks { count: self.get().leaks, first: None }
    }
    async fn release(&self, _: &Token) -> PortResult<()> {
        self.act("release", |state| {
            state.armed = false;
            Ok(())
        })
        .await
    }
    async fn finish(&self, _: &Token) -> PortResult<()> {
        self.act("finish", |state| {
            state.finished = true;
            Ok(())
        })
        .await
    }
}

impl Sequences for Sim {
    async fn inspect(&self, _: bool) -> PortResult<Vec<Check>> {
        Ok(Vec::new())
    }
    async fn copy(&self, _: Instant) -> PortResult<SequenceReport> {
        self.act("sequences", |_| Ok(SequenceReport { count: 2 })).await
    }
    fn describe(&self) -> Vec<crate::api::Act> {
        Vec::new()
    }
}

impl Decision for Sim {
    async fn prepare(&self) -> PortResult<()> {
        self.act("prepare_decision", |_| Ok(())).await
    }
    async fn last_epoch(&self) -> PortResult<Epoch> {
        Ok(Epoch(0))
    }
    async fn commit(&self, epoch: Epoch, marker: Lsn, _: Instant) -> PortResult<Verdict> {
        assert_eq!(marker, Lsn(10), "the marker that was drained, not the one under the seal");
        self.act("commit", |state| Ok(*state.decisions.entry(epoch).or_insert(Verdict::Commit)))
            .await
    }
    async fn abort(&self, epoch: Epoch, _: Instant) -> PortResult<Verdict> {
        self.act("claim_abort", |state| Ok(*state.decisions.entry(epoch).or_insert(Verdict::Abort)))
            .await
    }
    async fn read(&self, epoch: Epoch, _: Instant) -> PortResult<Option<Verdict>> {
        self.act("read_decision", |state| Ok(state.decisions.get(&epoch).copied())).await
    }
    fn describe(&self, _: Epoch) -> Vec<crate::api::Act> {
        Vec::new()
    }
}

impl Journal for Sim {
    async fn append(&self, entry: &Entry) -> PortResult<()> {
        // Through text, as a store would.
        let text = serde_json::to_vec(entry).unwrap();
        let hangs_after = self.get().journal_hangs_after;
        if hangs_after.is_some_and(|act| self.get().log.iter().any(|logged| logged == act)) {
            std::future::pending::<()>().await;
        }
        let entry: Entry = serde_json::from_slice(&text).unwrap();
        self.act("journal", |state| {
            state.journal.push(entry);
            Ok(())
        })
        .await
    }
    async fn read_all(&self) -> PortResult<Vec<Entry>> {
        Ok(self.get().journal)
    }
}
