//! The replication connection: ours, because tokio-postgres has no replication mode.
//!
//! ```text
//! connect --> ReplicationConnection --copy_both--> CopyBoth --finish--> ReplicationConnection
//!               simple_query                         next_frame, queue/flush
//! ```
//!
//! All bytes pass through one [`FrameSplitter`]; a CopyData payload is a slice of the memory that
//! the socket was read into. Nothing here knows what a payload means.
//!
//! Cancellation: every method of [`CopyBoth`] may be dropped at any await. Received bytes stay in
//! the splitter, unsent ones in the output buffer. A dropped `simple_query` leaves the connection
//! unusable, and the next call says so.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::auth::{Authenticator, Credentials};
use super::conninfo::{ConnInfo, Host};
use super::error::{AuthError, ConnectError, ProtocolError, ServerError, WireError};
use super::establish::{Endpoint, STATE_SQL, ServerState, Startup, establish, refused};
use super::settings;
use super::splitter::{Frame, FrameSplitter};
use super::transport::Transport;

/// CopyBothResponse, unknown to `postgres_protocol`.
const COPY_BOTH_TAG: u8 = b'W';
const COPY_DATA_TAG: u8 = b'd';
const COPY_DONE_TAG: u8 = b'c';

/// Rows of a simple query, values as text.
pub type TextRows = Vec<Vec<Option<String>>>;

/// A connection in `replication=database` mode, between commands.
#[derive(Debug)]
pub struct ReplicationConnection {
    wire: Wire,
    info: ServerInfo,
    /// A command was begun and its end not seen.
    busy: bool,
}

/// What the server told about itself and the connection.
#[derive(Debug, Clone, Default)]
pub struct ServerInfo {
    /// ParameterStatus values, the latest of each.
    pub parameters: BTreeMap<String, String>,
    /// The walsender's process id.
    pub process_id: i32,
    /// `server_version_num`; 0 if the server reports none that we can read.
    pub version: u32,
    pub is_tls: bool,
}

impl ReplicationConnection {
    /// Connects as `application_name` with the settings of [`super::settings`].
    pub async fn connect(
        info: &ConnInfo,
        application_name: &str,
    ) -> Result<ReplicationConnection, ConnectError> {
        let startup = ReplicationStartup { info, application_name };
        establish(info, &startup).await
    }

    pub fn server(&self) -> &ServerInfo {
        &self.info
    }

    pub fn host(&self) -> &Host {
        &self.wire.host
    }

    /// Runs one replication command or SQL statement and returns all its rows.
    pub async fn simple_query(&mut self, sql: &str) -> Result<TextRows, WireError> {
        self.begin(sql)?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let frame = self.wire.frame().await?;
            let (tag, offset) = (frame.tag, frame.offset);
            match self.wire.parse(frame)? {
                Message::DataRow(row) => match text_row(&row) {
                    Ok(row) => rows.push(row),
                    Err(reason) => return Err(self.wire.malformed(tag, offset, reason)),
                },
                Message::RowDescription(_)
                | Message::CommandComplete(_)
                | Message::EmptyQueryResponse => {}
                Message::ErrorResponse(body) => {
                    let error = ServerError::from_fields(body.fields())
                        .map_err(|reason| self.wire.malformed(tag, offset, reason))?;
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
                        return Err(self.wire.unexpected(tag, offset, "running a command"));
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
            let frame = self.wire.frame().await?;
            let (tag, offset) = (frame.tag, frame.offset);
            if tag == COPY_BOTH_TAG {
                return Ok(CopyBoth { connection: self, ended: false });
            }
            match self.wire.parse(frame)? {
                Message::ErrorResponse(body) => {
                    return Err(self.wire.server_error(tag, offset, &body));
                }
                message => {
                    if !self.info.note(&message) {
                        return Err(self.wire.unexpected(tag, offset, "starting replication"));
                    }
                }
            }
        }
    }

    fn begin(&mut self, sql: &str) -> Result<(), WireError> {
        if self.busy {
            return Err(self.wire.protocol(ProtocolError::Abandoned));
        }
        frontend::query(sql, &mut self.wire.out)
            .map_err(|error| self.wire.protocol(ProtocolError::Other(error.to_string())))?;
        self.busy = true;
        Ok(())
    }
}

/// The two-way stream of CopyData after START_REPLICATION.
#[derive(Debug)]
pub struct CopyBoth {
    connection: ReplicationConnection,
    /// The server has ended its side.
    ended: bool,
}

impl CopyBoth {
    /// The payload of the next CopyData; `None` when the server has ended the stream, as it does
    /// on shutdown. Sends queued replies while it waits. Cancel-safe.
    pub async fn next_frame(&mut self) -> Result<Option<Bytes>, WireError> {
        loop {
            match self.take_buffered()? {
                Buffered::Payload(payload) => return Ok(Some(payload)),
                Buffered::Ended => return Ok(None),
                Buffered::Nothing => self.connection.wire.fill().await?,
            }
        }
    }

