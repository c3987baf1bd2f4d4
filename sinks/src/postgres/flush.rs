//! Commits that are in green's log for certain.
//!
//! A lane does not wait for the log (`synchronous_commit = off`): near the source's head that would be most
//! of what a small transaction takes on a disk that has to be asked. Green may crash and lose the last of
//! them, but only from some commit on, and each has its progress with it (PostgreSQL manual, 28.4
//! Asynchronous Commit), so the stream goes on from there. What the source is told must not be among
//! what can be lost. So before that, one transaction is committed here that does wait: the log is flushed up to
//! its commit (and taken by a synchronous standby, if green has one), with everything before it.
//!
//! That transaction holds nothing but the mark by which a stream the other way round knows our own
//! ([`own`]): it changes no row, and whoever reads green's log leaves it out. Where the mark can't be
//! written, or would not be forwarded, lanes wait for the log themselves.

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::Session;
use tokio_postgres::Client;

use super::connect::connect;
use super::error::target_error;
use crate::own;
use crate::target::{Flusher, TargetError};

/// Flushes what the lanes of a pipeline have committed on PostgreSQL.
#[derive(Debug)]
pub struct PgFlusher {
    /// None where lanes wait themselves.
    session: Option<Session>,
    flush: String,
}

impl PgFlusher {
    pub(super) async fn open(green: &ConnInfo, pipeline: &str) -> Result<Self, TargetError> {
        let session = connect(green, "cutover flush").await?;
        let is_needed = own::may_mark(&session, session.server_version()).await?;
        if is_needed {
            wait_for_the_log(&session).await?;
        }
        Ok(Self { session: is_needed.then_some(session), flush: statement(pipeline) })
    }
}

impl Flusher for PgFlusher {
    async fn flush(&mut self) -> Result<(), TargetError> {
        let Some(session) = &self.session else { return Ok(()) };
        run(session, &self.flush).await
    }
}

/// Flushes once what lanes of the pipeline have committed, on a session of its own.
///
/// # Errors
/// Green's.
pub async fn everything(session: &Session, pipeline: &str) -> Result<(), TargetError> {
    if !own::may_mark(session, session.server_version()).await? {
        return Ok(());
    }
    wait_for_the_log(session).await?;
    run(session, &statement(pipeline)).await
}

fn statement(pipeline: &str) -> String {
    format!("SELECT {}", own::call(pipeline))
}

async fn wait_for_the_log(client: &Client) -> Result<(), TargetError> {
    let waits = client.batch_execute("SET synchronous_commit = on").await;
    waits.map_err(|error| target_error("preparing to flush green's log", &error))
}

async fn run(client: &Client, flush: &str) -> Result<(), TargetError> {
    let flushed = client.batch_execute(flush).await;
    flushed.map_err(|error| target_error("flushing green's log", &error))
}
