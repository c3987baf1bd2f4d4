//! Two databases, two routers, two streams and a state directory in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use decoders::Lsn;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::process::Process;
use super::random::Random;
use crate::marker::Token;
use crate::phase::Verdict;
use crate::ports::{Entry, Epoch, PortError, PortResult};
use crate::side::{Direction, Side};

/// What one transaction is, in the order of its database's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A client's row.
    Client(u64),
    /// A row that our own stream has brought.
    Own(u64),
    Marker(Token),
}

/// A run of a state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimClaim {
    pub directory: usize,
    pub run: String,
    pub epoch: Epoch,
}

/// The lease's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimLease {
    /// `None`: it was given back.
    pub directory: Option<usize>,
    pub epoch: Epoch,
    pub renewal: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Database {
    pub read_only: bool,
    pub sealed: bool,
    /// The process whose session saw the door closed, while that session lives.
    pub witnessed_by: Option<u64>,
    /// Whose it is while it is closed.
    pub claim: Option<SimClaim>,
    /// The lease of runs that open this side.
    pub lease: Option<SimLease>,
    pub log: Vec<Item>,
    pub rows: BTreeSet<u64>,
    /// Its triggers fire for whatever is written there, by clients or by a stream.
    pub fires: bool,
    pub sequence: u64,
    pub decisions: BTreeMap<Epoch, Verdict>,
    /// Grows whenever a fence is lowered: that ends the sessions of whoever fenced before.
    pub fence_sessions: u64,
    /// Grows whenever a run begins: that ends the sessions in which earlier ones set sequences.
    pub sequence_sessions: u64,
    /// Grows when clients' sessions are closed.
    pub kills: u64,
    /// Grows when another server takes over. That ends the sessions of decisions and of sequences, and
    /// the fence's; what we have written into `_cutover`, and how the side is closed, is there, too.
    pub failovers: u64,
}

impl Database {
    /// Whether a client's commit gets through. Read-only is only a default.
    pub fn admits(&self, bypasses_read_only: bool) -> bool {
        !self.sealed && (bypasses_read_only || !self.read_only)
    }
}

/// One member.
#[derive(Debug, Clone)]
pub struct Router {
    pub held: bool,
    pub target: Side,
    /// Transactions that are under way through it.
    pub busy: u64,
    /// Until when it is dead. It comes back where it led before, and holds nobody.
    pub down_until: Instant,
    /// When it has last died.
    pub down_since: Instant,
}

impl Router {
    fn new(now: Instant) -> Self {
        Self { held: false, target: Side::Blue, busy: 0, down_until: now, down_since: now }
    }

    pub fn is_up(&self) -> bool {
        self.down_until <= Instant::now()
    }

    /// It dies.
    pub fn crash(&mut self, until: Instant) {
        self.held = false;
        self.down_until = until;
        self.down_since = Instant::now();
    }
}

/// What a state directory says about a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Carry,
    /// Everything at or behind this position is held.
    Standby(usize),
}

/// One direction.
#[derive(Debug, Clone)]
pub struct Stream {
    /// The slot is there.
    pub exists: bool,
    pub role: Role,
    /// Items that are done with, in the order of the source's log. With the target, so it
    /// survives everything.
    pub applied: usize,
    // What follows dies with the process.
    pub read: usize,
    pub armed: Option<Token>,
    /// From here on rows are held.
    pub closed_at: Option<usize>,
    pub held: Vec<usize>,
    /// Markers that were read, and the leaks seen before them.
    pub markers: BTreeMap<String, (usize, u64)>,
}

impl Stream {
    fn new(exists: bool, role: Role) -> Self {
        Self {
            exists,
            role,
            applied: 0,
            read: 0,
            armed: None,
            closed_at: None,
            held: Vec::new(),
            markers: BTreeMap::new(),
        }
    }

    /// As after the start of a process.
    pub fn restart(&mut self) {
        self.read = self.applied;
        self.armed = None;
        self.held.clear();
        self.markers.clear();
        self.closed_at = match self.role {
            Role::Carry => None,
            Role::Standby(since) => Some(since),
        };
    }
}

