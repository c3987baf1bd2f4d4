//! The replication connection: ours, because tokio-postgres has no replication mode.
//!
//! ```text
//! connect --> ReplicationConnection --copy_both--> CopyBoth --finish--> ReplicationConnection
//!               simple_query                         next_frame, queue/flush
//! ```
//!
//! All bytes pass through one [`super::splitter::FrameSplitter`]; a CopyData payload is a slice of the memory that
//! the socket was read into. Nothing here knows what a payload means.
//!
//! Cancellation: every method of [`CopyBoth`] may be dropped at any await. A dropped `simple_query` leaves the connection
//! unusable, and the next call says so.

use std::collections::BTreeMap;
use std::io;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;

use super::auth::{Authenticator, Credentials};
use super::badge;
use super::conninfo::{ConnInfo, Host};
use super::error::{AuthError, ConnectError, ProtocolError, ServerError, WireError};
use super::establish::{Endpoint, STATE_SQL, ServerState, Startup, establish, refused};
use super::link::Link;
use super::settings;
use super::transport::Transport;

pub use super::copy_both::CopyBoth;

/// CopyBothResponse, unknown to `postgres_protocol`.
const COPY_BOTH_TAG: u8 = b'W';
pub(super) const COPY_DATA_TAG: u8 = b'd';
pub(super) const COPY_DONE_TAG: u8 = b'c';

/// A row of a simple query, values as text.
pub type TextRow = Vec<Option<String>>;

/// Its rows.
pub type TextRows = Vec<TextRow>;

/// A connection in `replication=database` mode, between commands.
#[derive(Debug)]
pub struct ReplicationConnection {
    pub(super) link: Link,
    pub(super) info: ServerInfo,
    /// A command was begun and its end not seen.
    pub(super) busy: bool,
}

/// What the server told about itself and the connection.
#[derive(Debug, Clone, Default)]
pub struct ServerInfo {
    /// ParameterStatus values, the latest of each.
    pub parameters: BTreeMap<String, String>,
    /// The server process's id.
    pub process_id: i32,
    /// `server_version_num`; 0 if the server reports none that we can read.
    pub version: u32,
    pub is_tls: bool,
}

impl ReplicationConnection {
    /// Connects as `application_name` with the settings of [`super::settings`] and our [`badge`].
    pub async fn connect(
        info: &ConnInfo,
        application_name: &str,
    ) -> Result<ReplicationConnection, ConnectError> {
        let startup = WireStartup { info, application_name, replication: true };
        establish(info, &startup).await
    }

    /// The same as a plain SQL session: takes none of the server's `max_wal_senders`, and its
    /// results can be read as they come ([`super::copy_out`]), where a `tokio_postgres::Client`
    /// would read them into memory without a bound.
    pub(super) async fn connect_plain(
        info: &ConnInfo,
        application_name: &str,
    ) -> Result<ReplicationConnection, ConnectError> {
        let startup = WireStartup { info, application_name, replication: false };
        establish(info, &startup).await
    }

    pub fn server(&self) -> &ServerInfo {
        &self.info
    }

    pub fn host(&self) -> &Host {
        &self.link.host
    }

    /// Runs one replication command or SQL statement and returns all its rows.
    pub async fn simple_query(&mut self, sql: &str) -> Result<TextRows, WireError> {
        self.begin(sql)?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let frame = self.link.frame().await?;
            let (tag, offset) = (frame.tag, frame.offset);
            match self.link.parse(frame)? {
                Message::DataRow(row) => match text_row(&row) {
                    Ok(row) => rows.push(row),
                    Err(reason) => return Err(self.link.malformed(tag, offset, reason)),
                },
                Message::RowDescription(_)
                | Message::CommandComplete(_)
                | Message::EmptyQueryResponse => {}
                Message::ErrorResponse(body) => {
                    let error = ServerError::from_fields(body.fields())
                        .map_err(|reason| self.link.malformed(tag, offset, reason))?;
                    // FATAL and PANIC end the connection: no ReadyForQuery follows.
                    if error.severity != "ERROR" {
                        return Err(WireError::Server(error));
                    }
                    failure.get_or_insert(error);
                }
                Message::ReadyForQuery(_) => {
                    self.busy = false;
                    return match failure {
                        Some(error) => Err(WireError::Server(error)),
                        None => Ok(rows),
                    };
                }
                message => {
                    if !self.info.note(&message) {
                        return Err(self.link.unexpected(tag, offset, "running a command"));
                    }
                }
            }
        }
    }

    /// Runs a command that turns the connection into a two-way stream (START_REPLICATION).
    ///
    /// On an error the connection is gone: connect again.
    pub async fn copy_both(mut self, command: &str) -> Result<CopyBoth, WireError> {
        self.begin(command)?;
        loop {
            let frame = self.link.frame().await?;
            let (tag, offset) = (frame.tag, frame.offset);
            if tag == COPY_BOTH_TAG {
                return Ok(CopyBoth { connection: self, ended: false });
            }
            match self.link.parse(frame)? {
                Message::ErrorResponse(body) => {
                    return Err(self.link.server_error(tag, offset, &body));
                }
                message => {
                    if !self.info.note(&message) {
                        return Err(self.link.unexpected(tag, offset, "starting replication"));
                    }
                }
            }
        }
    }

    pub(super) fn begin(&mut self, sql: &str) -> Result<(), WireError> {
        if self.busy {
            return Err(self.link.protocol(ProtocolError::Abandoned));
        }
        frontend::query(sql, &mut self.link.out)
            .map_err(|error| self.link.protocol(ProtocolError::Other(error.to_string())))?;
        self.busy = true;
        Ok(())
    }
}

