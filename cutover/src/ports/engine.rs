//! The stream of one direction.

use super::{PortError, PortResult};
use crate::api::{Act, Check};
use crate::counts::Counted;
use crate::evidence::Committed;
use crate::lag::LagReading;
use crate::marker::Token;
use crate::verify::Accepted;
use decoders::Lsn;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::future::Future;
use tokio::sync::watch;
use tokio::time::Instant;

/// What [`Replication::refresh`] has come to.
#[derive(Debug, Clone, PartialEq)]
pub enum Refreshed {
    /// There is nothing to refresh.
    Nothing,
    /// What was refreshed and how long it took, a sentence.
    Done(String),
    /// A view can't be refreshed until a person mends it: a failed check, with the remedy.
    Refused(Check),
}

/// The engine at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// The lag; see [`LagTracker`](crate::lag::LagTracker), which the engine feeds.
    pub lag: LagReading,
    /// Why no run can begin: the first copy is not done, the stream is down. `None`: it can.
    pub blocked: Option<Obstacle>,
    /// Transactions per second on green, lately.
    pub transactions_per_second: Option<f64>,
}

/// Why no run can begin at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// A sentence; of what stays, with what a person can do.
    pub why: String,
    /// Only a person ends it. What passes by itself is waited for.
    pub stays: bool,
}

impl Obstacle {
    /// One that ends by itself.
    pub fn passing(why: impl Into<String>) -> Self {
        Self { why: why.into(), stays: false }
    }

    /// One that a person has to end.
    pub fn staying(why: impl Into<String>) -> Self {
        Self { why: why.into(), stays: true }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// A marker that is durable on green.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkerDurable {
    /// Its token.
    pub token: Token,
    /// End of its transaction on blue.
    pub end_lsn: Lsn,
    /// How far green has flushed; at or past `end_lsn`.
    pub durable: Lsn,
}

/// A marker that was read from the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkerDecoded {
    /// Its token.
    pub token: Token,
    /// End of its transaction on blue.
    pub end_lsn: Lsn,
    /// Row changes between the armed marker and this one.
    pub leaks: Leaks,
}

/// Row changes that came after the armed marker: each is a write that passed the fence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaks {
    /// How many.
    pub count: u64,
    /// The first one: quoted table, operation, transaction id, position. No values.
    pub first: Option<String>,
}

/// What was made on green of what runs by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handed {
    /// In words; `None`: nothing was to do.
    pub made: Option<String>,
    /// What green refuses, and why.
    pub missing: Vec<String>,
}

/// What the engine offers.
///
/// A run arms its drain token, waits for it, looks at the second marker, and then either releases
/// the engine or finishes it. Markers are recognised with [`token_in`](crate::marker::token_in).
pub trait Replication: Send + Sync {
    /// The newest [`Progress`], replaced at least every 100 ms. A receiver that sees the sender
    /// gone, or no change for a second, takes the lag as unknown.
    fn progress(&self) -> watch::Receiver<Progress>;

    /// From now on: once the marker `token` has been read, apply nothing that comes after it.
    /// Row changes after it are counted as leaks, kept back and not acknowledged to blue. Until
    /// the marker comes everything goes on as before. Arming the same token twice is fine;
    /// arming another one is an error. Also: be quick (no batching delay, frequent feedback).
    fn arm(&self, token: &Token) -> impl Future<Output = PortResult<()>> + Send;

