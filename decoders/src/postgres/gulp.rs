//! A PostgreSQL source of changes that is far behind: the same slot, read in gulps through SQL.
//!
//! ```text
//!              temporary copy of the slot, consumed as fast as we like
//!                 │   ┌─────────────── next() ───────────────┐
//! backend ══COPY══╧══►│ CopyOut ► Rows ► decode ► Assembler  │──► Transaction | Idle | Handover
//!                     └──────────────────────────────────────┘
//! backend ◄─advance── anchor: the slot itself, by a task ◄────────── acknowledge(durable)
//! ```
//!
//! A walsender sends every message by itself; `pg_logical_slot_get_binary_changes` puts hundreds of
//! thousands into one result, which arrives several times faster. It is not for the tip: each call
//! starts decoding at the slot's `restart_lsn` again, and gives nothing before it has found all it
//! was asked for. So this reader ends with [`SourceEvent::Handover`] when it is near the tip, or
//! when gulping does not pay, and the stream goes on from the same slot.
//!
//! # Exactly once
//!
//! What a call returns is consumed at once, whether it arrives or not. That is why it is never made
//! on the slot itself but on a temporary copy of it, which belongs to one session. When that session
//! ends, for any reason, the copy is gone; the slot itself, the anchor, still stands where
//! [`Source::acknowledge`] last let it be moved, at or before what is durable on the target. The
//! next reader of either kind resumes from the durable position: nothing is lost, and nothing comes
//! twice, since the server skips what commits before it.
//!
//! # Progress
//!
//! A position is either the end of a commit that was handed out or the copy's `confirmed_flush_lsn`
//! after a call. The latter is sound because the function decodes record by record, gives the whole
//! transaction when it comes to the record of its commit, stops only between records, and confirms
//! the end of the last record it has decoded (`pg_logical_slot_get_changes_guts`, logicalfuncs.c).
//! It is read behind the rows, by a second statement of the same query. A commit from before a
//! position already reported stops the reader, as in the stream.
//!
//! # Blue is protected
//!
//! A gulp is materialized on blue, in `work_mem` and then in a temporary file that `temp_file_limit`
//! bounds; a transaction that does not fit is the stream's. One call decodes a bounded length of new
//! log, also where nothing in it is published, and none is made where each would decode the same
//! log again for little. A slow consumer holds up one COPY, and with it a snapshot, for as long as
//! it takes to apply one gulp.
//!
//! # What does not fit
//!
//! A gulp fails whole: an error in a session drops its temporary slots (`PostgresMain`, postgres.c),
//! so the copy is gone with it. Either many changes were larger than those before, and a smaller
//! gulp helps; or one transaction is too large, which the function returns whole whatever was asked
//! for. The first failure is therefore answered with a hand-over to a reader that asks for a tenth
//! ([`HandoverReason::Fewer`]), the second one with a hand-over to the stream.
//!
//! # Cancellation
//!
//! `next`, `acknowledge` and `keep_alive` may be dropped at any await, as in the stream.
//!
//! What is absent on purpose: reconnecting, and deciding when to gulp.

mod anchor;
mod open;
mod query;
mod rows;
mod size;

use std::time::Duration;

use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep_until};

use super::conninfo::ConnInfo;
use super::copy_out::{CopyOut, Piece};
use super::delivery::Delivery;
use super::error::WireError;
use super::failure::of_wire;
use super::stream::{StreamOptions, SystemIdentity, liveness};
use crate::assemble::Assembler;
use crate::change::{Lsn, Position};
use crate::source::{Source, SourceError, SourceEvent};

use self::anchor::Anchor;
use self::query::{GulpQuery, Status};
use self::rows::Rows;
use self::size::GulpSize;

/// Pause before the next call when one came no further.
const REST: Duration = Duration::from_millis(50);

/// A call that is silent for so long is looked into.
const WORRY_AFTER: Duration = Duration::from_secs(10);

/// Log that each gulp may decode again, unless told otherwise: gulps still pay then.
pub const REREAD_BYTES: u64 = 1 << 30;

