//! The alerts' readings as metrics: what `replicator/alerts/cutover.rules.yml` asks for.

use cutover::api::MonitorState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use super::rules::Readings;
use super::upkeep::{Proof, Upkeep};

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
            "cutover_triggers_off",
            "Triggers and rules that a flip had to leave off on the side that serves",
            readings.triggers_off as f64,
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
    register_upkeep(registry, &readings.upkeep);
}

fn register_upkeep(registry: &mut Registry, upkeep: &Upkeep) {
    let states = Family::<MonitorLabel, Gauge>::default();
    for proof in Proof::ALL {
        let label = MonitorLabel { state: proof.name() };
        states.get_or_create(&label).set((proof == upkeep.verify.standing).into());
    }
    let help = "1 for what the newest verification is worth";
    registry.register("cutover_verify_state", help, states);
    let Upkeep { copy, verify, proxy, .. } = upkeep;
    let help = "How often a copy that had begun was begun again";
    registry.register("cutover_copy_restarts", help, ConstCounter::new(copy.restarts));
    let number = |value: u64| value as f64;
    let count = |value: Option<u64>| value.map_or(f64::NAN, number);
    let known = |value: Option<f64>| value.unwrap_or(f64::NAN);
    let (bytes, seconds) = (|| Some(Unit::Bytes), || Some(Unit::Seconds));
    let gauges = [
        ("cutover_copy_tables", None, "Tables of the first copy", number(copy.tables)),
        ("cutover_copy_tables_done", None, "Tables that are copied", number(copy.tables_done)),
        ("cutover_copy_rows", None, "Rows copied so far", number(copy.rows)),
        ("cutover_copy_size", bytes(), "Copied so far", number(copy.bytes)),
        (
            "cutover_copy_estimate",
            bytes(),
            "Estimated size of all tables",
            number(copy.bytes_estimated),
        ),
        ("cutover_copy_eta", seconds(), "Estimated time left of the copy", known(copy.eta_seconds)),
        (
            "cutover_copy_idle",
            seconds(),
            "While rows are copied: for how long none has come",
            known(copy.idle_seconds),
        ),
        (
            "cutover_copy_restart_age",
            seconds(),
            "Time since the copy was last begun again",
            known(copy.restart_age_seconds),
        ),
        (
            "cutover_verify_differences",
            None,
            "Differences that were found and not put right",
            number(verify.differences),
        ),
        (
            "cutover_verify_proof_age",
            seconds(),
            "Age of the newest proof that both sides are equal",
            known(verify.proof_age_seconds),
        ),
        (
            "cutover_proxy_up",
            None,
            "1 if our own proxy answers, 0 if not",
            known(proxy.up.map(|up| f64::from(u8::from(up)))),
        ),
        (
            "cutover_proxy_lost_age",
            seconds(),
            "Time since our own proxy was last lost, and its clients with it; 0 while it is",
            known(proxy.lost_age_seconds),
        ),
        (
            "cutover_state_dir_free",
            bytes(),
            "Left on the state directory's disk",
            count(upkeep.state_dir_free_bytes),
        ),
        (
            "cutover_state_dir_size",
            bytes(),
            "Size of the state directory's disk",
            count(upkeep.state_dir_bytes),
        ),
        ("cutover_open_fds", None, "Descriptors that are open", count(upkeep.open_fds)),
        ("cutover_open_fds_max", None, "How many may be open", count(upkeep.open_fds_max)),
    ];
    for (name, unit, help, value) in gauges {
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, ConstGauge::new(value)),
            None => registry.register(name, help, ConstGauge::new(value)),
        }
    }
}
