//! To rest and on hold: a transaction under way comes to its end, nothing further is passed on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use super::{BUFFER, Session, Stopped};
use crate::proxy::gate::Standing;
use crate::proxy::mysql::inspect;
use crate::proxy::mysql::packets::QUIT;
use crate::proxy::pump::Pumped;

impl Session {
    /// The session belongs elsewhere, or is to wait: to rest, and then whatever the gate says.
    /// `None`: look at the gate again.
    pub(super) async fn stand_still(&mut self) -> io::Result<Option<Stopped>> {
        if !self.lost && self.is_settled() && self.talk.uncertain {
            // After an error nobody knows whether a transaction is open.
            self.talk.disturbed = true;
            match inspect::ping(&mut self.server).await {
                Ok(status) => self.talk.set_status(status),
                Err(_) => self.lost = true,
            }
        }
        if !self.lost && !self.at_rest() {
            if self.gate.hold.is_some_and(|hold| hold.cut_busy) {
                return self.cut("its transaction did not end in time").await;
            }
            self.tell_under_way();
            self.seen(Standing::Busy(self.talk.describe()));
            match std::future::poll_fn(|cx| self.poll_to_rest(cx)).await? {
                Stopped::Rest | Stopped::Gate => return Ok(None),
                // In a transaction, which it ends.
                Stopped::ChangeUser => {
                    return match self.change_user.take() {
                        Some((seq, body)) => self.become_another(seq, &body).await,
                        None => Ok(None),
                    };
                }
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
        if self.lost || !self.is_settled() {
            return;
        }
        self.talk.disturbed = true;
        match inspect::ping(&mut self.server).await {
            Ok(status) => self.talk.set_status(status),
            Err(_) => self.lost = true,
        }
    }

    /// Nothing is under way, but a transaction may be open.
    pub(super) fn is_settled(&self) -> bool {
        self.talk.is_settled() && self.to_server.is_empty()
    }

    /// Goes on until nothing is under way, and not a command further.
    fn poll_to_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stopped>> {
        BUFFER.with_borrow_mut(|scratch| {
            loop {
                if self.at_rest() || self.is_settled() && self.talk.uncertain {
                    return Poll::Ready(Ok(Stopped::Rest));
                }
                let down = self.pump_down(cx, scratch)?;
                let up = self.take_in(cx, scratch)?;
                // Of what it sends, what an open transaction needs to come to its end.
                let may_begin = !self.at_rest() && !self.talk.uncertain;
                let step = self.pass_on(cx, may_begin)?;
                if self.change_user.is_some() {
                    return Poll::Ready(Ok(Stopped::ChangeUser));
                }
                match (down, up, step) {
                    (Pumped::Ended, ..) => return Poll::Ready(Ok(Stopped::Server)),
                    (_, Pumped::Ended, false) => return Poll::Ready(Ok(Stopped::Client)),
                    (Pumped::Idle, Pumped::Idle, false) => {
                        if self.at_rest() || self.is_settled() && self.talk.uncertain {
                            continue;
                        }
                        let generation = self.gate.generation;
                        return self
                            .shared
                            .gates
                            .poll_changed(cx, &self.presence.handle, generation)
                            .map(|()| Ok(Stopped::Gate));
                    }
                    _ => {}
                }
            }
        })
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
            if self.inbox.starts_with(&QUIT) {
                return Poll::Ready(Ok(Stopped::Client));
            }
            if self.to_client.drain(cx, &mut self.client)?.is_pending() {
                tracing::trace!("a held client does not read");
            }
            while !self.lost {
                let mut buffer = ReadBuf::new(scratch);
                match Pin::new(&mut self.server).poll_read(cx, &mut buffer) {
                    Poll::Pending => break,
                    // Nobody has asked for anything: the session was ended, which is not the
                    // client's concern while it has nothing under way.
                    Poll::Ready(_) => self.lost = true,
                }
            }
            let generation = self.gate.generation;
            self.shared
                .gates
                .poll_changed(cx, &self.presence.handle, generation)
                .map(|()| Ok(Stopped::Gate))
        })
    }
}
