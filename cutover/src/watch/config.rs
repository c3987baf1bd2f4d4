//! What the operator writes about the time after a flip, in the sidecar's configuration under
//! `[watch]`.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::api::MonitorAction;
use crate::login::Login;

/// The time of watching where monitors are configured and no time is.
const WINDOW: Duration = Duration::from_secs(15 * 60);
/// A longer time of watching is a mistake: nothing can be finished meanwhile.
const WINDOW_S_MAX: u64 = 7 * 24 * 3600;
/// Bounds of the time between two samples, seconds.
const INTERVAL_S: std::ops::RangeInclusive<f64> = 0.1..=3600.0;
/// Bounds of a wait for one answer, milliseconds.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 10..=60_000;
/// Most samples that a verdict is made of.
const OF_MAX: usize = 100;
/// Longest name of a monitor: it becomes a label of metrics.
const NAME_BYTES_MAX: usize = 40;

/// `[watch]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchConfig {
    /// How long the side that opened is watched, seconds; 0: not at all. Default: 15 minutes if a
    /// monitor is configured, else 0. A run may say otherwise.
    pub window_s: Option<u64>,
    /// How long a rollback that was begun here may wait for its gate, seconds. Nothing has been
    /// touched if it does not pass.
    pub rollback_gate_timeout_s: u64,
    /// Whether the side that opened can be reached. Always on.
    pub serving: ServingConfig,
    /// Whether the way back carries. Always on where there is one; never a reason to go back.
    pub way_back: WayBackConfig,
    /// Statements whose errors and times are compared with those before the flip.
    pub sql: Vec<SqlConfig>,
    /// Pages that have to answer 2xx.
    pub http: Vec<HttpConfig>,
    /// Values that a Prometheus knows.
    pub prometheus: Vec<PrometheusConfig>,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self {
            window_s: None,
            rollback_gate_timeout_s: 60,
            serving: ServingConfig::default(),
            way_back: WayBackConfig::default(),
            sql: Vec::new(),
            http: Vec::new(),
            prometheus: Vec::new(),
        }
    }
}

/// `[watch.serving]`: `SELECT 1` over a new connection, made directly to the server.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServingConfig {
    /// Between two samples, seconds.
    pub interval_s: f64,
    /// The longest wait for an answer, milliseconds.
    pub timeout_ms: u64,
    /// A breach takes so many bad samples...
    pub failures: usize,
    /// ...of the newest so many.
    pub of: usize,
    /// What a breach leads to. A rollback needs the server, so it comes once that answers again.
    pub action: MonitorAction,
}

impl Default for ServingConfig {
    fn default() -> Self {
        let action = MonitorAction::Alert;
        Self { interval_s: 1.0, timeout_ms: 2000, failures: 5, of: 5, action }
    }
}

/// `[watch.way_back]`: the lag of the stream that makes a rollback possible.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WayBackConfig {
    /// Between two samples, seconds.
    pub interval_s: f64,
    /// The largest lag, seconds.
    pub lag_s_max: f64,
    /// A breach takes so many bad samples...
    pub failures: usize,
    /// ...of the newest so many.
    pub of: usize,
}

impl Default for WayBackConfig {
    fn default() -> Self {
        Self { interval_s: 1.0, lag_s_max: 30.0, failures: 10, of: 10 }
    }
}

/// `[[watch.sql]]`: one statement, run again and again in a read-only transaction.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlConfig {
    /// Name of the monitor.
    pub name: String,
    /// Connection string: best the one of the clients, through their router. Default: directly to
    /// the side that serves, as the sidecar connects.
    pub url: Option<String>,
    /// The statement. Its rows are thrown away.
    #[serde(default = "select_1")]
    pub query: String,
    /// Length of a sample, seconds: what is run meanwhile is judged together.
    #[serde(default = "ten")]
    pub interval_s: f64,
    /// From one start of the statement to the next, milliseconds.
    #[serde(default = "hundred")]
    pub every_ms: u64,
    /// The longest wait for an answer, milliseconds. None in time is an error.
    #[serde(default = "thousand")]
    pub timeout_ms: u64,
    /// The largest share of errors, 0 to 1; three times the share before the flip, if that is more.
    #[serde(default = "one_in_a_hundred")]
    pub error_rate_max: f64,
    /// The 99th percentile of the times may be so many times that before the flip.
    #[serde(default = "two")]
    pub latency_ratio_max: f64,
    /// A 99th percentile below this is never bad, milliseconds.
    #[serde(default = "floor")]
    pub latency_ms_floor: f64,
    /// A breach takes so many bad samples...
    #[serde(default = "failures")]
    pub failures: usize,
    /// ...of the newest so many.
    #[serde(default = "of")]
    pub of: usize,
    /// What a breach leads to.
    pub action: MonitorAction,
}

