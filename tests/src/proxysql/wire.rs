//! The server's end of MySQL's protocol, as much as a console needs: handshake, `mysql_native_password`,
//! COM_QUERY with text results ("Client/Server Protocol" in MySQL's documentation of its source).

use std::io::{Error, ErrorKind, Result};
use std::sync::Mutex;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY as SHA1, digest};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::locked;
use super::world::{Answer, World};

const PLUGIN: &str = "mysql_native_password";
/// LONG_PASSWORD, LONG_FLAG, CONNECT_WITH_DB, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, PLUGIN_AUTH.
const CAPABILITIES: u32 = 0x1 | 0x4 | 0x8 | 0x200 | 0x2000 | 0x8000 | CLIENT_PLUGIN_AUTH;
const CLIENT_PLUGIN_AUTH: u32 = 0x8_0000;
const CLIENT_CONNECT_WITH_DB: u32 = 0x8;
const AUTOCOMMIT: u16 = 2;
const COM_QUIT: u8 = 1;
const COM_QUERY: u8 = 3;
const COM_PING: u8 = 14;
/// Whatever ProxySQL refuses, it refuses with this number.
const REFUSED: u16 = 1045;

struct Wire {
    stream: TcpStream,
    sequence: u8,
}

impl Wire {
    async fn read(&mut self) -> Result<Vec<u8>> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).await?;
        let mut payload =
            vec![0; usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16];
        self.stream.read_exact(&mut payload).await?;
        self.sequence = head[3].wrapping_add(1);
        Ok(payload)
    }

    async fn write(&mut self, payload: &[u8]) -> Result<()> {
        let length = u32::try_from(payload.len()).map_err(Error::other)?.to_le_bytes();
        let head = [length[0], length[1], length[2], self.sequence];
        self.sequence = self.sequence.wrapping_add(1);
        self.stream.write_all(&[&head, payload].concat()).await
    }

    async fn ok(&mut self, affected: u64) -> Result<()> {
        let mut packet = vec![0];
        number(&mut packet, affected);
        packet.push(0);
        packet.extend(AUTOCOMMIT.to_le_bytes());
        packet.extend([0, 0]);
        self.write(&packet).await
    }

    async fn error(&mut self, text: &str) -> Result<()> {
        let mut packet = vec![0xff];
        packet.extend(REFUSED.to_le_bytes());
        packet.extend(b"#28000");
        packet.extend(text.as_bytes());
        self.write(&packet).await
    }

    async fn end(&mut self) -> Result<()> {
        let mut packet = vec![0xfe, 0, 0];
        packet.extend(AUTOCOMMIT.to_le_bytes());
        self.write(&packet).await
    }

    async fn rows(&mut self, columns: &[String], rows: &[Vec<String>]) -> Result<()> {
        let mut packet = Vec::new();
        number(&mut packet, columns.len() as u64);
        self.write(&packet).await?;
        for column in columns {
            let mut packet = Vec::new();
            for part in ["def", "", "", "", column, ""] {
                text(&mut packet, part);
            }
            // utf8, up to 1024 bytes, VAR_STRING, no flags.
            packet.extend([0x0c, 33, 0, 0, 4, 0, 0, 0xfd, 0, 0, 0, 0, 0]);
            self.write(&packet).await?;
        }
        self.end().await?;
        for row in rows {
            let mut packet = Vec::new();
            for value in row {
                text(&mut packet, value);
            }
            self.write(&packet).await?;
        }
        self.end().await
    }
}

fn number(packet: &mut Vec<u8>, value: u64) {
    match u8::try_from(value) {
        Ok(small) if small < 0xfb => packet.push(small),
        _ => {
            packet.push(0xfe);
            packet.extend(value.to_le_bytes());
        }
    }
}

fn text(packet: &mut Vec<u8>, value: &str) {
    number(packet, value.len() as u64);
    packet.extend(value.as_bytes());
}

/// An error instead of a greeting.
pub(super) async fn refuse(client: &mut TcpStream, code: u16, text: &str) -> Result<()> {
    let mut packet = vec![0xff];
    packet.extend(code.to_le_bytes());
    packet.extend(text.as_bytes());
    let length = u8::try_from(packet.len()).map_err(Error::other)?;
    client.write_all(&[&[length, 0, 0, 0], &packet[..]].concat()).await
}

