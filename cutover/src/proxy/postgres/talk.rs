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
    /// The client has named types in a Parse that are not built in.
    user_types: bool,
    /// Whether types of results are looked at, a RowDescription as far as it has come, and whether one
    /// has shown a type that is not built in.
    looks_at_results: bool,
    described: Vec<u8>,
    user_results: bool,
}

/// The first OID that PostgreSQL gives to what users make (`FirstNormalObjectId`).
const FIRST_USER_OID: u32 = 16_384;

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
            user_types: false,
            looks_at_results: false,
            described: Vec::new(),
            user_results: false,
        }
    }

    /// From here on types of results count.
    pub fn look_at_results(&mut self) {
        self.looks_at_results = true;
    }

    /// The unnamed statement's Parse, if there is one now.
    pub fn unnamed(&self) -> Option<&[u8]> {
        self.has_unnamed.then_some(&self.unnamed[..])
    }

    /// The server has said that there is none: it had refused the Parse.
    pub fn forget_unnamed(&mut self) {
        self.has_unnamed = false;
    }

    /// Why what is known is not enough for a move.
    pub fn obstacle(&self) -> Option<&'static str> {
        if self.customs.is_opaque() {
            Some("set_config with a computed name")
        } else if self.unseen {
            Some("a statement of more than 1 MiB")
        } else if self.user_types {
            Some("parameters of user-defined types")
        } else if self.user_results {
            Some("results of user-defined types")
        } else {
            None
        }
    }

    /// What the client was told of a setting.
    pub fn parameter(&self, name: &[u8]) -> Option<&[u8]> {
        let mut told = self.parameters.iter();
        told.find(|(known, _)| known == name).map(|(_, value)| &value[..])
    }

    fn statement(&mut self, tag: u8, body: &[u8]) {
        if tag == b'Q' {
            self.has_unnamed = false;
            self.customs.look(body);
            return;
        }
        let name = body.iter().position(|byte| *byte == 0).unwrap_or(body.len());
        self.customs.look(&body[name..]);
        // It knows them by numbers that mean something else on another server, and goes on using
        // them.
        self.user_types |= parameter_types(&body[name..]).any(|oid| oid >= FIRST_USER_OID);
        if name == 0 {
            self.unnamed.clear();
            self.unnamed.extend_from_slice(body);
            self.has_unnamed = true;
        }
    }
}

/// Types of the parameters in a Parse, behind the statement's name; 0 where the server finds out.
fn parameter_types(behind_name: &[u8]) -> impl Iterator<Item = u32> {
    let mut texts = behind_name.splitn(3, |byte| *byte == 0);
    let counted = texts.nth(2).unwrap_or_default();
    let types = counted.get(2..).unwrap_or_default().chunks_exact(4);
    types.map(|oid| oid.iter().fold(0, |oid, byte| oid << 8 | u32::from(*byte)))
}

/// Types of the columns in a RowDescription. What can't be read ends it.
fn result_types(body: &[u8]) -> impl Iterator<Item = u32> {
    /// Table, column, type, type's size, modifier, format.
    const FIELD: usize = 18;
    let mut rest = body.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let name = rest.iter().position(|byte| *byte == 0)?;
        let (field, behind) = rest.get(name + 1..)?.split_first_chunk::<FIELD>()?;
        rest = behind;
        Some(u32::from_be_bytes([field[6], field[7], field[8], field[9]]))
    })
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
            talk.piece_lost = true;
            talk.unseen = true;
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
                if last && let Some(status) = part.last() {
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
            b'T' if talk.looks_at_results => {
                if first {
                    talk.turns.server_if_curious(tag);
                    talk.described.clear();
                }
                talk.described.extend_from_slice(part);
                if last {
                    let mut types = result_types(&talk.described);
                    talk.user_results |= types.any(|oid| oid >= FIRST_USER_OID);
                }
            }
            b'N' | b'A' => {}
            _ if first => talk.turns.server_if_curious(tag),
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
    fn a_statement_that_is_too_long_to_be_looked_at_pins() {
        for tag in *b"QPd" {
            let mut talk = Talk::new(Vec::new());
            let mut bytes = Vec::new();
            let long = vec![b' '; STATEMENT_MAX + 1];
            messages::message(&mut bytes, tag, |body| body.extend_from_slice(&long));
            let mut scanner = Scanner::default();
            for part in bytes.chunks(64 << 10) {
                scanner.scan(part, &mut FromClient(&mut talk)).unwrap();
            }
            assert_eq!(talk.obstacle().is_some(), tag != b'd', "{}", char::from(tag));
        }
    }

    #[test]
    fn types_that_only_one_server_knows_by_their_number_pin() {
        let pins = |name: &[u8], sql: &[u8], types: &[u32]| {
            let mut talk = Talk::new(Vec::new());
            let mut bytes = Vec::new();
            messages::parse(&mut bytes, name, sql, types);
            Scanner::default().scan(&bytes, &mut FromClient(&mut talk)).unwrap();
            talk.obstacle().is_some()
        };
        assert!(!pins(b"", b"SELECT $1, $2", &[]));
        assert!(!pins(b"s", b"SELECT $1, $2", &[0, 16_383]));
        assert!(pins(b"s", b"SELECT $1, $2", &[23, 16_384]));
        assert!(pins(b"", b"", &[70_000]));
    }

    #[test]
    fn types_of_results_count_where_they_are_looked_at() {
        let ties = |looks: bool, types: &[u32], portion: usize| {
            let mut talk = Talk::new(Vec::new());
            if looks {
                talk.look_at_results();
            }
            let mut bytes = Vec::new();
            messages::message(&mut bytes, b'T', |body| {
                body.extend_from_slice(&u16::try_from(types.len()).unwrap().to_be_bytes());
                for oid in types {
                    body.extend_from_slice(b"name\0\0\0\0\0\0\0");
                    body.extend_from_slice(&oid.to_be_bytes());
                    body.extend_from_slice(&[0xff; 8]);
                }
            });
            let mut scanner = Scanner::default();
            for part in bytes.chunks(portion) {
                scanner.scan(part, &mut FromServer(&mut talk)).unwrap();
            }
            talk.obstacle()
        };
        for portion in [1, 7, 1_000] {
            let user = Some("results of user-defined types");
            assert_eq!(ties(true, &[25, 16_384], portion), user);
            assert_eq!(ties(true, &[25, 16_383], portion), None);
            assert_eq!(ties(false, &[25, 16_384], portion), None);
        }
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
