//! All ports of a pipeline between two PostgreSQL databases, in either direction.

use std::sync::{Arc, Mutex, PoisonError};

use decoders::postgres::conninfo::ConnInfo;
use tokio::time::Instant;

use crate::api::{Check, Server};
use crate::controller::Order;
use crate::counts::PostgresCounts;
use crate::decision::PostgresDecision;
use crate::fence::PostgresFence;
use crate::lease::{Tenant, Uncontested};
use crate::ports::{Journal, Lease, PortResult, Replication, SystemClock, WayBackStream, World};
use crate::rehearse;
use crate::sequences::PostgresSequences;
use crate::side::{Direction, Side};
use crate::switch::Switch;
use crate::way_back::NoWayBack;

/// What both directions share: the two databases, the routers in front of them, and the journal.
pub struct PostgresPair<J> {
    fences: [PostgresFence; 2],
    decisions: [PostgresDecision; 2],
    sequences: [PostgresSequences; 2],
    counts: [PostgresCounts; 2],
    switch: Switch,
    journal: J,
    clock: SystemClock,
    servers: Mutex<(Server, Server)>,
}

impl<J> PostgresPair<J> {
    /// `publications` name the replicated tables on blue and on green. No connection is opened yet.
    pub fn new(
        blue: &ConnInfo,
        green: &ConnInfo,
        publications: [&str; 2],
        switch: Switch,
        journal: J,
    ) -> Self {
        let server = |info: &ConnInfo| Server {
            url: info.redacted(),
            database: info.dbname().to_owned(),
            version: None,
            up: false,
        };
        let [on_blue, on_green] = publications;
        Self {
            fences: [
                PostgresFence::new(blue.clone(), on_blue),
                PostgresFence::around(Side::Green, green.clone(), on_green),
            ],
            decisions: [
                PostgresDecision::new(blue.clone(), Side::Blue),
                PostgresDecision::new(green.clone(), Side::Green),
            ],
            sequences: [
                PostgresSequences::new(blue.clone(), green.clone(), Direction::Forward),
                PostgresSequences::new(green.clone(), blue.clone(), Direction::Back),
            ],
            counts: [
                PostgresCounts::new(blue.clone(), green.clone(), on_blue, Direction::Forward),
                PostgresCounts::new(green.clone(), blue.clone(), on_green, Direction::Back),
            ],
            switch,
            journal,
            clock: SystemClock,
            servers: Mutex::new((server(blue), server(green))),
        }
    }

    /// The same; a commit is refused unless this tenant holds its lease, and what is closed is closed
    /// in its name.
    pub fn leased_to(self, tenant: &Tenant) -> Self {
        let decisions = self.decisions.map(|decision| decision.leased_to(tenant.clone()));
        let fences = self.fences.map(|fence| fence.leased_to(tenant.clone()));
        Self { decisions, fences, ..self }
    }

    /// The fence of a side.
    pub fn fence(&self, side: Side) -> &PostgresFence {
        of(&self.fences, side)
    }

    /// Blue and green as they are shown; the engine knows their versions and whether they are up.
    pub fn set_servers(&self, blue: Server, green: Server) {
        *self.servers.lock().unwrap_or_else(PoisonError::into_inner) = (blue, green);
    }
}

/// One direction between two PostgreSQL databases: the pair, the engine's stream of this direction
/// and the one of the other.
pub struct PostgresWorld<J, R, B = NoWayBack, L = Uncontested> {
    direction: Direction,
    pair: Arc<PostgresPair<J>>,
    replication: R,
    way_back: B,
    lease: L,
}

impl<J: Journal, R: Replication, B: WayBackStream, L: Lease> PostgresWorld<J, R, B, L> {
    /// `replication` streams in this `direction`, `way_back` in the other.
    pub fn new(
        direction: Direction,
        pair: Arc<PostgresPair<J>>,
        replication: R,
        way_back: B,
        lease: L,
    ) -> Self {
        Self { direction, pair, replication, way_back, lease }
    }

    /// What both directions share.
    pub fn pair(&self) -> &Arc<PostgresPair<J>> {
        &self.pair
    }
}

fn of<T>(both: &[T; 2], side: Side) -> &T {
    match side {
        Side::Blue => &both[0],
        Side::Green => &both[1],
    }
}

impl<J, R, B, L> World for PostgresWorld<J, R, B, L>
where
    J: Journal + 'static,
    R: Replication + 'static,
    B: WayBackStream + 'static,
    L: Lease + 'static,
{
    type Fence = PostgresFence;
    type Switch = Switch;
    type Replication = R;
    type Sequences = PostgresSequences;
    type Decision = PostgresDecision;
    type Journal = J;
    type Clock = SystemClock;
    type WayBack = B;
    type Lease = L;

    fn direction(&self) -> Direction {
        self.direction
    }

    fn fence_of(&self, side: Side) -> &PostgresFence {
        of(&self.pair.fences, side)
    }

    fn switch(&self) -> &Switch {
        &self.pair.switch
    }

    fn replication(&self) -> &R {
        &self.replication
    }

    fn way_back(&self) -> &B {
        &self.way_back
    }

    fn lease(&self) -> &L {
        &self.lease
    }

    fn sequences(&self) -> &PostgresSequences {
        of(&self.pair.sequences, self.direction.from())
    }

    fn decision_of(&self, side: Side) -> &PostgresDecision {
        of(&self.pair.decisions, side)
    }

    fn journal(&self) -> &J {
        &self.pair.journal
    }

    fn clock(&self) -> &SystemClock {
        &self.pair.clock
    }

    fn servers(&self) -> (Server, Server) {
        self.pair.servers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn ready_to_compare(&self, deadline: Instant) -> PortResult<()> {
        of(&self.pair.counts, self.direction.from()).open(deadline).await
    }

    async fn compare(&self, deadline: Instant) -> PortResult<Vec<Check>> {
        of(&self.pair.counts, self.direction.from()).compare(&self.replication, deadline).await
    }

    async fn plan_hash(&self, order: &Order) -> PortResult<Option<String>> {
        rehearse::plan_hash(self, order).await.map(Some)
    }
}