/// A session on the admin interface.
pub(super) async fn converse(
    stream: TcpStream,
    accounts: &[(&str, &str)],
    world: &World,
    told: &Mutex<Vec<String>>,
) -> Result<()> {
    // An answer is many small packets.
    stream.set_nodelay(true)?;
    let mut wire = Wire { stream, sequence: 0 };
    let Some(user) = log_in(&mut wire, accounts).await? else { return Ok(()) };
    loop {
        let command = wire.read().await?;
        match command.split_first() {
            None | Some((&COM_QUIT, _)) => return Ok(()),
            Some((&COM_PING, _)) => wire.ok(0).await?,
            Some((&COM_QUERY, statement)) => {
                let statement = String::from_utf8_lossy(statement).into_owned();
                locked(told).push(statement.clone());
                let is_hidden = user == "stats" && statement.contains("mysql_servers");
                let answer = match is_hidden {
                    true => Err("no such table: mysql_servers".into()),
                    false => world.execute(&statement),
                };
                match answer {
                    Ok(Answer::Rows { columns, rows }) => wire.rows(&columns, &rows).await?,
                    Ok(Answer::Done(affected)) => wire.ok(affected).await?,
                    Err(why) => wire.error(&format!("ProxySQL Admin Error: {why}")).await?,
                }
            }
            Some((command, _)) => {
                wire.error(&format!("ProxySQL Admin Error: command {command}")).await?;
            }
        }
    }
}

/// Who it is, if it is anybody.
async fn log_in(wire: &mut Wire, accounts: &[(&str, &str)]) -> Result<Option<String>> {
    let mut salt = [0; 20];
    SystemRandom::new().fill(&mut salt).map_err(|_| Error::other("no randomness"))?;
    // No zero: the salt is a string.
    salt.iter_mut().for_each(|byte| *byte = *byte % 90 + 33);
    let mut greeting = vec![10];
    greeting.extend(b"8.0.11\0\x01\0\0\0");
    greeting.extend(&salt[..8]);
    greeting.push(0);
    let capabilities = CAPABILITIES.to_le_bytes();
    greeting.extend(&capabilities[..2]);
    greeting.push(33);
    greeting.extend(AUTOCOMMIT.to_le_bytes());
    greeting.extend(&capabilities[2..]);
    greeting.push(21);
    greeting.extend([0; 10]);
    greeting.extend(&salt[8..]);
    greeting.push(0);
    greeting.extend(PLUGIN.as_bytes());
    greeting.push(0);
    wire.write(&greeting).await?;

    let answer = wire.read().await?;
    let login = Login::read(&answer).ok_or_else(|| Error::from(ErrorKind::InvalidData))?;
    let mut proof = login.proof;
    if login.plugin != PLUGIN {
        let switch = [b"\xfe", PLUGIN.as_bytes(), b"\0", &salt, b"\0"].concat();
        wire.write(&switch).await?;
        proof = wire.read().await?;
    }
    let account = accounts.iter().find(|(name, _)| *name == login.user);
    if account.is_some_and(|(_, password)| proof == scramble(password, &salt)) {
        wire.ok(0).await?;
        return Ok(Some(login.user));
    }
    let user = login.user;
    let denied = format!("ProxySQL Error: Access denied for user '{user}'@'127.0.0.1'");
    wire.error(&denied).await?;
    Ok(None)
}

struct Login {
    user: String,
    proof: Vec<u8>,
    plugin: String,
}

impl Login {
    /// HandshakeResponse41.
    fn read(packet: &[u8]) -> Option<Self> {
        let capabilities = u32::from_le_bytes(packet.get(..4)?.try_into().ok()?);
        let mut rest = packet.get(32..)?;
        let string = |rest: &mut &[u8]| {
            let end = rest.iter().position(|byte| *byte == 0)?;
            let text = String::from_utf8_lossy(&rest[..end]).into_owned();
            *rest = &rest[end + 1..];
            Some(text)
        };
        let user = string(&mut rest)?;
        let length = usize::from(*rest.first()?);
        let proof = rest.get(1..1 + length)?.to_vec();
        rest = &rest[1 + length..];
        if capabilities & CLIENT_CONNECT_WITH_DB != 0 {
            string(&mut rest)?;
        }
        let plugin = match capabilities & CLIENT_PLUGIN_AUTH {
            0 => PLUGIN.to_owned(),
            _ => string(&mut rest)?,
        };
        Some(Self { user, proof, plugin })
    }
}

/// What a client shows that knows the password.
fn scramble(password: &str, salt: &[u8]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let once = digest(&SHA1, password.as_bytes());
    let twice = digest(&SHA1, once.as_ref());
    let mask = digest(&SHA1, &[salt, twice.as_ref()].concat());
    once.as_ref().iter().zip(mask.as_ref()).map(|(a, b)| a ^ b).collect()
}
