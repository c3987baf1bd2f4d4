//! A cutover run: how it is asked for, what it says while it goes, and what it leaves behind.

use decoders::Lsn;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::drill::DrillMeasures;
use super::error::ApiError;
use super::plan::{Check, Checks};
use super::schema_version;
use super::watch::{Breach, MonitorStatus};
use crate::phase::Phase;
use crate::side::Direction;
use crate::verify::Accepted;

/// `POST /v1/cutover` and `POST /v1/rollback`. Absent fields take the configured defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StartCutover {
    /// The lag expression, for example `<1s`. Required for a cutover; a rollback takes `<1s`.
    pub when_lag: Option<String>,
    /// How long the gate must hold without interruption, milliseconds. Default 3000.
    pub for_ms: Option<u64>,
    /// Give up when the gate has not passed by then, milliseconds. Default 30 minutes.
    pub gate_timeout_ms: Option<u64>,
    /// The longest write pause, milliseconds. Past it, before the point of no return, the run
    /// aborts. Default 2000.
    pub max_pause_ms: Option<u64>,
    /// Go without a way back: there will be no rollback.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_way_back: bool,
    /// How long to watch the side that opened, milliseconds. Default: as configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch_ms: Option<u64>,
    /// Only rehearse it: hold the clients, drain without a fence, and put everything back.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub drill: bool,
    /// Refuse unless a verification of everything that is not older than this, milliseconds, has
    /// found both sides equal. One that has found differences refuses in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_verified_ms: Option<u64>,
    /// Go although the last verification has found differences.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub accept_differences: bool,
    /// Differences of definitions, rights and settings that are taken as they are, each with its reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accepts: Vec<Accepted>,
    /// Who asks, for the record.
    pub actor: Option<String>,
    /// Why, for the record.
    pub reason: Option<String>,
    /// The blue database's name, typed by the operator, or `--yes`. Nothing starts without it.
    pub confirmation: Option<String>,
    /// Refuse if the plan is no longer the one with this hash.
    pub plan_hash: Option<String>,
}

/// `POST /v1/cutover/{run}/abort`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AbortRequest {
    /// Who asks, for the record.
    pub actor: Option<String>,
    /// Why, for the record.
    pub reason: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The cutover is done: green serves.
    Completed,
    /// The rollback is done: blue serves, and nothing that green had acknowledged is lost.
    RolledBack,
    /// A precheck failed; nothing was touched.
    PrecheckFailed,
    /// The gate did not pass in time; nothing was touched.
    GateTimeout,
    /// Stopped before the point of no return; everything was put back, blue serves.
    Aborted,
    /// A drill: clients were held and let go on, and nothing was changed over.
    Drilled,
    /// Only a person can go on; the side that may not serve stays closed.
    Held,
}

impl Outcome {
    /// The name as it is written in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Completed => "completed",
            Outcome::RolledBack => "rolled_back",
            Outcome::PrecheckFailed => "precheck_failed",
            Outcome::GateTimeout => "gate_timeout",
            Outcome::Aborted => "aborted",
            Outcome::Drilled => "drilled",
            Outcome::Held => "held",
        }
    }
}

/// A step of the timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Everything that can be readied before the window.
    Arm,
    /// Waiting for the lag to be and to stay under its bound.
    Gate,
    /// The routers hold their clients. The pause begins.
    Quiesce,
    /// Blue refuses writes.
    Fence,
    /// Everything up to the marker is durable on green.
    Drain,
    /// Sequences.
    Sync,
    /// Blue is closed durably.
    Seal,
    /// The point of no return.
    Commit,
    /// The routers point at green.
    Flip,
    /// The routers let their clients go on. The pause ends.
    Open,
    /// The streams change their roles, or the stream from blue ends for good.
    Finish,
    /// The way back was seen to carry.
    Reverse,
    /// The time of watching after the flip.
    Watch,
    /// Putting everything back.
    Abort,
}

impl Step {
    /// The name as it is written in JSON and in the timeline.
    pub fn name(self) -> &'static str {
        match self {
            Step::Arm => "arm",
            Step::Gate => "gate",
            Step::Quiesce => "quiesce",
            Step::Fence => "fence",
            Step::Drain => "drain",
            Step::Sync => "sync",
            Step::Seal => "seal",
            Step::Commit => "commit",
            Step::Flip => "flip",
            Step::Open => "open",
            Step::Finish => "finish",
            Step::Reverse => "reverse",
            Step::Watch => "watch",
            Step::Abort => "abort",
        }
    }
}

/// A step that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stepped {
    /// Which step.
    pub step: Step,
    /// When it began, by the sidecar's wall clock.
    pub start: Timestamp,
    /// How long it took, milliseconds.
    pub ms: f64,
    /// End of the step after the begin of the pause, milliseconds; `None` outside of the pause.
    pub offset_ms: Option<f64>,
    /// Whether it did what it should.
    pub ok: bool,
    /// What was seen, for example `14 sessions closed, 212 tables locked`.
    pub summary: String,
}

