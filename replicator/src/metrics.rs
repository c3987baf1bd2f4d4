//! Prometheus metrics: names, and their text as of one moment.
//!
//! Every series is there from the start and stays when a peer is down: a series that vanishes with
//! the thing that it watches can't raise an alarm. What nobody knows is `NaN`, never 0, and has a
//! companion that is 0 or 1 (`cutover_lag_known`). Ages are computed at the scrape, so they grow
//! while everything else is stuck.

mod stream;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

pub use stream::StreamSample;

use crate::alerts::{Readings, series};

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

/// Upper bounds of `cutover_pause_seconds`.
const PAUSE_BUCKETS: [f64; 8] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Everything that a scrape shows, as of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// The pipeline's name: a label of every series.
    pub pipeline: String,
    /// One of [`STATES`].
    pub state: &'static str,
    /// Which database admits clients' writes: `blue`, `green` or `none`.
    pub serving: &'static str,
    /// Bytes between blue and green in memory, of both streams.
    pub queue_bytes: u64,
    /// Whether blue answers.
    pub blue_up: bool,
    /// Whether green answers.
    pub green_up: bool,
    /// The cutover's epoch; 0 before the first.
    pub epoch: u64,
    /// For how long the side that opened is still watched; 0 when it is not.
    pub watch_left_seconds: f64,
    /// Alerts that could not be delivered.
    pub alert_errors: u64,
    /// Whether the audit log is not what was written.
    pub audit_broken: bool,
    /// Runs of the cutover by outcome.
    pub runs: Vec<(&'static str, u64)>,
    /// Write pause of the last cutover.
    pub last_pause_seconds: Option<f64>,
    /// For how long the stream that carries has been halted; 0 when it is not.
    pub halted_seconds: f64,
    /// Write pauses of all runs that have moved the clients.
    pub pauses_seconds: Vec<f64>,
    /// What the alerts look at.
    pub alerts: Readings,
    /// Both streams.
    pub streams: Vec<StreamSample>,
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

    let serving = Family::<SideLabel, Gauge>::default();
    for (side, name) in [(Side::blue, "blue"), (Side::green, "green")] {
        serving.get_or_create(&SideLabel { side }).set((sample.serving == name).into());
    }
    registry.register("cutover_serving", "1 if the database admits clients' writes", serving);

    stream::register(registry, &sample.streams);

    let mut gauge = |name: &str, unit: Option<Unit>, help: &str, value: f64| {
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, ConstGauge::new(value)),
            None => registry.register(name, help, ConstGauge::new(value)),
        };
    };
    gauge(
        "cutover_queue",
        Some(Unit::Bytes),
        "Changes in memory between blue and green",
        sample.queue_bytes as f64,
    );
    gauge("cutover_epoch", None, "Number of the newest cutover run", sample.epoch as f64);
    gauge(
        "cutover_watch_left",
        Some(Unit::Seconds),
        "For how long the side that opened is still watched",
        sample.watch_left_seconds,
    );
    gauge(
        "cutover_write_pause",
        Some(Unit::Seconds),
        "Write pause of the last completed cutover",
        sample.last_pause_seconds.unwrap_or(f64::NAN),
    );
    gauge(
        "cutover_halted",
        Some(Unit::Seconds),
        "For how long the stream that carries has been halted; 0 when it is not",
        sample.halted_seconds,
    );
    gauge(
        "cutover_audit_broken",
        None,
        "1 if the audit log is not what was written",
        if sample.audit_broken { 1.0 } else { 0.0 },
    );
    let pauses = Histogram::new(PAUSE_BUCKETS);
    sample.pauses_seconds.iter().for_each(|pause| pauses.observe(*pause));
    registry.register_with_unit(
        "cutover_pause",
        "Write pauses of all cutovers and rollbacks that came to their end",
        Unit::Seconds,
        pauses,
    );
    registry.register(
        "cutover_alert_errors",
        "Alerts that could not be delivered",
        ConstCounter::new(sample.alert_errors),
    );
    let runs = Family::<OutcomeLabel, prometheus_client::metrics::counter::Counter>::default();
    for (outcome, total) in &sample.runs {
        runs.get_or_create(&OutcomeLabel { outcome }).inc_by(*total);
    }
    registry.register("cutover_runs", "Cutover runs by outcome", runs);

    series::register(registry, &sample.alerts);

    let mut text = String::new();
    encode(&mut text, &root)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use cutover::Direction;
    use cutover::api::StreamState;

    use super::*;

    fn unknown(direction: Direction, state: StreamState) -> StreamSample {
        StreamSample {
            direction,
            state,
            carries: direction == Direction::Forward,
            lag_seconds: None,
            lag_bytes: None,
            drain_estimate_seconds: None,
            source_position_bytes: 0,
            received_position_bytes: 0,
            applied_position_bytes: 0,
            durable_position_bytes: 0,
            acked_position_bytes: 0,
            changes_applied: 0,
            transactions_applied: 0,
            batches_applied: 0,
            windows_shared: 0,
            lane_conflicts: 0,
            apply_errors: 0,
            checkpoint_age_seconds: 1.5,
            slot_retained_bytes: None,
            slot_retained_bytes_max: None,
            slot_retained_warn_bytes: None,
            slot_fill_estimate_seconds: None,
            binlog_expire_seconds: None,
            position_age_seconds: 0.0,
            slot_active: false,
            oldest_write_transaction_seconds: None,
            fence_leaks: 0,
            foreign_changes: 0,
        }
    }

    #[test]
    fn every_series_of_both_streams_is_there_while_everything_is_down() {
        let text = render(&Sample {
            pipeline: "shop".into(),
            state: "reconnecting",
            serving: "green",
            runs: vec![("completed", 0)],
            pauses_seconds: vec![0.06, 3.0],
            streams: vec![
                unknown(Direction::Forward, StreamState::NotReady),
                unknown(Direction::Back, StreamState::NotArmed),
            ],
            ..Sample::default()
        })
        .unwrap();
        for line in [
            "cutover_state{pipeline=\"shop\",state=\"reconnecting\"} 1",
            "cutover_state{pipeline=\"shop\",state=\"streaming\"} 0",
            "cutover_serving{pipeline=\"shop\",side=\"green\"} 1",
            "cutover_serving{pipeline=\"shop\",side=\"blue\"} 0",
            "cutover_stream_state{pipeline=\"shop\",direction=\"back\",state=\"not_armed\"} 1",
            "cutover_stream_state{pipeline=\"shop\",direction=\"back\",state=\"carries\"} 0",
            "cutover_stream_carries{pipeline=\"shop\",direction=\"forward\"} 1",
            "cutover_stream_carries{pipeline=\"shop\",direction=\"back\"} 0",
            "cutover_lag_seconds{pipeline=\"shop\",direction=\"forward\"} NaN",
            "cutover_lag_known{pipeline=\"shop\",direction=\"back\"} 0",
            "cutover_audit_broken{pipeline=\"shop\"} 0.0",
            "cutover_lag_bytes{pipeline=\"shop\",direction=\"forward\"} NaN",
            "cutover_slot_retained_bytes_max{pipeline=\"shop\",direction=\"forward\"} -1",
            "cutover_source_up{pipeline=\"shop\",side=\"blue\"} 0",
            "cutover_apply_errors_total{pipeline=\"shop\",direction=\"forward\"} 0",
            "cutover_foreign_changes{pipeline=\"shop\",direction=\"back\"} 0",
            "cutover_slot_retained_warn_bytes{pipeline=\"shop\",direction=\"forward\"} NaN",
            "cutover_copy_restarts_total{pipeline=\"shop\"} 0",
            "cutover_copy_idle_seconds{pipeline=\"shop\"} NaN",
            "cutover_verify_state{pipeline=\"shop\",state=\"missing\"} 1",
            "cutover_state_dir_free_bytes{pipeline=\"shop\"} NaN",
            "cutover_proxy_up{pipeline=\"shop\"} NaN",
            "cutover_proxy_lost_age_seconds{pipeline=\"shop\"} NaN",
            "cutover_pause_seconds_count{pipeline=\"shop\"} 2",
            "cutover_pause_seconds_bucket{pipeline=\"shop\",le=\"0.1\"} 1",
            "cutover_halted_seconds{pipeline=\"shop\"} 0",
            "cutover_runs_total{pipeline=\"shop\",outcome=\"completed\"} 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
