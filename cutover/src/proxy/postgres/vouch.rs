//! A SCRAM login that the proxy checks itself.
//!
//! With TLS on both of its legs a login can't be passed on: the client says that it could bind the
//! login to its channel and was not offered to (`y`), the server did offer it, and takes the
//! contradiction for an attack (RFC 5802, section 6). So, given the verifier, the client proves
//! itself to the proxy, and the proxy logs in with the key that the proof contains.

use std::io;
use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use decoders::postgres::raw::RawConnection;
use tokio::io::AsyncWriteExt;

use super::login::{self, scram_first};
use super::messages::{self, Inbox, Message};
use super::scram::{ClientKey, Exchange, MECHANISM, Overheard, Verifier, nonce};
use super::users::{Registry, Users};
use crate::proxy::stream::ClientStream;

/// The longest message of a client that has not logged in.
const MESSAGE_MAX: usize = 8 << 10;

/// The server has offered SCRAM: lets the client prove itself, and the server take it for that. The
/// client is told how it went, except for the server's own last word when all went well. `None`:
/// there is no session.
///
/// # Errors
/// The client's connection broke.
pub(super) async fn let_in(
    client: (&mut ClientStream, &mut Inbox),
    server: (&mut RawConnection, &mut Inbox),
    users: &Users,
    user: &[u8],
    registry: Registry<'_>,
    verifier: Verifier,
) -> io::Result<Option<ClientKey>> {
    let (client, client_inbox) = client;
    let began = Instant::now();
    let mut passage = Passage { server: server.0, inbox: server.1 };
    // What it says of the verifier comes first: one that was changed since it was asked for is asked
    // for again before the client answers for it.
    let (mut exchange, server_first) = match passage.begin().await {
        Ok(begun) => begun,
        Err(refusal) => return refusal.tell(client).await,
    };
    let mut verifier = verifier;
    if !verifier.is_of(&server_first) {
        match users.verifier(user, registry, Some(began)).await {
            Some(newer) if newer.is_of(&server_first) => verifier = newer,
            _ => {
                // As the server would say of an expired password, for which it makes up a salt.
                let what = "password authentication failed: the server has another verifier for \
                            this role than the proxy knows of (an expired password, or a users \
                            file that is out of date)";
                return Refusal::Ours("28P01", what.to_owned()).tell(client).await;
            }
        }
    }
    let Some((key, consent)) = vouch(client, client_inbox, &verifier).await? else {
        return Ok(None);
    };
    match passage.end(&mut exchange, &key, &server_first).await {
        Ok(()) => {
            request(client, 12, &consent).await?;
            Ok(Some(key))
        }
        Err(refusal) => refusal.tell(client).await,
    }
}

/// Why the server does not let the client in.
enum Refusal {
    /// An ErrorResponse.
    Theirs(Message),
    /// SQLSTATE and sentence.
    Ours(&'static str, String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Ours("08006", format!("the connection to the server broke: {error}"))
    }
}

impl Refusal {
    async fn tell<T>(self, client: &mut ClientStream) -> io::Result<Option<T>> {
        let mut out = Vec::new();
        match self {
            Refusal::Theirs(message) => message.append_to(&mut out),
            Refusal::Ours(sqlstate, what) => messages::fatal(&mut out, sqlstate, &what, None),
        }
        client.write_all(&out).await?;
        client.flush().await?;
        Ok(None)
    }
}

/// The proxy's own exchange with the server.
struct Passage<'a> {
    server: &'a mut RawConnection,
    inbox: &'a mut Inbox,
}

