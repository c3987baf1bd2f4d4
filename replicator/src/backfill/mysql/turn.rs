//! Whose turn it is to copy: one process at a time, and nothing of an earlier one comes late.
//!
//! A lock of a session on green keeps two living copies apart. It is not enough. Who dies may have a
//! COMMIT under way (a slow disk, a replica that has to acknowledge), which lands after the next one has
//! read the marks and noted a newer position: a chunk would count as copied at a moment that it does not
//! show, and nothing would ever mend it. So copies are numbered on green. Every transaction of a copy
//! reads the number first, with a shared lock that it keeps; who begins raises it, and waits for these
//! locks. An older copy has committed before that, or finds another number and can't.

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
        // A name of a lock has 64 characters at most.
        let lock = "SELECT GET_LOCK(CONCAT('cutover copy ', LEFT(SHA2(?, 256), 40)), 0)";
        let taken: Option<Option<u8>> =
            session.exec_first(lock, (notes.pipeline(),)).await.map_err(asked)?;
        if taken.flatten() != Some(1) {
            return Err(BackfillError::retry(format!(
                "another replicator copies pipeline {:?} to green; {REMEDY}",
                notes.pipeline()
            )));
        }
        let number = notes.raise_epoch(&mut session).await?;
        Ok(Self { _session: session, epoch: Epoch { notes: notes.clone(), number } })
    }

    /// The number of this copy.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }
}

impl Epoch {
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
