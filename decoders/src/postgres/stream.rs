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
//! # Cancellation
//!
//! `next`, `acknowledge` and `keep_alive` may be dropped at any await: frames and reports wait in
//! the connection's buffers, and between taking a frame and returning its event there is no await.
//!
//! What is absent on purpose: reconnecting. A stream that failed is dropped; the engine opens a
//! new one at the position that is durable.

pub(super) mod liveness;
mod pace;
pub(super) mod start;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep_until};

use super::conninfo::ConnInfo;
use super::delivery::Delivery;
use super::failure::of_wire;
use super::walsender::{StatusUpdate, WalMessage};
use super::wire::CopyBoth;
use crate::assemble::{Assembler, PART_BYTES_DEFAULT};
use crate::change::{Lsn, Position};
use crate::source::{Source, SourceError, SourceEvent};

use self::pace::Pace;

/// Whether values may travel in binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// If the server can (PostgreSQL 14+) and every published column's type is safe.
    Auto,
    /// Never: all values are text.
    Off,
}

/// Which slot to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotUse {
    /// One that exists and outlives the stream.
    Existing,
    /// One that is made for this stream and dies with its connection, whatever ends it (manual,
    /// 55.4, CREATE_REPLICATION_SLOT, TEMPORARY). The stream begins now.
    Temporary,
}

/// Who a server is: survives restarts, not a new `initdb`; the timeline changes with a failover or
/// a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemIdentity {
    /// `pg_control_system().system_identifier`
    pub system_id: u64,
    /// The timeline of its log.
    pub timeline: u32,
}

/// What to stream, and from where.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// The slot's name.
    pub slot: String,
    /// Whether it exists already.
    pub slot_use: SlotUse,
    /// The publications; exist since before the slot.
    pub publications: Vec<String>,
    /// Resume behind this position; it has to be durable on the target, because the slot forgets
    /// what is before it. `None`: where the slot stands, which is right for a new slot only.
    /// Before PostgreSQL 17 a restart of the server may put it back to an earlier position.
    pub start: Option<Lsn>,
    /// A transaction larger than this comes in parts.
    pub part_bytes: usize,
    /// The form of values.
    pub binary: Binary,
    /// The server that the position belongs to, if it is known already.
    pub expected_identity: Option<SystemIdentity>,
    /// How our sessions call themselves. Unique for a pipeline: a walsender of this name and our
    /// user that still holds the slot is a left-over of ours, and is ended.
    pub application_name: String,
}

impl StreamOptions {
    /// Where the slot stands, with parts of 16 MiB, binary where it is safe, on any server.
    pub fn new(
        slot: impl Into<String>,
        publications: Vec<String>,
        application_name: impl Into<String>,
    ) -> Self {
        Self {
            slot: slot.into(),
            slot_use: SlotUse::Existing,
            publications,
            start: None,
            part_bytes: PART_BYTES_DEFAULT,
            binary: Binary::Auto,
            expected_identity: None,
            application_name: application_name.into(),
        }
    }
}

/// An open stream.
#[derive(Debug)]
pub struct PgStream {
    source: ConnInfo,
    options: StreamOptions,
    link: CopyBoth,
    delivery: Delivery,
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
        let assembler = Assembler::new(options.part_bytes);
        Ok(Self {
            source: source.clone(),
            delivery: Delivery::new(&options.slot, assembler, started.binary, started.start),
            options,
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

    fn link_failure(&self, error: super::error::WireError) -> SourceError {
        of_wire(&format!("stream from the replication slot {}", self.options.slot), error)
    }

    async fn next_event(&mut self) -> Result<SourceEvent, SourceError> {
        // A stream that always has something ready must let other tasks run, too.
        consume_budget().await;
        loop {
            while let Some(payload) = self.buffered()? {
                if let Some(event) = self.take(payload)? {
                    return Ok(event);
                }
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

    fn buffered(&mut self) -> Result<Option<Bytes>, SourceError> {
        let buffered = self.link.try_next_buffered();
        buffered.map_err(|error| self.link_failure(error))
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
                Ok(self.delivery.idle(end))
            }
            WalMessage::XLogData { payload, .. } => self.delivery.message(&payload),
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

/// Microseconds since the Unix epoch; 0 on a clock before it. The server only shows it.
fn unix_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
