//! What the controller needs from the world. Generics, not `dyn`: real servers, a rehearsal and a
//! simulation fulfil the same contracts.
//!
//! Common to all of them:
//! - Every act is idempotent: after an error or a crash it is simply done again.
//! - Every wait ends at its deadline with an error that says what it was waiting for.
//! - `describe_*` gives the exact statements of an act without doing anything.

mod engine;
mod fence;
mod record;
mod traffic;
mod way_back;

use crate::api::{Act, Check, Server};
use crate::controller::Order;
use crate::side::{Direction, Side};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::future::Future;
use tokio::time::Instant;

pub use engine::{
    Handed, Leaks, Leftover, MarkerDecoded, MarkerDurable, Obstacle, Progress, Refreshed,
    Replication,
};
pub use fence::{
    Airlock, Claim, Claimed, Fence, FenceActs, FenceReport, MarkerWritten, SealReport, Writers,
};
pub use record::{Decision, Entry, Journal, Record};
pub use traffic::{Moves, SwitchActs, SwitchTraits, TrafficSwitch};
pub use way_back::{Lease, LeaseRow, Standby, WayBackStream};

/// Number of a run, growing by one with each. Every act of a run carries it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a failure means for who goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Nature {
    /// Nothing in particular.
    #[default]
    Plain,
    /// A server is there, and its closed door has refused us.
    ClosedDoor,
    /// Somebody else acts for this pipeline, or has acted since. Trying again changes nothing, and
    /// nothing may be undone or finished from here.
    Superseded,
}

/// An act or an observation failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct PortError {
    /// What happened, one sentence; no row values, no secrets.
    pub what: String,
    /// Where: `blue`, `green`, a router member, `journal`, `stream`.
    pub place: String,
    /// What a person can do about it.
    pub remedy: Option<String>,
    /// Whether the act may have happened all the same (its answer was lost).
    pub in_doubt: bool,
    /// What kind of failure it is, for who has to go on differently.
    pub nature: Nature,
    /// The error beneath.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl PortError {
    /// An act that did not happen.
    pub fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            place: place.into(),
            remedy: None,
            in_doubt: false,
            nature: Nature::Plain,
            cause: None,
        }
    }

    /// The same with something to do about it.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The same, but nobody knows whether it happened.
    pub fn in_doubt(mut self) -> Self {
        self.in_doubt = true;
        self
    }

    /// The same, and what it means.
    pub fn of(mut self, nature: Nature) -> Self {
        self.nature = nature;
        self
    }

    /// Whether somebody else acts for this pipeline.
    pub fn is_superseded(&self) -> bool {
        self.nature == Nature::Superseded
    }

    /// The same with the error beneath it.
    pub fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }
}

/// What a port gives back.
pub type PortResult<T> = Result<T, PortError>;

/// What was done about sequences.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceReport {
    /// Sequences of the target that were seen to stand where the source's stand.
    pub count: u64,
}

/// Takes blue's sequences over to green.
pub trait Sequences: Send + Sync {
    /// Prechecks: sequences that the target lacks. Reads only. `sealed`: the target is closed by
    /// an earlier run of ours, so that it refuses writes is no finding.
    fn inspect(&self, sealed: bool) -> impl Future<Output = PortResult<Vec<Check>>> + Send;

