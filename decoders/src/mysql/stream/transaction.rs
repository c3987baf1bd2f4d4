//! What the stream delivers.

use crate::change::{ChangeEvent, Part};
use crate::mysql::gtid::{BinlogPosition, TransactionId};

use super::statement::Statement;
use super::xa::XaId;

/// One group of the binlog, or one part of a large one: a transaction that committed, one that was
/// prepared, or a statement that committed by itself. Parts of one follow each other without anything
/// between them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// Which part this is.
    pub part: Part,
    /// Its identity.
    pub id: TransactionId,
    /// Everything read up to and with it: where to resume behind it. `None` until the part that ends.
    pub position: Option<BinlogPosition>,
    /// How it ended; known from the part that ends.
    pub outcome: Outcome,
    /// It is a branch of a distributed transaction (XA), which every part says: whether its changes are
    /// committed is known from the part that ends.
    pub distributed: bool,
    /// When it committed by the clock of the server that was read, in microseconds since 1970. MariaDB
    /// tells whole seconds.
    pub committed_at_us: i64,
    /// The `server_id` of the server where it was committed first.
    pub server_id: u32,
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// Bytes that the changes take: what budgets count.
    pub bytes: usize,
}

/// How a group ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Its changes are committed. Also said by parts before the last, whose end is not known.
    Committed,
    /// XA PREPARE: its changes are pending until [`Change::XaCommit`] or [`Change::XaRollback`] of the
    /// same identity. That may take days, and the binlog does not repeat the changes: who moves its
    /// position beyond must have stored them.
    Prepared(XaId),
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A row.
    Row(ChangeEvent),
    /// A statement, DDL mostly.
    Statement(Statement),
    /// Whether foreign keys were checked when the changes behind it were made. Every part begins with
    /// `true`, and ends with it.
    ForeignKeyChecks(bool),
    /// A prepared transaction was committed.
    XaCommit(XaId),
    /// A prepared transaction was rolled back.
    XaRollback(XaId),
}

impl Transaction {
    /// The rows among the changes.
    pub fn rows(&self) -> impl Iterator<Item = &ChangeEvent> {
        self.changes.iter().filter_map(|change| match change {
            Change::Row(row) => Some(row),
            _ => None,
        })
    }
}
