//! All ports of a pipeline between two databases, in either direction. What differs from engine to
//! engine is behind [`Databases`].

mod mysql;
mod postgres;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::time::Instant;

use crate::api::{Check, Server};
use crate::controller::Order;
use crate::counts::Counts;
use crate::decision::Conditions;
use crate::lease::{Tenant, Uncontested};
use crate::ports::{
    Decision, Fence, Journal, Lease, PortResult, Replication, Sequences, SystemClock,
    WayBackStream, World,
};
use crate::rehearse;
use crate::side::{Direction, Side};
use crate::switch::Switch;
use crate::verify::Requirement;
use crate::verify::definitions::{self, Compared};
use crate::way_back::NoWayBack;

pub use mysql::{Mysql, MysqlPair, MysqlWorld};
pub use postgres::{Postgres, PostgresPair, PostgresWorld};

/// What databases of one kind bring to the ports.
pub trait Databases: Send + Sync + 'static {
    /// The fence of a side.
    type Fence: Fence;
    /// The decision rows of a side.
    type Decision: Decision;
    /// The sequences, in one direction.
    type Sequences: Sequences;
    /// The row counts, in one direction.
    type Counts: Counts;
}

/// Who knows what verifications have found: judges it by what a run in this direction asks of them.
pub type Judge = dyn Fn(Direction, Requirement) -> PortResult<Option<Check>> + Send + Sync;

/// What a comparison of definitions comes to.
type ComparedDefinitions = Pin<Box<dyn Future<Output = PortResult<Compared>> + Send>>;

/// Who compares the definitions of both sides, in one direction, until a deadline.
pub type Comparer = dyn Fn(Direction, Instant) -> ComparedDefinitions + Send + Sync;

/// What both directions share: the two databases, the routers in front of them, and the journal.
pub struct Pair<D: Databases, J> {
    fences: [D::Fence; 2],
    decisions: [D::Decision; 2],
    sequences: [D::Sequences; 2],
    counts: [D::Counts; 2],
    switch: Switch,
    journal: J,
    clock: SystemClock,
    servers: Mutex<(Server, Server)>,
    judge: OnceLock<Box<Judge>>,
    comparer: OnceLock<Box<Comparer>>,
}

impl<D: Databases, J> Pair<D, J> {
    /// The same; `fence` closes in the tenant's name, and `decision` goes by these conditions.
    fn leased(
        self,
        tenant: &Tenant,
        streams: [&str; 2],
        fence: impl Fn(D::Fence, Tenant) -> D::Fence,
        decision: impl Fn(D::Decision, Conditions) -> D::Decision,
    ) -> Self {
        let [to_blue, to_green] =
            streams.map(|stream| Conditions { tenant: tenant.clone(), stream: stream.to_owned() });
        let [blue, green] = self.decisions;
        let decisions = [decision(blue, to_blue), decision(green, to_green)];
        let fences = self.fences.map(|side| fence(side, tenant.clone()));
        Self { decisions, fences, ..self }
    }

    /// The fence of a side.
    pub fn fence(&self, side: Side) -> &D::Fence {
        of(&self.fences, side)
    }

    /// From now on runs go by what `judge` says of verifications. The first one stays.
    pub fn judged_by(
        &self,
        judge: impl Fn(Direction, Requirement) -> PortResult<Option<Check>> + Send + Sync + 'static,
    ) {
        let _ = self.judge.set(Box::new(judge));
    }

    /// From now on runs go by what `comparer` finds of definitions. The first one stays.
    pub fn compared_by<F>(&self, comparer: impl Fn(Direction, Instant) -> F + Send + Sync + 'static)
    where
        F: Future<Output = PortResult<Compared>> + Send + 'static,
    {
        let _ = self.comparer.set(Box::new(move |way, deadline| Box::pin(comparer(way, deadline))));
    }

    /// Blue and green as they are shown; the engine knows their versions and whether they are up.
    pub fn set_servers(&self, blue: Server, green: Server) {
        *self.servers.lock().unwrap_or_else(PoisonError::into_inner) = (blue, green);
    }
}

/// One direction between two databases: the pair, the engine's stream of this direction and the one
/// of the other.
pub struct PairWorld<D: Databases, J, R, B = NoWayBack, L = Uncontested> {
    direction: Direction,
    pair: Arc<Pair<D, J>>,
    replication: R,
    way_back: B,
    lease: L,
}

impl<D: Databases, J: Journal, R: Replication, B: WayBackStream, L: Lease>
    PairWorld<D, J, R, B, L>
{
    /// `replication` streams in this `direction`, `way_back` in the other.
    pub fn new(
        direction: Direction,
        pair: Arc<Pair<D, J>>,
        replication: R,
        way_back: B,
        lease: L,
    ) -> Self {
        Self { direction, pair, replication, way_back, lease }
    }

    /// What both directions share.
    pub fn pair(&self) -> &Arc<Pair<D, J>> {
        &self.pair
    }
}

fn of<T>(both: &[T; 2], side: Side) -> &T {
    match side {
        Side::Blue => &both[0],
        Side::Green => &both[1],
    }
}

impl<D, J, R, B, L> World for PairWorld<D, J, R, B, L>
where
    D: Databases,
    J: Journal + 'static,
    R: Replication + 'static,
    B: WayBackStream + 'static,
    L: Lease + 'static,
{
    type Fence = D::Fence;
    type Switch = Switch;
    type Replication = R;
    type Sequences = D::Sequences;
    type Decision = D::Decision;
    type Journal = J;
    type Clock = SystemClock;
    type WayBack = B;
    type Lease = L;

    fn direction(&self) -> Direction {
        self.direction
    }

    fn fence_of(&self, side: Side) -> &D::Fence {
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

    fn sequences(&self) -> &D::Sequences {
        of(&self.pair.sequences, self.direction.from())
    }

    fn decision_of(&self, side: Side) -> &D::Decision {
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

    async fn definitions(&self, order: &Order, deadline: Instant) -> PortResult<Vec<Check>> {
        match self.pair.comparer.get() {
            Some(comparer) => {
                let compared = comparer(self.direction, deadline).await?;
                Ok(definitions::checks(&compared, self.direction, order.drill, &order.accepts))
            }
            None => Ok(Vec::new()),
        }
    }

    fn proof(&self, order: &Order) -> PortResult<Option<Check>> {
        match self.pair.judge.get() {
            Some(judge) => judge(self.direction, order.require),
            None => Ok(None),
        }
    }
}
