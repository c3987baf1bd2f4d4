//! What passwords become on their way (MySQL manual, "Authentication Methods"), and what can be
//! learned from that.
//!
//! `mysql_native_password`: SHA1(password) is in the client's answer for whoever knows
//! SHA1(SHA1(password)), which the server stores, and is all that another login takes.
//! `caching_sha2_password`: the server stores something else, so the answer can be compared with a
//! password that is known already, and no more. The password itself comes when the client is asked
//! for it, encrypted: by TLS, or for the proxy's own RSA key.

use std::io;
use std::sync::{Arc, OnceLock};

use rsa::pkcs8::{DecodePublicKey, EncodePublicKey, LineEnding};
use rsa::rand_core::OsRng;
use rsa::{Oaep, RsaPrivateKey, RsaPublicKey};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use tokio::sync::watch;

use super::packets::invalid;

/// What `mysql_native_password` shows of a password.
pub(super) type Sha1Key = [u8; 20];

fn xor<const N: usize>(one: [u8; N], other: [u8; N]) -> [u8; N] {
    std::array::from_fn(|at| one[at] ^ other[at])
}

/// Answers a nonce with SHA1(password).
pub(super) fn native(key: &Sha1Key, nonce: &[u8]) -> Vec<u8> {
    let stored: [u8; 20] = Sha1::digest(key).into();
    let mask: [u8; 20] = Sha1::new().chain_update(nonce).chain_update(stored).finalize().into();
    xor(*key, mask).to_vec()
}

/// SHA1(password).
pub(super) fn native_key(password: &[u8]) -> Sha1Key {
    Sha1::digest(password).into()
}

/// SHA1(password) from an answer, if it is of the password of which `stored` is SHA1(SHA1()).
pub(super) fn recovered(answer: &[u8], nonce: &[u8], stored: &Sha1Key) -> Option<Sha1Key> {
    let answer: [u8; 20] = answer.try_into().ok()?;
    let mask: [u8; 20] = Sha1::new().chain_update(nonce).chain_update(stored).finalize().into();
    let key = xor(answer, mask);
    let is_right = <[u8; 20]>::from(Sha1::digest(key)) == *stored;
    is_right.then_some(key)
}

/// Answers a nonce with a password, for `caching_sha2_password`.
pub(super) fn caching(password: &[u8], nonce: &[u8]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let once: [u8; 32] = Sha256::digest(password).into();
    let twice: [u8; 32] = Sha256::digest(once).into();
    let mask: [u8; 32] = Sha256::new().chain_update(twice).chain_update(nonce).finalize().into();
    xor(once, mask).to_vec()
}

/// A password with its end, as a nonce hides it from who decrypts it elsewhere.
fn masked(text: &[u8], nonce: &[u8]) -> Vec<u8> {
    text.iter().zip(nonce.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}

/// Encrypts a password for a server's key.
///
/// # Errors
/// The key can't be read, or the password is too long for it.
pub(super) fn encrypted(password: &[u8], nonce: &[u8], pem: &[u8]) -> io::Result<Vec<u8>> {
    let text = std::str::from_utf8(pem).map_err(|_| invalid("a key that is not text"))?;
    let key = RsaPublicKey::from_public_key_pem(text.trim_end_matches('\0'))
        .map_err(|_| invalid("a key that can't be read"))?;
    let plain = masked(&[password, b"\0"].concat(), nonce);
    let encrypted = key.encrypt(&mut OsRng, Oaep::new::<Sha1>(), &plain);
    encrypted.map_err(|_| invalid("a password that the key is too short for"))
}

/// The proxy's own key. It takes a moment to make one, so it is made in the background.
#[derive(Clone)]
pub(super) struct OwnKey {
    key: Arc<OnceLock<Option<(RsaPrivateKey, String)>>>,
    made: watch::Receiver<bool>,
}

/// As MySQL's own.
const KEY_BITS: usize = 2048;

impl OwnKey {
    /// Begins to make one.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn make() -> io::Result<Self> {
        let key = Arc::new(OnceLock::new());
        let (told, made) = watch::channel(false);
        let ours = Arc::clone(&key);
        std::thread::Builder::new().name("proxy-key".into()).spawn(move || {
            let made = RsaPrivateKey::new(&mut OsRng, KEY_BITS).ok().and_then(|private| {
                let public = private.to_public_key().to_public_key_pem(LineEnding::LF).ok()?;
                Some((private, public))
            });
            if ours.set(made).is_ok() {
                told.send_replace(true);
            }
        })?;
        Ok(Self { key, made })
    }

    async fn get(&self) -> io::Result<&(RsaPrivateKey, String)> {
        // Its sender goes when it is made, or can't be.
        drop(self.made.clone().wait_for(|made| *made).await);
        let made = self.key.get().and_then(Option::as_ref);
        made.ok_or_else(|| io::Error::other("no key could be made"))
    }

    /// For clients.
    ///
    /// # Errors
    /// There is none.
    pub async fn public(&self) -> io::Result<&str> {
        Ok(&self.get().await?.1)
    }

    /// A password that was encrypted for it. `None`: it was not.
    ///
    /// # Errors
    /// There is no key.
    pub async fn decrypted(&self, bytes: &[u8], nonce: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let (private, _) = self.get().await?;
        let plain = private.decrypt_blinded(&mut OsRng, Oaep::new::<Sha1>(), bytes);
        let plain = plain.ok().map(|plain| masked(&plain, nonce));
        Ok(plain.and_then(|text| text.strip_suffix(b"\0").map(<[u8]>::to_vec)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_the_answer_for_who_knows_what_is_stored() {
        let (key, nonce) = (native_key(b"se cret"), [7; 20]);
        let stored: Sha1Key = Sha1::digest(key).into();
        let answer = native(&key, &nonce);
        assert_eq!(recovered(&answer, &nonce, &stored), Some(key));
        assert_eq!(recovered(&answer, &[8; 20], &stored), None);
        assert_eq!(recovered(&answer, &nonce, &[0; 20]), None);
        assert_eq!(recovered(b"", &nonce, &stored), None);
    }

    #[tokio::test]
    async fn what_is_encrypted_for_the_key_can_be_read() {
        let (key, nonce) = (OwnKey::make().unwrap(), *b"01234567890123456789");
        let pem = key.public().await.unwrap().to_owned();
        let password = b"a password that is longer than a nonce";
        let bytes = encrypted(password, &nonce, pem.as_bytes()).unwrap();
        assert_eq!(key.decrypted(&bytes, &nonce).await.unwrap(), Some(password.to_vec()));
        assert_eq!(key.decrypted(&bytes[1..], &nonce).await.unwrap(), None);
        assert!(encrypted(password, &nonce, b"no key").is_err());
    }
}
