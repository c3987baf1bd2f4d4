//! When to report, when to ask, when to wait, when to worry: the stream's clock, as pure functions
//! of the time that they are given.

use std::time::Duration;

use tokio::time::Instant;

/// Longest time between two status reports.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// After this much quiet the server is asked where it is, so that an idle source's progress is
/// never older. An answer costs it 23 bytes.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// A question unanswered for so long is looked into.
const WORRY_AFTER: Duration = Duration::from_secs(10);

/// A read that brought this much means that the server has more than it could send.
const GULP_BYTES: usize = 32 << 10;

/// How long to let it send on before the next read. The walsender flushes after every message, and
/// each wake-up of ours interrupts it; measured, waiting doubles what arrives.
const GULP_PAUSE: Duration = Duration::from_millis(4);

/// The clock of one stream.
#[derive(Debug)]
pub(super) struct Pace {
    report_every: Duration,
    reported_at: Instant,
    quiet_since: Instant,
    /// When the first question was sent that nothing has answered, and when the latest was.
    asked: Option<(Instant, Instant)>,
    /// The next read may not happen before.
    read_after: Option<Instant>,
}

impl Pace {
    /// A clock for a server that gives up on a silent client after `sender_timeout`
    /// (`wal_sender_timeout`; zero means never).
    pub(super) fn new(now: Instant, sender_timeout: Duration) -> Self {
        let report_every = match sender_timeout {
            Duration::ZERO => REPORT_EVERY,
            timeout => REPORT_EVERY.min(timeout / 2),
        };
        Self { report_every, reported_at: now, quiet_since: now, asked: None, read_after: None }
    }

    /// Something arrived: `read_bytes` with one read.
    pub(super) fn heard(&mut self, now: Instant, read_bytes: usize) {
        self.quiet_since = now;
        self.asked = None;
        self.read_after = (read_bytes >= GULP_BYTES).then(|| now + GULP_PAUSE);
    }

    /// When to read again, if the server should be given time to send more first.
    pub(super) fn read_after(&self) -> Option<Instant> {
        self.read_after
    }

    /// The pause is over.
    pub(super) fn paused(&mut self) {
        self.read_after = None;
    }

    /// A report was sent; `asking` for an answer or not.
    pub(super) fn reported(&mut self, now: Instant, asking: bool) {
        self.reported_at = now;
        if asking {
            self.asked = Some((self.asked.map_or(now, |(first, _)| first), now));
        }
    }

    /// Whether to report at all, for the sake of the connection.
    pub(super) fn must_report(&self, now: Instant) -> bool {
        now >= self.report_at()
    }

    /// When the next report is due.
    pub(super) fn report_at(&self) -> Instant {
        self.reported_at + self.report_every
    }

    /// Whether an acknowledgement may be reported at once; otherwise it goes with the next report.
    pub(super) fn may_report(&self, now: Instant) -> bool {
        now >= self.reported_at + ASK_EVERY
    }

    /// Whether to ask the server where it is.
    pub(super) fn must_ask(&self, now: Instant) -> bool {
        now >= self.ask_at()
    }

    fn ask_at(&self) -> Instant {
        self.asked.map_or(self.quiet_since, |(_, latest)| latest) + ASK_EVERY
    }

    /// When there is something to do though nothing arrives.
    pub(super) fn wake_at(&self) -> Instant {
        self.report_at().min(self.ask_at())
    }

    /// Whether the server owes an answer for too long. Only to be asked after a read found
    /// nothing: an answer may be waiting there.
    pub(super) fn is_worrying(&self, now: Instant) -> bool {
        self.asked.is_some_and(|(first, _)| now >= first + WORRY_AFTER)
    }

    /// The server has a reason for its silence, or nobody listened.
    pub(super) fn excused(&mut self, now: Instant) {
        self.quiet_since = now;
        self.asked = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn reports_come_twice_in_the_servers_patience_and_once_a_second() {
        let start = Instant::now();
        for (timeout_ms, every_ms) in [(0, 1_000), (60_000, 1_000), (800, 400)] {
            let pace = Pace::new(start, ms(timeout_ms));
            assert!(!pace.must_report(start + ms(every_ms - 1)));
            assert!(pace.must_report(start + ms(every_ms)));
        }
    }

    #[test]
    fn quiet_is_asked_about_every_tenth_of_a_second() {
        let start = Instant::now();
        let mut pace = Pace::new(start, ms(60_000));
        assert!(!pace.must_ask(start + ms(99)));
        assert!(pace.must_ask(start + ms(100)));
        assert_eq!(pace.wake_at(), start + ms(100));
        pace.reported(start + ms(100), true);
        assert!(!pace.must_ask(start + ms(199)));
        assert!(pace.must_ask(start + ms(200)));
        pace.heard(start + ms(150), 18);
        assert!(!pace.must_ask(start + ms(249)));
        assert!(pace.must_ask(start + ms(250)));
    }

    #[test]
    fn only_unanswered_questions_are_a_worry() {
        let start = Instant::now();
        let mut pace = Pace::new(start, ms(60_000));
        assert!(!pace.is_worrying(start + ms(60_000)), "nothing was asked");
        pace.reported(start + ms(100), true);
        pace.reported(start + ms(9_900), true);
        assert!(!pace.is_worrying(start + ms(10_099)));
        assert!(pace.is_worrying(start + ms(10_100)), "counted from the first question");
        pace.heard(start + ms(10_100), 18);
        assert!(!pace.is_worrying(start + ms(60_000)));
    }

    #[test]
    fn only_a_large_read_makes_the_next_one_wait() {
        let start = Instant::now();
        let mut pace = Pace::new(start, ms(60_000));
        pace.heard(start, GULP_BYTES - 1);
        assert_eq!(pace.read_after(), None);
        pace.heard(start, GULP_BYTES);
        assert_eq!(pace.read_after(), Some(start + GULP_PAUSE));
        pace.paused();
        assert_eq!(pace.read_after(), None);
    }
}
