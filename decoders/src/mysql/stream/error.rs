//! What makes a stream end, other than its connection.

use crate::change::QualifiedName;
use crate::mysql::DecodeError;
use crate::mysql::gtid::TransactionId;
use crate::source::SourceError;

use super::rows::RowsError;

/// The events can't be turned into changes. Nothing is skipped and nothing guessed, so the stream
/// stops before the transaction that is concerned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// An event can't be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The rows of an event can't be decoded.
    #[error("the changes of {table} can't be read: {error}")]
    Rows {
        /// The table.
        table: QualifiedName,
        /// Why.
        error: RowsError,
    },
    /// A row event without a table map.
    #[error("rows of a table that was not described")]
    UnknownTable,
    /// The stream does not describe the table well enough, and the catalog has another one now.
    #[error("{table} has changed since: the catalog describes another table than the binlog")]
    OtherShape {
        /// The table.
        table: QualifiedName,
    },
    /// The stream does not describe the table well enough, and the catalog lacks it.
    #[error("{table} is not in the catalog any more, and the binlog does not say enough about it")]
    NoCatalog {
        /// The table.
        table: QualifiedName,
    },
    /// A change in statement format.
    #[error("a change of rows was logged as a statement")]
    StatementFormat,
    /// The source runs without GTIDs, or did when this was written.
    #[error("a transaction has no GTID")]
    Anonymous,
    /// The source says that changes may be missing.
    #[error("the server reports an incident: {0}")]
    Incident(String),
    /// Changes were rolled back that can't be told from those that were not.
    #[error("a transaction that changed tables without transactions was rolled back in part")]
    PartlyRolledBack,
    /// An identity that can't be read.
    #[error("the identity of a distributed transaction can't be read")]
    XaIdentity,
    /// Events that follow no rule of the binlog.
    #[error("the binlog is out of order: {0}")]
    OutOfOrder(&'static str),
}

impl StreamFault {
    /// The error of a stream at the transaction `id`, with what to do.
    pub(super) fn at(self, id: Option<&TransactionId>) -> SourceError {
        let place = match id {
            Some(id) => format!(" (transaction {id})"),
            None => String::new(),
        };
        SourceError::halt(
            format!(
                "the binlog can't be followed: {self}{place}; nothing of it was delivered beyond"
            ),
            self.remedy(),
        )
        .caused_by(self)
    }

    fn remedy(&self) -> String {
        match self {
            StreamFault::Rows { error: RowsError::Incomplete, .. } => {
                "SET GLOBAL binlog_row_image = 'FULL', let the application reconnect, and copy again: \
                 what was written before lacks columns"
            }
            StreamFault::Decode(_) | StreamFault::OtherShape { .. } => {
                "SET GLOBAL binlog_row_metadata = 'FULL', so that the binlog describes its tables \
                 itself, and copy again from now on; if that is set, report this"
            }
            StreamFault::NoCatalog { .. } => {
                "leave the table out (--exclude-table), or copy again from now on"
            }
            StreamFault::StatementFormat => {
                "SET GLOBAL binlog_format = 'ROW', let the application reconnect, and copy again"
            }
            StreamFault::Anonymous => {
                "turn GTIDs on (gtid_mode = ON in steps, as the manual has it), and copy again"
            }
            StreamFault::PartlyRolledBack => {
                "convert the tables to InnoDB (ALTER TABLE .. ENGINE = InnoDB) and copy again"
            }
            StreamFault::Incident(_) => "find out what was lost in the server's error log; copy again",
            StreamFault::Rows { .. }
            | StreamFault::UnknownTable
            | StreamFault::XaIdentity
            | StreamFault::OutOfOrder(_) => "report this, with the server's version",
        }
        .to_owned()
    }
}
