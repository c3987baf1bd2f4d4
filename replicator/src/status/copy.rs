//! How the first copy comes along.

use std::time::Duration;

use cutover::api::{self, PipelinePhase};
use tokio::time::Instant;

use super::Shared;
use crate::alerts::CopyReadings;

/// The copy as it was last told, and when it last moved.
#[derive(Debug, Default)]
pub(super) struct CopyProgress {
    pub told: Option<api::Backfill>,
    moved_at: Option<Instant>,
    restarts: u64,
    restarted_at: Option<Instant>,
}

impl CopyProgress {
    fn tell(&mut self, now: Instant, copy: api::Backfill) {
        let moves = |copy: &api::Backfill| (copy.rows, copy.bytes, copy.tables_done);
        if self.told.as_ref().map(moves) != Some(moves(&copy)) {
            self.moved_at = Some(now);
        }
        self.told = Some(copy);
    }

    fn readings(&self, now: Instant, is_copying: bool, since: Instant) -> CopyReadings {
        let age = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
        let told = self.told.clone().unwrap_or_default();
        // Before the first row it waits for a slot, or for what was defined before.
        let moved_at = self.moved_at.map_or(since, |moved_at| moved_at.max(since));
        CopyReadings {
            tables: told.tables_total,
            tables_done: told.tables_done,
            rows: told.rows,
            bytes: told.bytes,
            bytes_estimated: told.bytes_total,
            eta_seconds: told.eta_seconds,
            idle_seconds: is_copying.then(|| age(moved_at)),
            restarts: self.restarts,
            restart_age_seconds: self.restarted_at.map(age),
        }
    }
}

impl Shared {
    /// The copy's progress.
    pub fn backfill(&self, backfill: api::Backfill) {
        self.facts().copy.tell(Instant::now(), backfill);
    }

    /// A copy that had begun is begun again.
    pub fn copy_begins_again(&self) {
        let mut facts = self.facts();
        facts.copy.restarts += 1;
        facts.copy.restarted_at = Some(Instant::now());
    }

    /// The first copy, as far as it has come.
    pub fn copy_readings(&self) -> CopyReadings {
        let facts = self.facts();
        let is_copying = facts.phase == PipelinePhase::Copying;
        let in_phase = jiff::Timestamp::now().duration_since(facts.since);
        let in_phase = Duration::try_from(in_phase).unwrap_or_default();
        let now = Instant::now();
        let since = now.checked_sub(in_phase).unwrap_or(now);
        facts.copy.readings(now, is_copying, since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_idle_while_nothing_of_it_moves() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut copy = CopyProgress::default();
        let idle =
            |copy: &CopyProgress, seconds| copy.readings(at(seconds), true, start).idle_seconds;
        assert_eq!(idle(&copy, 30), Some(30.0), "it waits for the slot");
        copy.tell(at(40), api::Backfill { rows: 1, ..api::Backfill::default() });
        copy.tell(at(90), api::Backfill { rows: 1, ..api::Backfill::default() });
        assert_eq!(idle(&copy, 100), Some(60.0));
        copy.tell(at(110), api::Backfill { rows: 1, bytes: 9, ..api::Backfill::default() });
        assert_eq!(idle(&copy, 120), Some(10.0));
        assert_eq!(copy.readings(at(500), false, start).idle_seconds, None, "it is over");
    }
}
