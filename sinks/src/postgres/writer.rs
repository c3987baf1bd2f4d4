//! Changes as statements, row by row, in the order in which they come.

use std::sync::Arc;

use decoders::change::{ChangeEvent, Lsn, TableSchema};

use super::array::Images;
use super::catalog::GreenTable;
use super::error::target_error;
use super::pipeline::{Failure, Param, Pipeline, Purpose};
use super::statements::{Prepared, Statements};
use crate::plan::{self, Fire, Shape, TablePlan};
use crate::target::TargetError;

/// Writes changes to one session.
pub(super) struct Writer {
    pub fire: Fire,
    pub statements: Statements,
}

impl Writer {
    pub fn new(fire: Fire) -> Self {
        Self { fire, statements: Statements::default() }
    }

    /// One change as it came.
    pub async fn change<'a>(
        &mut self,
        pipe: &mut Pipeline<'a>,
        change: &'a ChangeEvent,
        commit_lsn: Lsn,
    ) -> Result<(), Failure> {
        let (op, table, images) = match change {
            ChangeEvent::Insert { table, new } => {
                ("INSERT", table, Images { old: None, new: Some(new) })
            }
            ChangeEvent::Update { table, old, new } => {
                let old = old.as_ref().map(|old| old.row());
                ("UPDATE", table, Images { old, new: Some(new) })
            }
            ChangeEvent::Delete { table, old } => {
                ("DELETE", table, Images { old: Some(old.row()), new: None })
            }
            ChangeEvent::Truncate { tables, cascade: _, restart_identity: _ } => {
                return self.truncate(pipe, tables, commit_lsn).await;
            }
            // For the controller, who saw it upstream.
            ChangeEvent::Message { .. } => return Ok(()),
            ChangeEvent::Definition(_) | ChangeEvent::Distributed(_) => {
                return Err(TargetError::halt(
                    "a change of MySQL or MariaDB came that PostgreSQL has no statement for",
                    "This is a defect of the engine: please report it",
                )
                .into());
            }
        };
        self.know(pipe, table).await?;
        let Some(plan) = self.statements.plan(table).cloned() else {
            return Err(lost_plan(table).into());
        };
        let Some(shape) = plan.shape(change)? else { return Ok(()) };
        let purpose = Purpose::Row { op, table: table.clone(), commit_lsn };
        self.row(pipe, &plan, table, &shape, images, purpose).await
    }

    /// Whether [`Writer::change`] would write it at once, without asking green anything first.
    pub fn is_ready(&self, change: &ChangeEvent) -> bool {
        let table = match change {
            ChangeEvent::Insert { table, .. }
            | ChangeEvent::Update { table, .. }
            | ChangeEvent::Delete { table, .. } => table,
            ChangeEvent::Message { .. } => return true,
            ChangeEvent::Truncate { .. }
            | ChangeEvent::Definition(_)
            | ChangeEvent::Distributed(_) => return false,
        };
        let Some(plan) = self.statements.plan(table) else { return false };
        match plan.shape(change) {
            Ok(Some(shape)) => self.statements.prepared(table, &shape).is_some(),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// One row by the statement for its shape.
    pub async fn row<'a>(
        &mut self,
        pipe: &mut Pipeline<'a>,
        plan: &Arc<TablePlan>,
        table: &Arc<TableSchema>,
        shape: &Shape,
        images: Images<'a>,
        purpose: Purpose,
    ) -> Result<(), Failure> {
        let prepared = match self.statements.prepared(table, shape) {
            Some(prepared) => prepared.clone(),
            None => self.prepare(pipe, plan, table, shape).await?,
        };
        let mut params = Vec::with_capacity(prepared.row.slots.len());
        let mut bytes = 0;
        for slot in &prepared.row.slots {
            let Some(value) = images.value(*slot) else { return Err(lost_plan(table).into()) };
            bytes += value.bytes().map_or(0, |bytes| bytes.len());
            let inner_oids = plan.green_column(slot.position()).inner_oids.clone();
            params.push(Param { value, inner_oids });
        }
        pipe.send(&prepared.statement, &params, bytes, purpose).await
    }

    /// Makes sure that there is a plan for the table.
    pub async fn know(
        &mut self,
        pipe: &mut Pipeline<'_>,
        table: &Arc<TableSchema>,
    ) -> Result<(), Failure> {
        if self.statements.plan(table).is_none() {
            let wire = pipe.settled().await?;
            self.statements.add_table(wire, table, self.fire).await?;
        }
        Ok(())
    }

    async fn prepare(
        &mut self,
        pipe: &mut Pipeline<'_>,
        plan: &Arc<TablePlan>,
        table: &Arc<TableSchema>,
        shape: &Shape,
    ) -> Result<Arc<Prepared>, Failure> {
        let wire = pipe.settled().await?;
        let prepared = self.statements.prepare(wire, plan, table, shape).await;
        // A table altered since its plan was made shows here first.
        prepared.map_err(|error| Failure { error, suspect: Some(table.clone()) })
    }

    /// One TRUNCATE of several tables.
    pub async fn truncate(
        &mut self,
        pipe: &mut Pipeline<'_>,
        tables: &[Arc<TableSchema>],
        commit_lsn: Lsn,
    ) -> Result<(), Failure> {
        if tables.is_empty() {
            return Ok(());
        }
        let wire = pipe.settled().await?;
        let mut greens: Vec<GreenTable> = Vec::with_capacity(tables.len());
        for table in tables {
            greens.push(self.statements.green(wire, table, self.fire).await?);
        }
        let sql = plan::truncate(&greens.iter().collect::<Vec<_>>());
        wire.session().await?.batch_execute(&sql).await.map_err(|e| {
            let names: Vec<String> = tables.iter().map(|table| table.name.to_string()).collect();
            let doing = format!("TRUNCATE of {} (blue's commit {commit_lsn})", names.join(", "));
            truncate_error(&doing, &e)
        })?;
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

pub(super) fn lost_plan(table: &TableSchema) -> TargetError {
    TargetError::halt(
        format!("a change of {} does not fit its own plan", table.name),
        "This is a defect of the replicator: please report it",
    )
}
