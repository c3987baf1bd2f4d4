//! What one receiver has yet to be told: in order, bounded, and kept until the receiver has taken it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use super::notify::{Notification, NotifyError, Receiver};

/// Notifications that wait for one receiver at most; beyond it the oldest is given up.
const WAITING_MAX: usize = 1024;
/// First and longest pause before a receiver is tried again.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Pause while the process waits to end.
const HURRIED: Duration = Duration::from_millis(250);
/// A notification that its receiver calls wrong is given up after so many tries: the others wait behind it.
const REFUSED_MAX: u32 = 5;

/// The queue of one receiver.
pub(super) struct Outbox {
    receiver: Arc<Receiver>,
    waiting: Mutex<VecDeque<Notification>>,
    changed: Notify,
    hurry: Notify,
    in_a_hurry: AtomicBool,
}

impl Outbox {
    pub(super) fn new(receiver: Receiver) -> Self {
        Self {
            receiver: Arc::new(receiver),
            waiting: Mutex::default(),
            changed: Notify::new(),
            hurry: Notify::new(),
            in_a_hurry: AtomicBool::new(false),
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Notification>> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Never waits.
    pub(super) fn put(&self, notification: Notification) {
        let mut queue = self.queue();
        // What still fires is said again only to a receiver that has heard everything.
        if notification.is_repeated() && !(self.receiver.wants_repeats() && queue.is_empty()) {
            return;
        }
        if queue.len() >= WAITING_MAX {
            let given_up = queue.pop_front();
            let alert = given_up.map(|notification| notification.name());
            tracing::error!(
                receiver = self.receiver.name(),
                alert,
                "too many alerts wait for a receiver: the oldest is given up"
            );
        }
        queue.push_back(notification);
        drop(queue);
        self.changed.notify_one();
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue().len()
    }

    /// From now on there are no long pauses.
    pub(super) fn hurry(&self) {
        self.in_a_hurry.store(true, Ordering::Relaxed);
        self.hurry.notify_one();
    }

    /// Returns once nothing waits.
    pub(super) async fn empty(&self) {
        while self.waiting() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Delivers what waits, for as long as it is polled. Tells `failed` of every try that failed.
    pub(super) async fn deliver(&self, failed: &(impl Fn() + ?Sized)) {
        let mut pause = RETRY_MIN;
        let mut refused = 0;
        loop {
            let next = self.queue().front().copied();
            let Some(notification) = next else {
                self.changed.notified().await;
                continue;
            };
            let receiver = Arc::clone(&self.receiver);
            let sent = tokio::task::spawn_blocking(move || receiver.send(&notification)).await;
            let error = match sent {
                Ok(Ok(())) => {
                    self.is_done(&notification);
                    (pause, refused) = (RETRY_MIN, 0);
                    continue;
                }
                Ok(Err(error)) => error,
                Err(error) => NotifyError::internal(self.receiver.name(), &error),
            };
            failed();
            let alert = notification.name();
            tracing::warn!(alert, %error, retry_ms = pause.as_millis() as u64, "an alert was not delivered");
            refused += u32::from(error.is_refusal());
            if refused >= REFUSED_MAX {
                tracing::error!(alert, %error, "the receiver does not take this alert: it is given up");
                self.is_done(&notification);
                (pause, refused) = (RETRY_MIN, 0);
                continue;
            }
            let wait = if self.in_a_hurry.load(Ordering::Relaxed) { HURRIED } else { pause };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.hurry.notified() => {}
            }
            pause = (2 * pause).min(RETRY_MAX);
        }
    }

    /// It may have been given up meanwhile.
    fn is_done(&self, notification: &Notification) {
        let mut queue = self.queue();
        if queue.front() == Some(notification) {
            queue.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::atomic::AtomicUsize;

    use jiff::Timestamp;

    use super::super::notify::tests::{answer, receive};
    use super::super::rules::{Rule, RuleName, Severity};
    use super::super::{AlertsConfig, RuleConfig, WebhookConfig};
    use super::*;

    fn rule(name: RuleName) -> Rule {
        let levels = RuleConfig { raise: 5.0, clear: 2.5, for_seconds: 60.0 };
        Rule { name, severity: Severity::Warning, levels }
    }

    fn firing(name: RuleName) -> Notification {
        Notification::firing(&rule(name), Some(7.5), Timestamp::UNIX_EPOCH)
    }

    fn webhook(address: &str) -> Receiver {
        let config = AlertsConfig {
            webhook: Some(WebhookConfig {
                url: format!("http://{address}/hook"),
                token_file: None,
                ca_file: None,
            }),
            ..AlertsConfig::default()
        };
        Receiver::all(&config, "shop").remove(0)
    }

    /// It is down at first, then in trouble, and then has everything in order.
    #[tokio::test]
    async fn what_a_receiver_missed_comes_once_it_is_up() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let outbox = Arc::new(Outbox::new(webhook(&address.to_string())));
        let errors = Arc::new(AtomicUsize::new(0));
        outbox.put(firing(RuleName::LagHigh));
        outbox.put(Notification::resolved(&rule(RuleName::LagHigh), Some(1.0)));
        let (sender, counted) = (Arc::clone(&outbox), Arc::clone(&errors));
        let delivering = tokio::spawn(async move {
            let failed = move || {
                counted.fetch_add(1, Ordering::Relaxed);
            };
            sender.deliver(&failed).await;
        });
        while errors.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let up = tokio::task::spawn_blocking(move || {
            let listener = TcpListener::bind(address).unwrap();
            answer(&listener, "503 Service Unavailable");
            [receive(&listener), receive(&listener)].map(|(_, body)| body["status"].clone())
        });
        outbox.hurry();
        let told = up.await.unwrap();
        assert_eq!(told, ["firing", "resolved"]);
        tokio::time::timeout(Duration::from_secs(10), outbox.empty()).await.unwrap();
        delivering.abort();
    }

    /// Ten minutes of the clock, with an alert that comes and goes in each of them.
    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_is_down_for_ten_minutes_misses_nothing() {
        const CHANGES: u8 = 20;
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let outbox = Arc::new(Outbox::new(webhook(&address.to_string())));
        let errors = Arc::new(AtomicUsize::new(0));
        let (sender, counted) = (Arc::clone(&outbox), Arc::clone(&errors));
        let delivering = tokio::spawn(async move {
            let failed = move || {
                counted.fetch_add(1, Ordering::Relaxed);
            };
            sender.deliver(&failed).await;
        });
        let rule = rule(RuleName::LagHigh);
        for number in 0..CHANGES {
            let value = Some(f64::from(number));
            outbox.put(match number % 2 {
                0 => Notification::firing(&rule, value, Timestamp::UNIX_EPOCH),
                _ => Notification::resolved(&rule, value),
            });
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
        assert_eq!(outbox.waiting(), usize::from(CHANGES), "none was given up");
        let refused = errors.load(Ordering::Relaxed);
        assert!((10..30).contains(&refused), "tried {refused} times in ten minutes");
        // A thread: what the runtime waits for on one of its own keeps its clock from going on.
        let up = std::thread::spawn(move || {
            let listener = TcpListener::bind(address).unwrap();
            (0..CHANGES).map(|_| receive(&listener).1["value"].as_f64()).collect::<Vec<_>>()
        });
        outbox.empty().await;
        let in_order: Vec<_> = (0..CHANGES).map(|number| Some(f64::from(number))).collect();
        assert_eq!(up.join().unwrap(), in_order);
        delivering.abort();
    }

    #[tokio::test]
    async fn one_that_is_called_wrong_does_not_hold_up_the_others() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let outbox = Arc::new(Outbox::new(webhook(&address)));
        outbox.put(firing(RuleName::LagHigh));
        outbox.put(firing(RuleName::Held));
        outbox.hurry();
        let heard = tokio::task::spawn_blocking(move || {
            (0..REFUSED_MAX).for_each(|_| drop(answer(&listener, "400 Bad Request")));
            receive(&listener).1["alert"].clone()
        });
        let sender = Arc::clone(&outbox);
        let delivering = tokio::spawn(async move { sender.deliver(&|| ()).await });
        assert_eq!(heard.await.unwrap(), "CutoverHeld");
        delivering.abort();
    }

    #[test]
    fn the_queue_is_bounded_and_repeats_do_not_fill_it() {
        let outbox = Outbox::new(webhook("127.0.0.1:1"));
        for _ in 0..WAITING_MAX + 10 {
            outbox.put(firing(RuleName::LagHigh));
        }
        assert_eq!(outbox.waiting(), WAITING_MAX);
        let outbox = Outbox::new(webhook("127.0.0.1:1"));
        outbox.put(firing(RuleName::LagHigh).repeated());
        assert_eq!(outbox.waiting(), 0, "a webhook is told of changes only");
    }
}
