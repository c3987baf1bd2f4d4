//! A client's login: its own conversation with the server, which alone decides, passed on and
//! overheard. So a login through the proxy is one that the server has let in.
//!
//! One thing is done differently: where a password of `caching_sha2_password` is asked for, or where
//! the server does without it and the proxy does not know it, the client shows it to the proxy - by
//! TLS, or encrypted for the proxy's own key - and the proxy shows it to the server. A password is
//! never asked for in the clear.

use std::io;

use decoders::mysql::server::RawConnection;

use super::Shared;
use super::hello::{CACHING, CLEAR, DIALOG, NATIVE};
use super::login::{FAST, FULL, GIVE_KEY, LOGIN_PACKET_MAX, UNVERIFIED, send, show, switched};
use super::packets::{EOF, ERR, Inbox, OK, error, invalid, status_of_ok};
use super::scramble::caching;
use super::users::Shown;
use crate::proxy::stream::ClientStream;
use tokio::io::AsyncWriteExt;

/// The longest packet of a client that has not logged in.
pub(super) const TOKEN_MAX: usize = 65_535;

/// Both ends of a login.
pub(super) struct Login<'a> {
    pub shared: &'a Shared,
    pub client: &'a mut ClientStream,
    pub client_inbox: &'a mut Inbox,
    /// The number of the client's last packet.
    pub client_seq: u8,
    pub server: &'a mut RawConnection,
    /// Whoever answers is known to be the server.
    pub is_verified: bool,
    pub server_inbox: &'a mut Inbox,
    pub user: &'a [u8],
    pub plugin: Vec<u8>,
    pub nonce: Vec<u8>,
    pub answer: Vec<u8>,
}

/// A login that has succeeded.
pub(super) struct Admitted {
    pub shown: Shown,
    pub status: u16,
}

impl Login<'_> {
    /// From the server's first answer on. `None`: it has refused, and the client knows.
    pub async fn relay(mut self) -> io::Result<Option<Admitted>> {
        let mut password: Option<Vec<u8>> = None;
        loop {
            let packet = self.server_inbox.next(self.server, LOGIN_PACKET_MAX).await?;
            let seq = packet.seq.wrapping_add(1);
            match packet.first() {
                OK => {
                    let status = status_of_ok(&packet.body)?;
                    self.tell(&packet.body).await?;
                    if let Some(password) = &password {
                        self.shared.engine.users.learn(self.user, password);
                    }
                    return Ok(Some(Admitted { shown: self.shown(password), status }));
                }
                ERR => {
                    self.tell(&packet.body).await?;
                    return Ok(None);
                }
                EOF => {
                    (self.plugin, self.nonce) = switched(&packet.body)?;
                    let is_shown = [CLEAR, DIALOG].contains(&&self.plugin[..]);
                    if is_shown && !self.is_verified {
                        return self.refuse(UNVERIFIED).await;
                    }
                    if is_shown && !(self.client.is_tls() && self.server.is_tls()) {
                        return self
                            .refuse(
                                "the server asks for the password itself, and the \
                             connection to the proxy, or the proxy's to it, is not encrypted",
                            )
                            .await;
                    }
                    self.tell(&packet.body).await?;
                    self.answer = self.hear().await?;
                    send(self.server, seq, &self.answer).await?;
                }
                1 if self.plugin == CACHING && packet.body == FULL && !self.is_verified => {
                    return self.refuse(UNVERIFIED).await;
                }
                1 if self.plugin == CACHING && (packet.body == FAST || packet.body == FULL) => {
                    let known =
                        self.shared.engine.users.known(self.user, &self.nonce, &self.answer);
                    let shown = match known {
                        Some(known) => {
                            self.tell(&FAST).await?;
                            known
                        }
                        None => match self.ask().await? {
                            Some(shown) => shown,
                            None => return self.refuse("it can't be read").await,
                        },
                    };
                    // The server may already have let in whoever made the answer.
                    if caching(&shown, &self.nonce) != self.answer {
                        return self.refuse("it is not the one that the answer was made of").await;
                    }
                    if packet.body == FULL {
                        let tls = self.server.is_tls();
                        let (server, inbox) = (&mut *self.server, &mut *self.server_inbox);
                        show(server, inbox, tls, seq, &shown, &self.nonce).await?;
                    }
                    password = Some(shown);
                }
                _ => {
                    self.tell(&packet.body).await?;
                    self.answer = self.hear().await?;
                    send(self.server, seq, &self.answer).await?;
                }
            }
        }
    }

    fn shown(&self, password: Option<Vec<u8>>) -> Shown {
        match (password, &self.plugin[..]) {
            (Some(password), _) => Shown::Password(password),
            (None, NATIVE | CACHING) if self.answer.is_empty() => Shown::Nothing,
            (None, NATIVE) => {
                Shown::Native { nonce: self.nonce.clone(), answer: self.answer.clone() }
            }
            (None, CLEAR) => {
                let text = self.answer.strip_suffix(b"\0").unwrap_or(&self.answer);
                Shown::Password(text.to_vec())
            }
            (None, other) => Shown::Useless(String::from_utf8_lossy(other).into_owned()),
        }
    }

    async fn tell(&mut self, body: &[u8]) -> io::Result<()> {
        self.client_seq = self.client_seq.wrapping_add(1);
        send(self.client, self.client_seq, body).await
    }

    async fn hear(&mut self) -> io::Result<Vec<u8>> {
        let packet = self.client_inbox.next(self.client, TOKEN_MAX).await?;
        self.client_seq = packet.seq;
        Ok(packet.body)
    }

    /// The password, from the client. `None`: what it has sent can't be decrypted.
    async fn ask(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.tell(&FULL).await?;
        let said = self.hear().await?;
        if self.client.is_tls() {
            return Ok(said.strip_suffix(b"\0").map(<[u8]>::to_vec));
        }
        if said != GIVE_KEY {
            return Err(invalid("a password that is not encrypted"));
        }
        let key = &self.shared.engine.key;
        let public = [b"\x01", key.public().await?.as_bytes()].concat();
        self.tell(&public).await?;
        let said = self.hear().await?;
        key.decrypted(&said, &self.nonce).await
    }

    async fn refuse(&mut self, why: &str) -> io::Result<Option<Admitted>> {
        let mut out = Vec::new();
        let user = String::from_utf8_lossy(self.user);
        let what = format!("Access denied for user '{user}' at the proxy: {why}");
        error(&mut out, self.client_seq.wrapping_add(1), 1045, "28000", &what);
        self.client.write_all(&out).await?;
        self.client.flush().await?;
        Ok(None)
    }
}
