//! One side that is made to refuse writes, and what was seen of it.

use super::{Epoch, PortResult};
use crate::api::{Act, Check};
use crate::marker::Token;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// What was seen once blue refused writes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceReport {
    /// Sessions that were closed.
    pub sessions_closed: u64,
    /// Scans in a row that found no foreign session (where tables are locked: from before that).
    pub clean_scans: u32,
    /// Those of them that have a transaction id, described; must be empty.
    pub foreign_writers: Vec<String>,
    /// Prepared transactions; must be empty.
    pub prepared: Vec<String>,
    /// Replicated tables that are locked. 0 where it is not tables that are locked.
    pub tables_locked: u64,
    /// Replicated tables that have to be.
    pub tables_total: u64,
    /// The next transaction id that blue would give away.
    pub next_xid: u64,
    /// Where blue's history stood when nobody could write any more, as blue says it (a set of
    /// GTIDs). `None`: on engines without, the marker alone says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
}

/// What was seen once blue was closed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealReport {
    /// Blue was seen to refuse a client's connection, or its catalog says that it will.
    pub refuses_clients: bool,
    /// The mechanism, for example `ALLOW_CONNECTIONS false`.
    pub mechanism: String,
    /// What kept writers out while the seal was put in place was there all the time: the session that saw
    /// blue closed, the table locks, or a history that did not move.
    pub unbroken: bool,
    /// Foreign sessions with a transaction id; must be empty.
    pub foreign_writers: Vec<String>,
    /// Prepared transactions; must be empty.
    pub prepared: Vec<String>,
    /// Transaction ids that the sealing itself has used.
    pub own_xids: u64,
}

/// A marker that was committed on blue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkerWritten {
    /// Its token.
    pub token: Token,
    /// Its transaction id, 64 bits (epoch included). Where transactions have none: how many the
    /// server's history has, the marker's included.
    pub xid: u64,
    /// Where the side's history stands with the marker, as the server says it (a set of GTIDs).
    /// `None`: on engines without, the marker in the stream says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
}

impl MarkerWritten {
    /// One that has a transaction id and no more.
    pub fn new(token: Token, xid: u64) -> Self {
        Self { token, xid, position: None }
    }
}

/// What is under way on blue that a cutover would have to wait for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writers {
    /// Age of the oldest open transaction that has written.
    pub oldest: Option<Duration>,
    /// Who that is, described with pid, role and application.
    pub oldest_who: Option<String>,
    /// Prepared transactions.
    pub prepared: Vec<String>,
}

/// Who has closed a side: one run of one state directory. It stands on the closed side itself, for
/// as long as that is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The pipeline's name.
    pub pipeline: String,
    /// Who acted, as in the lease.
    pub holder: String,
    /// The run.
    pub run: String,
    /// Its epoch.
    pub epoch: Epoch,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pipeline, holder, run, epoch } = self;
        write!(f, "run {run} (epoch {epoch}) of pipeline {pipeline}, sidecar {holder}")
    }
}

/// A claim as it was found, with all that opening the side again takes.
#[derive(Debug, Clone)]
pub struct Claimed<U> {
    /// Whose it is.
    pub claim: Claim,
    /// The side's prior settings.
    pub undo: U,
}

/// Keeps the door of a sealed side ajar for our own new sessions, for as long as it lives. What it
/// is made of is the fence's matter.
#[derive(Default)]
pub struct Airlock(Option<Box<dyn std::any::Any + Send + Sync>>);

impl Airlock {
    /// One that does its work when `guard` is dropped.
    pub fn new(guard: impl std::any::Any + Send + Sync) -> Self {
        Self(Some(Box::new(guard)))
    }

    /// Whether the side is closed to everybody else.
    pub fn is_ajar(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for Airlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Airlock").field("guarded", &self.0.is_some()).finish()
    }
}

/// Makes one side refuse writes, proves it, and undoes it. "Blue" below is that side: in a run
/// back it is green.
pub trait Fence: Send + Sync {
    /// Settings as they were before: all that `lower` needs, even in another process.
    type Undo: Clone + fmt::Debug + Send + Sync + Serialize + DeserializeOwned;

    /// Prechecks, and which mechanisms the rights on blue allow. Reads only.
    fn inspect(&self) -> impl Future<Output = PortResult<Vec<Check>>> + Send;

    /// The prior settings. Reads only; journaled before anything is changed.
    fn prepare(&self) -> impl Future<Output = PortResult<Self::Undo>> + Send;

    /// Makes `undo` the one of a run: closing blue by it says on blue who has done so, and from then
    /// on nothing but this `undo` changes blue. The default is for fences that nobody else comes near.
    fn signed(&self, undo: Self::Undo, run: &str, epoch: Epoch) -> Self::Undo {
        let _ = (run, epoch);
        undo
    }

    /// Who has closed blue, if it was a run of this pipeline: of whichever state directory. Works
    /// while blue is closed. An error: nobody can tell.
    fn claimed(
        &self,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Option<Claimed<Self::Undo>>>> + Send {
        let _ = deadline;
        async { Ok(None) }
    }

    /// An error of [`Nature::Superseded`](super::Nature::Superseded) if blue is no longer closed by
    /// who closed it with `undo`. Any other: nobody can tell.
    fn still_ours(
        &self,
        undo: &Self::Undo,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<()>> + Send {
        let _ = (undo, deadline);
        async { Ok(()) }
    }

    /// What is under way on blue now. Called several times a second while the gate waits.
    fn writers(&self) -> impl Future<Output = PortResult<Writers>> + Send;

    /// Blue refuses clients, other sessions are closed, and what keeps writers out until the seal is there.
    fn raise(
        &self,
        undo: &Self::Undo,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<FenceReport>> + Send;

    /// Commits a marker on blue in a session of our own, flushed.
    fn mark(
        &self,
        token: &Token,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<MarkerWritten>> + Send;

    /// The durable layer.
    fn seal(
        &self,
        undo: &Self::Undo,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<SealReport>> + Send;

    /// Closes blue again if an interrupted act has left it ajar: after the decision the seal has to
    /// be whole before anything else happens. Sealed already: no more than a look. Changes nothing if
    /// it is not closed by `undo` any more, which is an error. The default is for seals that no act
    /// leaves ajar.
    fn reseal(
        &self,
        undo: &Self::Undo,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<()>> + Send {
        let _ = (undo, deadline);
        async { Ok(()) }
    }

    /// Lets our own sessions into a side that was sealed by `undo`, and into no other: whoever has to
    /// connect there holds the guard while it does. The default is for seals that do not keep us out.
    fn airlock(
        &self,
        undo: &Self::Undo,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Airlock>> + Send {
        let _ = (undo, deadline);
        async { Ok(Airlock::default()) }
    }

    /// Back to exactly the settings in `undo`, from whatever state blue is in - if it is the one that
    /// acting by `undo` has led to. A blue that somebody else has closed stays closed, which is an
    /// error; one that is open already stays as it is.
    fn lower(
        &self,
        undo: &Self::Undo,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<()>> + Send;

    /// Lets go of our own sessions and locks once blue is closed for good.
    fn leave(&self) -> impl Future<Output = ()> + Send;

    /// The statements of `raise`, `seal` and `lower`.
    fn describe(&self, undo: &Self::Undo) -> FenceActs;
}

/// The fence's statements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FenceActs {
    /// Of the volatile layer.
    pub raise: Vec<Act>,
    /// Of a marker.
    pub mark: Vec<Act>,
    /// Of the durable layer.
    pub seal: Vec<Act>,
    /// Of the way back.
    pub lower: Vec<Act>,
}