/// What to read in gulps, and how.
#[derive(Debug, Clone)]
pub struct GulpOptions {
    /// The slot, the position to resume from and the rest, as for the stream that will take over.
    pub stream: StreamOptions,
    /// Hand over when no more log than this is left.
    pub near_bytes: u64,
    /// Wanted size of a gulp.
    pub gulp_bytes: u64,
    /// What a gulp may take of blue's disk (`temp_file_limit`).
    pub temp_bytes: u64,
    /// Most log that one call decodes beyond the position that it begins at.
    pub log_bytes: u64,
    /// Log that a call may decode again, from the slot's `restart_lsn` to that position, before it
    /// counts: with more of it a reader does not open.
    pub reread_bytes: u64,
    /// Begin with gulps of so many changes: what [`HandoverReason::Fewer`] said.
    pub fewer_changes: Option<u32>,
}

impl GulpOptions {
    /// Gulps of 64 MiB, hand-over 16 MiB before the tip, at most 4 GiB of temporary files, 1 GiB of
    /// new log and 1 GiB of log that is decoded again.
    pub fn new(stream: StreamOptions) -> Self {
        Self {
            stream,
            near_bytes: 16 << 20,
            gulp_bytes: 64 << 20,
            temp_bytes: 4 << 30,
            log_bytes: 1 << 30,
            reread_bytes: REREAD_BYTES,
            fewer_changes: None,
        }
    }
}

/// Why there is no reader.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The source can't be read this way; the stream can do it.
    #[error("the slot can't be read in gulps: {reason}")]
    Unavailable {
        /// What is missing, for a person.
        reason: String,
    },
    /// It would not pay from this position; from a later one it may.
    #[error("the slot can't be read in gulps now: {reason}")]
    NotNow {
        /// Why, for a person.
        reason: String,
    },
    /// What would fail the stream, too, or may get better by itself.
    #[error(transparent)]
    Failed(#[from] SourceError),
}

impl OpenError {
    fn unavailable(reason: impl Into<String>) -> Self {
        OpenError::Unavailable { reason: reason.into() }
    }
}

/// Why a reader has handed over. After [`HandoverReason::TooLarge`] and
/// [`HandoverReason::Rereading`] another reader of this kind would end in the same way for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandoverReason {
    /// Little is left.
    NearTip,
    /// The next changes do not fit into `temp_file_limit`; so many may
    /// ([`GulpOptions::fewer_changes`]).
    Fewer(u32),
    /// The next transaction does not fit into `temp_file_limit`.
    TooLarge,
    /// A transaction that has been open for long on the source makes every call decode much more
    /// than it gives.
    Rereading,
}

/// A slot that is read in gulps.
#[derive(Debug)]
pub struct GulpStream {
    source: ConnInfo,
    options: GulpOptions,
    link: CopyOut,
    anchor: Anchor,
    query: GulpQuery,
    gulp: Gulp,
    size: GulpSize,
    delivery: Delivery,
    identity: SystemIdentity,
    start: Lsn,
    /// How the copy stood after the call before.
    before: Option<Status>,
    /// The next call may not be made before.
    rest_until: Option<Instant>,
    /// When the server was last heard.
    heard_at: Instant,
    handover: Option<HandoverReason>,
    /// Nothing follows: an error was returned, or [`SourceEvent::Handover`].
    over: bool,
}

/// The call that runs.
#[derive(Debug)]
struct Gulp {
    asked: u32,
    changes: u64,
    bytes: u64,
    rows: Rows,
    status: Option<Status>,
}

impl GulpStream {
    /// Checks everything that the stream checks, copies the slot, and makes the first call.
    pub async fn open(source: &ConnInfo, options: GulpOptions) -> Result<Self, OpenError> {
        let opened = open::open(source, &options).await?;
        let stream = &options.stream;
        let version = opened.session.server_version();
        let query = GulpQuery::new(&opened.copy, stream, version, opened.binary.is_some());
        let assembler = Assembler::new(stream.part_bytes).knowing(stream.known_tables.clone());
        let delivery = Delivery::new(&stream.slot, assembler, opened.binary, opened.start);
        let size = GulpSize::new(options.gulp_bytes, options.fewer_changes);
        let mut reader = Self {
            source: source.clone(),
            link: CopyOut::new(opened.wire),
            anchor: Anchor::new(opened.session, stream.slot.clone(), opened.confirmed),
            query,
            gulp: Gulp::new(size.changes()),
            size,
            delivery,
            identity: opened.identity,
            start: opened.start,
            before: None,
            rest_until: None,
            heard_at: Instant::now(),
            handover: None,
            over: false,
            options,
        };
        reader.call()?;
        let sent = reader.link.flush().await;
        sent.map_err(|error| reader.link_failure(error))?;
        Ok(reader)
    }

