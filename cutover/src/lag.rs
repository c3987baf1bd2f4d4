//! How far green is behind blue, by one clock.
//!
//! Blue's head is sampled every [`SAMPLE_INTERVAL`]; each sample keeps the time at which it was
//! *asked for*, on the sidecar's monotonic clock. Once green has applied up to a sample's head, it
//! has everything that blue had committed at that time. So the lag is the age of the newest sample
//! that is fully applied, and 0 while that is the newest one of all. No clock of blue or green is
//! compared, and the error is at most one interval.
//!
//! A sensor that is blind says so: with no sample younger than [`STALE_AFTER`] the lag is unknown,
//! and unknown satisfies no gate.

use std::collections::VecDeque;
use std::time::Duration;

use decoders::Lsn;
use tokio::time::Instant;

use crate::api;

/// How often to sample blue's head.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// Without a newer sample the lag is unknown.
pub const STALE_AFTER: Duration = Duration::from_secs(1);
/// Samples kept. When green stands still for longer than they cover, every other old one is
/// forgotten: the lag can then only look larger than it is, never smaller.
const SAMPLES_MAX: usize = 4096;
/// The rate of applying is measured over this long.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// Bytes of a log page (`wal_block_size`; other sizes need a custom build).
const PAGE_BYTES: u64 = 8192;
/// Bytes of a page's header, and of the longer one at the start of a segment
/// (`SizeOfXLogShortPHD`, `SizeOfXLogLongPHD`).
const SHORT_HEADER_BYTES: u64 = 24;
const LONG_HEADER_BYTES: u64 = 40;

/// An insert position as keepalives would report it.
///
/// `pg_current_wal_insert_lsn()` points *behind* the header of a page that nothing has been
/// written to yet, while a walsender reports the end of the last record, before the header.
/// Taken as it is, an idle blue would show a lag of 24 (or 40) bytes for ever. No record can end
/// exactly there, so the two mean the same. `segment_bytes` is `wal_segment_size`.
pub fn normalized_head(head: Lsn, segment_bytes: u64) -> Lsn {
    if segment_bytes != 0 && head.0 % segment_bytes == LONG_HEADER_BYTES {
        Lsn(head.0 - LONG_HEADER_BYTES)
    } else if head.0 % PAGE_BYTES == SHORT_HEADER_BYTES {
        Lsn(head.0 - SHORT_HEADER_BYTES)
    } else {
        head
    }
}

/// The lag at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct LagReading {
    /// When this was computed.
    pub at: Instant,
    /// Age of the newest moment of blue that green has fully applied, seconds. `None`: unknown.
    pub seconds: Option<f64>,
    /// Log bytes outstanding. `None`: unknown.
    pub bytes: Option<u64>,
    /// Transactions received and not applied.
    pub transactions: u64,
    /// Estimated time to apply what is outstanding. `None`: no rate is known.
    pub drain_estimate_seconds: Option<f64>,
    /// Why the lag is unknown.
    pub reason: Option<String>,
}

impl LagReading {
    /// A lag that nobody knows.
    pub fn unknown(at: Instant, reason: impl Into<String>) -> Self {
        Self {
            at,
            seconds: None,
            bytes: None,
            transactions: 0,
            drain_estimate_seconds: None,
            reason: Some(reason.into()),
        }
    }
}

