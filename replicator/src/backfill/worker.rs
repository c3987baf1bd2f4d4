//! One connection to blue, one to green, and the bytes between them.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use decoders::postgres::chunks::{
    ChunkError, ChunkRange, CopyFormat, Held, hold, is_lock_timeout, let_go,
};
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{Session, connect};
use decoders::source::Disposition;
use futures_util::{SinkExt, StreamExt};
use sinks::postgres::copy::begin_frozen;
use tokio::sync::watch;
use tokio_postgres::error::SqlState;

use super::counters::TableCounters;
use super::throttle::Throttle;
use super::{BackfillError, Cancel};
use crate::backfill::guard::guarded;
use crate::protect::connections::Permit;

/// What is sent to green at once. Rows arrive one by one; a message each would cost more than the
/// copying.
const BUFFER_BYTES: usize = 128 << 10;

/// A session on blue inside the exported snapshot.
///
/// # Errors
/// A snapshot that is gone is worth a new start: its holder's connection was lost.
pub(super) async fn open_blue(blue: &ConnInfo, snapshot: &str) -> Result<Session, BackfillError> {
    let session = connect(blue, "cutover copy")
        .await
        .map_err(|error| BackfillError::connect("blue", &error))?;
    // Parallel plans and synchronized scans gain nothing: the chunks are what runs in parallel.
    let statement = format!(
        "SET synchronize_seqscans = off; SET max_parallel_workers_per_gather = 0;
         BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
         SET TRANSACTION SNAPSHOT '{}'",
        snapshot.replace('\'', "''")
    );
    session.batch_execute(&statement).await.map_err(|error| {
        let gone = [SqlState::UNDEFINED_OBJECT, SqlState::INVALID_PARAMETER_VALUE];
        match BackfillError::database("using the exported snapshot on blue", &error) {
            BackfillError::Failed { message, remedy, .. }
                if error.code().is_some_and(|code| gone.contains(code)) =>
            {
                BackfillError::Failed { disposition: Disposition::Retry, message, remedy }
            }
            other => other,
        }
    })?;
    Ok(session)
}

/// A session on green for rows, and whether triggers keep quiet on it.
pub(super) async fn open_green(
    green: &ConnInfo,
    is_raw: bool,
) -> Result<(Session, bool), BackfillError> {
    let asked = |error| BackfillError::database("setting up a session on green", &error);
    let session = connect(green, "cutover copy")
        .await
        .map_err(|error| BackfillError::connect("green", &error))?;
    // The path stays empty, as while the stream is applied: names that code in tables leaves open would be
    // looked up where others may create, and what they made there would run with our rights.
    session.batch_execute("SET synchronous_commit = off").await.map_err(asked)?;
    if is_raw {
        session.batch_execute(RAW).await.map_err(asked)?;
    }
    let is_quiet = match session.batch_execute("SET session_replication_role = replica").await {
        Ok(()) => true,
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => false,
        Err(error) => return Err(asked(error)),
    };
    Ok((session, is_quiet))
}

/// Bytes as they are: for databases that never checked theirs.
const RAW: &str = "SET client_encoding = 'SQL_ASCII'";

/// How long one try to lock a table waits. Whoever waits before us has all others of the table
/// waiting behind it already.
const LOCK_TRY_MS: u64 = 500;

/// What came of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ChunkEnd {
    /// It is on green; true: it was the table's last.
    Copied(bool),
    /// Not yet: somebody else has a lock of the table, or wants one and was let in.
    Busy,
    /// The snapshot no longer shows the table's rows.
    Rewritten,
}

/// A pair of connections that copies one chunk after another.
pub(super) struct Worker {
    /// Given back with the connection.
    _permit: Permit,
    blue: Session,
    green: Session,
}

impl Worker {
    pub(super) async fn open(
        blue: &ConnInfo,
        green: &ConnInfo,
        snapshot: &str,
        is_raw: bool,
        permit: Permit,
    ) -> Result<Self, BackfillError> {
        let (blue, (green, _)) =
            tokio::try_join!(open_blue(blue, snapshot), open_green(green, is_raw))?;
        if is_raw {
            blue.batch_execute(RAW)
                .await
                .map_err(|error| BackfillError::database("setting up a session on blue", &error))?;
        }
        Ok(Self { _permit: permit, blue, green })
    }

