//! The fence for MySQL (from 8.0.22 on) and MariaDB (from 10.5 on).
//!
//! # What closes a side
//! `read_only` refuses writes of ordinary accounts, also the COMMIT of a transaction that was open
//! before, but not of accounts with SUPER, CONNECTION_ADMIN (MySQL) or READ ONLY ADMIN (MariaDB).
//! `super_read_only` refuses these as well - and us, who have to write the markers and, after the
//! flip, what comes back. So what every writer needs is taken away, a session:
//!
//! 1. The routers hold their clients (not here).
//! 2. [`Fence::raise`] writes down who closes the side ([`claim`]), then closes it. MySQL:
//!    `offline_mode`, which ends every ordinary session and lets none in, and ACCOUNT LOCK for the
//!    accounts that it does not bind. MariaDB has no such mode: ACCOUNT LOCK for every account that may
//!    write ([`accounts`]). On both `read_only` and no event scheduler. Then every session of
//!    others is ended until two scans in a row find nobody. Last, the barrier (below).
//! 3. [`Fence::seal`] changes nothing more. It proves that the door was closed all the time, and that
//!    the side's history has not moved.
//!
//! On MySQL the settings are persisted (`SET PERSIST`), on MariaDB it is the locked accounts that
//! survive a restart, so a sealed side stays closed when its server starts again. Nothing of it goes to
//! the binlog (`sql_log_bin = 0`): replicas of the side are not closed with it, and its history does
//! not move.
//!
//! Exempt are sessions of our own account, which therefore has to be nobody else's, and threads that
//! send the binlog to replicas. A server that is itself a replica, or part of a cluster, is refused:
//! what comes in there needs no session.
//!
//! # Why the position is final
//! Let P be the set of GTIDs that is read within the barrier. No transaction of a client that is not
//! in P was or will be acknowledged:
//!
//! - *Who could commit has gone.* A session is in the process list from before it has logged in until
//!   after its last transaction has ended. The two scans come after the door was closed, and look at
//!   all sessions up to a number that was given away after it was closed. Later ones were let in by
//!   nobody. Scheduled events and replication have no session there, and are off or refused.
//! - *What was committing has ended.* The barrier takes the locks that every commit holds until it is
//!   in the binlog, the engine and the set: `super_read_only` on MySQL (the global read lock and
//!   the commit lock), `BACKUP STAGE BLOCK_COMMIT` on MariaDB. P is read while they are held. Before
//!   the barrier and behind it the set is read again; three equal readings are the proof, and anything
//!   else is reported as a writer.
//! - *XA.* A transaction that is prepared outlives its session and is committed by whoever comes. So
//!   none may be: they are looked for before anything is closed and again when everybody has gone.
//! - *From then on only we write*, and each of our transactions is counted: a marker has to be exactly
//!   the next one behind what was there before, and under the seal the barrier has to find exactly the
//!   history that the marker has left. One more, whoever's, stops the run.
//!
//! What a session writes with `sql_log_bin = 0` is in no binlog: no position and no stream shows it.
//!
//! # The marker
//! A row of `_cutover.marker`, as on PostgreSQL before 14, written behind P; what is read from the stream
//! behind it is a leak there, too. [`MarkerWritten::position`] is P and the marker.
//!
//! The table is made when the pipeline is set up ([`MYSQL_MARKER_TABLE`]), not here: a stream of this
//! server is being read.

mod accounts;
mod acts;
mod claim;
mod facts;
mod frozen;
mod rights;
mod sessions;
mod settings;
mod turn;
mod undo;
mod xa;

use std::time::Duration;

use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::ServerUrl;
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use undo::{MysqlUndo, Setting};

use super::OpenDoor;
use super::held::{Held, superseded};
use crate::api::Check;
use crate::lease::Tenant;
#[cfg(doc)]
use crate::marker::MYSQL_MARKER_TABLE;
use crate::marker::{MarkerKind, Token};
use crate::ports::{
    Claim, Claimed, Epoch, Fence, FenceActs, FenceReport, MarkerWritten, PortError, PortResult,
    SealReport, Writers,
};
use crate::side::Side;
use crate::sql::mysql::MysqlSlot;
use crate::sql::soon;
use sessions::{Closed, Scan};
use settings::Current;
use turn::{Insist, Turn};

