//! What protocol 2 adds: transactions that arrive while they are still running (manual,
//! "Logical Replication Message Formats" and "Streaming of Large Transactions for Logical
//! Decoding").
//!
//! Between `S` and `E` stand the messages of one running transaction, a *block*; blocks of several
//! transactions take turns. In a block every message carries the id of the (sub)transaction that
//! made it behind its first byte, except Origin. Blocks, `c` and `A` never nest.
//!
//! Protocol 3 (`b`, `P`, `K`, `r`, `p`: two-phase commit) and 4 (longer `A` with
//! `streaming = parallel`) are not asked for, and refused.

use bytes::Bytes;

use super::error::{DecodeError, DecodeErrorKind};
use super::read::Reader;
use super::{Message, body};
use crate::change::Lsn;

/// What protocol 4 adds to an `A` for parallel receivers: an LSN and a time.
const PARALLEL_BYTES: usize = 16;

/// A message about a streamed transaction as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StreamControl {
    /// `S`
    Start(StreamStart),
    /// `E`: the block ends.
    Stop,
    /// `c`
    Commit(StreamCommit),
    /// `A`
    Abort(StreamAbort),
}

/// `S`: a block of a running transaction begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamStart {
    /// The top-level transaction.
    pub xid: u32,
    /// Whether this is its first block.
    pub first: bool,
}

/// `c`: a streamed transaction has committed. All of its blocks came before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamCommit {
    /// The top-level transaction.
    pub xid: u32,
    /// LSN of the commit record.
    pub commit_lsn: Lsn,
    /// End of the commit record: the position to resume behind this transaction.
    pub end_lsn: Lsn,
    /// Commit time, microseconds since the Unix epoch.
    pub committed_at_us: i64,
}

/// `A`: a streamed transaction was rolled back, or one of its subtransactions: that one alone,
/// because the server sends an `A` for each of those beneath it. It does not send one for every
/// subtransaction that was rolled back: see `stream/verdict.rs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamAbort {
    /// The top-level transaction.
    pub xid: u32,
    /// The subtransaction; the same as `xid` for the whole transaction.
    pub sub_xid: u32,
}

/// Reads `frame` if it is one of the four; `None` for a message of any other kind.
pub fn decode_control(frame: &Bytes) -> Result<Option<StreamControl>, DecodeError> {
    let mut reader = Reader::new(frame);
    let control = match frame.first() {
        Some(b'S' | b'E' | b'c' | b'A') => match reader.u8()? {
            b'S' => StreamControl::Start(StreamStart {
                xid: reader.u32()?,
                first: reader.flags("stream start", 1)? == 1,
            }),
            b'c' => StreamControl::Commit(StreamCommit {
                xid: reader.u32()?,
                commit_lsn: {
                    reader.flags("stream commit", 0)?;
                    reader.lsn()?
                },
                end_lsn: reader.lsn()?,
                committed_at_us: reader.time_us()?,
            }),
            b'A' => {
                let abort = StreamAbort { xid: reader.u32()?, sub_xid: reader.u32()? };
                if reader.left() == PARALLEL_BYTES {
                    return Err(reader.error(DecodeErrorKind::ParallelAbort));
                }
                StreamControl::Abort(abort)
            }
            _ => StreamControl::Stop,
        },
        _ => return Ok(None),
    };
    reader.end()?;
    Ok(Some(control))
}

/// The (sub)transaction that made a message of a block; `None` for Origin, which belongs to the
/// whole. Reads five bytes: what follows them is checked by [`decode_streamed`].
pub fn streamed_xid(frame: &Bytes) -> Result<Option<u32>, DecodeError> {
    let mut reader = Reader::new(frame);
    match reader.u8()? {
        b'I' | b'U' | b'D' | b'T' | b'R' | b'Y' | b'M' => reader.u32().map(Some),
        b'O' => Ok(None),
        _ => Err(unknown(frame)),
    }
}

/// Reads the one message of a block that `frame` holds. Begin and Commit are unknown there.
pub fn decode_streamed(frame: &Bytes) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(frame);
    let tag = reader.u8()?;
    match tag {
        b'B' | b'C' => return Err(unknown(frame)),
        b'O' => {}
        _ => {
            reader.u32()?;
        }
    }
    body(tag, &mut reader)
}

fn unknown(frame: &Bytes) -> DecodeError {
    DecodeError { offset: 0, tag: frame.first().copied(), kind: DecodeErrorKind::UnknownTag }
}
