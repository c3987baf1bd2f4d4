//! From a connection to a session: the gate, the greeting, TLS, the login.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use decoders::mysql::server::{RawConnection, ServerUrl};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Shared;
use super::admit::{Admitted, Login, TOKEN_MAX};
use super::hello::{FIXED, Greeting, Hello, can};
use super::login::{Greeted, bow_out, greeted, secured, send};
use super::packets::{self, Inbox, invalid};
use super::places::Entry;
use super::session::Session;
use crate::proxy::arrivals::Arrival;
use crate::proxy::descriptors;
use crate::proxy::entrance::{Patience, beside_gate};
use crate::proxy::stream::ClientStream;
use crate::side::Side;

/// The error of too many connections.
const TOO_MANY: u16 = 1040;
/// How long it may say nothing: less than the servers' own `connect_timeout`, as it comes.
const SILENT_MAX: Duration = Duration::from_secs(8);
/// How long it may take to leave a server in its place.
const LEAVE_MAX: Duration = Duration::from_secs(5);

/// Someone who was let in.
pub(super) struct LoggedIn {
    pub client: ClientStream,
    /// What it has sent ahead.
    pub early: Vec<u8>,
    pub hello: Hello,
    pub server: RawConnection,
    pub rest: Vec<u8>,
    pub admitted: Admitted,
    pub side: Side,
    pub place: Entry,
}

pub(super) async fn serve(
    shared: Arc<Shared>,
    mut stream: TcpStream,
    arrival: &Arrival,
) -> io::Result<()> {
    let mut patience = Patience::new(shared.config.login_timeout());
    let Some(presence) = shared.gates.enter(shared.clients_max) else {
        return turn_away(&mut stream, TOO_MANY, "Too many connections").await;
    };
    let session = loop {
        let gate = patience.pass_gate(&shared.gates, &presence).await;
        let url = shared.engine.url(gate.side);
        // Nothing is said to the client before a server has greeted, so another one may.
        let Some(greeted) = beside_gate(&shared.gates, &presence, gate, greeted(url)).await else {
            continue;
        };
        let greeted = match greeted {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(refusal)) => {
                // Before anything is agreed upon nobody knows of SQLSTATEs.
                let (code, what) = packets::error_of(&refusal);
                return turn_away(&mut stream, code, &what).await;
            }
            Err(error) => {
                tracing::warn!("{} can't be reached: {error}", gate.side);
                let (code, what) = match descriptors::are_exhausted(&error) {
                    true => (TOO_MANY, "the proxy has no file descriptor left"),
                    false => (2003, "the proxy can't reach the database server"),
                };
                return turn_away(&mut stream, code, what).await;
            }
        };
        let login = patience.limit(log_in(&shared, gate.side, stream, greeted));
        break match beside_gate(&shared.gates, &presence, gate, login).await {
            Some(Ok(session)) => session?,
            // It takes too long, or the side has changed meanwhile: the connection closes.
            Some(Err(_)) | None => None,
        };
    };
    match session {
        Some(session) => {
            arrival.logged_in();
            Session::new(shared, presence, session).run().await
        }
        None => Ok(()),
    }
}

/// What a client is told that is one too many.
pub(super) fn too_many() -> Vec<u8> {
    let mut out = Vec::new();
    packets::early_error(&mut out, TOO_MANY, "Too many connections");
    out
}