    /// The same, but only from bytes already received: never touches the socket. `None` says that
    /// no whole frame is there (or that the stream has ended; `next_frame` tells).
    pub fn try_next_buffered(&mut self) -> Result<Option<Bytes>, WireError> {
        match self.take_buffered()? {
            Buffered::Payload(payload) => Ok(Some(payload)),
            Buffered::Ended | Buffered::Nothing => Ok(None),
        }
    }

    /// Bytes received and not yet taken.
    pub fn buffered_len(&self) -> usize {
        self.connection.wire.splitter.buffered_len()
    }

    /// Puts a CopyData message into the output buffer. `flush` or `next_frame` sends it.
    pub fn queue_copy_data(&mut self, payload: &[u8]) -> Result<(), WireError> {
        let wire = &mut self.connection.wire;
        let Ok(length) = i32::try_from(payload.len() + 4) else {
            return Err(wire.protocol(ProtocolError::Other("a reply is too large".to_owned())));
        };
        wire.out.put_u8(COPY_DATA_TAG);
        wire.out.put_i32(length);
        wire.out.put_slice(payload);
        Ok(())
    }

    /// Bytes queued and not yet sent: grows if the server does not read.
    pub fn queued_len(&self) -> usize {
        self.connection.wire.out.len()
    }

    /// Sends what is queued. Cancel-safe: an interrupted flush goes on with the next.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        self.connection.wire.flush().await
    }

    /// Queues and sends one CopyData message.
    pub async fn send_copy_data(&mut self, payload: &[u8]) -> Result<(), WireError> {
        self.queue_copy_data(payload)?;
        self.flush().await
    }

    pub fn server(&self) -> &ServerInfo {
        &self.connection.info
    }

    pub fn host(&self) -> &Host {
        &self.connection.wire.host
    }

    /// Ends the stream in order and gives the connection back. What the server had already sent
    /// is discarded, which is harmless: nothing was acknowledged.
    pub async fn finish(mut self) -> Result<ReplicationConnection, WireError> {
        frontend::copy_done(&mut self.connection.wire.out);
        self.flush().await?;
        loop {
            let frame = self.connection.wire.frame().await?;
            let (tag, offset) = (frame.tag, frame.offset);
            if matches!(tag, COPY_DATA_TAG | COPY_DONE_TAG) {
                continue;
            }
            let connection = &mut self.connection;
            match connection.wire.parse(frame)? {
                Message::CommandComplete(_) => {}
                Message::ReadyForQuery(_) => {
                    self.connection.busy = false;
                    return Ok(self.connection);
                }
                Message::ErrorResponse(body) => {
                    return Err(connection.wire.server_error(tag, offset, &body));
                }
                message => {
                    if !connection.info.note(&message) {
                        return Err(connection.wire.unexpected(tag, offset, "ending the stream"));
                    }
                }
            }
        }
    }

