//! Net changes as statements for many rows.
//!
//! # Where each byte goes
//! A value stays in the frame that it came in until its statement is written. `UPDATE`, `DELETE`
//! and small `INSERT`s copy it from there into the message that goes to the socket, as one element
//! of an array ([`ArrayParam`]): the only copy. Large `INSERT`s copy it into a piece of COPY data
//! ([`Pieces`]), and the piece is copied into its message.
//!
//! # Order
//! Within a table deletes come first, then updates, then inserts: what frees a unique value comes
//! before what takes it. Where triggers and foreign keys don't fire, tables know nothing of each
//! other: the large `INSERT`s go out last, so that green works on the rest meanwhile. Where foreign keys are checked, deletes go from the table that
//! was touched last to the first, and everything else from the first to the last. That is right for
//! what was written parents first; the rest is refused by green and then written row by row.

use std::sync::Arc;

use decoders::change::{ChangeEvent, Lsn, Transaction};

use super::array::{ArrayParam, Column, Images};
use super::catalog::{GreenTable, TableKind};
use super::copy_rows::{self, Pieces};
use super::pipeline::{Failure, Pipeline, Purpose};
use super::statements::{Many, PreparedSet};
use super::wire::Wire;
use super::writer::{Writer, lost_plan};
use crate::net::{NetTable, Step, UpdateGroup, reduce};
use crate::plan::{SetShape, Shape, TablePlan};
use crate::target::TargetError;

/// Fewer rows of one kind are sent one by one: as fast, and nothing more to prepare.
const FEWEST_ROWS: usize = 8;
/// New rows that are worth the round trip of a COPY.
const COPY_ROWS: usize = 64;
/// Rows in one statement: while green works on one, the next is on its way.
const STATEMENT_ROWS: usize = 8192;
/// Bytes of values in one statement, unless one row has more.
const STATEMENT_BYTES: usize = 1024 * 1024;

/// What is written between two barriers.
pub(super) enum Work<'s> {
    Rows(Vec<TableWork<'s>>),
    Truncate(&'s ChangeEvent, Lsn),
}

impl Work<'_> {
    /// The tables that are written and the partitioned ones of them, by OID; `None` if no two of
    /// them can share rows.
    pub fn may_share_rows(&self) -> Option<(Vec<u32>, Vec<u32>)> {
        let Work::Rows(tables) = self else { return None };
        let greens = || tables.iter().map(|table| table.plan.green());
        let is_partitioned = |green: &&GreenTable| green.kind == TableKind::Partitioned;
        let partitioned: Vec<u32> =
            greens().filter(is_partitioned).map(|green| green.oid).collect();
        let alone = tables.len() < 2 || partitioned.is_empty();
        (!alone).then(|| (greens().map(|green| green.oid).collect(), partitioned))
    }
}

/// What is written to one table, in this order.
pub(super) struct TableWork<'s> {
    plan: &'s Arc<TablePlan>,
    deletes: Option<Rows<'s>>,
    updates: Vec<Rows<'s>>,
    inserts: Option<Rows<'s>>,
    in_order: &'s [(&'s ChangeEvent, Lsn)],
}

/// Changes of one table that are alike.
struct Rows<'s> {
    plan: &'s Arc<TablePlan>,
    commits: (Lsn, Lsn),
    shape: SetShape,
    rows: Vec<Images<'s>>,
}

/// What `steps` are written as.
pub(super) fn work<'s>(steps: &'s [Step<'s>]) -> Vec<Work<'s>> {
    let one = |step: &'s Step<'s>| match step {
        Step::Truncate(event, lsn) => Work::Truncate(event, *lsn),
        Step::Rows(changes) => Work::Rows(changes.tables.iter().map(table_work).collect()),
    };
    steps.iter().map(one).collect()
}

fn table_work<'s>(table: &'s NetTable<'s>) -> TableWork<'s> {
    let NetTable { plan, commits, deletes, updates, inserts, in_order } = table;
    let rows = |shape, rows: Vec<Images<'s>>| {
        (!rows.is_empty()).then_some(Rows { plan, commits: *commits, shape, rows })
    };
    let deletes = deletes.iter().map(|old| Images { old: Some(old), new: None });
    let inserts = inserts.iter().map(|new| Images { old: None, new: Some(&**new) });
    let moves = |update: &Images<'s>| {
        let (Some(old), Some(new)) = (update.old, update.new) else { return false };
        let key = plan.key_positions().unwrap_or_default();
        key.iter().any(|at| new.value(*at).is_some_and(|value| Some(value) != old.value(*at)))
    };
    let by_key = |group: &'s UpdateGroup<'s>| {
        let images =
            group.rows.iter().map(|row| Images { old: Some(row.key), new: Some(&*row.new) });
        let (moved, kept): (Vec<_>, Vec<_>) = images.partition(moves);
        let shape = |moves| SetShape::Update { present: group.present.clone(), moves };
        [rows(shape(false), kept), rows(shape(true), moved)].into_iter().flatten()
    };
    TableWork {
        plan,
        deletes: rows(SetShape::Delete, deletes.collect()),
        updates: updates.iter().flat_map(by_key).collect(),
        inserts: rows(SetShape::Insert, inserts.collect()),
        in_order,
    }
}

