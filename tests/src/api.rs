//! The sidecar's HTTP API, as a stranger sees it: JSON values, no types shared with the product.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A client of one sidecar.
#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    agent: ureq::Agent,
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Api {
    /// For a sidecar on this port of loopback.
    pub fn new(port: u16) -> Api {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(10)))
            .http_status_as_error(false)
            .build();
        Api { base: format!("http://127.0.0.1:{port}"), agent: config.into() }
    }

    /// For `cutover --api`.
    pub fn base_url(&self) -> &str {
        &self.base
    }

    pub fn get(&self, path: &str) -> Result<Answer> {
        let url = format!("{}{path}", self.base);
        let mut response = self.agent.get(&url).call().with_context(|| format!("GET {url}"))?;
        let status = response.status().as_u16();
        let body = response.body_mut().read_to_string().with_context(|| format!("GET {url}"))?;
        Ok(Answer { status, body })
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        let url = format!("{}{path}", self.base);
        let mut response =
            self.agent.post(&url).send_json(body).with_context(|| format!("POST {url}"))?;
        let status = response.status().as_u16();
        let body = response.body_mut().read_to_string().with_context(|| format!("POST {url}"))?;
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
