//! One applying session: whole source transactions, row by row, with their progress.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use decoders::change::{ChangeEvent, Lsn, Row, TableSchema, Transaction};
use decoders::postgres::session::Session;
use tokio_postgres::types::{PgLsn, ToSql};
use tokio_postgres::{Client, Statement};

use super::catalog::{GreenTable, read_table};
use super::error::target_error;
use super::pipeline::{Failure, Param, Pipeline, Purpose};
use super::session::{Capabilities, OriginTracking, TriggerSuppression};
use super::statements::{Prepared, Statements};
use crate::plan::{self, Fire, Shape};
use crate::progress::{self, LaneProgress};
use crate::target::{Applied, Lane, LaneId, TargetError};

/// What a lane needs to know at its start.
pub(super) struct LaneStart {
    pub session: Session,
    pub id: LaneId,
    pub pipeline: String,
    pub backend_pid: i32,
    pub capabilities: Capabilities,
    pub fire: Fire,
    pub progress: LaneProgress,
}

/// Statements that frame every transaction.
struct Frame {
    begin: Statement,
    defer_constraints: Option<Statement>,
    advance: Statement,
    mark_origin: Option<Statement>,
    commit: Statement,
}

/// Where the open transaction stands.
#[derive(Default)]
struct Open {
    begun: bool,
    /// A source transaction whose last part has not come yet.
    unfinished: Option<Lsn>,
    /// Source transactions that ended since the last commit.
    transactions: i64,
}

/// One applying connection to PostgreSQL. Writes rows one by one, pipelined.
pub struct PgLane {
    session: Arc<Session>,
    id: LaneId,
    pipeline: String,
    backend_pid: i32,
    capabilities: Capabilities,
    fire: Fire,
    frame: Arc<Frame>,
    statements: Statements,
    /// Committed on green, as the progress row says.
    committed: Option<Lsn>,
    /// End of the last source transaction that was written, committed or not.
    written: Option<Lsn>,
    /// The last ended source transaction: commit LSN and time.
    last_commit: (Lsn, i64),
    open: Open,
    /// A call failed or was dropped half-way: nothing more can be said about the session.
    broken: bool,
}

