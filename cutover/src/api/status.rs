//! `GET /v1/status`: everything about a pipeline at one moment.

use std::fmt;

use decoders::Lsn;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::finish::FinishState;
use super::halt::Halt;
use super::run::RunStatus;
use super::schema_version;
use super::stream::Stream;
use crate::side::Direction;
use crate::verify::continuous::ContinuousStatus;

/// A pipeline at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    #[serde(default = "schema_version")]
    pub schema_version: u32,
    /// The pipeline's name.
    pub pipeline: String,
    /// The sidecar's version.
    pub version: String,
    /// When this was taken, by the sidecar's clock.
    pub at: Timestamp,
    /// What the pipeline is doing.
    pub phase: PipelinePhase,
    /// Since when it has been doing that.
    pub since: Timestamp,
    /// What it waits for, if it waits: a sentence.
    pub waiting_for: Option<String>,
    /// The database in production before the move.
    pub blue: Server,
    /// The one to move to.
    pub green: Server,
    /// Which database admits clients' writes: `blue`, `green` or `none`.
    #[serde(default)]
    pub serving: Option<String>,
    /// The side that a cutover or a rollback has closed for good.
    #[serde(default)]
    pub sealed: Option<String>,
    /// Which way the stream that carries goes. `lag`, `positions` and `counters` are its.
    #[serde(default)]
    pub direction: Direction,
    /// How far its target is behind its source.
    pub lag: Lag,
    /// How far each stage has come.
    pub positions: Positions,
    /// Both streams: forward, then back.
    #[serde(default)]
    pub streams: Vec<Stream>,
    /// How far `cutover finish` has come.
    #[serde(default)]
    pub finish: FinishState,
    /// The first copy, once it has started.
    pub backfill: Option<Backfill>,
    /// Since the sidecar started.
    pub counters: Counters,
    /// The last thing that went wrong, until it is over.
    pub last_error: Option<Problem>,
    /// The halt, while one lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halt: Option<Halt>,
    /// The active run, or the last one.
    pub cutover: Option<RunStatus>,
    /// Why the audit log is not what was written, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_broken: Option<String>,
    /// The verification that goes on, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<ContinuousStatus>,
}

/// What a pipeline is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelinePhase {
    /// Connecting, checking, recovering.
    Starting,
    /// Copying the schema and the tables.
    Copying,
    /// Building indexes and constraints on green.
    Indexing,
    /// Streaming, far behind blue.
    CatchingUp,
    /// Streaming, near blue.
    Streaming,
    /// A cutover run has passed its gate.
    CuttingOver,
    /// Green is open; nothing is left to do.
    CutOver,
    /// A server is unreachable; trying again.
    Reconnecting,
    /// Stopped by an error that only a person can resolve.
    Halted,
    /// Shutting down.
    Stopping,
}

impl PipelinePhase {
    /// The name as it is written in JSON.
    pub fn name(self) -> &'static str {
        match self {
            PipelinePhase::Starting => "starting",
            PipelinePhase::Copying => "copying",
            PipelinePhase::Indexing => "indexing",
            PipelinePhase::CatchingUp => "catching_up",
            PipelinePhase::Streaming => "streaming",
            PipelinePhase::CuttingOver => "cutting_over",
            PipelinePhase::CutOver => "cut_over",
            PipelinePhase::Reconnecting => "reconnecting",
            PipelinePhase::Halted => "halted",
            PipelinePhase::Stopping => "stopping",
        }
    }
}

/// One of the two databases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Where it is, without a password.
    pub url: String,
    /// Its database's name.
    pub database: String,
    /// Its version as it says it, for example `13.22`; `None` until it has been reached.
    pub version: Option<String>,
    /// Whether it answered the last time it was asked.
    pub up: bool,
}

/// How far a stream's target is behind its source. A number that is not known is absent, never 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Lag {
    /// Age of the newest moment of the source that the target has fully applied. `None`: unknown.
    pub seconds: Option<f64>,
    /// Log bytes between the source's head and what is applied. `None`: unknown, or a source of which
    /// only transactions are counted.
    pub bytes: Option<u64>,
    /// Transactions received and not yet applied.
    pub transactions: u64,
    /// How long applying what is outstanding should take. `None`: no rate is known yet.
    pub drain_estimate_seconds: Option<f64>,
    /// Whether `seconds` is known now. An unknown lag satisfies no gate.
    pub known: bool,
    /// Why the lag is unknown, or why it grows, if that is known.
    pub reason: Option<String>,
}

/// A place in the source's history, in the source's own terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// PostgreSQL: a byte of its log.
    Lsn(Lsn),
    /// MySQL and MariaDB: the transactions up to there, as the server writes them.
    Gtid(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Lsn(lsn) => lsn.fmt(f),
            Place::Gtid(set) => f.write_str(set),
        }
    }
}

/// How far each stage has come. `acked <= durable <= applied <= received`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Positions {
    /// The end of the source's log at the last sample.
    pub head: Option<Place>,
    /// Decoded by the sidecar.
    pub received: Option<Place>,
    /// Committed on the target.
    pub applied: Option<Place>,
    /// Flushed by the target and recorded in the checkpoint store.
    pub durable: Option<Place>,
    /// The source may forget everything before it.
    pub acked: Option<Place>,
}

/// The first copy of the tables.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Backfill {
    /// Tables to copy.
    pub tables_total: u64,
    /// Tables copied.
    pub tables_done: u64,
    /// Rows copied so far.
    pub rows: u64,
    /// Bytes copied so far.
    pub bytes: u64,
    /// Estimated bytes of all tables.
    pub bytes_total: u64,
    /// Rows per second, lately.
    pub rows_per_second: f64,
    /// Estimated seconds left. `None`: not known yet.
    pub eta_seconds: Option<f64>,
    /// What is being done, for example "indexes 3/12".
    pub doing: String,
    /// The tables that are being copied now.
    pub active: Vec<TableProgress>,
}

/// One table of the first copy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TableProgress {
    /// Quoted name.
    pub table: String,
    /// Rows copied so far.
    pub rows: u64,
    /// Bytes copied so far.
    pub bytes: u64,
    /// Estimated bytes of the table.
    pub bytes_total: u64,
    /// Rows per second, lately.
    pub rows_per_second: f64,
    /// Estimated seconds left.
    pub eta_seconds: Option<f64>,
}

/// Counts since the sidecar started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Transactions committed on green.
    pub transactions: u64,
    /// Rows inserted by the stream.
    pub inserts: u64,
    /// Rows updated by the stream.
    pub updates: u64,
    /// Rows deleted by the stream.
    pub deletes: u64,
    /// TRUNCATE statements.
    pub truncates: u64,
    /// Bytes of blue's frames.
    pub bytes: u64,
    /// Times that a connection was made anew.
    pub reconnects: u64,
}

/// Something that went wrong: what, where, whether the data is safe, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What happened.
    pub what: String,
    /// Where.
    #[serde(rename = "where")]
    pub place: String,
    /// When.
    pub at: Timestamp,
    /// Whether the data is safe.
    pub data_safe: bool,
    /// What to do next.
    pub next: Option<String>,
}
