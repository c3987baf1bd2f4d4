//! A connection before its first byte: hosts, addresses and TLS as the connection string says, and
//! nothing spoken yet. For those who bring their own protocol, such as a proxy.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::conninfo::{ConnInfo, Host};
use super::error::ConnectError;
use super::establish::open_first;
use super::transport::Transport;

/// Bytes to and from a server; TLS, if any, is up.
#[derive(Debug)]
pub struct RawConnection {
    transport: Transport,
    host: Host,
}

/// Connects to the first host that answers. `target_session_attrs` is not looked at: finding out
/// takes a login.
///
/// # Errors
/// [`ConnectError`] of each host that was tried.
pub async fn connect(info: &ConnInfo) -> Result<RawConnection, ConnectError> {
    let (transport, host) = open_first(info).await?;
    Ok(RawConnection { transport, host })
}

impl RawConnection {
    /// The host that was reached, of those in the connection string.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Whether whoever answers is known to be the server: its certificate was checked, or it is this host.
    pub fn is_verified(&self) -> bool {
        self.host.is_here() || matches!(self.transport, Transport::Tls { is_verified: true, .. })
    }

    /// Whether the bytes are encrypted.
    pub fn is_tls(&self) -> bool {
        self.transport.is_tls()
    }
}

impl AsyncRead for RawConnection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_read(cx, buffer)
    }
}

impl AsyncWrite for RawConnection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}
