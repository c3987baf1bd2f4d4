//! The alert rules and what they read.

use cutover::api::MonitorState;

use super::config::{AlertsConfig, RuleConfig};
use super::runs::RunReadings;
use super::upkeep::{Proof, Upkeep};

/// What the rules look at, as of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Readings {
    /// Lag in seconds; `None` when nobody knows.
    pub lag_seconds: Option<f64>,
    /// Whether lag is meant to be known: the stream has taken over from the copy.
    pub streaming_expected: bool,
    /// Bytes of WAL that the slot retains on blue, over `max_slot_wal_keep_size`; `None` without a limit.
    pub slot_retained_ratio: Option<f64>,
    /// The stream stopped and waits for a person.
    pub halted: bool,
    /// Triggers and rules that a flip had to leave off on the side that serves.
    pub triggers_off: u64,
    /// Whether the stream is the way back: green serves, and blue follows.
    pub way_back: bool,
    /// The runs and the monitors of a time of watching.
    pub runs: RunReadings,
    /// Everything that keeps them up.
    pub upkeep: Upkeep,
}

/// Bytes that the state directory's disk should have left.
pub(super) const STATE_DIR_FREE_BYTES: f64 = (1u64 << 30) as f64;
/// For how long it is said that a copy was begun again, or that the proxy was gone.
const SHOWN_SECONDS: f64 = 600.0;
/// What is left has to last for more than this.
const HOUR_SECONDS: f64 = 3600.0;

impl Readings {
    /// Whether green serves and nothing brings what it writes to blue.
    pub fn is_way_back_broken(&self) -> bool {
        let blind = self.streaming_expected && self.lag_seconds.is_none();
        self.way_back && (self.halted || blind)
    }
}

/// Name of a rule; the same in the Prometheus rules file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleName {
    /// Lag above the first level.
    LagHigh,
    /// Lag above the second level.
    LagCritical,
    /// Lag not known.
    LagUnknown,
    /// The slot retains too much of blue's WAL.
    SlotRetention,
    /// The slot retains much log, whether or not there is a limit.
    SlotRetained,
    /// It will, within an hour.
    SlotGrowing,
    /// It will retain as much as it may, within an hour.
    SlotFilling,
    /// A binlog is about to be removed before it was read.
    BinlogExpiring,
    /// The copy brings no rows.
    CopyStalled,
    /// A copy that had begun was begun again.
    CopyRestarted,
    /// A verification has found differences.
    VerifyDifferences,
    /// A verification that goes on counts no more.
    ProofLost,
    /// The state directory's disk is nearly full.
    StateDirFull,
    /// The stream stopped and waits for a person.
    ReplicationHalted,
    /// Green serves, and blue is far behind.
    WayBackLagging,
    /// Green serves, and nothing brings what it writes to blue.
    WayBackBroken,
    /// A monitor is breached.
    WatchBreach,
    /// A monitor says nothing.
    WatchInconclusive,
    /// The sidecar has taken the clients back by itself.
    RolledBack,
    /// The sidecar wanted to, and could not.
    RollbackFailed,
    /// A run waits for a person.
    Held,
    /// A router was not seen to lead where it should.
    RouterUnverified,
    /// A flip had to leave triggers off on the side that serves.
    TriggersOff,
    /// Our own proxy does not answer, or did not a short while ago.
    ProxyGone,
    /// The audit log is not what was written.
    AuditBroken,
}

impl RuleName {
    /// The name as it is sent.
    pub fn as_str(self) -> &'static str {
        match self {
            RuleName::LagHigh => "CutoverLagHigh",
            RuleName::LagCritical => "CutoverLagCritical",
            RuleName::LagUnknown => "CutoverLagUnknown",
            RuleName::SlotRetention => "CutoverSlotRetention",
            RuleName::SlotRetained => "CutoverSlotRetained",
            RuleName::SlotGrowing => "CutoverSlotGrowing",
            RuleName::SlotFilling => "CutoverSlotFilling",
            RuleName::BinlogExpiring => "CutoverBinlogExpiring",
            RuleName::CopyStalled => "CutoverCopyStalled",
            RuleName::CopyRestarted => "CutoverCopyRestarted",
            RuleName::VerifyDifferences => "CutoverVerifyDifferences",
            RuleName::ProofLost => "CutoverProofLost",
            RuleName::StateDirFull => "CutoverStateDirFull",
            RuleName::ReplicationHalted => "CutoverReplicationHalted",
            RuleName::WayBackLagging => "CutoverWayBackLagging",
            RuleName::WayBackBroken => "CutoverWayBackBroken",
            RuleName::WatchBreach => "CutoverWatchBreach",
            RuleName::WatchInconclusive => "CutoverWatchInconclusive",
            RuleName::RolledBack => "CutoverRolledBack",
            RuleName::RollbackFailed => "CutoverRollbackFailed",
            RuleName::Held => "CutoverHeld",
            RuleName::RouterUnverified => "CutoverRouterUnverified",
            RuleName::TriggersOff => "CutoverTriggersOff",
            RuleName::ProxyGone => "CutoverProxyGone",
            RuleName::AuditBroken => "CutoverAuditBroken",
        }
    }
}