impl Passage<'_> {
    /// The exchange, and `server-first-message`.
    async fn begin(&mut self) -> Result<(Exchange, Vec<u8>), Refusal> {
        let (exchange, first) = Exchange::begin().map_err(|why| Refusal::Ours("58000", why))?;
        self.say(&|body| scram_first(body, &first)).await?;
        Ok((exchange, self.hear(11).await?))
    }

    async fn end(
        &mut self,
        exchange: &mut Exchange,
        key: &ClientKey,
        server_first: &[u8],
    ) -> Result<(), Refusal> {
        let unproven = |why| Refusal::Ours("28000", why);
        let proof = exchange.proof(key, server_first).map_err(unproven)?;
        self.say(&|body| body.extend_from_slice(&proof)).await?;
        let server_final = self.hear(12).await?;
        exchange.finish(&server_final).map_err(unproven)
    }

    async fn say(&mut self, write: &(dyn Fn(&mut Vec<u8>) + Sync)) -> io::Result<()> {
        let mut out = Vec::new();
        messages::message(&mut out, b'p', write);
        self.server.write_all(&out).await?;
        self.server.flush().await
    }

    /// The data of the request with this code, which has to come next.
    async fn hear(&mut self, code: i32) -> Result<Vec<u8>, Refusal> {
        loop {
            let message = self.inbox.next(self.server, login::MESSAGE_MAX).await?;
            match message.tag {
                b'R' if message.int32(0) == Some(code) => return Ok(message.body[4..].to_vec()),
                b'E' => return Err(Refusal::Theirs(message)),
                b'N' => {}
                _ => {
                    let what = "the server did not go on with SCRAM-SHA-256";
                    return Err(Refusal::Ours("28000", what.to_owned()));
                }
            }
        }
    }
}

/// Asks the client to prove itself. Its key, and what it is to hear once the server has consented.
/// `None`: it could not, and was told.
async fn vouch(
    client: &mut ClientStream,
    inbox: &mut Inbox,
    verifier: &Verifier,
) -> io::Result<Option<(ClientKey, Vec<u8>)>> {
    let mut offer = Vec::new();
    messages::text(&mut offer, MECHANISM.as_bytes());
    offer.push(0);
    request(client, 10, &offer).await?;

    let first = inbox.next(client, MESSAGE_MAX).await?;
    let Some((header, theirs, first)) = first_message(&first.body) else {
        return refuse().tell(client).await;
    };
    let ours = format!("{theirs}{}", nonce().map_err(io::Error::other)?);
    let server_first = verifier.server_first(&ours);
    let mut heard = Overheard::default();
    heard.client_first(first);
    heard.server_first(server_first.as_bytes());
    request(client, 11, server_first.as_bytes()).await?;

    let last = inbox.next(client, MESSAGE_MAX).await?;
    let expected = format!("c={},r={ours},p=", BASE64_STANDARD.encode(header));
    if !last.body.starts_with(expected.as_bytes()) {
        return refuse().tell(client).await;
    }
    heard.client_final(&last.body);
    match heard.key(verifier) {
        Some(key) => Ok(Some((key, heard.server_final(verifier)))),
        None => refuse().tell(client).await,
    }
}

/// GS2 header, nonce, and the whole of `client-first-message`.
fn first_message(body: &[u8]) -> Option<(&str, &str, &[u8])> {
    let rest = body.strip_prefix(MECHANISM.as_bytes())?.strip_prefix(b"\0")?;
    let first = rest.get(4..)?;
    let text = std::str::from_utf8(first).ok()?;
    // `y`: it could bind, and we have not offered it. No authorization identity.
    let header = text.get(..3).filter(|header| matches!(*header, "n,," | "y,,"))?;
    let nonce = text[3..].split(',').find_map(|field| field.strip_prefix("r="))?;
    Some((header, nonce, first))
}

async fn request(client: &mut ClientStream, code: i32, data: &[u8]) -> io::Result<()> {
    let mut out = Vec::new();
    messages::message(&mut out, b'R', |body| {
        body.extend_from_slice(&code.to_be_bytes());
        body.extend_from_slice(data);
    });
    client.write_all(&out).await?;
    client.flush().await
}

fn refuse() -> Refusal {
    Refusal::Ours("28P01", "password authentication failed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unbound_logins_in_one_s_own_name() {
        let body = |first: &str| {
            [b"SCRAM-SHA-256\0\0\0\0\x09".to_vec(), first.as_bytes().to_vec()].concat()
        };
        let good = body("y,,n=,r=abc");
        assert_eq!(first_message(&good), Some(("y,,", "abc", &b"y,,n=,r=abc"[..])));
        for first in ["p=tls-server-end-point,,n=,r=abc", "n,a=other,n=,r=abc", "n", ""] {
            assert_eq!(first_message(&body(first)), None, "{first}");
        }
    }
}
