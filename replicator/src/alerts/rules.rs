//! The alert rules and what they read.

use super::config::{AlertsConfig, RuleConfig};

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
    /// The stream stopped and waits for a person.
    ReplicationHalted,
}

impl RuleName {
    /// The name as it is sent.
    pub fn as_str(self) -> &'static str {
        match self {
            RuleName::LagHigh => "CutoverLagHigh",
            RuleName::LagCritical => "CutoverLagCritical",
            RuleName::LagUnknown => "CutoverLagUnknown",
            RuleName::SlotRetention => "CutoverSlotRetention",
            RuleName::ReplicationHalted => "CutoverReplicationHalted",
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
#[derive(Clone, Copy, Debug)]
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
        match self.name {
            RuleName::LagHigh | RuleName::LagCritical => readings.lag_seconds,
            RuleName::LagUnknown => {
                let unknown = readings.streaming_expected && readings.lag_seconds.is_none();
                Some(as_number(unknown))
            }
            RuleName::SlotRetention => readings.slot_retained_ratio,
            RuleName::ReplicationHalted => Some(as_number(readings.halted)),
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
            RuleName::ReplicationHalted => {
                "replication stopped and waits for a person; blue is serving"
            }
        }
    }
}

/// All rules with the configured levels.
pub(super) fn rules(config: &AlertsConfig) -> Vec<Rule> {
    let halted = RuleConfig { raise: 0.5, clear: 0.5, for_seconds: 0.0 };
    vec![
        Rule { name: RuleName::LagHigh, severity: Severity::Warning, levels: config.lag_high },
        Rule { name: RuleName::LagCritical, severity: Severity::Page, levels: config.lag_critical },
        Rule { name: RuleName::LagUnknown, severity: Severity::Page, levels: config.lag_unknown },
        Rule {
            name: RuleName::SlotRetention,
            severity: Severity::Warning,
            levels: config.slot_retention,
        },
        Rule { name: RuleName::ReplicationHalted, severity: Severity::Page, levels: halted },
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
    fn the_prometheus_rules_file_has_every_rule() {
        let file = include_str!("../../alerts/cutover.rules.yml");
        for rule in rules(&AlertsConfig::default()) {
            let line = format!("alert: {}\n", rule.name.as_str());
            assert!(file.contains(&line), "{line} is missing in cutover.rules.yml");
        }
    }
}
