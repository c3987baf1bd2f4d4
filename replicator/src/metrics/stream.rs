//! What is measured of each of the two streams, told apart by the label `direction`: `forward` from
//! blue to green, `back` from green to blue.

use std::sync::atomic::AtomicU64;

use cutover::api::StreamState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// A stream, as of one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamSample {
    /// Which way it goes.
    pub direction: cutover::Direction,
    /// What it does.
    pub state: StreamState,
    /// Whether what its source writes goes to its target, or will: else it stands by.
    pub carries: bool,
    /// Seconds behind its source; `None` when nobody knows.
    pub lag_seconds: Option<f64>,
    /// Bytes of the source's log behind; `None` when nobody knows.
    pub lag_bytes: Option<u64>,
    /// Seconds that the backlog will take at the present rate.
    pub drain_estimate_seconds: Option<f64>,
    /// The source's head, as last seen.
    pub source_position_bytes: u64,
    /// Received from the source.
    pub received_position_bytes: u64,
    /// Applied on the target.
    pub applied_position_bytes: u64,
    /// In the checkpoint.
    pub durable_position_bytes: u64,
    /// Told to the source.
    pub acked_position_bytes: u64,
    /// Row changes applied since the process started.
    pub changes_applied: u64,
    /// Transactions applied since the process started.
    pub transactions_applied: u64,
    /// The target's transactions committed for them.
    pub batches_applied: u64,
    /// Windows that were shared out to several lanes.
    pub windows_shared: u64,
    /// Shares that the target refused beside the others, and took after them.
    pub lane_conflicts: u64,
    /// Errors that ended a run of the stream.
    pub apply_errors: u64,
    /// Seconds since the checkpoint was last written or found complete.
    pub checkpoint_age_seconds: f64,
    /// WAL that the slot retains on the source; `None` when it does not answer.
    pub slot_retained_bytes: Option<u64>,
    /// `max_slot_wal_keep_size`; `None` without a limit.
    pub slot_retained_bytes_max: Option<u64>,
    /// Retained log that somebody should know about; `None` when the slot is not known.
    pub slot_retained_warn_bytes: Option<u64>,
    /// Seconds until as much is retained as may be; `None` without a limit, or while it does not grow.
    pub slot_fill_estimate_seconds: Option<f64>,
    /// After what time the source removes a binlog; `None` for PostgreSQL.
    pub binlog_expire_seconds: Option<u64>,
    /// Age of what is read next, seconds.
    pub position_age_seconds: f64,
    /// Whether a walsender serves the slot.
    pub slot_active: bool,
    /// Age of the oldest transaction on the source that has written; 0 without one.
    pub oldest_write_transaction_seconds: Option<f64>,
    /// Changes seen behind a fence since the process started.
    pub fence_leaks: u64,
    /// Changes by somebody else on a side that must not be written; held, not applied.
    pub foreign_changes: u64,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    direction: &'static str,
    state: &'static str,
}

type Numbers = Family<Labels, Gauge<f64, AtomicU64>>;

fn known(value: Option<f64>) -> f64 {
    value.unwrap_or(f64::NAN)
}

