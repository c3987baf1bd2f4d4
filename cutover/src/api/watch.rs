//! What is watched after a flip, and how it does.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One monitor at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MonitorStatus {
    /// Its name; unique in a pipeline.
    pub name: String,
    /// How it does.
    pub state: MonitorState,
    /// What a breach leads to.
    pub action: MonitorAction,
    /// Since when it is in this state, by the sidecar's wall clock.
    pub since: Timestamp,
    /// The newest sample, in words; `None` before the first.
    pub seen: Option<String>,
    /// What it is held against, in words.
    pub limit: String,
    /// Why it is not healthy; `None` when it is.
    pub why: Option<String>,
}

/// How a monitor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MonitorState {
    /// Enough samples, and fewer bad ones than a breach takes.
    Healthy,
    /// Too few samples that say anything. Never taken for healthy, and never for a breach.
    Inconclusive,
    /// As many bad samples as a breach takes.
    Breached,
}

impl MonitorState {
    /// All.
    pub const ALL: [MonitorState; 3] =
        [MonitorState::Healthy, MonitorState::Inconclusive, MonitorState::Breached];

    /// The name as it is written in JSON.
    pub fn name(self) -> &'static str {
        match self {
            MonitorState::Healthy => "healthy",
            MonitorState::Inconclusive => "inconclusive",
            MonitorState::Breached => "breached",
        }
    }
}

/// What a breach leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MonitorAction {
    /// Somebody is told.
    Alert,
    /// The clients are taken back, once, by the sidecar itself; somebody is told, too.
    Rollback,
}

/// A breach that ended a time of watching: the rollback that the sidecar then begins by itself has
/// it as its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breach {
    /// When it was decided, by the sidecar's wall clock.
    pub at: Timestamp,
    /// Which monitors, and what they saw: a sentence.
    pub what: String,
}
