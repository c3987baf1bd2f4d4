//! What a stream may not do.

use crate::change::{Lsn, QualifiedName, TableId};

/// Why a message can't follow those before it. The stream is not to be trusted beyond it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// A message that only exists inside a transaction came outside of one.
    #[error("{0} outside of a transaction")]
    Stray(&'static str),
    /// A transaction starts before the last one ended.
    #[error("transaction {inner} begins inside transaction {outer}")]
    NestedBegin {
        /// The one that is open.
        outer: u32,
        /// The one that starts.
        inner: u32,
    },
    /// The commit is not the one that Begin promised.
    #[error(
        "transaction {xid} began for the commit at {begun} and ends with the one at {committed}"
    )]
    OtherCommit {
        /// The open transaction.
        xid: u32,
        /// Commit LSN by its Begin.
        begun: Lsn,
        /// Commit LSN by its Commit.
        committed: Lsn,
    },
    /// Commits come in the order of their LSNs, and a record ends behind its start.
    #[error("the commit at {later} ending at {end} does not follow {earlier}")]
    OutOfOrder {
        /// End of the commit before.
        earlier: Lsn,
        /// This commit's LSN.
        later: Lsn,
        /// Its end.
        end: Lsn,
    },
    /// A row of a table that was never described.
    #[error("a change to the table with OID {}, which the stream has not described", .0.0)]
    UnknownTable(TableId),
    /// A known name belongs to another table now: dropped and made again, or renamed.
    #[error(
        "{table} is another table on the source now (OID {}, before {}): it was dropped and made again, or \
         another one has taken its name", .found.0, .known.0
    )]
    MadeAgain {
        /// The name.
        table: QualifiedName,
        /// The table that had it.
        known: TableId,
        /// The one that has it now.
        found: TableId,
    },
    /// A change that contradicts its table's description.
    #[error("a change to {table} can't be applied: {kind}")]
    Row {
        /// The table.
        table: QualifiedName,
        /// What is wrong.
        kind: RowError,
    },
}

/// What is wrong with the images of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// Image and description differ in width.
    #[error("the row has {found} columns, the table {expected}")]
    Width {
        /// Columns of the table.
        expected: usize,
        /// Cells of the image.
        found: usize,
    },
    /// A gap where the source has nothing to leave out.
    #[error("the value of column {0} was left out")]
    Gap(usize),
    /// The table has no replica identity that could find the row.
    #[error("the table has no key that could find the row")]
    NoKey,
    /// NULL in a column of the key.
    #[error("column {0} of the key is NULL")]
    NullInKey(usize),
    /// The old image is not of the kind that the table's replica identity calls for. A root and
    /// its partitions with different identities can do that under `publish_via_partition_root`.
    #[error("the old row does not fit the table's replica identity")]
    OldImage,
}
