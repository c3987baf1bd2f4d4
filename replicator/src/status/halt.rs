//! What is shown of a halt, and when an attempt has shown that its cause is gone.
//!
//! While a halt lasts the phase stays `halted` although attempts connect, read and fail again: alerts and
//! probes would flap with them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cutover::api::{self, PipelinePhase};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Facts, Shared};
use crate::pipeline::failure::Failure;

/// A stream that goes on for so long has left its cause behind: what a catalog says is compared, and what
/// was refused is applied, in less.
const STREAMED: Duration = Duration::from_secs(2);
/// The same while something is known to differ that need not stop the stream.
const NOT_COMPARED: Duration = Duration::from_secs(10);
/// So has a copy that goes on for so long.
const COPIED: Duration = Duration::from_secs(10);

/// A halt, and what lies beneath it.
pub(super) struct Halted {
    pub shown: api::Halt,
    /// What the attempt under way says that it does.
    beneath: Option<(PipelinePhase, Instant)>,
}

impl Facts {
    /// Whether `phase` is kept back because a halt is not over.
    pub(super) fn keeps_back(&mut self, phase: PipelinePhase) -> bool {
        use PipelinePhase as Phase;
        if matches!(phase, Phase::Halted | Phase::CutOver | Phase::Stopping)
            || self.phase != Phase::Halted
        {
            return false;
        }
        let Some(halted) = &mut self.halted else { return false };
        if halted.beneath.is_none_or(|(beneath, _)| beneath != phase) {
            halted.beneath = Some((phase, Instant::now()));
        }
        true
    }
}

impl Shared {
    /// An attempt begins.
    pub fn attempt_begins(&self) {
        let mut facts = self.facts();
        facts.hot_since = None;
        if let Some(halted) = &mut facts.halted {
            halted.beneath = None;
            halted.shown.retry_at = None;
            halted.shown.tries += 1;
        }
    }

    /// For how long the attempt has streamed.
    pub fn streamed(&self) -> Duration {
        self.facts().hot_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The pipeline halts, or is still halted. `retry_at`: when it tries again by itself.
    pub fn halts(&self, phase: PipelinePhase, failure: &Failure, retry_at: Option<Timestamp>) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let problem = failure.problem();
        let mut facts = self.facts();
        let earlier = facts.halted.take().map(|halted| halted.shown);
        let now = Timestamp::now();
        facts.halted = Some(Halted {
            shown: api::Halt {
                since: earlier.as_ref().map_or(now, |earlier| earlier.since),
                what: problem.what.clone(),
                place: problem.place.clone(),
                state: failure.state_now(self.direction),
                data: failure.data_now(self.direction),
                data_safe: problem.data_safe,
                remedy: problem.next.clone(),
                tries: earlier.map_or(0, |earlier| earlier.tries),
                retry_at,
            },
            beneath: None,
        });
        facts.last_error = Some(problem);
        if facts.phase != phase {
            tracing::info!(pipeline = self.pipeline, phase = phase.name(), "phase");
            facts.phase = phase;
            facts.since = now;
        }
        facts.waiting_for = None;
    }

    /// The halt is over if the attempt under way has gone on for long enough at `now`.
    pub fn end_halt_if_mended(&self, now: Instant) {
        let hot = *self.hot.borrow();
        let facts = self.facts();
        let Some(halted) = &facts.halted else { return };
        // Catalogs that are not equal, or not compared yet, are to be the cause of the next halt.
        let enough = if facts.obstacle.is_none() { STREAMED } else { NOT_COMPARED };
        let streams =
            hot && facts.hot_since.is_some_and(|since| now.duration_since(since) >= enough);
        let copies = halted.beneath.is_some_and(|(phase, since)| {
            matches!(phase, PipelinePhase::Copying | PipelinePhase::Indexing)
                && now.duration_since(since) >= COPIED
        });
        if !streams && !copies {
            return;
        }
        drop(facts);
        self.end_halt();
    }

