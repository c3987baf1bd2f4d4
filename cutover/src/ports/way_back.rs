//! The stream that a run leaves behind, and who may act.

use super::{Epoch, Leaks, MarkerDecoded, MarkerWritten, PortResult};
use crate::api::{Act, Check};
use crate::evidence::Committed;
use crate::marker::Token;
use decoders::Lsn;
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// The stream the other way round, while it only stands by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standby {
    /// Why the way back is not ready, a sentence: not armed, not streaming, more than a second
    /// behind. `None`: it is.
    pub blocked: Option<String>,
    /// Row changes on the side that must not be written, which are not our own applying. They are
    /// held, never applied while the stream stands by, and never lost.
    pub foreign: Leaks,
}

/// The stream of the other direction, from the side that is to open to the side that is to be
/// closed: what makes a rollback possible. It runs hot from [`WayBackStream::arm`] on, and applies
/// nothing until the streams have been turned.
pub trait WayBackStream: Send + Sync {
    /// Prechecks: whether it could be armed. Reads only.
    fn inspect(&self) -> impl Future<Output = PortResult<Vec<Check>>> + Send;

    /// Publication and slot on the side that is to open, the other side opened and registered as
    /// a target, the stream hot and its gate closed. Says what was done. Done already: no more
    /// than a look.
    fn arm(
        &self,
        token: &Token,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<String>> + Send;

    /// How it stands.
    fn standby(&self) -> Standby;

    /// Commits a marker on the side that is to open, flushed.
    fn mark(
        &self,
        token: &Token,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<MarkerWritten>> + Send;

    /// Waits until that marker has been read from this stream. `leaks` are those of
    /// [`WayBackStream::standby`].
    fn await_decoded(
        &self,
        token: &Token,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<MarkerDecoded>> + Send;

    /// From now on this stream carries and the run's own one stands by: everything that its source
    /// does at or behind `since` is held. `token` is the run's drain marker, which stands at
    /// `since`. Recorded durably, both roles at once, before this returns. What would run by itself where
    /// it applies from now on is kept from that first. Idempotent; must work before the streams have been
    /// started (recovery).
    fn turn(
        &self,
        proof: &Committed,
        token: &Token,
        since: Lsn,
    ) -> impl Future<Output = PortResult<()>> + Send;

    /// Commits `token` on the side that serves now and waits until it is durable on the other:
    /// how long that took.
    fn beat(
        &self,
        token: &Token,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Duration>> + Send;

    /// The statements of `arm`.
    fn describe(&self) -> Vec<Act>;

    /// The statements of `turn`.
    fn turning(&self) -> Vec<Act> {
        Vec::new()
    }
}

/// The lease of a pipeline as it stands on the side that is to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// The run that it was last taken for.
    pub epoch: Epoch,
    /// Who holds it; empty: it was given back.
    pub holder: String,
}

/// The right to act. Taken when a run arms, renewed in the background until it is over; a controller
/// looks before every act that goes forward how much is left.
///
/// It does not bind what goes back or what finishes: a process that has died can't renew it, and its
/// watchdog must serve the clients all the same. What binds these is the [`Claim`](super::Claim) on
/// the side that was closed.
pub trait Lease: Send + Sync {
    /// Takes it for a run, or fails and names the holder.
    fn acquire(&self, epoch: Epoch) -> impl Future<Output = PortResult<()>> + Send;

    /// For how long it is certainly ours, by our monotonic clock; 0: lost.
    fn left(&self) -> Duration;

    /// Makes it last longer. An error leaves it as it was.
    fn renew(&self) -> impl Future<Output = PortResult<()>> + Send;

    /// The row. `None`: nobody has ever taken it. The default is for leases that nobody competes for.
    fn look(&self, deadline: Instant) -> impl Future<Output = PortResult<Option<LeaseRow>>> + Send {
        let _ = deadline;
        async { Ok(None) }
    }

    /// Takes it from the one who holds it for this very run, once that one has not renewed it for a
    /// whole lease. `false`: it is not his any more. An error: he still acts. The default is for
    /// leases that nobody competes for.
    fn inherit(&self, from: &LeaseRow) -> impl Future<Output = PortResult<bool>> + Send {
        let _ = from;
        async { Ok(false) }
    }

    /// The run is over: somebody else may have it at once. Nothing to give back: no error.
    fn release(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}