pub struct State {
    pub random: Random,
    pub sides: [Database; 2],
    pub routers: [Router; 2],
    /// Of each process, how often it has let go: a hold that it began before that is void.
    pub released: BTreeMap<u64, u64>,
    /// The next look through the routers finds one that leads to the other side.
    pub misled: bool,
    pub streams: [Stream; 2],
    /// Each state directory's journal. There are two of them in some histories.
    pub journals: [Vec<Entry>; 2],
    /// Whether a closed side looks whose it is before it lets itself be changed.
    pub has_claims: bool,
    /// Whether the second directory has taken the pipeline up.
    pub is_adopted: bool,
    /// Who reads the slots; nobody else can.
    pub reader: Option<Arc<Process>>,
    /// Processes so far.
    pub processes: u64,
    /// Until when nothing gets through to a side.
    pub cut: [Instant; 2],
    /// Chance of a lost answer, per mille.
    pub lossy: u64,
    /// The longest that an act takes if it is not one of those, milliseconds.
    pub pace: u64,
    /// Chance of an act that takes very long, per mille.
    pub slow: u64,
    /// What clients were told is written, and where.
    pub acknowledged: Vec<(u64, Side)>,
    pub schedule: Vec<String>,
    pub began: Instant,
    /// What may never happen, and has.
    pub violations: Vec<String>,
    pub commits: u64,
    /// A watchdog's SIGKILL ends its sidecar. Not if that is process 1 of a container.
    pub kill_works: bool,
    /// Show the schedule while it happens.
    is_live: bool,
}

