//! One client and its session: commands and answers passed on in full flight, brought to rest, held,
//! moved.
//!
//! A wakeup costs a read and a write for each direction that has something, from one buffer that all
//! sessions of a thread share. A session that does nothing holds no buffer.

mod change_user;
mod moving;
mod rest;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use decoders::mysql::server::RawConnection;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;

use super::Shared;
use super::hello::Hello;
use super::inspect::Memory;
use super::listener::LoggedIn;
use super::places::Entry;
use super::talk::{Step, Talk, WHOLE_MAX};
use super::users::{Credential, Shown};
use crate::proxy::gate::{Gate, Presence, Standing};
use crate::proxy::named::UnderWay;
use crate::proxy::pump::{Leftover, Pumped};
use crate::proxy::stream::ClientStream;
use crate::side::Side;

/// Bytes of one read.
const SCRATCH: usize = 64 << 10;
/// Most bytes of a client that are taken in before they can be passed on: a command that is looked at
/// as a whole, and some that was sent ahead.
const INBOX_MAX: usize = WHOLE_MAX + (64 << 10);
/// How long a busy client has to be quiet to be asked what its session carries. A client that asks the
/// server about its last statement does that sooner.
const QUIET: Duration = Duration::from_millis(50);
/// What a session may keep of its buffers once they are empty.
const KEPT: usize = 16 << 10;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// A client that has logged in.
pub(super) struct Session {
    shared: Arc<Shared>,
    presence: Presence,
    /// The gate as this session knows it.
    gate: Gate,
    surveyed: u64,
    /// It is still to be asked what it carries, once the client is quiet.
    survey_due: bool,
    /// How long the client has to be quiet for that.
    quiet: Option<Pin<Box<Sleep>>>,
    /// Since when it has not been at rest, as far as anybody has looked.
    busy_since: Option<Instant>,
    hello: Hello,
    shown: Shown,
    place: Entry,

    client: ClientStream,
    /// The client's bytes that were not passed on yet.
    inbox: BytesMut,
    to_client: Leftover,

    server: RawConnection,
    side: Side,
    to_server: Leftover,
    /// The server has closed the connection while nothing was under way.
    lost: bool,
    /// It was held and has not been looked after since.
    was_held: bool,

    talk: Talk,
    /// What the server said that the session carries, and whether the client has talked since.
    memory: Option<Result<Memory, String>>,
    talked: bool,
    /// With what it would log in elsewhere.
    credential: Option<Credential>,
    /// COM_CHANGE_USER that waits to be carried out: its number and body.
    change_user: Option<(u8, Vec<u8>)>,
}

/// Why passing on has stopped.
#[derive(Debug)]
enum Stopped {
    /// The gate has changed.
    Gate,
    /// The client is gone.
    Client,
    /// The server is gone.
    Server,
    /// Nothing is under way.
    Rest,
    /// The client wants to be another user.
    ChangeUser,
}

impl Session {
    /// A client that was let in.
    pub fn new(shared: Arc<Shared>, presence: Presence, arrival: LoggedIn) -> Self {
        let gate = shared.gates.now();
        let talk = Talk::new(arrival.hello.ends_with_ok(), arrival.admitted.status);
        let mut to_client = Leftover::default();
        // The server's last word, as there is nothing that it could answer yet.
        to_client.bytes = arrival.rest;
        Self {
            // Who comes after a survey is no part of it.
            surveyed: gate.survey,
            survey_due: false,
            quiet: None,
            busy_since: None,
            gate,
            shared,
            presence,
            hello: arrival.hello,
            shown: arrival.admitted.shown,
            place: arrival.place,
            client: arrival.client,
            inbox: BytesMut::from(&arrival.early[..]),
            to_client,
            server: arrival.server,
            side: arrival.side,
            to_server: Leftover::default(),
            lost: false,
            was_held: false,
            talk,
            memory: None,
            talked: false,
            credential: None,
            change_user: None,
        }
    }

    /// Until the client leaves.
    ///
    /// # Errors
    /// One of the two connections broke, or spoke something else.
    pub async fn run(mut self) -> io::Result<()> {
        loop {
            self.gate = self.shared.gates.now();
            let stopped = if self.gate.hold.is_some() || self.gate.side != self.side || self.lost {
                self.stand_still().await?
            } else if self.was_held {
                self.was_held = false;
                self.look_after_server().await;
                None
            } else if self.gate.survey != self.surveyed {
                self.survey(self.talk.is_quiet()).await;
                None
            } else if let Some((seq, body)) = self.change_user.take() {
                self.become_another(seq, &body).await?
            } else {
                self.seen(Standing::Free);
                match std::future::poll_fn(|cx| self.poll_flight(cx)).await? {
                    Stopped::Rest => {
                        self.survey(true).await;
                        None
                    }
                    stopped => Some(stopped),
                }
            };
            match stopped {
                None | Some(Stopped::Gate | Stopped::Rest | Stopped::ChangeUser) => {}
                Some(Stopped::Client) => return Ok(()),
                Some(Stopped::Server) => return self.server_gone().await,
            }
        }
    }

    fn seen(&self, standing: Standing) {
        self.shared.gates.seen(&self.presence.handle, self.gate.generation, standing);
    }

