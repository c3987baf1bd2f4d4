//! Where messages begin and end: a byte of tag, four of length (PostgreSQL manual, "Message
//! Formats"). Bodies are skipped, so a row costs a handful of instructions whatever its size.

/// A length that no message can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of type {:?} announces {length} bytes", char::from(*tag))]
pub(super) struct Malformed {
    tag: u8,
    length: i32,
}

/// Told about messages, piece by piece.
pub(super) trait Sink {
    /// A part of a message's body. Most messages come in one piece: `first` and `last`.
    fn piece(&mut self, tag: u8, part: &[u8], first: bool, last: bool);
}

const HEADER: usize = 5;

/// Walks over a stream of messages that arrives in arbitrary portions.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    header: [u8; HEADER],
    /// Bytes of the header that have come; `HEADER` while its body is under way.
    have: usize,
    /// Bytes of the body that are still to come.
    left: usize,
}

impl Scanner {
    /// Nothing of a message has come without the rest of it.
    pub fn at_boundary(&self) -> bool {
        self.have == 0
    }

    /// Walks over `bytes`.
    pub fn scan(&mut self, mut bytes: &[u8], sink: &mut impl Sink) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            let mut first = false;
            if self.have < HEADER {
                let take = (HEADER - self.have).min(bytes.len());
                let (head, rest) = bytes.split_at(take);
                self.header[self.have..self.have + take].copy_from_slice(head);
                self.have += take;
                bytes = rest;
                if self.have < HEADER {
                    return Ok(());
                }
                self.left = body_length(self.header)?;
                first = true;
            }
            let (part, rest) = bytes.split_at(self.left.min(bytes.len()));
            self.left -= part.len();
            bytes = rest;
            let last = self.left == 0;
            if first || last || !part.is_empty() {
                sink.piece(self.header[0], part, first, last);
            }
            if last {
                self.have = 0;
            }
        }
        Ok(())
    }

    /// How many of `bytes` belong to the message that is under way or, between two, to the next
    /// one. 0 between two as long as its header is not complete.
    pub fn until_boundary(&self, bytes: &[u8]) -> Result<usize, Malformed> {
        if self.have == HEADER {
            return Ok(self.left.min(bytes.len()));
        }
        let need = HEADER - self.have;
        if bytes.len() < need {
            return Ok(if self.have == 0 { 0 } else { bytes.len() });
        }
        let mut header = self.header;
        header[self.have..].copy_from_slice(&bytes[..need]);
        Ok((need + body_length(header)?).min(bytes.len()))
    }
}

fn body_length(header: [u8; HEADER]) -> Result<usize, Malformed> {
    let [tag, a, b, c, d] = header;
    let length = i32::from_be_bytes([a, b, c, d]);
    usize::try_from(length)
        .ok()
        .and_then(|length| length.checked_sub(4))
        .ok_or(Malformed { tag, length })
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Seen(Vec<(u8, Vec<u8>)>);

    impl Sink for Seen {
        fn piece(&mut self, tag: u8, part: &[u8], first: bool, last: bool) {
            if first {
                self.0.push((tag, Vec::new()));
            }
            let (open, body) = self.0.last_mut().unwrap();
            assert_eq!(*open, tag);
            body.extend_from_slice(part);
            assert!(last || !part.is_empty() || first);
        }
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&(body.len() as i32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn portions_make_no_difference() {
        let stream = [
            message(b'T', b"abc"),
            message(b'S', b""),
            message(b'D', &[7; 40]),
            message(b'Z', b"I"),
        ]
        .concat();
        let mut whole = Seen::default();
        let mut scanner = Scanner::default();
        scanner.scan(&stream, &mut whole).unwrap();
        assert!(scanner.at_boundary());
        assert_eq!(whole.0.len(), 4);
        for portion in 1..stream.len() {
            let mut seen = Seen::default();
            let mut scanner = Scanner::default();
            for part in stream.chunks(portion) {
                scanner.scan(part, &mut seen).unwrap();
            }
            assert_eq!(seen, whole, "{portion}");
            assert!(scanner.at_boundary());
        }
    }

    #[test]
    fn one_message_is_taken_at_a_time() {
        let stream = [message(b'Q', b"one\0"), message(b'Q', b"two\0")].concat();
        let mut scanner = Scanner::default();
        assert_eq!(scanner.until_boundary(&stream).unwrap(), 9);
        assert_eq!(scanner.until_boundary(&stream[..4]).unwrap(), 0);
        for cut in 1..9 {
            scanner = Scanner::default();
            scanner.scan(&stream[..cut], &mut Seen::default()).unwrap();
            assert_eq!(scanner.until_boundary(&stream[cut..]).unwrap(), 9 - cut, "{cut}");
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for length in [3_i32, 0, -1, i32::MIN] {
            let bytes = [&[b'D'][..], &length.to_be_bytes()].concat();
            assert!(Scanner::default().scan(&bytes, &mut Seen::default()).is_err());
            assert!(Scanner::default().until_boundary(&bytes).is_err());
        }
    }
}
