//! SQL sessions: a `tokio_postgres::Client` over our own sockets, TLS and settings.

use std::fmt;
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use tokio::sync::watch;
use tokio_postgres::config::{ChannelBinding as ClientBinding, SslMode, SslNegotiation};
use tokio_postgres::{AsyncMessage, CancelToken, Client, Connection, SimpleQueryMessage};

use super::badge;
use super::conninfo::{ChannelBinding, ConnInfo, Host};
use super::error::{AuthError, ConnectError, ProtocolError, ServerError, is_network, message_of};
use super::establish::{Endpoint, ServerState, Startup, TlsUse, establish, open, refused};
use super::pipelined::Pipelined;
use super::settings;
use super::shared::share;
use super::transport::{Negotiated, Transport};

/// An open SQL session; dereferences to [`Client`]. Dropping it closes the connection.
pub struct Session {
    client: Client,
    closed: watch::Receiver<Option<Arc<str>>>,
    canceller: Canceller,
    server_version: u32,
}

/// Opens a session with the settings of [`super::settings`] and our [`badge`], under
/// `application_name` (which overrides the one of the connection string, so that our own sessions
/// can be told apart).
pub async fn connect(info: &ConnInfo, application_name: &str) -> Result<Session, ConnectError> {
    let startup = SqlStartup { info, application_name, apply_settings: true };
    establish(info, &startup).await
}

/// Opens a session without touching any setting: for consoles such as PgBouncer's, which speak
/// the simple query protocol only, and for connections through a pooler, where a `SET` would
/// stay behind on a shared server connection.
pub async fn connect_plain(
    info: &ConnInfo,
    application_name: &str,
) -> Result<Session, ConnectError> {
    let startup = SqlStartup { info, application_name, apply_settings: false };
    establish(info, &startup).await
}

/// As [`connect`], with a second speaker: see [`super::pipelined`].
pub async fn connect_pipelined(
    info: &ConnInfo,
    application_name: &str,
) -> Result<(Session, Pipelined), ConnectError> {
    let startup = SqlStartup { info, application_name, apply_settings: true };
    establish(info, &PipelinedStartup(startup)).await
}

impl Session {
    /// `server_version_num`, for example 150018; 0 if the server reports none that we can read.
    pub fn server_version(&self) -> u32 {
        self.server_version
    }

    /// The host that was reached, of those in the connection string.
    pub fn host(&self) -> &Host {
        &self.canceller.endpoint.host
    }

    pub fn is_tls(&self) -> bool {
        self.canceller.tls
    }

    /// Waits until the connection has ended and says why. Cancel-safe.
    ///
    /// The server's last words go to the statement in flight, if there is one; then this says
    /// only "connection closed".
    pub async fn closed(&self) -> Arc<str> {
        let mut closed = self.closed.clone();
        let reason = match closed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone(),
            // The task went away without a word: the runtime is shutting down.
            Err(_) => None,
        };
        reason.unwrap_or_else(|| Arc::from("the connection's task was stopped"))
    }

    /// Why the connection has ended, if it has.
    pub fn closed_reason(&self) -> Option<Arc<str>> {
        self.closed.borrow().clone()
    }

    /// A handle that cancels the running statement from anywhere.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Asks the server to cancel the running statement. `Ok` means that the request was sent.
    pub async fn cancel(&self) -> Result<(), ConnectError> {
        self.canceller.cancel().await
    }
}

impl Deref for Session {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("host", self.host())
            .field("server_version", &self.server_version)
            .field("closed", &self.closed_reason())
            .finish_non_exhaustive()
    }
}

/// Sends cancel requests to where a session is, over the same kind of connection.
#[derive(Clone)]
pub struct Canceller {
    info: Arc<ConnInfo>,
    endpoint: Endpoint,
    tls: bool,
    token: CancelToken,
}

impl Canceller {
    /// Asks the server to cancel the session's running statement.
    pub async fn cancel(&self) -> Result<(), ConnectError> {
        let tls = if self.tls { TlsUse::Always } else { TlsUse::Never };
        let request = async {
            let transport = open(&self.info, &self.endpoint, tls).await?;
            self.token
                .cancel_query_raw(transport, Negotiated)
                .await
                .map_err(|error| sort(&self.info, &self.endpoint, &error))
        };
        match self.info.connect_timeout {
            None => request.await,
            Some(after) => match tokio::time::timeout(after, request).await {
                Ok(result) => result,
                Err(_) => Err(ConnectError::Timeout { host: self.endpoint.name(), after }),
            },
        }
    }
}

struct SqlStartup<'a> {
    info: &'a ConnInfo,
    application_name: &'a str,
    apply_settings: bool,
}

