//! The bytes' way to a server: TCP, Unix socket, or TLS over TCP, as one stream type.

use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_rustls::client;

use super::conninfo::TcpLiveness;
use super::shared::{LibraryEnd, OtherEnd};

/// Where exactly to connect: one address of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A connected stream; TLS, if any, is up.
#[derive(Debug)]
pub(super) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls {
        stream: Box<client::TlsStream<TcpStream>>,
        /// `tls-server-end-point` data (RFC 5929).
        end_point: Option<Vec<u8>>,
        /// The certificate was held against roots that are trusted.
        is_verified: bool,
    },
    /// One of those, as the client library has it when it is not the only speaker.
    Library(LibraryEnd),
    /// The same, as the other speaker has it.
    Other(OtherEnd),
}

impl Transport {
    /// `tls-server-end-point` data for SCRAM-SHA-256-PLUS.
    pub fn end_point(&self) -> Option<&[u8]> {
        match self {
            Transport::Tcp(_) | Transport::Unix(_) | Transport::Other(_) => None,
            Transport::Tls { end_point, .. } => end_point.as_deref(),
            Transport::Library(end) => end.end_point(),
        }
    }

    pub fn is_tls(&self) -> bool {
        match self {
            Transport::Tcp(_) | Transport::Unix(_) => false,
            Transport::Tls { .. } => true,
            Transport::Library(end) => end.is_tls(),
            Transport::Other(end) => end.is_tls(),
        }
    }
}

/// Connects and sets the socket up so that a vanished peer is noticed.
pub(super) async fn connect_tcp(
    address: SocketAddr,
    liveness: &TcpLiveness,
) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    if liveness.keepalives {
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(liveness.keepalive_idle)
                .with_interval(liveness.keepalive_interval)
                .with_retries(liveness.keepalive_count),
        )?;
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(liveness.user_timeout)?;
    Ok(stream)
}

pub(super) async fn connect_unix(path: &PathBuf) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

/// Asks for TLS (PostgreSQL manual, "SSL Session Encryption"). Reads exactly the one byte of the
/// answer: anything a man in the middle put behind it goes into the handshake, and fails there.
pub(super) async fn request_tls(stream: &mut TcpStream) -> io::Result<u8> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    stream.write_all(&SSL_REQUEST).await?;
    stream.read_u8().await
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Tls { stream, .. } => Pin::new(stream).poll_read(cx, buffer),
            Transport::Library(end) => Pin::new(end).poll_read(cx, buffer),
            Transport::Other(end) => Pin::new(end).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls { stream, .. } => Pin::new(stream).poll_write(cx, bytes),
            Transport::Library(end) => Pin::new(end).poll_write(cx, bytes),
            Transport::Other(end) => Pin::new(end).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls { stream, .. } => Pin::new(stream).poll_flush(cx),
            Transport::Library(end) => Pin::new(end).poll_flush(cx),
            Transport::Other(end) => Pin::new(end).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls { stream, .. } => Pin::new(stream).poll_shutdown(cx),
            Transport::Library(end) => Pin::new(end).poll_shutdown(cx),
            Transport::Other(end) => Pin::new(end).poll_shutdown(cx),
        }
    }
}

impl TlsStream for Transport {
    fn channel_binding(&self) -> ChannelBinding {
        match self.end_point() {
            Some(hash) => ChannelBinding::tls_server_end_point(hash.to_vec()),
            None => ChannelBinding::none(),
        }
    }
}

/// Hands a transport to tokio-postgres as it is. tokio-postgres is told to negotiate "directly",
/// so that it sends no request of its own and takes the stream (TLS or not) from here: the
/// sslmode's rules are then in one place for both kinds of connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Negotiated;

impl TlsConnect<Transport> for Negotiated {
    type Stream = Transport;
    type Error = io::Error;
    type Future = Ready<io::Result<Transport>>;

    fn connect(self, stream: Transport) -> Self::Future {
        ready(Ok(stream))
    }
}