    /// Who the server is.
    pub fn identity(&self) -> SystemIdentity {
        self.identity
    }

    /// Where the reader started.
    pub fn start(&self) -> Position {
        Position::Lsn(self.start)
    }

    /// Whether values travel in binary.
    pub fn is_binary(&self) -> bool {
        self.delivery.is_binary()
    }

    /// Why the reader has handed over, once it has.
    pub fn handover(&self) -> Option<HandoverReason> {
        self.handover
    }

    /// Moves the slot to the last acknowledged position and lets go of it. The server decodes the
    /// log in between, which may take a while; a reader that is dropped instead loses nothing, and
    /// the slot keeps a little more log until its next reader acknowledges.
    pub async fn close(self) -> Result<(), SourceError> {
        drop(self.link);
        self.anchor.close().await
    }

    /// Queues the next call.
    fn call(&mut self) -> Result<(), SourceError> {
        self.gulp = Gulp::new(self.size.changes());
        self.heard_at = Instant::now();
        let upto = Lsn(self.confirmed().0.saturating_add(self.options.log_bytes));
        let queued = self.link.query(&self.query.sql(upto, self.gulp.asked));
        queued.map_err(|error| self.link_failure(error))
    }

    /// Where the copy stands, outside of a call.
    fn confirmed(&self) -> Lsn {
        self.before.map_or(self.start, |before| before.confirmed)
    }

    async fn next_event(&mut self) -> Result<SourceEvent, SourceError> {
        // A reader that always has something ready must let other tasks run, too.
        consume_budget().await;
        loop {
            if self.handover.is_some() {
                self.over = true;
                return Ok(SourceEvent::Handover);
            }
            let buffered = self.link.try_next_buffered();
            if let Some(piece) = self.piece(buffered)? {
                if let Some(event) = self.take(piece)? {
                    return Ok(event);
                }
                continue;
            }
            if self.handover.is_some() {
                continue;
            }
            if self.anchor.has_failed() {
                return Err(self.anchor.failed().await);
            }
            if let Some(time) = self.rest_until {
                sleep_until(time).await;
                self.rest_until = None;
                self.call()?;
            }
            let worry_at = self.heard_at + WORRY_AFTER;
            let received = tokio::select! {
                biased;
                received = self.link.next_piece() => received,
                failure = self.anchor.failed() => return Err(failure),
                () = sleep_until(worry_at) => {
                    let pid = self.link.server().process_id;
                    let name = &self.options.stream.application_name;
                    tokio::select! {
                        biased;
                        received = self.link.next_piece() => received,
                        busy = liveness::check_busy(&self.source, name, pid) => {
                            busy?;
                            self.heard_at = Instant::now();
                            continue;
                        }
                    }
                }
            };
            self.heard_at = Instant::now();
            if let Some(piece) = self.piece(received.map(Some))?
                && let Some(event) = self.take(piece)?
            {
                return Ok(event);
            }
        }
    }

    /// A call that needed more of blue's disk than it may ends the reader in order: the limit is
    /// met before the first row is sent, so what was handed out is whole.
    fn piece(
        &mut self,
        received: Result<Option<Piece>, WireError>,
    ) -> Result<Option<Piece>, SourceError> {
        const CONFIGURATION_LIMIT_EXCEEDED: &str = "53400";
        let error = match received {
            Ok(piece) => return Ok(piece),
            Err(error) => error,
        };
        let too_large = error
            .server_error()
            .is_some_and(|error| error.sqlstate == CONFIGURATION_LIMIT_EXCEEDED);
        if too_large && self.gulp.changes == 0 {
            let asked = self.gulp.asked;
            tracing::info!(%error, asked, "a gulp is larger than the source allows");
            let fewer = self.size.fewer();
            self.hand_over(fewer.map_or(HandoverReason::TooLarge, HandoverReason::Fewer));
            return Ok(None);
        }
        Err(self.link_failure(error))
    }