impl Startup for SqlStartup<'_> {
    type Output = Session;

    async fn start(
        &self,
        transport: Transport,
        endpoint: &Endpoint,
    ) -> Result<Session, ConnectError> {
        let info = self.info;
        let tls = transport.is_tls();
        let mut config = tokio_postgres::Config::new();
        config
            .user(info.user())
            .dbname(info.dbname())
            .application_name(self.application_name)
            .ssl_mode(SslMode::Require)
            .ssl_negotiation(SslNegotiation::Direct)
            .channel_binding(match info.channel_binding {
                ChannelBinding::Disable => ClientBinding::Disable,
                ChannelBinding::Prefer => ClientBinding::Prefer,
                ChannelBinding::Require => ClientBinding::Require,
            });
        if let Some(password) = &endpoint.password {
            config.password(password.reveal());
        }
        if let Some(options) = &info.options {
            config.options(options);
        }
        let (client, connection) = config
            .connect_raw(transport, Negotiated)
            .await
            .map_err(|error| sort(info, endpoint, &error))?;
        let server_version =
            connection.parameter("server_version").and_then(settings::version_number).unwrap_or(0);
        let (closer, closed) = watch::channel(None);
        tokio::spawn(drive(connection, closer));

        let canceller = Canceller {
            info: Arc::new(info.clone()),
            endpoint: endpoint.clone(),
            tls,
            token: client.cancel_token(),
        };
        if self.apply_settings {
            client
                .batch_execute(&(settings::all_sql(server_version) + &badge::take_sql()))
                .await
                .map_err(|error| sort(info, endpoint, &error))?;
        }
        Ok(Session { client, closed, canceller, server_version })
    }

    async fn state(
        &self,
        session: &mut Session,
        endpoint: &Endpoint,
    ) -> Result<ServerState, ConnectError> {
        let messages = session
            .simple_query(super::establish::STATE_SQL)
            .await
            .map_err(|error| sort(self.info, endpoint, &error))?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let on = |at: usize| row.and_then(|row| row.try_get(at).ok().flatten()) == Some("t");
        Ok(ServerState { in_recovery: on(0), read_only: on(1) })
    }
}

/// A session whose socket has a second speaker.
struct PipelinedStartup<'a>(SqlStartup<'a>);

impl Startup for PipelinedStartup<'_> {
    type Output = (Session, Pipelined);

    async fn start(
        &self,
        transport: Transport,
        endpoint: &Endpoint,
    ) -> Result<(Session, Pipelined), ConnectError> {
        let (library, other) = share(transport);
        let session = self.0.start(Transport::Library(library), endpoint).await?;
        Ok((session, Pipelined::new(other, endpoint.host.clone())))
    }

    async fn state(
        &self,
        connection: &mut (Session, Pipelined),
        endpoint: &Endpoint,
    ) -> Result<ServerState, ConnectError> {
        self.0.state(&mut connection.0, endpoint).await
    }
}

/// Moves bytes until the connection ends, then publishes why.
async fn drive(
    mut connection: Connection<Transport, Transport>,
    closer: watch::Sender<Option<Arc<str>>>,
) {
    let reason = loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notice(notice))) => tracing::debug!(
                severity = notice.severity(),
                sqlstate = notice.code().code(),
                message = message_of(&notice),
                "notice from the server"
            ),
            Some(Ok(AsyncMessage::Notification(notification))) => {
                tracing::debug!(channel = notification.channel(), "notification ignored");
            }
            Some(Ok(_)) => tracing::debug!("unknown asynchronous message ignored"),
            Some(Err(error)) => break Arc::from(describe(&error)),
            None => break Arc::from("closed by us"),
        }
    };
    closer.send_replace(Some(reason));
}

/// The server's words if there are any, else the whole chain: `tokio_postgres::Error` by itself
/// says only "db error" or "error communicating with the server".
pub fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return ServerError::from_db(db).to_string();
    }
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Whether trying again may help: the connection was lost, or the server's SQLSTATE says so.
pub fn is_transient(error: &tokio_postgres::Error) -> bool {
    if let Some(db) = error.as_db_error() {
        return ServerError::from_db(db).is_transient();
    }
    error.is_closed() || io_source(error).is_some_and(is_network)
}

fn io_source(error: &tokio_postgres::Error) -> Option<&std::io::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

/// Sorts what tokio-postgres reports during startup. Its error kinds are private: the server's
/// own error, a network error and a closed connection can be told for sure; the rest (SCRAM
/// proof, channel binding, missing password) concerns authentication and is definite.
fn sort(info: &ConnInfo, endpoint: &Endpoint, error: &tokio_postgres::Error) -> ConnectError {
    let host = endpoint.name();
    if let Some(db) = error.as_db_error() {
        return refused(info, endpoint, ServerError::from_db(db));
    }
    if error.is_closed() {
        let source = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        return ConnectError::Io { host, source };
    }
    match io_source(error) {
        Some(io) if is_network(io) => {
            ConnectError::Io { host, source: std::io::Error::new(io.kind(), io.to_string()) }
        }
        _ => {
            let text = describe(error);
            let reason = if endpoint.password.is_none() && text.contains("password missing") {
                AuthError::NoPassword
            } else if info.channel_binding == ChannelBinding::Require
                && text.contains("did not use channel binding")
            {
                AuthError::NoChannelBinding
            } else if text.contains("parsing") || text.contains("unexpected message") {
                let source = ProtocolError::Other(text);
                return ConnectError::Protocol { host, source };
            } else {
                AuthError::Exchange(text)
            };
            ConnectError::Authentication { user: info.user().to_owned(), host, reason }
        }
    }
}
