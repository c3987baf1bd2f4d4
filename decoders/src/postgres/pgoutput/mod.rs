//! The output plugin `pgoutput`, protocol versions 1 and 2, as pure functions over frames.
//!
//! [`decode`] takes what stands inside an XLogData frame and gives a [`Message`]: one struct per
//! message of the PostgreSQL manual, "Logical Replication Message Formats". Values stay slices of
//! the frame. Nothing is skipped: unknown types, unknown flags and left-over bytes are errors.
//!
//! With protocol 2 a frame may also be a [`StreamControl`] ([`decode_control`]), and the frames
//! between a Start and a Stop are read by [`decode_streamed`].
//!
//! What is absent on purpose: the relation cache and transaction rules (see [`crate::assemble`]),
//! and the messages of protocol 3 and later (`b`, `P`, `K`, `r`, `p`), which are not asked for.

#[cfg(test)]
pub(crate) mod encode;
mod error;
mod read;
mod relation;
mod rows;
mod streamed;
#[cfg(test)]
mod tests;
mod transaction;

use bytes::Bytes;

pub use error::{DecodeError, DecodeErrorKind};
pub use relation::{Relation, TypeName};
pub use rows::{Delete, Insert, Truncate, Update};
pub use streamed::{
    StreamAbort, StreamCommit, StreamControl, StreamStart, decode_control, decode_streamed,
    streamed_xid,
};
pub use transaction::{Begin, Commit, LogicalMessage, Origin};

use read::Reader;

/// The version of the protocol in which every transaction comes after its commit
/// (`proto_version`).
pub const PROTOCOL_VERSION: u32 = 1;

/// The version that can also send transactions while they run (PostgreSQL 14+).
pub const PROTOCOL_VERSION_STREAMING: u32 = 2;

/// One message of the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// `B`
    Begin(Begin),
    /// `C`
    Commit(Commit),
    /// `O`
    Origin(Origin),
    /// `R`
    Relation(Relation),
    /// `Y`
    Type(TypeName),
    /// `I`
    Insert(Insert),
    /// `U`
    Update(Update),
    /// `D`
    Delete(Delete),
    /// `T`
    Truncate(Truncate),
    /// `M`
    Logical(LogicalMessage),
}

/// Reads the one message that `frame` holds.
///
/// Allocates in proportion to the frame's length whatever the frame claims.
#[inline]
pub fn decode(frame: &Bytes) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(frame);
    let tag = reader.u8()?;
    body(tag, &mut reader)
}

/// What follows the first byte, and in a block the transaction id, up to the frame's end.
#[inline]
fn body(tag: u8, reader: &mut Reader<'_>) -> Result<Message, DecodeError> {
    let message = match tag {
        b'I' => Message::Insert(Insert::read(reader)?),
        b'U' => Message::Update(Update::read(reader)?),
        b'D' => Message::Delete(Delete::read(reader)?),
        b'B' => Message::Begin(Begin::read(reader)?),
        b'C' => Message::Commit(Commit::read(reader)?),
        b'R' => Message::Relation(Relation::read(reader)?),
        b'Y' => Message::Type(TypeName::read(reader)?),
        b'T' => Message::Truncate(Truncate::read(reader)?),
        b'O' => Message::Origin(Origin::read(reader)?),
        b'M' => Message::Logical(LogicalMessage::read(reader)?),
        tag => {
            return Err(DecodeError {
                offset: 0,
                tag: Some(tag),
                kind: DecodeErrorKind::UnknownTag,
            });
        }
    };
    reader.end()?;
    Ok(message)
}