/// Fences a MySQL or MariaDB server, with all of its databases. Its sessions are opened when they are
/// first needed.
pub struct MysqlFence {
    /// As the side is called in errors and reports.
    place: &'static str,
    /// Changes the side.
    keeper: MysqlSlot,
    /// Looks.
    look: MysqlSlot,
    /// Writes the markers.
    marker: MysqlSlot,
    /// Where the side's history stood after our last own transaction, while it is closed.
    frozen: Mutex<Option<BinlogPosition>>,
    /// A marker whose answer has not come: it may be there, or come.
    unanswered: Mutex<Option<Token>>,
    /// In whose name it is closed.
    tenant: Option<Tenant>,
}

impl MysqlFence {
    /// A fence around blue's server.
    pub fn new(blue: ServerUrl) -> Self {
        Self::around(Side::Blue, blue)
    }

    /// A fence around the server of that side.
    pub fn around(side: Side, url: ServerUrl) -> Self {
        let place = side.name();
        let slot = || MysqlSlot::new(url.clone(), place);
        Self {
            keeper: slot(),
            look: slot(),
            marker: slot(),
            frozen: Mutex::default(),
            unanswered: Mutex::default(),
            tenant: None,
            place,
        }
    }

    /// The same; whatever it closes is closed in the name of this tenant.
    pub fn leased_to(self, tenant: Tenant) -> Self {
        Self { tenant: Some(tenant), ..self }
    }

    /// The door of this server: it does not keep our own account out.
    pub fn door(&self) -> OpenDoor {
        OpenDoor
    }

    /// Closes the side, or whatever of it is open, and ends the sessions of others. The number of clean
    /// scans.
    async fn close(
        &self,
        turn: &mut Turn<'_>,
        undo: &MysqlUndo,
        closed: &mut Closed,
        deadline: Instant,
    ) -> PortResult<u32> {
        for statement in settings::door_sql(undo).into_iter().chain(accounts::lock_sql(undo)) {
            turn.run(&statement, "closing the door", deadline).await?;
        }
        // Who has a larger number than this began to log in when the door was closed.
        self.marker.close().await;
        let session = self.marker.take(deadline).await?;
        let scan = Scan { up_to: session.id() };
        self.marker.put(session).await;
        let clean_scans = sessions::clear(turn, scan, closed, deadline).await?;
        // It waits for statements that write, which are gone by now.
        for statement in settings::read_only_sql(undo) {
            turn.run_between(&[&statement], &[], "making it read-only", deadline).await?;
        }
        Ok(clean_scans)
    }
}

impl Fence for MysqlFence {
    type Undo = MysqlUndo;

    async fn inspect(&self) -> PortResult<Vec<Check>> {
        rights::inspect(self).await
    }

    async fn prepare(&self) -> PortResult<MysqlUndo> {
        let deadline = soon();
        // Open now what the pause will need.
        let mut keeper = self.keeper.take(deadline).await?;
        let prepared = settings::prepare(&mut keeper, self.place, deadline).await;
        self.keeper.put(keeper).await;
        let marker = self.marker.take(deadline).await?;
        self.marker.put(marker).await;
        prepared
    }

    fn signed(&self, undo: MysqlUndo, run: &str, epoch: Epoch) -> MysqlUndo {
        let claim = self.tenant.as_ref().map(|tenant| Claim {
            pipeline: tenant.pipeline.clone(),
            holder: tenant.holder.clone(),
            run: run.to_owned(),
            epoch,
        });
        MysqlUndo { claim, ..undo }
    }

    async fn claimed(&self, deadline: Instant) -> PortResult<Option<Claimed<MysqlUndo>>> {
        let Some(tenant) = &self.tenant else { return Ok(None) };
        let found = claim::find(&self.look, self.place, deadline).await?;
        Ok(found.filter(|found| found.claim.pipeline == tenant.pipeline))
    }