/// Greets the client and passes its login on. `None`: there is no session, and the client knows.
async fn log_in(
    shared: &Shared,
    side: Side,
    stream: TcpStream,
    greeted: Greeted,
) -> io::Result<Option<LoggedIn>> {
    let url = shared.engine.url(side);
    shared.engine.desk(side).seen(greeted.greeting.is_mariadb());
    let place = shared.engine.places.enter(side, greeted.greeting.id);
    let mut client_inbox = Inbox::default();
    let met = meet(shared, stream, &greeted.greeting, place.shown());
    // In time to leave the server properly.
    let silent = SILENT_MAX.min(shared.config.login_timeout() * 4 / 5);
    let (mut client, hello, client_seq) = match tokio::time::timeout(silent, met).await {
        Ok(Ok(Some(met))) => met,
        missed => {
            leave(greeted, shared.engine.side(side).own.clone());
            // It has said nothing for too long, and hears nothing more.
            return missed.map_or(Ok(None), |met| met.map(|_| None));
        }
    };
    let Greeted { server, inbox: mut server_inbox, greeting } = greeted;
    let database = hello.database.as_deref();
    let secured = secured(server, &server_inbox, &greeting, &hello, database, url).await;
    let (mut server, seq) = match secured {
        Ok(secured) => secured,
        Err(error) => {
            tracing::warn!("no TLS with {side}: {error}");
            let mut out = Vec::new();
            let what = "the proxy can't reach the database server by TLS";
            packets::error(&mut out, client_seq.wrapping_add(1), 2026, "08001", what);
            client.write_all(&out).await?;
            client.shutdown().await?;
            return Ok(None);
        }
    };
    let tls = server.is_tls();
    send(&mut server, seq, &hello.own_packet(tls)).await?;
    let login = Login {
        shared,
        client: &mut client,
        client_inbox: &mut client_inbox,
        client_seq,
        server: &mut server,
        is_verified: url.is_verified(),
        server_inbox: &mut server_inbox,
        user: &hello.user,
        plugin: hello.plugin.clone(),
        nonce: greeting.nonce.to_vec(),
        answer: hello.answer.clone(),
    };
    let Some(admitted) = login.relay().await? else {
        client.shutdown().await?;
        return Ok(None);
    };
    Ok(Some(LoggedIn {
        client,
        early: client_inbox.take_rest(),
        hello,
        server,
        rest: server_inbox.take_rest(),
        admitted,
        side,
        place,
    }))
}

/// Ends a connection on which the server still waits for a login.
fn leave(greeted: Greeted, url: ServerUrl) {
    tokio::spawn(async move {
        match tokio::time::timeout(LEAVE_MAX, bow_out(greeted, &url)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("a login broke off on the server: {error}"),
            Err(_) => tracing::debug!("a login broke off on the server: it does not answer"),
        }
    });
}

/// The greeting, TLS if the client wants it, and its answer with that packet's number. `None`: it is
/// not let in, and knows.
async fn meet(
    shared: &Shared,
    mut stream: TcpStream,
    greeting: &Greeting,
    id: u32,
) -> io::Result<Option<(ClientStream, Hello, u8)>> {
    send(&mut stream, 0, &greeting.for_client(id, shared.tls.is_some())).await?;
    let mut client = ClientStream::Plain(stream);
    loop {
        let packet = packets::exactly(&mut client, TOKEN_MAX).await?;
        let caps = packets::Cursor(&packet.body).u32().unwrap_or_default();
        client = match (client, &shared.tls) {
            (ClientStream::Plain(stream), Some(tls))
                if packet.body.len() == FIXED && caps & can::SSL != 0 =>
            {
                ClientStream::Tls(Box::new(tls.accept(stream).await?))
            }
            (mut client, _) => match Hello::parse(&packet.body) {
                Some(_) if shared.config.requires_tls() && !client.is_tls() => {
                    let mut out = Vec::new();
                    let what = "Connections using insecure transport are prohibited by the proxy: \
                                use TLS (--ssl-mode=REQUIRED)";
                    let seq = packet.seq.wrapping_add(1);
                    packets::error(&mut out, seq, 3159, "HY000", what);
                    client.write_all(&out).await?;
                    client.shutdown().await?;
                    return Ok(None);
                }
                Some(mut hello) => {
                    hello.settle();
                    return Ok(Some((client, hello, packet.seq)));
                }
                None => {
                    let mut out = Vec::new();
                    let seq = packet.seq.wrapping_add(1);
                    packets::error(&mut out, seq, 1043, "08S01", "Bad handshake");
                    client.write_all(&out).await?;
                    client.shutdown().await?;
                    return Err(invalid("an answer to the greeting that can't be read"));
                }
            },
        };
    }
}

/// Before anything was said.
async fn turn_away(stream: &mut TcpStream, code: u16, what: &str) -> io::Result<()> {
    let mut out = Vec::new();
    packets::early_error(&mut out, code, what);
    stream.write_all(&out).await?;
    stream.shutdown().await
}