    /// Sets the target's to what the source's stand at now, while clients are still served: what
    /// [`Sequences::copy`] then has to set in the pause are those that moved since. The default leaves
    /// all of it to the pause.
    ///
    /// # Errors
    ///
    /// A server that could not be asked, or that did not take a value. A statement may still be on its
    /// way then; the next call ends it before it begins.
    fn carry_ahead(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<SequenceReport>> + Send {
        let _ = deadline;
        async { Ok(SequenceReport::default()) }
    }

    /// Reads every sequence of both sides, sets the target's that stand elsewhere to the source's value
    /// and `is_called`, and reads those back.
    fn copy(&self, deadline: Instant) -> impl Future<Output = PortResult<SequenceReport>> + Send;

    /// Whether [`Sequences::copy`] may run while the stream still brings rows: what it reads and sets does
    /// not depend on them. The default: no.
    fn is_beside_rows(&self) -> bool {
        false
    }

    /// Ends the session that [`Sequences::copy`] has on the side that was left. Not before the seal, which counts
    /// whoever is inside: one of ours that is just ending is known no more. The default: there is none.
    fn leave(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// The statements.
    fn describe(&self) -> Vec<Act>;
}

/// Time. Deadlines are on the monotonic clock; wall time is only written down.
pub trait Clock: Send + Sync {
    /// Monotonic.
    fn now(&self) -> Instant;
    /// Wall clock.
    fn wall(&self) -> Timestamp;
    /// Waits.
    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    async fn sleep_until(&self, at: Instant) {
        tokio::time::sleep_until(at).await;
    }
}

/// All ports of one direction.
///
/// The engine gives the controller one for each direction; `PairWorld` is the one for two
/// servers.
pub trait World: Send + Sync {
    /// The fence of one side.
    type Fence: Fence;
    /// The routers.
    type Switch: TrafficSwitch;
    /// The engine.
    type Replication: Replication;
    /// The sequences.
    type Sequences: Sequences;
    /// The decision row.
    type Decision: Decision;
    /// The journal.
    type Journal: Journal;
    /// The clock.
    type Clock: Clock;
    /// The stream of the other direction.
    type WayBack: WayBackStream;
    /// The right to act.
    type Lease: Lease;

    /// From which side to which a run over these ports goes.
    fn direction(&self) -> Direction;
    /// The fence of either side.
    fn fence_of(&self, side: Side) -> &Self::Fence;
    /// The fence of the side that a run closes.
    fn fence(&self) -> &Self::Fence {
        self.fence_of(self.direction().from())
    }
    /// The routers.
    fn switch(&self) -> &Self::Switch;
    /// The engine's stream of this direction.
    fn replication(&self) -> &Self::Replication;
    /// The engine's stream of the other direction.
    fn way_back(&self) -> &Self::WayBack;
    /// The right to act.
    fn lease(&self) -> &Self::Lease;
    /// The sequences.
    fn sequences(&self) -> &Self::Sequences;
    /// The decision rows of either side; runs of one direction always use the same side's.
    fn decision_of(&self, side: Side) -> &Self::Decision;
    /// The decision rows of the side that a run opens.
    fn decision(&self) -> &Self::Decision {
        self.decision_of(self.direction().to())
    }
    /// The journal.
    fn journal(&self) -> &Self::Journal;
    /// The clock.
    fn clock(&self) -> &Self::Clock;
    /// Blue and green as they are shown.
    fn servers(&self) -> (Server, Server);

    /// Opens what [`World::compare`] needs, on a side that is closed, too: the caller has its door
    /// open.
    fn ready_to_compare(&self, deadline: Instant) -> impl Future<Output = PortResult<()>> + Send {
        let _ = deadline;
        async { Ok(()) }
    }

    /// Compares what both sides hold while the stream goes on. A finding of severity `Fail` is a
    /// difference that the stream does not explain. The default is for worlds without rows.
    fn compare(&self, deadline: Instant) -> impl Future<Output = PortResult<Vec<Check>>> + Send {
        let _ = deadline;
        async { Ok(Vec::new()) }
    }

    /// The hash of the plan of this order as it would be made now; an error: nobody can tell. The
    /// default is for worlds that can't be rehearsed.
    fn plan_hash(&self, order: &Order) -> impl Future<Output = PortResult<Option<String>>> + Send {
        let _ = order;
        async { Ok(None) }
    }

    /// Compares definitions, settings, rights and logins of both sides, without reading rows. The
    /// caller has the door of a closed side open. A finding of severity `Fail` forbids the run. The
    /// default is for worlds without definitions.
    fn definitions(
        &self,
        order: &Order,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Vec<Check>>> + Send {
        let _ = (order, deadline);
        async { Ok(Vec::new()) }
    }

    /// What is known at this moment of whether the side that is to open equals the one that serves,
    /// measured by [`Order::require`]; a finding of severity `Fail` forbids the run. `None`: nobody
    /// verifies here.
    fn proof(&self, order: &Order) -> PortResult<Option<Check>> {
        let _ = order;
        Ok(None)
    }
}
