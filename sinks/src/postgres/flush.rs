//! Commits that are in green's log for certain.
//!
//! A lane does not wait for the log (`synchronous_commit = off`): near the source's head each small transaction
//! would ask the disk. Green may crash and lose the last of
//! them, but only from some commit on, and each has its progress with it (PostgreSQL manual, 28.4
//! Asynchronous Commit), so the stream goes on from there. What the source is told must not be among
//! what can be lost. So before that, one transaction is committed here that does wait: the log is flushed up to
//! its commit (and taken by a synchronous standby, if green has one), with everything before it.
//!
//! That transaction holds nothing but the mark by which a stream the other way round knows our own
//! ([`own`]): it changes no row, and that stream leaves it out. Where the mark can't be written, or would not
//! be forwarded, lanes wait for the log themselves. It locks the table of progress, by which a fence knows
//! a transaction of ours. And it looks for what it is to flush: after a failover the lanes may be on another
//! server than this session, whose log would say nothing about theirs.

use decoders::Lsn;
use decoders::postgres::catalog::quote_literal;
use decoders::postgres::session::Session;
use tokio_postgres::SimpleQueryMessage;

use super::error::target_error;
use crate::own;
use crate::target::{Flusher, TargetError};

/// Flushes what the lanes of a pipeline have committed on PostgreSQL.
#[derive(Debug)]
pub struct PgFlusher {
    session: Session,
    pipeline: String,
    /// False where lanes wait themselves: then nothing is committed that may be lost.
    is_needed: bool,
}

impl PgFlusher {
    /// Takes a session for it. The tables of progress must exist.
    ///
    /// # Errors
    /// Green's.
    pub async fn on(session: Session, pipeline: &str) -> Result<Self, TargetError> {
        let waits = session.batch_execute("SET synchronous_commit = on").await;
        waits.map_err(|error| target_error("preparing to flush green's log", &error))?;
        let is_needed = own::may_mark(&session, session.server_version()).await?;
        Ok(Self { session, pipeline: pipeline.to_owned(), is_needed })
    }

    /// Whether it has anything to do: then lanes may leave it to this one.
    pub(super) fn is_needed(&self) -> bool {
        self.is_needed
    }
}

impl Flusher for PgFlusher {
    async fn flush(&mut self, through: Lsn) -> Result<(), TargetError> {
        if !self.is_needed {
            return Ok(());
        }
        // The mark comes first in the transaction, as in those of lanes.
        let flush = format!(
            "LOCK TABLE _cutover.progress IN ROW EXCLUSIVE MODE; SELECT {}; \
             SELECT 1 FROM _cutover.progress WHERE pipeline = {} AND end_lsn >= '{through}'",
            own::call_alone(&self.pipeline),
            quote_literal(&self.pipeline),
        );
        let flushed = self.session.simple_query(&flush).await;
        let flushed = flushed.map_err(|error| target_error("flushing green's log", &error))?;
        let rows = flushed.iter().filter(|message| matches!(message, SimpleQueryMessage::Row(_)));
        // One of the mark, one at least for the lane that has written that transaction.
        match rows.count() > 1 || !through.is_valid() {
            true => Ok(()),
            false => Err(TargetError::retry(format!(
                "green's log was flushed where the transaction that ends at {through} is not: another \
                 server answers under green's name"
            ))),
        }
    }
}
