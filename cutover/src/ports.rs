//! What the controller needs from the world. Generics, not `dyn`: real servers, a rehearsal and a
//! simulation fulfil the same contracts.
//!
//! Common to all of them:
//! - Every act is idempotent: after an error or a crash it is simply done again.
//! - Every wait ends at its deadline with an error that says what it was waiting for.
//! - `describe_*` gives the exact statements of an act without doing anything.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use decoders::Lsn;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::{Act, Check, Member, Server};
use crate::controller::Order;
use crate::evidence::Committed;
use crate::lag::LagReading;
use crate::marker::Token;
use crate::phase::{Phase, Verdict};
use crate::side::{Direction, Side};

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
    /// The error beneath.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl PortError {
    /// An act that did not happen.
    pub fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { what: what.into(), place: place.into(), remedy: None, in_doubt: false, cause: None }
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

    /// The same with the error beneath it.
    pub fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }
}

/// What a port gives back.
pub type PortResult<T> = Result<T, PortError>;

// ---- the fence ---------------------------------------------------------------------------------

/// What was seen once blue refused writes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceReport {
    /// Sessions that were closed.
    pub sessions_closed: u64,
    /// Scans in a row that found no foreign session from before the tables were locked.
    pub clean_scans: u32,
    /// Those of them that have a transaction id, described; must be empty.
    pub foreign_writers: Vec<String>,
    /// Prepared transactions; must be empty.
    pub prepared: Vec<String>,
    /// Replicated tables that are locked.
    pub tables_locked: u64,
    /// Replicated tables.
    pub tables_total: u64,
    /// The next transaction id that blue would give away.
    pub next_xid: u64,
}

/// What was seen once blue was closed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealReport {
    /// Blue was seen to refuse a client's connection, or its catalog says that it will.
    pub refuses_clients: bool,
    /// The mechanism, for example `ALLOW_CONNECTIONS false`.
    pub mechanism: String,
    /// The table locks were held until the seal was in place.
    pub locks_held: bool,
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
    /// Its transaction id, 64 bits (epoch included).
    pub xid: u64,
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

/// Keeps the door of a sealed side ajar for our own new sessions, for as long as it lives. What it
/// is made of is the fence's matter.
#[derive(Default)]
pub struct Airlock(Option<Box<dyn std::any::Any + Send + Sync>>);

