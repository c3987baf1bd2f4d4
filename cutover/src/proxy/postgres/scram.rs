//! SCRAM-SHA-256 (RFC 5802, RFC 7677) from the side of somebody who has no password.
//!
//! A client that logs in through the proxy sends `ClientKey XOR HMAC(StoredKey, everything said)`.
//! Who knows StoredKey - it is in `pg_authid` - therefore learns ClientKey by listening, and
//! ClientKey is all that a login takes at any server with the same verifier. The password itself
//! stays unknown, and the server still does the checking.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::digest::{SHA256, digest};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// The only mechanism that passes through a proxy: `-PLUS` binds to the TLS channel of one leg.
pub(super) const MECHANISM: &str = "SCRAM-SHA-256";

/// Bytes of a SHA-256.
const KEY: usize = 32;
type Key = [u8; KEY];

/// A role's entry of `pg_authid`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Verifier {
    iterations: String,
    salt: String,
    stored_key: Key,
    server_key: Key,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(***)")
    }
}

impl Verifier {
    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("SCRAM-SHA-256$")?;
        let (head, keys) = rest.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        let key = |text: &str| Key::try_from(BASE64_STANDARD.decode(text).ok()?).ok();
        iterations.parse::<u32>().ok()?;
        Some(Self {
            iterations: iterations.to_owned(),
            salt: salt.to_owned(),
            stored_key: key(stored)?,
            server_key: key(server)?,
        })
    }

    /// Whether this is the verifier of which a `server-first-message` speaks: a salt is random, and
    /// another one with every password that is set.
    pub fn is_of(&self, server_first: &[u8]) -> bool {
        let fields = std::str::from_utf8(server_first).ok().and_then(ServerFirst::parse);
        fields.is_some_and(|fields| self.fits(&fields))
    }

    fn fits(&self, said: &ServerFirst<'_>) -> bool {
        said.salt == self.salt && said.iterations == self.iterations
    }

    /// `server-first-message` for a nonce.
    pub fn server_first(&self, nonce: &str) -> String {
        format!("r={nonce},s={},i={}", self.salt, self.iterations)
    }
}

/// What takes the place of a password at servers that have the same verifier.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ClientKey {
    key: Key,
    verifier: Verifier,
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey(***)")
    }
}

/// An exchange that passes through the proxy.
#[derive(Clone, Default)]
pub(super) struct Overheard {
    client_first_bare: Vec<u8>,
    server_first: Vec<u8>,
    client_final: Vec<u8>,
}

impl Overheard {
    /// `client-first-message`, behind the mechanism's name.
    pub fn client_first(&mut self, message: &[u8]) {
        // The GS2 header ends with its second comma.
        let bare = message.splitn(3, |byte| *byte == b',').nth(2);
        self.client_first_bare = bare.unwrap_or_default().to_vec();
    }

    /// `server-first-message`.
    pub fn server_first(&mut self, message: &[u8]) {
        self.server_first = message.to_vec();
    }

    /// `client-final-message`.
    pub fn client_final(&mut self, message: &[u8]) {
        self.client_final = message.to_vec();
    }

    /// `server-final-message`: the proof that `verifier` is known.
    pub fn server_final(&self, verifier: &Verifier) -> Vec<u8> {
        let text = String::from_utf8_lossy(&self.client_final);
        let without_proof = text.rsplit_once(",p=").map_or("", |(without_proof, _)| without_proof);
        let said = auth_message(&self.client_first_bare, &self.server_first, without_proof);
        format!("v={}", BASE64_STANDARD.encode(mac(&verifier.server_key, &said))).into_bytes()
    }

    /// The client's key, if `verifier` is the one that it logged in with.
    pub fn key(&self, verifier: &Verifier) -> Option<ClientKey> {
        let text = std::str::from_utf8(&self.client_final).ok()?;
        let (without_proof, proof) = text.rsplit_once(",p=")?;
        let proof = Key::try_from(BASE64_STANDARD.decode(proof).ok()?).ok()?;
        let said = auth_message(&self.client_first_bare, &self.server_first, without_proof);
        let key = xor(proof, mac(&verifier.stored_key, &said));
        (sha256(&key) == verifier.stored_key).then(|| ClientKey { key, verifier: verifier.clone() })
    }
}

/// The fields of a `server-first-message`.
struct ServerFirst<'a> {
    nonce: &'a str,
    salt: &'a str,
    iterations: &'a str,
}

impl<'a> ServerFirst<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(',');
        let mut field = |name: &str| parts.next()?.strip_prefix(name);
        Some(Self { nonce: field("r=")?, salt: field("s=")?, iterations: field("i=")? })
    }
}

/// A login of our own with a client's key.
pub(super) struct Exchange {
    first_bare: String,
    expected: Key,
}

