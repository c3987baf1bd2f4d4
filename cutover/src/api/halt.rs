//! A stop that lasts until its cause is gone, and `POST /v1/retry`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::schema_version;
use crate::side::Direction;

/// A stream that can't go on until a person has acted. The process goes on, and tries again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// When the stream stopped; attempts that fail for the same cause do not move it.
    pub since: Timestamp,
    /// The error that stopped it, in a sentence without row values.
    pub what: String,
    /// Which server or part the error is of: `blue`, `green`, `copy`, `state directory`.
    #[serde(rename = "where")]
    pub place: String,
    /// Who serves, and what becomes of the source's log meanwhile: a sentence.
    pub state: String,
    /// What is true of the data: a sentence.
    pub data: String,
    /// Whether the data is safe.
    pub data_safe: bool,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Attempts since then that have found it as it was.
    pub tries: u64,
    /// When the next attempt begins by itself. `None`: one is under way, or it waits for
    /// `cutover retry`.
    pub retry_at: Option<Timestamp>,
}

/// Asks for an attempt now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryRequest {
    /// Who asks, for the record.
    #[serde(default)]
    pub actor: Option<String>,
    /// Why, for the record.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What was told to try again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    #[serde(default = "schema_version")]
    pub schema_version: u32,
    /// The streams that waited, halted or for a server.
    pub streams: Vec<Direction>,
}
