//! The bytes of a replication connection: one socket, one input buffer, one output buffer.
//!
//! Reading and writing are cancel-safe: received bytes stay in the splitter, unsent ones in `out`.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::{ErrorResponseBody, Message};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::conninfo::Host;
use super::error::{ProtocolError, ServerError, WireError};
use super::splitter::{Frame, FrameSplitter};
use super::transport::Transport;

/// Socket, input and output buffer.
#[derive(Debug)]
pub(super) struct Link {
    pub transport: Transport,
    pub host: Host,
    pub splitter: FrameSplitter,
    pub out: BytesMut,
    /// Bytes were given to the transport that it may still hold (TLS records).
    unflushed: bool,
}

impl Link {
    pub fn new(transport: Transport, host: Host) -> Link {
        Link {
            transport,
            host,
            splitter: FrameSplitter::new(),
            out: BytesMut::new(),
            unflushed: false,
        }
    }

    pub fn buffered_frame(&mut self) -> Result<Option<Frame>, WireError> {
        self.splitter.next_frame().map_err(|error| self.protocol(error.into()))
    }

    pub async fn frame(&mut self) -> Result<Frame, WireError> {
        loop {
            if let Some(frame) = self.buffered_frame()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// Reads at least one byte, and everything that is there; sends output meanwhile.
    pub async fn fill(&mut self) -> Result<(), WireError> {
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

    pub async fn flush(&mut self) -> Result<(), WireError> {
        let result = poll_fn(|cx| self.poll_flush(cx)).await;
        result.map_err(|source| self.io(source))
    }

    /// Sends all output; takes in what comes meanwhile, because a server that waits for us to read
    /// does not read either.
    pub async fn push(&mut self) -> Result<(), WireError> {
        let result = poll_fn(|cx| {
            loop {
                if let Poll::Ready(flushed) = self.poll_flush(cx) {
                    return Poll::Ready(flushed);
                }
                ready!(self.poll_fill(cx))?;
            }
        });
        result.await.map_err(|source| self.io(source))
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

    pub fn parse(&self, frame: Frame) -> Result<Message, WireError> {
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

    pub fn protocol(&self, source: ProtocolError) -> WireError {
        let host = self.host.to_string();
        WireError::Protocol { host, source }
    }

    pub fn malformed(&self, tag: u8, offset: u64, reason: io::Error) -> WireError {
        self.protocol(ProtocolError::Malformed { tag, offset, reason })
    }

    pub fn unexpected(&self, tag: u8, offset: u64, during: &'static str) -> WireError {
        self.protocol(ProtocolError::Unexpected { tag, offset, during })
    }

    pub fn server_error(&self, tag: u8, offset: u64, body: &ErrorResponseBody) -> WireError {
        match ServerError::from_fields(body.fields()) {
            Ok(error) => WireError::Server(error),
            Err(reason) => self.malformed(tag, offset, reason),
        }
    }
}
