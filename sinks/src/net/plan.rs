//! What the reducer has to know of a table on the target.

use std::sync::Arc;

use decoders::change::{ChangeEvent, TableSchema};

use super::Why;
use crate::plan::{ColumnSet, IdentityColumn, Shape, TablePlan};

/// How a change may be reduced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reduces {
    /// With others of its key.
    ByKey,
    /// Not at all: its table needs the order of its changes.
    InOrder,
}

/// One version of a source table, fitted to the target's table.
pub trait NetPlan {
    /// The table as the stream describes it.
    fn schema(&self) -> &Arc<TableSchema>;

    /// Whether both are the same table of the target.
    fn is_same_table(&self, other: &Self) -> bool;

    /// Whether something acts when the table is written, so that the order of changes matters across
    /// tables.
    fn fires(&self) -> bool;

    /// The columns that find a row, if there are such.
    fn key_positions(&self) -> Option<&[usize]>;

    /// Whether the target lets at most one row have a key.
    fn key_is_unique(&self) -> bool;

    /// Whether `present` has a column that an UPDATE can set.
    fn can_set(&self, present: &ColumnSet) -> bool;

    /// How a change of a row may be reduced, after checking that it has every value that it needs.
    ///
    /// # Errors
    /// Why it, and the batch with it, can't be.
    fn reduces(&self, change: &ChangeEvent) -> Result<Reduces, Why>;
}

impl NetPlan for TablePlan {
    fn schema(&self) -> &Arc<TableSchema> {
        TablePlan::schema(self)
    }

    fn is_same_table(&self, other: &Self) -> bool {
        self.schema().id == other.schema().id || self.green().oid == other.green().oid
    }

    fn fires(&self) -> bool {
        TablePlan::fires(self)
    }

    fn key_positions(&self) -> Option<&[usize]> {
        TablePlan::key_positions(self)
    }

    fn key_is_unique(&self) -> bool {
        TablePlan::key_is_unique(self)
    }

    fn can_set(&self, present: &ColumnSet) -> bool {
        TablePlan::can_set(self, present)
    }

    fn reduces(&self, change: &ChangeEvent) -> Result<Reduces, Why> {
        Ok(match self.shape(change).map_err(|_| Why::Unfit)? {
            Some(Shape::Update { identity, .. }) if identity != IdentityColumn::Kept => {
                Reduces::InOrder
            }
            _ => Reduces::ByKey,
        })
    }
}