impl Rows<'_> {
    fn op(&self) -> &'static str {
        match self.shape {
            SetShape::Delete => "DELETE",
            SetShape::Update { .. } => "UPDATE",
            SetShape::Insert => "INSERT",
        }
    }
}

impl Writer {
    /// What `transactions` come to. Reads what is not known yet of their tables; nothing may be
    /// unanswered.
    pub async fn reduce<'t>(
        &mut self,
        wire: &mut Wire,
        transactions: &'t [Transaction],
    ) -> Result<Vec<Step<'t>>, Failure> {
        for transaction in transactions {
            for change in &transaction.changes {
                let (ChangeEvent::Insert { table, .. }
                | ChangeEvent::Update { table, .. }
                | ChangeEvent::Delete { table, .. }) = change
                else {
                    continue;
                };
                if self.statements.plan(table).is_none() {
                    self.statements.add_table(wire, table, self.fire).await?;
                }
            }
        }
        Ok(self.reduce_known(transactions)?)
    }

    fn reduce_known<'t>(
        &self,
        transactions: &'t [Transaction],
    ) -> Result<Vec<Step<'t>>, TargetError> {
        let changes = transactions.iter().flat_map(|transaction| {
            transaction.changes.iter().map(|change| (change, transaction.commit_lsn))
        });
        let steps = reduce(changes, |table| self.statements.plan(table).cloned());
        // Row by row it succeeds or shows what is wrong.
        steps.map_err(|why| TargetError::halt(why.to_string(), "Please report it"))
    }

    /// Writes what is between two barriers, and leaves the last statements unanswered.
    pub async fn work<'s>(
        &mut self,
        pipe: &mut Pipeline<'s>,
        work: &'s Work<'s>,
        foreign_keys_fire: bool,
    ) -> Result<(), Failure> {
        let tables = match work {
            Work::Truncate(event, lsn) => return self.change(pipe, event, *lsn).await,
            Work::Rows(tables) => tables,
        };
        if foreign_keys_fire {
            for rows in tables.iter().rev().filter_map(|table| table.deletes.as_ref()) {
                self.rows(pipe, rows).await?;
            }
            for table in tables {
                self.all_but_deletes(pipe, table, &mut None).await?;
            }
            return Ok(());
        }
        let mut copies = Some(Vec::new());
        for table in tables {
            if let Some(rows) = &table.deletes {
                self.rows(pipe, rows).await?;
            }
            self.all_but_deletes(pipe, table, &mut copies).await?;
        }
        for rows in copies.into_iter().flatten() {
            self.insert(pipe, rows).await?;
        }
        Ok(())
    }

    /// Large inserts are put off to `later`, if it is there.
    async fn all_but_deletes<'s>(
        &mut self,
        pipe: &mut Pipeline<'s>,
        table: &'s TableWork<'s>,
        later: &mut Option<Vec<&'s Rows<'s>>>,
    ) -> Result<(), Failure> {
        for rows in &table.updates {
            self.rows(pipe, rows).await?;
        }
        match (&table.inserts, later) {
            (None, _) => {}
            (Some(rows), Some(later)) if rows.rows.len() >= COPY_ROWS => later.push(rows),
            (Some(rows), _) => self.insert(pipe, rows).await?,
        }
        for (change, lsn) in table.in_order {
            self.change(pipe, change, *lsn).await?;
        }
        Ok(())
    }

    async fn insert<'s>(
        &mut self,
        pipe: &mut Pipeline<'s>,
        rows: &'s Rows<'s>,
    ) -> Result<(), Failure> {
        let table = rows.plan.schema();
        let images = || rows.rows.iter().filter_map(|row| row.new);
        if rows.rows.len() < COPY_ROWS || table.columns.is_empty() {
            return self.rows(pipe, rows).await;
        }
        let Some(format) = copy_rows::format(images()) else { return self.rows(pipe, rows).await };
        let Some(copy) = self.many(pipe, rows.plan, &Many::Copy(format)).await? else {
            return self.rows(pipe, rows).await;
        };
        let (op, count, commits) = (rows.op(), rows.rows.len(), rows.commits);
        let purpose = Purpose::Rows { op, table: table.clone(), rows: count, commits };
        let pieces = Pieces::new(images(), format, copy_rows::inner_oids(rows.plan));
        pipe.copy(&copy.statement, pieces, purpose).await
    }

    /// Rows by as few statements as are good for them.
    async fn rows<'s>(
        &mut self,
        pipe: &mut Pipeline<'s>,
        rows: &'s Rows<'s>,
    ) -> Result<(), Failure> {
        if rows.rows.len() < FEWEST_ROWS {
            return self.one_by_one(pipe, rows, &rows.rows).await;
        }
        let many = Many::Set(rows.shape.clone());
        let Some(prepared) = self.many(pipe, rows.plan, &many).await? else {
            return self.one_by_one(pipe, rows, &rows.rows).await;
        };
        for some in rows.rows.chunks(STATEMENT_ROWS) {
            // What is too large is halved; the first half is on top.
            let mut waiting = vec![some];
            while let Some(some) = waiting.pop() {
                if some.len() < FEWEST_ROWS {
                    self.one_by_one(pipe, rows, some).await?;
                    continue;
                }
                let Some((params, bytes)) = params(rows.plan, &prepared, some) else {
                    self.one_by_one(pipe, rows, some).await?;
                    continue;
                };
                if bytes > STATEMENT_BYTES {
                    let (first, second) = some.split_at(some.len() / 2);
                    waiting.extend([second, first]);
                    continue;
                }
                let (op, table, commits) = (rows.op(), rows.plan.schema(), rows.commits);
                let purpose = Purpose::Rows { op, table: table.clone(), rows: some.len(), commits };
                pipe.send(&prepared.statement, &params, bytes, purpose).await?;
            }
        }
        Ok(())
    }

    async fn one_by_one<'s>(
        &mut self,
        pipe: &mut Pipeline<'s>,
        rows: &'s Rows<'s>,
        some: &'s [Images<'s>],
    ) -> Result<(), Failure> {
        let table = rows.plan.schema();
        for images in some {
            let shape = match (&rows.shape, images.old, images.new) {
                (SetShape::Insert, ..) => Shape::Insert,
                (SetShape::Delete, ..) => Shape::Delete,
                (SetShape::Update { present, .. }, Some(old), Some(new)) => {
                    rows.plan.net_update(present, old, new)
                }
                (SetShape::Update { .. }, ..) => return Err(lost_plan(table).into()),
            };
            let (op, commits) = (rows.op(), rows.commits);
            let purpose = Purpose::Rows { op, table: table.clone(), rows: 1, commits };
            self.row(pipe, rows.plan, table, &shape, *images, purpose).await?;
        }
        Ok(())
    }

    async fn many(
        &mut self,
        pipe: &mut Pipeline<'_>,
        plan: &Arc<TablePlan>,
        many: &Many,
    ) -> Result<Option<Arc<PreparedSet>>, Failure> {
        if let Some(known) = self.statements.set(plan.schema(), many) {
            return Ok(known);
        }
        let wire = pipe.settled().await?;
        let prepared = self.statements.prepare_set(wire, plan, many).await;
        prepared.map_err(|error| Failure { error, suspect: Some(plan.schema().clone()) })
    }
}

/// The arrays for `rows` and their bytes. `None` if a column's values can't be one array.
fn params<'s>(
    plan: &TablePlan,
    prepared: &PreparedSet,
    rows: &'s [Images<'s>],
) -> Option<(Vec<ArrayParam<'s>>, usize)> {
    let mut bytes = 0;
    let mut params = Vec::with_capacity(prepared.set.slots.len());
    for slot in &prepared.set.slots {
        let column = Column::of(rows, *slot)?;
        bytes += column.message_bytes(rows.len());
        let green = plan.green_column(slot.position());
        let array = green.array?;
        params.push(ArrayParam { rows, slot: *slot, column, element_oid: green.type_oid, array });
    }
    Some((params, bytes))
}
