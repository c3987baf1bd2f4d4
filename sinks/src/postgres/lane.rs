//! One applying session: whole source transactions with their progress.
//!
//! Few changes are written as they come, row by row ([`Writer::change`]); many are reduced to what
//! they come to together ([`crate::net`]) and written with statements for many rows
//! ([`super::sets`]). What green refuses as a whole, for whatever reason that lies in the data, is
//! rolled back and written row by row, so an error is always the error of one row.
//!
//! Small transactions may be sent before those before them are answered ([`ahead`]).

mod ahead;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use decoders::change::{Lsn, Transaction};
use decoders::postgres::pipelined::Pipelined;
use decoders::postgres::session::Session;
use decoders::source::Disposition;
use tokio_postgres::types::PgLsn;

use self::ahead::Ahead;
use super::catalog::read_table;
use super::frame::{BACK, Frame, Parameter};
use super::pipeline::{Failure, Pipeline, Purpose};
use super::session::{self, Capabilities, TriggerSuppression};
use super::sets;
use super::wire::Wire;
use super::writer::Writer;
use crate::caution::{Caution, Ways};
use crate::mark::{LaneMark, Share};
use crate::own::{self, Secret};
use crate::plan::Fire;
use crate::progress::LaneProgress;
use crate::target::{Applied, Lane, LaneId, TargetError};

/// What a lane needs to know at its start.
pub(super) struct LaneStart {
    pub session: Session,
    pub pipelined: Pipelined,
    pub id: LaneId,
    pub pipeline: String,
    pub backend_pid: i32,
    pub capabilities: Capabilities,
    pub fire: Fire,
    /// Nobody else does, before the source may forget.
    pub waits_for_log: bool,
    pub progress: LaneProgress,
    /// What its marks hold.
    pub secret: Secret,
}

/// Fewer changes in one call are written row by row: a quiet stream pays nothing for the batches of
/// a busy one.
const FEWEST_CHANGES: usize = 16;

/// Where the open transaction stands.
#[derive(Clone, Default)]
struct Open {
    begun: bool,
    /// A source transaction whose last part has not come yet.
    unfinished: Option<Lsn>,
    /// Source transactions that ended since the last commit, by their commit record.
    commits: Vec<Lsn>,
}

/// What is taken back when a batch is refused.
struct Standing {
    written: Option<Lsn>,
    last_commit: (Lsn, i64),
    open: Open,
}

/// One applying connection to PostgreSQL.
pub struct PgLane {
    /// None after a call that failed or was dropped half-way: nothing can be said about the session.
    wire: Option<Wire>,
    id: LaneId,
    pipeline: String,
    backend_pid: i32,
    capabilities: Capabilities,
    frame: Arc<Frame>,
    writer: Writer,
    caution: Caution,
    ways: Ways,
    /// What the progress row on green says, once everything that was sent is there.
    mark: LaneMark,
    /// What it said when the lane was opened.
    opened: LaneMark,
    /// End of the last source transaction that was written, committed or not.
    written: Option<Lsn>,
    /// The last ended source transaction: commit LSN and time.
    last_commit: (Lsn, i64),
    open: Open,
    /// Sent and not answered; what `mark` says includes it.
    ahead: Ahead,
}

impl PgLane {
    pub(super) async fn start(start: LaneStart) -> Result<Self, TargetError> {
        let LaneStart {
            session,
            pipelined,
            id,
            pipeline,
            backend_pid,
            capabilities,
            fire,
            waits_for_log,
            progress,
            secret,
        } = start;
        session::set_up_lane(&session, waits_for_log).await?;
        let may_mark = own::may_mark(&session, capabilities.server_version).await?;
        let content = may_mark.then(|| own::content(&secret, &pipeline));
        let mut wire = Wire::new(session, pipelined);
        let frame = Frame::prepare(&mut wire, &capabilities, content).await?;
        Ok(Self {
            wire: Some(wire),
            id,
            pipeline,
            backend_pid,
            capabilities,
            frame: Arc::new(frame),
            writer: Writer::new(fire),
            caution: Caution::default(),
            ways: Ways::default(),
            written: progress.mark.floor,
            opened: progress.mark.clone(),
            mark: progress.mark,
            last_commit: (Lsn::INVALID, 0),
            open: Open::default(),
            ahead: Ahead::default(),
        })
    }

    /// The lane's number.
    pub fn id(&self) -> LaneId {
        self.id
    }