    /// The halt is over, if there is one.
    pub fn end_halt(&self) {
        let mut facts = self.facts();
        let Some(halted) = facts.halted.take() else { return };
        tracing::info!(
            pipeline = self.pipeline,
            what = halted.shown.what,
            "the cause of the halt is gone; it goes on"
        );
        facts.last_error = None;
        if facts.phase == PipelinePhase::Halted {
            let phase = halted.beneath.map_or(PipelinePhase::Starting, |(phase, _)| phase);
            tracing::info!(pipeline = self.pipeline, phase = phase.name(), "phase");
            facts.phase = phase;
            facts.since = Timestamp::now();
        }
    }

    /// The halt, while it lasts.
    pub fn halted(&self) -> Option<api::Halt> {
        self.facts().halted.as_ref().map(|halted| halted.shown.clone())
    }
}

#[cfg(test)]
mod tests {
    use cutover::Direction;

    use super::*;
    use crate::engine::budget::Budget;

    fn shared() -> Shared {
        let server = |name: &str| api::Server {
            url: format!("postgres://{name}/d"),
            database: "d".into(),
            version: None,
            up: true,
        };
        let ends = (server("blue"), server("green"));
        Shared::new("shop".into(), Direction::Forward, ends.0, ends.1, Budget::new(1 << 20))
    }

    fn cause() -> Failure {
        Failure::halt("green", "the server is read-only", "make it writable")
    }

    fn after(pause: Duration) -> Instant {
        Instant::now() + pause
    }

    #[test]
    fn an_attempt_that_fails_again_does_not_end_the_halt() {
        let shared = shared();
        shared.halts(PipelinePhase::Halted, &cause(), None);
        let since = shared.halted().unwrap().since;
        for tries in 1..4 {
            shared.attempt_begins();
            shared.enter(PipelinePhase::Reconnecting);
            shared.healed();
            shared.runs(true);
            shared.end_halt_if_mended(after(STREAMED / 2));
            assert_eq!(shared.phase(), PipelinePhase::Halted);
            assert!(shared.trouble().is_some(), "the cause stays visible");
            shared.hot.send_replace(false);
            shared.end_halt_if_mended(after(10 * STREAMED));
            shared.halts(PipelinePhase::Halted, &cause(), None);
            let halt = shared.halted().unwrap();
            assert_eq!((halt.since, halt.tries), (since, tries));
        }
    }

    #[test]
    fn one_that_streams_for_a_while_ends_it() {
        let shared = shared();
        shared.halts(PipelinePhase::Halted, &cause(), None);
        shared.attempt_begins();
        shared.runs(true);
        shared.hold_back("the tables have not been compared yet");
        shared.end_halt_if_mended(after(2 * STREAMED));
        assert_eq!(shared.phase(), PipelinePhase::Halted, "they may differ");
        shared.stand_in_the_way(None);
        shared.end_halt_if_mended(after(2 * STREAMED));
        assert_eq!((shared.phase(), shared.halted()), (PipelinePhase::Streaming, None));
        assert_eq!(shared.trouble(), None);
    }

    #[test]
    fn a_copy_that_goes_on_ends_it_and_a_connect_does_not() {
        let shared = shared();
        shared.halts(PipelinePhase::Halted, &cause(), None);
        shared.attempt_begins();
        shared.enter(PipelinePhase::Starting);
        shared.end_halt_if_mended(after(10 * COPIED));
        assert_eq!(shared.phase(), PipelinePhase::Halted);
        shared.enter(PipelinePhase::Copying);
        shared.end_halt_if_mended(after(2 * COPIED));
        assert_eq!(shared.phase(), PipelinePhase::Copying);
    }

    #[test]
    fn a_stream_that_is_to_stand_by_is_not_kept_halted() {
        let shared = shared();
        shared.halts(PipelinePhase::Halted, &cause(), None);
        shared.enter(PipelinePhase::CutOver);
        assert_eq!(shared.phase(), PipelinePhase::CutOver);
    }
}
