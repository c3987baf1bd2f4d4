//! Messages that the proxy itself writes and reads: at logins, for its questions to a server, for
//! its errors to a client. Nothing here is on the path of a client's own messages.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A message: its type and its body.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Message {
    /// As it travels.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        message(out, self.tag, |body| body.extend_from_slice(&self.body));
    }

    /// Big-endian, at `at`.
    pub fn int32(&self, at: usize) -> Option<i32> {
        let bytes = self.body.get(at..at.checked_add(4)?)?;
        Some(i32::from_be_bytes(bytes.try_into().ok()?))
    }
}

/// Reads whole messages; what came behind them stays here.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    touched: bool,
}

/// Reads are at least this large.
const READ: usize = 8 << 10;

impl Inbox {
    /// For a conversation that goes on where `aside` ends: a message that has come in part is
    /// taken from there.
    pub fn behind(aside: &mut Vec<u8>) -> Self {
        let mut at = 0;
        while let Some((header, rest)) = aside[at..].split_first_chunk::<5>() {
            let length = i32::from_be_bytes([header[1], header[2], header[3], header[4]]);
            let body = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
            match body.filter(|body| *body <= rest.len()) {
                Some(body) => at += 5 + body,
                None => break,
            }
        }
        Self { bytes: aside.split_off(at), touched: false }
    }

    /// The next message. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Also for a message of more than `most` bytes.
    pub async fn next(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        most: usize,
    ) -> io::Result<Message> {
        loop {
            if let Some((header, rest)) = self.bytes.split_first_chunk::<5>() {
                let length = i32::from_be_bytes([header[1], header[2], header[3], header[4]]);
                let body = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
                let body = body.filter(|body| *body <= most).ok_or_else(|| {
                    invalid(format!("a message of {length} bytes where that can't be"))
                })?;
                if rest.len() >= body {
                    let message = Message { tag: header[0], body: rest[..body].to_vec() };
                    self.bytes.drain(..5 + body);
                    return Ok(message);
                }
            }
            self.fill(stream).await?;
        }
    }

    /// The packet that a connection begins with: a length and no type.
    pub async fn packet(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        most: usize,
    ) -> io::Result<Vec<u8>> {
        loop {
            if let Some((header, rest)) = self.bytes.split_first_chunk::<4>() {
                let body = usize::try_from(i32::from_be_bytes(*header))
                    .ok()
                    .and_then(|length| length.checked_sub(4))
                    .filter(|body| (4..=most).contains(body))
                    .ok_or_else(|| invalid("this is no PostgreSQL client".into()))?;
                if rest.len() >= body {
                    let packet = rest[..body].to_vec();
                    self.bytes.drain(..4 + body);
                    return Ok(packet);
                }
            }
            self.fill(stream).await?;
        }
    }

    /// Takes in what comes, up to about `most` bytes that nobody has asked for. Dropping the future
    /// loses nothing.
    pub async fn take_in(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        most: usize,
    ) -> io::Result<()> {
        if self.bytes.len() >= most {
            return std::future::pending().await;
        }
        self.fill(stream).await
    }

    /// What came behind the last message.
    pub fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// From here on what was said can't be unsaid.
    pub fn touch(&mut self) {
        self.touched = true;
    }

    /// Something was said that can't be unsaid.
    pub fn is_touched(&self) -> bool {
        self.touched
    }

