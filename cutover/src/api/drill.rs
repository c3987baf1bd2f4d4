//! What a drill measures, beside the timeline that every run has.

use serde::{Deserialize, Serialize};

/// Measured while the clients were held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct DrillMeasures {
    /// A question to the side that would be left, milliseconds.
    pub round_trip_ms: f64,
    /// A flushed commit there, milliseconds.
    pub write_ms: f64,
    /// From that commit until it was durable on the other side, milliseconds.
    pub stream_ms: f64,
    /// A synced entry of the journal, milliseconds.
    pub journal_ms: f64,
}
