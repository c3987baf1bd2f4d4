//! What the sidecar and the operator's command say to each other.
//!
//! Plain JSON over HTTP. The server (`replicator`) and the client (`cutover`) both use these types,
//! so they can't drift apart.
//!
//! | Request | Body | Answer |
//! |---|---|---|
//! | `GET /v1/status` | - | [`Status`] |
//! | `POST /v1/plan` | [`PlanRequest`] | [`Plan`] |
//! | `POST /v1/cutover` | [`StartCutover`] | 202 [`RunStatus`], 409 when another run is active |
//! | `GET /v1/cutover/{run}?after=N&wait_ms=M` | - | [`RunUpdate`]: events past `N`, waiting at most `M` for one |
//! | `POST /v1/cutover/{run}/abort` | [`AbortRequest`] | [`RunStatus`], 409 from the point of no return on |
//! | `POST /v1/rollback` | [`StartCutover`] | the same as `POST /v1/cutover`, the other way round |
//! | `GET /v1/finish` | - | [`FinishPlan`]: what that would remove |
//! | `POST /v1/finish` | [`FinishRequest`] | [`FinishReport`]: no way back any more |
//! | `POST /v1/retry` | [`RetryRequest`] | [`Retried`]: a stream that is halted, or waits for a server, tries again now |
//! | `GET /v1/history` | - | [`History`] |
//! | `GET /v1/cutover/{run}/report` | - | [`RunReport`] of a run that is over, however long ago; `{run}` may be its epoch or `last` |
//! | `GET /v1/audit?after=N&last=M` | - | [`AuditPage`]: the last `M` lines past number `N`; with `first=M` the first |
//!
//! `{run}` may be `current`: the active run, else the last one. Every failure is an [`ApiError`]
//! with a status of 4xx or 5xx. Every `POST` is JSON, also one without a body. Over TCP a bearer token
//! (or a client certificate) is asked for; over the [`SOCKET`] the peer's user is what counts.

mod audit;
mod drill;
mod error;
mod finish;
mod halt;
mod plan;
mod run;
mod status;
mod stream;
mod watch;

pub use audit::AuditPage;
pub use drill::DrillMeasures;
pub use error::{ApiError, ErrorCode};
pub use finish::{FinishPlan, FinishReport, FinishRequest, FinishState};
pub use halt::{Halt, Retried, RetryRequest};
pub use plan::{Act, Check, Checks, Plan, PlanRequest, Severity};
pub use run::{
    AbortRequest, History, HistoryItem, Member, Outcome, RunEvent, RunEventKind, RunReport,
    RunStatus, RunUpdate, StartCutover, Step, Stepped,
};
pub use status::{
    Backfill, Counters, Lag, PipelinePhase, Place, Positions, Problem, Server, Status,
    TableProgress,
};
pub use stream::{Foreign, Stream, StreamState};
pub use watch::{Breach, MonitorAction, MonitorState, MonitorStatus};

/// Version of every JSON document here. It grows when a field changes its meaning or goes away;
/// new fields don't change it, so readers must ignore fields that they don't know.
pub const SCHEMA_VERSION: u32 = 1;

/// Name of the API's Unix socket in the state directory. Only the sidecar's own user and root get in.
pub const SOCKET: &str = "api.sock";

/// Name of the token's file in the state directory, which the sidecar makes where its configuration
/// names no token.
pub const TOKEN_FILE: &str = "api.token";

fn schema_version() -> u32 {
    SCHEMA_VERSION
}
