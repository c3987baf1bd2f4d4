//! The sidecar's HTTP API, as a stranger sees it: JSON values, no types shared with the product.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{Launch, Process};
use crate::wait;

/// The token in a sidecar's state directory.
pub const TOKEN: &str = "api.token";

/// The longest that is waited for an answer, where nobody says otherwise.
const ANSWER: Duration = Duration::from_secs(10);
/// A plan of thousands of tables stays below.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// A client of one sidecar.
#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    state_dir: PathBuf,
    agent: ureq::Agent,
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Api {
    /// For a sidecar on this port of loopback, with the token that it has made in its state directory.
    pub fn new(port: u16, state_dir: impl Into<PathBuf>) -> Api {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER))
            .http_status_as_error(false)
            .build();
        let base = format!("http://127.0.0.1:{port}");
        Api { base, state_dir: state_dir.into(), agent: config.into() }
    }

    /// The operator's command with the address and the token, to add to.
    pub fn command(&self) -> Result<Launch> {
        Ok(self.known_to(Launch::ours("cutover")?))
    }

    /// The same for a launch of the command that has more to it.
    pub fn known_to(&self, cutover: Launch) -> Launch {
        cutover.args(["--api", &self.base, "--state-dir"]).arg(&self.state_dir)
    }

    /// Value of the `Authorization` header, if the sidecar has made its token.
    pub fn authorization(&self) -> Option<String> {
        let token = std::fs::read_to_string(self.state_dir.join(TOKEN)).ok()?;
        Some(format!("Bearer {}", token.trim()))
    }

    /// Waits for a status; a sidecar that ends meanwhile ends the wait, with what it said last.
    pub async fn wait_status(
        &self,
        sidecar: &mut Process,
        what: &str,
        deadline: Duration,
        mut ready: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = None;
        let outcome = wait::until(what, deadline, || {
            let found = (|| {
                if let Some(status) = sidecar.ended()? {
                    bail!("the sidecar ended with {status}");
                }
                // Not answering is normal at the start and while it is killed.
                last = self.status().ok().or(last.take());
                Ok(last.clone().filter(|status| ready(status)))
            })();
            async { found }
        })
        .await;
        outcome.with_context(|| {
            let status = last.map_or("it never answered".to_owned(), |last| last.to_string());
            format!(
                "the sidecar's last status: {status}; its log ends with:\n{}",
                sidecar.log_tail()
            )
        })
    }

    /// The same for a stream with a lag that is known and below that many seconds.
    pub async fn wait_streaming(
        &self,
        sidecar: &mut Process,
        lag_seconds: f64,
        deadline: Duration,
    ) -> Result<Value> {
        let what = format!("streaming with a lag below {lag_seconds} s");
        self.wait_status(sidecar, &what, deadline, |status| {
            status["phase"] == "streaming"
                && status["lag"]["seconds"].as_f64().is_some_and(|lag| lag < lag_seconds)
        })
        .await
    }

    /// Where it listens.
    pub fn base_url(&self) -> &str {
        &self.base
    }

    pub fn get(&self, path: &str) -> Result<Answer> {
        let url = format!("{}{path}", self.base);
        let mut request = self.agent.get(&url);
        if let Some(authorization) = self.authorization() {
            request = request.header("Authorization", authorization);
        }
        let mut response = request.call().with_context(|| format!("GET {url}"))?;
        let status = response.status().as_u16();
        let body = response.body_mut().read_to_string().with_context(|| format!("GET {url}"))?;
        Ok(Answer { status, body })
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.post_within(path, body, ANSWER)
    }

    /// The same for what depends on the size of a database.
    pub fn post_within(&self, path: &str, body: &Value, longest: Duration) -> Result<Answer> {
        let url = format!("{}{path}", self.base);
        let mut request = self.agent.post(&url);
        if let Some(authorization) = self.authorization() {
            request = request.header("Authorization", authorization);
        }
        let request = request.config().timeout_global(Some(longest)).build();
        let mut response = request.send_json(body).with_context(|| format!("POST {url}"))?;
        let status = response.status().as_u16();
        let body = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_string()
            .with_context(|| format!("POST {url}"))?;
        Ok(Answer { status, body })
    }

    pub fn json(&self, path: &str) -> Result<Value> {
        let answer = self.get(path)?;
        if answer.status != 200 {
            bail!("GET {path} answered {}: {}", answer.status, answer.body);
        }
        serde_json::from_str(&answer.body).with_context(|| format!("GET {path} is no JSON"))
    }

    pub fn status(&self) -> Result<Value> {
        self.json("/v1/status")
    }

    /// One sample of `/metrics`, by the exact name and labels of its line.
    pub fn metric(&self, series: &str) -> Result<Option<f64>> {
        let answer = self.get("/metrics")?;
        let line =
            answer.body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.trim().parse().context("a metric that is no number")).transpose()
    }
}