impl From<&LagReading> for api::Lag {
    fn from(reading: &LagReading) -> Self {
        api::Lag {
            seconds: reading.seconds,
            bytes: reading.bytes,
            transactions: reading.transactions,
            drain_estimate_seconds: reading.drain_estimate_seconds,
            known: reading.seconds.is_some(),
            reason: reading.reason.clone(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    asked_at: Instant,
    head: Lsn,
}

/// Turns samples of blue's head and positions applied on green into a lag. Pure: all time comes
/// in through its arguments.
#[derive(Debug)]
pub struct LagTracker {
    /// Not yet applied, oldest first.
    outstanding: VecDeque<Sample>,
    /// The newest sample of all.
    newest: Option<Sample>,
    /// When the oldest sample was asked for whose head is not known by number yet: it is beyond
    /// everything that was read.
    awaited_since: Option<Instant>,
    /// When the newest applied sample was asked for.
    applied_as_of: Option<Instant>,
    applied: Lsn,
    transactions: u64,
    blind: Option<String>,
    /// Applied positions within the rate window.
    rate: VecDeque<(Instant, Lsn)>,
}

impl Default for LagTracker {
    fn default() -> Self {
        Self::new()
    }
}

impl LagTracker {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Self {
            outstanding: VecDeque::new(),
            newest: None,
            awaited_since: None,
            applied_as_of: None,
            applied: Lsn::INVALID,
            transactions: 0,
            blind: None,
            rate: VecDeque::new(),
        }
    }

    /// A sample of blue's head ([`normalized_head`]), asked for at `asked_at`. A head that went
    /// backwards (another server answers, or a failover) makes the tracker forget everything.
    pub fn sample(&mut self, asked_at: Instant, head: Lsn) {
        self.blind = None;
        if let Some(newest) = self.newest {
            if head < newest.head {
                *self = Self::new();
                self.blind = Some("blue's log position went backwards".into());
                return;
            }
            if asked_at < newest.asked_at {
                return;
            }
        }
        let sample = Sample { asked_at, head };
        self.newest = Some(sample);
        if head <= self.applied {
            // Everything before it in the queue has a smaller head, so the queue is empty.
            self.applied_as_of = Some(asked_at);
            return;
        }
        if self.outstanding.len() >= SAMPLES_MAX {
            let mut keep = false;
            self.outstanding.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.outstanding.push_back(sample);
    }

    /// The oldest sample that is beyond everything read and so has no number; `None` if there is none.
    /// For sources whose head is not a number until it is read.
    pub fn awaits(&mut self, since: Option<Instant>) {
        self.awaited_since = since;
    }

    /// The sample could not be taken.
    pub fn sample_failed(&mut self, reason: impl Into<String>) {
        self.blind = Some(reason.into());
    }

    /// Everything up to `position` is committed on green: a commit's end, or a keepalive's
    /// position while nothing is open, buffered or in flight. It goes backwards when green may have
    /// lost what it had committed last; the lag is unknown then until green has caught up with a sample again.
    pub fn applied(&mut self, now: Instant, position: Lsn) {
        if position < self.applied {
            self.applied_as_of = None;
            // Those outstanding are beyond where it was, and stay so. Older ones are forgotten already.
            if self.outstanding.is_empty() {
                self.outstanding.extend(self.newest);
            }
            self.rate.clear();
        }
        self.applied = position;
        while let Some(oldest) = self.outstanding.front() {
            if oldest.head > self.applied {
                break;
            }
            self.applied_as_of = Some(oldest.asked_at);
            self.outstanding.pop_front();
        }
        match self.rate.back_mut() {
            // One point per sampling interval is enough.
            Some(last) if now.saturating_duration_since(last.0) < SAMPLE_INTERVAL => {
                last.1 = self.applied;
            }
            _ => self.rate.push_back((now, self.applied)),
        }
        while self.rate.len() > 2 && now.saturating_duration_since(self.rate[0].0) > RATE_WINDOW {
            self.rate.pop_front();
        }
    }

    /// Transactions received and not applied.
    pub fn in_flight(&mut self, transactions: u64) {
        self.transactions = transactions;
    }

    /// The lag now.
    pub fn reading(&self, now: Instant) -> LagReading {
        let Some(newest) = self.newest else {
            let reason = self.blind.clone().unwrap_or("blue has not been sampled yet".into());
            return LagReading::unknown(now, reason);
        };
        let age = match self.awaited_since {
            // Blue answers: what it said is only not reached.
            Some(_) if self.blind.is_none() => Duration::ZERO,
            _ => now.saturating_duration_since(newest.asked_at),
        };
        if age > STALE_AFTER {
            let why = self.blind.as_deref().unwrap_or("no answer");
            let reason = format!("blue was last sampled {:.1} s ago: {why}", age.as_secs_f64());
            return LagReading::unknown(now, reason);
        }
        let Some(applied_as_of) = self.applied_as_of else {
            let reason = "green has not yet caught up with any sample of blue".to_owned();
            return LagReading {
                bytes: self.applied.is_valid().then(|| newest.head.bytes_since(self.applied)),
                transactions: self.transactions,
                ..LagReading::unknown(now, reason)
            };
        };
        let bytes = newest.head.bytes_since(self.applied);
        let seconds = if self.outstanding.is_empty() && self.awaited_since.is_none() {
            0.0
        } else {
            now.saturating_duration_since(applied_as_of).as_secs_f64()
        };
        LagReading {
            at: now,
            seconds: Some(seconds),
            bytes: Some(bytes),
            transactions: self.transactions,
            drain_estimate_seconds: self.drain_estimate(bytes),
            reason: None,
        }
    }

    fn drain_estimate(&self, bytes: u64) -> Option<f64> {
        if bytes == 0 {
            return Some(0.0);
        }
        let (first, last) = (self.rate.front()?, self.rate.back()?);
        let seconds = last.0.saturating_duration_since(first.0).as_secs_f64();
        let applied = last.1.bytes_since(first.1);
        (seconds > 0.0 && applied > 0).then(|| bytes as f64 * seconds / applied as f64)
    }
}

#[cfg(test)]
mod tests;