/// A router member after the flip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which one.
    pub member: String,
    /// Where it points: `blue`, `green` or `unknown`.
    pub target: String,
    /// Whether a connection *through* it was seen to reach that server.
    pub verified: bool,
    /// What was seen.
    pub evidence: String,
}

/// A run at one moment. `GET /v1/status` carries it too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunStatus {
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    #[serde(default = "schema_version")]
    pub schema_version: u32,
    /// The run's id.
    pub run: String,
    /// Its epoch: grows by one with every run.
    pub epoch: u64,
    /// From which side to which: a cutover goes forward, a rollback back.
    #[serde(default)]
    pub direction: Direction,
    /// How far it has come, proven.
    pub phase: Phase,
    /// When it was started.
    pub started: Timestamp,
    /// What it waits for or does now, a sentence.
    pub waiting_for: Option<String>,
    /// Whether `abort` can still stop it.
    pub abortable: bool,
    /// Which database admits clients' writes: `blue`, `green` or `none`.
    pub serving: String,
    /// Until when the side that opened is watched, by the sidecar's wall clock; `None`: it is not.
    #[serde(default)]
    pub watch_until: Option<Timestamp>,
    /// What is watched, and how it does; empty while nothing is.
    #[serde(default)]
    pub monitors: Vec<MonitorStatus>,
    /// Number of the newest event.
    pub last_event: u64,
    /// The report, once the run is over.
    pub report: Option<RunReport>,
}

/// What a run leaves behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    #[serde(default = "schema_version")]
    pub schema_version: u32,
    /// The run's id.
    pub run: String,
    /// Its epoch.
    pub epoch: u64,
    /// From which side to which.
    #[serde(default)]
    pub direction: Direction,
    /// How it ended.
    pub outcome: Outcome,
    /// Who asked for it.
    pub actor: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// The write pause, milliseconds, from the first hold to the release; `None` if clients were
    /// never held.
    pub pause_ms: Option<f64>,
    /// The marker's position on blue: nothing was written after it.
    pub marker: Option<Lsn>,
    /// What blue's transaction ids say about the time between marker and seal.
    pub fence_proof: Option<String>,
    /// The timeline.
    pub steps: Vec<Stepped>,
    /// How many of the prechecks ended how.
    pub checks: Checks,
    /// The prechecks themselves, those of the gate included.
    #[serde(default)]
    pub findings: Vec<Check>,
    /// What a drill has measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillMeasures>,
    /// The routers.
    pub routers: Vec<Member>,
    /// Whether the run left a way back that carries; `None`: none was wanted, or it never came so
    /// far.
    #[serde(default)]
    pub way_back: Option<bool>,
    /// What ended the time of watching, if a monitor did: a rollback follows by itself.
    #[serde(default)]
    pub breach: Option<Breach>,
    /// Which database admits clients' writes now: `blue`, `green` or `none`.
    pub serving: String,
    /// Why it did not complete.
    pub error: Option<ApiError>,
    /// What a person has to know or do: leftovers, or for `held` the exact question and commands.
    pub notes: Vec<String>,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RunEventKind {
    /// A phase was reached.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// The gate's state, several times a second while it waits.
    Gate {
        /// The lag now, seconds; `None`: unknown.
        lag_seconds: Option<f64>,
        /// The condition, for example `<1s`.
        condition: String,
        /// How long it has held, seconds.
        held_seconds: f64,
        /// How long it has to hold, seconds.
        needed_seconds: f64,
        /// Why it does not hold.
        waiting_for: Option<String>,
        /// Transactions per second on green, lately.
        transactions_per_second: Option<f64>,
        /// Estimated time to apply what is outstanding, milliseconds.
        drain_estimate_ms: Option<f64>,
    },
    /// A step ended.
    Step(Stepped),
    /// Something worth knowing.
    Note {
        /// What.
        text: String,
    },
    /// The run is over.
    Ended {
        /// How.
        outcome: Outcome,
    },
}

/// One event of a run. Numbers start at 1 and grow; a gate event that was replaced by a newer one
/// before it was read leaves a gap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEvent {
    /// Its number.
    pub number: u64,
    /// When, by the sidecar's wall clock.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub kind: RunEventKind,
}

/// Answer to `GET /v1/cutover/{run}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunUpdate {
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    #[serde(default = "schema_version")]
    pub schema_version: u32,
    /// The run now.
    pub status: RunStatus,
    /// Events after the one asked for, oldest first.
    pub events: Vec<RunEvent>,
}

/// One run of the past.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryItem {
    /// The run's id.
    pub run: String,
    /// Its epoch.
    pub epoch: u64,
    /// From which side to which.
    #[serde(default)]
    pub direction: Direction,
    /// When it was started.
    pub started: Timestamp,
    /// When it ended; `None`: it has not.
    pub ended: Option<Timestamp>,
    /// Who asked for it.
    pub actor: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// How far it came.
    pub phase: Phase,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// The write pause, milliseconds.
    pub pause_ms: Option<f64>,
}

/// `GET /v1/history`, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    #[serde(default = "schema_version")]
    pub schema_version: u32,
    /// The runs.
    pub runs: Vec<HistoryItem>,
}