/// How urgent an alert is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// In the morning.
    Warning,
    /// Now.
    Page,
}

impl Severity {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Page => "page",
        }
    }
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Its name.
    pub name: RuleName,
    /// Its urgency.
    pub severity: Severity,
    /// Its levels.
    pub levels: RuleConfig,
}

impl Rule {
    /// The value that the levels are held against; `None` when it is not known or does not apply.
    pub fn value(&self, readings: &Readings) -> Option<f64> {
        let as_number = |flag: bool| if flag { 1.0 } else { 0.0 };
        let upkeep = &readings.upkeep;
        let log = &upkeep.log;
        match self.name {
            // What is about blue's stream is over once green serves; the way back has its own rules.
            RuleName::LagHigh
            | RuleName::LagCritical
            | RuleName::LagUnknown
            | RuleName::ReplicationHalted
                if readings.way_back =>
            {
                Some(0.0)
            }
            RuleName::WayBackLagging if !readings.way_back => Some(0.0),
            RuleName::LagHigh | RuleName::LagCritical | RuleName::WayBackLagging => {
                readings.lag_seconds
            }
            RuleName::LagUnknown => {
                let unknown = readings.streaming_expected && readings.lag_seconds.is_none();
                Some(as_number(unknown))
            }
            RuleName::SlotRetention => readings.slot_retained_ratio,
            // A slot that is gone retains nothing.
            RuleName::SlotRetained => Some(log.retained_ratio().unwrap_or(0.0)),
            RuleName::SlotGrowing => Some(log.retained_ratio_in_an_hour().unwrap_or(0.0)),
            RuleName::SlotFilling => {
                let left = log.fills_in_seconds();
                Some(left.map_or(0.0, |left| HOUR_SECONDS / left.max(1.0)))
            }
            RuleName::BinlogExpiring => log.binlog_age_ratio(),
            RuleName::CopyStalled => Some(upkeep.copy.idle_seconds.unwrap_or(0.0)),
            RuleName::CopyRestarted => {
                let age = upkeep.copy.restart_age_seconds;
                Some(as_number(age.is_some_and(|age| age < SHOWN_SECONDS)))
            }
            RuleName::VerifyDifferences => Some(upkeep.verify.differences as f64),
            RuleName::ProofLost => Some(as_number(upkeep.verify.standing == Proof::Lost)),
            RuleName::StateDirFull => {
                Some(STATE_DIR_FREE_BYTES / upkeep.state_dir_free_bytes?.max(1) as f64)
            }
            RuleName::ReplicationHalted => Some(as_number(readings.halted)),
            RuleName::WayBackBroken => Some(as_number(readings.is_way_back_broken())),
            RuleName::WatchBreach => Some(as_number(readings.runs.breached)),
            RuleName::WatchInconclusive => {
                Some(readings.runs.monitors_in(MonitorState::Inconclusive) as f64)
            }
            RuleName::RolledBack => Some(as_number(readings.runs.rolled_back)),
            RuleName::RollbackFailed => Some(as_number(readings.runs.rollback_failed)),
            RuleName::Held => Some(as_number(readings.runs.held)),
            RuleName::RouterUnverified => Some(readings.runs.routers_unverified as f64),
            RuleName::TriggersOff => Some(readings.triggers_off as f64),
            RuleName::ProxyGone => {
                let age = upkeep.proxy.lost_age_seconds;
                Some(as_number(age.is_some_and(|age| age < SHOWN_SECONDS)))
            }
            RuleName::AuditBroken => Some(as_number(upkeep.audit_broken)),
        }
    }