impl PgLane {
    pub(super) async fn start(start: LaneStart) -> Result<Self, TargetError> {
        let LaneStart { session, id, pipeline, backend_pid, capabilities, fire, progress } = start;
        let frame = Frame::prepare(&session, &capabilities)
            .await
            .map_err(|e| target_error("preparing the lane on green", &e))?;
        Ok(Self {
            session: Arc::new(session),
            id,
            pipeline,
            backend_pid,
            capabilities,
            fire,
            frame: Arc::new(frame),
            statements: Statements::default(),
            committed: progress.end_lsn,
            written: progress.end_lsn,
            last_commit: (Lsn::INVALID, 0),
            open: Open::default(),
            broken: false,
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
        self.committed
    }

    async fn write(&mut self, transactions: &[Transaction]) -> Result<Applied, Failure> {
        let Some(last) = transactions.last() else { return Ok(Applied::default()) };
        let session = self.session.clone();
        let frame = self.frame.clone();
        let mut pipe = Pipeline::new(&session);
        let mut changes = 0;
        for transaction in transactions {
            self.admit(transaction)?;
            if !self.open.begun {
                self.open.begun = true;
                frame.begin(&mut pipe).await?;
            }
            for change in &transaction.changes {
                self.change(&mut pipe, change, transaction.commit_lsn).await?;
                changes += 1;
            }
            self.ended(transaction)?;
        }
        if !last.part.ends() {
            pipe.drain().await?;
            return Ok(Applied { end_lsn: None, transactions: 0, changes });
        }
        self.advance(&mut pipe, &frame).await?;
        // Every count is checked before COMMIT may go out.
        pipe.drain().await?;
        let none: Vec<Param<'_>> = Vec::new();
        pipe.send(frame.commit.clone(), none, 0, Purpose::Frame("committing on green")).await?;
        pipe.drain().await?;
        let applied = self.open.transactions.unsigned_abs();
        self.open = Open::default();
        self.committed = self.written;
        Ok(Applied { end_lsn: self.committed, transactions: applied, changes })
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
        match self.written {
            // Commit records do not overlap: what began before our end is ours already.
            Some(end) if lsn < end => Err(TargetError::retry(format!(
                "the source transaction at {lsn} came again; green has everything up to {end}"
            ))),
            _ => Ok(()),
        }
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
        self.open.transactions += 1;
        self.written = Some(end);
        self.last_commit = (transaction.commit_lsn, transaction.committed_at_us);
        Ok(())
    }

    async fn change<'a>(
        &mut self,
        pipe: &mut Pipeline<'a>,
        change: &'a ChangeEvent,
        commit_lsn: Lsn,
    ) -> Result<(), Failure> {
        match change {
            ChangeEvent::Insert { table, new } => {
                self.row(pipe, change, "INSERT", table, None, Some(new), commit_lsn).await
            }
            ChangeEvent::Update { table, old, new } => {
                let old = old.as_ref().map(|old| old.row());
                self.row(pipe, change, "UPDATE", table, old, Some(new), commit_lsn).await
            }
            ChangeEvent::Delete { table, old } => {
                self.row(pipe, change, "DELETE", table, Some(old.row()), None, commit_lsn).await
            }
            ChangeEvent::Truncate { tables, cascade: _, restart_identity } => {
                self.truncate(pipe, tables, *restart_identity, commit_lsn).await
            }
            // For the controller, who saw it upstream.
            ChangeEvent::Message { .. } => Ok(()),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one change, in one place")]
    async fn row<'a>(
        &mut self,
        pipe: &mut Pipeline<'a>,
        change: &'a ChangeEvent,
        op: &'static str,
        table: &'a Arc<TableSchema>,
        old: Option<&'a Row>,
        new: Option<&'a Row>,
        commit_lsn: Lsn,
    ) -> Result<(), Failure> {
        self.know(pipe, table).await?;
        let Some(plan) = self.statements.plan(table) else { return Err(lost_plan(table).into()) };
        let Some(shape) = plan.shape(change)? else { return Ok(()) };
        let prepared = match self.statements.prepared(table, &shape) {
            Some(prepared) => prepared.clone(),
            None => self.prepare(pipe, table, &shape).await?,
        };
        let mut params = Vec::with_capacity(prepared.row.slots.len());
        let mut bytes = 0;
        for cell in prepared.row.cells(old, new) {
            let Some(value) = cell.and_then(|cell| cell.value()) else {
                return Err(lost_plan(table).into());
            };
            bytes += value.bytes().map_or(0, |bytes| bytes.len());
            params.push(Param(value));
        }
        let purpose = Purpose::Row { op, table, commit_lsn };
        pipe.send(prepared.statement.clone(), params, bytes, purpose).await
    }

    /// Makes sure that there is a plan for the table.
    async fn know(
        &mut self,
        pipe: &mut Pipeline<'_>,
        table: &Arc<TableSchema>,
    ) -> Result<(), Failure> {
        if self.statements.plan(table).is_none() {
            pipe.drain().await?;
            self.statements.add_table(&self.session, table, self.fire).await?;
        }
        Ok(())
    }

    async fn prepare(
        &mut self,
        pipe: &mut Pipeline<'_>,
        table: &Arc<TableSchema>,
        shape: &Shape,
    ) -> Result<Arc<Prepared>, Failure> {
        let Some(plan) = self.statements.plan(table).cloned() else {
            return Err(lost_plan(table).into());
        };
        pipe.drain().await?;
        let prepared = self.statements.prepare(&self.session, &plan, table, shape).await;
        // A table altered since its plan was made shows here first.
        prepared.map_err(|error| Failure { error, suspect: Some(table.clone()) })
    }

    async fn truncate<'a>(
        &mut self,
        pipe: &mut Pipeline<'a>,
        tables: &'a [Arc<TableSchema>],
        restart_identity: bool,
        commit_lsn: Lsn,
    ) -> Result<(), Failure> {
        if tables.is_empty() {
            return Ok(());
        }
        pipe.drain().await?;
        let mut greens: Vec<GreenTable> = Vec::with_capacity(tables.len());
        for table in tables {
            greens.push(self.statements.green(&self.session, table, self.fire).await?);
        }
        let sql = plan::truncate(&greens.iter().collect::<Vec<_>>(), restart_identity);
        self.session.batch_execute(&sql).await.map_err(|e| {
            let names: Vec<String> = tables.iter().map(|table| table.name.to_string()).collect();
            let doing = format!("TRUNCATE of {} (blue's commit {commit_lsn})", names.join(", "));
            truncate_error(&doing, &e)
        })?;
        Ok(())
    }

    async fn advance<'a>(&self, pipe: &mut Pipeline<'a>, frame: &Frame) -> Result<(), Failure> {
        let lsn = |lsn: Lsn| PgLsn::from(lsn.0);
        let (commit_lsn, committed_at_us) = self.last_commit;
        let end = self.written.map(lsn);
        if let (Some(mark), Some(end)) = (&frame.mark_origin, end) {
            let params: Vec<Box<dyn ToSql + Sync + Send>> =
                vec![Box::new(end), Box::new(system_time(committed_at_us))];
            let purpose = Purpose::Frame("marking the transaction's origin on green");
            pipe.send(mark.clone(), params, 0, purpose).await?;
        }
        let params: Vec<Box<dyn ToSql + Sync + Send>> = vec![
            Box::new(self.pipeline.clone()),
            Box::new(i32::from(self.id.0)),
            Box::new(end),
            Box::new(lsn(commit_lsn)),
            Box::new(self.open.transactions),
            Box::new(self.committed.map(lsn)),
        ];
        pipe.send(frame.advance.clone(), params, 0, Purpose::Progress).await
    }