    /// Process id of its backend on green, for [`blockers`](super::blockers).
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// What the session can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// End of the last source transaction that this lane has committed on green.
    pub fn committed(&self) -> Option<Lsn> {
        self.ahead.committed().unwrap_or(self.mark.end)
    }

    /// How batches were written so far.
    pub fn ways(&self) -> Ways {
        self.ways
    }

    async fn write(
        &mut self,
        wire: &mut Wire,
        transactions: &[Transaction],
        share: Share,
    ) -> Result<Applied, Failure> {
        if transactions.is_empty() {
            return Ok(Applied::default());
        }
        let changes: usize = transactions.iter().map(|transaction| transaction.changes.len()).sum();
        if changes >= FEWEST_CHANGES && !self.caution.skips() {
            let before = self.standing();
            match self.write_whole(wire, transactions, share).await {
                Ok(applied) => {
                    self.caution.succeeded();
                    self.ways.as_a_whole += 1;
                    return Ok(applied);
                }
                Err(failure) => self.refused(wire, failure, before).await?,
            }
        }
        let applied = self.write_rows(wire, transactions, share).await?;
        self.ways.row_by_row += 1;
        Ok(applied)
    }

    /// Row by row, in the order of the stream.
    async fn write_rows(
        &mut self,
        wire: &mut Wire,
        transactions: &[Transaction],
        share: Share,
    ) -> Result<Applied, Failure> {
        self.take(transactions)?;
        let mut pipe = Pipeline::new(wire);
        let entered = self.begin(&mut pipe, share).await?;
        for transaction in transactions {
            for change in &transaction.changes {
                self.writer.change(&mut pipe, change, transaction.commit_lsn).await?;
            }
        }
        // Green itself checks the count of each row: COMMIT does not have to wait for them.
        self.finish(&mut pipe, transactions, share, entered).await
    }

    /// As net changes, many rows at once.
    async fn write_whole(
        &mut self,
        wire: &mut Wire,
        transactions: &[Transaction],
        share: Share,
    ) -> Result<Applied, Failure> {
        let frame = self.frame.clone();
        let continues = self.open.begun;
        self.take(transactions)?;
        if continues {
            // Before anything can go wrong: what a refusal goes back to is there.
            let mut pipe = Pipeline::new(wire);
            frame.send(&mut pipe, &frame.save, "saving the state before a batch on green").await?;
            pipe.drain().await?;
        }
        let steps = self.writer.reduce(wire, transactions).await?;
        let work = sets::work(&steps);
        let foreign_keys_fire = self.capabilities.triggers == TriggerSuppression::RefuseTables;
        let mut pipe = Pipeline::new(wire);
        let entered = self.begin(&mut pipe, share).await?;
        for one in &work {
            self.writer.work(&mut pipe, one, foreign_keys_fire).await?;
            if let Some((tables, partitioned)) = one.may_share_rows() {
                frame.check_apart(&mut pipe, tables, partitioned).await?;
            }
        }
        // A wrong count of many rows is no error of the server's: it has to be seen before the way
        // back goes, and before COMMIT.
        pipe.drain().await?;
        if continues {
            frame.send(&mut pipe, &frame.release, "ending a batch on green").await?;
        }
        self.finish(&mut pipe, transactions, share, entered).await
    }

    /// Commits if the last transaction has ended, and waits for what is unanswered. What is
    /// unanswered fails on green itself if it is wrong, and COMMIT with it.
    async fn finish(
        &mut self,
        pipe: &mut Pipeline<'_>,
        transactions: &[Transaction],
        share: Share,
        entered: Option<LaneMark>,
    ) -> Result<Applied, Failure> {
        let changes = transactions.iter().map(|transaction| transaction.changes.len() as u64).sum();
        if self.open.unfinished.is_some() {
            pipe.drain().await?;
            return Ok(Applied { end_lsn: None, transactions: 0, changes });
        }
        let frame = self.frame.clone();
        let mark = match entered {
            Some(mark) => mark,
            None => self.advance(pipe, &frame, share).await?,
        };
        frame.send(pipe, &frame.commit, "committing on green").await?;
        pipe.drain().await?;
        let applied = self.open.commits.len() as u64;
        self.open = Open::default();
        self.mark = mark;
        Ok(Applied { end_lsn: self.written, transactions: applied, changes })
    }

    fn standing(&self) -> Standing {
        Standing { written: self.written, last_commit: self.last_commit, open: self.open.clone() }
    }

