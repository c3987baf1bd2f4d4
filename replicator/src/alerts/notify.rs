//! Sending alerts: a webhook of our own form, and Alertmanager's v2 API.

use std::path::Path;
use std::time::Duration;

use cutover::private_file;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::config::{AlertmanagerConfig, AlertsConfig, WebhookConfig};
use super::rules::Rule;

/// Longest wait for a receiver.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long Alertmanager is to believe that an alert fires after we last said so.
const FIRING_FOR: SignedDuration = SignedDuration::from_secs(180);

/// One alert that fires, or one that is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Notification {
    rule: Rule,
    value: Option<f64>,
    started_at: Timestamp,
    resolved: bool,
    repeated: bool,
}

/// An alert that could not be delivered. Never names tokens or passwords.
#[derive(Debug, thiserror::Error)]
#[error("{receiver}: {cause}")]
pub struct NotifyError {
    receiver: &'static str,
    cause: String,
    is_refusal: bool,
}

impl NotifyError {
    /// Of our own.
    pub(super) fn internal(receiver: &'static str, cause: &dyn std::fmt::Display) -> Self {
        Self { receiver, cause: cause.to_string(), is_refusal: false }
    }

    /// The receiver calls the notification itself wrong.
    pub fn is_refusal(&self) -> bool {
        self.is_refusal
    }
}

impl Notification {
    pub(super) fn firing(rule: &Rule, value: Option<f64>, since: Timestamp) -> Self {
        Self { rule: *rule, value, started_at: since, resolved: false, repeated: false }
    }

    pub(super) fn resolved(rule: &Rule, value: Option<f64>) -> Self {
        Self { rule: *rule, value, started_at: Timestamp::now(), resolved: true, repeated: false }
    }

    /// The same alert once more; only Alertmanager wants to hear it.
    pub(super) fn repeated(self) -> Self {
        Self { repeated: true, ..self }
    }

    pub(super) fn is_repeated(&self) -> bool {
        self.repeated
    }

    /// Of its rule.
    pub fn name(&self) -> &'static str {
        self.rule.name.as_str()
    }

    fn webhook_body(&self, pipeline: &str) -> serde_json::Value {
        json!({
            "schema_version": 1,
            "pipeline": pipeline,
            "alert": self.rule.name.as_str(),
            "severity": self.rule.severity.as_str(),
            "status": if self.resolved { "resolved" } else { "firing" },
            "summary": self.rule.summary(),
            "value": self.value,
            "raise": self.rule.levels.raise,
            "clear": self.rule.levels.clear,
            "at": self.started_at.to_string(),
        })
    }

    /// `POST /api/v2/alerts` (Alertmanager's OpenAPI description, `postableAlerts`).
    fn alertmanager_body(&self, pipeline: &str, now: Timestamp) -> serde_json::Value {
        let ends_at =
            if self.resolved { now } else { now.saturating_add(FIRING_FOR).unwrap_or(now) };
        let mut alert = json!({
            "labels": {
                "alertname": self.rule.name.as_str(),
                "severity": self.rule.severity.as_str(),
                "pipeline": pipeline,
            },
            "annotations": {
                "summary": self.rule.summary(),
                "value": self.value.map_or("unknown".to_string(), |value| format!("{value:.3}")),
            },
            "endsAt": ends_at.to_string(),
        });
        // A resolved alert keeps the start that Alertmanager knows.
        if !self.resolved {
            alert["startsAt"] = json!(self.started_at.to_string());
        }
        json!([alert])
    }
}

/// One receiver.
#[derive(Debug)]
pub struct Receiver {
    pipeline: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Webhook(WebhookConfig),
    Alertmanager(AlertmanagerConfig),
}

impl Receiver {
    /// Those that are configured.
    pub fn all(config: &AlertsConfig, pipeline: &str) -> Vec<Self> {
        let webhook = config.webhook.iter().cloned().map(Kind::Webhook);
        let alertmanagers = config.alertmanager.iter().cloned().map(Kind::Alertmanager);
        let kinds = webhook.chain(alertmanagers);
        kinds.map(|kind| Self { pipeline: pipeline.to_owned(), kind }).collect()
    }

    /// For messages.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Webhook(_) => "webhook",
            Kind::Alertmanager(_) => "alertmanager",
        }
    }

    /// Whether it forgets what it is not told again.
    pub fn wants_repeats(&self) -> bool {
        matches!(self.kind, Kind::Alertmanager(_))
    }

    /// Tells it; blocks for some seconds at most.
    ///
    /// # Errors
    /// It did not answer with 2xx.
    pub fn send(&self, notification: &Notification) -> Result<(), NotifyError> {
        let (url, ca_file, authorization, body) = match &self.kind {
            Kind::Webhook(hook) => {
                let token = hook.token_file.as_ref().map(|path| -> Result<_, NotifyError> {
                    let token = private_file::read(path)
                        .map_err(|error| self.failed(format!("token_file {error}")))?;
                    Ok(format!("Bearer {}", token.trim()))
                });
                let body = notification.webhook_body(&self.pipeline);
                (hook.url.clone(), &hook.ca_file, token.transpose()?, body)
            }
            Kind::Alertmanager(peer) => {
                let authorization = peer.basic_auth.as_ref().map(|credentials| {
                    use base64::Engine as _;
                    let encoded = base64::engine::general_purpose::STANDARD.encode(&credentials.0);
                    format!("Basic {encoded}")
                });
                let url = format!("{}/api/v2/alerts", peer.url.trim_end_matches('/'));
                let body = notification.alertmanager_body(&self.pipeline, Timestamp::now());
                (url, &peer.ca_file, authorization, body)
            }
        };
        // Alerts are rare, and a certificate that was renewed is read without a restart.
        let agent = agent(ca_file.as_deref()).map_err(|cause| self.failed(cause))?;
        let mut request = agent.post(&url);
        if let Some(authorization) = authorization {
            request = request.header("Authorization", authorization);
        }
        let answer = request.send_json(body).map_err(|error| self.failed(error.to_string()))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(NotifyError {
                is_refusal: matches!(status.as_u16(), 400 | 413 | 422),
                ..self.failed(format!("it answered {status}"))
            }),
        }
    }

    fn failed(&self, cause: String) -> NotifyError {
        NotifyError { receiver: self.name(), cause, is_refusal: false }
    }
}

