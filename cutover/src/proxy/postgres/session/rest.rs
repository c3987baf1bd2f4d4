//! To rest and on hold: a transaction under way comes to its end, nothing further is passed on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use super::{BUFFER, Session, Stopped};
use crate::proxy::gate::Standing;
use crate::proxy::postgres::frames::Malformed;
use crate::proxy::postgres::inspect;
use crate::proxy::postgres::messages;
use crate::proxy::postgres::talk::FromClient;
use crate::proxy::pump::Pumped;

/// Most bytes of a client that are taken in while it is held.
const HELD_MAX: usize = 64 << 10;

impl Session {
    /// The session belongs elsewhere, or is to wait: to rest, and then whatever the gate says.
    /// `None`: look at the gate again.
    pub(super) async fn stand_still(&mut self) -> io::Result<Option<Stopped>> {
        if !self.lost && !self.can_wait() {
            if self.gate.hold.is_some_and(|hold| hold.cut_busy) {
                return self.cut("its transaction did not end in time").await;
            }
            self.tell_under_way();
            self.seen(Standing::Busy(self.talk.turns.describe()));
            match std::future::poll_fn(|cx| self.poll_to_rest(cx)).await? {
                Stopped::Rest => {}
                Stopped::Gate => return Ok(None),
                gone => return Ok(Some(gone)),
            }
        }
        let pin = self.obstacle().await;
        self.shared.gates.pinned(&self.presence.handle, pin.clone());
        self.survey_due = false;
        self.shared.gates.unasked(&self.presence.handle, false);
        self.tell_under_way();
        self.seen(Standing::Held);
        // A lost server is replaced on the same side once clients may go on there.
        let elsewhere = self.gate.side != self.side;
        if elsewhere || (self.lost && self.gate.hold.is_none()) {
            return match pin {
                Some(why) => self.cut(&why).await,
                None => self.relocate().await,
            };
        }
        self.was_held = true;
        match std::future::poll_fn(|cx| self.poll_held(cx)).await? {
            Stopped::Gate => Ok(None),
            gone => Ok(Some(gone)),
        }
    }

    /// A fence may have ended the server's session while the client was held, and the news may not
    /// have come yet. So before anything is passed on again, the server has to answer.
    pub(super) async fn look_after_server(&mut self) {
        // A stream is its own sign of life.
        if self.is_streaming() {
            return;
        }
        if !self.lost && inspect::ping(&mut self.server, &mut self.aside).await.is_err() {
            self.lost = true;
        }
        self.heed_farewell();
    }

    /// An error that nobody has asked for is a server's last word: that its session was ended. Not
    /// the client's concern while it has nothing under way.
    pub(super) fn heed_farewell(&mut self) {
        if messages::has_error(&self.aside) {
            self.lost = true;
        }
        if self.lost {
            self.aside.clear();
        }
    }

    /// Goes on until nothing is under way, and not a message further.
    fn poll_to_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stopped>> {
        BUFFER.with_borrow_mut(|scratch| {
            loop {
                if self.can_wait() {
                    return Poll::Ready(Ok(Stopped::Rest));
                }
                let down = self.pump_down(cx, scratch)?;
                if matches!(down, Pumped::Ended) {
                    return Poll::Ready(Ok(Stopped::Server));
                }
                let up = self.take_in(cx, scratch)?;
                if matches!(up, Pumped::Ended) {
                    return Poll::Ready(Ok(Stopped::Client));
                }
                let let_through = self.let_through()?;
                let drained = self.to_server.drain(cx, &mut self.server)?;
                let idle = matches!((down, up), (Pumped::Idle, Pumped::Idle));
                if idle && !let_through && !(drained.is_ready() && self.can_wait()) {
                    let generation = self.gate.generation;
                    return self
                        .shared
                        .gates
                        .poll_changed(cx, &self.presence.handle, generation)
                        .map(|()| Ok(Stopped::Gate));
                }
            }
        })
    }

    /// The client's bytes are taken in and kept.
    fn take_in(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> io::Result<Pumped> {
        if self.held.len() >= HELD_MAX {
            return Ok(Pumped::Idle);
        }
        let mut buffer = ReadBuf::new(scratch);
        if Pin::new(&mut self.client).poll_read(cx, &mut buffer)?.is_pending() {
            return Ok(Pumped::Idle);
        }
        if buffer.filled().is_empty() {
            return Ok(Pumped::Ended);
        }
        self.held.extend_from_slice(buffer.filled());
        Ok(Pumped::Moved)
    }

    /// Of what was kept, what an open transaction needs to come to its end.
    fn let_through(&mut self) -> io::Result<bool> {
        let mut end = 0;
        loop {
            let turns = &self.talk.turns;
            let is_enough = turns.at_rest() || turns.must_wait() || turns.is_streaming();
            if self.up.at_boundary() && is_enough {
                break;
            }
            let rest = &self.held[end..];
            let broken = |error: Malformed| messages::invalid(error.to_string());
            let length = self.up.until_boundary(rest).map_err(broken)?;
            if length == 0 {
                break;
            }
            self.up.scan(&rest[..length], &mut FromClient(&mut self.talk)).map_err(broken)?;
            end += length;
        }
        if end > 0 {
            self.to_server.bytes.extend_from_slice(&self.held[..end]);
            self.held.drain(..end);
            self.talked = true;
        }
        Ok(end > 0)
    }

    /// Waits for the gate. The client may leave, and the server may close.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stopped>> {
        BUFFER.with_borrow_mut(|scratch| {
            loop {
                match self.take_in(cx, scratch)? {
                    Pumped::Moved => {}
                    Pumped::Ended => return Poll::Ready(Ok(Stopped::Client)),
                    Pumped::Idle => break,
                }
            }
            // Terminate.
            if self.up.at_boundary() && self.held.first() == Some(&b'X') {
                return Poll::Ready(Ok(Stopped::Client));
            }
            if self.to_client.drain(cx, &mut self.client)?.is_pending() {
                tracing::trace!("a held client does not read");
            }
            // A stream waits in the server's socket.
            while !self.lost && !self.is_streaming() && self.aside.len() < HELD_MAX {
                let mut buffer = ReadBuf::new(scratch);
                match Pin::new(&mut self.server).poll_read(cx, &mut buffer) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                        self.aside.extend_from_slice(buffer.filled());
                    }
                    Poll::Ready(_) => self.lost = true,
                }
            }
            self.heed_farewell();
            let generation = self.gate.generation;
            self.shared
                .gates
                .poll_changed(cx, &self.presence.handle, generation)
                .map(|()| Ok(Stopped::Gate))
        })
    }
}
