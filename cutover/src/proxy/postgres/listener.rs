//! From a connection to a session: TLS, the startup packet, the gate, the login.

use std::io;
use std::sync::Arc;

use decoders::postgres::raw;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Shared;
use super::admit::{Admitted, Vouching, admit};
use super::messages::{self, Inbox};
use super::session::Session;
use super::startup::{First, PACKET_MAX, Startup};
use crate::proxy::arrivals::Arrival;
use crate::proxy::descriptors;
use crate::proxy::entrance::{Patience, beside_gate};
use crate::proxy::gate::Gate;
use crate::proxy::stream::ClientStream;
use crate::proxy::tls::ALPN;

/// The first byte of a TLS handshake, which no startup packet begins with.
const TLS_HANDSHAKE: u8 = 0x16;

pub(super) async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    arrival: &Arrival,
) -> io::Result<()> {
    let mut patience = Patience::new(shared.config.login_timeout());
    // Who has said nothing hears nothing.
    let Ok(opened) = patience.limit(open(&shared, stream)).await else { return Ok(()) };
    let Some((mut client, mut inbox, startup)) = opened? else { return Ok(()) };
    let refusal = if shared.config.requires_tls() && !client.is_tls() {
        Some(("28000", "this proxy takes clients by TLS only (set sslmode=require or better)"))
    } else if !shared.engine.ends.serves(startup.database()) {
        Some(("3D000", "this proxy leads to one database only, and that is not its name"))
    } else if startup.user().is_empty() {
        Some(("28000", "no PostgreSQL user name specified in startup packet"))
    } else {
        None
    };
    if let Some((sqlstate, what)) = refusal {
        return refuse(&mut client, sqlstate, what).await;
    }
    let Some(presence) = shared.gates.enter(shared.clients_max) else {
        return refuse(&mut client, "53300", TOO_MANY).await;
    };
    loop {
        let gate = patience.pass_gate(&shared.gates, &presence).await;
        let login = patience.limit(log_in(&shared, gate, &mut client, &mut inbox, &startup));
        match beside_gate(&shared.gates, &presence, gate, login).await {
            // The side has changed before anything was said.
            None if !inbox.is_touched() => {}
            None => {
                let what = "terminating connection due to administrator command";
                return refuse(&mut client, "57P01", what).await;
            }
            Some(Err(_)) => {
                let what = "canceling authentication due to timeout";
                return refuse(&mut client, "57014", what).await;
            }
            Some(Ok(Err(error))) => {
                let what = format!("the login broke off: {error}");
                refuse(&mut client, "08006", &what).await?;
                return Err(error);
            }
            Some(Ok(Ok(None))) => return client.shutdown().await,
            Some(Ok(Ok(Some((server, admitted))))) => {
                arrival.logged_in();
                let early = inbox.take_rest();
                let session = Session::new(
                    shared, presence, startup, client, server, gate.side, admitted, early,
                );
                return session.run().await;
            }
        }
    }
}

const TOO_MANY: &str = "sorry, too many clients already";

/// What a client is told that is one too many, whatever it would have said.
pub(super) fn too_many() -> Vec<u8> {
    let mut out = Vec::new();
    messages::fatal(&mut out, "53300", TOO_MANY, None);
    out
}

/// TLS if both want it, then the packet that says who it is. `None`: it was something else.
async fn open(
    shared: &Shared,
    stream: TcpStream,
) -> io::Result<Option<(ClientStream, Inbox, Startup)>> {
    let mut first = [0];
    let is_tls = stream.peek(&mut first).await? == 1 && first[0] == TLS_HANDSHAKE;
    let mut client = match (is_tls, &shared.tls) {
        (true, Some(tls)) => {
            let stream = tls.accept(stream).await?;
            // Whoever begins with TLS has to say for what (manual, "SSL Session Encryption").
            if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
                return Err(messages::invalid("TLS without the protocol's name".to_owned()));
            }
            ClientStream::Tls(Box::new(stream))
        }
        (true, None) => return Err(messages::invalid("TLS, which is not configured".to_owned())),
        (false, _) => ClientStream::Plain(stream),
    };
    let mut inbox = Inbox::default();
    loop {
        let packet = inbox.packet(&mut client, PACKET_MAX).await?;
        match First::parse(&packet) {
            Some(First::Startup(startup)) => return Ok(Some((client, inbox, startup))),
            Some(First::Cancel(key)) => {
                shared.engine.cancels.forward(&key, &shared.engine.ends).await;
                // By TLS an end without a word is an error to the client.
                client.shutdown().await?;
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
            let (sqlstate, what) = match error.io_error().is_some_and(descriptors::are_exhausted) {
                true => ("53300", "the proxy has no file descriptor left"),
                false => ("57P03", "the proxy can't reach the database server"),
            };
            refuse(client, sqlstate, what).await?;
            return Ok(None);
        }
    };
    inbox.touch();
    server.write_all(&startup.packet(info.dbname().as_bytes())).await?;
    server.flush().await?;
    let vouching = (client.is_tls() && server.is_tls()).then(|| Vouching {
        users: &shared.engine.users,
        user: startup.user(),
        registry: shared.engine.registry(gate.side),
    });
    let admitted = admit(client, inbox, &mut server, vouching).await?;
    Ok(admitted.map(|admitted| (server, admitted)))
}

async fn refuse(client: &mut ClientStream, sqlstate: &str, what: &str) -> io::Result<()> {
    let mut out = Vec::new();
    messages::fatal(&mut out, sqlstate, what, None);
    client.write_all(&out).await?;
    client.shutdown().await
}
