//! One client and its session: bytes passed on in full flight, brought to rest, held, moved.
//!
//! In full flight a wakeup costs a read and a write for each direction that has something, from
//! one buffer that all sessions of a thread share; messages are looked at by their headers. So a
//! session that does nothing holds no buffer.

mod moving;
mod rest;

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use decoders::postgres::raw::RawConnection;

use super::Shared;
use super::admit::Admitted;
use super::cancel::{Entry, Place};
use super::frames::{Malformed, Scanner, Sink};
use super::inspect::Memory;
use super::login::Credential;
use super::messages;
use super::startup::Startup;
use super::talk::{FromClient, FromServer, Talk};
use super::users::Shown;
use crate::proxy::config::UserTypes;
use crate::proxy::gate::{Gate, Presence, Standing};
use crate::proxy::named::UnderWay;
use crate::proxy::pump::{Leftover, Pumped, pump};
use crate::proxy::stream::ClientStream;
use crate::side::Side;

/// Bytes of one read.
const SCRATCH: usize = 64 << 10;

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
    /// It is still to be asked what it carries, once there is a moment for it.
    survey_due: bool,
    /// Since when it has not been at rest, as far as anybody has looked.
    busy_since: Option<Instant>,
    startup: Startup,
    shown: Shown,
    cancel: Entry,

    client: ClientStream,
    up: Scanner,
    to_client: Leftover,

    server: RawConnection,
    side: Side,
    down: Scanner,
    to_server: Leftover,
    /// The server has closed the connection while nothing was under way.
    lost: bool,
    /// It was held and has not been looked after since.
    was_held: bool,

    talk: Talk,
    /// What the server said that the session carries, and whether the client has talked since.
    memory: Option<Result<Memory, String>>,
    talked: bool,
    /// With what it would log in elsewhere; as old as the memory.
    credential: Option<Credential>,
    /// Bytes of the client that are not passed on yet.
    held: Vec<u8>,
    /// Bytes of the server likewise.
    aside: Vec<u8>,
}

/// Why passing on has stopped.
enum Stopped {
    /// The gate has changed.
    Gate,
    /// The client is gone.
    Client,
    /// The server is gone.
    Server,
    /// Nothing is under way.
    Rest,
}