fn count(value: Option<u64>) -> f64 {
    value.map_or(f64::NAN, |value| value as f64)
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// Adds the series of `streams`.
pub(super) fn register(registry: &mut Registry, streams: &[StreamSample]) {
    let states = Family::<StateLabels, Gauge>::default();
    for stream in streams {
        for state in StreamState::ALL {
            let (direction, name) = (stream.direction.name(), state.name());
            let labels = StateLabels { direction, state: name };
            states.get_or_create(&labels).set((state == stream.state).into());
        }
    }
    registry.register("cutover_stream_state", "1 for the state that the stream is in", states);
    gauges(registry, streams);
    counters(registry, streams);
}

fn gauges(registry: &mut Registry, streams: &[StreamSample]) {
    let mut gauge =
        |name: &str, unit: Option<Unit>, help: &str, value: &dyn Fn(&StreamSample) -> f64| {
            let numbers = Numbers::default();
            for stream in streams {
                let labels = Labels { direction: stream.direction.name() };
                numbers.get_or_create(&labels).set(value(stream));
            }
            match unit {
                Some(unit) => registry.register_with_unit(name, help, unit, numbers),
                None => registry.register(name, help, numbers),
            }
        };
    let seconds = || Some(Unit::Seconds);
    let bytes = || Some(Unit::Bytes);
    gauge(
        "cutover_stream_carries",
        None,
        "1 if what the stream's source writes goes to its target, 0 if it stands by",
        &|stream| flag(stream.carries),
    );
    gauge("cutover_lag", seconds(), "How far the target is behind the source", &|stream| {
        known(stream.lag_seconds)
    });
    gauge("cutover_lag_known", None, "0 if nobody knows the lag", &|stream| {
        flag(stream.lag_seconds.is_some())
    });
    gauge("cutover_lag", bytes(), "The source's log that the target lacks", &|stream| {
        count(stream.lag_bytes)
    });
    gauge(
        "cutover_drain_estimate",
        seconds(),
        "Time that the backlog will take at the present rate",
        &|stream| known(stream.drain_estimate_seconds),
    );
    gauge("cutover_source_position", bytes(), "Head of the source's log", &|stream| {
        stream.source_position_bytes as f64
    });
    gauge("cutover_received_position", bytes(), "Received from the source", &|stream| {
        stream.received_position_bytes as f64
    });
    gauge("cutover_applied_position", bytes(), "Applied on the target", &|stream| {
        stream.applied_position_bytes as f64
    });
    gauge("cutover_durable_position", bytes(), "Recorded in the checkpoint", &|stream| {
        stream.durable_position_bytes as f64
    });
    gauge(
        "cutover_acked_position",
        bytes(),
        "Told to the source, which may forget it",
        &|stream| stream.acked_position_bytes as f64,
    );
    gauge(
        "cutover_checkpoint_age",
        seconds(),
        "Time since the checkpoint last covered everything applied",
        &|stream| stream.checkpoint_age_seconds,
    );
    gauge("cutover_slot_retained", bytes(), "Log that the slot makes its server keep", &|stream| {
        count(stream.slot_retained_bytes)
    });
    gauge(
        "cutover_slot_retained_bytes_max",
        None,
        "max_slot_wal_keep_size of the source; -1 without a limit",
        &|stream| stream.slot_retained_bytes_max.map_or(-1.0, |limit| limit as f64),
    );
    gauge(
        "cutover_slot_retained_warn",
        bytes(),
        "Retained log that somebody should know about (protect.retained_wal_warn_bytes)",
        &|stream| count(stream.slot_retained_warn_bytes),
    );
    gauge(
        "cutover_slot_fill_estimate",
        seconds(),
        "Time until the slot retains as much log as it may, at the present rate",
        &|stream| known(stream.slot_fill_estimate_seconds),
    );
    gauge(
        "cutover_binlog_expire",
        seconds(),
        "After what time the source removes a binlog, read or not; 0 never",
        &|stream| count(stream.binlog_expire_seconds),
    );
    gauge(
        "cutover_position_age",
        seconds(),
        "Age of what the stream reads next, at most",
        &|stream| stream.position_age_seconds,
    );
    gauge("cutover_slot_active", None, "1 if the source is sending", &|stream| {
        flag(stream.slot_active)
    });
    gauge(
        "cutover_source_oldest_write_txn",
        seconds(),
        "Age of the oldest open transaction that has written on the source",
        &|stream| known(stream.oldest_write_transaction_seconds),
    );
    gauge(
        "cutover_foreign_changes",
        None,
        "Row changes by somebody else on a side that must not be written; held, never applied",
        &|stream| stream.foreign_changes as f64,
    );
}

fn counters(registry: &mut Registry, streams: &[StreamSample]) {
    let mut counter = |name: &str, help: &str, value: fn(&StreamSample) -> u64| {
        let totals = Family::<Labels, Counter>::default();
        for stream in streams {
            let labels = Labels { direction: stream.direction.name() };
            totals.get_or_create(&labels).inc_by(value(stream));
        }
        registry.register(name, help, totals);
    };
    counter("cutover_changes_applied", "Row changes applied", |stream| stream.changes_applied);
    counter("cutover_transactions_applied", "The source's transactions applied", |stream| {
        stream.transactions_applied
    });
    counter("cutover_batches_applied", "The target's transactions for them", |stream| {
        stream.batches_applied
    });
    counter(
        "cutover_windows_shared",
        "Windows of transactions that went to several lanes",
        |stream| stream.windows_shared,
    );
    counter(
        "cutover_lane_conflicts",
        "Shares of a window that the target took only after the other lanes'",
        |stream| stream.lane_conflicts,
    );
    counter("cutover_apply_errors", "Errors that ended a run of the stream", |stream| {
        stream.apply_errors
    });
    counter("cutover_fence_leaks", "Row changes seen behind a fence", |stream| stream.fence_leaks);
}
