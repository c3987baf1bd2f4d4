//! Whose turn it is to copy: one process at a time, and nothing of an earlier one comes late.
//!
//! A lock of a session on green keeps two living copies apart. It is not enough. Who dies may have a
//! COMMIT under way (a slow disk, a replica that has to acknowledge), which lands after the next one has
//! read the marks and noted a newer position: a chunk would count as copied at a moment that it does not
//! show, and nothing would ever mend it. So copies are numbered on green. Every transaction of a copy
//! reads the number first, with a shared lock that it keeps; who begins raises it, and waits for these
//! locks. An older copy has committed before that, or finds another number and can't.
//!
//! TRUNCATE is no part of a transaction. The session that empties tables has a second lock, which who
//! begins has to get as well: a TRUNCATE of an older copy has ended by then, or is refused.

use decoders::mysql::server::{self, Conn, ServerUrl};
use mysql_async::prelude::Queryable;

use super::{failed, of_source};
use crate::backfill::BackfillError;
use crate::schema::mysql::Notes;

/// A copy may take days, and this session says nothing meanwhile. Seconds; the servers' most is a year.
const WAIT_TIMEOUT_S: u32 = 31_536_000;
/// Who begins waits so long for what an earlier one still commits, seconds; then it tries again.
const LOCK_TIMEOUT_S: u32 = 10;

const REMEDY: &str = "let one replicator at a time copy to green";

/// The right to copy, for as long as it lives.
#[derive(Debug)]
pub struct Turn {
    _session: Conn,
    epoch: Epoch,
}

/// The number of a copy.
#[derive(Clone, Debug)]
pub struct Epoch {
    notes: Notes,
    number: u64,
}

fn asked(error: mysql_async::Error) -> BackfillError {
    failed("taking the turn to copy to green", error)
}

impl Turn {
    /// Takes it. The table of notes is there.
    ///
    /// # Errors
    /// A retryable one while another process has it, or an earlier one still commits.
    pub async fn take(green: &ServerUrl, notes: &Notes) -> Result<Self, BackfillError> {
        let mut session = server::connect(green).await.map_err(of_source)?;
        let settings = format!(
            "SET SESSION wait_timeout = {WAIT_TIMEOUT_S}, innodb_lock_wait_timeout = {LOCK_TIMEOUT_S}"
        );
        session.query_drop(settings).await.map_err(asked)?;
        lock(&mut session, "copy", notes, 0).await?;
        lock(&mut session, "empty", notes, LOCK_TIMEOUT_S).await?;
        let release = format!("DO RELEASE_LOCK({})", lock_name("empty"));
        session.exec_drop(release, (notes.pipeline(),)).await.map_err(asked)?;
        let number = notes.raise_epoch(&mut session).await?;
        Ok(Self { _session: session, epoch: Epoch { notes: notes.clone(), number } })
    }

    /// The number of this copy.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }
}

/// A lock's name, of the pipeline that is the statement's only parameter: 64 characters at most.
fn lock_name(what: &str) -> String {
    format!("CONCAT('cutover {what} ', LEFT(SHA2(?, 256), 40))")
}

async fn lock(
    session: &mut Conn,
    what: &str,
    notes: &Notes,
    timeout_s: u32,
) -> Result<(), BackfillError> {
    let sql = format!("SELECT GET_LOCK({}, {timeout_s})", lock_name(what));
    let taken: Option<Option<u8>> =
        session.exec_first(sql, (notes.pipeline(),)).await.map_err(asked)?;
    match taken.flatten() {
        Some(1) => Ok(()),
        _ => Err(BackfillError::retry(format!(
            "another replicator copies pipeline {:?} to green; {REMEDY}",
            notes.pipeline()
        ))),
    }
}

impl Epoch {
    /// Makes `green` the session that may empty tables, for as long as it lives.
    pub(super) async fn empties_by(&self, green: &mut Conn) -> Result<(), BackfillError> {
        lock(green, "empty", &self.notes, LOCK_TIMEOUT_S).await?;
        self.keep(green).await
    }

    /// The pipeline's notes.
    pub(crate) fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Makes sure that no other copy has begun, and that none does before the open transaction has
    /// ended.
    pub(super) async fn keep(&self, green: &mut Conn) -> Result<(), BackfillError> {
        match self.notes.epoch_shared(green).await? {
            Some(number) if number == self.number => Ok(()),
            _ => Err(BackfillError::halt(
                "another replicator has begun to copy to green".to_owned(),
                REMEDY,
            )),
        }
    }

    /// The same in a transaction of its own, which is open when this returns.
    pub(super) async fn begin(&self, green: &mut Conn) -> Result<(), BackfillError> {
        green.query_drop("START TRANSACTION").await.map_err(asked)?;
        self.keep(green).await
    }
}