/// `[[watch.http]]`: a page of the application or of a health check.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Name of the monitor.
    pub name: String,
    /// `http` or `https` URL. Redirections are not followed: they are no 2xx.
    pub url: String,
    /// File with a bearer token for it.
    pub token_file: Option<PathBuf>,
    /// Between two samples, seconds.
    #[serde(default = "five")]
    pub interval_s: f64,
    /// The longest wait for the whole answer, milliseconds. None in time is bad.
    #[serde(default = "two_thousand")]
    pub timeout_ms: u64,
    /// An answer that takes longer is bad, milliseconds. Default: only the timeout.
    pub latency_ms_max: Option<f64>,
    /// A breach takes so many bad samples...
    #[serde(default = "failures")]
    pub failures: usize,
    /// ...of the newest so many.
    #[serde(default = "of")]
    pub of: usize,
    /// What a breach leads to.
    pub action: MonitorAction,
}

/// `[[watch.prometheus]]`: an instant query (<https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries>).
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrometheusConfig {
    /// Name of the monitor.
    pub name: String,
    /// Base URL; `/api/v1/query` is added.
    pub url: String,
    /// The query: a scalar or an instant vector, of which the worst element counts.
    pub query: String,
    /// A value above this is bad. Give this or `below`.
    pub above: Option<f64>,
    /// A value below this is bad.
    pub below: Option<f64>,
    /// File with a bearer token for it.
    pub token_file: Option<PathBuf>,
    /// Between two samples, seconds.
    #[serde(default = "ten")]
    pub interval_s: f64,
    /// The longest wait for the answer, milliseconds. None in time is no data.
    #[serde(default = "five_thousand")]
    pub timeout_ms: u64,
    /// A breach takes so many bad samples...
    #[serde(default = "failures")]
    pub failures: usize,
    /// ...of the newest so many.
    #[serde(default = "of")]
    pub of: usize,
    /// What a breach leads to.
    pub action: MonitorAction,
}

fn select_1() -> String {
    "SELECT 1".into()
}
fn ten() -> f64 {
    10.0
}
fn five() -> f64 {
    5.0
}
fn two() -> f64 {
    2.0
}
fn floor() -> f64 {
    10.0
}
fn one_in_a_hundred() -> f64 {
    0.01
}
fn hundred() -> u64 {
    100
}
fn thousand() -> u64 {
    1000
}
fn two_thousand() -> u64 {
    2000
}
fn five_thousand() -> u64 {
    5000
}
fn failures() -> usize {
    3
}
fn of() -> usize {
    5
}

/// Connection strings and URLs may hold passwords.
macro_rules! debug_without_secrets {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("name", &self.name)
                    .field("action", &self.action)
                    .finish_non_exhaustive()
            }
        }
    )*};
}
debug_without_secrets!(SqlConfig, HttpConfig, PrometheusConfig);

/// What all kinds of monitors have: for checking.
struct Common<'a> {
    place: String,
    name: Option<&'a str>,
    interval_s: f64,
    timeout_ms: Option<u64>,
    failures: usize,
    of: usize,
    url: Option<&'a str>,
    token_file: Option<&'a PathBuf>,
}

impl WatchConfig {
    /// How long to watch where a run does not say.
    pub fn window(&self) -> Duration {
        let watched = !self.sql.is_empty() || !self.http.is_empty() || !self.prometheus.is_empty();
        match self.window_s {
            Some(seconds) => Duration::from_secs(seconds),
            None if watched || self.serving.action == MonitorAction::Rollback => WINDOW,
            None => Duration::ZERO,
        }
    }

    /// How long a rollback that was begun here may wait for its gate.
    pub fn rollback_gate_timeout(&self) -> Duration {
        Duration::from_secs(self.rollback_gate_timeout_s)
    }