impl ServerInfo {
    /// Takes the messages that a server may send at any time; false for any other.
    pub(super) fn note(&mut self, message: &Message) -> bool {
        match message {
            Message::ParameterStatus(body) => {
                if let (Ok(name), Ok(value)) = (body.name(), body.value()) {
                    if name == "server_version" {
                        self.version = settings::version_number(value).unwrap_or(0);
                    }
                    self.parameters.insert(name.to_owned(), value.to_owned());
                }
                true
            }
            Message::NoticeResponse(body) => {
                if let Ok(notice) = ServerError::from_fields(body.fields()) {
                    tracing::debug!(%notice, "notice on the replication connection");
                }
                true
            }
            Message::NotificationResponse(_) => true,
            _ => false,
        }
    }
}

pub(super) fn text_row(row: &DataRowBody) -> io::Result<TextRow> {
    let buffer = row.buffer();
    row.ranges()
        .map(|range| {
            let Some(range) = range else { return Ok(None) };
            match std::str::from_utf8(&buffer[range]) {
                Ok(text) => Ok(Some(text.to_owned())),
                Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        })
        .collect()
}

struct WireStartup<'a> {
    info: &'a ConnInfo,
    application_name: &'a str,
    replication: bool,
}

impl Startup for WireStartup<'_> {
    type Output = ReplicationConnection;

    async fn start(
        &self,
        transport: Transport,
        endpoint: &Endpoint,
    ) -> Result<ReplicationConnection, ConnectError> {
        let mut server = ServerInfo { is_tls: transport.is_tls(), ..ServerInfo::default() };
        let mut link = Link::new(transport, endpoint.host.clone());
        self.start_link(&mut link, &mut server, endpoint).await.map_err(
            |failure| match failure {
                StartFailure::Connect(error) => error,
                StartFailure::Wire(error) => self.sort(error, endpoint),
            },
        )?;
        let mut connection = ReplicationConnection { link, info: server, busy: false };
        let later = settings::later_sql(connection.info.version);
        let badge = badge::take_sql();
        for command in later.split_inclusive(';').chain([badge.as_str()]) {
            connection.simple_query(command).await.map_err(|error| self.sort(error, endpoint))?;
        }
        Ok(connection)
    }

    async fn state(
        &self,
        connection: &mut ReplicationConnection,
        endpoint: &Endpoint,
    ) -> Result<ServerState, ConnectError> {
        let rows =
            connection.simple_query(STATE_SQL).await.map_err(|error| self.sort(error, endpoint))?;
        let on = |at: usize| {
            let value = rows.first().and_then(|row| row.get(at));
            value.is_some_and(|value| value.as_deref() == Some("t"))
        };
        Ok(ServerState { in_recovery: on(0), read_only: on(1) })
    }
}

/// Startup meets both kinds.
enum StartFailure {
    Connect(ConnectError),
    Wire(WireError),
}

impl From<WireError> for StartFailure {
    fn from(error: WireError) -> StartFailure {
        StartFailure::Wire(error)
    }
}

impl WireStartup<'_> {
    fn sort(&self, error: WireError, endpoint: &Endpoint) -> ConnectError {
        match error {
            WireError::Io { host, source } => ConnectError::Io { host, source },
            WireError::Protocol { host, source } => ConnectError::Protocol { host, source },
            WireError::Server(error) => refused(self.info, endpoint, error),
        }
    }

    /// Startup packet, authentication, parameters, up to the first ReadyForQuery.
    async fn start_link(
        &self,
        link: &mut Link,
        server: &mut ServerInfo,
        endpoint: &Endpoint,
    ) -> Result<(), StartFailure> {
        let info = self.info;
        let mut parameters = vec![
            ("user", info.user()),
            ("database", info.dbname()),
            ("application_name", self.application_name),
        ];
        if self.replication {
            parameters.push(("replication", "database"));
        }
        if let Some(options) = &info.options {
            parameters.push(("options", options));
        }
        parameters.extend_from_slice(settings::EVERY_VERSION);
        frontend::startup_message(parameters, &mut link.out)
            .map_err(|error| link.protocol(ProtocolError::Other(error.to_string())))?;

        let end_point = link.transport.end_point().map(<[u8]>::to_vec);
        let mut authenticator = Authenticator::new(Credentials {
            user: info.user(),
            password: endpoint.password.as_ref(),
            channel_binding: info.channel_binding,
            end_point: end_point.as_deref(),
        });
        let mut authenticated = false;
        loop {
            let frame = link.frame().await?;
            let (tag, offset) = (frame.tag, frame.offset);
            let message = link.parse(frame)?;
            if !authenticated && server.note(&message) {
                continue;
            }
            if !authenticated {
                authenticated = authenticator
                    .receive(message, &mut link.out)
                    .map_err(|reason| self.refusal(reason, endpoint))?;
                continue;
            }
            match message {
                Message::BackendKeyData(body) => server.process_id = body.process_id(),
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ErrorResponse(body) => {
                    return Err(link.server_error(tag, offset, &body).into());
                }
                message => {
                    if !server.note(&message) {
                        return Err(link.unexpected(tag, offset, "starting up").into());
                    }
                }
            }
        }
    }

    fn refusal(&self, reason: AuthError, endpoint: &Endpoint) -> StartFailure {
        StartFailure::Connect(match reason {
            // Before authentication a server may also say "too many connections" or "starting up".
            AuthError::Refused(error) => refused(self.info, endpoint, error),
            reason => ConnectError::Authentication {
                user: self.info.user().to_owned(),
                host: endpoint.name(),
                reason,
            },
        })
    }
}
