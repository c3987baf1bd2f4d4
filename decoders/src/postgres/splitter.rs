//! Backend messages cut out of a byte stream: no IO, no copying.
//!
//! A message is a tag byte, a big-endian length that counts itself but not the tag, and a body
//! (PostgreSQL manual, "Message Formats"). All bytes of a connection pass through one `BytesMut`;
//! a frame is split off it and frozen, so a payload shares the memory it was read into.

use bytes::{Buf, Bytes, BytesMut};

/// Largest body that we accept: a value is at most 1 GiB on the server (`MaxAllocSize`), plus
/// room for a message's own fields.
pub const BODY_BYTES_MAX: usize = (1 << 30) + (64 << 10);

/// Tag and length word.
const HEADER_BYTES: usize = 5;

/// Space offered to one read, so that a burst costs few system calls.
const READ_BYTES: usize = 256 << 10;

/// Below this much space a read would be small; a new block is begun instead.
const READ_BYTES_MIN: usize = 16 << 10;

/// A length that no PostgreSQL server sends: the stream is not what we think it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message '{}' at byte {offset} of the connection has an impossible length of {length}", .tag.escape_ascii())]
pub struct FrameError {
    pub tag: u8,
    pub offset: u64,
    pub length: i32,
}

/// One whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    /// Position of the tag, counted from the first byte of the connection (after TLS).
    pub offset: u64,
    /// Tag, length and body as received.
    raw: BytesMut,
}

impl Frame {
    /// The message without tag and length, sharing the buffer's memory.
    pub fn into_body(mut self) -> Bytes {
        self.raw.advance(HEADER_BYTES);
        self.raw.freeze()
    }

    /// The message with its header, for `postgres_protocol`'s parser.
    pub fn into_raw(self) -> BytesMut {
        self.raw
    }
}

/// Collects bytes, gives frames.
#[derive(Debug, Default)]
pub struct FrameSplitter {
    buffer: BytesMut,
    /// Bytes already given out as frames.
    consumed: u64,
}

impl FrameSplitter {
    pub fn new() -> FrameSplitter {
        FrameSplitter::default()
    }

    /// The next whole frame, or `None` until more bytes are fed.
    ///
    /// # Errors
    /// An impossible length. Nothing after it can be trusted; the same error is returned again.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(total) = self.frame_bytes()? else {
            return Ok(None);
        };
        if self.buffer.len() < total {
            return Ok(None);
        }
        let raw = self.buffer.split_to(total);
        let frame = Frame { tag: raw[0], offset: self.consumed, raw };
        self.consumed += total as u64;
        Ok(Some(frame))
    }

    /// Bytes received and not yet given out.
    pub fn buffered_len(&self) -> usize {
        self.buffer.len()
    }

    /// Position of the next byte to be given out.
    pub fn offset(&self) -> u64 {
        self.consumed
    }

    /// Appends received bytes; for tests and fuzzing. Connections read straight into
    /// [`FrameSplitter::read_space`].
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The buffer with room for the next read.
    ///
    /// A large frame's room grows with what has arrived, never by the announced length at once:
    /// five hostile bytes must not cost a gigabyte.
    pub fn read_space(&mut self) -> &mut BytesMut {
        let missing = match self.frame_bytes() {
            Ok(Some(total)) => total.saturating_sub(self.buffer.len()),
            // A broken length is reported by `next_frame`.
            Ok(None) | Err(_) => 0,
        };
        let spare = self.buffer.capacity() - self.buffer.len();
        if spare < missing.clamp(READ_BYTES_MIN, READ_BYTES) {
            let growth = missing.min(self.buffer.len()).max(READ_BYTES);
            self.buffer.reserve(growth);
        }
        &mut self.buffer
    }

    /// Length of the frame at the front, once its header is there.
    fn frame_bytes(&self) -> Result<Option<usize>, FrameError> {
        let Some(&[tag, a, b, c, d]) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let length = i32::from_be_bytes([a, b, c, d]);
        match usize::try_from(length) {
            Ok(bytes) if (4..=BODY_BYTES_MAX + 4).contains(&bytes) => Ok(Some(bytes + 1)),
            _ => Err(FrameError { tag, offset: self.consumed, length }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&(body.len() as i32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn drain(splitter: &mut FrameSplitter) -> Vec<(u8, u64, Bytes)> {
        let mut frames = Vec::new();
        while let Some(frame) = splitter.next_frame().unwrap() {
            frames.push((frame.tag, frame.offset, frame.into_body()));
        }
        frames
    }

    #[test]
    fn every_split_boundary_gives_the_same_frames() {
        let mut stream = message(b'd', b"first");
        stream.extend(message(b'Z', b""));
        stream.extend(message(b'd', &[7; 300]));
        let expected = vec![
            (b'd', 0, Bytes::from_static(b"first")),
            (b'Z', 10, Bytes::new()),
            (b'd', 15, Bytes::from(vec![7; 300])),
        ];
        for at in 0..=stream.len() {
            let mut splitter = FrameSplitter::new();
            splitter.feed(&stream[..at]);
            let mut frames = drain(&mut splitter);
            splitter.feed(&stream[at..]);
            frames.extend(drain(&mut splitter));
            assert_eq!(frames, expected, "split at byte {at}");
            assert_eq!(splitter.buffered_len(), 0);
            assert_eq!(splitter.offset(), stream.len() as u64);
        }
    }

    #[test]
    fn impossible_lengths_are_errors_and_stay_errors() {
        for length in [i32::MIN, -1, 0, 3, BODY_BYTES_MAX as i32 + 5, i32::MAX] {
            let mut splitter = FrameSplitter::new();
            splitter.feed(&message(b'Z', b"I"));
            splitter.feed(b"d");
            splitter.feed(&length.to_be_bytes());
            assert!(splitter.next_frame().unwrap().is_some());
            let error = FrameError { tag: b'd', offset: 6, length };
            assert_eq!(splitter.next_frame(), Err(error.clone()));
            splitter.read_space();
            assert_eq!(splitter.next_frame(), Err(error));
        }
    }

    #[test]
    fn an_announced_gigabyte_does_not_allocate_one() {
        let mut splitter = FrameSplitter::new();
        splitter.feed(b"d");
        splitter.feed(&(BODY_BYTES_MAX as i32 + 4).to_be_bytes());
        assert_eq!(splitter.next_frame(), Ok(None));
        assert!(splitter.read_space().capacity() <= 2 * READ_BYTES);
    }

    #[test]
    fn payloads_share_the_memory_they_were_read_into() {
        let mut splitter = FrameSplitter::new();
        let space = splitter.read_space();
        let start = space.as_ptr() as usize;
        space.extend_from_slice(&message(b'd', b"one"));
        space.extend_from_slice(&message(b'd', b"two"));
        let frames = drain(&mut splitter);
        assert_eq!(frames[0].2.as_ptr() as usize, start + 5);
        assert_eq!(frames[1].2.as_ptr() as usize, start + 13);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_never_panic_and_never_invent_bytes(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20)
        ) {
            let mut splitter = FrameSplitter::new();
            let (mut given, mut fed) = (0, 0);
            for piece in pieces {
                splitter.feed(&piece);
                fed += piece.len();
                while let Ok(Some(frame)) = splitter.next_frame() {
                    given += frame.into_raw().len();
                }
                splitter.read_space();
            }
            prop_assert_eq!(given + splitter.buffered_len(), fed);
        }
    }
}
