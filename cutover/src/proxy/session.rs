//! One client and its session: bytes passed on in full flight, brought to rest, held, moved.
//!
//! In full flight a wakeup costs a read and a write for each direction that has something, from
//! one buffer that all sessions of a thread share; messages are looked at by their headers. So a
//! session that does nothing holds no buffer.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use decoders::postgres::raw::RawConnection;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use super::Shared;
use super::admit::Admitted;
use super::cancel::{Entry, Place};
use super::frames::{Scanner, Sink};
use super::gate::{Gate, Presence, Standing};
use super::inspect::{self, Memory, Unanswered};
use super::messages;
use super::replay;
use super::startup::Startup;
use super::stream::ClientStream;
use super::talk::{FromClient, FromServer, Talk, tell_differences};
use super::turns::Turns;
use super::users::Shown;
use crate::side::Side;

/// Bytes of one read.
const SCRATCH: usize = 64 << 10;
/// Most bytes of a client that are taken in while it is held.
const HELD_MAX: usize = 64 << 10;
/// What a session may keep for leftovers once they are gone.
const KEPT: usize = 16 << 10;
/// How long a move is tried again when the other side says that it can't just now.
const MOVE_MAX: Duration = Duration::from_secs(10);
/// Between two tries.
const MOVE_PAUSE: Duration = Duration::from_millis(20);
/// How long a client that is cut may take to read why.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

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
    /// The server has closed the connection while the client was held.
    lost: bool,

    talk: Talk,
    /// What the server said that the session carries, and whether the client has talked since.
    memory: Option<Result<Memory, String>>,
    talked: bool,
    /// Bytes of the client that are not passed on yet.
    held: Vec<u8>,
    /// Bytes of the server likewise.
    aside: Vec<u8>,
}

