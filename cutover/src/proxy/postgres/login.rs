//! A login of our own in a client's name: to move its session to the other side.

use std::fmt;
use std::io;

use decoders::postgres::raw::RawConnection;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use tokio::io::AsyncWriteExt;

use super::messages::{self, Inbox, Message};
use super::scram::{ClientKey, Exchange, MECHANISM};

/// The longest message before a session is ready.
pub(super) const MESSAGE_MAX: usize = 1 << 20;

/// Why a password is not shown.
pub(super) const UNVERIFIED: &str =
    "the server asks for the password itself, and nobody has verified that it is the server";
/// What helps.
pub(super) const UNVERIFIED_HINT: &str = "Give the proxy's connection string of this server \
    sslmode=verify-full and sslrootcert, or let the server ask for scram-sha-256 (pg_hba.conf).";

/// What we can show to a server.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credential {
    /// Nothing: the server has let the client in without a question.
    Nothing,
    /// The password, from the users file or as the client has sent it.
    Password(Vec<u8>),
    /// What a SCRAM exchange has shown.
    Key(ClientKey),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::Nothing => "nothing",
            Credential::Password(_) => "a password",
            Credential::Key(_) => "a SCRAM key",
        })
    }
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(super) struct LoginError {
    /// One sentence.
    pub what: String,
    /// Waiting may help: the server starts, or has no connection left.
    pub transient: bool,
}

impl LoginError {
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), transient: false }
    }

    /// From an ErrorResponse.
    pub fn refused(body: &[u8]) -> Self {
        let (sqlstate, what) = messages::error_fields(body);
        let transient = sqlstate.starts_with("53") || sqlstate.starts_with("57P");
        Self { what: format!("{what} (SQLSTATE {sqlstate})"), transient }
    }
}

impl From<io::Error> for LoginError {
    fn from(error: io::Error) -> Self {
        let transient = error.kind() != io::ErrorKind::InvalidData;
        Self { what: format!("the connection broke: {error}"), transient }
    }
}

/// A session as the server describes it.
#[derive(Debug, Default)]
pub(super) struct Entered {
    /// ParameterStatus values.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// Body of BackendKeyData.
    pub key: Vec<u8>,
}

/// A password that is being shown by SCRAM.
enum Scram<'a> {
    Password(ScramSha256),
    Key(Exchange, &'a ClientKey),
}

/// Sends `packet` and answers the server's questions, up to the first ReadyForQuery.
pub(super) async fn enter(
    stream: &mut RawConnection,
    inbox: &mut Inbox,
    packet: &[u8],
    user: &[u8],
    credential: &Credential,
) -> Result<Entered, LoginError> {
    stream.write_all(packet).await?;
    stream.flush().await?;
    let mut entered = Entered::default();
    let mut scram = None;
    loop {
        let message = inbox.next(stream, MESSAGE_MAX).await?;
        let mut out = Vec::new();
        match message.tag {
            b'R' if message.int32(0) == Some(3) && !stream.is_verified() => {
                return Err(LoginError::new(format!("{UNVERIFIED}. {UNVERIFIED_HINT}")));
            }
            b'R' => answer(&message, user, credential, &mut scram, &mut out)?,
            b'S' => entered.parameters.extend(
                messages::pair(&message.body).map(|(name, value)| (name.to_vec(), value.to_vec())),
            ),
            b'K' => entered.key = message.body,
            b'Z' => return Ok(entered),
            b'E' => return Err(LoginError::refused(&message.body)),
            // Notices, and the protocol version that it speaks instead of a newer one.
            b'N' | b'v' => {}
            tag => {
                let what = format!("an unexpected message of type {:?}", char::from(tag));
                return Err(LoginError::new(what));
            }
        }
        if !out.is_empty() {
            stream.write_all(&out).await?;
            stream.flush().await?;
        }
    }
}

/// SASLInitialResponse: mechanism, length, message.
pub(super) fn scram_first(body: &mut Vec<u8>, first: &[u8]) {
    messages::text(body, MECHANISM.as_bytes());
    let length = u32::try_from(first.len()).unwrap_or(u32::MAX);
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(first);
}

fn answer<'a>(
    message: &Message,
    user: &[u8],
    credential: &'a Credential,
    scram: &mut Option<Scram<'a>>,
    out: &mut Vec<u8>,
) -> Result<(), LoginError> {
    let data = message.body.get(4..).unwrap_or_default();
    let mut respond = |write: &mut dyn FnMut(&mut Vec<u8>)| messages::message(out, b'p', write);
    match (message.int32(0), credential) {
        // "You are in" without the proof that it knows the verifier.
        (Some(0), _) if scram.is_some() => {
            return Err(LoginError::new("the server ended the SCRAM exchange early"));
        }
        (Some(0), _) => {}
        (Some(3), Credential::Password(password)) => {
            respond(&mut |body| messages::text(body, password));
        }
        (Some(5), Credential::Password(password)) => {
            let salt = data.first_chunk::<4>();
            let salt = salt.ok_or_else(|| LoginError::new("an MD5 request without its salt"))?;
            let hash = md5_hash(user, password, *salt);
            respond(&mut |body| messages::text(body, hash.as_bytes()));
        }
        (Some(10), Credential::Password(_) | Credential::Key(_)) => {
            if !data.split(|byte| *byte == 0).any(|name| name == MECHANISM.as_bytes()) {
                return Err(LoginError::new("the server offers no SCRAM-SHA-256"));
            }
            let first = match credential {
                Credential::Key(key) => {
                    let (exchange, first) = Exchange::begin().map_err(LoginError::new)?;
                    *scram = Some(Scram::Key(exchange, key));
                    first
                }
                Credential::Password(password) => {
                    let exchange = ScramSha256::new(password, ChannelBinding::unsupported());
                    let first = exchange.message().to_vec();
                    *scram = Some(Scram::Password(exchange));
                    first
                }
                Credential::Nothing => Vec::new(),
            };
            respond(&mut |body| scram_first(body, &first));
        }
        (Some(11), _) => {
            let proof = match scram {
                Some(Scram::Key(exchange, key)) => {
                    exchange.proof(key, data).map_err(LoginError::new)?
                }
                Some(Scram::Password(exchange)) => {
                    exchange.update(data).map_err(|error| LoginError::new(error.to_string()))?;
                    exchange.message().to_vec()
                }
                None => return Err(LoginError::new("a SCRAM message out of turn")),
            };
            respond(&mut |body| body.extend_from_slice(&proof));
        }
        (Some(12), _) => match scram.take() {
            Some(Scram::Key(exchange, _)) => exchange.finish(data).map_err(LoginError::new)?,
            Some(Scram::Password(mut exchange)) => {
                exchange.finish(data).map_err(|error| LoginError::new(error.to_string()))?;
            }
            None => return Err(LoginError::new("a SCRAM message out of turn")),
        },
        (_, Credential::Nothing) => {
            return Err(LoginError::new(
                "it asks for a password, and the proxy has none for this user",
            ));
        }
        _ => return Err(LoginError::new("it asks for a kind of login that the proxy has not")),
    }
    Ok(())
}
