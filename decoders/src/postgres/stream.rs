//! A PostgreSQL source of changes: one replication slot, read by streaming.
//!
//! ```text
//!                 ┌────────────── next() ──────────────┐
//! walsender ══d══►│ CopyBoth ► WalMessage ► decode ►   │──► Transaction | Idle
//!           ◄══r══│            Assembler (one open tx) │◄── acknowledge(durable)
//!                 └── keep_alive(): reports, no reads ─┘
//! ```
//!
//! # Progress
//!
//! A position is either the end of a commit that was handed out or the position of a keepalive
//! that came while no transaction was open. The latter is sound because a logical walsender sends
//! its messages in order: its position in a keepalive is the end of the last record that it has
//! decoded, and every commit up to there has been put on the wire before. Should a commit from
//! before a reported position ever arrive, the stream stops: that is the proof's own check.
//!
//! What is reported to the server as written, flushed and applied is one and the same position:
//! the one that [`Source::acknowledge`] was given. Nothing else ever moves the slot.
//!
//! # Transactions that are still running
//!
//! With a spool ([`StreamOptions::spool`]) and PostgreSQL 14+ the server sends a large transaction
//! while it runs. What arrives so is put aside and delivered at the transaction's commit, at the
//! place in commit order where the server announces it: no consumer sees a difference, other than
//! that the transaction is here already when it commits. See `stream/spooling.rs`.
//!
//! # Cancellation
//!
//! `next`, `acknowledge` and `keep_alive` may be dropped at any await: frames and reports wait in
//! the connection's buffers, calls of the spool in `spooling`, and between taking a frame and
//! returning its event there is no await.
//!
//! What is absent on purpose: reconnecting. A stream that failed is dropped; the engine opens a
//! new one at the position that is durable.

pub(super) mod liveness;
mod options;
mod pace;
mod replay;
mod spooling;
pub(super) mod start;
mod timelines;
mod verdict;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep_until};

use super::conninfo::ConnInfo;
use super::delivery::Delivery;
use super::error::{ServerError, WireError};
use super::failure::{of_spool, of_wire};
use super::pgoutput::{self, StreamControl};
use super::walsender::{StatusUpdate, WalMessage};
use super::wire::CopyBoth;
use crate::assemble::Assembler;
use crate::change::{Lsn, Position};
use crate::source::{Disposition, Source, SourceError, SourceEvent};

use self::pace::Pace;
use self::replay::Replayed;
use self::spooling::{BlockError, Spooling, SpoolingError};
use self::verdict::NoVerdict;

pub use options::{
    Binary, ORIGIN_FILTER_SINCE, OriginFilter, SlotUse, StreamOptions, SystemIdentity,
};

/// What a failure says when the spool was retired.
const AFTER_COMMIT: &str = "; the next stream reads transactions when they have committed";

/// An open stream.
#[derive(Debug)]
pub struct PgStream {
    source: ConnInfo,
    options: StreamOptions,
    link: CopyBoth,
    delivery: Delivery,
    spooling: Option<Spooling>,
    pace: Pace,
    identity: SystemIdentity,
    start: Lsn,
    /// Everything up to here is durable on the target.
    durable: Lsn,
    /// An error was returned; what follows can't be trusted.
    failed: bool,
}

impl PgStream {
    /// Checks everything that can be checked, then starts to stream.
    pub async fn open(source: &ConnInfo, options: StreamOptions) -> Result<Self, SourceError> {
        let started = start::start(source, &options).await?;
        let assembler = Assembler::new(options.part_bytes).knowing(options.known_tables.clone());
        Ok(Self {
            source: source.clone(),
            delivery: Delivery::new(&options.slot, assembler, started.binary, started.start),
            options,
            spooling: started.spooling,
            pace: Pace::new(Instant::now(), started.sender_timeout),
            link: started.link,
            identity: started.identity,
            start: started.start,
            durable: started.start,
            failed: false,
        })
    }

    /// Who the server is.
    pub fn identity(&self) -> SystemIdentity {
        self.identity
    }

    /// Where the stream started.
    pub fn start(&self) -> Position {
        Position::Lsn(self.start)
    }

    /// Whether values travel in binary.
    pub fn is_binary(&self) -> bool {
        self.delivery.is_binary()
    }

    /// Whether large transactions arrive while they run.
    pub fn is_streaming_running(&self) -> bool {
        self.spooling.is_some()
    }

    /// Reports the durable position a last time and ends the stream in order, so that the slot is
    /// free when this returns. What the server had sent ahead is dropped and will be sent again.
    pub async fn close(mut self) -> Result<(), SourceError> {
        self.report(Instant::now(), false)?;
        let doing = format!("end the stream from the replication slot {}", self.options.slot);
        match self.link.finish().await {
            Ok(_) => Ok(()),
            Err(error) => Err(of_wire(&doing, error)),
        }
    }