    /// Takes a batch back that green refused as a whole, so that it can be written row by row.
    /// Gives the failure back if that is not the data's fault or can't be done.
    async fn refused(
        &mut self,
        wire: &mut Wire,
        failure: Failure,
        before: Standing,
    ) -> Result<(), Failure> {
        if failure.error.disposition == Disposition::Retry {
            return Err(failure);
        }
        tracing::info!(
            lane = self.id.0,
            reason = failure.error.message,
            "a batch can't be written as a whole; writing it row by row"
        );
        let back = if before.open.begun { BACK } else { "ROLLBACK" };
        // No savepoint: COMMIT itself was refused, and the earlier parts are gone with it.
        let Ok(session) = wire.session().await else { return Err(failure) };
        if session.batch_execute(back).await.is_err() {
            return Err(failure);
        }
        self.caution.failed();
        self.ways.refused += 1;
        let Standing { written, last_commit, open } = before;
        (self.written, self.last_commit, self.open) = (written, last_commit, open);
        Ok(())
    }

    /// Begins green's transaction, if there is none. One that is known to its end says right away what
    /// it comes to, which is given back.
    async fn begin(
        &mut self,
        pipe: &mut Pipeline<'_>,
        share: Share,
    ) -> Result<Option<LaneMark>, Failure> {
        if self.open.begun {
            return Ok(None);
        }
        self.open.begun = true;
        let frame = self.frame.clone();
        if self.open.unfinished.is_some() {
            frame.begin(pipe).await?;
            return Ok(None);
        }
        let mark = self.mark.after(share, &self.open.commits, self.written);
        let mut params = self.progress(&mark);
        params.extend(frame.own_parameter());
        if frame.mark_origin.is_some() {
            params.extend(self.origin());
        }
        frame.begin_whole(pipe, &params).await?;
        Ok(Some(mark))
    }

    /// Takes note of what is to be written.
    fn take(&mut self, transactions: &[Transaction]) -> Result<(), TargetError> {
        transactions.iter().try_for_each(|transaction| {
            self.admit(transaction)?;
            self.ended(transaction)
        })
    }

    /// Refuses what would break the order or repeat a transaction.
    fn admit(&self, transaction: &Transaction) -> Result<(), TargetError> {
        let lsn = transaction.commit_lsn;
        let continues = self.open.unfinished == Some(lsn) && !transaction.part.starts();
        let starts = self.open.unfinished.is_none() && transaction.part.starts();
        if !continues && !starts {
            return Err(TargetError::halt(
                format!("parts of the source transaction at {lsn} came in the wrong order"),
                "This is a defect of the engine: please report it",
            ));
        }
        // An earlier life's COMMIT came late: the next start knows of it.
        if self.opened.holds(lsn) {
            return Err(TargetError::retry(format!(
                "the source transaction at {lsn} came again; green has it already"
            )));
        }
        // Commit records do not overlap: what began before our end was written, or was left out. Trying
        // again would begin behind it, and it would be missing for ever.
        if self.mark.holds(lsn) || self.written.is_some_and(|end| lsn < end) {
            return Err(TargetError::out_of_order(format!(
                "the source transaction at {lsn} came again, or behind a later one"
            )));
        }
        Ok(())
    }

    fn ended(&mut self, transaction: &Transaction) -> Result<(), TargetError> {
        if !transaction.part.ends() {
            self.open.unfinished = Some(transaction.commit_lsn);
            return Ok(());
        }
        let end = transaction.end_lsn.filter(|end| *end > transaction.commit_lsn);
        let Some(end) = end else {
            return Err(TargetError::halt(
                format!("the source transaction at {} has no end", transaction.commit_lsn),
                "This is a defect of the decoder: please report it",
            ));
        };
        self.open.unfinished = None;
        self.open.commits.push(transaction.commit_lsn);
        self.written = Some(end);
        self.last_commit = (transaction.commit_lsn, transaction.committed_at_us);
        Ok(())
    }

    /// Says at the end what the transaction has come to.
    async fn advance(
        &self,
        pipe: &mut Pipeline<'_>,
        frame: &Frame,
        share: Share,
    ) -> Result<LaneMark, Failure> {
        if let Some(origin) = &frame.mark_origin {
            let purpose = Purpose::Frame("marking the transaction's origin on green");
            pipe.send(origin, &self.origin(), 0, purpose).await?;
        }
        let mark = self.mark.after(share, &self.open.commits, self.written);
        pipe.send(&frame.advance, &self.progress(&mark), 0, Purpose::Progress).await?;
        Ok(mark)
    }

