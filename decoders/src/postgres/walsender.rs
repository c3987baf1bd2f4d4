//! What stands inside the CopyData messages of a replication stream, as pure functions
//! (PostgreSQL manual, "Streaming Replication Protocol").

use bytes::{BufMut, Bytes, BytesMut};

use crate::change::Lsn;

/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// One message of the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WalMessage {
    /// `w`: a piece of the log; for a logical slot exactly one message of the output plugin.
    XLogData {
        /// Where the message was made; 0 for those that stand for no record, such as Relation.
        start: Lsn,
        /// The position the server says it has sent. Equals `start` for a logical slot.
        end: Lsn,
        /// The output plugin's message: a slice of the CopyData.
        payload: Bytes,
    },
    /// `k`: the server is alive.
    Keepalive {
        /// The log up to here has been decoded, and what commits in it has been sent.
        end: Lsn,
        /// The server wants an answer at once, or it will take us for dead.
        reply_requested: bool,
    },
}

/// A CopyData that is neither of the two.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalMessageError {
    /// An unknown kind of message.
    #[error("unknown replication message {0:#04x}")]
    UnknownTag(u8),
    /// Too short for its kind, or too long.
    #[error("replication message '{}' of {length} bytes has the wrong length", char::from(*.tag))]
    Length {
        /// The kind.
        tag: u8,
        /// Bytes of the message.
        length: usize,
    },
    /// No bytes at all.
    #[error("an empty replication message")]
    Empty,
}

impl WalMessage {
    /// Reads one CopyData's content.
    pub fn read(data: Bytes) -> Result<Self, WalMessageError> {
        const XLOG_DATA_HEADER: usize = 1 + 8 + 8 + 8;
        const KEEPALIVE: usize = 1 + 8 + 8 + 1;
        let wrong_length = |tag| WalMessageError::Length { tag, length: data.len() };
        match data.first().copied() {
            Some(tag @ b'w') => match (lsn_at(&data, 1), lsn_at(&data, 9)) {
                (Some(start), Some(end)) if data.len() >= XLOG_DATA_HEADER => {
                    Ok(WalMessage::XLogData { start, end, payload: data.slice(XLOG_DATA_HEADER..) })
                }
                _ => Err(wrong_length(tag)),
            },
            Some(tag @ b'k') => match (lsn_at(&data, 1), data.get(17)) {
                (Some(end), Some(reply)) if data.len() == KEEPALIVE => {
                    Ok(WalMessage::Keepalive { end, reply_requested: *reply != 0 })
                }
                _ => Err(wrong_length(tag)),
            },
            Some(tag) => Err(WalMessageError::UnknownTag(tag)),
            None => Err(WalMessageError::Empty),
        }
    }
}

fn lsn_at(data: &[u8], at: usize) -> Option<Lsn> {
    let raw = data.get(at..)?.first_chunk::<8>()?;
    Some(Lsn(u64::from_be_bytes(*raw)))
}

/// `r`: what the client has written, flushed and applied. All three are the same for us: the
/// position that is durable on the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusUpdate {
    /// The durable position.
    pub durable: Lsn,
    /// Microseconds since the Unix epoch by our clock; the server only shows it.
    pub now_us: i64,
    /// Asks the server for a keepalive at once.
    pub reply_requested: bool,
}

impl StatusUpdate {
    /// The content of a CopyData.
    pub fn encode(&self) -> Bytes {
        let mut data = BytesMut::with_capacity(1 + 4 * 8 + 1);
        data.put_u8(b'r');
        for _ in ["written", "flushed", "applied"] {
            data.put_u64(self.durable.0);
        }
        data.put_i64(self.now_us.saturating_sub(POSTGRES_EPOCH_US));
        data.put_u8(u8::from(self.reply_requested));
        data.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_an_error(data: Vec<u8>) {
            let _ = WalMessage::read(Bytes::from(data));
        }

        #[test]
        fn xlog_data_comes_apart_as_it_was_put_together(start: u64, end: u64, time: i64, payload: Vec<u8>) {
            let mut data = BytesMut::new();
            data.put_u8(b'w');
            data.put_u64(start);
            data.put_u64(end);
            data.put_i64(time);
            data.put_slice(&payload);
            let expected = WalMessage::XLogData { start: Lsn(start), end: Lsn(end), payload: payload.into() };
            prop_assert_eq!(WalMessage::read(data.freeze()), Ok(expected));
        }
    }

    #[test]
    fn a_keepalive_has_one_length_only() {
        let mut data = vec![b'k'];
        data.extend_from_slice(&0x16_B374_D848_u64.to_be_bytes());
        data.extend_from_slice(&[0; 8]);
        data.push(1);
        let frame = WalMessage::read(Bytes::from(data.clone()));
        assert_eq!(
            frame,
            Ok(WalMessage::Keepalive { end: Lsn(0x16_B374_D848), reply_requested: true })
        );
        data.push(0);
        assert_eq!(
            WalMessage::read(Bytes::from(data)),
            Err(WalMessageError::Length { tag: b'k', length: 19 })
        );
    }

    #[test]
    fn a_status_update_follows_the_manual() {
        let update =
            StatusUpdate { durable: Lsn(1), now_us: POSTGRES_EPOCH_US + 2, reply_requested: true };
        let mut expected = vec![b'r'];
        for number in [1_u64, 1, 1, 2] {
            expected.extend_from_slice(&number.to_be_bytes());
        }
        expected.push(1);
        assert_eq!(update.encode(), expected);
    }
}
