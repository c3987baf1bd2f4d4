//! To the other side, or cut: what stands in the way of a move, and the move itself.

use std::io;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::{Session, Stopped};
use crate::proxy::ending::{self, MOVE_MAX, MOVE_PAUSE};
use crate::proxy::postgres::cancel::Place;
use crate::proxy::postgres::frames::Scanner;
use crate::proxy::postgres::inspect::{self, Question, Unanswered};
use crate::proxy::postgres::messages;
use crate::proxy::postgres::replay;
use crate::proxy::postgres::talk::tell_differences;
use crate::proxy::postgres::turns::Turns;

/// The last message of a client.
const TERMINATE: &[u8] = &[b'X', 0, 0, 0, 4];

const GONE: &str = "its server was gone before it could be asked";

impl Session {
    /// Looks at what could be moved, if that is possible without disturbing anything.
    pub(super) async fn survey(&mut self) {
        self.surveyed = self.gate.survey;
        self.tell_under_way();
        // A replication connection is not asked anything.
        let may_ask = self.at_rest() && self.held.is_empty() || self.startup.is_replication();
        self.survey_due = !may_ask;
        let pin = match may_ask {
            true => self.obstacle().await,
            false => self.talk.obstacle().map(str::to_owned),
        };
        if let (true, None, Some(credential)) = (may_ask, &pin, &self.credential) {
            self.shared.engine.trials.note(&self.startup, credential);
        }
        self.shared.gates.pinned(&self.presence.handle, pin);
        self.shared.gates.unasked(&self.presence.handle, self.survey_due);
    }

    /// Why the session can't be moved, if it can't; asks its server if it has to.
    pub(super) async fn obstacle(&mut self) -> Option<String> {
        if self.startup.is_replication() {
            return Some("a replication connection".to_owned());
        }
        if let Some(obstacle) = self.talk.obstacle() {
            return Some(obstacle.to_owned());
        }
        if !self.lost && (self.memory.is_none() || self.talked) {
            self.ask().await;
        }
        match &self.memory {
            Some(Ok(_)) if self.talked => {}
            Some(Ok(memory)) if !memory.pins.is_empty() => return Some(memory.pins.join(", ")),
            // Learned while the server that knows it is open: at the flip it is not.
            Some(Ok(_)) if self.credential.is_some() => return None,
            Some(Ok(_)) => {
                // Our own login, which reads the accounts.
                let registry = self.shared.engine.registry(self.side);
                let credential =
                    self.shared.engine.users.credential(self.startup.user(), &self.shown, registry);
                return match credential.await {
                    Ok(credential) => {
                        self.credential = Some(credential);
                        None
                    }
                    Err(why) => Some(why),
                };
            }
            Some(Err(why)) => return Some(why.clone()),
            None => {}
        }
        Some(GONE.to_owned())
    }

    async fn ask(&mut self) {
        let question = Question {
            user: self.startup.user(),
            customs: self.talk.customs.names(),
            unnamed: self.talk.unnamed().is_some(),
        };
        self.credential = None;
        match inspect::ask(&mut self.server, &question, &mut self.aside).await {
            Ok(memory) => {
                if memory.lacks_unnamed {
                    self.talk.forget_unnamed();
                }
                self.memory = Some(Ok(memory));
            }
            Err(Unanswered::Refused(why)) => {
                self.memory = Some(Err(format!("it could not be asked: {why}")));
            }
            Err(Unanswered::Lost) => self.lost = true,
        }
        self.talked &= self.lost;
        self.heed_farewell();
    }

    /// Opens the session anew where the gate says, and takes everything along. Only where there is
    /// no obstacle.
    pub(super) async fn relocate(&mut self) -> io::Result<Option<Stopped>> {
        let (Some(Ok(memory)), Some(credential)) = (&self.memory, &self.credential) else {
            return self.cut(GONE).await;
        };
        let side = self.gate.side;
        let info = self.shared.engine.ends.of(side);
        let deadline = Instant::now() + MOVE_MAX;
        let fresh = loop {
            let unnamed = self.talk.unnamed();
            match replay::open(info, &self.startup, credential, memory, unnamed).await {
                Ok(fresh) => break fresh,
                Err(error) if error.transient && Instant::now() < deadline => {
                    tracing::debug!("{side} does not take a session yet: {error}");
                    let changed =
                        self.shared.gates.changed(&self.presence.handle, self.gate.generation);
                    if tokio::time::timeout(MOVE_PAUSE, changed).await.is_ok() {
                        self.gate = self.shared.gates.now();
                        if self.gate.side != side {
                            return Ok(None);
                        }
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
        let old = std::mem::replace(&mut self.server, fresh.server);
        self.side = side;
        self.lost = false;
        self.was_held = false;
        self.down = Scanner::default();
        self.talk.turns = Turns::new();
        // What the old server still had to say is of no interest any more, but the client may count
        // these.
        messages::append_all(&self.aside, b'Z', &mut self.to_client.bytes);
        self.aside = fresh.rest;
        tell_differences(&mut self.talk, &fresh.entered.parameters, &mut self.to_client.bytes);
        self.shared.totals.moved.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(ending::hang_up(old, TERMINATE));
        Ok(None)
    }

    /// Ends the session with one error that a new connection cures.
    pub(super) async fn cut(&mut self, why: &str) -> io::Result<Option<Stopped>> {
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
    pub(super) async fn server_gone(mut self) -> io::Result<()> {
        self.farewell().await;
        Ok(())
    }

    async fn farewell(&mut self) {
        ending::farewell(&mut self.to_client, &mut self.client).await;
    }
}