    /// One sentence for a person.
    pub fn summary(&self) -> &'static str {
        match self.name {
            RuleName::LagHigh => "green is behind blue",
            RuleName::LagCritical => "green is far behind blue",
            RuleName::LagUnknown => "nobody knows how far green is behind blue",
            RuleName::SlotRetention => {
                "the replication slot retains much of the WAL that max_slot_wal_keep_size allows"
            }
            RuleName::SlotRetained => {
                "the server that serves retains much log for our slot: watch its disk, cutover status"
            }
            RuleName::SlotGrowing => {
                "within an hour the server that serves will retain much log for our slot: cutover status"
            }
            RuleName::SlotFilling => {
                "within an hour the slot will retain as much log as it may, and be given up: cutover status"
            }
            RuleName::BinlogExpiring => {
                "a binlog that is not read yet is removed soon (binlog_expire_logs_seconds): cutover status"
            }
            RuleName::CopyStalled => "the copy brings no rows: cutover status",
            RuleName::CopyRestarted => "the copy was begun again from nothing: cutover status",
            RuleName::VerifyDifferences => {
                "a verification has found differences between both sides: cutover verify, cutover repair"
            }
            RuleName::ProofLost => {
                "a verification that goes on proves nothing any more: cutover verify --continuous"
            }
            RuleName::StateDirFull => "the state directory's disk is nearly full",
            RuleName::ReplicationHalted => {
                "replication stopped and waits for a person; blue is serving: cutover status"
            }
            RuleName::WayBackLagging => "green serves, and blue is far behind: no rollback soon",
            RuleName::WayBackBroken => {
                "green serves, and what it writes does not get to blue: no rollback is possible"
            }
            RuleName::WatchBreach => "after the flip a monitor is breached: cutover status",
            RuleName::WatchInconclusive => "after the flip a monitor has no data: cutover status",
            RuleName::RolledBack => {
                "a monitor was breached after the flip: the clients were taken back, blue serves"
            }
            RuleName::RollbackFailed => {
                "a rollback that a monitor asked for did not come to its end: cutover status"
            }
            RuleName::Held => "the cutover needs a person: cutover status",
            RuleName::RouterUnverified => {
                "a router was not seen to lead to the side that serves: cutover status"
            }
            RuleName::TriggersOff => {
                "triggers are off on the side that serves, and their work is not done: cutover status"
            }
            RuleName::ProxyGone => {
                "the proxy does not answer, or was gone a short while ago, and its clients were cut: proxy.log"
            }
            RuleName::AuditBroken => {
                "the audit log is not what was written: cutover audit --verify"
            }
        }
    }
}

