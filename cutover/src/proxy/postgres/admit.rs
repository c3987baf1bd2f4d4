//! A client's login: its own conversation with the server, passed on as it is and overheard.
//!
//! One thing is changed on the way: SCRAM-SHA-256-PLUS is not offered, because it would bind the
//! login to one of two TLS channels. And with TLS on both legs, see [`super::vouch`].
//!
//! A request for the secret itself - a password in the clear, a token - reaches the client only from a
//! server that is known to be the server: anybody can ask.
//!
//! Of the client nothing is passed on but answers to what the server asks. What it has sent ahead
//! stays where it is until the session begins, which has to know every message.

use std::io;

use decoders::postgres::raw::RawConnection;
use tokio::io::AsyncWriteExt;

use super::login::{MESSAGE_MAX, UNVERIFIED, UNVERIFIED_HINT};
use super::messages::{self, Inbox, Message};
use super::scram::{MECHANISM, Overheard, Verifier};
use super::users::{Registry, Shown, Users};
use super::vouch::let_in;
use crate::proxy::stream::ClientStream;

/// The longest message of a client that has not logged in (`PG_MAX_AUTH_TOKEN_LENGTH`).
const TOKEN_MAX: usize = 65_535;

/// A client that was let in.
pub(super) struct Admitted {
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// Body of BackendKeyData.
    pub key: Vec<u8>,
    pub shown: Shown,
    /// What the server has said behind its ReadyForQuery.
    pub rest: Vec<u8>,
}

/// How a login is checked that can't be passed on: see [`super::vouch`].
#[derive(Clone, Copy)]
pub(super) struct Vouching<'a> {
    pub users: &'a Users,
    pub user: &'a [u8],
    pub registry: Registry<'a>,
}

impl Vouching<'_> {
    async fn verifier(&self) -> Option<Verifier> {
        self.users.verifier(self.user, self.registry, None).await
    }
}

/// What the client's next message answers.
enum Asked {
    Nothing,
    Password,
    ScramFirst,
    ScramFinal,
}

/// Passes messages on until the server is ready. `None`: there is no session, and the client knows
/// why. With `vouching` a SCRAM login is checked here instead of being passed on, if its verifier can
/// be had.
pub(super) async fn admit(
    client: &mut ClientStream,
    client_inbox: &mut Inbox,
    server: &mut RawConnection,
    vouching: Option<Vouching<'_>>,
) -> io::Result<Option<Admitted>> {
    let mut server_inbox = Inbox::default();
    let mut asked = Asked::Nothing;
    // The server waits for the client.
    let mut awaits = false;
    let mut overheard = Overheard::default();
    let mut admitted = Admitted {
        parameters: Vec::new(),
        key: Vec::new(),
        shown: Shown::Nothing,
        rest: Vec::new(),
    };
    loop {
        let mut out = Vec::new();
        tokio::select! {
            message = server_inbox.next(server, MESSAGE_MAX) => {
                let mut message = match message {
                    Ok(message) => message,
                    // It has said why and closed.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                    Err(error) => return Err(error),
                };
                match message.tag {
                    b'R' if !server.is_verified() && wants_secret(&message) => {
                        messages::fatal(&mut out, "28000", UNVERIFIED, Some(UNVERIFIED_HINT));
                        client.write_all(&out).await?;
                        client.flush().await?;
                        return Ok(None);
                    }
                    b'R' if message.int32(0) == Some(10)
                        && let Some(vouching) = vouching
                        && let Some(verifier) = vouching.verifier().await =>
                    {
                        let Vouching { users, user, registry } = vouching;
                        let client = (&mut *client, &mut *client_inbox);
                        let server = (&mut *server, &mut server_inbox);
                        let key = let_in(client, server, users, user, registry, verifier).await?;
                        let Some(key) = key else { return Ok(None) };
                        admitted.shown = Shown::Key(Box::new(key));
                        continue;
                    }
                    b'R' => {
                        let is_verified = server.is_verified();
                        let shown = &mut admitted.shown;
                        asked = request(&mut message, &mut overheard, shown, is_verified);
                        // Ok, and the last word of a SASL exchange, behind which it comes.
                        awaits = !matches!(message.int32(0), Some(0 | 12));
                    }
                    b'S' => admitted.parameters.extend(
                        messages::pair(&message.body)
                            .map(|(name, value)| (name.to_vec(), value.to_vec())),
                    ),
                    b'K' => admitted.key.clone_from(&message.body),
                    _ => {}
                }
                message.append_to(&mut out);
                // The last messages of a login come together.
                if message.tag == b'Z' || server_inbox.is_empty() || message.tag == b'R' {
                    client.write_all(&out).await?;
                    client.flush().await?;
                } else {
                    client.write_all(&out).await?;
                }
                if message.tag == b'Z' {
                    if matches!(asked, Asked::ScramFinal) {
                        admitted.shown = Shown::Scram(Box::new(overheard));
                    }
                    admitted.rest = server_inbox.take_rest();
                    return Ok(Some(admitted));
                }
            }
            message = answer_of(client, client_inbox, awaits) => {
                let message = message?;
                if message.tag != b'p' {
                    let what = "a message that does not answer the server's question";
                    return Err(messages::invalid(what.to_owned()));
                }
                awaits = false;
                match asked {
                    Asked::Password => {
                        let secret = message.body.strip_suffix(b"\0").unwrap_or(&message.body);
                        admitted.shown = Shown::Password(secret.to_vec());
                    }
                    Asked::ScramFirst => {
                        // The mechanism's name, a length, the message.
                        let name = message.body.iter().position(|byte| *byte == 0);
                        let first = name.and_then(|name| message.body.get(name + 5..));
                        overheard.client_first(first.unwrap_or_default());
                    }
                    Asked::ScramFinal => overheard.client_final(&message.body),
                    Asked::Nothing => {}
                }
                message.append_to(&mut out);
                server.write_all(&out).await?;
                server.flush().await?;
            }
        }
    }
}

