//! Messages about transactions: Begin, Commit, Origin, Message.

use bytes::Bytes;

use super::error::DecodeError;
use super::read::Reader;
use crate::change::Lsn;

/// `B`: a transaction starts. All that follows up to its `C` belongs to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Begin {
    /// LSN of the transaction's commit record (the manual's "final LSN").
    pub final_lsn: Lsn,
    /// Commit time, microseconds since the Unix epoch.
    pub committed_at_us: i64,
    /// Transaction id.
    pub xid: u32,
}

impl Begin {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            final_lsn: reader.lsn()?,
            committed_at_us: reader.time_us()?,
            xid: reader.u32()?,
        })
    }
}

/// `C`: the transaction is complete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commit {
    /// LSN of the commit record; equals its Begin's `final_lsn`.
    pub commit_lsn: Lsn,
    /// End of the commit record: the position to resume behind this transaction.
    pub end_lsn: Lsn,
    /// Commit time, microseconds since the Unix epoch.
    pub committed_at_us: i64,
}

impl Commit {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        // "Flags; currently unused": a set bit would mean something that we do not know.
        reader.flags("commit", 0)?;
        Ok(Self {
            commit_lsn: reader.lsn()?,
            end_lsn: reader.lsn()?,
            committed_at_us: reader.time_us()?,
        })
    }
}

/// `O`: the transaction was itself replicated to this server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// LSN of the commit on the server where the transaction came from.
    pub origin_lsn: Lsn,
    /// The replication origin's name here.
    pub name: String,
}

impl Origin {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { origin_lsn: reader.lsn()?, name: reader.string()?.to_owned() })
    }
}

/// `M`: what somebody said with `pg_logical_emit_message` (PostgreSQL 14+, option `messages`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogicalMessage {
    /// Whether it belongs to a transaction; one that does not is sent at once, between others.
    pub transactional: bool,
    /// LSN of the message's own record.
    pub lsn: Lsn,
    /// Who it is for.
    pub prefix: String,
    /// A slice of the frame.
    pub content: Bytes,
}

impl LogicalMessage {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        const TRANSACTIONAL: u8 = 1;
        Ok(Self {
            transactional: reader.flags("logical message", TRANSACTIONAL)? == TRANSACTIONAL,
            lsn: reader.lsn()?,
            prefix: reader.string()?.to_owned(),
            content: reader.sized_bytes("length of a logical message")?,
        })
    }
}
