//! Packets: three bytes of length, one of sequence number, and a body (MySQL manual, "Protocol
//! Basics"; MariaDB's is the same). What the proxy itself reads and writes: at logins, for its
//! questions to a server, for its errors to a client.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of length and sequence number.
pub(super) const HEADER: usize = 4;
/// A body of this length goes on in the next packet.
pub(super) const FULL: usize = 0xff_ffff;

/// First byte of an OK, an end of rows, an error.
pub(super) const OK: u8 = 0x00;
pub(super) const EOF: u8 = 0xfe;
pub(super) const ERR: u8 = 0xff;

/// A packet that is not one of several.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub seq: u8,
    pub body: Vec<u8>,
}

impl Packet {
    pub fn first(&self) -> u8 {
        self.body.first().copied().unwrap_or_default()
    }
}

/// Length and number in a packet's header.
pub(super) fn header(bytes: [u8; HEADER]) -> (usize, u8) {
    let [a, b, c, seq] = bytes;
    (u32::from_le_bytes([a, b, c, 0]) as usize, seq)
}

/// Writes a packet; its body is shorter than [`FULL`].
pub(super) fn packet(out: &mut Vec<u8>, seq: u8, body: &[u8]) {
    let [a, b, c, _] = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    out.extend_from_slice(&[a, b, c, seq]);
    out.extend_from_slice(body);
}

/// An error as a server gives it.
pub(super) fn error(out: &mut Vec<u8>, seq: u8, code: u16, sqlstate: &str, text: &str) {
    let mut body = vec![ERR];
    body.extend_from_slice(&code.to_le_bytes());
    body.push(b'#');
    body.extend_from_slice(sqlstate.as_bytes());
    body.extend_from_slice(text.as_bytes());
    packet(out, seq, &body);
}

/// The same before a client has said that it knows of SQLSTATEs.
pub(super) fn early_error(out: &mut Vec<u8>, code: u16, text: &str) {
    let mut body = vec![ERR];
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(text.as_bytes());
    packet(out, 0, &body);
}

/// Number and text of an error.
pub(super) fn error_of(body: &[u8]) -> (u16, String) {
    let mut at = Cursor(body);
    let code = at.take(1).and_then(|_| at.u16()).unwrap_or_default();
    let text = match at.0.strip_prefix(b"#") {
        Some(rest) => rest.get(5..).unwrap_or_default(),
        None => at.0,
    };
    (code, String::from_utf8_lossy(text).into_owned())
}

/// COM_QUIT, as a packet.
pub(super) const QUIT: [u8; 5] = [1, 0, 0, 0, 1];

/// Status in an OK, of which the first bytes are enough.
pub(super) fn status_of_ok(body: &[u8]) -> io::Result<u16> {
    let mut at = Cursor(body);
    let status = at.take(1).and_then(|_| {
        at.number()?;
        at.number()?;
        at.u16()
    });
    status.ok_or_else(|| invalid("an OK that can't be read"))
}

/// Status in an EOF.
pub(super) fn status_of_eof(body: &[u8]) -> io::Result<u16> {
    let mut at = Cursor(body);
    let status = at.take(3).and_then(|_| at.u16());
    status.ok_or_else(|| invalid("an end of rows that can't be read"))
}

/// What a server says to COM_STMT_PREPARE.
pub(super) struct Prepared {
    /// Its number for the statement.
    pub number: u32,
    pub columns: u16,
    pub parameters: u16,
}

impl Prepared {
    /// From the first packet of the answer.
    pub fn parse(body: &[u8]) -> io::Result<Self> {
        let mut at = Cursor(body);
        let read = at.take(1).and_then(|_| {
            let number = at.u32()?;
            Some(Self { number, columns: at.u16()?, parameters: at.u16()? })
        });
        read.ok_or_else(|| invalid("a prepared statement that can't be read"))
    }

    /// Packets that follow: definitions, each kind with an EOF where rows end with one.
    pub fn definitions(&self, ends_with_ok: bool) -> u32 {
        let packets = |count: u16| match count {
            0 => 0,
            count => u32::from(count) + u32::from(!ends_with_ok),
        };
        packets(self.columns) + packets(self.parameters)
    }
}

