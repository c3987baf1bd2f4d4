//! One line of `[watch]`: what to look at, and by which rule it is judged.

use std::time::Duration;

use super::baseline::Before;
use super::config::{
    HttpConfig, PrometheusConfig, ServingConfig, SqlConfig, WatchConfig, WayBackConfig,
};
use super::probe::{HttpProbe, Place, PrometheusProbe, ServingProbe, SqlProbe, WayBackProbe};
use super::rule::Rule;
use super::sample::{Sample, TimingLimits};
use crate::api::MonitorAction;

/// Something to look at.
#[derive(Debug, Clone)]
enum Probe {
    Serving(ServingProbe),
    WayBack(WayBackProbe),
    Sql(Box<SqlProbe>),
    Http(HttpProbe),
    Prometheus(PrometheusProbe),
}

/// A monitor.
#[derive(Debug, Clone)]
pub struct Monitor {
    /// By what it is judged.
    pub rule: Rule,
    probe: Probe,
    timing: Option<TimingLimits>,
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

impl Monitor {
    /// All monitors of a configuration; its [`WatchConfig::problems`] are none.
    pub fn all(config: &WatchConfig) -> Vec<Monitor> {
        let mut monitors = vec![Self::serving(&config.serving), Self::way_back(&config.way_back)];
        monitors.extend(config.sql.iter().map(Self::sql));
        monitors.extend(config.http.iter().map(Self::http));
        monitors.extend(config.prometheus.iter().map(Self::prometheus));
        monitors
    }

    fn serving(config: &ServingConfig) -> Self {
        let timeout = Duration::from_millis(config.timeout_ms);
        let rule = Rule {
            name: "serving".into(),
            interval: seconds(config.interval_s),
            patience: timeout,
            failures: config.failures,
            of: config.of,
            action: config.action,
            needs_before: false,
            limit: format!("an answer within {} ms", config.timeout_ms),
        };
        Self { rule, probe: Probe::Serving(ServingProbe { timeout }), timing: None }
    }

    fn way_back(config: &WayBackConfig) -> Self {
        let rule = Rule {
            name: "way_back".into(),
            interval: seconds(config.interval_s),
            patience: Duration::ZERO,
            failures: config.failures,
            of: config.of,
            // Going back over a way back that does not carry is what must not be done.
            action: MonitorAction::Alert,
            needs_before: false,
            limit: format!("a lag of {} s", config.lag_s_max),
        };
        let probe = WayBackProbe { lag_s_max: config.lag_s_max };
        Self { rule, probe: Probe::WayBack(probe), timing: None }
    }

    fn sql(config: &SqlConfig) -> Self {
        let rule = Rule {
            name: config.name.clone(),
            interval: seconds(config.interval_s),
            patience: Duration::from_millis(config.timeout_ms),
            failures: config.failures,
            of: config.of,
            action: config.action,
            needs_before: true,
            limit: format!(
                "{:.1}% errors, {} times the p99 before the flip or {} ms",
                config.error_rate_max * 100.0,
                config.latency_ratio_max,
                config.latency_ms_floor
            ),
        };
        let timing = TimingLimits {
            error_rate_max: config.error_rate_max,
            latency_ratio_max: config.latency_ratio_max,
            latency_ms_floor: config.latency_ms_floor,
        };
        Self { rule, probe: Probe::Sql(Box::new(SqlProbe::new(config))), timing: Some(timing) }
    }

    fn http(config: &HttpConfig) -> Self {
        let latency = config.latency_ms_max.unwrap_or(config.timeout_ms as f64);
        let rule = Rule {
            name: config.name.clone(),
            interval: seconds(config.interval_s),
            patience: Duration::from_millis(config.timeout_ms),
            failures: config.failures,
            of: config.of,
            action: config.action,
            needs_before: true,
            limit: format!("2xx within {latency} ms"),
        };
        Self { rule, probe: Probe::Http(HttpProbe::new(config)), timing: None }
    }

    fn prometheus(config: &PrometheusConfig) -> Self {
        let probe = PrometheusProbe::new(config);
        let rule = Rule {
            name: config.name.clone(),
            interval: seconds(config.interval_s),
            patience: Duration::from_millis(config.timeout_ms),
            failures: config.failures,
            of: config.of,
            action: config.action,
            needs_before: true,
            limit: probe.bound().to_string(),
        };
        Self { rule, probe: Probe::Prometheus(probe), timing: None }
    }

    /// Whether it is sampled before a flip, too.
    pub fn has_a_before(&self) -> bool {
        self.rule.needs_before
    }

    /// Takes one sample. Ends by itself: every wait in it has a limit.
    pub async fn take(&self, place: &Place) -> Sample {
        match &self.probe {
            Probe::Serving(probe) => probe.take(place).await,
            Probe::WayBack(probe) => probe.take(place),
            Probe::Sql(probe) => probe.take(place).await,
            Probe::Http(probe) => probe.take().await,
            Probe::Prometheus(probe) => probe.take().await,
        }
    }

    /// What a sample means after a flip.
    pub fn after(&self, sample: Sample, before: Option<&Before>) -> Sample {
        match (sample, &self.timing) {
            (Sample::Timing(timing), Some(limits)) => limits.hold_against(&timing, before),
            (sample, _) => sample,
        }
    }

    /// What a sample means before a flip.
    pub fn before(&self, sample: &Sample) -> Sample {
        match (sample, &self.timing) {
            (Sample::Timing(timing), Some(limits)) => limits.alone(timing),
            (sample, _) => sample.clone(),
        }
    }
}