impl Exchange {
    /// Begins; the first message goes with it.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn begin() -> Result<(Self, Vec<u8>), String> {
        let first_bare = format!("n=,r={}", nonce()?);
        let first = format!("n,,{first_bare}").into_bytes();
        Ok((Self { first_bare, expected: [0; KEY] }, first))
    }

    /// The answer to `server-first-message`.
    ///
    /// # Errors
    /// The server has another verifier: the key is of no use there.
    pub fn proof(&mut self, key: &ClientKey, server_first: &[u8]) -> Result<Vec<u8>, String> {
        let broken = || "the server's SCRAM message can't be read".to_owned();
        let text = std::str::from_utf8(server_first).map_err(|_| broken())?;
        let said = ServerFirst::parse(text).ok_or_else(broken)?;
        let nonce = said.nonce;
        let ours = self.first_bare.trim_start_matches("n=,r=");
        if !nonce.starts_with(ours) || nonce.len() == ours.len() {
            return Err(broken());
        }
        let verifier = &key.verifier;
        if !verifier.fits(&said) {
            return Err("the role's password verifier is another one there".to_owned());
        }
        let without_proof = format!("c=biws,r={nonce}");
        let said = auth_message(self.first_bare.as_bytes(), server_first, &without_proof);
        let proof = xor(key.key, mac(&verifier.stored_key, &said));
        self.expected = mac(&verifier.server_key, &said);
        Ok(format!("{without_proof},p={}", BASE64_STANDARD.encode(proof)).into_bytes())
    }

    /// Checks `server-final-message`.
    ///
    /// # Errors
    /// The server has not proven that it knows the verifier.
    pub fn finish(&self, server_final: &[u8]) -> Result<(), String> {
        let proof =
            server_final.strip_prefix(b"v=").and_then(|text| BASE64_STANDARD.decode(text).ok());
        if proof.as_deref() == Some(&self.expected) {
            Ok(())
        } else {
            Err("the server did not prove itself".to_owned())
        }
    }
}

/// Random text for one exchange.
///
/// # Errors
/// The system has no randomness.
pub(super) fn nonce() -> Result<String, String> {
    let mut nonce = [0; 18];
    SystemRandom::new().fill(&mut nonce).map_err(|_| "no random bytes".to_owned())?;
    Ok(BASE64_STANDARD.encode(nonce))
}

fn auth_message(client_first_bare: &[u8], server_first: &[u8], without_proof: &str) -> Vec<u8> {
    [client_first_bare, server_first, without_proof.as_bytes()].join(&b',')
}

fn mac(key: &Key, message: &[u8]) -> Key {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    let mut out = [0; KEY];
    out.copy_from_slice(tag.as_ref());
    out
}

fn sha256(bytes: &[u8]) -> Key {
    let mut out = [0; KEY];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

fn xor(mut left: Key, right: Key) -> Key {
    left.iter_mut().zip(right).for_each(|(left, right)| *left ^= right);
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 7677, section 3: user "user", password "pencil".
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn verifier(password: &[u8]) -> Verifier {
        let mut salted = [0; KEY];
        ring::pbkdf2::derive(
            ring::pbkdf2::PBKDF2_HMAC_SHA256,
            std::num::NonZeroU32::new(4096).unwrap(),
            &BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(),
            password,
            &mut salted,
        );
        let stored = sha256(&mac(&salted, b"Client Key"));
        let server = mac(&salted, b"Server Key");
        let (stored, server) = (BASE64_STANDARD.encode(stored), BASE64_STANDARD.encode(server));
        let text = format!("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==${stored}:{server}");
        Verifier::parse(&text).unwrap()
    }

    #[test]
    fn a_key_is_overheard_and_serves_for_a_login() {
        let mut overheard = Overheard::default();
        overheard.client_first(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        overheard.server_first(SERVER_FIRST.as_bytes());
        overheard.client_final(CLIENT_FINAL.as_bytes());
        let key = overheard.key(&verifier(b"pencil")).unwrap();
        assert!(overheard.key(&verifier(b"pencils")).is_none());
        assert_eq!(overheard.server_final(&verifier(b"pencil")), SERVER_FINAL.as_bytes());
        assert_eq!(format!("{key:?}"), "ClientKey(***)");

        // The same exchange with the key instead of the password.
        let first_bare = "n=user,r=rOprNGfwEbeRWgbNEkqO".to_owned();
        let mut exchange = Exchange { first_bare, expected: [0; KEY] };
        exchange.first_bare = "n=,r=rOprNGfwEbeRWgbNEkqO".to_owned();
        assert!(exchange.proof(&key, SERVER_FIRST.as_bytes()).is_ok());
        // Another user name, another proof: the server's is checked against what was said.
        assert!(exchange.finish(SERVER_FINAL.as_bytes()).is_err());
        let other = SERVER_FIRST.replace("W22Z", "W22A");
        assert!(verifier(b"pencil").is_of(SERVER_FIRST.as_bytes()));
        assert!(!verifier(b"pencil").is_of(other.as_bytes()));
        assert!(exchange.proof(&key, other.as_bytes()).is_err());
        assert!(exchange.proof(&key, b"r=theirs,s=QSXCR+Q6sek8bf92,i=4096").is_err());
    }

    #[test]
    fn verifiers_of_another_kind_are_not_taken() {
        for text in ["md5aabbcc", "SCRAM-SHA-256$4096:abc", "SCRAM-SHA-256$x:a$b:c", ""] {
            assert!(Verifier::parse(text).is_none(), "{text}");
        }
    }
}
