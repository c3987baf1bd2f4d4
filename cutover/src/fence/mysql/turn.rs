//! Whose turn it is to change the side: who holds a lock of the server does.

use std::time::Duration;

use tokio::time::Instant;

use super::MysqlFence;
use super::facts::Facts;
use super::sessions;
use crate::ports::{PortError, PortResult};
use crate::sql::mysql::{Answer, LOCK_WAIT_TIMEOUT, MysqlError, MysqlSession, MysqlSlot, UNLOGGED};

/// How long one try at a lock of the whole server may queue, in seconds.
const TRY_S: u64 = 1;

const LOCK: &str = "cutover fence";

/// Whether a turn is waited for, or taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Insist {
    /// Waits.
    No,
    /// Ends the session whose turn it is: only for who knows that the side is nobody else's.
    Yes,
}

/// The session that may change the side, until it ends or says that it is done.
pub(super) struct Turn<'a> {
    pub(super) place: &'static str,
    pub(super) facts: Facts,
    session: MysqlSession,
    slot: &'a MysqlSlot,
}

impl<'a> Turn<'a> {
    pub(super) async fn take(
        fence: &'a MysqlFence,
        insist: Insist,
        deadline: Instant,
    ) -> PortResult<Self> {
        let place = fence.place;
        let doing = "changing its fence";
        let mut session = fence.keeper.take(deadline).await?;
        session.hold(LOCK, insist == Insist::Yes, place, doing, deadline).await?;
        session.run(UNLOGGED, deadline).await.map_err(|error| error.at(place, doing))?;
        let facts = Facts::read(&mut session, place, deadline).await?;
        Ok(Self { place, facts, session, slot: &fence.keeper })
    }

    /// The number of the session.
    pub(super) fn session_id(&self) -> u32 {
        self.session.id()
    }

    pub(super) async fn try_run(
        &mut self,
        sql: &str,
        deadline: Instant,
    ) -> Result<Answer, MysqlError> {
        self.session.run(sql, deadline).await
    }

    pub(super) async fn run(
        &mut self,
        sql: &str,
        doing: &str,
        deadline: Instant,
    ) -> PortResult<Answer> {
        self.session.run(sql, deadline).await.map_err(|error| error.at(self.place, doing))
    }

    /// Runs statements that wait for a lock of the whole server, in short tries: everybody else's writes
    /// queue behind them. `undo` is run after a try that came no further than the first of them.
    pub(super) async fn run_between(
        &mut self,
        statements: &[&str],
        undo: &[&str],
        doing: &str,
        deadline: Instant,
    ) -> PortResult<()> {
        let bound = format!("SET SESSION lock_wait_timeout = {TRY_S}");
        self.run(&bound, doing, deadline).await?;
        loop {
            let mut done = 0;
            let tried = async {
                for statement in statements {
                    self.session.run(statement, deadline).await?;
                    done += 1;
                }
                Ok(())
            };
            match tried.await {
                Ok(()) => return Ok(()),
                Err(MysqlError { code: Some(LOCK_WAIT_TIMEOUT), .. }) => {}
                Err(error) => return Err(error.at(self.place, doing)),
            }
            // What has not begun has no end.
            for statement in undo.iter().filter(|_| done > 0) {
                self.run(statement, doing, deadline).await?;
            }
            if Instant::now() + Duration::from_secs(TRY_S) >= deadline {
                let (place, busy) = (self.place, sessions::busy(self).await);
                return Err(PortError::new(
                    place,
                    format!("{doing}: {place} could not be locked in time: {busy}"),
                )
                .remedy("end the session that holds the lock, then run cutover again"));
            }
        }
    }

    /// The session itself, for who only looks.
    pub(super) fn session(&mut self) -> &mut MysqlSession {
        &mut self.session
    }

    /// It is somebody else's turn. A turn that is dropped instead ends with its session.
    pub(super) async fn done(mut self) {
        let soon = Instant::now() + Duration::from_secs(1);
        if self.session.let_go(LOCK, soon).await.is_ok() {
            self.slot.put(self.session).await;
        }
    }
}
