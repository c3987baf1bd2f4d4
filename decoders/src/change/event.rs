//! Row-level facts and the transactions that they belong to.

use std::sync::Arc;

use bytes::Bytes;

use super::definition::Definition;
use super::distributed::Distributed;
use super::position::Lsn;
use super::row::Row;
use super::schema::TableSchema;

/// The old image of a row that was updated or deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OldRow {
    /// Only the replica identity's columns carry values; all others are NULL and mean nothing.
    Key(Row),
    /// Every column (REPLICA IDENTITY FULL).
    Full(Row),
}

impl OldRow {
    /// The image; see the variants for which of its columns count.
    pub fn row(&self) -> &Row {
        match self {
            OldRow::Key(row) | OldRow::Full(row) => row,
        }
    }
}

/// One change of the source, in the source's order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChangeEvent {
    /// A row was added.
    Insert {
        /// The table as it was.
        table: Arc<TableSchema>,
        /// The new row; never has gaps.
        new: Row,
    },
    /// A row was changed.
    Update {
        /// The table as it was.
        table: Arc<TableSchema>,
        /// The old image; `None` means that the key did not change and is in `new`.
        old: Option<OldRow>,
        /// The new row; unchanged TOASTed values may be missing.
        new: Row,
    },
    /// A row was removed.
    Delete {
        /// The table as it was.
        table: Arc<TableSchema>,
        /// The old image.
        old: OldRow,
    },
    /// Tables were emptied together by one TRUNCATE.
    Truncate {
        /// All of them, those reached by CASCADE too.
        tables: Box<[Arc<TableSchema>]>,
        /// CASCADE was given.
        cascade: bool,
        /// RESTART IDENTITY was given.
        restart_identity: bool,
    },
    /// A logical message inside a transaction (`pg_logical_emit_message(true, ..)`).
    Message {
        /// Who it is for; ours begin with `cutover.`.
        prefix: String,
        /// What it says.
        content: Bytes,
    },
    /// Something was defined anew, and committed by itself. It comes first but for marks, and stands alone
    /// on its way; behind it are rows of CREATE TABLE .. SELECT at most.
    Definition(Arc<Definition>),
    /// A step of a distributed transaction. Its transaction stands alone on its way.
    Distributed(Distributed),
}

/// Which part of a source transaction a [`Transaction`] holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first changes of one too large to hold; more follow.
    First,
    /// Neither the first nor the last.
    Middle,
    /// The end: the commit stands behind these changes.
    Last,
}

impl Part {
    /// Whether the transaction starts here.
    pub fn starts(self) -> bool {
        matches!(self, Part::Whole | Part::First)
    }

    /// Whether the transaction's commit is here.
    pub fn ends(self) -> bool {
        matches!(self, Part::Whole | Part::Last)
    }
}

/// [`Transaction::origin`] of a transaction that was received while it ran: if it has one, the server does not
/// say so. No origin has this name.
pub const UNTOLD_ORIGIN: &str = "";

/// A committed source transaction, or one part of a large one. Parts of one transaction follow
/// each other without anything between them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// Which part this is.
    pub part: Part,
    /// The source's transaction id.
    pub xid: u32,
    /// LSN of the commit record: the transaction's identity in the log.
    pub commit_lsn: Lsn,
    /// End of the commit record: what progress is counted by. `None` until the part that ends.
    pub end_lsn: Option<Lsn>,
    /// Commit time by the source's clock, microseconds since the Unix epoch.
    pub committed_at_us: i64,
    /// The replication origin's name, if the transaction was itself replicated to the source, or
    /// [`UNTOLD_ORIGIN`].
    pub origin: Option<Arc<str>>,
    /// The changes, in order.
    pub changes: Vec<ChangeEvent>,
    /// Bytes of the frames that the changes came in: what budgets count.
    pub bytes: usize,
}

impl Transaction {
    /// The schema change that it is.
    pub fn definition(&self) -> Option<&Arc<Definition>> {
        let is_mark = |change: &&ChangeEvent| matches!(change, ChangeEvent::Message { .. });
        match self.changes.iter().find(|change| !is_mark(change)) {
            Some(ChangeEvent::Definition(definition)) => Some(definition),
            _ => None,
        }
    }

    /// The step of a distributed transaction that it is.
    pub fn distributed(&self) -> Option<&Distributed> {
        match self.changes.first() {
            Some(ChangeEvent::Distributed(step)) => Some(step),
            _ => None,
        }
    }

    /// Whether nothing may be applied together with it: a part of a large one, a schema change, a step of
    /// a distributed transaction.
    pub fn stands_alone(&self) -> bool {
        self.part != Part::Whole || self.definition().is_some() || self.distributed().is_some()
    }
}
