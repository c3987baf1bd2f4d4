//! How a connection begins: the packet that names user and database, and what may come instead of
//! it (PostgreSQL manual, "Start-up", "SSL Session Encryption", "Canceling Requests in Progress").

use super::messages;

/// The longest packet that a client may begin with (`MAX_STARTUP_PACKET_LENGTH`).
pub(super) const PACKET_MAX: usize = 10_000;

const CANCEL: u32 = 80_877_102;
const TLS: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

/// A connection's first packet.
#[derive(Debug, Clone)]
pub(super) enum First {
    Tls,
    Gss,
    /// Process id and secret, as one key.
    Cancel(Vec<u8>),
    Startup(Startup),
}

impl First {
    /// Reads the packet behind its length.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let (code, rest) = packet.split_first_chunk::<4>()?;
        Some(match u32::from_be_bytes(*code) {
            TLS => First::Tls,
            GSS => First::Gss,
            CANCEL => First::Cancel(rest.to_vec()),
            version if version >> 16 == 3 => First::Startup(Startup::parse(version, rest)?),
            _ => return None,
        })
    }
}

/// Who connects to what, and with which settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Startup {
    version: u32,
    parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Startup {
    fn parse(version: u32, bytes: &[u8]) -> Option<Self> {
        let mut parts = bytes.split(|byte| *byte == 0);
        let mut parameters = Vec::new();
        loop {
            match parts.next()? {
                b"" => return Some(Self { version, parameters }),
                name => parameters.push((name.to_vec(), parts.next()?.to_vec())),
            }
        }
    }

    /// A login of the proxy's own.
    pub fn own(user: &[u8], application: &[u8]) -> Self {
        let parameter = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
        let parameters =
            vec![parameter(b"user", user), parameter(b"application_name", application)];
        Self { version: 3 << 16, parameters }
    }

    fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| &value[..])
    }

    /// The role.
    pub fn user(&self) -> &[u8] {
        self.get(b"user").unwrap_or_default()
    }

    /// The database; without one it is named as the role.
    pub fn database(&self) -> &[u8] {
        self.get(b"database").filter(|name| !name.is_empty()).unwrap_or(self.user())
    }

    /// It asks for the replication protocol.
    pub fn is_replication(&self) -> bool {
        let off: [&[u8]; 4] = [b"false", b"off", b"no", b"0"];
        self.get(b"replication").is_some_and(|value| !off.contains(&value))
    }

    /// As it travels, for a database that is named `database` on that side.
    pub fn packet(&self, database: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 4];
        packet.extend_from_slice(&self.version.to_be_bytes());
        let others = self.parameters.iter().filter(|(name, _)| name != b"database");
        for (name, value) in others
            .map(|(name, value)| (&name[..], &value[..]))
            .chain([(&b"database"[..], database)])
        {
            messages::text(&mut packet, name);
            messages::text(&mut packet, value);
        }
        packet.push(0);
        finish(packet)
    }
}

/// A request to cancel what the session with `key` does.
pub(super) fn cancel_packet(key: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 4];
    packet.extend_from_slice(&CANCEL.to_be_bytes());
    packet.extend_from_slice(key);
    finish(packet)
}

fn finish(mut packet: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
    packet[..4].copy_from_slice(&length.to_be_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(parameters: &str) -> Option<First> {
        First::parse(&[&[0, 3, 0, 0], parameters.as_bytes()].concat())
    }

    #[test]
    fn a_packet_goes_on_with_the_side_s_database() {
        let Some(First::Startup(startup)) =
            startup("user\0me\0database\0shop\0options\0-c a=b\0\0")
        else {
            panic!()
        };
        assert_eq!((startup.user(), startup.database()), (&b"me"[..], &b"shop"[..]));
        assert!(!startup.is_replication());
        let packet = startup.packet(b"shop2");
        assert_eq!(packet.len(), u32::from_be_bytes(packet[..4].try_into().unwrap()) as usize);
        assert_eq!(&packet[8..], b"user\0me\0options\0-c a=b\0database\0shop2\0\0");
    }

    #[test]
    fn the_role_s_name_is_the_default_and_replication_is_seen() {
        let Some(First::Startup(one)) = startup("user\0me\0replication\0database\0\0") else {
            panic!()
        };
        assert_eq!(one.database(), b"me");
        assert!(one.is_replication());
        let Some(First::Startup(two)) = startup("user\0me\0replication\0off\0\0") else { panic!() };
        assert!(!two.is_replication());
    }

    #[test]
    fn what_is_no_startup() {
        assert!(matches!(First::parse(&[4, 0xd2, 0x16, 0x2f]), Some(First::Tls)));
        assert!(matches!(
            First::parse(&[4, 0xd2, 0x16, 0x2e, 1, 2, 3]), Some(First::Cancel(key)) if key == [1, 2, 3]
        ));
        assert!(startup("user\0me").is_none());
        assert!(First::parse(b"HTTP/1.1").is_none());
    }
}
