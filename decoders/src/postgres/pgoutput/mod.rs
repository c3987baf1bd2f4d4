//! The output plugin `pgoutput`, protocol version 1, as pure functions over frames.
//!
//! One function, [`decode`], takes what stands inside an XLogData frame and gives a [`Message`]:
//! one struct per message of the PostgreSQL manual, "Logical Replication Message Formats". Values
//! stay slices of the frame. Nothing is skipped: unknown types, unknown flags and left-over bytes
//! are errors.
//!
//! What is absent on purpose: the relation cache and transaction rules (see [`crate::assemble`]),
//! and the messages of protocol 2 and later (`S`, `E`, `c`, `A`, `b`, `P`, `K`, `r`, `p`). Inside
//! a stream those put a transaction id in front of the messages below, so they will enter through
//! an entry point of their own; until then they are unknown types.

#[cfg(test)]
pub(crate) mod encode;
mod error;
mod read;
mod relation;
mod rows;
#[cfg(test)]
mod tests;
mod transaction;

use bytes::Bytes;

pub use error::{DecodeError, DecodeErrorKind};
pub use relation::{Relation, TypeName};
pub use rows::{Delete, Insert, Truncate, Update};
pub use transaction::{Begin, Commit, LogicalMessage, Origin};

use read::Reader;

/// The version of the protocol that [`decode`] reads (`proto_version`).
pub const PROTOCOL_VERSION: u32 = 1;

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
pub fn decode(frame: &Bytes) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(frame);
    let message = match reader.u8()? {
        b'I' => Message::Insert(Insert::read(&mut reader)?),
        b'U' => Message::Update(Update::read(&mut reader)?),
        b'D' => Message::Delete(Delete::read(&mut reader)?),
        b'B' => Message::Begin(Begin::read(&mut reader)?),
        b'C' => Message::Commit(Commit::read(&mut reader)?),
        b'R' => Message::Relation(Relation::read(&mut reader)?),
        b'Y' => Message::Type(TypeName::read(&mut reader)?),
        b'T' => Message::Truncate(Truncate::read(&mut reader)?),
        b'O' => Message::Origin(Origin::read(&mut reader)?),
        b'M' => Message::Logical(LogicalMessage::read(&mut reader)?),
        _ => {
            return Err(DecodeError {
                offset: 0,
                tag: frame.first().copied(),
                kind: DecodeErrorKind::UnknownTag,
            });
        }
    };
    reader.end()?;
    Ok(message)
}
