//! Moved, or cut: what stands in the way of a move, and the move itself.

use std::io;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::{Session, Stopped};
use crate::proxy::ending::{self, MOVE_MAX, MOVE_PAUSE};
use crate::proxy::mysql::inspect::{self, Unanswered};
use crate::proxy::mysql::packets;
use crate::proxy::mysql::replay::{self, Wanted};

const GONE: &str = "its server was gone before it could be asked";

impl Session {
    /// Looks at what could be moved, if that is possible without disturbing anything; if not, as soon as
    /// it is, and until then at what the conversation alone tells.
    pub(super) async fn survey(&mut self, is_quiet: bool) {
        self.surveyed = self.gate.survey;
        self.tell_under_way();
        // A client may still ask about its last statement, which a question of ours would replace.
        let may_ask = self.may_be_asked() && is_quiet;
        self.survey_due = !may_ask;
        let pin = match may_ask {
            true => self.obstacle().await,
            false => self.talked_obstacle().map(str::to_owned),
        };
        if let (true, None, Some(credential)) = (may_ask, &pin, &self.credential) {
            self.shared.engine.trials.note(&self.hello, credential);
        }
        self.shared.gates.pinned(&self.presence.handle, pin);
        self.shared.gates.unasked(&self.presence.handle, self.survey_due);
    }

    /// What stands in the way of a move as far as the conversation tells.
    fn talked_obstacle(&self) -> Option<&'static str> {
        // Of MySQL's locks its own tables tell.
        let locks = self.talk.may_lock && self.shared.engine.desk(self.side).is_mariadb();
        self.talk.obstacle().or(locks.then_some("GET_LOCK"))
    }

    /// Why the session can't be moved, if it can't; asks its server if it has to.
    pub(super) async fn obstacle(&mut self) -> Option<String> {
        if let Some(obstacle) = self.talked_obstacle() {
            return Some(obstacle.to_owned());
        }
        if std::mem::take(&mut self.talk.anew) {
            // Counters of before say nothing about those of now.
            self.memory = None;
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
                let engine = &self.shared.engine;
                let desk = engine.desk(self.side);
                let credential = engine.users.credential(&self.hello.user, &self.shown, desk).await;
                return match credential {
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
        let desk = self.shared.engine.desk(self.side);
        let before = self.memory.as_ref().and_then(|memory| memory.as_ref().ok());
        let ends_with_ok = self.hello.ends_with_ok();
        let id = self.place.id();
        match inspect::ask(&mut self.server, ends_with_ok, desk, id, before).await {
            Ok(memory) => self.memory = Some(Ok(memory)),
            Err(Unanswered::Refused(why)) => {
                self.memory = Some(Err(format!("it could not be asked: {why}")));
            }
            Err(Unanswered::Lost) => self.lost = true,
        }
        self.talk.disturbed = true;
        self.talked &= self.lost;
    }

    /// Opens the session anew where the gate says, and takes everything along. Only where there is
    /// no obstacle.
    pub(super) async fn relocate(&mut self) -> io::Result<Option<Stopped>> {
        let (Some(Ok(memory)), Some(credential)) = (&self.memory, &self.credential) else {
            return self.cut(GONE).await;
        };
        let side = self.gate.side;
        let url = self.shared.engine.url(side);
        let deadline = Instant::now() + MOVE_MAX;
        let wanted = Wanted {
            hello: &self.hello,
            credential,
            memory,
            option: self.talk.option,
            statements: self.talk.statements.iter().collect(),
        };
        let fresh = loop {
            match replay::open(url, &wanted).await {
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
        drop(wanted);
        self.place.moved(side, fresh.id);
        self.shared.engine.desk(side).seen(fresh.is_mariadb);
        self.talk.statements.moved(&fresh.numbers);
        self.talk.set_status(fresh.status);
        self.talk.disturbed = true;
        let old = std::mem::replace(&mut self.server, fresh.server);
        self.side = side;
        self.lost = false;
        self.was_held = false;
        // Another server counts anew.
        self.memory = None;
        self.shared.totals.moved.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(ending::hang_up(old, &packets::QUIT));
        Ok(None)
    }

    /// Ends the session with one error that a new connection cures.
    pub(super) async fn cut(&mut self, why: &str) -> io::Result<Option<Stopped>> {
        self.shared.totals.cut.fetch_add(1, Ordering::Relaxed);
        tracing::info!("a client was cut: {why}");
        // In the middle of a packet of the server's nothing else can be said.
        if self.talk.is_between_packets() {
            let what = format!(
                "Server shutdown in progress: the database is being moved and this session could \
                 not be ({why}). Connect again."
            );
            let seq = self.talk.next_seq();
            packets::error(&mut self.to_client.bytes, seq, 1053, "08S01", &what);
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