    fn take_buffered(&mut self) -> Result<Buffered, WireError> {
        let connection = &mut self.connection;
        while !self.ended {
            let Some(frame) = connection.wire.buffered_frame()? else {
                return Ok(Buffered::Nothing);
            };
            let (tag, offset) = (frame.tag, frame.offset);
            match tag {
                COPY_DATA_TAG => return Ok(Buffered::Payload(frame.into_body())),
                COPY_DONE_TAG => self.ended = true,
                _ => match connection.wire.parse(frame)? {
                    // A walsender that shuts down ends with CommandComplete and no CopyDone.
                    Message::CommandComplete(_) => self.ended = true,
                    Message::ErrorResponse(body) => {
                        return Err(connection.wire.server_error(tag, offset, &body));
                    }
                    message => {
                        if !connection.info.note(&message) {
                            return Err(connection.wire.unexpected(tag, offset, "streaming"));
                        }
                    }
                },
            }
        }
        Ok(Buffered::Ended)
    }
}

enum Buffered {
    Payload(Bytes),
    Nothing,
    Ended,
}

impl ServerInfo {
    /// Takes the messages that a server may send at any time; false for any other.
    fn note(&mut self, message: &Message) -> bool {
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

/// Socket, input and output buffer.
#[derive(Debug)]
struct Wire {
    transport: Transport,
    host: Host,
    splitter: FrameSplitter,
    out: BytesMut,
    /// Bytes were given to the transport that it may still hold (TLS records).
    unflushed: bool,
}

impl Wire {
    fn new(transport: Transport, host: Host) -> Wire {
        Wire {
            transport,
            host,
            splitter: FrameSplitter::new(),
            out: BytesMut::new(),
            unflushed: false,
        }
    }

    fn buffered_frame(&mut self) -> Result<Option<Frame>, WireError> {
        self.splitter.next_frame().map_err(|error| self.protocol(error.into()))
    }

    async fn frame(&mut self) -> Result<Frame, WireError> {
        loop {
            if let Some(frame) = self.buffered_frame()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// Reads at least one byte, and everything that is there; sends output meanwhile.
    async fn fill(&mut self) -> Result<(), WireError> {
        let result = poll_fn(|cx| self.poll_fill(cx)).await;
        result.map_err(|source| self.io(source))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Both directions in one poll: a server that waits for us to read must not keep us
        // waiting for it to read.
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        let space = self.splitter.read_space();
        let mut received = 0;
        loop {
            // A full block: what was read is worth handling first.
            if space.capacity() == space.len() {
                break;
            }
            // `read_buf` keeps no state between polls, so a dropped one loses nothing.
            let polled = pin!(self.transport.read_buf(space)).poll(cx);
            match polled {
                Poll::Ready(Ok(0)) if received == 0 => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the server closed the connection",
                    )));
                }
                // Frames before an end or an error come first; the next call meets it again.
                Poll::Ready(Ok(0)) => break,
                Poll::Ready(Ok(bytes)) => received += bytes,
                Poll::Ready(Err(error)) if received == 0 => return Poll::Ready(Err(error)),
                Poll::Ready(Err(_)) => break,
                Poll::Pending if received == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    async fn flush(&mut self) -> Result<(), WireError> {
        let result = poll_fn(|cx| self.poll_flush(cx)).await;
        result.map_err(|source| self.io(source))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.is_empty() && !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        while !self.out.is_empty() {
            match ready!(Pin::new(&mut self.transport).poll_write(cx, &self.out))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.out.advance(written),
            }
            self.unflushed = true;
        }
        ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn parse(&self, frame: Frame) -> Result<Message, WireError> {
        let (tag, offset) = (frame.tag, frame.offset);
        match Message::parse(&mut frame.into_raw()) {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(self.malformed(tag, offset, io::ErrorKind::UnexpectedEof.into())),
            Err(reason) => Err(self.malformed(tag, offset, reason)),
        }
    }

    fn io(&self, source: io::Error) -> WireError {
        let host = self.host.to_string();
        // rustls reports a broken record as InvalidData: not something a retry is sure to heal,
        // but a new connection starts with new keys, so it counts as a lost connection.
        WireError::Io { host, source }
    }

    fn protocol(&self, source: ProtocolError) -> WireError {
        let host = self.host.to_string();
        WireError::Protocol { host, source }
    }

    fn malformed(&self, tag: u8, offset: u64, reason: io::Error) -> WireError {
        self.protocol(ProtocolError::Malformed { tag, offset, reason })
    }

    fn unexpected(&self, tag: u8, offset: u64, during: &'static str) -> WireError {
        self.protocol(ProtocolError::Unexpected { tag, offset, during })
    }

    fn server_error(&self, tag: u8, offset: u64, body: &ErrorResponseBody) -> WireError {
        match ServerError::from_fields(body.fields()) {
            Ok(error) => WireError::Server(error),
            Err(reason) => self.malformed(tag, offset, reason),
        }
    }
}

fn text_row(row: &DataRowBody) -> io::Result<Vec<Option<String>>> {
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

struct ReplicationStartup<'a> {
    info: &'a ConnInfo,
    application_name: &'a str,
}

impl Startup for ReplicationStartup<'_> {
    type Output = ReplicationConnection;

    async fn start(
        &self,
        transport: Transport,
        endpoint: &Endpoint,
    ) -> Result<ReplicationConnection, ConnectError> {
        let mut server = ServerInfo { is_tls: transport.is_tls(), ..ServerInfo::default() };
        let mut wire = Wire::new(transport, endpoint.host.clone());
        self.start_wire(&mut wire, &mut server, endpoint).await.map_err(
            |failure| match failure {
                StartFailure::Connect(error) => error,
                StartFailure::Wire(error) => self.sort(error, endpoint),
            },
        )?;
        let mut connection = ReplicationConnection { wire, info: server, busy: false };
        let later = settings::later_sql(connection.info.version);
        for command in later.split_inclusive(';') {
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

impl ReplicationStartup<'_> {
    fn sort(&self, error: WireError, endpoint: &Endpoint) -> ConnectError {
        match error {
            WireError::Io { host, source } => ConnectError::Io { host, source },
            WireError::Protocol { host, source } => ConnectError::Protocol { host, source },
            WireError::Server(error) => refused(self.info, endpoint, error),
        }
    }

    /// Startup packet, authentication, parameters, up to the first ReadyForQuery.
    async fn start_wire(
        &self,
        wire: &mut Wire,
        server: &mut ServerInfo,
        endpoint: &Endpoint,
    ) -> Result<(), StartFailure> {
        let info = self.info;
        let mut parameters = vec![
            ("user", info.user()),
            ("database", info.dbname()),
            ("replication", "database"),
            ("application_name", self.application_name),
        ];
        if let Some(options) = &info.options {
            parameters.push(("options", options));
        }
        parameters.extend_from_slice(settings::EVERY_VERSION);
        frontend::startup_message(parameters, &mut wire.out)
            .map_err(|error| wire.protocol(ProtocolError::Other(error.to_string())))?;

        let end_point = wire.transport.end_point().map(<[u8]>::to_vec);
        let mut authenticator = Authenticator::new(Credentials {
            user: info.user(),
            password: endpoint.password.as_ref(),
            channel_binding: info.channel_binding,
            end_point: end_point.as_deref(),
        });
        let mut authenticated = false;
        loop {
            let frame = wire.frame().await?;
            let (tag, offset) = (frame.tag, frame.offset);
            let message = wire.parse(frame)?;
            if !authenticated && server.note(&message) {
                continue;
            }
            if !authenticated {
                authenticated = authenticator
                    .receive(message, &mut wire.out)
                    .map_err(|reason| self.refusal(reason, endpoint))?;
                continue;
            }
            match message {
                Message::BackendKeyData(body) => server.process_id = body.process_id(),
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ErrorResponse(body) => {
                    return Err(wire.server_error(tag, offset, &body).into());
                }
                message => {
                    if !server.note(&message) {
                        return Err(wire.unexpected(tag, offset, "starting up").into());
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