    async fn still_ours(&self, undo: &MysqlUndo, deadline: Instant) -> PortResult<()> {
        let found = claim::find(&self.look, self.place, deadline).await?;
        match claim::held(found.as_ref(), undo.claim.as_ref()) {
            Held::Us => Ok(()),
            Held::Nobody if undo.claim.is_none() => Ok(()),
            held => Err(superseded(self.place, &held)),
        }
    }

    async fn writers(&self) -> PortResult<Writers> {
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut session = self.look.take(deadline).await?;
        let writers = sessions::writers(&mut session, self.place, deadline).await;
        self.look.put(session).await;
        writers
    }

    async fn raise(&self, undo: &MysqlUndo, deadline: Instant) -> PortResult<FenceReport> {
        *self.frozen.lock().await = None;
        let mut turn = Turn::take(self, Insist::No, deadline).await?;
        settings::is_still_there(&mut turn, undo, deadline).await?;
        xa::none_prepared(&mut turn, deadline).await?;
        rights::has_marker_table(&mut turn, deadline).await?;
        claim::take(&mut turn, undo, deadline).await?;
        let mut closed = Closed::new();
        let clean_scans = self.close(&mut turn, undo, &mut closed, deadline).await?;
        let prepared = xa::prepared(&mut turn, deadline).await?;
        let frozen = frozen::freeze(&mut turn, undo, deadline).await?;
        turn.done().await;
        *self.frozen.lock().await = Some(frozen.position.clone());
        Ok(FenceReport {
            sessions_closed: closed.len() as u64,
            clean_scans,
            foreign_writers: frozen.moved.into_iter().collect(),
            prepared,
            tables_locked: 0,
            tables_total: 0,
            next_xid: frozen::ordinal(&frozen.position) + 1,
            position: Some(frozen.position.to_string()),
        })
    }

    async fn mark(&self, token: &Token, deadline: Instant) -> PortResult<MarkerWritten> {
        let doing = "writing the marker";
        let mut frozen = self.frozen.lock().await;
        let mut session = self.marker.take(deadline).await?;
        let failed = |error: crate::sql::mysql::MysqlError| error.at(self.place, doing);
        // Written already if an earlier answer was lost.
        let sql =
            format!("{} ON DUPLICATE KEY UPDATE token = token", MarkerKind::Row.statement(token));
        let before_us = self.unanswered.lock().await.replace(token.clone());
        let written = session.run(&sql, deadline).await.map_err(failed)?;
        // One that was there already has moved the history since it was last looked at.
        let is_ours = written.affected > 0 || before_us.as_ref() == Some(token);
        let position = frozen::position(&mut session, self.place, deadline).await?;
        self.marker.put(session).await;
        if let Some(before) = frozen.as_ref() {
            let all = frozen::ordinal(&position).saturating_sub(frozen::ordinal(before));
            let foreign = all.saturating_sub(u64::from(is_ours));
            if foreign > 0 {
                return Err(PortError::new(
                    self.place,
                    format!(
                        "{0}'s history has moved by {foreign} transactions that are not ours since \
                         {0} was fenced: from {before} to {position}",
                        self.place
                    ),
                )
                .remedy(format!(
                    "find who writes to {} under our account or without a session, and keep it from \
                     that",
                    self.place
                )));
            }
        }
        // A drill marks without a fence: clients write between one of its rounds and the next.
        if frozen.is_some() {
            *frozen = Some(position.clone());
        }
        *self.unanswered.lock().await = None;
        let xid = frozen::ordinal(&position);
        Ok(MarkerWritten {
            position: Some(position.to_string()),
            ..MarkerWritten::new(token.clone(), xid)
        })
    }

