//! What is kept of a conversation as it passes by.

use super::customs::Customs;
use super::frames::Sink;
use super::messages;
use super::turns::Turns;

/// The longest statement that is looked at.
const STATEMENT_MAX: usize = 1 << 20;

/// What is known of a session from its messages alone.
#[derive(Debug)]
pub(super) struct Talk {
    pub turns: Turns,
    /// What the client has been told of the server's settings.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
    pub customs: Customs,
    /// The Parse of the unnamed statement, which no catalog shows.
    unnamed: Vec<u8>,
    has_unnamed: bool,
    /// A message that comes in pieces, as far as it has come.
    piece: Vec<u8>,
    piece_lost: bool,
    /// The same of the server's.
    told: Vec<u8>,
    /// A statement was too long to be looked at.
    unseen: bool,
}

impl Talk {
    /// Right after a login.
    pub fn new(parameters: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        Self {
            turns: Turns::new(),
            parameters,
            customs: Customs::default(),
            unnamed: Vec::new(),
            has_unnamed: false,
            piece: Vec::new(),
            piece_lost: false,
            told: Vec::new(),
            unseen: false,
        }
    }

    /// The unnamed statement's Parse, if there is one now.
    pub fn unnamed(&self) -> Option<&[u8]> {
        self.has_unnamed.then_some(&self.unnamed[..])
    }

    /// Why what is known is not enough for a move.
    pub fn obstacle(&self) -> Option<&'static str> {
        if self.customs.is_opaque() {
            Some("set_config with a computed name")
        } else if self.unseen {
            Some("a statement of more than 1 MiB")
        } else {
            None
        }
    }

    fn statement(&mut self, tag: u8, body: &[u8]) {
        if tag == b'Q' {
            self.has_unnamed = false;
            self.customs.look(body);
            return;
        }
        let name = body.iter().position(|byte| *byte == 0).unwrap_or(body.len());
        self.customs.look(&body[name..]);
        if name == 0 {
            self.unnamed.clear();
            self.unnamed.extend_from_slice(body);
            self.has_unnamed = true;
        }
    }
}

/// The client's messages.
pub(super) struct FromClient<'a>(pub &'a mut Talk);

impl Sink for FromClient<'_> {
    #[inline]
    fn piece(&mut self, tag: u8, part: &[u8], first: bool, last: bool) {
        let talk = &mut *self.0;
        if first {
            talk.turns.client(tag);
        }
        if tag != b'Q' && tag != b'P' {
            return;
        }
        if first && last {
            talk.statement(tag, part);
            return;
        }
        if first {
            talk.piece.clear();
            talk.piece_lost = false;
        }
        if talk.piece.len() + part.len() > STATEMENT_MAX {
            // A Query can't be the unnamed statement, and one of this size sets nothing by name.
            talk.piece_lost = true;
            talk.unseen |= tag == b'P';
            talk.has_unnamed = false;
        }
        if !talk.piece_lost {
            talk.piece.extend_from_slice(part);
        }
        if last {
            let piece = std::mem::take(&mut talk.piece);
            if !talk.piece_lost {
                talk.statement(tag, &piece);
            }
        }
    }
}

/// The server's messages.
pub(super) struct FromServer<'a>(pub &'a mut Talk);

impl Sink for FromServer<'_> {
    #[inline]
    fn piece(&mut self, tag: u8, part: &[u8], first: bool, last: bool) {
        let talk = &mut *self.0;
        match tag {
            b'Z' => {
                if let Some(status) = part.first() {
                    talk.turns.ready(*status);
                }
            }
            b'G' | b'W' | b'E' if first => talk.turns.server(tag),
            b'S' => {
                if first {
                    talk.told.clear();
                }
                talk.told.extend_from_slice(part);
                if last && let Some((name, value)) = messages::pair(&talk.told) {
                    note(&mut talk.parameters, name, value);
                }
            }
            _ => {}
        }
    }
}

/// Notes what a server has told of a setting.
fn note(parameters: &mut Vec<(Vec<u8>, Vec<u8>)>, name: &[u8], value: &[u8]) {
    match parameters.iter_mut().find(|(known, _)| known == name) {
        Some((_, known)) => value.clone_into(known),
        None => parameters.push((name.to_vec(), value.to_vec())),
    }
}

/// The messages that make a client's view of the settings that of another server, and the view.
pub(super) fn tell_differences(talk: &mut Talk, now: &[(Vec<u8>, Vec<u8>)], out: &mut Vec<u8>) {
    for (name, value) in now {
        if !talk.parameters.iter().any(|(known, told)| known == name && told == value) {
            messages::message(out, b'S', |body| {
                messages::text(body, name);
                messages::text(body, value);
            });
            note(&mut talk.parameters, name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::Scanner;
    use super::*;

    #[test]
    fn the_unnamed_statement_lives_until_the_next_query() {
        let mut talk = Talk::new(Vec::new());
        let mut bytes = Vec::new();
        messages::parse(&mut bytes, b"", b"SELECT 1", &[]);
        let body = bytes[5..].to_vec();
        messages::parse(&mut bytes, b"named", b"SET app.x = 1", &[23]);
        messages::sync(&mut bytes);
        let mut scanner = Scanner::default();
        for part in bytes.chunks(3) {
            scanner.scan(part, &mut FromClient(&mut talk)).unwrap();
        }
        assert_eq!(talk.unnamed(), Some(&body[..]));
        assert_eq!(talk.customs.names(), ["app.x"]);
        scanner.scan(b"Q\0\0\0\x0dSELECT 2\0", &mut FromClient(&mut talk)).unwrap();
        assert_eq!(talk.unnamed(), None);
    }

    #[test]
    fn a_client_is_told_what_is_new() {
        let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        let mut talk = Talk::new(vec![pair("server_version", "15"), pair("TimeZone", "UTC")]);
        let now = [pair("server_version", "17"), pair("TimeZone", "UTC"), pair("search_path", "a")];
        let mut out = Vec::new();
        tell_differences(&mut talk, &now, &mut out);
        let mut other = Talk::new(vec![pair("server_version", "15")]);
        Scanner::default().scan(&out, &mut FromServer(&mut other)).unwrap();
        assert_eq!(other.parameters, [pair("server_version", "17"), pair("search_path", "a")]);
        out.clear();
        tell_differences(&mut talk, &now, &mut out);
        assert!(out.is_empty());
    }
}
