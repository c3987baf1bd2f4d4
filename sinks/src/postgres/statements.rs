//! Prepared statements of one session, by table version and shape of change.

use std::collections::HashMap;
use std::sync::Arc;

use decoders::change::TableSchema;

use super::catalog::{GreenTable, read_table};
use super::wire::{Statement, Wire};
use crate::plan::{
    self, CopyFormat, Fire, ParamType, RowStatement, SetShape, SetStatement, Shape, TablePlan,
};
use crate::target::TargetError;

/// Prepared statements kept per session. Each costs green some kilobytes; beyond this (thousands
/// of tables, or wide tables with ever new combinations of unsent columns) all are dropped.
const MOST_PREPARED: usize = 4096;
/// Table versions and repetitions of them that are kept.
const MOST_TABLES: usize = 16_384;

/// A statement on green and where its values come from.
pub(super) struct Prepared {
    pub row: RowStatement,
    pub statement: Statement,
}

/// A statement on green for many rows, and where its arrays' elements come from.
pub(super) struct PreparedSet {
    pub set: SetStatement,
    pub statement: Statement,
}

/// What many rows are written by.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Many {
    Set(SetShape),
    Copy(CopyFormat),
}

struct Table {
    plan: Arc<TablePlan>,
    prepared: HashMap<Shape, Arc<Prepared>>,
    /// `None`: there is no such statement.
    sets: HashMap<Many, Option<Arc<PreparedSet>>>,
}

/// The plans and statements of one session.
#[derive(Default)]
pub(super) struct Statements {
    tables: Vec<Table>,
    /// Address of a schema to its place in `tables`. The schemas in `seen` keep addresses unique.
    by_address: HashMap<usize, usize>,
    seen: Vec<Arc<TableSchema>>,
    prepared: usize,
}

fn address(schema: &Arc<TableSchema>) -> usize {
    Arc::as_ptr(schema) as usize
}

impl Statements {
    /// The plan for a table version, if it is known.
    pub fn plan(&self, schema: &Arc<TableSchema>) -> Option<&Arc<TablePlan>> {
        self.table(schema).map(|table| &table.plan)
    }

    /// The statement for a shape, if it is prepared.
    pub fn prepared(&self, schema: &Arc<TableSchema>, shape: &Shape) -> Option<&Arc<Prepared>> {
        self.table(schema)?.prepared.get(shape)
    }

    fn table(&self, schema: &Arc<TableSchema>) -> Option<&Table> {
        self.by_address.get(&address(schema)).map(|at| &self.tables[*at])
    }

    /// Reads green's table and fits the version to it. Nothing may be unanswered.
    pub async fn add_table(
        &mut self,
        wire: &mut Wire,
        schema: &Arc<TableSchema>,
        fire: Fire,
    ) -> Result<(), TargetError> {
        if self.seen.len() >= MOST_TABLES {
            *self = Self::default();
        }
        let known = self.tables.iter().position(|table| **table.plan.schema() == **schema);
        let at = match known {
            Some(at) => at,
            None => {
                let Some(green) = read_table(wire.session().await?, &schema.name).await? else {
                    return Err(missing_table(schema));
                };
                let plan = Arc::new(TablePlan::new(schema.clone(), green, fire)?);
                self.tables.push(Table { plan, prepared: HashMap::new(), sets: HashMap::new() });
                self.tables.len() - 1
            }
        };
        self.by_address.insert(address(schema), at);
        self.seen.push(schema.clone());
        Ok(())
    }

    /// Green's table, for statements without columns: the version's columns need not fit. Nothing
    /// may be unanswered.
    pub async fn green(
        &self,
        wire: &mut Wire,
        schema: &Arc<TableSchema>,
        fire: Fire,
    ) -> Result<GreenTable, TargetError> {
        if let Some(plan) = self.plan(schema) {
            return Ok(plan.green().clone());
        }
        let green = read_table(wire.session().await?, &schema.name).await?;
        let green = green.ok_or_else(|| missing_table(schema))?;
        plan::check_triggers(&green, fire)?;
        Ok(green)
    }

    /// Prepares the statement for a shape. The table must be known and nothing unanswered.
    pub async fn prepare(
        &mut self,
        wire: &mut Wire,
        plan: &Arc<TablePlan>,
        schema: &Arc<TableSchema>,
        shape: &Shape,
    ) -> Result<Arc<Prepared>, TargetError> {
        if self.prepared >= MOST_PREPARED {
            self.forget_prepared();
        }
        let row = plan.statement(shape);
        let statement = prepare_typed(wire, schema, &row.sql, &row.types).await?;
        let prepared = Arc::new(Prepared { row, statement });
        if let Some(at) = self.by_address.get(&address(schema)) {
            self.tables[*at].prepared.insert(shape.clone(), prepared.clone());
            self.prepared += 1;
        }
        Ok(prepared)
    }

    /// The statement for many rows, if it was asked for before; within, `None` if there is none.
    pub fn set(&self, schema: &Arc<TableSchema>, many: &Many) -> Option<Option<Arc<PreparedSet>>> {
        self.table(schema)?.sets.get(many).cloned()
    }

    /// Prepares the statement for many rows, if there is one. The table must be known and nothing
    /// unanswered.
    pub async fn prepare_set(
        &mut self,
        wire: &mut Wire,
        plan: &Arc<TablePlan>,
        many: &Many,
    ) -> Result<Option<Arc<PreparedSet>>, TargetError> {
        if self.prepared >= MOST_PREPARED {
            self.forget_prepared();
        }
        let set = match many {
            Many::Set(shape) => plan.set_statement(shape),
            Many::Copy(format) => {
                let sql = plan.copy_statement(*format);
                Some(SetStatement { sql, types: Vec::new(), slots: Vec::new() })
            }
        };
        let prepared = match set {
            None => None,
            Some(set) => {
                let statement = prepare_typed(wire, plan.schema(), &set.sql, &set.types).await?;
                Some(Arc::new(PreparedSet { set, statement }))
            }
        };
        if let Some(at) = self.by_address.get(&address(plan.schema())) {
            self.tables[*at].sets.insert(many.clone(), prepared.clone());
            self.prepared += 1;
        }
        Ok(prepared)
    }

    fn forget_prepared(&mut self) {
        for table in &mut self.tables {
            table.prepared.clear();
            table.sets.clear();
        }
        self.prepared = 0;
    }
}

async fn prepare_typed(
    wire: &mut Wire,
    schema: &TableSchema,
    sql: &str,
    types: &[ParamType],
) -> Result<Statement, TargetError> {
    let types: Vec<u32> = types.iter().map(|t| t.oid).collect();
    wire.prepare(sql, &types, &format!("preparing a statement for {} on green", schema.name)).await
}

pub(super) fn missing_table(schema: &TableSchema) -> TargetError {
    TargetError::halt(
        format!("green has no table {}", schema.name),
        format!(
            "Create it on green as it is on blue (a partition with PARTITION OF), or take it out of the \
             publication; it goes on by itself then. Rows that it had before it was replicated are in no \
             stream: cutover verify --table '{}' finds them, and cutover repair brings them",
            schema.name
        ),
    )
}
