//! One of the two streams between blue and green.

use serde::{Deserialize, Serialize};

use super::status::{Counters, Lag, Positions};
use crate::side::Direction;

/// A stream at one moment. While one carries, the other stands by: it reads, so that it can take
/// over at once, and writes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// From which side to which.
    pub direction: Direction,
    /// What it does.
    pub state: StreamState,
    /// Why it does not do what it should, a sentence.
    pub why: Option<String>,
    /// How far its target is behind its source; of a stream that stands by, how far its reading is.
    pub lag: Lag,
    /// How far each stage has come.
    pub positions: Positions,
    /// Since the sidecar started.
    pub counters: Counters,
    /// Writes on the side that must not be written, by somebody else: they are held, never applied.
    pub foreign: Option<Foreign>,
}

/// What a stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamState {
    /// Nothing is set up: the next run that wants a way back does it.
    NotArmed,
    /// Copying, connecting, or trying again: it gets there by itself.
    NotReady,
    /// It stands by and reads.
    Hot,
    /// What its source writes goes to its target.
    Carries,
    /// Stopped by something that only a person can mend.
    Broken,
    /// It has ended for good.
    Over,
}

impl StreamState {
    /// All.
    pub const ALL: [StreamState; 6] = [
        StreamState::NotArmed,
        StreamState::NotReady,
        StreamState::Hot,
        StreamState::Carries,
        StreamState::Broken,
        StreamState::Over,
    ];

    /// The name as it is written in JSON.
    pub fn name(self) -> &'static str {
        match self {
            StreamState::NotArmed => "not_armed",
            StreamState::NotReady => "not_ready",
            StreamState::Hot => "hot",
            StreamState::Carries => "carries",
            StreamState::Broken => "broken",
            StreamState::Over => "over",
        }
    }
}

/// Row changes that are not our own on the side that does not serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// How many were read so far.
    pub changes: u64,
    /// The first: operation, quoted table, transaction, position. No values.
    pub first: Option<String>,
}