    async fn seal(&self, undo: &MysqlUndo, deadline: Instant) -> PortResult<SealReport> {
        let mut turn = Turn::take(self, Insist::No, deadline).await?;
        let now = Current::read(&mut turn, deadline).await?;
        let refuses_clients = now.is_closed(undo) && now.accounts.to_lock.is_empty();
        let mut closed = Closed::new();
        let scan = Scan { up_to: turn.session_id() };
        sessions::clear(&mut turn, scan, &mut closed, deadline).await?;
        // Nobody was left when the fence was up. Whoever is here now may have done anything.
        let mut foreign_writers: Vec<_> = closed.into_values().collect();
        let prepared = xa::prepared(&mut turn, deadline).await?;
        let frozen = frozen::freeze(&mut turn, undo, deadline).await?;
        turn.done().await;
        let before = self.frozen.lock().await.clone();
        let is_unmoved = before.as_ref() == Some(&frozen.position) && frozen.moved.is_none();
        foreign_writers.extend(frozen.moved);
        if before.as_ref() != Some(&frozen.position) {
            let before = before.map_or_else(|| "an unknown position".into(), |p| p.to_string());
            foreign_writers.push(format!(
                "somebody who has moved {}'s history from {before} to {}",
                self.place, frozen.position
            ));
        }
        Ok(SealReport {
            refuses_clients,
            mechanism: acts::mechanism(self.place, undo),
            unbroken: is_unmoved,
            foreign_writers,
            prepared,
            own_xids: 0,
        })
    }

    async fn reseal(&self, undo: &MysqlUndo, deadline: Instant) -> PortResult<()> {
        let mut turn = Turn::take(self, Insist::No, deadline).await?;
        let found = claim::read(&mut turn, deadline).await?;
        match claim::held(found.as_ref(), undo.claim.as_ref()) {
            Held::Us => {}
            Held::Nobody if undo.claim.is_none() => {}
            held => return Err(superseded(self.place, &held)),
        }
        let now = Current::read(&mut turn, deadline).await?;
        if let Some(statement) = now.barrier_sql() {
            turn.run(statement, "letting commits go on", deadline).await?;
        }
        if !now.is_closed(undo) {
            let mut closed = Closed::new();
            self.close(&mut turn, undo, &mut closed, deadline).await?;
            tracing::warn!("{} was found open; it is closed again", self.place);
            if !closed.is_empty() {
                let who: Vec<_> = closed.into_values().collect();
                tracing::error!(
                    "sessions on sealed {} were closed: {}",
                    self.place,
                    who.join("; ")
                );
            }
        }
        turn.done().await;
        Ok(())
    }

    async fn lower(&self, undo: &MysqlUndo, deadline: Instant) -> PortResult<()> {
        // Whoever commits from now on may.
        *self.frozen.lock().await = None;
        // Before any session is ended, which may be of who acts now.
        let found = claim::find(&self.look, self.place, deadline).await?;
        if let other @ Held::Other(_) = claim::held(found.as_ref(), undo.claim.as_ref()) {
            return Err(superseded(self.place, &other));
        }
        let mut turn = Turn::take(self, Insist::Yes, deadline).await?;
        let found = claim::read(&mut turn, deadline).await?;
        let now = Current::read(&mut turn, deadline).await?;
        let lowering = settings::lower(undo, &now);
        match claim::held(found.as_ref(), undo.claim.as_ref()) {
            Held::Us => {}
            // By nobody who has a lease: it is looked at as it is.
            Held::Nobody if undo.claim.is_none() => {}
            // It was never closed, or was opened by who had the right to.
            Held::Nobody if lowering.statements.is_empty() => {
                turn.done().await;
                return Ok(());
            }
            held => return Err(superseded(self.place, &held)),
        }
        for what in &lowering.left {
            tracing::warn!("{what} was changed by somebody else meanwhile, and stays as it is");
        }
        for statement in &lowering.statements {
            turn.run(statement, "opening the server again", deadline).await?;
        }
        let now = Current::read(&mut turn, deadline).await?;
        if let Some(left) = settings::lower(undo, &now).statements.first() {
            return Err(PortError::new(
                self.place,
                format!(
                    "{}'s settings are not what they were before, although they were put back",
                    self.place
                ),
            )
            .remedy(format!("run by hand: {left}")));
        }
        // Last: as long as anything is closed, it is said by whom.
        claim::give_back(&mut turn, undo, deadline).await?;
        turn.done().await;
        *self.frozen.lock().await = None;
        Ok(())
    }

    async fn leave(&self) {
        self.keeper.close().await;
        self.look.close().await;
        self.marker.close().await;
    }

    fn describe(&self, undo: &MysqlUndo) -> FenceActs {
        acts::describe(self.place, undo)
    }
}
