//! Which subtransactions of a committed transaction were rolled back, as the source's commit log
//! says.
//!
//! The stream alone does not tell. A server sends a Stream Abort for a subtransaction only if it
//! still had changes of it in memory when it had last sent a block of the transaction
//! (`ReorderBufferTruncateTXN` in `reorderbuffer.c`: `nentries_mem != 0`). It has none when it had
//! put more than 4096 of them on its disk before: a value of 8 MiB and more in TOAST, or any
//! subtransaction from before the position where a new stream starts. Seen on 14 to 18; who trusts
//! the stream applies what was rolled back.
//!
//! So the source is asked (`pg_xact_status`, manual 9.28.12) for each subtransaction that occurs in
//! what is read back and that no Stream Abort has named. The answer is final by then: a
//! subtransaction is marked as rolled back before the log gets the commit that this stream has
//! brought, and one that is not marked by then commits with the whole. One question for each batch
//! of the spool that has subtransactions which the batch before did not have, none for
//! transactions without any.
//!
//! Descriptions of tables count even if a subtransaction brought them of which the server did not
//! say that it was rolled back: a server repeats descriptions after a Stream Abort only
//! (`pgoutput_stream_abort`), or when the table has changed.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;

use super::replay::next_frame;
use super::spooling::SpoolingError;
use crate::postgres::conninfo::ConnInfo;
use crate::postgres::failure::{of_connect, of_session};
use crate::postgres::pgoutput::streamed_xid;
use crate::postgres::session::{self, Session};
use crate::source::{Disposition, SourceError};

/// For a connection and an answer.
const DEADLINE: Duration = Duration::from_secs(60);

/// Whom to ask.
#[derive(Debug, Clone)]
pub(super) struct Court {
    pub(super) source: ConnInfo,
    pub(super) application_name: String,
    pub(super) slot: String,
    /// Of the process that sends the stream: it proves that the answers come from its server.
    pub(super) walsender_pid: i32,
}

/// How it is known that a subtransaction was rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// The stream said so, at the end of what it had sent of it.
    Told,
    /// The source's commit log says so.
    Logged,
}

/// Subtransactions that were rolled back.
pub(super) type Aborted = HashMap<u32, Evidence>;

/// The verdicts on one transaction's subtransactions.
#[derive(Debug)]
pub(super) struct Verdicts {
    court: Court,
    /// The top-level transaction: it has committed.
    xid: u32,
    /// Rolled back, as the stream said.
    told: HashSet<u32>,
    /// Subtransactions of the last batch.
    committed: HashSet<u32>,
    aborted: Aborted,
    asking: Option<Asking>,
}

/// A session, and a transaction id of now with its epoch.
#[derive(Debug)]
struct Asking {
    session: Session,
    now: i64,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct NoVerdict {
    pub(super) error: SourceError,
    /// Whether another stream would get no verdict either.
    pub(super) for_good: bool,
}

impl Verdicts {
    pub(super) fn new(court: Court, xid: u32, told: HashSet<u32>) -> Self {
        let (committed, aborted) = Default::default();
        Self { court, xid, told, committed, aborted, asking: None }
    }

    /// Gets the verdicts on all subtransactions in a batch.
    pub(super) async fn on(&mut self, batch: &Bytes) -> Result<(), SpoolingError> {
        let found = subtransactions(batch, self.xid)?;
        let mut aborted = Aborted::new();
        let mut unknown = Vec::new();
        for &xid in &found {
            if self.told.contains(&xid) {
                aborted.insert(xid, Evidence::Told);
            } else if self.aborted.contains_key(&xid) {
                aborted.insert(xid, Evidence::Logged);
            } else if !self.committed.contains(&xid) {
                unknown.push(xid);
            }
        }
        if !unknown.is_empty() {
            let asked = tokio::time::timeout(DEADLINE, self.ask(&unknown)).await;
            let asked = asked.unwrap_or_else(|_| {
                Err(not_now(SourceError::retry(
                    "the source does not say which parts of a transaction were rolled back",
                )))
            });
            aborted.extend(asked?.into_iter().map(|xid| (xid, Evidence::Logged)));
        }
        self.committed = found.iter().filter(|xid| !aborted.contains_key(xid)).copied().collect();
        self.aborted = aborted;
        Ok(())
    }

    /// Those of the last batch's that were rolled back.
    pub(super) fn aborted(&self) -> &Aborted {
        &self.aborted
    }