    /// Passes bytes on until the gate changes.
    fn poll_flight(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stopped>> {
        BUFFER.with_borrow_mut(|scratch| {
            loop {
                if !self.shared.gates.is_at(self.gate.generation) {
                    return Poll::Ready(Ok(Stopped::Gate));
                }
                let down = self.pump_down(cx, scratch)?;
                let up = self.take_in(cx, scratch)?;
                let step = self.pass_on(cx, true)?;
                if self.change_user.is_some() {
                    return Poll::Ready(Ok(Stopped::ChangeUser));
                }
                match (down, up, step) {
                    (Pumped::Ended, ..) => return Poll::Ready(Ok(Stopped::Server)),
                    (_, Pumped::Ended, false) => return Poll::Ready(Ok(Stopped::Client)),
                    (Pumped::Idle, Pumped::Idle, false) => {
                        self.shrink();
                        self.note_rest();
                        if self.survey_due && self.poll_quiet(cx).is_ready() {
                            return Poll::Ready(Ok(Stopped::Rest));
                        }
                        let generation = self.gate.generation;
                        return self
                            .shared
                            .gates
                            .poll_changed(cx, &self.presence.handle, generation)
                            .map(|()| Ok(Stopped::Gate));
                    }
                    _ => self.quiet = None,
                }
            }
        })
    }

    /// Ready once the client has been quiet for long enough to be asked, and may be.
    fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.may_be_asked() {
            self.quiet = None;
            return Poll::Pending;
        }
        let quiet = self.quiet.get_or_insert_with(|| Box::pin(tokio::time::sleep(QUIET)));
        let ready = quiet.as_mut().poll(cx);
        if ready.is_ready() {
            self.quiet = None;
        }
        ready
    }

    /// Nothing is under way that a question would come between.
    fn may_be_asked(&self) -> bool {
        self.at_rest() && !self.talk.uncertain && self.inbox.is_empty()
    }

    /// Keeps the time at which something was begun.
    fn note_rest(&mut self) {
        match (self.at_rest(), self.busy_since) {
            (true, _) => self.busy_since = None,
            (false, None) => self.busy_since = Some(Instant::now()),
            (false, Some(_)) => {}
        }
    }

    /// Tells what it has under way, for a report.
    fn tell_under_way(&mut self) {
        self.note_rest();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let under_way = self.busy_since.map(|since| UnderWay {
            pid: self.place.id(),
            user: text(&self.hello.user),
            application: text(&self.hello.program().unwrap_or_default()),
            what: self.talk.describe(),
            since,
        });
        self.shared.gates.under_way(&self.presence.handle, under_way);
    }

    /// The server's bytes go to the client.
    fn pump_down(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> io::Result<Pumped> {
        // What is left over goes first; nothing more is taken in before.
        if self.to_client.drain(cx, &mut self.client)?.is_pending() {
            return Ok(Pumped::Idle);
        }
        let mut buffer = ReadBuf::new(scratch);
        if Pin::new(&mut self.server).poll_read(cx, &mut buffer)?.is_pending() {
            return Ok(Pumped::Idle);
        }
        if buffer.filled().is_empty() {
            return Ok(Pumped::Ended);
        }
        self.talk.receive(buffer.filled(), &mut self.to_client.bytes)?;
        self.flush_client(cx)?;
        Ok(Pumped::Moved)
    }

    fn flush_client(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        // What the socket does not take is left over.
        match self.to_client.drain(cx, &mut self.client) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    /// The client's bytes are taken in.
    fn take_in(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> io::Result<Pumped> {
        if self.inbox.len() >= INBOX_MAX {
            return Ok(Pumped::Idle);
        }
        let mut buffer = ReadBuf::new(scratch);
        if Pin::new(&mut self.client).poll_read(cx, &mut buffer)?.is_pending() {
            return Ok(Pumped::Idle);
        }
        if buffer.filled().is_empty() {
            return Ok(Pumped::Ended);
        }
        self.inbox.extend_from_slice(buffer.filled());
        Ok(Pumped::Moved)
    }

    /// Of what was taken in, what may go to the server now. Whether anything did.
    fn pass_on(&mut self, cx: &mut Context<'_>, may_begin: bool) -> io::Result<bool> {
        if self.to_server.drain(cx, &mut self.server)?.is_pending() {
            return Ok(false);
        }
        let (server, client) = (&mut self.to_server.bytes, &mut self.to_client.bytes);
        let (places, side) = (&self.shared.engine.places, self.side);
        let number = |number| places.whom(side, number);
        let step = self.talk.send(&mut self.inbox, server, client, may_begin, &number)?;
        let moved = match step {
            Step::Nothing => false,
            Step::Moved => true,
            Step::ChangeUser(seq, body) => {
                self.change_user = Some((seq, body));
                true
            }
        };
        self.talked |= moved;
        self.flush_client(cx)?;
        match self.to_server.drain(cx, &mut self.server) {
            Poll::Ready(result) => result?,
            Poll::Pending => {}
        }
        Ok(moved)
    }

    fn shrink(&mut self) {
        if self.inbox.is_empty() && self.inbox.capacity() > KEPT {
            self.inbox = BytesMut::new();
        }
    }

    /// Nothing is under way on the server, nothing is on its way there, and no transaction is open.
    fn at_rest(&self) -> bool {
        self.talk.at_rest() && self.to_server.is_empty()
    }
}
