//! Prepared statements of one session, by table version and shape of change.

use std::collections::HashMap;
use std::sync::Arc;

use decoders::change::TableSchema;
use tokio_postgres::types::{Kind, Type};
use tokio_postgres::{Client, Statement};

use super::catalog::{GreenTable, read_table};
use super::error::target_error;
use crate::plan::{self, Fire, RowStatement, Shape, TablePlan};
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

struct Table {
    plan: Arc<TablePlan>,
    prepared: HashMap<Shape, Arc<Prepared>>,
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

    /// Reads green's table and fits the version to it. Nothing may be unanswered on the session.
    pub async fn add_table(
        &mut self,
        client: &Client,
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
                let Some(green) = read_table(client, &schema.name).await? else {
                    return Err(missing_table(schema));
                };
                let plan = Arc::new(TablePlan::new(schema.clone(), green, fire)?);
                self.tables.push(Table { plan, prepared: HashMap::new() });
                self.tables.len() - 1
            }
        };
        self.by_address.insert(address(schema), at);
        self.seen.push(schema.clone());
        Ok(())
    }

    /// Green's table, for statements without columns: the version's columns need not fit. Nothing
    /// may be unanswered on the session.
    pub async fn green(
        &self,
        client: &Client,
        schema: &Arc<TableSchema>,
        fire: Fire,
    ) -> Result<GreenTable, TargetError> {
        if let Some(plan) = self.plan(schema) {
            return Ok(plan.green().clone());
        }
        let green = read_table(client, &schema.name).await?;
        let green = green.ok_or_else(|| missing_table(schema))?;
        plan::check_triggers(&green, fire)?;
        Ok(green)
    }

    /// Prepares the statement for a shape. The table must be known and nothing unanswered.
    pub async fn prepare(
        &mut self,
        client: &Client,
        plan: &Arc<TablePlan>,
        schema: &Arc<TableSchema>,
        shape: &Shape,
    ) -> Result<Arc<Prepared>, TargetError> {
        if self.prepared >= MOST_PREPARED {
            self.tables.iter_mut().for_each(|table| table.prepared.clear());
            self.prepared = 0;
        }
        let row = plan.statement(shape);
        let types: Vec<Type> = row.types.iter().map(|t| parameter_type(t.oid, &t.name)).collect();
        let statement = client.prepare_typed(&row.sql, &types).await.map_err(|e| {
            target_error(&format!("preparing a statement for {} on green", schema.name), &e)
        })?;
        let prepared = Arc::new(Prepared { row, statement });
        if let Some(at) = self.by_address.get(&address(schema)) {
            self.tables[*at].prepared.insert(shape.clone(), prepared.clone());
            self.prepared += 1;
        }
        Ok(prepared)
    }
}

/// Only the OID goes over the wire.
fn parameter_type(oid: u32, name: &str) -> Type {
    Type::from_oid(oid)
        .unwrap_or_else(|| Type::new(name.to_owned(), oid, Kind::Simple, String::new()))
}

pub(super) fn missing_table(schema: &TableSchema) -> TargetError {
    TargetError::halt(
        format!("green has no table {}", schema.name),
        "Create it on green as it is on blue, or take it out of the publication, then start the \
         replicator again",
    )
}