    /// Those that were rolled back.
    async fn ask(&mut self, xids: &[u32]) -> Result<Vec<u32>, NoVerdict> {
        let Asking { session, now } = match &self.asking {
            Some(asking) => asking,
            None => self.asking.insert(self.court.open().await?),
        };
        let xids: Vec<i64> = xids.iter().map(|xid| with_epoch(*xid, *now)).collect();
        let rows = session
            .query(
                "SELECT x, status FROM (
                   SELECT x, pg_catalog.pg_xact_status(x::text::pg_catalog.xid8) AS status
                   FROM pg_catalog.unnest($1::int8[]) AS x) AS asked
                 WHERE status IS DISTINCT FROM 'committed'",
                &[&xids],
            )
            .await
            .map_err(refused)?;
        let mut aborted = Vec::new();
        for row in rows {
            let xid: i64 = row.try_get(0).map_err(refused)?;
            match row.try_get(1).map_err(refused)? {
                Some("aborted") => aborted.push(without_epoch(xid)),
                // The whole has committed, and its session has not finished to say so.
                Some("in progress") => {}
                _ => return Err(self.forgotten()),
            }
        }
        Ok(aborted)
    }

    fn forgotten(&self) -> NoVerdict {
        let xid = self.xid;
        for_good(SourceError::retry(format!(
            "the source does not know any more which parts of transaction {xid} were rolled back"
        )))
    }
}

impl Court {
    async fn open(&self) -> Result<Asking, NoVerdict> {
        let session = session::connect(&self.source, &self.application_name).await;
        let session = session.map_err(|error| not_now(of_connect(error)))?;
        let row = session
            .query_one(
                "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::int8,
                   (SELECT active_pid FROM pg_catalog.pg_replication_slots WHERE slot_name = $1)",
                &[&self.slot],
            )
            .await
            .map_err(refused)?;
        let now = row.try_get(0).map_err(refused)?;
        match row.try_get::<_, Option<i32>>(1).map_err(refused)? {
            Some(pid) if pid == self.walsender_pid => Ok(Asking { session, now }),
            Some(_) => Err(for_good(SourceError::retry(
                "another process than the stream's holds its slot: the connections go through a \
                 pooler, or to different servers",
            ))),
            None => Err(not_now(SourceError::retry("the process that sends the stream is gone"))),
        }
    }
}

/// The server does not answer, or refuses to.
fn refused(error: tokio_postgres::Error) -> NoVerdict {
    let for_good = error.as_db_error().is_some() && !session::is_transient(&error);
    let mut error = of_session("ask which parts of a transaction were rolled back", error);
    error.disposition = Disposition::Retry;
    NoVerdict { error, for_good }
}

fn not_now(error: SourceError) -> NoVerdict {
    NoVerdict { error, for_good: false }
}

fn for_good(error: SourceError) -> NoVerdict {
    NoVerdict { error, for_good: true }
}

/// The (sub)transactions of a batch's messages, but `top`.
fn subtransactions(batch: &Bytes, top: u32) -> Result<HashSet<u32>, SpoolingError> {
    let mut found = HashSet::new();
    let (mut rest, mut last) = (batch.clone(), top);
    while let Some(frame) = next_frame(&mut rest) {
        match streamed_xid(&frame)? {
            Some(xid) if xid != last => {
                last = xid;
                found.insert(xid);
            }
            _ => {}
        }
    }
    found.remove(&top);
    Ok(found)
}

/// The one with these 32 bits that is nearest to `now`: ids that are in use differ by less than
/// 2^31 (manual, 24.1.5).
fn with_epoch(xid: u32, now: i64) -> i64 {
    let distance = xid.wrapping_sub(without_epoch(now)).cast_signed();
    now + i64::from(distance)
}

/// Its last 32 bits.
fn without_epoch(xid: i64) -> u32 {
    (xid & i64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_gets_the_epoch_that_it_was_given_in() {
        let epoch = 1 << 32;
        for now in [1_000, epoch + 1_000, 7 * epoch + 1_000] {
            assert_eq!(with_epoch(999, now), now - 1);
            assert_eq!(with_epoch(1_005, now), now + 5);
        }
        // Given before the counter went round, asked about afterwards; and the other way.
        assert_eq!(with_epoch(u32::MAX - 5, 3 * epoch + 10), 3 * epoch - 6);
        assert_eq!(with_epoch(4, 3 * epoch - 6), 3 * epoch + 4);
    }

    #[test]
    fn a_batch_names_its_subtransactions_once() {
        let mut batch = Vec::new();
        for (tag, xid) in [(b'I', 7), (b'I', 8), (b'R', 9), (b'I', 8), (b'O', 0), (b'D', 7)] {
            batch.extend_from_slice(&9_u32.to_be_bytes());
            batch.push(tag);
            batch.extend_from_slice(&u32::to_be_bytes(xid));
            batch.extend_from_slice(b"rest");
        }
        let found = subtransactions(&batch.into(), 7).unwrap();
        assert_eq!(found, HashSet::from([8, 9]));
    }
}