fn agent(ca_file: Option<&Path>) -> Result<ureq::Agent, String> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        // A redirected POST would arrive as a GET, and be counted as delivered.
        .max_redirects(0)
        .max_redirects_will_error(false);
    let config = match ca_file {
        None => config,
        Some(path) => {
            let roots = certificates(path)?;
            let tls = TlsConfig::builder().root_certs(RootCerts::from(roots));
            config.tls_config(tls.build())
        }
    };
    Ok(config.build().into())
}

/// The certificates in a PEM file.
///
/// # Errors
/// A sentence with the file: it can't be read, or has none.
pub(super) fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let failed = |why: &dyn std::fmt::Display| format!("ca_file {}: {why}", path.display());
    let text = std::fs::read(path).map_err(|error| failed(&error))?;
    let mut found = Vec::new();
    for item in parse_pem(&text) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| failed(&error))? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(failed(&"there is no certificate in it (PEM)")) } else { Ok(found) }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::super::RuleConfig;
    use super::super::rules::{RuleName, Severity};
    use super::*;

    fn rule() -> Rule {
        let levels = RuleConfig { raise: 5.0, clear: 2.5, for_seconds: 60.0 };
        Rule { name: RuleName::LagHigh, severity: Severity::Warning, levels }
    }

    /// Takes one request, answers it, gives back the request's path and body.
    pub(in super::super) fn answer(
        listener: &TcpListener,
        status: &str,
    ) -> (String, serde_json::Value) {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        loop {
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "the request breaks off");
            request.extend_from_slice(&buffer[..read]);
            let text = String::from_utf8_lossy(&request).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            if let Ok(json) = serde_json::from_str(body) {
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).unwrap();
                let path = head.split(' ').nth(1).unwrap().to_string();
                return (path, json);
            }
        }
    }

    /// The same with 200.
    pub(in super::super) fn receive(listener: &TcpListener) -> (String, serde_json::Value) {
        answer(listener, "200 OK")
    }

    fn webhook(url: String) -> WebhookConfig {
        WebhookConfig { url, token_file: None, ca_file: None }
    }

    #[test]
    fn both_receivers_get_their_own_form() {
        let hook = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = AlertsConfig {
            webhook: Some(webhook(format!("http://{}/hook", hook.local_addr().unwrap()))),
            alertmanager: vec![AlertmanagerConfig {
                url: format!("http://{}/", peer.local_addr().unwrap()),
                basic_auth: None,
                ca_file: None,
            }],
            ..AlertsConfig::default()
        };
        let hook = std::thread::spawn(move || receive(&hook));
        let peer = std::thread::spawn(move || receive(&peer));
        let firing = Notification::firing(&rule(), Some(7.5), Timestamp::UNIX_EPOCH);
        for receiver in Receiver::all(&config, "shop") {
            receiver.send(&firing).unwrap();
        }
        let (path, body) = hook.join().unwrap();
        assert_eq!(
            (path.as_str(), &body["status"], &body["value"]),
            ("/hook", &json!("firing"), &json!(7.5))
        );
        let (path, body) = peer.join().unwrap();
        assert_eq!(path, "/api/v2/alerts");
        assert_eq!(body[0]["labels"]["alertname"], "CutoverLagHigh");
        assert_eq!(body[0]["startsAt"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_resolved_alert_ends_now_and_a_dead_receiver_is_an_error() {
        let now = Timestamp::now();
        let resolved = Notification::resolved(&rule(), Some(1.0));
        let body = resolved.alertmanager_body("shop", now);
        assert_eq!(body[0]["endsAt"], json!(now.to_string()));
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = AlertsConfig {
            webhook: Some(webhook(format!("http://{gone}/"))),
            ..AlertsConfig::default()
        };
        let error = Receiver::all(&config, "shop")[0].send(&resolved).unwrap_err();
        assert!(!error.is_refusal(), "{error}");
    }

    #[test]
    fn only_2xx_counts_as_delivered() {
        for status in ["302 Found\r\nlocation: /elsewhere", "404 Not Found", "500 Oops"] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}/hook", listener.local_addr().unwrap());
            let config = AlertsConfig { webhook: Some(webhook(url)), ..AlertsConfig::default() };
            let heard = std::thread::spawn(move || answer(&listener, status));
            let sent =
                Receiver::all(&config, "shop")[0].send(&Notification::resolved(&rule(), Some(1.0)));
            assert!(sent.is_err(), "{status}");
            heard.join().unwrap();
        }
    }
}
