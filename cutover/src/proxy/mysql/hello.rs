//! The first packets: the server's greeting and the client's answer (MySQL manual, "Connection
//! Phase Packets"; MariaDB manual, "Connecting"). What both sides can is agreed upon here, and what
//! the proxy could not follow is taken out of the greeting.

use super::packets::{Cursor, number};

/// Capabilities, as the servers' sources call them without `CLIENT_`.
pub(super) mod can {
    /// MySQL's `LONG_PASSWORD`, which MariaDB calls `MYSQL`: not set where MariaDB talks to itself.
    pub const MYSQL: u32 = 1;
    pub const CONNECT_WITH_DB: u32 = 1 << 3;
    pub const COMPRESS: u32 = 1 << 5;
    pub const PROTOCOL_41: u32 = 1 << 9;
    pub const SSL: u32 = 1 << 11;
    pub const SECURE_CONNECTION: u32 = 1 << 15;
    pub const PLUGIN_AUTH: u32 = 1 << 19;
    pub const CONNECT_ATTRS: u32 = 1 << 20;
    pub const LENGTH_OF_ANSWER: u32 = 1 << 21;
    pub const DEPRECATE_EOF: u32 = 1 << 24;
    pub const OPTIONAL_METADATA: u32 = 1 << 25;
    pub const ZSTD: u32 = 1 << 26;
    pub const QUERY_ATTRIBUTES: u32 = 1 << 27;
    pub const MORE_FACTORS: u32 = 1 << 28;
    /// What changes packets in a way that the proxy does not follow.
    pub const NOT_THROUGH_US: u32 =
        COMPRESS | OPTIONAL_METADATA | ZSTD | QUERY_ATTRIBUTES | MORE_FACTORS;
    /// Results, logins, attributes, session state, ends of rows.
    pub const ABOUT_PACKETS: u32 = 0b111_1110 << 16 | 1 << 23 | DEPRECATE_EOF;
    /// Of MariaDB's own: bulk operations and more about columns.
    pub const OF_MARIADB: u32 = 1 << 2 | 1 << 3;
}

/// Length of what is signed with a password.
pub(super) const NONCE: usize = 20;
pub(super) const NATIVE: &[u8] = b"mysql_native_password";
pub(super) const CACHING: &[u8] = b"caching_sha2_password";
pub(super) const CLEAR: &[u8] = b"mysql_clear_password";
/// MariaDB's PAM, which asks for the password itself.
pub(super) const DIALOG: &[u8] = b"dialog";

/// What a server says first.
#[derive(Debug, Clone)]
pub(super) struct Greeting {
    version: Vec<u8>,
    /// The number that the server knows the session by.
    pub id: u32,
    pub nonce: [u8; NONCE],
    pub caps: u32,
    charset: u8,
    status: u16,
    /// Ten bytes that MySQL does not use; of the last four MariaDB makes more capabilities.
    reserved: [u8; 10],
    pub plugin: Vec<u8>,
}