    /// Copies one chunk under its table's lock; whole or not at all. Afterwards nothing is locked.
    pub(super) async fn copy(
        &self,
        table: &TableCounters,
        chunk: usize,
        throttle: &Throttle,
        cancel: &Cancel,
    ) -> Result<ChunkEnd, BackfillError> {
        let Some(range) = table.plan.chunks.get(chunk) else {
            return Ok(ChunkEnd::Copied(false));
        };
        let mut yields = table.yields.subscribe();
        let asking = hold(&self.blue, &table.plan, LOCK_TRY_MS);
        let ended = match guarded(vec![self.blue.canceller()], cancel, asking).await? {
            Ok(Held::Locked) => {
                table.is_busy(false);
                let _locked = Counting::begin(&table.chunks_locked);
                self.read(table, range, throttle, cancel, &mut yields)
                    .await?
                    .map_err(|error| error.place(table, chunk))
            }
            Ok(Held::Busy) => Ok(None),
            Ok(Held::Rewritten) => Ok(Some(ChunkEnd::Rewritten)),
            Ok(Held::Gone) => Err(BackfillError::retry(format!(
                "{} was renamed or dropped after the snapshot was taken; a new snapshot is needed",
                table.plan.name
            ))),
            // What was meant for the chunk before came late.
            Err(ChunkError::Database { cause, .. }) if is_cancelled(&cause) => Ok(None),
            Err(error) => Err(super::run::unplanned(error)),
        }?;
        self.let_go().await?;
        Ok(match ended {
            Some(ChunkEnd::Copied(_)) => {
                let done = table.chunks_done.fetch_add(1, Ordering::AcqRel) + 1;
                ChunkEnd::Copied(done == table.plan.chunks.len())
            }
            Some(other) => other,
            None => ChunkEnd::Busy,
        })
    }

    /// Reads a chunk whose table is locked, unless somebody who waits for the table has to be let in.
    /// `None`: nothing of it is on green.
    async fn read(
        &self,
        table: &TableCounters,
        range: &ChunkRange,
        throttle: &Throttle,
        cancel: &Cancel,
        yields: &mut watch::Receiver<u32>,
    ) -> Result<Result<Option<ChunkEnd>, PumpError>, BackfillError> {
        table.chunks_begun.fetch_add(1, Ordering::AcqRel);
        let cancellers = vec![self.blue.canceller(), self.green.canceller()];
        match guarded(cancellers, cancel, self.pump(table, range, throttle, yields)).await? {
            Ok(true) => return Ok(Ok(Some(ChunkEnd::Copied(false)))),
            Ok(false) => {
                if let Err(error) = self.blue.cancel().await {
                    tracing::debug!(%error, "a COPY could not be cancelled and is read to its end");
                }
            }
            Err(PumpError::Blue(error)) if is_lock_timeout(&error) || is_cancelled(&error) => {
                table.is_busy(true);
            }
            Err(error) => return Ok(Err(error)),
        }
        // Whatever of the chunk was written goes away with its statement, or with this.
        let undone = self.green.batch_execute("ROLLBACK").await;
        undone.map_err(|error| {
            BackfillError::database("undoing a part of a chunk on green", &error)
        })?;
        Ok(Ok(None))
    }

    async fn let_go(&self) -> Result<(), BackfillError> {
        match let_go(&self.blue).await {
            // The request came after the statement that it was meant for.
            Err(ChunkError::Database { cause, .. }) if is_cancelled(&cause) => {
                let_go(&self.blue).await
            }
            result => result,
        }
        .map_err(super::run::unplanned)
    }