    /// Queues a status report.
    fn report(&mut self, now: Instant, ask: bool) -> Result<(), SourceError> {
        // A server that does not read is not helped by more of the same.
        if self.link.queued_len() == 0 {
            // After a reconnect, work of the stream before may still become durable: it counts
            // when this stream has come so far, too.
            let durable = self.durable.min(self.delivery.delivered());
            let status = StatusUpdate { durable, now_us: unix_us(), reply_requested: ask };
            let queued = self.link.queue_copy_data(&status.encode());
            queued.map_err(|error| self.link_failure(error))?;
        }
        self.pace.reported(now, ask);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), SourceError> {
        let flushed = self.link.flush().await;
        flushed.map_err(|error| self.link_failure(error))
    }

    fn link_failure(&self, error: WireError) -> SourceError {
        let doing = format!("stream from the replication slot {}", self.options.slot);
        let undecodable = error.server_error().is_some_and(is_undecodable);
        let mut failure = of_wire(&doing, error);
        // Some servers can't decode a running transaction that they can decode when it has
        // committed: an ALTER in a subtransaction that was rolled back, followed by another ALTER
        // of the table, makes them look for a catalog row that is not there yet ("could not map
        // filenode", seen on 14 to 18).
        if let Some(spooling) = self.spooling.as_ref().filter(|_| undecodable) {
            spooling.retire();
            failure.disposition = Disposition::Retry;
            failure.message += AFTER_COMMIT;
        }
        failure
    }

    async fn next_event(&mut self) -> Result<SourceEvent, SourceError> {
        // A stream that always has something ready must let other tasks run, too.
        consume_budget().await;
        loop {
            if let Some(event) = self.at_hand().await? {
                return Ok(event);
            }
            if let Some(time) = self.pace.read_after() {
                sleep_until(time).await;
                self.pace.paused();
            }
            let now = Instant::now();
            let ask = self.pace.must_ask(now);
            if ask || self.pace.must_report(now) {
                self.report(now, ask)?;
            }
            let wake_at = self.pace.wake_at();
            let received = tokio::select! {
                biased;
                received = self.link.next_frame() => Some(received),
                () = sleep_until(wake_at) => None,
            };
            let received = match received {
                Some(received) => received,
                None if self.pace.is_worrying(Instant::now()) => {
                    let pid = self.link.server().process_id;
                    let name = &self.options.application_name;
                    tokio::select! {
                        biased;
                        received = self.link.next_frame() => received,
                        busy = liveness::check_busy(&self.source, name, pid) => {
                            busy?;
                            self.pace.excused(Instant::now());
                            continue;
                        }
                    }
                }
                None => continue,
            };
            let received = received.map_err(|error| self.link_failure(error))?;
            let Some(payload) = received else {
                return Err(SourceError::retry("the source has ended the stream"));
            };
            self.pace.heard(Instant::now(), payload.len() + self.link.buffered_len());
            if let Some(event) = self.take(payload)? {
                return Ok(event);
            }
        }
    }

    /// The next event of what has been received already; `None` when that is used up.
    async fn at_hand(&mut self) -> Result<Option<SourceEvent>, SourceError> {
        loop {
            if self.spooling.as_mut().is_some_and(Spooling::must_settle) {
                self.settle().await?;
            } else if let Some(spooling) = self.spooling.as_mut().filter(|it| it.is_replaying()) {
                let replayed = spooling.replayed();
                let replayed = replayed.map_err(|error| self.spooling_failure(error))?;
                if let Some(event) = self.take_replayed(replayed)? {
                    return Ok(Some(event));
                }
            } else {
                let Some(payload) = self.buffered()? else { return Ok(None) };
                if let Some(event) = self.take(payload)? {
                    return Ok(Some(event));
                }
            }
        }
    }

    fn buffered(&mut self) -> Result<Option<Bytes>, SourceError> {
        let buffered = self.link.try_next_buffered();
        buffered.map_err(|error| self.link_failure(error))
    }

    /// Waits for the spool. The source is reported to meanwhile, and not listened to.
    async fn settle(&mut self) -> Result<(), SourceError> {
        loop {
            let now = Instant::now();
            self.pace.excused(now);
            if self.pace.must_report(now) {
                self.report(now, false)?;
                // What the socket does not take now goes with the next.
                tokio::select! {
                    biased;
                    sent = self.flush() => sent?,
                    () = std::future::ready(()) => {}
                }
            }
            let report_at = self.pace.report_at();
            let Some(spooling) = &mut self.spooling else { return Ok(()) };
            tokio::select! {
                biased;
                settled = spooling.settle() => {
                    return settled.map_err(|error| self.spooling_failure(error));
                }
                () = sleep_until(report_at) => {}
            }
        }
    }

