//! From a connection to a session: TLS, the startup packet, the gate, the login.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use decoders::postgres::raw;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Shared;
use super::admit::{Admitted, admit};
use super::messages::{self, Inbox};
use super::session::Session;
use super::startup::{First, PACKET_MAX, Startup};
use crate::proxy::entrance::{beside_gate, pass_gate};
use crate::proxy::gate::Gate;
use crate::proxy::stream::ClientStream;

/// How long a client may take to log in (the server's own limit is a minute by default).
const LOGIN_MAX: Duration = Duration::from_secs(60);

pub(super) async fn serve(shared: Arc<Shared>, stream: TcpStream) -> io::Result<()> {
    let opening = tokio::time::timeout(LOGIN_MAX, open(&shared, stream));
    let Ok(opened) = opening.await else { return Ok(()) };
    let Some((mut client, mut inbox, startup)) = opened? else { return Ok(()) };
    let refusal = if !shared.engine.ends.serves(startup.database()) {
        Some(("3D000", "this proxy leads to one database only, and that is not its name"))
    } else if startup.user().is_empty() {
        Some(("28000", "no PostgreSQL user name specified in startup packet"))
    } else {
        None
    };
    if let Some((sqlstate, what)) = refusal {
        return refuse(&mut client, sqlstate, what).await;
    }
    let Some(presence) = shared.gates.enter(shared.config.clients_max) else {
        return refuse(&mut client, "53300", "sorry, too many clients already").await;
    };
    loop {
        let gate = pass_gate(&shared.gates, &presence).await;
        let login = log_in(&shared, gate, &mut client, &mut inbox, &startup);
        match beside_gate(&shared.gates, &presence, gate, login).await {
            // The side has changed before anything was said.
            None if !inbox.is_touched() => {}
            None => {
                let what = "terminating connection due to administrator command";
                return refuse(&mut client, "57P01", what).await;
            }
            Some(logged_in) => {
                let Some((server, admitted)) = logged_in? else { return Ok(()) };
                let early = inbox.take_rest();
                let session = Session::new(
                    shared, presence, startup, client, server, gate.side, admitted, early,
                );
                return session.run().await;
            }
        }
    }
}

/// TLS if both want it, then the packet that says who it is. `None`: it was something else.
async fn open(
    shared: &Shared,
    stream: TcpStream,
) -> io::Result<Option<(ClientStream, Inbox, Startup)>> {
    let mut client = ClientStream::Plain(stream);
    let mut inbox = Inbox::default();
    loop {
        let packet = inbox.packet(&mut client, PACKET_MAX).await?;
        match First::parse(&packet) {
            Some(First::Startup(startup)) => return Ok(Some((client, inbox, startup))),
            Some(First::Cancel(key)) => {
                shared.engine.cancels.forward(&key, &shared.engine.ends).await;
                return Ok(None);
            }
            Some(First::Tls | First::Gss) if !inbox.is_empty() => {
                // Bytes that came before the handshake would count as encrypted (CVE-2021-23214).
                return Err(messages::invalid("bytes before the TLS handshake".to_owned()));
            }
            Some(First::Tls) => match (&shared.tls, client) {
                (Some(tls), ClientStream::Plain(mut stream)) => {
                    stream.write_all(b"S").await?;
                    client = ClientStream::Tls(Box::new(tls.accept(stream).await?));
                }
                (_, other) => {
                    client = other;
                    client.write_all(b"N").await?;
                }
            },
            Some(First::Gss) => client.write_all(b"N").await?,
            None => {
                let what = "unsupported frontend protocol";
                refuse(&mut client, "0A000", what).await?;
                return Ok(None);
            }
        }
    }
}

/// Connects and passes the login on. `None`: there is no session, and the client knows.
async fn log_in(
    shared: &Shared,
    gate: Gate,
    client: &mut ClientStream,
    inbox: &mut Inbox,
    startup: &Startup,
) -> io::Result<Option<(raw::RawConnection, Admitted)>> {
    let info = shared.engine.ends.of(gate.side);
    let mut server = match raw::connect(info).await {
        Ok(server) => server,
        Err(error) => {
            tracing::warn!("{} can't be reached: {error}", gate.side);
            let what = "the proxy can't reach the database server";
            refuse(client, "57P03", what).await?;
            return Ok(None);
        }
    };
    inbox.touch();
    server.write_all(&startup.packet(info.dbname().as_bytes())).await?;
    server.flush().await?;
    let vouched = match client.is_tls() && server.is_tls() {
        true => shared.engine.users.verifier(startup.user(), info).await,
        false => None,
    };
    let admitting = admit(client, inbox, &mut server, vouched.as_ref());
    let admitted = match tokio::time::timeout(LOGIN_MAX, admitting).await {
        Ok(admitted) => admitted?,
        Err(_) => return Ok(None),
    };
    Ok(match admitted {
        Some(admitted) => Some((server, admitted)),
        None => {
            client.shutdown().await?;
            None
        }
    })
}

async fn refuse(client: &mut ClientStream, sqlstate: &str, what: &str) -> io::Result<()> {
    let mut out = Vec::new();
    messages::fatal(&mut out, sqlstate, what, None);
    client.write_all(&out).await?;
    client.shutdown().await
}
