//! Bytes from one socket to the other, and what a socket has not taken yet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a session may keep for leftovers once they are gone.
const KEPT: usize = 16 << 10;

/// Bytes that a socket has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Leftover {
    pub bytes: Vec<u8>,
    at: usize,
    flushing: bool,
}

/// What came of one look at a socket.
pub(super) enum Pumped {
    Idle,
    Moved,
    Ended,
}

impl Leftover {
    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Writes what is left. Ready once there is nothing more.
    pub fn drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while self.at < self.bytes.len() {
            match ready!(Pin::new(&mut *to).poll_write(cx, &self.bytes[self.at..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                wrote => self.at += wrote,
            }
            self.flushing = true;
        }
        if !self.bytes.is_empty() {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
            self.at = 0;
        }
        if self.flushing {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.flushing = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes `bytes`; what the socket does not take is left over. Nothing else is.
    pub fn write(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
        mut bytes: &[u8],
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, bytes)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(wrote) => bytes = &bytes[wrote..],
                Poll::Pending => {
                    self.bytes.extend_from_slice(bytes);
                    break;
                }
            }
        }
        self.flushing = true;
        match self.drain(cx, to) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }
}

/// One read and one write, at most. `scan` looks at the bytes on their way, and may change them.
pub(super) fn pump(
    cx: &mut Context<'_>,
    scratch: &mut [u8],
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    left: &mut Leftover,
    scan: impl FnOnce(&mut [u8]) -> io::Result<()>,
) -> io::Result<Pumped> {
    // What is left over goes first; nothing more is taken in before.
    if left.drain(cx, to)?.is_pending() {
        return Ok(Pumped::Idle);
    }
    let mut buffer = ReadBuf::new(scratch);
    if Pin::new(from).poll_read(cx, &mut buffer)?.is_pending() {
        return Ok(Pumped::Idle);
    }
    let bytes = buffer.filled_mut();
    if bytes.is_empty() {
        return Ok(Pumped::Ended);
    }
    scan(bytes)?;
    left.write(cx, to, bytes)?;
    Ok(Pumped::Moved)
}
