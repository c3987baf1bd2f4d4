//! The one form in which anything goes wrong for an operator.

use serde::{Deserialize, Serialize};

use super::schema_version;

/// What kind of error it is, for programs. The command turns it into its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request makes no sense (400).
    BadRequest,
    /// The bearer token is missing or wrong (401).
    Unauthorized,
    /// Whoever asks is known and has not the role that this needs, or a browser was sent here by
    /// another site (403).
    Forbidden,
    /// There is no such run or page (404).
    NotFound,
    /// Another run is active (409).
    Busy,
    /// The run is past its point of no return, or over (409).
    TooLate,
    /// Another sidecar acts for this pipeline, or has acted since: this one does nothing more (409).
    Superseded,
    /// A precheck failed; nothing was touched (412).
    PrecheckFailed,
    /// Not between these databases (501).
    Unsupported,
    /// The sidecar can't do this now: starting, stopping, a server is down (503).
    Unavailable,
    /// Anything else (500).
    Internal,
}

impl ErrorCode {
    /// The HTTP status to send with it.
    pub fn http_status(self) -> u16 {
        match self {
            ErrorCode::BadRequest => 400,
            ErrorCode::Unauthorized => 401,
            ErrorCode::Forbidden => 403,
            ErrorCode::NotFound => 404,
            ErrorCode::Busy | ErrorCode::TooLate | ErrorCode::Superseded => 409,
            ErrorCode::PrecheckFailed => 412,
            ErrorCode::Internal => 500,
            ErrorCode::Unsupported => 501,
            ErrorCode::Unavailable => 503,
        }
    }
}

/// An error as an operator needs it: what happened, where, the state now, whether the data is
/// safe, and what to type next. Never contains row values or secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct ApiError {
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    #[serde(default = "schema_version")]
    pub schema_version: u32,
    /// For programs.
    pub code: ErrorCode,
    /// What happened, one sentence.
    pub what: String,
    /// Where: a server, a router member, a file, a step.
    #[serde(rename = "where")]
    pub place: String,
    /// The state now, for example "replicating; blue serves".
    pub state: String,
    /// Whether the data is safe. `false` only when that can't be shown.
    pub data_safe: bool,
    /// The next command to type, if there is one.
    pub next_command: Option<String>,
}

impl ApiError {
    /// An error about which nothing more is known than what happened and where; the data is safe.
    pub fn new(code: ErrorCode, what: impl Into<String>, place: impl Into<String>) -> Self {
        Self {
            schema_version: super::SCHEMA_VERSION,
            code,
            what: what.into(),
            place: place.into(),
            state: "unchanged".into(),
            data_safe: true,
            next_command: Some("cutover status".into()),
        }
    }

    /// The same with the state now.
    pub fn in_state(mut self, state: impl Into<String>) -> Self {
        self.state = state.into();
        self
    }

    /// The same with the command to type next.
    pub fn next(mut self, command: impl Into<String>) -> Self {
        self.next_command = Some(command.into());
        self
    }
}
