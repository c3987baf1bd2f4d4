//! COM_CHANGE_USER: a login within a session, after which it begins anew.

use std::future::poll_fn;
use std::io;
use std::time::{Duration, Instant};

use super::{Session, Stopped};
use crate::proxy::gate::Standing;
use crate::proxy::mysql::admit::Login;
use crate::proxy::mysql::hello::can;
use crate::proxy::mysql::login::send;
use crate::proxy::mysql::packets::{Cursor, Inbox, invalid};
use crate::proxy::mysql::talk::Talk;
use crate::proxy::named::UnderWay;

/// How long it may take.
const LOGIN_MAX: Duration = Duration::from_secs(5);
/// A kind of login that no account has. What the client has signed may be another server's: so its
/// server asks for the account's own kind, with something of its own to sign.
const NONE: &[u8] = b"cutover_proxy";

/// What the client has asked for.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    user: Vec<u8>,
    database: Option<Vec<u8>>,
    charset: u8,
    /// The same for the server.
    packet: Vec<u8>,
}

impl Request {
    /// `None`: it can't be read, or is of a client that knows one kind of login only.
    fn parse(body: &[u8], caps: u32) -> Option<Self> {
        if caps & can::PLUGIN_AUTH == 0 {
            return None;
        }
        let mut at = Cursor(body.get(1..)?);
        let user = at.text()?.to_vec();
        let length = at.u8()?;
        at.take(usize::from(length))?;
        let database = at.text()?;
        let charset = at.take(2)?;
        let _plugin = at.text().unwrap_or_else(|| std::mem::take(&mut at.0));
        let mut packet = vec![body[0]];
        for part in [&user[..], b"\0\0", database, b"\0", charset, NONE, b"\0", at.0] {
            packet.extend_from_slice(part);
        }
        let database = Some(database.to_vec()).filter(|name| !name.is_empty());
        Some(Self { user, database, charset: charset[0], packet })
    }
}

impl Session {
    /// Passes it on. The session was settled when the request came.
    pub(super) async fn become_another(
        &mut self,
        seq: u8,
        body: &[u8],
    ) -> io::Result<Option<Stopped>> {
        let request = Request::parse(body, self.hello.caps)
            .ok_or_else(|| invalid("a change of users that can't be read"))?;
        let Session { client, server, side, to_client, to_server, shared, presence, .. } = self;
        // A client waits for the answer, so nothing of it has come yet that is not here.
        let (mut client_inbox, mut server_inbox) = (Inbox::default(), Inbox::default());
        let login = Login {
            shared,
            client,
            client_inbox: &mut client_inbox,
            client_seq: seq,
            server,
            is_verified: shared.engine.url(*side).is_verified(),
            server_inbox: &mut server_inbox,
            user: &request.user,
            plugin: NONE.to_vec(),
            nonce: Vec::new(),
            answer: Vec::new(),
        };
        let relayed = async {
            // What was under way before goes first.
            poll_fn(|cx| to_server.drain(cx, login.server)).await?;
            poll_fn(|cx| to_client.drain(cx, login.client)).await?;
            send(login.server, 0, &request.packet).await?;
            login.relay().await
        };
        let began = Instant::now();
        let mut relayed = Box::pin(tokio::time::timeout(LOGIN_MAX, relayed));
        let admitted = loop {
            let generation = self.gate.generation;
            tokio::select! {
                admitted = &mut relayed => match admitted {
                    Ok(admitted) => break Some(admitted?),
                    Err(_) => break Some(None),
                },
                () = shared.gates.changed(&presence.handle, generation) => {
                    self.gate = shared.gates.now();
                    if self.gate.hold.is_some_and(|hold| hold.cut_busy) {
                        break None;
                    }
                    let what = "in a change of users";
                    let under_way = UnderWay {
                        pid: self.place.id(),
                        user: String::from_utf8_lossy(&self.hello.user).into_owned(),
                        application: String::new(),
                        what,
                        since: began,
                    };
                    shared.gates.under_way(&presence.handle, Some(under_way));
                    let standing = Standing::Busy(what);
                    shared.gates.seen(&presence.handle, self.gate.generation, standing);
                }
            }
        };
        drop(relayed);
        let Some(admitted) = admitted else {
            return self.cut("its change of users did not end in time").await;
        };
        let Some(admitted) = admitted else {
            return Ok(Some(Stopped::Server));
        };
        self.hello.change_user(&request.user, request.database, request.charset);
        self.shown = admitted.shown;
        self.credential = None;
        self.memory = None;
        // The server leaves it as it was.
        let option = self.talk.option;
        self.talk = Talk::new(self.hello.ends_with_ok(), admitted.status);
        self.talk.option = option;
        self.talked = true;
        self.inbox.extend(client_inbox.take_rest());
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_made_to_ask() {
        let body = b"\x11app\0\x03xyzshop\0\x2d\0caching_sha2_password\0\x02\x01a";
        let request = Request::parse(body, can::PLUGIN_AUTH).unwrap();
        assert_eq!(
            (&request.user[..], request.database.as_deref()),
            (&b"app"[..], Some(&b"shop"[..]))
        );
        assert_eq!(request.charset, 0x2d);
        assert_eq!(request.packet, b"\x11app\0\0shop\0\x2d\0cutover_proxy\0\x02\x01a");
        assert_eq!(Request::parse(body, 0), None);
        assert_eq!(Request::parse(&body[..9], can::PLUGIN_AUTH), None);
    }
}