impl Airlock {
    /// One that does its work when `guard` is dropped.
    pub fn new(guard: impl std::any::Any + Send + Sync) -> Self {
        Self(Some(Box::new(guard)))
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

    /// What is under way on blue now. Called several times a second while the gate waits.
    fn writers(&self) -> impl Future<Output = PortResult<Writers>> + Send;

    /// The volatile layer: read-only default, other sessions closed, tables locked.
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
    /// be whole before anything else happens. Sealed already: no more than a look. The default is
    /// for seals that no act leaves ajar.
    fn reseal(
        &self,
        undo: &Self::Undo,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<()>> + Send {
        let _ = (undo, deadline);
        async { Ok(()) }
    }

    /// Lets our own sessions into a sealed side: whoever has to connect there holds the guard
    /// while it does. The default is for seals that do not keep us out.
    fn airlock(
        &self,
        undo: &Self::Undo,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Airlock>> + Send {
        let _ = (undo, deadline);
        async { Ok(Airlock::default()) }
    }

    /// Back to exactly the settings in `undo`, from whatever state blue is in.
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

// ---- traffic -----------------------------------------------------------------------------------

/// What a kind of router can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwitchTraits {
    /// Clients wait in the pause; else they get errors between the fence and the release.
    pub holds: bool,
    /// How clients come to the other side.
    pub moves: Moves,
    /// How many there are.
    pub members: usize,
}

/// How clients come to the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moves {
    /// They keep their connection and notice a pause at most.
    Transparently,
    /// Their connection is closed; the next one leads to the other side.
    ByReconnect,
}

/// Holds the clients at the routers and sends them to the other side. One switch serves both
/// directions: the side comes with the call, and with the proof where there is one.
pub trait TrafficSwitch: Send + Sync {
    /// What it can do.
    fn traits(&self) -> SwitchTraits;

    /// Prechecks for moving the clients away from `from`. Touches nothing.
    fn inspect(&self, from: Side) -> impl Future<Output = PortResult<Vec<Check>>> + Send;

    /// Opens what can be opened before a window that leads to `to`. Touches no client.
    fn arm(&self, to: Side, deadline: Instant) -> impl Future<Output = PortResult<()>> + Send;

    /// Every member holds its clients, and none has a server connection with a transaction left.
    fn hold(
        &self,
        epoch: Epoch,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<String>> + Send;

    /// Whether every member still holds its clients: somebody may have let them go. Asked again
    /// and again between the hold and the decision.
    fn holding(
        &self,
        epoch: Epoch,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<bool>> + Send;

    /// Every member points at the proof's side and still holds.
    fn switch(
        &self,
        proof: &Committed,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Vec<Member>>> + Send;

    /// Every member lets its clients go on, to wherever it points.
    fn release(
        &self,
        epoch: Epoch,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<()>> + Send;

    /// Each member, asked *through* itself which server it reaches.
    fn verify(
        &self,
        proof: &Committed,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Vec<Member>>> + Send;

    /// In a few words, for example `pgbouncer x3`.
    fn name(&self) -> String;

    /// The statements and files of `hold`, `switch` and `release` in a run that leads to `to`.
    fn describe(&self, to: Side) -> SwitchActs;
}

/// The switch's statements and files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SwitchActs {
    /// Of the hold.
    pub hold: Vec<Act>,
    /// Of the flip.
    pub switch: Vec<Act>,
    /// Of the release.
    pub release: Vec<Act>,
    /// Of the verification.
    pub verify: Vec<Act>,
}

// ---- the engine --------------------------------------------------------------------------------

/// The engine at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// The lag; see [`LagTracker`](crate::lag::LagTracker), which the engine feeds.
    pub lag: LagReading,
    /// Why no cutover can begin, a sentence: the first copy is not done, the stream is down.
    /// `None`: it can.
    pub blocked: Option<String>,
    /// Transactions per second on green, lately.
    pub transactions_per_second: Option<f64>,
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

    /// Row changes seen after the armed marker so far.
    fn leaks(&self) -> Leaks;

    /// The run is off: apply what was kept back and go on as before. Nothing armed: no error.
    fn release(&self, token: &Token) -> impl Future<Output = PortResult<()>> + Send;

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

// ---- the way back ------------------------------------------------------------------------------

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
    /// `since`. Recorded durably, both roles at once, before this returns. Idempotent; must work
    /// before the streams have been started (recovery).
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
}

/// The right to act. Taken by the sidecar when it starts, renewed by it in the background; a
/// controller looks before every act how much is left.
pub trait Lease: Send + Sync {
    /// Takes it for a run, or fails and names the holder.
    fn acquire(&self, epoch: Epoch) -> impl Future<Output = PortResult<()>> + Send;

    /// For how long it is certainly ours, by our monotonic clock; 0: lost.
    fn left(&self) -> Duration;

    /// Makes it last longer. An error leaves it as it was.
    fn renew(&self) -> impl Future<Output = PortResult<()>> + Send;

    /// The run is over: somebody else may have it at once. Nothing to give back: no error.
    fn release(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

// ---- sequences, decision, journal, clock -------------------------------------------------------

/// What was done about sequences.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceReport {
    /// Sequences set on green and read back.
    pub count: u64,
}

/// Takes blue's sequences over to green.
pub trait Sequences: Send + Sync {
    /// Prechecks: sequences that the target lacks. Reads only. `sealed`: the target is closed by
    /// an earlier run of ours, so that it refuses writes is no finding.
    fn inspect(&self, sealed: bool) -> impl Future<Output = PortResult<Vec<Check>>> + Send;

    /// Reads every sequence on blue, sets green's to the same value and `is_called`, reads back.
    fn copy(&self, deadline: Instant) -> impl Future<Output = PortResult<SequenceReport>> + Send;

    /// The statements.
    fn describe(&self) -> Vec<Act>;
}

/// The verdict row on the side that is to open: `_cutover.decision(epoch primary key, verdict)`. The primary key
/// makes the first insert win, whoever makes it.
pub trait Decision: Send + Sync {
    /// Creates the table if need be; checks that a row could be inserted.
    fn prepare(&self) -> impl Future<Output = PortResult<()>> + Send;

    /// The highest epoch that has a row. No table: 0.
    fn last_epoch(&self) -> impl Future<Output = PortResult<Epoch>> + Send;

    /// Inserts `verdict` unless the epoch has one, and reads back which one it has, committed
    /// and flushed. `in_doubt` errors mean that nobody knows.
    fn decide(
        &self,
        epoch: Epoch,
        verdict: Verdict,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Verdict>> + Send;

    /// The epoch's verdict.
    fn read(
        &self,
        epoch: Epoch,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Option<Verdict>>> + Send;

    /// The statements.
    fn describe(&self, epoch: Epoch) -> Vec<Act>;
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number: one more than the line before it.
    pub seq: u64,
    /// The run's id.
    pub run: String,
    /// The run's epoch.
    pub epoch: Epoch,
    /// When, by the sidecar's wall clock.
    pub at: Timestamp,
    /// What.
    pub record: Record,
}

/// What a line of the journal says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// A run began: the request, who and why.
    Began {
        /// The request.
        request: serde_json::Value,
        /// From which side to which.
        #[serde(default)]
        direction: Direction,
    },
    /// A phase was reached, and an act is about to be done. Written, synced, before the act; one
    /// record says both so that the pause has one disk flush for each step.
    Reached {
        /// Which phase, proven.
        phase: Phase,
        /// What was seen.
        seen: String,
        /// The act that comes next: the name of an effect. `None`: no more.
        next: Option<String>,
        /// What undoing or finishing that act needs.
        detail: serde_json::Value,
    },
    /// An act failed, or something else stopped the run.
    Stopped {
        /// Why.
        why: crate::phase::Stop,
    },
    /// `finish` has come to a step, which comes next. Everything before it is done.
    Finishing {
        /// Which.
        step: String,
        /// Who asked for it.
        actor: Option<String>,
    },
    /// The run is over.
    Ended {
        /// The report.
        report: Box<crate::api::RunReport>,
    },
}

/// The append-only log of all runs.
pub trait Journal: Send + Sync {
    /// Appends. Returns when the entry survives a power cut; an error means that it may or may
    /// not be there.
    fn append(&self, entry: &Entry) -> impl Future<Output = PortResult<()>> + Send;

    /// Every entry, oldest first. An entry that can't be read is an error, never skipped.
    fn read_all(&self) -> impl Future<Output = PortResult<Vec<Entry>>> + Send;
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
/// The engine gives the controller one for each direction; `PostgresWorld` is the one for two
/// PostgreSQL servers.
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
}
