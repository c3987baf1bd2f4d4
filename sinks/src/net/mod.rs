//! What a stretch of changes comes to: the net change per row, without IO.
//!
//! A batch is many transactions of blue that become one of green, so only what they come to
//! together has to be written: a row that was updated a thousand times is updated once, a row
//! that came and went leaves no trace. [`reduce`] finds that per table; the executor writes, table
//! by table in order of first touch, the deletes, then the updates, then the inserts.
//!
//! # Entities
//!
//! The reducer follows *entities*: rows that were on green before (*existing*, found by their key
//! of that time) and rows that the batch itself created. A map from current key to entity says who
//! a change is about. An existing row comes to at most one update or delete, by its key before the
//! batch; a created row to at most one insert.
//!
//! # Why keys are compared by bytes
//!
//! SQL's equality can be coarser than bytes: `1.0 = 1.00` for numeric, `-0 = 0` for floats,
//! `'A' = 'a'` for citext. Comparing the bytes of the key as they came is enough all the same:
//!
//! - An image carries the bytes that are stored, by one output function with one set of settings.
//!   So all images of one row state have the same key bytes, and blue writes the old key whenever
//!   the key's stored bytes change, not only when SQL sees a difference (`heap_update` compares
//!   with `datumIsEqual`). The trail from image to image never breaks.
//! - Two rows that exist at once have keys that SQL tells apart, hence different bytes. So one key
//!   never means two rows.
//! - Where keys differ in bytes but not for SQL (delete `'A'`, insert `'a'`) they belong to rows
//!   that did not exist at once. Deletes by old keys run first, updates find rows by old keys, so
//!   every row is found by the very key that it has on green.
//!
//! One row in text form and again in binary form would break the trail; a table whose keys come
//! in another form than before therefore starts a new stretch.
//!
//! # What is left to green
//!
//! Tables are reduced apart from each other, and a partitioned table knows nothing of changes that
//! came as its partition's. Blue publishes rows under one of the two names, but a batch can hold the
//! change from one to the other (ATTACH PARTITION, another publication). The executor asks green,
//! in the batch's own transaction, and gives such a batch back.
//!
//! Only what the batch itself shows is judged here. Whether an existing row is there, and whether a
//! unique value is free, shows when it is written: the executor compares the affected rows with
//! what it sent, which is exact because every key matches at most one row (tables where green does
//! not enforce that are applied in order), and constraints speak for themselves. Both end in the
//! same way as [`NotReducible`]: the batch is rolled back and applied row by row.

mod entities;
#[cfg(test)]
mod fixture;
mod images;
mod key;
#[cfg(test)]
mod model;
mod plan;
mod reduce;
#[cfg(test)]
mod rules;

use std::borrow::Cow;
use std::sync::Arc;

use decoders::change::{ChangeEvent, Lsn, Row, TableSchema};

pub use plan::{NetPlan, Reduces};
pub use reduce::reduce;

use crate::plan::{ColumnSet, TablePlan};

/// A part of the net change that is written before the next one.
#[derive(Debug)]
pub enum Step<'a, P = TablePlan> {
    /// Rows, as the changes between two barriers come to.
    Rows(NetChanges<'a, P>),
    /// A TRUNCATE, and the LSN of blue's commit.
    Truncate(&'a ChangeEvent, Lsn),
}

/// What one stretch of changes comes to, table by table, in order of first touch.
#[derive(Debug)]
pub struct NetChanges<'a, P = TablePlan> {
    /// The tables; those whose rows came and went are left out.
    pub tables: Vec<NetTable<'a, P>>,
}

/// What happens to one table. The lists are written in the order in which they stand here; each is
/// sorted by key (first column first; length, then bytes), which is the order of green's index for
/// most keys and one order of locking for all lanes.
#[derive(Debug)]
pub struct NetTable<'a, P = TablePlan> {
    /// The table.
    pub plan: Arc<P>,
    /// The first and the last of blue's commits that touched it, for error messages.
    pub commits: (Lsn, Lsn),
    /// Images whose values at [`NetPlan::key_positions`] name rows as they are on green before
    /// this step.
    pub deletes: Vec<&'a Row>,
    /// One group per set of present columns.
    pub updates: Vec<UpdateGroup<'a>>,
    /// Complete rows. Those of a table without a key are in the order of the stream.
    pub inserts: Vec<Cow<'a, Row>>,
    /// For a table that can't be reduced: all its changes with blue's commit LSN, as they came.
    /// The other lists are empty then.
    pub in_order: Vec<(&'a ChangeEvent, Lsn)>,
}

/// Updates that set the same columns.
#[derive(Debug)]
pub struct UpdateGroup<'a> {
    /// The columns that all rows' new images have. At least one of them can be set.
    pub present: ColumnSet,
    /// The updates.
    pub rows: Vec<NetUpdate<'a>>,
}

/// One changed row.
#[derive(Debug)]
pub struct NetUpdate<'a> {
    /// Its values at [`NetPlan::key_positions`] name the row as it is on green before this step.
    pub key: &'a Row,
    /// What the row is now; gaps keep what green has.
    pub new: Cow<'a, Row>,
}

/// The batch can't be judged as a whole. Applied row by row it either succeeds or shows the exact
/// error.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{} in blue's commit {commit_lsn}: {why}", table.name)]
pub struct NotReducible {
    /// The table of the change that shows it.
    pub table: Arc<TableSchema>,
    /// The commit of that change.
    pub commit_lsn: Lsn,
    /// What stands in the way.
    pub why: Why,
}

/// Why a batch can't be reduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// A row appears under a key that another row of the batch has.
    #[error("a key that is taken by another row of the batch")]
    KeyTaken,
    /// A change of a row that the batch removed or gave another key.
    #[error("a change of a row that the batch removed before")]
    RowGone,
    /// More rows of one table than can be counted.
    #[error("too many rows")]
    TooMany,
    /// The change lacks a value that its statement needs, or its table is not known.
    #[error("a change that does not fit its table's plan")]
    Unfit,
    /// What it fires on green may depend on the order of changes in all tables.
    #[error("triggers or cascading foreign keys fire on green")]
    Fires,
}
