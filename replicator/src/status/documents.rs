//! What is shown of a stream: in the status document, to alert rules, and in a scrape.

use std::sync::atomic::Ordering;

use cutover::{Phase, api};
use decoders::Lsn;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Facts, LeftOff, Shared};
use crate::alerts::Readings;
use crate::engine::frontier::Frontier;
use crate::metrics::StreamSample;
use crate::protect::ProtectConfig;

/// Lag above which a stream is said to be catching up.
const CATCHING_UP_SECONDS: f64 = 5.0;

impl Shared {
    fn counters(&self) -> api::Counters {
        let totals = *self.totals.borrow();
        api::Counters {
            transactions: totals.transactions,
            inserts: totals.inserts,
            updates: totals.updates,
            deletes: totals.deletes,
            truncates: totals.truncates,
            bytes: totals.bytes,
            reconnects: self.reconnects.load(Ordering::Relaxed),
        }
    }

    /// This stream's part of the status document.
    pub fn stream(&self) -> api::Stream {
        let lag = self.lag_now();
        let frontier = *self.progress.borrow();
        let (hot, carries) = (*self.hot.borrow(), *self.carries.borrow());
        let counters = self.counters();
        let facts = self.facts();
        let error = facts.last_error.as_ref();
        let trouble = || error.map(|problem| format!("{}: {}", problem.place, problem.what));
        let (state, why) = match (hot, carries) {
            _ if self.is_over.load(Ordering::Relaxed) => (api::StreamState::Over, None),
            (true, true) => (api::StreamState::Carries, None),
            (true, false) => (api::StreamState::Hot, None),
            // What is tried again says what it waits for.
            (false, _) if error.is_some() && facts.waiting_for.is_none() => {
                (api::StreamState::Broken, trouble())
            }
            (false, _) if error.is_some() => (api::StreamState::NotReady, trouble()),
            (false, false) => (api::StreamState::NotArmed, None),
            (false, true) => (api::StreamState::NotReady, Some(facts.phase.name().to_owned())),
        };
        let foreign = match carries {
            true => None,
            false => Some(self.gate.watch().borrow().leaks.clone()),
        };
        api::Stream {
            direction: self.direction,
            state,
            why,
            lag: api::Lag::from(&lag),
            positions: positions(&facts, &frontier),
            counters,
            foreign: foreign
                .filter(|leaks| leaks.count > 0)
                .map(|leaks| api::Foreign { changes: leaks.count, first: leaks.first }),
        }
    }

    /// The status document, as far as one stream knows it: see [`crate::http`] for the rest.
    pub fn status(&self, cutover: Option<api::RunStatus>) -> api::Status {
        let lag = self.lag_now();
        let frontier = *self.progress.borrow();
        let unconfirmed = self.unconfirmed();
        let facts = self.facts();
        let obstacle = facts.obstacle.as_ref().map(|obstacle| obstacle.why.clone());
        let catching_up = facts.phase == api::PipelinePhase::Streaming
            && lag.seconds.is_some_and(|seconds| seconds > CATCHING_UP_SECONDS);
        let cutting_over = facts.phase == api::PipelinePhase::Streaming
            && cutover.as_ref().is_some_and(|run| {
                run.report.is_none()
                    && !matches!(
                        run.phase,
                        Phase::Replicating | Phase::Armed | Phase::Reversing | Phase::Watching
                    )
            });
        api::Status {
            schema_version: api::SCHEMA_VERSION,
            pipeline: self.pipeline.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            at: Timestamp::now(),
            phase: match facts.phase {
                _ if cutting_over => api::PipelinePhase::CuttingOver,
                _ if catching_up => api::PipelinePhase::CatchingUp,
                phase => phase,
            },
            since: facts.since,
            waiting_for: facts.waiting_for.clone().or(obstacle).or(unconfirmed),
            blue: facts.blue.clone(),
            green: facts.green.clone(),
            serving: None,
            sealed: None,
            direction: self.direction,
            lag: api::Lag::from(&lag),
            positions: positions(&facts, &frontier),
            streams: Vec::new(),
            finish: api::FinishState::default(),
            backfill: facts.copy.told.clone(),
            counters: self.counters(),
            // First what clients miss now.
            last_error: (facts.left_off.as_ref().map(LeftOff::problem))
                .or_else(|| facts.last_error.clone())
                .or_else(|| facts.log_problem.clone()),
            halt: facts.halted.as_ref().map(|halted| halted.shown.clone()),
            cutover,
            audit_broken: None,
            verification: None,
        }
    }