    /// False: it was broken off for somebody who waits for the table, before anything was committed.
    async fn pump(
        &self,
        table: &TableCounters,
        range: &ChunkRange,
        throttle: &Throttle,
        yields: &mut watch::Receiver<u32>,
    ) -> Result<bool, PumpError> {
        let plan = &table.plan;
        // Rows written frozen are written once: no hint bits that the first index build would set,
        // no visibility map and no freezing that a VACUUM owes green on its first busy day.
        let is_frozen = *range == ChunkRange::Whole
            && begin_frozen(&self.green, &plan.name).await.map_err(PumpError::Green)?;
        let mut rows =
            pin!(self.blue.copy_out(&plan.copy_out_sql(range)).await.map_err(PumpError::Blue)?);
        let copy_in = plan.copy_in_sql(is_frozen);
        let mut sink = pin!(self.green.copy_in(&copy_in).await.map_err(PumpError::Green)?);
        let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
        let mut counted = Counted {
            table,
            messages: 0,
            unreported: 0,
            reported: (0, 0),
            is_binary: plan.format == CopyFormat::Binary,
        };
        let reading = async {
            while let Some(row) = rows.next().await {
                let row: Bytes = row.map_err(PumpError::Blue)?;
                counted.messages += 1;
                buffer.extend_from_slice(&row);
                if buffer.len() >= BUFFER_BYTES {
                    let full = buffer.split().freeze();
                    throttle.pass(full.len()).await;
                    counted.report(full.len());
                    sink.feed(full).await.map_err(PumpError::Green)?;
                    buffer.reserve(BUFFER_BYTES);
                }
            }
            if !buffer.is_empty() {
                let last = buffer.split().freeze();
                throttle.pass(last.len()).await;
                counted.report(last.len());
                sink.feed(last).await.map_err(PumpError::Green)?;
            }
            Ok(())
        };
        tokio::select! {
            biased;
            // The sender is the table's, which is still here.
            Ok(()) = yields.changed() => return Ok(false),
            read = reading => read?,
        }
        // From here on it is not broken off: nobody could tell whether green has committed.
        let written = sink.finish().await.map_err(PumpError::Green)?;
        let read = counted.rows();
        if read != written {
            return Err(PumpError::Count { read, written });
        }
        if is_frozen {
            self.green.batch_execute("COMMIT").await.map_err(PumpError::Green)?;
        }
        counted.finish();
        Ok(true)
    }
}

/// Rows and bytes of one chunk on their way into the table's counters.
///
/// The server sends each row in a message of its own (PostgreSQL manual, 55.2.7 COPY Operations);
/// in binary the header comes with the first and the trailer is one more.
struct Counted<'a> {
    table: &'a TableCounters,
    messages: u64,
    unreported: u64,
    /// Rows and bytes that the table's counters have; taken back if the chunk is not finished.
    reported: (u64, u64),
    is_binary: bool,
}

impl Counted<'_> {
    fn rows(&self) -> u64 {
        if self.is_binary { self.messages.saturating_sub(1) } else { self.messages }
    }

    fn report(&mut self, bytes: usize) {
        let fresh = self.messages - self.unreported;
        self.unreported = self.messages;
        self.table.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.table.rows.fetch_add(fresh, Ordering::Relaxed);
        self.reported = (self.reported.0 + fresh, self.reported.1 + bytes as u64);
    }

    /// Takes the trailer out of the count again.
    fn finish(mut self) {
        let trailers = self.messages - self.rows();
        self.table.rows.fetch_sub(trailers, Ordering::Relaxed);
        self.reported = (0, 0);
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.table.rows.fetch_sub(self.reported.0, Ordering::Relaxed);
        self.table.bytes.fetch_sub(self.reported.1, Ordering::Relaxed);
    }
}

/// One more for as long as it lives.
struct Counting<'a>(&'a AtomicUsize);

impl<'a> Counting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn is_cancelled(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::QUERY_CANCELED)
}

enum PumpError {
    Blue(tokio_postgres::Error),
    Green(tokio_postgres::Error),
    Count { read: u64, written: u64 },
}

impl PumpError {
    /// Names table and chunk.
    fn place(self, table: &TableCounters, chunk: usize) -> BackfillError {
        let plan = &table.plan;
        let chunks = plan.chunks.len();
        let part =
            if chunks > 1 { format!(", chunk {} of {chunks}", chunk + 1) } else { String::new() };
        let name = &plan.name;
        match self {
            // Its columns are no longer those of the snapshot.
            PumpError::Blue(error) if error.code() == Some(&SqlState::UNDEFINED_COLUMN) => {
                BackfillError::retry(format!(
                    "{name} lost a column after the snapshot was taken; a new snapshot is needed"
                ))
            }
            PumpError::Blue(error) => {
                BackfillError::database(format!("reading {name}{part} from blue"), &error)
            }
            PumpError::Green(error) => {
                BackfillError::database(format!("writing {name}{part} to green"), &error)
            }
            PumpError::Count { read, written } => BackfillError::halt(
                format!("{name}{part}: blue sent {read} rows, green kept {written}"),
                "look for triggers on green that drop rows (ENABLE ALWAYS or REPLICA), then start over",
            ),
        }
    }
}
