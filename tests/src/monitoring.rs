//! A Prometheus that scrapes and evaluates rules, and the Alertmanager that it tells.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::ports::Port;
use crate::process::{Launch, Process};
use crate::scratch::Scratch;
use crate::wait;

const START_DEADLINE: Duration = Duration::from_secs(30);

/// What is scraped.
#[derive(Debug, Clone)]
pub struct Target {
    /// `host:port`; the path is `/metrics`.
    pub address: String,
    /// File with a bearer token; it may come later.
    pub token_file: Option<PathBuf>,
}

/// Both, running. Dropping it stops them.
#[derive(Debug)]
pub struct Monitoring {
    prometheus: Process,
    _alertmanager: Process,
    base: String,
    _ports: [Port; 2],
    _scratch: Scratch,
}

impl Monitoring {
    /// Scrapes and evaluates once a second. What fires and what is over is posted to `webhook`, each alert by
    /// itself.
    pub fn start(rules: &str, targets: &[Target], webhook: &str) -> Result<Monitoring> {
        let (scratch, ports) = (Scratch::new()?, [Port::reserve()?, Port::reserve()?]);
        let at = |port: &Port| format!("127.0.0.1:{}", port.number());
        let [base, manager] = [&ports[0], &ports[1]].map(at);
        let file = |name: &str, text: &str| -> Result<PathBuf> {
            let path = scratch.path().join(name);
            std::fs::write(&path, text)?;
            Ok(path)
        };
        let rules = file("rules.yml", rules)?;
        let prometheus = file("prometheus.yml", &prometheus_config(&rules, targets, &manager))?;
        let alertmanager = file("alertmanager.yml", &alertmanager_config(webhook))?;
        let alertmanager = Launch::new("prometheus-alertmanager")
            .arg(flag("config.file", &alertmanager))
            .arg(flag("storage.path", &scratch.path().join("alertmanager")))
            .arg(format!("--web.listen-address={manager}"))
            .arg("--cluster.listen-address=")
            .start(&scratch.path().join("alertmanager"))
            .context("prometheus-alertmanager: run scripts/setup packages")?;
        let prometheus = Launch::new("prometheus")
            .arg(flag("config.file", &prometheus))
            .arg(flag("storage.tsdb.path", &scratch.path().join("data")))
            .arg(format!("--web.listen-address={base}"))
            .start(&scratch.path().join("prometheus"))
            .context("prometheus: run scripts/setup packages")?;
        let mut this = Monitoring {
            prometheus,
            _alertmanager: alertmanager,
            base: format!("http://{base}"),
            _ports: ports,
            _scratch: scratch,
        };
        wait::until_blocking("Prometheus to be ready", START_DEADLINE, || {
            for process in [&mut this.prometheus, &mut this._alertmanager] {
                if let Some(status) = process.ended()? {
                    bail!("{} ended with {status}:\n{}", process.name(), process.log_tail());
                }
            }
            Ok(ureq::get(format!("{}/-/ready", this.base)).call().ok().map(drop))
        })?;
        Ok(this)
    }

    /// The alerts that are pending or fire.
    pub fn alerts(&self) -> Result<Value> {
        let mut answer = ureq::get(format!("{}/api/v1/alerts", self.base)).call()?;
        Ok(serde_json::from_str(&answer.body_mut().read_to_string()?)?)
    }

    /// What Prometheus said last.
    pub fn log_tail(&self) -> String {
        self.prometheus.log_tail()
    }
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

fn prometheus_config(rules: &Path, targets: &[Target], manager: &str) -> String {
    let mut text = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
         rule_files: ['{}']\n\
         alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{manager}']}}]}}]}}\n\
         scrape_configs:\n",
        rules.display()
    );
    for (number, target) in targets.iter().enumerate() {
        text += &format!("  - job_name: target{number}\n");
        if let Some(path) = &target.token_file {
            text += &format!("    authorization: {{credentials_file: '{}'}}\n", path.display());
        }
        text += &format!("    static_configs: [{{targets: ['{}']}}]\n", target.address);
    }
    text
}

fn alertmanager_config(webhook: &str) -> String {
    format!(
        "route: {{receiver: hook, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}\n\
         receivers:\n  - name: hook\n    webhook_configs: [{{url: '{webhook}', send_resolved: true}}]\n"
    )
}