    /// What the alert rules look at.
    pub fn readings(&self) -> Readings {
        let lag_seconds = self.lag_now().seconds;
        let facts = self.facts();
        let slot = facts.slot;
        let ratio = slot.retained_bytes.zip(slot.retained_bytes_max);
        use api::PipelinePhase as Phase;
        Readings {
            lag_seconds,
            streaming_expected: matches!(
                facts.phase,
                Phase::CatchingUp | Phase::Streaming | Phase::CuttingOver | Phase::Reconnecting
            ),
            slot_retained_ratio: ratio.map(|(bytes, limit)| bytes as f64 / limit.max(1) as f64),
            halted: facts.phase == Phase::Halted,
            triggers_off: facts.left_off.as_ref().map_or(0, |left| left.what.len() as u64),
            ..Readings::default()
        }
    }

    /// What a scrape shows of this stream.
    pub fn sample(&self, protect: &ProtectConfig) -> StreamSample {
        let log = self.log_kept(protect);
        let stream = self.stream();
        let frontier = *self.progress.borrow();
        let totals = *self.totals.borrow();
        let facts = self.facts();
        let slot = facts.slot;
        let counters = &stream.counters;
        let bytes = |at: Lsn| if facts.terms.is_none() { at.0 } else { 0 };
        StreamSample {
            direction: self.direction,
            state: stream.state,
            carries: *self.carries.borrow(),
            lag_seconds: stream.lag.seconds,
            lag_bytes: stream.lag.bytes,
            drain_estimate_seconds: stream.lag.drain_estimate_seconds,
            source_position_bytes: bytes(facts.head.unwrap_or(Lsn::INVALID)),
            received_position_bytes: bytes(frontier.received()),
            applied_position_bytes: bytes(frontier.applied()),
            durable_position_bytes: bytes(frontier.durable()),
            acked_position_bytes: bytes(frontier.acked()),
            changes_applied: counters.inserts
                + counters.updates
                + counters.deletes
                + counters.truncates,
            transactions_applied: counters.transactions,
            batches_applied: totals.batches,
            windows_shared: totals.shared_windows,
            lane_conflicts: totals.conflicts,
            apply_errors: self.errors.load(Ordering::Relaxed),
            checkpoint_age_seconds: facts.confirmed.age(Instant::now()).as_secs_f64(),
            slot_retained_bytes: slot.retained_bytes,
            slot_retained_bytes_max: slot.retained_bytes_max,
            slot_retained_warn_bytes: log.budget.map(|budget| budget.warn),
            slot_fill_estimate_seconds: log.fills_in_seconds(),
            binlog_expire_seconds: log.binlog_expire_seconds,
            position_age_seconds: log.position_age_seconds,
            slot_active: slot.active,
            oldest_write_transaction_seconds: slot.oldest_write_transaction_seconds,
            fence_leaks: self.fence_leaks.load(Ordering::Relaxed),
            foreign_changes: stream.foreign.map_or(0, |foreign| foreign.changes),
        }
    }
}

/// How many names are shown.
const NAMED_MAX: usize = 5;

impl LeftOff {
    fn problem(&self) -> api::Problem {
        let named: Vec<_> = self.what.iter().take(NAMED_MAX).map(String::as_str).collect();
        let more = if self.what.len() > named.len() { "; .." } else { "" };
        api::Problem {
            what: format!("NOT MADE on {}, and tried again: {}{more}", self.side, named.join("; ")),
            place: self.side.name().into(),
            at: self.since,
            data_safe: true,
            next: Some(
                "end the sessions that lock its table, or run the statement yourself: what the trigger would have \
                 done for writes meanwhile is not done later"
                    .into(),
            ),
        }
    }
}

fn positions(facts: &Facts, frontier: &Frontier) -> api::Positions {
    let position = |lsn: Lsn| match &facts.terms {
        _ if !lsn.is_valid() => None,
        Some(terms) => terms.in_own_terms(lsn).map(api::Place::Gtid),
        None => Some(api::Place::Lsn(lsn)),
    };
    api::Positions {
        head: facts.head.and_then(position),
        received: position(frontier.received()),
        applied: position(frontier.applied()),
        durable: position(frontier.durable()),
        acked: position(frontier.acked()),
    }
}