/// All rules with the configured levels.
pub(super) fn rules(config: &AlertsConfig) -> Vec<Rule> {
    let at_once = RuleConfig { raise: 0.5, clear: 0.5, for_seconds: 0.0 };
    let rule = |name, severity, levels| Rule { name, severity, levels };
    vec![
        Rule { name: RuleName::LagHigh, severity: Severity::Warning, levels: config.lag_high },
        Rule { name: RuleName::LagCritical, severity: Severity::Page, levels: config.lag_critical },
        Rule { name: RuleName::LagUnknown, severity: Severity::Page, levels: config.lag_unknown },
        Rule {
            name: RuleName::SlotRetention,
            severity: Severity::Warning,
            levels: config.slot_retention,
        },
        rule(RuleName::SlotRetained, Severity::Warning, config.slot_retained),
        rule(RuleName::SlotGrowing, Severity::Warning, config.slot_growing),
        rule(RuleName::SlotFilling, Severity::Page, config.slot_filling),
        rule(RuleName::BinlogExpiring, Severity::Page, config.binlog_expiring),
        rule(RuleName::CopyStalled, Severity::Warning, config.copy_stalled),
        rule(RuleName::CopyRestarted, Severity::Warning, at_once),
        rule(RuleName::VerifyDifferences, Severity::Page, at_once),
        rule(RuleName::ProofLost, Severity::Warning, at_once),
        rule(RuleName::StateDirFull, Severity::Page, config.state_dir_full),
        rule(RuleName::ReplicationHalted, Severity::Page, at_once),
        rule(RuleName::WayBackLagging, Severity::Warning, config.way_back_lag),
        rule(RuleName::WayBackBroken, Severity::Page, config.way_back_broken),
        rule(RuleName::WatchBreach, Severity::Page, at_once),
        rule(RuleName::WatchInconclusive, Severity::Warning, config.watch_inconclusive),
        rule(RuleName::RolledBack, Severity::Warning, at_once),
        rule(RuleName::RollbackFailed, Severity::Page, at_once),
        rule(RuleName::Held, Severity::Page, at_once),
        rule(RuleName::RouterUnverified, Severity::Warning, at_once),
        rule(RuleName::TriggersOff, Severity::Page, at_once),
        rule(RuleName::ProxyGone, Severity::Page, at_once),
        rule(RuleName::AuditBroken, Severity::Page, at_once),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: RuleName, readings: Readings) -> Option<f64> {
        let all = rules(&AlertsConfig::default());
        all.iter().find(|rule| rule.name == name).unwrap().value(&readings)
    }

    #[test]
    fn unknown_lag_is_a_reading_of_its_own_once_the_stream_should_run() {
        let copying = Readings::default();
        assert_eq!(value(RuleName::LagUnknown, copying), Some(0.0));
        let blind = Readings { streaming_expected: true, ..copying };
        assert_eq!(value(RuleName::LagUnknown, blind), Some(1.0));
        assert_eq!(value(RuleName::LagHigh, blind), None);
    }

    #[test]
    fn what_keeps_a_move_up_has_levels_of_its_own() {
        use super::super::{CopyReadings, LogReadings, ProxyReadings, VerifyReadings};
        use crate::protect::wal::Budget;
        let of = |name, upkeep| value(name, Readings { upkeep, ..Readings::default() });
        let log = LogReadings {
            retained_bytes: Some(30),
            budget: Some(Budget { warn: 20, limit: None }),
            growth_bytes_per_second: Some(1.0),
            binlog_expire_seconds: Some(100),
            position_age_seconds: 60.0,
        };
        let upkeep = Upkeep { log, ..Upkeep::default() };
        assert_eq!(of(RuleName::SlotRetained, upkeep), Some(1.5), "without any limit");
        assert_eq!(of(RuleName::SlotGrowing, upkeep), Some(3630.0 / 20.0));
        assert_eq!(of(RuleName::SlotFilling, upkeep), Some(0.0));
        assert_eq!(of(RuleName::BinlogExpiring, upkeep), Some(0.6));
        assert_eq!(of(RuleName::SlotRetained, Upkeep::default()), Some(0.0), "a slot that is gone");
        let copy = CopyReadings {
            idle_seconds: Some(700.0),
            restart_age_seconds: Some(5.0),
            ..CopyReadings::default()
        };
        let verify = VerifyReadings { standing: Proof::Lost, differences: 3, ..Default::default() };
        let upkeep =
            Upkeep { copy, verify, state_dir_free_bytes: Some(1 << 20), ..Upkeep::default() };
        assert_eq!(of(RuleName::CopyStalled, upkeep), Some(700.0));
        assert_eq!(of(RuleName::CopyRestarted, upkeep), Some(1.0));
        assert_eq!(of(RuleName::VerifyDifferences, upkeep), Some(3.0));
        assert_eq!(of(RuleName::ProofLost, upkeep), Some(1.0));
        assert_eq!(of(RuleName::StateDirFull, upkeep), Some(1024.0));
        let gone = |lost_age_seconds| {
            let proxy = ProxyReadings { up: Some(true), lost_age_seconds };
            of(RuleName::ProxyGone, Upkeep { proxy, ..Upkeep::default() })
        };
        assert_eq!([None, Some(0.0), Some(601.0)].map(gone), [Some(0.0), Some(1.0), Some(0.0)]);
        let changed = Upkeep { audit_broken: true, ..Upkeep::default() };
        assert_eq!(of(RuleName::AuditBroken, changed), Some(1.0));
    }

    #[test]
    fn once_green_serves_the_lag_is_the_way_backs() {
        let behind =
            Readings { lag_seconds: Some(9.0), streaming_expected: true, ..Readings::default() };
        assert_eq!(value(RuleName::LagHigh, behind), Some(9.0));
        assert_eq!(value(RuleName::WayBackLagging, behind), Some(0.0));
        let back = Readings { way_back: true, ..behind };
        assert_eq!(value(RuleName::LagHigh, back), Some(0.0));
        assert_eq!(value(RuleName::WayBackLagging, back), Some(9.0));
        assert_eq!(value(RuleName::WayBackBroken, back), Some(0.0));
        let blind = Readings { lag_seconds: None, ..back };
        assert_eq!(value(RuleName::WayBackBroken, blind), Some(1.0));
        assert_eq!(value(RuleName::LagUnknown, blind), Some(0.0));
    }

    #[test]
    fn the_prometheus_rules_file_has_every_rule() {
        let file = include_str!("../../alerts/cutover.rules.yml");
        for rule in rules(&AlertsConfig::default()) {
            let line = format!("alert: {}\n", rule.name.as_str());
            assert!(file.contains(&line), "{line} is missing in cutover.rules.yml");
        }
    }
}
