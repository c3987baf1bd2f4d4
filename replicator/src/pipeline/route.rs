//! What a stream of one direction needs beyond streaming, whatever its engine: being armed as a way
//! back, markers on its source, and the end of all that it leaves on the servers.

use std::future::Future;
use std::sync::Arc;

use cutover::Direction;
use cutover::api::{Act, Check};
use cutover::counts::Counted;
use cutover::marker::Token;
use cutover::ports::{Handed, Leftover, PortError, PortResult, Refreshed};
use cutover::verify::Accepted;
use decoders::Lsn;
use tokio::time::Instant;

use super::failure::Failure;
use crate::status::Shared;
use crate::store::Store;

/// One direction between two databases of one engine.
pub trait Route: Send + Sync + 'static {
    /// A place in the history of its source, in the source's own terms.
    type Place: Send + Sync;
    /// What one look at the definitions of its source has seen.
    type Seen: Send + Sync;

    /// From which side to which.
    fn direction(&self) -> Direction;

    /// A failure in the words of this direction: see [`Ends::put`](super::Ends::put).
    fn put(&self, failure: Failure) -> Failure;

    /// Prechecks of a way back. Reads only.
    fn inspect(&self, store: &Store) -> impl Future<Output = PortResult<Vec<Check>>> + Send;

    /// What is no row and no stream carries, compared on both sides, as
    /// [`Replication::inspect`](cutover::ports::Replication::inspect) says.
    fn compare(&self) -> impl Future<Output = PortResult<Vec<Check>>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Sets up what is not there yet and wakes the pipeline. Says what was done, in the engine's
    /// words, as its failures are.
    ///
    /// # Errors
    /// A server's, the store's, and a way back that is broken while it carries.
    fn arm(
        &self,
        store: &Store,
        shared: &Shared,
    ) -> impl Future<Output = Result<String, Failure>> + Send;

    /// What arming does, for a plan.
    fn describe(&self) -> Vec<Act>;

    /// What makes the next run arm the way back anew, for a person.
    fn rearming(&self) -> String;

    /// Opens the session on the source that writes markers, before the window in which it is needed.
    fn open_marker(&self) -> impl Future<Output = PortResult<()>> + Send;

    /// Commits a marker on the source, flushed: the number of its transaction there, and a place
    /// behind its end.
    fn mark(&self, token: &Token) -> impl Future<Output = PortResult<(u64, Self::Place)>> + Send;

    /// The end of the source's history, asked for in the marker's session.
    fn head(&self) -> impl Future<Output = PortResult<Self::Place>> + Send;

    /// A position of the stream behind which nothing of that place comes. Waits until it is known.
    fn position(&self, place: Self::Place) -> impl Future<Output = Lsn> + Send;

    /// Opens what [`Route::look_at_source`] needs, while the source is open.
    ///
    /// # Errors
    /// The source's.
    fn prepare_to_know(&self) -> impl Future<Output = PortResult<()>> + Send {
        async { Ok(()) }
    }

    /// Looks at the source's tables once nobody can change them any more: while the drain's marker is on its
    /// way.
    ///
    /// # Errors
    /// The source's.
    fn look_at_source(&self) -> impl Future<Output = PortResult<Self::Seen>> + Send;

    /// Whether the source's tables, as they were seen then, are still what they are known to be: with the
    /// stream at the marker, before the other side is decided on.
    ///
    /// # Errors
    /// They are not, or can't be asked.
    fn ensure_known(
        &self,
        shared: &Shared,
        seen: Self::Seen,
    ) -> impl Future<Output = PortResult<()>> + Send;

    /// Counts rows, as [`Replication::count_rows`](cutover::ports::Replication::count_rows) says.
    fn count_rows(
        &self,
        shared: &Arc<Shared>,
        bytes: u64,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Counted>> + Send {
        let _ = (shared, bytes, deadline);
        async { Err(PortError::new("stream", "this engine can't see both sides at one moment")) }
    }

    /// Refreshes materialized views on the target, as [`Replication::refresh`](cutover::ports::Replication::refresh)
    /// says.
    fn refresh(&self, accepts: &[Accepted]) -> impl Future<Output = PortResult<Refreshed>> + Send {
        let _ = accepts;
        async { Ok(Refreshed::Nothing) }
    }

    /// What [`Route::refresh`] would do now, for a plan.
    fn refreshing(
        &self,
        accepts: &[Accepted],
    ) -> impl Future<Output = PortResult<Vec<Act>>> + Send {
        let _ = accepts;
        async { Ok(Vec::new()) }
    }

    /// Notes on the target what runs by itself on the source and no stream carries. The default is for
    /// engines where a target has all of it.
    ///
    /// # Errors
    /// A server's.
    fn note_automation(&self) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }

    /// Makes on the target what was noted, before clients come to it.
    ///
    /// # Errors
    /// A server's.
    fn bring_automation(&self) -> impl Future<Output = Result<Handed, Failure>> + Send {
        async { Ok(Handed::default()) }
    }

    /// Whether [`Route::bring_automation`] may have something to do. Asks nobody. The default is for engines that find
    /// out when they do it.
    fn brings_automation(&self) -> bool {
        true
    }

    /// What [`Route::bring_automation`] does, for a plan.
    fn bringing(&self) -> Vec<Act> {
        Vec::new()
    }

    /// Keeps what runs by itself on the target from acting on what is applied there: what was done, if
    /// anything was. The default is for engines whose sessions can.
    ///
    /// # Errors
    /// A server's.
    fn quiet_automation(&self) -> impl Future<Output = Result<Option<String>, Failure>> + Send {
        async { Ok(None) }
    }

    /// Whether a stream that carries does so itself before it applies: then a target that does not answer is
    /// no reason not to turn the streams.
    fn quiets_by_itself(&self) -> bool {
        false
    }

    /// What [`Route::quiet_automation`] does, for a plan.
    fn quieting(&self) -> Vec<Act> {
        Vec::new()
    }

    /// Removes one kind of what this stream left on the servers.
    ///
    /// # Errors
    /// A server's.
    fn remove(&self, what: Leftover) -> impl Future<Output = Result<String, Failure>> + Send;

    /// Statements for the source that take back what a stream needs of its tables, most of all
    /// `REPLICA IDENTITY FULL`. Reads only. The default is for engines that need nothing of the kind.
    ///
    /// # Errors
    /// A server's.
    fn unneeded(&self) -> impl Future<Output = Result<Vec<String>, Failure>> + Send {
        async { Ok(Vec::new()) }
    }

    /// What removing one kind does, for a plan.
    fn removal(&self, what: Leftover) -> Act;
}