impl Greeting {
    /// `None`: it is none, or of a protocol that no server since 4.1 speaks.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut at = Cursor(body);
        if at.u8()? != 10 {
            return None;
        }
        let version = at.text()?.to_vec();
        let id = at.u32()?;
        let first = at.take(8)?;
        at.take(1)?;
        let low = at.u16()?;
        let charset = at.u8()?;
        let status = at.u16()?;
        let caps = u32::from(low) | u32::from(at.u16()?) << 16;
        let length = usize::from(at.u8()?);
        let reserved = at.take(10)?.try_into().ok()?;
        let second = at.take(length.saturating_sub(8).max(13))?;
        let plugin = match caps & can::PLUGIN_AUTH {
            0 => NATIVE.to_vec(),
            // Old servers forget the zero at the end.
            _ => at.text().unwrap_or(at.0).to_vec(),
        };
        let mut nonce = [0; NONCE];
        nonce[..8].copy_from_slice(first);
        nonce[8..].copy_from_slice(second.get(..12)?);
        let needed = can::PROTOCOL_41 | can::SECURE_CONNECTION;
        (caps & needed == needed).then_some(Self {
            version,
            id,
            nonce,
            caps,
            charset,
            status,
            reserved,
            plugin,
        })
    }

    /// Whether the server is MariaDB.
    pub fn is_mariadb(&self) -> bool {
        self.caps & can::MYSQL == 0 || self.version.windows(7).any(|word| word == b"MariaDB")
    }

    /// MariaDB's own capabilities.
    fn more(&self) -> u32 {
        let [.., a, b, c, d] = self.reserved;
        match self.caps & can::MYSQL {
            0 => u32::from_le_bytes([a, b, c, d]),
            _ => 0,
        }
    }

    /// For a client: without what the proxy does not follow, under the number `id`.
    pub fn for_client(&self, id: u32, tls: bool) -> Vec<u8> {
        let mut caps = self.caps & !(can::NOT_THROUGH_US | can::SSL);
        if tls {
            caps |= can::SSL;
        }
        let [a, b, c, d] = caps.to_le_bytes();
        let mut reserved = self.reserved;
        if caps & can::MYSQL == 0 {
            reserved[6..].copy_from_slice(&(self.more() & can::OF_MARIADB).to_le_bytes());
        }
        let mut body = vec![10];
        body.extend_from_slice(&self.version);
        body.push(0);
        body.extend_from_slice(&id.to_le_bytes());
        body.extend_from_slice(&self.nonce[..8]);
        body.extend_from_slice(&[0, a, b, self.charset]);
        body.extend_from_slice(&self.status.to_le_bytes());
        body.extend_from_slice(&[c, d, 21]);
        body.extend_from_slice(&reserved);
        body.extend_from_slice(&self.nonce[8..]);
        body.push(0);
        body.extend_from_slice(&self.plugin);
        body.push(0);
        body
    }
}

/// Bytes of capabilities, packet size, character set and filler that an answer begins with.
pub(super) const FIXED: usize = 32;

/// What a client answers: who it is and what it can.
#[derive(Clone)]
pub(super) struct Hello {
    pub caps: u32,
    /// Packet size, character set, filler: 28 bytes.
    fixed: [u8; FIXED - 4],
    pub user: Vec<u8>,
    /// What it has made of the nonce and its password.
    pub answer: Vec<u8>,
    pub database: Option<Vec<u8>>,
    pub plugin: Vec<u8>,
    /// Attributes of the connection, as they are.
    attributes: Vec<u8>,
}

impl Hello {
    /// Of nobody's client: of our own account on a server that has greeted like this.
    pub fn own(user: &str, greeting: &Greeting) -> Self {
        let caps = can::MYSQL
            | can::PROTOCOL_41
            | can::SECURE_CONNECTION
            | can::PLUGIN_AUTH & greeting.caps;
        let mut fixed = [0; FIXED - 4];
        fixed[..4].copy_from_slice(&(1_u32 << 24).to_le_bytes());
        fixed[4] = greeting.charset;
        let (answer, plugin, attributes) = (Vec::new(), Vec::new(), Vec::new());
        let user = user.as_bytes().to_vec();
        Self { caps, fixed, user, answer, database: None, plugin, attributes }
    }