/// Something that can't be in this place.
pub(super) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Reads a body from its beginning on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    pub fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    /// Up to a zero byte, which is taken, too.
    pub fn text(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = self.take(end)?;
        self.take(1)?;
        Some(text)
    }

    /// An integer of one to nine bytes. `None` also for what stands for NULL or an error.
    pub fn number(&mut self) -> Option<u64> {
        let more = match self.u8()? {
            small @ 0..=0xfa => return Some(u64::from(small)),
            0xfc => 2,
            0xfd => 3,
            0xfe => 8,
            _ => return None,
        };
        let mut bytes = [0; 8];
        bytes[..more].copy_from_slice(self.take(more)?);
        Some(u64::from_le_bytes(bytes))
    }

    /// Bytes behind their length.
    pub fn counted(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }
}

/// An integer of one to nine bytes.
pub(super) fn number(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_le_bytes();
    match value {
        0..=0xfa => out.push(bytes[0]),
        0xfb..=0xffff => out.extend_from_slice(&[&[0xfc], &bytes[..2]].concat()),
        0x1_0000..=0xff_ffff => out.extend_from_slice(&[&[0xfd], &bytes[..3]].concat()),
        _ => out.extend_from_slice(&[&[0xfe], &bytes[..]].concat()),
    }
}

/// Values of a row of text. `None` if it can't be read.
pub(super) fn columns(body: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
    let mut at = Cursor(body);
    let mut values = Vec::new();
    while !at.0.is_empty() {
        if at.0[0] == 0xfb {
            at.take(1)?;
            values.push(None);
        } else {
            values.push(Some(at.counted()?.to_vec()));
        }
    }
    Some(values)
}

/// Reads one packet and not a byte more: what comes behind it may be TLS, which a client of these
/// protocols begins without waiting for an answer.
///
/// # Errors
/// Also for a body of more than `most` bytes.
pub(super) async fn exactly(
    stream: &mut (impl AsyncRead + Unpin),
    most: usize,
) -> io::Result<Packet> {
    let mut head = [0; HEADER];
    stream.read_exact(&mut head).await?;
    let (length, seq) = header(head);
    if length > most {
        return Err(invalid(format!("a packet of {length} bytes where that can't be")));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Packet { seq, body })
}

/// Reads whole packets; what came behind them stays here.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
}

/// Reads are at least this large.
const READ: usize = 8 << 10;

impl Inbox {
    /// The next packet. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Also for a body of more than `most` bytes.
    pub async fn next(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        most: usize,
    ) -> io::Result<Packet> {
        loop {
            if let Some((head, rest)) = self.bytes.split_first_chunk::<HEADER>() {
                let (length, seq) = header(*head);
                if length > most || length == FULL {
                    return Err(invalid(format!("a packet of {length} bytes where that can't be")));
                }
                if rest.len() >= length {
                    let packet = Packet { seq, body: rest[..length].to_vec() };
                    self.bytes.drain(..HEADER + length);
                    return Ok(packet);
                }
            }
            self.bytes.reserve(READ);
            if stream.read_buf(&mut self.bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Nothing has come that was not read.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What has come and was not read.
    pub fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for value in [0, 0xfa, 0xfb, 0xffff, 0x1_0000, 0xff_ffff, 0x100_0000, u64::MAX] {
            let mut out = Vec::new();
            number(&mut out, value);
            let mut at = Cursor(&out);
            assert_eq!((at.number(), at.0), (Some(value), &[][..]));
            assert_eq!(Cursor(&out[..out.len() - 1]).number(), None);
        }
        assert_eq!(Cursor(&[0xfb]).number(), None);
        assert_eq!(columns(&[1, b'a', 0xfb, 0]), Some(vec![Some(b"a".into()), None, Some(vec![])]));
        assert_eq!(columns(&[2, b'a']), None);
    }

    #[test]
    fn errors_are_read_as_they_are_written() {
        let mut out = Vec::new();
        error(&mut out, 1, 1053, "08S01", "gone");
        assert_eq!(error_of(&out[HEADER..]), (1053, "gone".into()));
        out.clear();
        early_error(&mut out, 1040, "Too many connections");
        assert_eq!(error_of(&out[HEADER..]), (1040, "Too many connections".into()));
    }
}
