//! Whether checkpoints keep up with what is applied.
//!
//! A log that does not answer stops no lane: the lag stays small, while nothing becomes durable and the source
//! keeps all of its own. Somebody has to say so.

use std::time::Duration;

use decoders::Lsn;
use tokio::time::Instant;

/// A checkpoint follows what is applied within milliseconds. One that stands still for so long although
/// there is more to write is worth a word.
const SILENT_AFTER: Duration = Duration::from_secs(2);

/// What was seen of the checkpoint. Pure: all time comes in through its arguments.
#[derive(Debug)]
pub(super) struct Confirmed {
    /// When it last covered everything applied.
    covered_at: Instant,
    /// Where it is, if there is more, and when it was first seen there.
    behind: Option<(Lsn, Instant)>,
}

impl Confirmed {
    pub fn new(now: Instant) -> Self {
        Self { covered_at: now, behind: None }
    }

    /// The checkpoint is at `durable`, and everything up to `applied` is on the target.
    pub fn seen(&mut self, now: Instant, durable: Lsn, applied: Lsn) {
        if durable == applied {
            (self.covered_at, self.behind) = (now, None);
        } else if self.behind.is_none_or(|(at, _)| at != durable) {
            self.behind = Some((durable, now));
        }
    }

    /// Since it last covered everything applied.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.covered_at)
    }

    /// How long it has stood still, if that is longer than it should.
    pub fn silent_for(&self, now: Instant) -> Option<Duration> {
        let (_, since) = self.behind?;
        Some(now.saturating_duration_since(since)).filter(|silent| *silent >= SILENT_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_checkpoint_that_stands_still_is_silent() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut confirmed = Confirmed::new(start);
        // Behind, but moving: a busy stream.
        for n in 0..100 {
            confirmed.seen(at(n * 100), Lsn(n), Lsn(n + 1));
            assert_eq!(confirmed.silent_for(at(n * 100 + 50)), None);
        }
        assert_eq!(confirmed.age(at(9_900)), Duration::from_millis(9_900));
        // It stands where it was seen last at 9.9 s, whatever is applied.
        confirmed.seen(at(11_000), Lsn(99), Lsn(500));
        assert_eq!(confirmed.silent_for(at(11_800)), None);
        assert_eq!(confirmed.silent_for(at(11_900)), Some(Duration::from_secs(2)));
        // It moves again, then covers everything.
        confirmed.seen(at(12_000), Lsn(200), Lsn(500));
        assert_eq!(confirmed.silent_for(at(13_900)), None);
        confirmed.seen(at(15_000), Lsn(500), Lsn(500));
        assert_eq!(
            (confirmed.silent_for(at(60_000)), confirmed.age(at(15_000))),
            (None, Duration::ZERO)
        );
    }
}