/// Bytes that a socket has not taken yet.
#[derive(Debug, Default)]
struct Leftover {
    bytes: Vec<u8>,
    at: usize,
    flushing: bool,
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

enum Pumped {
    Idle,
    Moved,
    Ended,
}

impl Leftover {
    fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Writes what is left. Ready once there is nothing more.
    fn drain(
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
    fn write(
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

/// One read and one write, at most.
fn pump(
    cx: &mut Context<'_>,
    scratch: &mut [u8],
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    left: &mut Leftover,
    scanner: &mut Scanner,
    sink: &mut impl Sink,
) -> io::Result<Pumped> {
    // What is left over goes first; nothing more is taken in before.
    if left.drain(cx, to)?.is_pending() {
        return Ok(Pumped::Idle);
    }
    let mut buffer = ReadBuf::new(scratch);
    if Pin::new(from).poll_read(cx, &mut buffer)?.is_pending() {
        return Ok(Pumped::Idle);
    }
    let bytes = buffer.filled();
    if bytes.is_empty() {
        return Ok(Pumped::Ended);
    }
    scanner.scan(bytes, sink).map_err(|error| messages::invalid(error.to_string()))?;
    left.write(cx, to, bytes)?;
    Ok(Pumped::Moved)
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
        Self {
            gate: shared.gates.now(),
            surveyed: 0,
            cancel: shared.cancels.enter(place),
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
            talk: Talk::new(admitted.parameters),
            memory: None,
            talked: false,
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
            if self.gate.hold.is_none() && self.gate.side == self.side && !self.lost {
                if self.gate.survey != self.surveyed {
                    self.survey().await;
                    continue;
                }
                self.resume()?;
                self.seen(Standing::Free);
                match std::future::poll_fn(|cx| self.poll_flight(cx)).await? {
                    Stopped::Gate | Stopped::Rest => {}
                    Stopped::Client => return Ok(()),
                    Stopped::Server => return self.server_gone().await,
                }
            } else if let Some(end) = self.stand_still().await? {
                return match end {
                    Stopped::Server => self.server_gone().await,
                    _ => Ok(()),
                };
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
                if matches!(down, Pumped::Ended) {
                    return Poll::Ready(Ok(Stopped::Server));
                }
                let up = pump(
                    cx,
                    scratch,
                    &mut self.client,
                    &mut self.server,
                    &mut self.to_server,
                    &mut self.up,
                    &mut FromClient(&mut self.talk),
                )?;
                match (down, up) {
                    (_, Pumped::Ended) => return Poll::Ready(Ok(Stopped::Client)),
                    (Pumped::Idle, Pumped::Idle) => {
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
        pump(
            cx,
            scratch,
            &mut self.server,
            &mut self.client,
            &mut self.to_client,
            &mut self.down,
            &mut FromServer(&mut self.talk),
        )
    }

    /// Everything that was put aside goes on its way.
    fn resume(&mut self) -> io::Result<()> {
        let broken = |error: super::frames::Malformed| messages::invalid(error.to_string());
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

    /// Nothing is under way on the server, and nothing is on its way there.
    fn at_rest(&self) -> bool {
        self.talk.turns.at_rest()
            && self.to_server.is_empty()
            && self.up.at_boundary()
            && self.down.at_boundary()
    }

    /// Looks at what could be moved, if that is possible without disturbing anything.
    async fn survey(&mut self) {
        self.surveyed = self.gate.survey;
        if self.at_rest() && self.held.is_empty() {
            let pin = self.obstacle().await;
            self.shared.gates.pinned(&self.presence.handle, pin);
        }
    }

    /// The session belongs elsewhere, or is to wait: to rest, and then whatever the gate says.
    /// `None`: look at the gate again.
    async fn stand_still(&mut self) -> io::Result<Option<Stopped>> {
        if !self.lost && !self.at_rest() {
            if self.gate.hold.is_some_and(|hold| hold.cut_busy) {
                return self.cut("its transaction did not end in time").await;
            }
            self.seen(Standing::Busy(self.talk.turns.describe()));
            match std::future::poll_fn(|cx| self.poll_to_rest(cx)).await? {
                Stopped::Rest => {}
                Stopped::Gate => return Ok(None),
                gone => return Ok(Some(gone)),
            }
        }
        let pin = self.obstacle().await;
        self.shared.gates.pinned(&self.presence.handle, pin.clone());
        self.seen(Standing::Held);
        // A lost server is replaced on the same side once clients may go on there.
        let elsewhere = self.gate.side != self.side;
        if elsewhere || (self.lost && self.gate.hold.is_none()) {
            return match pin {
                Some(why) => self.cut(&why).await,
                None => self.relocate().await,
            };
        }
        match std::future::poll_fn(|cx| self.poll_held(cx)).await? {
            Stopped::Gate => Ok(None),
            gone => Ok(Some(gone)),
        }
    }

    /// Goes on until nothing is under way, and not a message further.
    fn poll_to_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Stopped>> {
        BUFFER.with_borrow_mut(|scratch| {
            loop {
                if self.at_rest() {
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
                if idle && !let_through && !(drained.is_ready() && self.at_rest()) {
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
            if self.up.at_boundary() && (turns.at_rest() || turns.must_wait()) {
                break;
            }
            let rest = &self.held[end..];
            let broken = |error: super::frames::Malformed| messages::invalid(error.to_string());
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
            while !self.lost && self.aside.len() < HELD_MAX {
                let mut buffer = ReadBuf::new(scratch);
                match Pin::new(&mut self.server).poll_read(cx, &mut buffer) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                        self.aside.extend_from_slice(buffer.filled());
                    }
                    // What it has said last - that it was terminated - is not the client's concern.
                    Poll::Ready(_) => {
                        self.lost = true;
                        self.aside.clear();
                    }
                }
            }
            let generation = self.gate.generation;
            self.shared
                .gates
                .poll_changed(cx, &self.presence.handle, generation)
                .map(|()| Ok(Stopped::Gate))
        })
    }

    /// Why the session can't be moved, if it can't; asks its server if it has to.
    async fn obstacle(&mut self) -> Option<String> {
        if self.startup.is_replication() {
            return Some("a replication connection".to_owned());
        }
        if let Some(obstacle) = self.talk.obstacle() {
            return Some(obstacle.to_owned());
        }
        if !self.lost && (self.memory.is_none() || self.talked) {
            let user = self.startup.user();
            let names = self.talk.customs.names();
            match inspect::ask(&mut self.server, user, names, &mut self.aside).await {
                Ok(memory) => self.memory = Some(Ok(memory)),
                Err(Unanswered::Refused(why)) => {
                    self.memory = Some(Err(format!("it could not be asked: {why}")));
                }
                Err(Unanswered::Lost) => self.lost = true,
            }
            self.talked &= self.lost;
        }
        match &self.memory {
            Some(Ok(_)) if self.talked => {}
            Some(Ok(memory)) if !memory.pins.is_empty() => return Some(memory.pins.join(", ")),
            Some(Ok(_)) => {
                let info = self.shared.ends.of(self.side);
                let credential =
                    self.shared.users.credential(self.startup.user(), &self.shown, info);
                return credential.await.err();
            }
            Some(Err(why)) => return Some(why.clone()),
            None => {}
        }
        Some("its server was gone before it could be asked".to_owned())
    }

    /// Opens the session anew where the gate says, and takes everything along.
    async fn relocate(&mut self) -> io::Result<Option<Stopped>> {
        let Some(Ok(memory)) = &self.memory else {
            return self.cut("its server was gone before it could be asked").await;
        };
        let user = self.startup.user();
        let from = self.shared.ends.of(self.side);
        let credential = match self.shared.users.credential(user, &self.shown, from).await {
            Ok(credential) => credential,
            Err(why) => return self.cut(&why).await,
        };
        let side = self.gate.side;
        let info = self.shared.ends.of(side);
        let deadline = Instant::now() + MOVE_MAX;
        let fresh = loop {
            let unnamed = self.talk.unnamed();
            match replay::open(info, &self.startup, &credential, memory, unnamed).await {
                Ok(fresh) => break fresh,
                Err(error) if error.transient && Instant::now() < deadline => {
                    tracing::debug!("{side} does not take a session yet: {error}");
                    let changed =
                        self.shared.gates.changed(&self.presence.handle, self.gate.generation);
                    if tokio::time::timeout(MOVE_PAUSE, changed).await.is_ok()
                        && self.shared.gates.now().side != side
                    {
                        return Ok(None);
                    }
                }
                Err(error) => return self.cut(&format!("{side} refuses it: {error}")).await,
            }
        };
        self.cancel.moved(Place {
            side,
            host: fresh.server.host().clone(),
            key: fresh.entered.key,
        });
        let mut old = std::mem::replace(&mut self.server, fresh.server);
        self.side = side;
        self.lost = false;
        self.down = Scanner::default();
        self.talk.turns = Turns::new();
        self.aside = fresh.rest;
        tell_differences(&mut self.talk, &fresh.entered.parameters, &mut self.to_client.bytes);
        self.shared.totals.moved.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            // Terminate. The server may be gone, and nobody waits for it.
            let ended = async {
                old.write_all(&[b'X', 0, 0, 0, 4]).await?;
                old.shutdown().await
            };
            if let Ok(Err(error)) = tokio::time::timeout(FAREWELL_MAX, ended).await {
                tracing::trace!("the old session was closed already: {error}");
            }
        });
        Ok(None)
    }

    /// Ends the session with one error that a new connection cures.
    async fn cut(&mut self, why: &str) -> io::Result<Option<Stopped>> {
        self.shared.totals.cut.fetch_add(1, Ordering::Relaxed);
        tracing::info!("a client was cut: {why}");
        // In the middle of a message of the server's nothing else can be said.
        if self.down.at_boundary() {
            let hint = format!(
                "The database is being moved and this session could not be: {why}. Connect again."
            );
            let what = "terminating connection due to administrator command";
            messages::fatal(&mut self.to_client.bytes, "57P01", what, Some(&hint));
        }
        self.farewell().await;
        Ok(Some(Stopped::Client))
    }

    /// The server has closed: its last words are the client's.
    async fn server_gone(mut self) -> io::Result<()> {
        self.farewell().await;
        Ok(())
    }

    async fn farewell(&mut self) {
        let ending = async {
            std::future::poll_fn(|cx| self.to_client.drain(cx, &mut self.client)).await?;
            self.client.shutdown().await
        };
        match tokio::time::timeout(FAREWELL_MAX, ending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("a client was gone first: {error}"),
            Err(_) => tracing::debug!("a client does not read"),
        }
    }
}