    fn monitors(&self) -> Vec<Common<'_>> {
        let named = |kind: &str, name: &str| format!("watch.{kind} {name:?}");
        let serving = Common {
            place: "watch.serving".into(),
            name: None,
            interval_s: self.serving.interval_s,
            timeout_ms: Some(self.serving.timeout_ms),
            failures: self.serving.failures,
            of: self.serving.of,
            url: None,
            token_file: None,
        };
        let way_back = Common {
            place: "watch.way_back".into(),
            name: None,
            interval_s: self.way_back.interval_s,
            timeout_ms: None,
            failures: self.way_back.failures,
            of: self.way_back.of,
            url: None,
            token_file: None,
        };
        let mut all = vec![serving, way_back];
        all.extend(self.sql.iter().map(|sql| Common {
            place: named("sql", &sql.name),
            name: Some(&sql.name),
            interval_s: sql.interval_s,
            timeout_ms: Some(sql.timeout_ms),
            failures: sql.failures,
            of: sql.of,
            url: None,
            token_file: None,
        }));
        all.extend(self.http.iter().map(|http| Common {
            place: named("http", &http.name),
            name: Some(&http.name),
            interval_s: http.interval_s,
            timeout_ms: Some(http.timeout_ms),
            failures: http.failures,
            of: http.of,
            url: Some(&http.url),
            token_file: http.token_file.as_ref(),
        }));
        all.extend(self.prometheus.iter().map(|query| Common {
            place: named("prometheus", &query.name),
            name: Some(&query.name),
            interval_s: query.interval_s,
            timeout_ms: Some(query.timeout_ms),
            failures: query.failures,
            of: query.of,
            url: Some(&query.url),
            token_file: query.token_file.as_ref(),
        }));
        all
    }

    /// Everything that can be seen to be wrong without a connection, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.window_s.is_some_and(|seconds| seconds > WINDOW_S_MAX) {
            problems.push(format!("watch.window_s: at most {WINDOW_S_MAX} (7 days)"));
        }
        if self.rollback_gate_timeout_s == 0 {
            problems.push("watch.rollback_gate_timeout_s: more than 0".into());
        }
        let mut names = BTreeSet::from(["serving", "way_back"]);
        for monitor in self.monitors() {
            let place = monitor.place.clone();
            if let Some(name) = monitor.name {
                let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
                if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(legal) {
                    problems.push(format!(
                        "{place}.name: 1 to {NAME_BYTES_MAX} letters, digits and any of _-."
                    ));
                }
                if !names.insert(name) {
                    problems.push(format!("{place}.name: another monitor has it"));
                }
            }
            problems.extend(self.problems_of(&monitor));
        }
        for sql in &self.sql {
            problems.extend(sql.problems());
        }
        for query in &self.prometheus {
            let place = format!("watch.prometheus {:?}", query.name);
            let limits = [query.above, query.below];
            if limits.iter().flatten().count() != 1 {
                problems.push(format!("{place}: give above or below, one of them"));
            }
            if limits.iter().flatten().any(|limit| !limit.is_finite()) {
                problems.push(format!("{place}: above and below are numbers"));
            }
            if query.query.trim().is_empty() {
                problems.push(format!("{place}.query: empty"));
            }
        }
        for http in &self.http {
            if http.latency_ms_max.is_some_and(|most| most.is_nan() || most <= 0.0) {
                problems.push(format!("watch.http {:?}.latency_ms_max: more than 0", http.name));
            }
        }
        if self.way_back.lag_s_max.is_nan() || self.way_back.lag_s_max <= 0.0 {
            problems.push("watch.way_back.lag_s_max: more than 0".into());
        }
        problems
    }

    fn problems_of(&self, monitor: &Common<'_>) -> Vec<String> {
        let place = &monitor.place;
        let mut problems = Vec::new();
        if !INTERVAL_S.contains(&monitor.interval_s) {
            problems.push(format!(
                "{place}.interval_s: {} to {} seconds",
                INTERVAL_S.start(),
                INTERVAL_S.end()
            ));
        }
        if monitor.timeout_ms.is_some_and(|timeout| !TIMEOUT_MS.contains(&timeout)) {
            problems.push(format!(
                "{place}.timeout_ms: {} to {} milliseconds",
                TIMEOUT_MS.start(),
                TIMEOUT_MS.end()
            ));
        }
        if monitor.of > OF_MAX || !(1..=monitor.of).contains(&monitor.failures) {
            problems.push(format!("{place}: failures is 1 to of, and of not more than {OF_MAX}"));
        }
        let takes = monitor.interval_s * monitor.failures as f64;
        let window = self.window();
        if monitor.name.is_some() && !window.is_zero() && takes >= window.as_secs_f64() {
            problems.push(format!(
                "{place}: {} samples, one in {} s, take longer than the {} s of watch.window_s, so \
                 it could never breach",
                monitor.failures,
                monitor.interval_s,
                window.as_secs()
            ));
        }
        if let Some(url) = monitor.url
            && !url.starts_with("http://")
            && !url.starts_with("https://")
        {
            problems.push(format!("{place}.url: not an http or https URL"));
        }
        if let Some(path) = monitor.token_file
            && let Err(error) = std::fs::File::open(path)
        {
            problems.push(format!("{place}.token_file {}: {error}", path.display()));
        }
        problems
    }
}