    /// `None`: it can't be read, or is of a protocol before 4.1.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut at = Cursor(body);
        let caps = at.u32()?;
        let needed = can::PROTOCOL_41 | can::SECURE_CONNECTION;
        if caps & needed != needed {
            return None;
        }
        let fixed = at.take(FIXED - 4)?.try_into().ok()?;
        let user = at.text()?.to_vec();
        let answer = match caps & can::LENGTH_OF_ANSWER {
            0 => {
                let length = at.u8()?;
                at.take(usize::from(length))?
            }
            _ => at.counted()?,
        };
        let database = match caps & can::CONNECT_WITH_DB {
            0 => None,
            _ => Some(at.text().unwrap_or_else(|| std::mem::take(&mut at.0)).to_vec()),
        };
        let plugin = match caps & can::PLUGIN_AUTH {
            0 => NATIVE,
            _ => at.text().unwrap_or_else(|| std::mem::take(&mut at.0)),
        };
        let (answer, plugin, attributes) = (answer.to_vec(), plugin.to_vec(), at.0.to_vec());
        let database = database.filter(|name: &Vec<u8>| !name.is_empty());
        Some(Self { caps, fixed, user, answer, database, plugin, attributes })
    }

    /// What only its own connection is about is forgotten, and what was not offered: MySQL's own clients
    /// name that, too, and do without.
    pub fn settle(&mut self) {
        self.caps &= !(can::SSL | can::NOT_THROUGH_US);
        if self.caps & can::MYSQL == 0 {
            let [.., a, b, c, d] = self.fixed;
            let more = u32::from_le_bytes([a, b, c, d]) & can::OF_MARIADB;
            self.fixed[24..].copy_from_slice(&more.to_le_bytes());
        }
    }

    /// What the login and the request for TLS before it say alike. Servers read the login by what the
    /// request has said, so the two must not differ.
    fn caps_of_login(&self, tls: bool, database: Option<&[u8]>) -> u32 {
        let mut caps = self.caps & !(can::SSL | can::CONNECT_WITH_DB);
        if tls {
            caps |= can::SSL;
        }
        if database.is_some() {
            caps |= can::CONNECT_WITH_DB;
        }
        caps
    }

    /// Asks a server for TLS, for a login with this database.
    pub fn ask_for_tls(&self, database: Option<&[u8]>) -> Vec<u8> {
        let mut body = self.caps_of_login(true, database).to_le_bytes().to_vec();
        body.extend_from_slice(&self.fixed);
        body
    }

    /// For a server, with another login or database than the client's own.
    pub fn packet(
        &self,
        tls: bool,
        plugin: &[u8],
        answer: &[u8],
        database: Option<&[u8]>,
    ) -> Vec<u8> {
        let caps = self.caps_of_login(tls, database);
        let mut body = caps.to_le_bytes().to_vec();
        body.extend_from_slice(&self.fixed);
        body.extend_from_slice(&self.user);
        body.push(0);
        match caps & can::LENGTH_OF_ANSWER {
            0 => body.push(u8::try_from(answer.len()).unwrap_or(u8::MAX)),
            _ => number(&mut body, answer.len() as u64),
        }
        body.extend_from_slice(answer);
        if let Some(database) = database {
            body.extend_from_slice(database);
            body.push(0);
        }
        if caps & can::PLUGIN_AUTH != 0 {
            body.extend_from_slice(plugin);
            body.push(0);
        }
        body.extend_from_slice(&self.attributes);
        body
    }

    /// As the client has sent it.
    pub fn own_packet(&self, tls: bool) -> Vec<u8> {
        self.packet(tls, &self.plugin, &self.answer, self.database.as_deref())
    }

    /// The connection attribute `program_name`.
    pub fn program(&self) -> Option<Vec<u8>> {
        if self.caps & can::CONNECT_ATTRS == 0 {
            return None;
        }
        let mut at = Cursor(Cursor(&self.attributes).counted()?);
        while !at.0.is_empty() {
            let (name, value) = (at.counted()?, at.counted()?);
            if name == b"program_name" {
                return Some(value.to_vec());
            }
        }
        None
    }

    /// Whether rows end with an OK instead of an EOF.
    pub fn ends_with_ok(&self) -> bool {
        self.caps & can::DEPRECATE_EOF != 0
    }

    /// Whether this client relies on something that server can't.
    pub fn lacks(&self, greeting: &Greeting) -> bool {
        let ours =
            u32::from_le_bytes([self.fixed[24], self.fixed[25], self.fixed[26], self.fixed[27]]);
        let theirs = greeting.more();
        let is_missing = |bits: u32| self.caps & bits & !greeting.caps != 0;
        is_missing(can::ABOUT_PACKETS) || self.caps & can::MYSQL == 0 && ours & !theirs != 0
    }

    /// It becomes another user's (COM_CHANGE_USER).
    pub fn change_user(&mut self, user: &[u8], database: Option<Vec<u8>>, charset: u8) {
        self.fixed[4] = charset;
        self.user = user.to_vec();
        self.database = database;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(caps: u32, more: u32) -> Vec<u8> {
        let [a, b, c, d] = caps.to_le_bytes();
        let mut body = b"\x0a11.8.3-MariaDB\0\x07\0\0\0abcdefgh\0".to_vec();
        body.extend_from_slice(&[a, b, 45, 2, 0, c, d, 21, 0, 0, 0, 0, 0, 0]);
        body.extend_from_slice(&more.to_le_bytes());
        body.extend_from_slice(b"ijklmnopqrst\0mysql_native_password\0");
        body
    }

    #[test]
    fn what_can_not_be_followed_is_not_offered() {
        let all = !can::MYSQL;
        let greeting = Greeting::parse(&greeting(all, 0xff)).unwrap();
        assert_eq!((greeting.id, &greeting.nonce), (7, b"abcdefghijklmnopqrst"));
        assert_eq!(greeting.plugin, NATIVE);
        for tls in [true, false] {
            let shown = Greeting::parse(&greeting.for_client(9, tls)).unwrap();
            assert_eq!((shown.id, shown.nonce), (9, greeting.nonce));
            assert_eq!(shown.caps & can::NOT_THROUGH_US, 0);
            assert_eq!(shown.caps & can::SSL != 0, tls);
            assert_eq!(shown.reserved[6..], can::OF_MARIADB.to_le_bytes());
        }
    }

    #[test]
    fn what_was_not_offered_is_not_agreed_upon() {
        let caps = can::PROTOCOL_41 | can::SECURE_CONNECTION;
        let mut body = (caps | can::SSL | can::ZSTD).to_le_bytes().to_vec();
        body.extend_from_slice(&[0xff; 28]);
        body.extend_from_slice(b"app\0\0");
        let mut hello = Hello::parse(&body).unwrap();
        hello.settle();
        assert_eq!(hello.caps, caps);
        assert_eq!(hello.fixed[24..], can::OF_MARIADB.to_le_bytes());
        hello.change_user(b"other", None, 8);
        assert_eq!((&hello.user[..], hello.fixed[4]), (&b"other"[..], 8));
    }

    #[test]
    fn a_program_is_known_by_its_attribute() {
        let caps = can::PROTOCOL_41 | can::SECURE_CONNECTION | can::CONNECT_ATTRS;
        let hello = |attributes: &[u8]| {
            let mut body = caps.to_le_bytes().to_vec();
            body.extend_from_slice(&[7; 28]);
            body.extend_from_slice(b"app\0\0");
            body.extend_from_slice(attributes);
            Hello::parse(&body).unwrap()
        };
        let program = |attributes: &[u8]| hello(attributes).program();
        let attributes = b"\x15\x03_os\x01x\x0cprogram_name\x03web";
        assert_eq!(program(&[&[23], &attributes[1..]].concat()).as_deref(), Some(&b"web"[..]));
        assert_eq!(program(&attributes[..9]), None);
        assert_eq!(program(b""), None);
    }

    #[test]
    fn the_request_for_tls_and_the_login_say_the_same() {
        let caps = can::PROTOCOL_41 | can::SECURE_CONNECTION;
        for shown in [caps, caps | can::CONNECT_WITH_DB] {
            let mut body = shown.to_le_bytes().to_vec();
            body.extend_from_slice(&[7; 28]);
            body.extend_from_slice(b"app\0\0\0");
            let hello = Hello::parse(&body).unwrap();
            for database in [None, Some(&b"shop"[..])] {
                let request = hello.ask_for_tls(database);
                assert_eq!(request.len(), FIXED);
                assert_eq!(request, hello.packet(true, NATIVE, b"", database)[..FIXED]);
            }
        }
    }

    #[test]
    fn a_hello_is_written_as_it_was_read() {
        let caps = can::PROTOCOL_41
            | can::SECURE_CONNECTION
            | can::PLUGIN_AUTH
            | can::LENGTH_OF_ANSWER
            | can::CONNECT_WITH_DB;
        let mut body = caps.to_le_bytes().to_vec();
        body.extend_from_slice(&[7; 28]);
        body.extend_from_slice(b"app\0\x03xyzshop\0caching_sha2_password\0\x02\x01a");
        let hello = Hello::parse(&body).unwrap();
        assert_eq!((&hello.user[..], &hello.answer[..]), (&b"app"[..], &b"xyz"[..]));
        assert_eq!(hello.database.as_deref(), Some(&b"shop"[..]));
        assert_eq!(hello.own_packet(false), body);
        let other = Hello::parse(&hello.packet(true, NATIVE, b"", None)).unwrap();
        assert_eq!((other.database, other.plugin), (None, NATIVE.to_vec()));
        for end in 0..40 {
            assert!(Hello::parse(&body[..end]).is_none(), "{end}");
        }
    }
}