    /// Turns one CopyData into what it completes. No await in here: see "Cancellation".
    fn take(&mut self, payload: Bytes) -> Result<Option<SourceEvent>, SourceError> {
        let message = WalMessage::read(payload);
        let message = message.map_err(|error| self.delivery.not_understood(error))?;
        match message {
            WalMessage::Keepalive { end, reply_requested } => {
                if reply_requested {
                    self.report(Instant::now(), false)?;
                }
                let in_block = self.spooling.as_ref().is_some_and(Spooling::in_block);
                Ok(if in_block { None } else { self.delivery.idle(end) })
            }
            WalMessage::XLogData { payload, .. } => {
                let aside = self.put_aside(&payload);
                match aside.map_err(|error| self.spooling_failure(error))? {
                    true => Ok(None),
                    false => self.delivery.message(&payload),
                }
            }
        }
    }

    /// Whether the message belongs to a transaction that is still running, or ends one: then it
    /// has been dealt with.
    fn put_aside(&mut self, frame: &Bytes) -> Result<bool, SpoolingError> {
        let Some(spooling) = &mut self.spooling else { return Ok(false) };
        let Some(control) = pgoutput::decode_control(frame)? else {
            if spooling.in_block() {
                spooling.add(frame, &mut self.delivery)?;
            }
            return Ok(spooling.in_block());
        };
        if self.delivery.is_open() {
            return Err(BlockError::Amid.into());
        }
        match control {
            StreamControl::Start(start) => spooling.start(start)?,
            StreamControl::Stop => spooling.stop(&mut self.delivery)?,
            StreamControl::Abort(abort) => spooling.abort(abort)?,
            StreamControl::Commit(commit) => {
                let begin = spooling.commit(commit)?;
                self.delivery.begin_streamed(begin)?;
            }
        }
        Ok(true)
    }

    fn take_replayed(&mut self, replayed: Replayed) -> Result<Option<SourceEvent>, SourceError> {
        match replayed {
            Replayed::Wait => Ok(None),
            Replayed::Frame(frame, at) => self.delivery.streamed(&frame, at),
            Replayed::End(commit) => self.delivery.end_streamed(commit),
        }
    }

    fn spooling_failure(&self, error: SpoolingError) -> SourceError {
        match error {
            SpoolingError::Spool(error) => of_spool(error),
            SpoolingError::NoVerdict(NoVerdict { mut error, for_good }) => {
                if let Some(spooling) = self.spooling.as_ref().filter(|_| for_good) {
                    spooling.retire();
                    error.message += AFTER_COMMIT;
                }
                error
            }
            // The source has it all, and sends it again.
            SpoolingError::Block(error @ BlockError::Incomplete { .. }) => {
                SourceError::retry(error.to_string())
            }
            error => self.delivery.not_understood(error),
        }
    }
}

impl Source for PgStream {
    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        if self.failed {
            return Err(SourceError::retry("the stream has failed before and must be reopened"));
        }
        let event = self.next_event().await;
        self.failed = event.is_err();
        event
    }

    async fn keep_alive(&mut self) -> SourceError {
        loop {
            let now = Instant::now();
            // Nobody listens, so the server's silence means nothing.
            self.pace.excused(now);
            let sent = match self.pace.must_report(now) {
                true => self.report(now, false),
                false => Ok(()),
            };
            let sent = match sent {
                Ok(()) => self.flush().await,
                Err(failure) => Err(failure),
            };
            if let Err(failure) = sent {
                self.failed = true;
                return failure;
            }
            sleep_until(self.pace.report_at()).await;
        }
    }

    async fn acknowledge(&mut self, durable: Position) -> Result<(), SourceError> {
        let Position::Lsn(durable) = durable;
        if durable <= self.durable {
            return Ok(());
        }
        self.durable = durable;
        let now = Instant::now();
        if self.pace.may_report(now) {
            self.report(now, false)?;
            self.flush().await?;
        }
        Ok(())
    }
}

/// Whether a server's error may be about the content of a running transaction. Not so: what passes
/// by itself, and what would stop any stream: the slot and its log (55000, 58P01), the publication
/// (42704), rights (42501, class 28), interventions (class 57).
fn is_undecodable(error: &ServerError) -> bool {
    !error.is_transient()
        && !matches!(error.sqlstate.as_str(), "55000" | "58P01" | "42704" | "42501")
        && !matches!(error.sqlstate.get(..2), Some("28" | "57"))
}

/// Microseconds since the Unix epoch; 0 on a clock before it. The server only shows it.
fn unix_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_be_decoded_is_blamed_on_the_running_transaction() {
        let error = |sqlstate: &str| ServerError {
            severity: "ERROR".to_owned(),
            sqlstate: sqlstate.to_owned(),
            message: "x".to_owned(),
            detail: None,
            hint: None,
            about: None,
        };
        for blamed in ["XX000", "XX001", "42P01"] {
            assert!(is_undecodable(&error(blamed)), "{blamed}");
        }
        for other in
            ["55000", "42704", "58P01", "42501", "57P01", "57014", "28000", "53300", "08006"]
        {
            assert!(!is_undecodable(&error(other)), "{other}");
        }
    }
}