    /// Ends the failed transaction and looks whether green was altered under us.
    async fn give_up(&mut self, failure: Failure) -> TargetError {
        let Failure { error, suspect } = failure;
        if self.session.batch_execute("ROLLBACK").await.is_err() {
            // The connection is gone, and the transaction with it.
            return error;
        }
        let Some(schema) = suspect else { return error };
        let before = self.statements.plan(&schema).map(|plan| plan.green().clone());
        match read_table(&self.session, &schema.name).await {
            Ok(now) if now != before => TargetError::retry(format!(
                "the definition of {} on green changed; reading it again ({error})",
                schema.name
            )),
            Ok(_) | Err(_) => error,
        }
    }
}

impl Lane for PgLane {
    async fn apply(&mut self, transactions: &[Transaction]) -> Result<Applied, TargetError> {
        if self.broken {
            return Err(TargetError::retry("this lane failed before and can't be used again"));
        }
        self.broken = true;
        match self.write(transactions).await {
            Ok(applied) => {
                self.broken = false;
                Ok(applied)
            }
            Err(failure) => Err(self.give_up(failure).await),
        }
    }
}

impl Frame {
    async fn prepare(
        client: &Client,
        capabilities: &Capabilities,
    ) -> Result<Self, tokio_postgres::Error> {
        let begin = client.prepare("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
        let defer_constraints = match capabilities.triggers {
            TriggerSuppression::ReplicaRole => None,
            TriggerSuppression::RefuseTables => {
                Some(client.prepare("SET CONSTRAINTS ALL DEFERRED").await?)
            }
        };
        let mark_origin = match capabilities.origin {
            OriginTracking::Active { .. } => {
                let sql = "SELECT pg_catalog.pg_replication_origin_xact_setup($1, $2)";
                Some(client.prepare(sql).await?)
            }
            OriginTracking::Unavailable { .. } => None,
        };
        let advance = client.prepare(progress::ADVANCE).await?;
        let commit = client.prepare("COMMIT").await?;
        Ok(Self { begin, defer_constraints, advance, mark_origin, commit })
    }

    async fn begin(&self, pipe: &mut Pipeline<'_>) -> Result<(), Failure> {
        let purpose = Purpose::Frame("beginning a transaction on green");
        let none: Vec<Param<'_>> = Vec::new();
        pipe.send(self.begin.clone(), none, 0, purpose).await?;
        if let Some(defer) = &self.defer_constraints {
            let none: Vec<Param<'_>> = Vec::new();
            pipe.send(defer.clone(), none, 0, purpose).await?;
        }
        Ok(())
    }
}

/// A TRUNCATE that a foreign key forbids reaches a table that blue did not empty.
fn truncate_error(doing: &str, error: &tokio_postgres::Error) -> TargetError {
    let mut out = target_error(doing, error);
    if error.code().is_some_and(|code| code.code() == "0A000") {
        out.remedy = Some(
            "A table that blue did not truncate, or that is not replicated, refers to it on green. \
             Drop that foreign key on green, or add the table to the publication, then start the \
             replicator again"
                .to_owned(),
        );
    }
    out
}

fn lost_plan(table: &TableSchema) -> TargetError {
    TargetError::halt(
        format!("a change of {} does not fit its own plan", table.name),
        "This is a defect of the replicator: please report it",
    )
}

fn system_time(unix_us: i64) -> SystemTime {
    let distance = Duration::from_micros(unix_us.unsigned_abs());
    let time = match unix_us >= 0 {
        true => SystemTime::UNIX_EPOCH.checked_add(distance),
        false => SystemTime::UNIX_EPOCH.checked_sub(distance),
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}