impl State {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let mut random = Random::new(seed);
        let pace = [4, 20, 60][random.below(3) as usize];
        let kill_works = random.per_mille(600);
        let blue = Database { fires: true, ..Database::default() };
        Self {
            random,
            pace,
            sides: [blue, Database::default()],
            routers: [Router::new(now), Router::new(now)],
            released: BTreeMap::new(),
            misled: false,
            streams: [Stream::new(true, Role::Carry), Stream::new(false, Role::Standby(0))],
            journals: Default::default(),
            has_claims: true,
            is_adopted: false,
            reader: None,
            processes: 0,
            cut: [now; 2],
            lossy: 0,
            slow: 0,
            acknowledged: Vec::new(),
            schedule: Vec::new(),
            began: now,
            violations: Vec::new(),
            commits: 0,
            kill_works,
            is_live: std::env::var_os("SIM_SHOW").is_some(),
        }
    }

    pub fn say(&mut self, what: impl std::fmt::Display) {
        let ms = self.began.elapsed().as_millis();
        let line = format!("{ms:>6} {what}");
        if self.is_live {
            eprintln!("{line}");
        }
        self.schedule.push(line);
    }

    pub fn violated(&mut self, what: String) {
        self.say(format!("VIOLATION {what}"));
        self.violations.push(what);
    }

    pub fn side(&mut self, side: Side) -> &mut Database {
        &mut self.sides[side as usize]
    }

    /// Tells every router that is up; the others are an error.
    pub fn each_router(&mut self, mut tell: impl FnMut(&mut Router)) -> PortResult<()> {
        let mut result = Ok(());
        for (at, router) in self.routers.iter_mut().enumerate() {
            if router.is_up() {
                tell(router);
            } else if result.is_ok() {
                result = Err(PortError::new(router_name(at), "it does not answer"));
            }
        }
        result
    }

    pub fn stream(&mut self, direction: Direction) -> &mut Stream {
        &mut self.streams[direction as usize]
    }

    /// Whether this process has the slots.
    pub fn reads(&self, process: &Process) -> bool {
        self.reader.as_ref().is_some_and(|reader| reader.id == process.id)
    }

    /// Gives the slots to this process, unless somebody who is well has them. `true`: only now.
    pub fn take_slots(&mut self, process: &Arc<Process>) -> bool {
        let is_free = |reader: &Arc<Process>| !reader.is_alive() || reader.is_stopped();
        if self.reads(process) || !self.reader.as_ref().is_none_or(is_free) {
            return false;
        }
        self.say(format!("{} streams", process.name));
        self.reader = Some(process.clone());
        let serves = self.truth();
        for direction in Direction::ALL {
            let stream = self.stream(direction);
            stream.restart();
            // Not where clients are served, whatever the roles say yet.
            if stream.exists && stream.role == Role::Carry && direction.to() != serves {
                self.side(direction.to()).fires = false;
            }
        }
        true
    }

    /// The side that the decisions say serves.
    pub fn truth(&self) -> Side {
        let newest = |side: Side| {
            let decisions = self.sides[side as usize].decisions.iter();
            decisions
                .filter(|(_, verdict)| **verdict == Verdict::Commit)
                .map(|(epoch, _)| *epoch)
                .max()
        };
        if newest(Side::Green) > newest(Side::Blue) { Side::Green } else { Side::Blue }
    }

    /// Behind the name of a side that does not serve there is another server now, without the last
    /// transactions. What brings them is with them, so they will be brought again.
    pub fn fail_over(&mut self, side: Side, most: u64) {
        let database = self.side(side);
        database.failovers += 1;
        database.sequence_sessions += 1;
        database.witnessed_by = None;
        database.sequence = 0;
        let mut lost = BTreeSet::new();
        for _ in 0..most {
            match database.log.pop_if(|last| !matches!(last, Item::Client(_))) {
                Some(Item::Own(id)) => {
                    database.rows.remove(&id);
                    lost.insert(id);
                }
                Some(_) => {}
                None => break,
            }
        }
        let end = database.log.len();
        let into = Direction::leaving(side.other());
        let is_lost = |item: &Item| matches!(item, Item::Client(id) if lost.contains(id));
        let first = self.side(side.other()).log.iter().position(is_lost);
        let stream = self.stream(into);
        stream.applied = stream.applied.min(first.unwrap_or(usize::MAX));
        stream.read = stream.applied;
        stream.held.clear();
        let out = self.stream(into.reversed());
        (out.applied, out.read) = (out.applied.min(end), out.read.min(end));
        out.closed_at = out.closed_at.map(|closed| closed.min(end));
        out.held.retain(|at| *at < end);
        if let Role::Standby(since) = &mut out.role {
            *since = (*since).min(end);
        }
        self.say(format!("{side} fails over and loses {} rows", lost.len()));
    }

    /// A client's commit arrives.
    pub fn write(&mut self, side: Side, bypasses: bool, kills: u64) -> Option<u64> {
        let database = self.side(side);
        if !database.admits(bypasses) || database.kills != kills {
            return None;
        }
        database.sequence += 1;
        let id = database.sequence;
        let is_new = database.rows.insert(id);
        database.log.push(Item::Client(id));
        if !is_new {
            self.violated(format!("{side} gave the key {id} twice"));
        }
        if self.truth() != side {
            self.violated(format!("two writers: {side} admitted {id}, and it does not serve"));
        }
        // Who comes past the routers may be there before the flip has ended.
        if !bypasses && !self.side(side).fires {
            self.violated(format!("{side} admitted {id} before its triggers were switched"));
        }
        Some(id)
    }

    /// What has to hold at the moment of a decision.
    pub fn committed(&mut self, to: Side) {
        self.commits += 1;
        let from = to.other();
        if self.side(from).admits(true) {
            self.violated(format!("decided for {to} while {from} admits writes"));
        }
        let missing: Vec<_> = self.sides[from as usize]
            .rows
            .difference(&self.sides[to as usize].rows)
            .copied()
            .collect();
        if let Some(first) = missing.first() {
            self.violated(format!("decided for {to}, which lacks {} rows: {first}", missing.len()));
        }
    }

    /// Lets a stream do what it can.
    pub fn pump(&mut self, direction: Direction) {
        let (from, to) = (direction.from() as usize, direction.to() as usize);
        if !self.streams[direction as usize].exists {
            return;
        }
        let mut brought = Vec::new();
        let stream = &mut self.streams[direction as usize];
        let log = &self.sides[from].log;
        if stream.closed_at.is_none() {
            brought.append(&mut stream.held);
        }
        while let Some(item) = log.get(stream.read) {
            let at = stream.read;
            stream.read += 1;
            match item {
                Item::Own(_) => {}
                Item::Marker(token) => {
                    let leaks = stream.held.len() as u64;
                    stream.markers.insert(token.to_string(), (at, leaks));
                    if stream.armed.as_ref() == Some(token) && stream.closed_at.is_none() {
                        stream.closed_at = Some(at + 1);
                    }
                }
                Item::Client(_) if stream.closed_at.is_some_and(|closed| at >= closed) => {
                    stream.held.push(at);
                }
                Item::Client(_) if !stream.held.is_empty() => {
                    stream.read = at;
                    break;
                }
                Item::Client(_) => brought.push(at),
            }
        }
        // What is held is not acknowledged, nor anything behind it.
        stream.applied = stream.held.first().copied().unwrap_or(stream.read);
        for at in brought {
            let Item::Client(id) = self.sides[from].log[at] else { continue };
            if self.sides[to].fires {
                self.violated(format!(
                    "the stream {direction} brought {id}, and it set triggers off"
                ));
            }
            let target = &mut self.sides[to];
            if !target.rows.insert(id) {
                self.violated(format!("the stream {direction} brought {id} twice"));
                continue;
            }
            target.log.push(Item::Own(id));
        }
    }
}

/// The world.
pub struct Shared {
    state: Mutex<State>,
}

impl Shared {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State::new(seed)) })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

pub fn router_name(at: usize) -> String {
    format!("router {at}")
}

/// The position behind an item.
pub fn lsn_behind(at: usize) -> Lsn {
    Lsn(at as u64 + 1)
}