    /// The parameters of `pg_replication_origin_xact_setup`.
    fn origin(&self) -> [Parameter; 2] {
        let (_, committed_at_us) = self.last_commit;
        [Box::new(self.written.map(pg_lsn)), Box::new(system_time(committed_at_us))]
    }

    /// The parameters of [`ADVANCE`](crate::progress::ADVANCE).
    fn progress(&self, mark: &LaneMark) -> Vec<Parameter> {
        let (commit_lsn, _) = self.last_commit;
        vec![
            Box::new(self.pipeline.clone()),
            Box::new(i32::from(self.id.0)),
            Box::new(mark.end.map(pg_lsn)),
            Box::new(pg_lsn(commit_lsn)),
            Box::new(mark.floor.map(pg_lsn)),
            Box::new(mark.encoded_above()),
            Box::new(mark.transactions),
            Box::new(self.mark.end.map(pg_lsn)),
            Box::new(self.mark.transactions),
        ]
    }

    /// What a share may begin with. A part of a window, or what is left of one, lies behind the
    /// floor, whatever this lane has committed beyond it.
    fn expect(&mut self, share: Share) {
        if self.open.begun {
            return;
        }
        self.written = match share {
            Share::Rest { .. } => self.mark.floor,
            Share::Part(window) => Some(window.floor).max(self.mark.floor),
        };
    }

    /// Ends the failed transaction and looks whether green was altered under us.
    async fn give_up(&mut self, mut wire: Wire, failure: Failure) -> TargetError {
        let Failure { error, suspect } = failure;
        // On any trouble here the connection is gone, and the transaction with it.
        let Ok(session) = wire.session().await else { return error };
        if session.batch_execute("ROLLBACK").await.is_err() {
            return error;
        }
        if error.conflict {
            // Nothing is left of the transaction, so the lane is what it was.
            self.open = Open::default();
            self.wire = Some(wire);
            return error;
        }
        let Some(schema) = suspect else { return error };
        let before = self.writer.statements.plan(&schema).map(|plan| plan.green().clone());
        match read_table(session, &schema.name).await {
            Ok(now) if now != before => TargetError::retry(format!(
                "the definition of {} on green changed; reading it again ({error})",
                schema.name
            )),
            Ok(_) | Err(_) => error,
        }
    }
}

impl Lane for PgLane {
    async fn apply_share(
        &mut self,
        transactions: &[Transaction],
        share: Share,
    ) -> Result<Applied, TargetError> {
        let Some(mut wire) = self.wire.take().filter(|_| self.ahead.is_empty()) else {
            return Err(failed_before());
        };
        self.expect(share);
        match self.write(&mut wire, transactions, share).await {
            Ok(applied) => {
                self.wire = Some(wire);
                Ok(applied)
            }
            Err(failure) => Err(self.give_up(wire, failure).await),
        }
    }

    fn is_ready_for(&self, transactions: &[Transaction]) -> bool {
        PgLane::is_ready_for(self, transactions)
    }

    async fn send(&mut self, transactions: &[Transaction]) -> Result<(), TargetError> {
        self.send_ahead(transactions).await
    }

    async fn answer_came(&mut self) {
        self.decide().await;
    }

    async fn answer(&mut self) -> Result<Applied, TargetError> {
        self.take_decided().await
    }

    async fn close(self) {
        // In the middle of a transaction, or after an error, the end of the session rolls back.
        let Some(mut wire) = self.wire.filter(|_| !self.open.begun) else { return };
        let (id, origin) = (self.id.0, &self.capabilities.origin);
        let left = match wire.session().await {
            Ok(session) => session::leave(session, &self.pipeline, id, origin).await,
            Err(error) => Err(error),
        };
        if let Err(error) = left {
            tracing::debug!(%error, lane = id, "a lane was not closed in order");
        }
    }
}

fn failed_before() -> TargetError {
    TargetError::retry("this lane failed before and can't be used again")
}

fn pg_lsn(lsn: Lsn) -> PgLsn {
    PgLsn::from(lsn.0)
}

fn system_time(unix_us: i64) -> SystemTime {
    let distance = Duration::from_micros(unix_us.unsigned_abs());
    let time = match unix_us >= 0 {
        true => SystemTime::UNIX_EPOCH.checked_add(distance),
        false => SystemTime::UNIX_EPOCH.checked_sub(distance),
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}
