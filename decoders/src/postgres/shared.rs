//! One socket, two speakers: the client library of a session, and whoever speaks past it.
//!
//! A client library asks and awaits one statement after the other. Who writes many small ones wants
//! to send them as one message stream and be answered once, on the same server session, because
//! locks, settings and the open transaction are that session's. So both ends lead to one transport,
//! and only one of them has the turn: the library's end is merely *pending* meanwhile, and its task is
//! woken when the turn comes back.
//!
//! The turn may change only between two statements: nothing of the one speaker's is unanswered, and
//! no byte that the server sent is in the other's buffer. Who takes it sees to that
//! ([`super::pipelined`]).

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::transport::Transport;

/// Who may read and write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Library,
    Other,
}

#[derive(Debug)]
struct Socket {
    transport: Transport,
    turn: Turn,
    /// Of the library's task, which wants to read, to write, or both.
    waiting: Vec<Waker>,
}

/// The client library's end.
#[derive(Debug)]
pub(super) struct LibraryEnd {
    socket: Arc<Mutex<Socket>>,
    /// As of the transport: it can't be lent through the lock.
    end_point: Option<Vec<u8>>,
    is_tls: bool,
}

/// The other speaker's end.
#[derive(Debug)]
pub(super) struct OtherEnd {
    socket: Arc<Mutex<Socket>>,
}

/// Both ends of a transport; the library has the turn.
pub(super) fn share(transport: Transport) -> (LibraryEnd, OtherEnd) {
    let (end_point, is_tls) = (transport.end_point().map(<[u8]>::to_vec), transport.is_tls());
    let socket = Socket { transport, turn: Turn::Library, waiting: Vec::new() };
    let socket = Arc::new(Mutex::new(socket));
    (LibraryEnd { socket: socket.clone(), end_point, is_tls }, OtherEnd { socket })
}

fn lock(socket: &Mutex<Socket>) -> MutexGuard<'_, Socket> {
    // A panic inside of a transport leaves it as broken as any error of it does.
    socket.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LibraryEnd {
    pub fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }

    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Lets the transport be polled if the library has the turn.
    fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut Transport>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut socket = lock(&self.socket);
        if socket.turn == Turn::Other {
            if !socket.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                socket.waiting.push(cx.waker().clone());
            }
            return Poll::Pending;
        }
        poll(Pin::new(&mut socket.transport), cx)
    }
}

impl OtherEnd {
    /// From now on the library waits.
    pub fn take(&self) {
        lock(&self.socket).turn = Turn::Other;
    }

    /// The library may go on.
    pub fn give_back(&self) {
        let mut socket = lock(&self.socket);
        socket.turn = Turn::Library;
        socket.waiting.drain(..).for_each(Waker::wake);
    }

    pub fn is_tls(&self) -> bool {
        lock(&self.socket).transport.is_tls()
    }

    /// Lets the transport be polled; an error without the turn.
    fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut Transport>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut socket = lock(&self.socket);
        if socket.turn == Turn::Library {
            return Poll::Ready(Err(io::Error::other("the client library has the turn")));
        }
        poll(Pin::new(&mut socket.transport), cx)
    }
}

/// The library goes when the session ends; what the other end still has to say nobody waits for.
impl Drop for OtherEnd {
    fn drop(&mut self) {
        self.give_back();
    }
}

macro_rules! stream {
    ($end:ty) => {
        impl AsyncRead for $end {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                self.poll(cx, |transport, cx| transport.poll_read(cx, buffer))
            }
        }

        impl AsyncWrite for $end {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.poll(cx, |transport, cx| transport.poll_write(cx, bytes))
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll(cx, |transport, cx| transport.poll_flush(cx))
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll(cx, |transport, cx| transport.poll_shutdown(cx))
            }
        }
    };
}

stream!(LibraryEnd);
stream!(OtherEnd);
