//! The alerts' readings as metrics: what `replicator/alerts/cutover.rules.yml` asks for.

use cutover::api::MonitorState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::rules::Readings;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MonitorLabel {
    state: &'static str,
}

/// Adds them to a scrape.
pub(crate) fn register(registry: &mut Registry, readings: &Readings) {
    let monitors = Family::<MonitorLabel, Gauge>::default();
    for state in MonitorState::ALL {
        let count = readings.runs.monitors_in(state);
        let label = MonitorLabel { state: state.name() };
        monitors.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register("cutover_watch_monitors", "Monitors of the side that is watched", monitors);
    let flag = |value: bool| if value { 1.0 } else { 0.0 };
    let gauges = [
        (
            "cutover_watch_breached",
            "1 while a monitor is breached or the rollback that it led to is not over",
            flag(readings.runs.breached),
        ),
        (
            "cutover_watch_rolled_back",
            "1 once the clients were taken back by the sidecar itself",
            flag(readings.runs.rolled_back),
        ),
        (
            "cutover_watch_rollback_failed",
            "1 if a rollback that the sidecar began by itself did not come to its end",
            flag(readings.runs.rollback_failed),
        ),
        (
            "cutover_routers_unverified",
            "Routers not seen to lead to the side that serves",
            readings.runs.routers_unverified as f64,
        ),
        (
            "cutover_way_back_broken",
            "1 if green serves and nobody knows how far blue is behind",
            flag(readings.is_way_back_broken()),
        ),
    ];
    for (name, help, value) in gauges {
        registry.register(name, help, ConstGauge::new(value));
    }
}
