//! A login of our own in a client's name: to move its session to the other side.

use std::io;

use decoders::mysql::server::{RawConnection, ServerUrl, SslMode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::hello::{CACHING, CLEAR, Greeting, Hello, NATIVE};
use super::packets::{self, Cursor, EOF, ERR, Inbox, OK, error_of, invalid, status_of_ok};
use super::scramble::{caching, encrypted, native, native_key};
use super::users::Credential;
use crate::proxy::ending::hang_up;

/// The longest packet of a login.
pub(super) const LOGIN_PACKET_MAX: usize = 1 << 20;
/// What a server says in place of a login that may succeed later: too many connections, shutting
/// down, offline, an account that is locked.
const TRANSIENT: [u16; 7] = [1040, 1053, 1203, 1226, 3032, 3118, 4151];

/// Of `caching_sha2_password`: the answer was enough, or the password itself is asked for; and what a
/// client says to get the key for it.
pub(super) const FAST: [u8; 2] = [1, 3];
pub(super) const FULL: [u8; 2] = [1, 4];
pub(super) const GIVE_KEY: &[u8] = &[2];

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(super) struct LoginError {
    /// One sentence.
    pub what: String,
    /// Waiting may help.
    pub transient: bool,
}

impl LoginError {
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), transient: false }
    }

    /// From an error packet.
    pub fn refused(body: &[u8]) -> Self {
        let (code, what) = error_of(body);
        Self { what: format!("{what} (error {code})"), transient: TRANSIENT.contains(&code) }
    }
}

impl From<io::Error> for LoginError {
    fn from(error: io::Error) -> Self {
        let transient = error.kind() != io::ErrorKind::InvalidData;
        Self { what: format!("the connection broke: {error}"), transient }
    }
}

/// A connection on which the server has said its greeting, and nothing else was said.
pub(super) struct Greeted {
    pub server: RawConnection,
    pub inbox: Inbox,
    pub greeting: Greeting,
}

/// Connects and hears the greeting. An error that the server says instead is given as it came.
pub(super) async fn greeted(url: &ServerUrl) -> io::Result<Result<Greeted, Vec<u8>>> {
    let mut server = RawConnection::open(url).await?;
    let mut inbox = Inbox::default();
    let packet = inbox.next(&mut server, LOGIN_PACKET_MAX).await?;
    if packet.first() == ERR {
        return Ok(Err(packet.body));
    }
    let greeting = Greeting::parse(&packet.body);
    let greeting = greeting.ok_or_else(|| invalid("a greeting that can't be read"))?;
    Ok(Ok(Greeted { server, inbox, greeting }))
}

/// A session.
pub(super) struct Entered {
    pub server: RawConnection,
    pub inbox: Inbox,
    pub status: u16,
}

/// TLS, where the URL and the server want it, before a login with this database. The number that the next packet has.
pub(super) async fn secured(
    server: RawConnection,
    inbox: &Inbox,
    greeting: &Greeting,
    hello: &Hello,
    database: Option<&[u8]>,
    url: &ServerUrl,
) -> io::Result<(RawConnection, u8)> {
    let offered = greeting.caps & super::hello::can::SSL != 0;
    match url.ssl_mode() {
        SslMode::Disabled => return Ok((server, 1)),
        SslMode::Preferred if !offered => return Ok((server, 1)),
        _ if !offered => return Err(invalid("the server has no TLS, and the URL asks for it")),
        _ => {}
    }
    // It would be taken for something that came encrypted.
    if !inbox.is_empty() {
        return Err(invalid("the server has said more than its greeting before TLS"));
    }
    let mut server = server;
    send(&mut server, 1, &hello.ask_for_tls(database)).await?;
    Ok((server.secure(url).await?, 2))
}

/// Sends one packet.
pub(super) async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    seq: u8,
    body: &[u8],
) -> io::Result<()> {
    let mut out = Vec::new();
    packets::packet(&mut out, seq, body);
    stream.write_all(&out).await?;
    stream.flush().await
}

/// What `plugin` makes of a credential.
fn answer(
    plugin: &[u8],
    nonce: &[u8],
    credential: &Credential,
    tls: bool,
) -> Result<Vec<u8>, LoginError> {
    match (plugin, credential) {
        (_, Credential::Nothing) => Ok(Vec::new()),
        (NATIVE, Credential::Native(key)) => Ok(native(key, nonce)),
        (NATIVE, Credential::Password(password)) if password.is_empty() => Ok(Vec::new()),
        (NATIVE, Credential::Password(password)) => Ok(native(&native_key(password), nonce)),
        (CACHING, Credential::Password(password)) => Ok(caching(password, nonce)),
        (CLEAR, Credential::Password(password)) if tls => Ok([&password[..], b"\0"].concat()),
        _ => Err(LoginError::new(format!(
            "it asks for a kind of login that the proxy has not ({})",
            String::from_utf8_lossy(plugin)
        ))),
    }
}

