//! Sending alerts: a webhook of our own form, and Alertmanager's v2 API.

use std::time::Duration;

use cutover::private_file;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::config::{AlertmanagerConfig, AlertsConfig, WebhookConfig};
use super::rules::Rule;

/// Longest wait for a receiver. It must not hold up the next evaluation for long.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long Alertmanager is to believe that an alert fires after we last said so.
const FIRING_FOR: SignedDuration = SignedDuration::from_secs(180);

/// One alert that fires, or one that is over.
#[derive(Clone, Copy, Debug)]
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

/// Knows the receivers.
#[derive(Debug)]
pub struct Notifier {
    agent: ureq::Agent,
    pipeline: String,
    webhook: Option<WebhookConfig>,
    alertmanagers: Vec<AlertmanagerConfig>,
}

impl Notifier {
    /// The configured receivers.
    pub fn new(config: &AlertsConfig, pipeline: String) -> Self {
        let agent = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).build().into();
        Self {
            agent,
            pipeline,
            webhook: config.webhook.clone(),
            alertmanagers: config.alertmanager.clone(),
        }
    }

    /// Tells every receiver; blocks for up to some seconds each. What failed comes back.
    pub fn send(&self, notification: &Notification) -> Vec<NotifyError> {
        let mut errors = Vec::new();
        if let Some(webhook) = self.webhook.as_ref().filter(|_| !notification.repeated) {
            errors.extend(self.post_webhook(webhook, notification).err());
        }
        for alertmanager in &self.alertmanagers {
            errors.extend(self.post_alertmanager(alertmanager, notification).err());
        }
        errors
    }

    fn post_webhook(
        &self,
        hook: &WebhookConfig,
        notification: &Notification,
    ) -> Result<(), NotifyError> {
        let failed = |cause: String| NotifyError { receiver: "webhook", cause };
        let mut request = self.agent.post(&hook.url);
        if let Some(path) = &hook.token_file {
            let token =
                private_file::read(path).map_err(|error| failed(format!("token_file {error}")))?;
            request = request.header("Authorization", format!("Bearer {}", token.trim()));
        }
        let sent = request.send_json(notification.webhook_body(&self.pipeline));
        sent.map(drop).map_err(|error| failed(error.to_string()))
    }

    fn post_alertmanager(
        &self,
        peer: &AlertmanagerConfig,
        notification: &Notification,
    ) -> Result<(), NotifyError> {
        let url = format!("{}/api/v2/alerts", peer.url.trim_end_matches('/'));
        let mut request = self.agent.post(&url);
        if let Some(credentials) = &peer.basic_auth {
            use base64::Engine as _;
            let encoded = base64::engine::general_purpose::STANDARD.encode(&credentials.0);
            request = request.header("Authorization", format!("Basic {encoded}"));
        }
        let body = notification.alertmanager_body(&self.pipeline, Timestamp::now());
        let sent = request.send_json(body);
        sent.map(drop)
            .map_err(|error| NotifyError { receiver: "alertmanager", cause: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::super::RuleConfig;
    use super::super::rules::{RuleName, Severity};
    use super::*;

    fn rule() -> Rule {
        let levels = RuleConfig { raise: 5.0, clear: 2.5, for_seconds: 60.0 };
        Rule { name: RuleName::LagHigh, severity: Severity::Warning, levels }
    }

    /// Takes one request, answers 200, gives back the request's path and body.
    fn receive_one(listener: TcpListener) -> std::thread::JoinHandle<(String, serde_json::Value)> {
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            loop {
                let mut buffer = [0; 4096];
                let read = stream.read(&mut buffer).unwrap();
                request.extend_from_slice(&buffer[..read]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                if let Ok(json) = serde_json::from_str(body) {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
                    let path = head.split(' ').nth(1).unwrap().to_string();
                    return (path, json);
                }
            }
        })
    }

    #[test]
    fn both_receivers_get_their_own_form() {
        let hook = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = AlertsConfig {
            webhook: Some(WebhookConfig {
                url: format!("http://{}/hook", hook.local_addr().unwrap()),
                token_file: None,
            }),
            alertmanager: vec![AlertmanagerConfig {
                url: format!("http://{}/", peer.local_addr().unwrap()),
                basic_auth: None,
            }],
            ..AlertsConfig::default()
        };
        let (hook, peer) = (receive_one(hook), receive_one(peer));
        let notifier = Notifier::new(&config, "shop".into());
        let firing = Notification::firing(&rule(), Some(7.5), Timestamp::UNIX_EPOCH);
        let errors = notifier.send(&firing);
        assert!(errors.is_empty(), "{errors:?}");
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
            webhook: Some(WebhookConfig { url: format!("http://{gone}/"), token_file: None }),
            ..AlertsConfig::default()
        };
        let errors = Notifier::new(&config, "shop".into()).send(&resolved);
        assert_eq!(errors.len(), 1);
    }
}