impl Session {
    /// A client that was let in on `side`.
    #[expect(clippy::too_many_arguments, reason = "what a login leaves behind")]
    pub fn new(
        shared: Arc<Shared>,
        presence: Presence,
        startup: Startup,
        client: ClientStream,
        server: RawConnection,
        side: Side,
        admitted: Admitted,
        early: Vec<u8>,
    ) -> Self {
        let place = Place { side, host: server.host().clone(), key: admitted.key };
        let gate = shared.gates.now();
        let mut talk = Talk::new(admitted.parameters);
        if shared.config.user_types == UserTypes::Cut {
            talk.look_at_results();
        }
        Self {
            // Who comes after a survey is no part of it.
            surveyed: gate.survey,
            survey_due: false,
            busy_since: None,
            gate,
            cancel: shared.engine.cancels.enter(place),
            shared,
            presence,
            startup,
            shown: admitted.shown,
            client,
            up: Scanner::default(),
            to_client: Leftover::default(),
            server,
            side,
            down: Scanner::default(),
            to_server: Leftover::default(),
            lost: false,
            was_held: false,
            talk,
            memory: None,
            talked: false,
            credential: None,
            held: early,
            aside: admitted.rest,
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
                self.survey().await;
                None
            } else {
                self.resume()?;
                self.seen(Standing::Free);
                match std::future::poll_fn(|cx| self.poll_flight(cx)).await? {
                    Stopped::Rest => {
                        self.survey().await;
                        None
                    }
                    stopped => Some(stopped),
                }
            };
            match stopped {
                None | Some(Stopped::Gate | Stopped::Rest) => {}
                Some(Stopped::Client) => return Ok(()),
                Some(Stopped::Server) => return self.server_gone().await,
            }
        }
    }

    fn seen(&self, standing: Standing) {
        self.shared.gates.seen(&self.presence.handle, self.gate.generation, standing);
    }

    /// Keeps the time at which something was begun.
    fn note_rest(&mut self, is_at_rest: bool) {
        match (is_at_rest, self.busy_since) {
            (true, _) => self.busy_since = None,
            (false, None) => self.busy_since = Some(Instant::now()),
            (false, Some(_)) => {}
        }
    }

    /// What it has under way, for a report. Nothing holds up a stream of replication, nor does one
    /// hold up anything.
    fn under_way(&mut self) -> Option<UnderWay> {
        let can_wait = self.can_wait();
        self.note_rest(can_wait);
        let since = self.busy_since?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let application = self.talk.parameter(b"application_name");
        Some(UnderWay {
            pid: self.cancel.server_pid(),
            user: text(self.startup.user()),
            application: text(application.unwrap_or_default()),
            what: self.talk.turns.describe(),
            since,
        })
    }

    fn tell_under_way(&mut self) {
        let under_way = self.under_way();
        self.shared.gates.under_way(&self.presence.handle, under_way);
    }

    /// Passes bytes on until the gate changes, or until there is a moment for a survey.
    fn poll_flight(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stopped>> {
        BUFFER.with_borrow_mut(|scratch| {
            loop {
                if !self.shared.gates.is_at(self.gate.generation) {
                    return Poll::Ready(Ok(Stopped::Gate));
                }
                let down = self.pump_down(cx, scratch)?;
                if matches!(down, Pumped::Ended) {
                    return Poll::Ready(Ok(Stopped::Server));
                }
                let up = pump(
                    cx,
                    scratch,
                    &mut self.client,
                    &mut self.server,
                    &mut self.to_server,
                    |bytes| scan(&mut self.up, bytes, &mut FromClient(&mut self.talk)),
                )?;
                match (down, up) {
                    (_, Pumped::Ended) => return Poll::Ready(Ok(Stopped::Client)),
                    (Pumped::Idle, Pumped::Idle) => {
                        let is_at_rest = self.at_rest();
                        self.note_rest(is_at_rest);
                        if is_at_rest && self.survey_due {
                            return Poll::Ready(Ok(Stopped::Rest));
                        }
                        let generation = self.gate.generation;
                        return self
                            .shared
                            .gates
                            .poll_changed(cx, &self.presence.handle, generation)
                            .map(|()| Ok(Stopped::Gate));
                    }
                    (_, Pumped::Moved) => self.talked = true,
                    _ => {}
                }
            }
        })
    }

    fn pump_down(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> io::Result<Pumped> {
        pump(cx, scratch, &mut self.server, &mut self.client, &mut self.to_client, |bytes| {
            scan(&mut self.down, bytes, &mut FromServer(&mut self.talk))
        })
    }

    /// Everything that was put aside goes on its way.
    fn resume(&mut self) -> io::Result<()> {
        let broken = |error: Malformed| messages::invalid(error.to_string());
        if !self.aside.is_empty() {
            let aside = std::mem::take(&mut self.aside);
            self.down.scan(&aside, &mut FromServer(&mut self.talk)).map_err(broken)?;
            self.to_client.bytes.extend_from_slice(&aside);
        }
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            self.up.scan(&held, &mut FromClient(&mut self.talk)).map_err(broken)?;
            self.to_server.bytes.extend_from_slice(&held);
            self.talked = true;
        }
        Ok(())
    }

    /// It may be held: it is at rest, or a stream of replication that is left where it is, between two
    /// of the client's messages.
    fn can_wait(&self) -> bool {
        self.at_rest() || self.is_streaming() && self.to_server.is_empty() && self.up.at_boundary()
    }

    /// The server sends a stream of replication. It never comes to an end by itself, and writes nothing.
    fn is_streaming(&self) -> bool {
        self.talk.turns.is_streaming()
    }

    /// Nothing is under way on the server, and nothing is on its way there.
    fn at_rest(&self) -> bool {
        self.talk.turns.at_rest()
            && self.to_server.is_empty()
            && self.up.at_boundary()
            && self.down.at_boundary()
    }
}

fn scan(scanner: &mut Scanner, bytes: &[u8], sink: &mut impl Sink) -> io::Result<()> {
    scanner.scan(bytes, sink).map_err(|error| messages::invalid(error.to_string()))
}
