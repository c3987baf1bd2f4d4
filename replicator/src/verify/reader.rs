//! A session that only looks.

use std::time::Duration;

use cutover::Side;
use cutover::lag::normalized_head;
use decoders::Lsn;
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{self, Session};
use futures_util::TryStreamExt as _;
use sinks::postgres::Refusal;
use tokio_postgres::SimpleQueryMessage;

use super::copied::Rows;
use crate::cancel::cancelled_on_drop;
use crate::door::Door;

/// A statement of ours may run as long as it takes, but never waits longer for somebody's lock: a
/// schema change goes first.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The version from which on there is a just-in-time compiler.
const JIT: u32 = 110_000;

/// A row in PostgreSQL's text form.
pub(super) type TextRow = Vec<Option<String>>;

/// Something could not be read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{place}: {what}")]
pub struct Trouble {
    /// `blue`, `green` or `stream`.
    pub place: String,
    /// Without values of rows, where the server is PostgreSQL. Others may quote one: for the operator, never for
    /// a log.
    pub what: String,
    /// Trying again may help.
    pub is_transient: bool,
}

impl Trouble {
    /// What trying again would not heal.
    pub fn new(place: impl ToString, what: impl Into<String>) -> Self {
        Self { place: place.to_string(), what: what.into(), is_transient: false }
    }

    /// An answer that does not have the form that was asked for.
    pub fn unexpected(place: impl ToString, what: &str) -> Self {
        Self::new(place, format!("unexpected answer: {what}"))
    }
}

/// A read-only session on one side, with the settings that make text the same on every server.
pub(super) struct Reader {
    session: Session,
    pub side: Side,
}

impl Reader {
    /// Connects, through the door if the side is closed.
    pub async fn open(info: &ConnInfo, side: Side, door: &Door) -> Result<Self, Trouble> {
        let entered = door.enter(side).await;
        let _guard = entered.map_err(|error| Trouble::new(&error.place, error.what.clone()))?;
        let session = session::connect(info, "cutover verify").await.map_err(|error| Trouble {
            is_transient: true,
            ..Trouble::new(side, error.to_string())
        })?;
        let reader = Self { session, side };
        let jit = if reader.session.server_version() >= JIT { "; SET jit = off" } else { "" };
        // Sorting and scanning whole tables chunk by chunk would be the wrong plan for every
        // statement of ours that has an index to go by; and one that has none then looks so dear that
        // it would be compiled first, which takes longer than it runs.
        let settings = format!(
            "SET default_transaction_read_only = on; SET lock_timeout = {}; \
             SET enable_seqscan = off; SET enable_sort = off; \
             SET max_parallel_workers_per_gather = 0{jit}",
            LOCK_TIMEOUT.as_millis()
        );
        reader.sets(&settings).await?;
        Ok(reader)
    }

    /// From now on statements are planned as they are for everybody: they read whole catalogs, and no table of
    /// the users in steps.
    pub async fn reads_catalogs(&self) -> Result<(), Trouble> {
        self.sets("SET enable_seqscan = on; SET enable_sort = on").await.map(drop)
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The answers of all statements in `sql`, one after the other.
    pub async fn sets(&self, sql: &str) -> Result<Vec<Vec<TextRow>>, Trouble> {
        let answer = cancelled_on_drop(&self.session, self.session.simple_query(sql)).await;
        let messages = answer.map_err(|error| Trouble {
            is_transient: session::is_transient(&error),
            ..Trouble::new(self.side, Refusal::of(&error).text)
        })?;
        let mut sets = Vec::new();
        let mut rows = Vec::new();
        for message in messages {
            match message {
                SimpleQueryMessage::Row(row) => {
                    rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
                }
                SimpleQueryMessage::CommandComplete(_) => sets.push(std::mem::take(&mut rows)),
                _ => {}
            }
        }
        Ok(sets)
    }

    /// Whether this is one statement that the server would run.
    pub async fn check(&self, sql: &str) -> Result<(), Trouble> {
        let prepared = self.session.prepare(sql).await;
        let failed = |error| Trouble {
            is_transient: session::is_transient(&error),
            ..Trouble::new(self.side, Refusal::of(&error).text)
        };
        prepared.map(|_| ()).map_err(failed)
    }

    /// The rows of one statement.
    pub async fn rows(&self, sql: &str) -> Result<Vec<TextRow>, Trouble> {
        let mut sets = self.sets(sql).await?;
        sets.pop().ok_or_else(|| Trouble::unexpected(self.side, "no answer"))
    }

    /// The rows that a COPY in binary form gives.
    pub async fn copied(&self, sql: &str) -> Result<Rows, Trouble> {
        let copying = async { self.session.copy_out(sql).await?.try_collect::<Vec<_>>().await };
        let answer = cancelled_on_drop(&self.session, copying).await;
        let messages = answer.map_err(|error| Trouble {
            is_transient: session::is_transient(&error),
            ..Trouble::new(self.side, Refusal::of(&error).text)
        })?;
        Rows::of(self, messages)
    }

    pub fn number<T: std::str::FromStr>(
        &self,
        value: Option<&Option<String>>,
    ) -> Result<T, Trouble> {
        let number = value.and_then(|value| value.as_deref()).and_then(|text| text.parse().ok());
        number.ok_or_else(|| Trouble::unexpected(self.side, "no number"))
    }

    /// The log's position as a statement with [`HEAD`] has answered it.
    pub fn head(&self, rows: &[TextRow]) -> Result<Lsn, Trouble> {
        let row = rows.first().ok_or_else(|| Trouble::unexpected(self.side, "no position"))?;
        Ok(normalized_head(Lsn(self.number(row.first())?), self.number(row.get(1))?))
    }
}

/// The end of the log: whatever an earlier statement has seen was committed before it. The insert
/// position, because with `synchronous_commit = off` a commit is visible before it is written.
pub(super) const HEAD: &str = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0'), \
     pg_size_bytes(current_setting('wal_segment_size'))";

/// The transactions that have a number and are under way: a snapshot would not tell the newest.
pub(super) const RUNNING: &str = "SELECT transactionid FROM pg_locks \
     WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted";