/// The client's next message once the server waits for it. It may leave at any time.
async fn answer_of(
    client: &mut ClientStream,
    inbox: &mut Inbox,
    awaits: bool,
) -> io::Result<Message> {
    if awaits {
        return inbox.next(client, TOKEN_MAX).await;
    }
    loop {
        inbox.take_in(client, TOKEN_MAX).await?;
    }
}

/// The names of the SASL mechanisms in a request's data.
fn mechanisms(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == 0).filter(|name| !name.is_empty())
}

/// Whether a mechanism proves that the client knows the secret, without showing it.
fn is_proof(mechanism: &[u8]) -> bool {
    mechanism.starts_with(b"SCRAM-")
}

/// Whether the request can be answered only by what whoever hears it could log in with: a password in the
/// clear, or SASL without a mechanism of proofs (OAUTHBEARER).
fn wants_secret(message: &Message) -> bool {
    let data = message.body.get(4..).unwrap_or_default();
    match message.int32(0) {
        Some(3) => true,
        Some(10) => !mechanisms(data).any(is_proof),
        _ => false,
    }
}

/// Looks at a request of the server's and takes `-PLUS` out of it, and what shows a secret if nobody has
/// verified the server.
fn request(
    message: &mut Message,
    overheard: &mut Overheard,
    shown: &mut Shown,
    is_verified: bool,
) -> Asked {
    let code = message.int32(0);
    let data = message.body.get(4..).unwrap_or_default();
    let useless = |shown: &mut Shown, method| {
        *shown = Shown::Useless(method);
        Asked::Nothing
    };
    match code {
        // The state stays what it was: the last thing that was asked for has been shown.
        Some(0) if matches!(shown, Shown::Useless("SCRAM")) => Asked::ScramFinal,
        Some(0) => Asked::Nothing,
        Some(3) => Asked::Password,
        Some(5) => useless(shown, "MD5"),
        Some(10) => {
            let kept: Vec<&[u8]> = mechanisms(data)
                .filter(|name| !name.ends_with(b"-PLUS") && (is_verified || is_proof(name)))
                .collect();
            let is_scram = kept.contains(&MECHANISM.as_bytes());
            let mut body = 10_i32.to_be_bytes().to_vec();
            kept.iter().for_each(|name| messages::text(&mut body, name));
            body.push(0);
            message.body = body;
            *shown = Shown::Useless(if is_scram { "SCRAM" } else { "SASL" });
            if is_scram { Asked::ScramFirst } else { Asked::Nothing }
        }
        Some(11) if matches!(shown, Shown::Useless("SCRAM")) => {
            overheard.server_first(data);
            Asked::ScramFinal
        }
        Some(12) if matches!(shown, Shown::Useless("SCRAM")) => Asked::ScramFinal,
        Some(7..=9) => useless(shown, "GSSAPI"),
        _ => useless(shown, "a method that is not known"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sasl(names: &[&str]) -> Message {
        let mut body = 10_i32.to_be_bytes().to_vec();
        names.iter().for_each(|name| messages::text(&mut body, name.as_bytes()));
        body.push(0);
        Message { tag: b'R', body }
    }

    #[test]
    fn a_secret_is_what_the_server_could_log_in_with() {
        let of = |code: i32| Message { tag: b'R', body: code.to_be_bytes().to_vec() };
        assert!(wants_secret(&of(3)));
        assert!(wants_secret(&sasl(&["OAUTHBEARER"])));
        for asked in [of(0), of(5), of(7), sasl(&["SCRAM-SHA-256", "OAUTHBEARER"])] {
            assert!(!wants_secret(&asked));
        }
    }

    #[test]
    fn an_unverified_server_offers_proofs_only() {
        let offered = |is_verified| {
            let mut message = sasl(&["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "OAUTHBEARER"]);
            let (mut overheard, mut shown) = (Overheard::default(), Shown::Nothing);
            request(&mut message, &mut overheard, &mut shown, is_verified);
            message.body
        };
        assert_eq!(offered(true), sasl(&["SCRAM-SHA-256", "OAUTHBEARER"]).body);
        assert_eq!(offered(false), sasl(&["SCRAM-SHA-256"]).body);
    }
}
