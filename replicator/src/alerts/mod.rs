//! Alerts for those who have no Prometheus: an evaluator over the sidecar's own readings, and
//! two ways out, a webhook and Alertmanager, each with a queue of its own ([`outbox`]).
//!
//! The rules are those of `replicator/alerts/cutover.rules.yml`, which says the same to a
//! Prometheus; a test holds the two against each other.

mod config;
mod evaluator;
mod notify;
mod outbox;
mod rules;
mod runs;
pub(crate) mod series;
mod source;
mod upkeep;

pub use config::{AlertmanagerConfig, AlertsConfig, RuleConfig, WebhookConfig};
pub use evaluator::{Evaluator, Transition};
pub use notify::{Notification, NotifyError, Receiver};
pub use rules::{Readings, Rule, RuleName, Severity};
pub use runs::RunReadings;
pub use source::{Beside, Source};
pub use upkeep::{CopyReadings, LogReadings, Proof, ProxyReadings, Upkeep, VerifyReadings};

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use outbox::Outbox;

/// How often the rules are evaluated.
const EVALUATION_INTERVAL: Duration = Duration::from_secs(1);
/// How often Alertmanager is told again that an alert still fires; it forgets after a while.
const RESEND_INTERVAL: Duration = Duration::from_secs(60);

/// The evaluator and its outboxes, while they work. Dropped, what still waits is not delivered.
pub struct Alerting {
    ends: watch::Sender<bool>,
    evaluating: JoinHandle<()>,
    outboxes: Vec<Arc<Outbox>>,
    sending: Vec<JoinHandle<()>>,
}

impl Alerting {
    /// Evaluates the rules once more, and waits until every receiver has what is to be told, but not
    /// longer than `grace`.
    pub async fn end(mut self, grace: Duration) {
        let delivered = async {
            self.ends.send_replace(true);
            // It ends behind its last evaluation; if it has panicked, what waits is sent all the same.
            let _ = (&mut self.evaluating).await;
            for outbox in &self.outboxes {
                outbox.hurry();
            }
            for outbox in &self.outboxes {
                outbox.empty().await;
            }
        };
        if tokio::time::timeout(grace, delivered).await.is_err() {
            let waiting: usize = self.outboxes.iter().map(|outbox| outbox.waiting()).sum();
            tracing::error!(waiting, "alerts were not delivered before the end of the process");
        }
    }
}

impl Drop for Alerting {
    fn drop(&mut self) {
        self.evaluating.abort();
        self.sending.iter().for_each(JoinHandle::abort);
    }
}

/// Evaluates all rules until it is dropped or [ended](Alerting::end), and sends what changes.
///
/// Each receiver has a queue, and a notification stays in it until the receiver has taken it. What could
/// not be delivered is logged and counted by `failed`, and tried again; the evaluator never waits for it.
pub fn start(
    config: &AlertsConfig,
    pipeline: String,
    readings: impl FnMut() -> Readings + Send + 'static,
    failed: impl Fn() + Send + Sync + 'static,
) -> Alerting {
    let failed = Arc::new(failed);
    let receivers = Receiver::all(config, &pipeline).into_iter();
    let outboxes: Vec<Arc<Outbox>> =
        receivers.map(|receiver| Arc::new(Outbox::new(receiver))).collect();
    let sending = outboxes.iter().map(|outbox| {
        let (outbox, failed) = (Arc::clone(outbox), Arc::clone(&failed));
        tokio::spawn(async move { outbox.deliver(&*failed).await })
    });
    let sending = sending.collect();
    let (ends, told) = (watch::Sender::new(false), outboxes.clone());
    let evaluating = evaluate(rules::rules(config), readings, told, ends.subscribe());
    Alerting { evaluating: tokio::spawn(evaluating), ends, outboxes, sending }
}

struct Evaluated {
    rule: Rule,
    evaluator: Evaluator,
    /// While it fires: when it was last told.
    told_at: Option<Instant>,
}

async fn evaluate(
    rules: Vec<Rule>,
    mut readings: impl FnMut() -> Readings,
    outboxes: Vec<Arc<Outbox>>,
    mut ends: watch::Receiver<bool>,
) {
    let mut rules: Vec<Evaluated> = rules
        .into_iter()
        .map(|rule| Evaluated { rule, evaluator: Evaluator::new(rule.levels), told_at: None })
        .collect();
    let mut tick = tokio::time::interval(EVALUATION_INTERVAL);
    loop {
        let ending = tokio::select! {
            _ = tick.tick() => false,
            _ = ends.wait_for(|ends| *ends) => true,
        };
        let (now, readings) = (Instant::now(), readings());
        for each in &mut rules {
            if let Some(notification) = each.observe(now, &readings) {
                outboxes.iter().for_each(|outbox| outbox.put(notification));
            }
        }
        if ending {
            return;
        }
    }
}

impl Evaluated {
    fn observe(&mut self, now: Instant, readings: &Readings) -> Option<Notification> {
        let Self { rule, evaluator, told_at } = self;
        let value = rule.value(readings);
        let changed = evaluator.observe(now, value, Timestamp::now());
        let due = told_at.is_some_and(|at| now.duration_since(at) >= RESEND_INTERVAL);
        let notification = match (changed, evaluator.firing_since()) {
            (Some(Transition::Raised), Some(since)) => Notification::firing(rule, value, since),
            (Some(Transition::Cleared), _) => Notification::resolved(rule, value),
            (None, Some(since)) if due => Notification::firing(rule, value, since).repeated(),
            _ => return None,
        };
        *told_at = evaluator.firing_since().map(|_| now);
        Some(notification)
    }
}
