//! The `[alerts]` section.

use std::path::PathBuf;

use serde::Deserialize;

use super::notify::certificates;
use crate::secret::Secret;

/// What to watch and whom to tell.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertsConfig {
    /// Lag that somebody should know about.
    pub lag_high: RuleConfig,
    /// Lag that somebody should get up for.
    pub lag_critical: RuleConfig,
    /// Lag that nobody knows: a blind sensor is not a healthy one.
    pub lag_unknown: RuleConfig,
    /// Share of `max_slot_wal_keep_size` that the slot retains on blue.
    pub slot_retention: RuleConfig,
    /// Log that the slot retains on blue, over `protect.retained_wal_warn_bytes`: known without a limit, too.
    pub slot_retained: RuleConfig,
    /// The same in an hour, if it goes on growing as it does.
    pub slot_growing: RuleConfig,
    /// An hour, over the time that is left until as much log is retained as may be.
    pub slot_filling: RuleConfig,
    /// Share of a binlog's life (`binlog_expire_logs_seconds`) that is over before it is read.
    pub binlog_expiring: RuleConfig,
    /// Seconds for which the copy has brought no row.
    pub copy_stalled: RuleConfig,
    /// Bytes that should be free on the state directory's disk (1 GiB), over those that are.
    pub state_dir_full: RuleConfig,
    /// Lag of blue once green serves.
    pub way_back_lag: RuleConfig,
    /// Green serves, and nothing brings what it writes to blue.
    pub way_back_broken: RuleConfig,
    /// Monitors that say nothing while they watch.
    pub watch_inconclusive: RuleConfig,
    /// Posted to on every change.
    pub webhook: Option<WebhookConfig>,
    /// Told of every alert, again each minute while it fires.
    pub alertmanager: Vec<AlertmanagerConfig>,
}

/// When a rule raises and clears. The levels differ so that a value on the edge does not ring all night.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Raised when the value is above this...
    pub raise: f64,
    /// ...and cleared when it is below this...
    pub clear: f64,
    /// ...for this many seconds in either case.
    pub for_seconds: f64,
}

/// Where alerts are posted as JSON.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// `http` or `https` URL.
    pub url: String,
    /// File with a bearer token for it.
    pub token_file: Option<PathBuf>,
    /// PEM file with the authorities that may vouch for it, instead of the public ones.
    pub ca_file: Option<PathBuf>,
}

/// An Alertmanager.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertmanagerConfig {
    /// Base URL; `/api/v2/alerts` is added.
    pub url: String,
    /// User and password for basic authentication, `user:password`.
    pub basic_auth: Option<Secret>,
    /// PEM file with the authorities that may vouch for it, instead of the public ones.
    pub ca_file: Option<PathBuf>,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self {
            lag_high: RuleConfig { raise: 5.0, clear: 2.5, for_seconds: 60.0 },
            lag_critical: RuleConfig { raise: 30.0, clear: 15.0, for_seconds: 120.0 },
            lag_unknown: RuleConfig { raise: 0.5, clear: 0.5, for_seconds: 30.0 },
            slot_retention: RuleConfig { raise: 0.5, clear: 0.4, for_seconds: 300.0 },
            slot_retained: RuleConfig { raise: 1.0, clear: 0.8, for_seconds: 60.0 },
            slot_growing: RuleConfig { raise: 1.0, clear: 0.8, for_seconds: 300.0 },
            slot_filling: RuleConfig { raise: 1.0, clear: 0.5, for_seconds: 60.0 },
            binlog_expiring: RuleConfig { raise: 0.5, clear: 0.4, for_seconds: 60.0 },
            copy_stalled: RuleConfig { raise: 600.0, clear: 60.0, for_seconds: 0.0 },
            state_dir_full: RuleConfig { raise: 1.0, clear: 0.8, for_seconds: 60.0 },
            way_back_lag: RuleConfig { raise: 30.0, clear: 15.0, for_seconds: 60.0 },
            way_back_broken: RuleConfig { raise: 0.5, clear: 0.5, for_seconds: 30.0 },
            watch_inconclusive: RuleConfig { raise: 0.5, clear: 0.5, for_seconds: 60.0 },
            webhook: None,
            alertmanager: Vec::new(),
        }
    }
}

impl AlertsConfig {
    /// What is wrong, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let rules = [
            ("lag_high", self.lag_high),
            ("lag_critical", self.lag_critical),
            ("lag_unknown", self.lag_unknown),
            ("slot_retention", self.slot_retention),
            ("slot_retained", self.slot_retained),
            ("slot_growing", self.slot_growing),
            ("slot_filling", self.slot_filling),
            ("binlog_expiring", self.binlog_expiring),
            ("copy_stalled", self.copy_stalled),
            ("state_dir_full", self.state_dir_full),
            ("way_back_lag", self.way_back_lag),
            ("way_back_broken", self.way_back_broken),
            ("watch_inconclusive", self.watch_inconclusive),
        ];
        let mut problems: Vec<String> = rules
            .iter()
            .filter(|(_, rule)| !(rule.clear <= rule.raise && rule.for_seconds >= 0.0))
            .map(|(name, _)| {
                format!("alerts.{name}: clear must not be above raise, for_seconds not negative")
            })
            .collect();
        let ca_files = self.webhook.iter().filter_map(|hook| hook.ca_file.as_ref());
        let peers = self.alertmanager.iter().filter_map(|peer| peer.ca_file.as_ref());
        let unusable = ca_files.chain(peers).filter_map(|path| certificates(path).err());
        problems.extend(unusable.map(|why| format!("alerts: {why}")));
        let urls = self.webhook.iter().map(|hook| ("webhook", &hook.url));
        let urls = urls.chain(self.alertmanager.iter().map(|peer| ("alertmanager", &peer.url)));
        for (name, url) in urls {
            if !url.starts_with("http://") && !url.starts_with("https://") {
                problems.push(format!("alerts.{name}.url: not an http or https URL"));
            }
        }
        problems
    }
}