/// Logs in as `hello` with this credential.
pub(super) async fn enter(
    greeted: Greeted,
    url: &ServerUrl,
    hello: &Hello,
    database: Option<&[u8]>,
    credential: &Credential,
) -> Result<Entered, LoginError> {
    let Greeted { server, mut inbox, greeting } = greeted;
    if hello.lacks(&greeting) {
        let what = "its server can't do what was agreed upon with the client";
        return Err(LoginError::new(what));
    }
    let (mut server, seq) = secured(server, &inbox, &greeting, hello, database, url).await?;
    let tls = server.is_tls();
    let mut plugin = match (&greeting.plugin[..], credential) {
        (CACHING, Credential::Password(_)) => CACHING.to_vec(),
        _ => NATIVE.to_vec(),
    };
    let mut nonce = greeting.nonce.to_vec();
    let first = answer(&plugin, &nonce, credential, tls)?;
    send(&mut server, seq, &hello.packet(tls, &plugin, &first, database)).await?;
    loop {
        let packet = inbox.next(&mut server, LOGIN_PACKET_MAX).await?;
        let seq = packet.seq.wrapping_add(1);
        match packet.first() {
            OK => {
                let status = status_of_ok(&packet.body)?;
                return Ok(Entered { server, inbox, status });
            }
            ERR => return Err(LoginError::refused(&packet.body)),
            EOF => {
                (plugin, nonce) = switched(&packet.body)?;
                let answer = answer(&plugin, &nonce, credential, tls)?;
                send(&mut server, seq, &answer).await?;
            }
            _ if packet.body == FAST => {}
            _ if packet.body == FULL && plugin == CACHING => {
                let Credential::Password(password) = credential else {
                    return Err(LoginError::new("it asks for a password that is not known"));
                };
                if !url.is_verified() {
                    return Err(LoginError::new(UNVERIFIED));
                }
                show(&mut server, &mut inbox, tls, seq, password, &nonce).await?;
            }
            _ => return Err(LoginError::new("it asks for something that is not understood")),
        }
    }
}

/// Logs in with our own account and leaves, where a client has gone before its answer: servers count
/// logins that break off, and take nobody from this host any more when there were many without one that
/// succeeded (`max_connect_errors`). Health checks are enough.
pub(super) async fn bow_out(greeted: Greeted, url: &ServerUrl) -> Result<(), LoginError> {
    let hello = Hello::own(url.user(), &greeted.greeting);
    let credential = match url.password() {
        Some(password) => Credential::Password(password.as_bytes().to_vec()),
        None => Credential::Nothing,
    };
    let entered = enter(greeted, url, &hello, None, &credential).await?;
    hang_up(entered.server, &packets::QUIT).await;
    Ok(())
}

/// Why a password is not shown, by TLS or encrypted for a key that whoever answers has given.
pub(super) const UNVERIFIED: &str = "it asks for the password itself, and nobody has verified that it \
     is the server: give the proxy's connection string ssl-mode=VERIFY_CA and ssl-ca";

/// Shows a server the password that it has asked for. Only one that is verified.
pub(super) async fn show(
    server: &mut (impl AsyncRead + AsyncWrite + Unpin),
    inbox: &mut Inbox,
    tls: bool,
    seq: u8,
    password: &[u8],
    nonce: &[u8],
) -> io::Result<()> {
    if tls {
        return send(server, seq, &[password, b"\0"].concat()).await;
    }
    send(server, seq, GIVE_KEY).await?;
    let packet = inbox.next(server, LOGIN_PACKET_MAX).await?;
    let key = packet.body.strip_prefix(&[1]).ok_or_else(|| invalid("it gives no key"))?;
    send(server, packet.seq.wrapping_add(1), &encrypted(password, nonce, key)?).await
}

/// Plugin and nonce of a request for another kind of login.
pub(super) fn switched(body: &[u8]) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut at = Cursor(body);
    let plugin = at.take(1).and_then(|_| at.text());
    let plugin = plugin.ok_or_else(|| invalid("a login of a protocol before 4.1"))?;
    Ok((plugin.to_vec(), at.0.strip_suffix(b"\0").unwrap_or(at.0).to_vec()))
}