impl SqlConfig {
    fn problems(&self) -> Vec<String> {
        let place = format!("watch.sql {:?}", self.name);
        let mut problems = Vec::new();
        if let Some(url) = &self.url
            && let Err(error) = Login::parse(url)
        {
            problems.push(format!("{place}.url: {error}"));
        }
        if self.query.trim().is_empty() {
            problems.push(format!("{place}.query: empty"));
        }
        if self.every_ms == 0 || self.every_ms as f64 > self.interval_s * 1e3 {
            problems.push(format!("{place}.every_ms: more than 0, not more than interval_s"));
        }
        if !(0.0..1.0).contains(&self.error_rate_max) {
            problems.push(format!("{place}.error_rate_max: a share, at least 0 and less than 1"));
        }
        if !self.latency_ratio_max.is_finite() || self.latency_ratio_max <= 1.0 {
            problems.push(format!("{place}.latency_ratio_max: more than 1"));
        }
        if !self.latency_ms_floor.is_finite() || self.latency_ms_floor < 0.0 {
            problems.push(format!("{place}.latency_ms_floor: not negative"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> WatchConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn nothing_is_watched_unless_it_is_asked_for() {
        let config = WatchConfig::default();
        assert_eq!((config.window(), config.problems()), (Duration::ZERO, Vec::new()));
        let page = "[[http]]\nname = 'shop'\nurl = 'http://shop/health'\naction = 'rollback'\n";
        assert_eq!(parse(page).window(), Duration::from_secs(900));
        assert!(parse(page).problems().is_empty());
        assert_eq!(parse(&format!("window_s = 60\n{page}")).window(), Duration::from_secs(60));
    }

    #[test]
    fn every_mistake_is_named() {
        let config = parse(
            "window_s = 10
             rollback_gate_timeout_s = 0
             [serving]
             failures = 6
             [way_back]
             lag_s_max = 0.0
             [[http]]
             name = 'shop'
             url = 'ftp://shop'
             token_file = '/nonexistent/token'
             interval_s = 0.0
             action = 'alert'
             [[http]]
             name = 'shop'
             url = 'http://shop'
             interval_s = 5
             latency_ms_max = -1.0
             action = 'alert'
             [[sql]]
             name = 'or der'
             url = 'postgres://u:hunter2@h:x/d'
             query = ' '
             every_ms = 0
             timeout_ms = 1
             error_rate_max = 1.0
             latency_ratio_max = 1.0
             action = 'rollback'
             [[prometheus]]
             name = 'errors'
             url = 'http://prometheus'
             query = 'up'
             above = 1.0
             below = 1.0
             interval_s = 1
             action = 'alert'",
        );
        let problems = config.problems();
        for part in [
            "watch.rollback_gate_timeout_s",
            "watch.serving: failures",
            "watch.way_back.lag_s_max",
            "watch.http \"shop\".url: not an http",
            "watch.http \"shop\".token_file /nonexistent/token",
            "watch.http \"shop\".interval_s",
            "watch.http \"shop\".name: another",
            "watch.http \"shop\": 3 samples, one in 5 s, take longer than the 10 s",
            "watch.http \"shop\".latency_ms_max",
            "watch.sql \"or der\".name",
            "watch.sql \"or der\".url",
            "watch.sql \"or der\".query",
            "watch.sql \"or der\".every_ms",
            "watch.sql \"or der\".timeout_ms",
            "watch.sql \"or der\".error_rate_max",
            "watch.sql \"or der\".latency_ratio_max",
            "watch.prometheus \"errors\": give above or below",
        ] {
            let found = problems.iter().any(|problem| problem.starts_with(part));
            assert!(found, "{part} is missing in {problems:#?}");
        }
        let said = format!("{problems:?} {config:?}");
        assert!(!said.contains("hunter2"), "{said}");
    }

    #[test]
    fn an_action_is_never_guessed() {
        let text = "[[http]]\nname = 'shop'\nurl = 'http://shop/health'\n";
        assert!(toml::from_str::<WatchConfig>(text).unwrap_err().to_string().contains("action"));
    }
}
