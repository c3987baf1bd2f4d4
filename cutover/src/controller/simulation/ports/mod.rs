//! The controller's ports over the simulated world.

mod engine;
mod fence;
mod lease;
mod record;
mod traffic;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

pub use lease::renew;

use super::process::{Link, Process};
use super::world::Shared;
use crate::api::Server;
use crate::lag::LagReading;
use crate::ports::{Clock, Entry, Progress, World};
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

/// The decisions of a side, and which of its servers a commit was prepared on.
pub struct SimDecision {
    link: Link,
    side: Side,
    prepared: Mutex<Option<u64>>,
}

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
            decisions: Side::ALL.map(|side| SimDecision {
                link: link.clone(),
                side,
                prepared: Mutex::default(),
            }),
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
