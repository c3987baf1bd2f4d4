//! Alerts for those who have no Prometheus: an evaluator over the sidecar's own readings, and
//! two ways out, a webhook and Alertmanager.
//!
//! The rules are those of `replicator/alerts/cutover.rules.yml`, which says the same to a
//! Prometheus; a test holds the two against each other.

mod config;
mod evaluator;
mod notify;
mod rules;
mod runs;
pub(crate) mod series;

pub use config::{AlertmanagerConfig, AlertsConfig, RuleConfig, WebhookConfig};
pub use evaluator::{Evaluator, Transition};
pub use notify::{Notification, Notifier, NotifyError};
pub use rules::{Readings, Rule, RuleName, Severity};
pub use runs::RunReadings;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::controller::Controller;
use crate::status::Shared;

/// How often the rules are evaluated.
const EVALUATION_INTERVAL: Duration = Duration::from_secs(1);
/// How often Alertmanager is told again that an alert still fires; it forgets after a while.
const RESEND_INTERVAL: Duration = Duration::from_secs(60);

/// What the rules look at now: the stream that carries, and the runs.
pub fn read(forward: &Shared, back: &Shared, service: &Controller) -> Readings {
    let carries_back = *back.carries.borrow();
    let of_stream = if carries_back { back } else { forward }.readings();
    let (run, breach) = (service.current(), service.breach());
    let runs = RunReadings::of(run.as_ref(), breach.as_ref(), Timestamp::now());
    Readings { way_back: carries_back, runs, ..of_stream }
}

/// Evaluates all rules for as long as the future is polled, and sends what changes.
///
/// A notification that can't be delivered is logged and counted by `failed`; the next change or
/// the next minute tries again, and nothing else waits for it.
pub async fn watch(
    config: AlertsConfig,
    pipeline: String,
    mut readings: impl FnMut() -> Readings,
    failed: impl Fn(),
) {
    let notifier = Arc::new(Notifier::new(&config, pipeline));
    let mut evaluators: Vec<(Rule, Evaluator, Option<Instant>)> = rules::rules(&config)
        .into_iter()
        .map(|rule| {
            let evaluator = Evaluator::new(rule.levels);
            (rule, evaluator, None)
        })
        .collect();
    let mut tick = tokio::time::interval(EVALUATION_INTERVAL);
    loop {
        tick.tick().await;
        let now = Instant::now();
        let readings = readings();
        for (rule, evaluator, sent_at) in &mut evaluators {
            let value = rule.value(&readings);
            let changed = evaluator.observe(now, value, Timestamp::now());
            let due = sent_at.is_some_and(|at| now.duration_since(at) >= RESEND_INTERVAL);
            let notification = match (changed, evaluator.firing_since()) {
                (Some(Transition::Raised), Some(since)) => Notification::firing(rule, value, since),
                (Some(Transition::Cleared), _) => Notification::resolved(rule, value),
                (None, Some(since)) if due => Notification::firing(rule, value, since).repeated(),
                _ => continue,
            };
            *sent_at = evaluator.firing_since().map(|_| now);
            let notifier = Arc::clone(&notifier);
            let sent = tokio::task::spawn_blocking(move || notifier.send(&notification)).await;
            for error in sent.unwrap_or_default() {
                tracing::warn!(alert = rule.name.as_str(), %error, "an alert was not delivered");
                failed();
            }
        }
    }
}
