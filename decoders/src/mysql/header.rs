//! What every event begins with, and the checksum that it may end with.

use super::error::Fault;
use super::event::EventType;

/// Bytes of a header of binlog version 4, the only one since MySQL 5.0.
pub const HEADER_BYTES: usize = 19;

/// Bytes of a CRC32 at an event's end.
pub(super) const CHECKSUM_BYTES: usize = 4;

/// The header of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Seconds since 1970 on the source when the statement began. 0 for events made up by the
    /// thread that sends the binlog.
    pub timestamp: u32,
    /// What the event is.
    pub event_type: EventType,
    /// The server on which the change was made first.
    pub server_id: u32,
    /// Bytes of the whole event, header and checksum included.
    pub event_bytes: u32,
    /// Where the next event begins in the file, in the lower 32 bits. **Not a position to resume
    /// from**: it is 0 in the middle of a transaction in MariaDB 11.4+ and inside compressed
    /// transactions, and wraps in files over 4 GiB.
    pub log_pos: u32,
    /// `LOG_EVENT_*_F`.
    pub flags: u16,
}

impl Header {
    /// The binlog was not closed: the file is being written, or the server crashed.
    pub const IN_USE: u16 = 0x1;
    /// The event may be skipped by who does not know it.
    pub const IGNORABLE: u16 = 0x80;
    /// MariaDB: the session had set `skip_replication`.
    pub const SKIP_REPLICATION: u16 = 0x8000;

    /// Reads the first 19 bytes of `frame`.
    pub(super) fn read(frame: &[u8]) -> Result<Header, Fault> {
        let Some(bytes) = frame.first_chunk::<HEADER_BYTES>() else {
            return Err(Fault::Truncated { needed: HEADER_BYTES, left: frame.len() });
        };
        let [t0, t1, t2, t3, event_type, s0, s1, s2, s3, e0, e1, e2, e3, p0, p1, p2, p3, f0, f1] =
            *bytes;
        Ok(Header {
            timestamp: u32::from_le_bytes([t0, t1, t2, t3]),
            event_type: EventType(event_type),
            server_id: u32::from_le_bytes([s0, s1, s2, s3]),
            event_bytes: u32::from_le_bytes([e0, e1, e2, e3]),
            log_pos: u32::from_le_bytes([p0, p1, p2, p3]),
            flags: u16::from_le_bytes([f0, f1]),
        })
    }
}

/// The header of an event that we write, with `body_bytes` behind it. It has no place in a file.
pub(super) fn event_header(code: u8, server_id: u32, body_bytes: usize) -> [u8; HEADER_BYTES] {
    let bytes = u32::try_from(HEADER_BYTES + body_bytes).unwrap_or(u32::MAX);
    let mut header = [0; HEADER_BYTES];
    header[4] = code;
    header[5..9].copy_from_slice(&server_id.to_le_bytes());
    header[9..13].copy_from_slice(&bytes.to_le_bytes());
    header
}

/// The last four bytes as a checksum, and that of the bytes before them.
fn stored_and_computed(frame: &[u8], event_type: EventType) -> Result<(u32, u32), Fault> {
    let least = HEADER_BYTES + CHECKSUM_BYTES;
    let Some((content, stored)) =
        frame.split_last_chunk::<CHECKSUM_BYTES>().filter(|_| frame.len() >= least)
    else {
        return Err(Fault::Truncated { needed: least, left: frame.len() });
    };
    let stored = u32::from_le_bytes(*stored);
    if event_type != EventType::FORMAT_DESCRIPTION {
        return Ok((stored, crc32fast::hash(content)));
    }
    // The flag is set in the file after the checksum was computed (log_event.cc, IN_USE).
    let mut content = content.to_vec();
    content[17] &= !(Header::IN_USE as u8);
    Ok((stored, crc32fast::hash(&content)))
}

/// Fails unless the event's CRC32 is right.
pub(super) fn verify(frame: &[u8], event_type: EventType) -> Result<(), Fault> {
    match stored_and_computed(frame, event_type)? {
        (stored, computed) if stored == computed => Ok(()),
        (stored, computed) => Err(Fault::Checksum { stored, computed }),
    }
}

/// Whether an event of which nobody said it carries a checksum does so.
pub(super) fn has_checksum(frame: &[u8], event_type: EventType) -> bool {
    stored_and_computed(frame, event_type).is_ok_and(|(stored, computed)| stored == computed)
}

/// What is between header and checksum.
pub(super) fn body(frame: &[u8], with_checksum: bool) -> Result<&[u8], Fault> {
    let end = frame.len().checked_sub(if with_checksum { CHECKSUM_BYTES } else { 0 });
    match end.and_then(|end| frame.get(HEADER_BYTES..end)) {
        Some(body) => Ok(body),
        None => Err(Fault::Truncated { needed: HEADER_BYTES, left: frame.len() }),
    }
}
