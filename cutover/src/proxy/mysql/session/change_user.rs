//! COM_CHANGE_USER: a login within a session, after which it begins anew.

use std::io;

use super::{Session, Stopped};
use crate::proxy::mysql::admit::{Login, TOKEN_MAX};
use crate::proxy::mysql::hello::{NATIVE, can};
use crate::proxy::mysql::login::send;
use crate::proxy::mysql::packets::{Cursor, EOF, Inbox, invalid};
use crate::proxy::mysql::talk::Talk;

/// What the client has asked for.
struct Request {
    user: Vec<u8>,
    answer: Vec<u8>,
    database: Option<Vec<u8>>,
    plugin: Vec<u8>,
    /// Where user, answer and database end: character set, plugin, attributes follow.
    at: usize,
}

impl Request {
    fn parse(body: &[u8], caps: u32) -> Option<Self> {
        let mut at = Cursor(body.get(1..)?);
        let user = at.text()?.to_vec();
        let length = at.u8()?;
        let answer = at.take(usize::from(length))?.to_vec();
        let database = at.text()?.to_vec();
        let rest = body.len() - at.0.len();
        let mut behind = at;
        let plugin = match (behind.take(2), caps & can::PLUGIN_AUTH) {
            (Some(_), 1..) => behind.text().unwrap_or(behind.0),
            _ => NATIVE,
        };
        let database = Some(database).filter(|name| !name.is_empty());
        Some(Self { user, answer, database, plugin: plugin.to_vec(), at: rest })
    }

    /// With another answer.
    fn packet(&self, body: &[u8], answer: &[u8]) -> Vec<u8> {
        let mut out = vec![body[0]];
        out.extend_from_slice(&self.user);
        out.extend_from_slice(&[0, u8::try_from(answer.len()).unwrap_or(u8::MAX)]);
        out.extend_from_slice(answer);
        out.extend_from_slice(self.database.as_deref().unwrap_or_default());
        out.push(0);
        out.extend_from_slice(&body[self.at..]);
        out
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
        let mut client_inbox = Inbox::default();
        let mut client_seq = seq;
        let mut answer = request.answer.clone();
        if self.was_moved && !answer.is_empty() {
            // What the client has signed is another server's.
            let mut switch = vec![EOF];
            switch.extend_from_slice(&request.plugin);
            switch.push(0);
            switch.extend_from_slice(&self.nonce);
            switch.push(0);
            client_seq = client_seq.wrapping_add(1);
            send(&mut self.client, client_seq, &switch).await?;
            let packet = client_inbox.next(&mut self.client, TOKEN_MAX).await?;
            client_seq = packet.seq;
            answer = packet.body;
        }
        send(&mut self.server, 0, &request.packet(body, &answer)).await?;
        let mut server_inbox = Inbox::default();
        let login = Login {
            shared: &self.shared,
            client: &mut self.client,
            client_inbox: &mut client_inbox,
            client_seq,
            server: &mut self.server,
            server_inbox: &mut server_inbox,
            user: &request.user,
            plugin: request.plugin.clone(),
            nonce: self.nonce.clone(),
            answer,
        };
        let Some(admitted) = login.relay().await? else {
            return Ok(Some(Stopped::Server));
        };
        self.hello.change_user(&request.user, request.database);
        self.shown = admitted.shown;
        self.nonce = admitted.nonce;
        self.credential = None;
        self.memory = None;
        self.talk = Talk::new(self.hello.ends_with_ok(), admitted.status);
        self.talked = true;
        self.inbox = client_inbox.take_rest();
        Ok(None)
    }
}
