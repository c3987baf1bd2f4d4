//! Windows that were sent to green and are not answered, near the source's head.
//!
//! A window that comes while the one before is unanswered is sent at once where the lane can do that
//! ([`sinks::Lane::send`] says why the end is the same): no answer has to wake us, and we green, before it
//! begins. Answers are heard in order, and only what is answered counts as applied.
//!
//! Few are under way, and none is added while green takes long: then more comes meanwhile, and what waits
//! is better written together, with one commit for all of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::flight::InFlight;

/// Windows that may be unanswered.
const MOST: usize = 2;

/// Green that takes longer for a small window waits for its disk, or is busy.
const QUICK: Duration = Duration::from_millis(1);

/// What was sent, oldest first.
pub(super) struct Ahead {
    flights: VecDeque<(InFlight, Instant)>,
    answered_at: Instant,
    /// How long green takes for one, of late.
    usual: Duration,
}

impl Ahead {
    pub fn new() -> Self {
        Self { flights: VecDeque::new(), answered_at: Instant::now(), usual: Duration::ZERO }
    }

    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Whether another one may be sent now.
    pub fn has_room(&self) -> bool {
        self.flights.is_empty() || self.flights.len() < MOST && self.usual <= QUICK
    }

    pub fn sent(&mut self, flight: InFlight) {
        self.flights.push_back((flight, Instant::now()));
    }

    /// The oldest is answered.
    pub fn answered(&mut self) -> Option<InFlight> {
        let (flight, sent_at) = self.flights.pop_front()?;
        let now = Instant::now();
        // It began when green was done with the one before.
        let took = now.saturating_duration_since(sent_at.max(self.answered_at));
        self.usual = (self.usual * 7 + took) / 8;
        self.answered_at = now;
        Some(flight)
    }
}