    /// Turns a part of the result into what it completes. No await in here: see "Cancellation".
    fn take(&mut self, piece: Piece) -> Result<Option<SourceEvent>, SourceError> {
        match piece {
            Piece::Data(data) => {
                let value = self.gulp.rows.value(data);
                let value = value.map_err(|error| self.delivery.not_understood(error))?;
                let Some(payload) = value else {
                    return Ok(None);
                };
                self.gulp.changes += 1;
                self.gulp.bytes += payload.len() as u64;
                self.delivery.message(&payload)
            }
            Piece::Row(row) => {
                let status = Status::read(&row);
                self.gulp.status =
                    Some(status.map_err(|error| self.delivery.not_understood(error))?);
                Ok(None)
            }
            Piece::Done => self.finish_gulp(),
        }
    }

    /// The call is over: what is known now, and what comes next.
    fn finish_gulp(&mut self) -> Result<Option<SourceEvent>, SourceError> {
        let gulp = std::mem::replace(&mut self.gulp, Gulp::new(0));
        gulp.rows.finish().map_err(|error| self.delivery.not_understood(error))?;
        let status = gulp.status.ok_or_else(|| {
            SourceError::retry("the temporary copy of the replication slot has vanished")
        })?;
        if self.delivery.is_open() {
            return Err(self.delivery.not_understood(query::GulpError::OpenEnd));
        }
        if status.confirmed < self.delivery.delivered() {
            return Err(self.delivery.not_understood(query::GulpError::Behind(status.confirmed)));
        }
        let idle = self.delivery.idle(status.confirmed);
        self.size.learn(gulp.changes, gulp.bytes);
        let gained = status.confirmed.bytes_since(self.confirmed());
        let reread = self.options.reread_bytes;
        let before = self.before.replace(status);
        let is_full = gulp.changes >= u64::from(gulp.asked);
        // A gulp that is not full says nothing by itself: it may have met its bound of log. What
        // counts is how far the source's log goes on.
        if !is_full && status.head.bytes_since(status.confirmed) <= self.options.near_bytes {
            self.hand_over(HandoverReason::NearTip);
        } else if before.is_some_and(|before| status.is_rereading_since(&before, reread)) {
            self.hand_over(HandoverReason::Rereading);
        } else if gained > 0 {
            self.call()?;
        } else {
            // The log goes on, but is not flushed yet.
            self.rest_until = Some(Instant::now() + REST);
        }
        Ok(idle)
    }

    fn hand_over(&mut self, reason: HandoverReason) {
        let position = self.delivery.delivered();
        tracing::info!(slot = %self.options.stream.slot, %position, ?reason, "no more gulps");
        self.handover = Some(reason);
    }

    fn link_failure(&self, error: WireError) -> SourceError {
        of_wire(&format!("read the replication slot {} in gulps", self.options.stream.slot), error)
    }
}

impl Gulp {
    fn new(asked: u32) -> Self {
        Self { asked, changes: 0, bytes: 0, rows: Rows::default(), status: None }
    }
}

impl Source for GulpStream {
    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        if self.over {
            return Err(SourceError::retry("the reader is over and another must be opened"));
        }
        let event = self.next_event().await;
        self.over |= event.is_err();
        event
    }

    /// Nothing has to be sent to a backend: TCP keepalives watch the connection, and a full socket
    /// only makes it wait.
    async fn keep_alive(&mut self) -> SourceError {
        let failure = match self.link.flush().await {
            Ok(()) => self.anchor.failed().await,
            Err(error) => self.link_failure(error),
        };
        self.over = true;
        failure
    }

    async fn acknowledge(&mut self, durable: Position) -> Result<(), SourceError> {
        let Position::Lsn(durable) = durable;
        // After a reconnect, work of the reader before may still become durable: it counts when
        // this one has come so far, too.
        self.anchor.allow(durable.min(self.delivery.delivered()));
        Ok(())
    }
}
