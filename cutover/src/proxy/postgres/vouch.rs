//! A SCRAM login that the proxy checks itself.
//!
//! With TLS on both of its legs a login can't be passed on: the client says that it could bind the
//! login to its channel and was not offered to (`y`), the server did offer it, and takes the
//! contradiction for an attack (RFC 5802, section 6). So, given the verifier, the client proves
//! itself to the proxy, and the proxy logs in with the key that the proof contains.

use std::io;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::AsyncWriteExt;

use super::messages::{self, Inbox};
use super::scram::{ClientKey, MECHANISM, Overheard, Verifier, nonce};
use crate::proxy::stream::ClientStream;

/// The longest message of a client that has not logged in.
const MESSAGE_MAX: usize = 8 << 10;

/// Asks the client to prove itself. `None`: it could not, and was told.
pub(super) async fn vouch(
    client: &mut ClientStream,
    inbox: &mut Inbox,
    verifier: &Verifier,
) -> io::Result<Option<ClientKey>> {
    let mut offer = Vec::new();
    messages::text(&mut offer, MECHANISM.as_bytes());
    offer.push(0);
    request(client, 10, &offer).await?;

    let first = inbox.next(client, MESSAGE_MAX).await?;
    let Some((header, theirs, first)) = first_message(&first.body) else {
        return refuse(client).await;
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
        return refuse(client).await;
    }
    heard.client_final(&last.body);
    match heard.key(verifier) {
        Some(key) => {
            request(client, 12, &heard.server_final(verifier)).await?;
            Ok(Some(key))
        }
        None => refuse(client).await,
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

async fn refuse(client: &mut ClientStream) -> io::Result<Option<ClientKey>> {
    let mut out = Vec::new();
    messages::fatal(&mut out, "28P01", "password authentication failed", None);
    client.write_all(&out).await?;
    client.flush().await?;
    Ok(None)
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