    /// Nothing has come behind the last message.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    async fn fill(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        self.bytes.reserve(READ);
        match stream.read_buf(&mut self.bytes).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

pub(super) fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Appends a message whose body `write` writes.
pub(super) fn message(out: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends text and its NUL.
pub(super) fn text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(0);
}

/// A FATAL error in our own name.
pub(super) fn fatal(out: &mut Vec<u8>, sqlstate: &str, what: &str, hint: Option<&str>) {
    message(out, b'E', |body| {
        let fields = [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', sqlstate), (b'M', what)];
        for (field, value) in fields.into_iter().chain(hint.map(|hint| (b'H', hint))) {
            body.push(field);
            text(body, value.as_bytes());
        }
        body.push(0);
    });
}

/// Parse.
pub(super) fn parse(out: &mut Vec<u8>, name: &[u8], sql: &[u8], types: &[u32]) {
    message(out, b'P', |body| {
        text(body, name);
        text(body, sql);
        let count = u16::try_from(types.len()).unwrap_or(u16::MAX);
        body.extend_from_slice(&count.to_be_bytes());
        for oid in &types[..usize::from(count)] {
            body.extend_from_slice(&oid.to_be_bytes());
        }
    });
}

/// Bind to the unnamed portal, all text, and Execute.
pub(super) fn run(out: &mut Vec<u8>, statement: &[u8], values: &[&[u8]]) {
    message(out, b'B', |body| {
        text(body, b"");
        text(body, statement);
        body.extend_from_slice(&0_u16.to_be_bytes());
        let count = u16::try_from(values.len()).unwrap_or(u16::MAX);
        body.extend_from_slice(&count.to_be_bytes());
        for value in &values[..usize::from(count)] {
            let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
            body.extend_from_slice(&length.to_be_bytes());
            body.extend_from_slice(value);
        }
        body.extend_from_slice(&0_u16.to_be_bytes());
    });
    message(out, b'E', |body| {
        text(body, b"");
        body.extend_from_slice(&0_u32.to_be_bytes());
    });
}

/// Describe of a statement.
pub(super) fn describe(out: &mut Vec<u8>, statement: &[u8]) {
    message(out, b'D', |body| {
        body.push(b'S');
        text(body, statement);
    });
}

/// Close of a statement.
pub(super) fn close(out: &mut Vec<u8>, statement: &[u8]) {
    message(out, b'C', |body| {
        body.push(b'S');
        text(body, statement);
    });
}

/// Sync.
pub(super) fn sync(out: &mut Vec<u8>) {
    message(out, b'S', |_| {});
}

/// The columns of a DataRow.
pub(super) fn columns(body: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        columns.push(match usize::try_from(i32::from_be_bytes(*length)) {
            Err(_) => None,
            Ok(length) => {
                let (value, after) = rest.split_at_checked(length)?;
                rest = after;
                Some(value.to_vec())
            }
        });
    }
    Some(columns)
}

/// Two texts, each ended by NUL: a ParameterStatus.
pub(super) fn pair(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = body.split(|byte| *byte == 0);
    Some((parts.next()?, parts.next()?))
}

/// Whether there is an ErrorResponse among these messages; the last one may be incomplete.
pub(super) fn has_error(mut bytes: &[u8]) -> bool {
    while let Some((header, rest)) = bytes.split_first_chunk::<5>() {
        if header[0] == b'E' {
            return true;
        }
        let length = i32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let body = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
        match body.and_then(|body| rest.get(body..)) {
            Some(behind) => bytes = behind,
            None => return false,
        }
    }
    false
}

/// Appends those of a type; the last one may be incomplete, and is left out.
pub(super) fn append_all(mut bytes: &[u8], tag: u8, out: &mut Vec<u8>) {
    while let Some((header, rest)) = bytes.split_first_chunk::<5>() {
        let length = i32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let body = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
        let Some((body, behind)) = body.and_then(|body| rest.split_at_checked(body)) else {
            return;
        };
        if header[0] == tag {
            out.extend_from_slice(header);
            out.extend_from_slice(body);
        }
        bytes = behind;
    }
}

/// SQLSTATE and text of an ErrorResponse.
pub(super) fn error_fields(body: &[u8]) -> (String, String) {
    let (mut sqlstate, mut what) = (String::new(), String::new());
    for field in body.split(|byte| *byte == 0) {
        match field.split_first() {
            Some((b'C', value)) => sqlstate = String::from_utf8_lossy(value).into_owned(),
            Some((b'M', value)) => what = String::from_utf8_lossy(value).into_owned(),
            _ => {}
        }
    }
    (sqlstate, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_come_whole_and_the_rest_stays() {
        let mut bytes = Vec::new();
        fatal(&mut bytes, "57P01", "gone", Some("come back"));
        sync(&mut bytes);
        bytes.extend_from_slice(b"Q\0\0");
        let mut inbox = Inbox::default();
        let mut stream = &bytes[..];
        let error = inbox.next(&mut stream, 1000).await.unwrap();
        assert_eq!(error_fields(&error.body), ("57P01".into(), "gone".into()));
        assert_eq!(inbox.next(&mut stream, 1000).await.unwrap().tag, b'S');
        assert!(inbox.next(&mut stream, 1000).await.is_err());
        assert_eq!(inbox.take_rest(), b"Q\0\0");
    }

    /// The server was read up to the middle of a message.
    #[tokio::test]
    async fn a_message_that_was_read_in_part_is_read_to_its_end() {
        let mut bytes = Vec::new();
        for payload in [&b"one"[..], b"two"] {
            message(&mut bytes, b'A', |body| body.extend_from_slice(payload));
        }
        let first = bytes.len() / 2;
        for cut in 0..=bytes.len() {
            let mut aside = bytes[..cut].to_vec();
            let mut inbox = Inbox::behind(&mut aside);
            assert_eq!(aside.len(), [0, first, 2 * first][cut / first]);
            let mut rest = &bytes[cut..];
            while !aside.is_empty() || !inbox.is_empty() || !rest.is_empty() {
                if aside.len() == bytes.len() {
                    break;
                }
                inbox.next(&mut rest, 100).await.unwrap().append_to(&mut aside);
            }
            assert_eq!(aside, bytes);
        }
    }

    #[test]
    fn a_farewell_is_found_behind_other_messages() {
        let mut bytes = Vec::new();
        message(&mut bytes, b'N', |body| body.extend_from_slice(b"SNOTICE\0CE\0\0"));
        assert!(!has_error(&bytes));
        fatal(&mut bytes, "57P01", "gone", None);
        assert!(has_error(&bytes));
        assert!(!has_error(&bytes[..9]));
        assert!(!has_error(b"E\0\0"));
    }

    #[test]
    fn messages_of_a_type_are_picked_out() {
        let mut bytes = Vec::new();
        for tag in *b"NZAZ" {
            message(&mut bytes, tag, |body| body.push(b'I'));
        }
        let mut out = Vec::new();
        append_all(&bytes[..bytes.len() - 1], b'Z', &mut out);
        assert_eq!(out, b"Z\0\0\0\x05I");
    }

    #[tokio::test]
    async fn a_browser_is_not_waited_for() {
        let mut stream = &b"GET / HTTP/1.1\r\n"[..];
        assert!(Inbox::default().packet(&mut stream, 10_000).await.is_err());
    }
}