    /// Waits until the armed marker's transaction and all before it are committed *and flushed*
    /// on green. Already true: returns at once.
    fn await_marker(
        &self,
        token: &Token,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<MarkerDurable>> + Send;

    /// Waits until a later marker (the one under the seal) has been read from the stream, and
    /// says how many row changes came between the armed marker and it. It need not be applied.
    fn await_decoded(
        &self,
        token: &Token,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<MarkerDecoded>> + Send;

    /// Waits until everything that its source had committed up to `position` is on its target, and
    /// visible there. The default is for engines that can't tell.
    fn await_applied(
        &self,
        position: Lsn,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<()>> + Send {
        let _ = deadline;
        async move {
            Err(PortError::new(
                "stream",
                format!("this engine can't tell when it is at {position}"),
            ))
        }
    }

    /// Counts the rows of both sides at one moment of the stream, of as many tables as have `bytes`
    /// together on the source, smallest first. Closes its sessions. The default is for engines that can't
    /// see both sides at one moment.
    fn count_rows(
        &self,
        bytes: u64,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Counted>> + Send {
        let _ = (bytes, deadline);
        async { Err(PortError::new("stream", "this engine can't see both sides at one moment")) }
    }

    /// What is no row and no stream carries, compared on both sides: accounts, settings, definitions. Reads only.
    /// The default is for engines whose other prechecks say it.
    fn inspect(&self) -> impl Future<Output = PortResult<Vec<Check>>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Refreshes on green what is made of its rows and no stream carries (materialized views), while blue serves.
    /// Views that `accepts` names stay as they are. Takes as long as it takes; dropped, it ends what it runs. The
    /// default is for engines without such views.
    ///
    /// # Errors
    /// It can't be done now, and trying again may help.
    fn refresh(&self, accepts: &[Accepted]) -> impl Future<Output = PortResult<Refreshed>> + Send {
        let _ = accepts;
        async { Ok(Refreshed::Nothing) }
    }

    /// The statements of [`Replication::refresh`] as it would run now. Reads only.
    ///
    /// # Errors
    /// A server's.
    fn refreshing(
        &self,
        accepts: &[Accepted],
    ) -> impl Future<Output = PortResult<Vec<Act>>> + Send {
        let _ = accepts;
        async { Ok(Vec::new()) }
    }

    /// Row changes seen after the armed marker so far.
    fn leaks(&self) -> Leaks;

    /// The run is off: apply what was kept back and go on as before. Nothing armed: no error.
    fn release(&self, token: &Token) -> impl Future<Output = PortResult<()>> + Send;

    /// Writes down on green what runs by itself on blue and no stream carries (triggers, scheduled events),
    /// with blue fenced. Nothing else changes. Idempotent. The default is for engines where green has all of
    /// it from the copy on.
    fn prepare_hand_over(&self, deadline: Instant) -> impl Future<Output = PortResult<()>> + Send {
        let _ = deadline;
        async { Ok(()) }
    }

    /// Makes on green what was written down, after the decision and before green opens, without asking blue.
    /// Idempotent, also while clients are served: what was made is not made again.
    fn hand_over(
        &self,
        proof: &Committed,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Handed>> + Send {
        let _ = (proof, deadline);
        async { Ok(Handed::default()) }
    }

    /// Whether [`Replication::hand_over`] may have something to do, as far as is known without asking anybody. Asked
    /// once the journal says that it is about to be decided; whoever recovers hands over in any case. The default is
    /// for engines that find out when they do it.
    fn hands_over(&self) -> bool {
        true
    }

    /// The statements of [`Replication::hand_over`].
    fn handing_over(&self) -> Vec<Act> {
        Vec::new()
    }

    /// Green is open: nothing from blue may ever be applied to it again. Recorded durably before
    /// this returns; leaks that come later go to the log and the metrics only. Must work before
    /// the stream has been started (recovery), and twice.
    fn finish(&self, token: &Token) -> impl Future<Output = PortResult<()>> + Send;

    /// Removes one kind of what this stream has left on the servers, and says what it was. Only
    /// after [`Replication::finish`], of both directions, in the order of [`Leftover`]. Gone
    /// already: fine.
    fn remove(
        &self,
        what: Leftover,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<String>> + Send {
        let _ = deadline;
        async move {
            Err(PortError::new("stream", format!("this engine can't remove {}", what.name()))
                .remedy("replicator teardown"))
        }
    }

    /// Statements for the stream's source that take back what a stream needs of its tables, most of all
    /// `REPLICA IDENTITY FULL`. Nobody but a person runs them: what else may need it is not known here. Reads
    /// only. The default is for engines that need nothing of the kind.
    fn unneeded(&self, deadline: Instant) -> impl Future<Output = PortResult<Vec<String>>> + Send {
        let _ = deadline;
        async { Ok(Vec::new()) }
    }

    /// What [`Replication::remove`] does, for a plan.
    fn removal(&self, what: Leftover) -> Act {
        let text = format!("remove the {} of this stream", what.name());
        Act { step: "finish".into(), place: "stream".into(), text }
    }
}

/// What a stream leaves on the servers. In this order it has to go: a slot may still have to decode
/// what an origin's name is needed for, and needs its publication while it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leftover {
    /// The slot on the source.
    Slot,
    /// The publication on the source.
    Publication,
    /// The replication origins on the target.
    Origins,
    /// Our own tables, but for the decisions.
    Objects,
}

impl Leftover {
    /// All, in order.
    pub const ALL: [Leftover; 4] =
        [Leftover::Slot, Leftover::Publication, Leftover::Origins, Leftover::Objects];

    /// As it is journaled and shown.
    pub fn name(self) -> &'static str {
        match self {
            Leftover::Slot => "slot",
            Leftover::Publication => "publication",
            Leftover::Origins => "origins",
            Leftover::Objects => "objects",
        }
    }
}
