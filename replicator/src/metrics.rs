//! Prometheus metrics: names, and their text as of one moment.
//!
//! Every series is there from the start and stays when a peer is down: a series that vanishes with
//! the thing that it watches can't raise an alarm. What nobody knows is `NaN`, never 0, and has a
//! companion that is 0 or 1 (`cutover_lag_known`). Ages are computed at the scrape, so they grow
//! while everything else is stuck.

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

/// The states of `cutover_state`, one of which is 1.
pub const STATES: [&str; 11] = [
    "starting",
    "copying",
    "indexing",
    "catching_up",
    "streaming",
    "cutting_over",
    "held",
    "cut_over",
    "reconnecting",
    "halted",
    "stopping",
];

/// Everything that a scrape shows, as of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// The pipeline's name: a label of every series.
    pub pipeline: String,
    /// One of [`STATES`].
    pub state: &'static str,
    /// Seconds behind blue; `None` when nobody knows.
    pub lag_seconds: Option<f64>,
    /// Bytes of blue's log behind; `None` when nobody knows.
    pub lag_bytes: Option<u64>,
    /// Seconds that the backlog will take at the present rate.
    pub drain_estimate_seconds: Option<f64>,
    /// Blue's head, as last seen.
    pub source_position_bytes: u64,
    /// Received from blue.
    pub received_position_bytes: u64,
    /// Applied on green.
    pub applied_position_bytes: u64,
    /// In the checkpoint.
    pub durable_position_bytes: u64,
    /// Told to blue.
    pub acked_position_bytes: u64,
    /// Row changes applied since the process started.
    pub changes_applied: u64,
    /// Transactions applied since the process started.
    pub transactions_applied: u64,
    /// Green transactions committed for them.
    pub batches_applied: u64,
    /// Windows that were shared out to several lanes.
    pub windows_shared: u64,
    /// Shares that green refused beside the others, and took after them.
    pub lane_conflicts: u64,
    /// Errors that ended a run of the stream.
    pub apply_errors: u64,
    /// Bytes between blue and green in memory.
    pub queue_bytes: u64,
    /// Seconds since the checkpoint was last written or found complete.
    pub checkpoint_age_seconds: f64,
    /// WAL that the slot retains on blue; `None` when blue does not answer.
    pub slot_retained_bytes: Option<u64>,
    /// `max_slot_wal_keep_size`; `None` without a limit.
    pub slot_retained_bytes_max: Option<u64>,
    /// Whether a walsender serves the slot.
    pub slot_active: bool,
    /// Whether blue answers.
    pub blue_up: bool,
    /// Whether green answers.
    pub green_up: bool,
    /// Age of the oldest transaction on blue that has written; 0 without one.
    pub oldest_write_transaction_seconds: Option<f64>,
    /// The cutover's epoch; 0 before the first.
    pub epoch: u64,
    /// Changes seen behind a fence since the process started.
    pub fence_leaks: u64,
    /// Alerts that could not be delivered.
    pub alert_errors: u64,
    /// Runs of the cutover by outcome.
    pub runs: Vec<(&'static str, u64)>,
    /// Write pause of the last cutover.
    pub last_pause_seconds: Option<f64>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SideLabel {
    side: Side,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the label's values are lower case")]
enum Side {
    blue,
    green,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VersionLabel {
    version: &'static str,
}

/// The scrape's text (OpenMetrics, <https://prometheus.io/docs/specs/om/open_metrics_spec/>).
///
/// # Errors
/// Formatting only; not seen in practice.
pub fn render(sample: &Sample) -> Result<String, std::fmt::Error> {
    let pipeline = ("pipeline".into(), sample.pipeline.clone().into());
    let mut root = Registry::default();
    let registry = root.sub_registry_with_labels([pipeline].into_iter());

    let state = Family::<StateLabel, Gauge>::default();
    for name in STATES {
        state.get_or_create(&StateLabel { state: name }).set((name == sample.state).into());
    }
    registry.register("cutover_state", "1 for the state that the pipeline is in", state);

    let up = Family::<SideLabel, Gauge>::default();
    up.get_or_create(&SideLabel { side: Side::blue }).set(sample.blue_up.into());
    up.get_or_create(&SideLabel { side: Side::green }).set(sample.green_up.into());
    registry.register("cutover_source_up", "1 if the database answers", up);

    let version = Family::<VersionLabel, Gauge>::default();
    version.get_or_create(&VersionLabel { version: env!("CARGO_PKG_VERSION") }).set(1);
    registry.register("cutover_build_info", "Version of the replicator", version);

    let mut gauge = |name: &str, unit: Option<Unit>, help: &str, value: f64| {
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, ConstGauge::new(value)),
            None => registry.register(name, help, ConstGauge::new(value)),
        };
    };
    let seconds = || Some(Unit::Seconds);
    let bytes = || Some(Unit::Bytes);
    let known = |value: Option<f64>| value.unwrap_or(f64::NAN);
    let count = |value: Option<u64>| value.map_or(f64::NAN, |value| value as f64);
    let flag = |value: bool| if value { 1.0 } else { 0.0 };
    gauge("cutover_lag", seconds(), "How far green is behind blue", known(sample.lag_seconds));
    gauge(
        "cutover_lag_known",
        None,
        "0 if nobody knows the lag",
        flag(sample.lag_seconds.is_some()),
    );
    gauge("cutover_lag", bytes(), "Blue's log that green lacks", count(sample.lag_bytes));
    gauge(
        "cutover_drain_estimate",
        seconds(),
        "Time that the backlog will take at the present rate",
        known(sample.drain_estimate_seconds),
    );
    let positions = [
        ("cutover_source_position", "Head of blue's log", sample.source_position_bytes),
        ("cutover_received_position", "Received from blue", sample.received_position_bytes),
        ("cutover_applied_position", "Applied on green", sample.applied_position_bytes),
        ("cutover_durable_position", "Recorded in the checkpoint", sample.durable_position_bytes),
        (
            "cutover_acked_position",
            "Told to blue, which may forget it",
            sample.acked_position_bytes,
        ),
    ];
    for (name, help, value) in positions {
        gauge(name, bytes(), help, value as f64);
    }
    gauge(
        "cutover_queue",
        bytes(),
        "Changes in memory between blue and green",
        sample.queue_bytes as f64,
    );
    gauge(
        "cutover_checkpoint_age",
        seconds(),
        "Time since the checkpoint last covered everything applied",
        sample.checkpoint_age_seconds,
    );
    gauge(
        "cutover_slot_retained",
        bytes(),
        "Log that the slot makes blue keep",
        count(sample.slot_retained_bytes),
    );
    gauge(
        "cutover_slot_retained_bytes_max",
        None,
        "max_slot_wal_keep_size of blue; -1 without a limit",
        sample.slot_retained_bytes_max.map_or(-1.0, |limit| limit as f64),
    );
    gauge("cutover_slot_active", None, "1 if blue is sending", flag(sample.slot_active));
    gauge(
        "cutover_source_oldest_write_txn",
        seconds(),
        "Age of the oldest open transaction that has written on blue",
        known(sample.oldest_write_transaction_seconds),
    );
    gauge("cutover_epoch", None, "Number of the newest cutover run", sample.epoch as f64);
    gauge(
        "cutover_write_pause",
        seconds(),
        "Write pause of the last completed cutover",
        known(sample.last_pause_seconds),
    );
    let counters = [
        ("cutover_changes_applied", "Row changes applied", sample.changes_applied),
        (
            "cutover_transactions_applied",
            "Blue's transactions applied",
            sample.transactions_applied,
        ),
        ("cutover_batches_applied", "Green's transactions for them", sample.batches_applied),
        (
            "cutover_windows_shared",
            "Windows of transactions that went to several lanes",
            sample.windows_shared,
        ),
        (
            "cutover_lane_conflicts",
            "Shares of a window that green took only after the other lanes'",
            sample.lane_conflicts,
        ),
        ("cutover_apply_errors", "Errors that ended a run of the stream", sample.apply_errors),
        ("cutover_fence_leaks", "Row changes seen behind a fence", sample.fence_leaks),
        ("cutover_alert_errors", "Alerts that could not be delivered", sample.alert_errors),
    ];
    for (name, help, value) in counters {
        registry.register(name, help, ConstCounter::new(value));
    }
    let runs = Family::<OutcomeLabel, prometheus_client::metrics::counter::Counter>::default();
    for (outcome, total) in &sample.runs {
        runs.get_or_create(&OutcomeLabel { outcome }).inc_by(*total);
    }
    registry.register("cutover_runs", "Cutover runs by outcome", runs);

    let mut text = String::new();
    encode(&mut text, &root)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_there_while_everything_is_down() {
        let text = render(&Sample {
            pipeline: "shop".into(),
            state: "reconnecting",
            runs: vec![("completed", 0)],
            ..Sample::default()
        })
        .unwrap();
        for line in [
            "cutover_state{pipeline=\"shop\",state=\"reconnecting\"} 1",
            "cutover_state{pipeline=\"shop\",state=\"streaming\"} 0",
            "cutover_lag_seconds{pipeline=\"shop\"} NaN",
            "cutover_lag_known{pipeline=\"shop\"} 0",
            "cutover_lag_bytes{pipeline=\"shop\"} NaN",
            "cutover_slot_retained_bytes_max{pipeline=\"shop\"} -1",
            "cutover_source_up{pipeline=\"shop\",side=\"blue\"} 0",
            "cutover_apply_errors_total{pipeline=\"shop\"} 0",
            "cutover_runs_total{pipeline=\"shop\",outcome=\"completed\"} 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
