//! Why bytes are not the binlog event that they claim to be.

use super::event::EventType;

/// An event that does not follow its format, or that can't be decoded exactly.
///
/// Says where, never what: no byte of a value gets into the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("binlog event {event} can't be decoded at byte {offset}: {fault}")]
pub struct DecodeError {
    /// The event's type; [`EventType::UNKNOWN`] where not even the header could be read.
    pub event: EventType,
    /// Bytes from the start of the event's body (of its rows, for the values of a row).
    pub offset: usize,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong with an event or a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The bytes end inside a field.
    #[error("{needed} bytes are needed and {left} are left")]
    Truncated {
        /// Bytes that the field needs.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// The bytes go on after the last field.
    #[error("{0} bytes follow the end")]
    TrailingBytes(usize),
    /// The stored CRC32 is not that of the event: bytes changed on disk or on the way.
    #[error("the checksum is {stored:#010x} and that of the event {computed:#010x}")]
    Checksum {
        /// What the event carries.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// A number that this field can't have.
    #[error("the {what} is impossible: {found}")]
    Impossible {
        /// What has the number.
        what: &'static str,
        /// The number.
        found: u64,
    },
    /// A form that this decoder does not know. Never skipped: it may hold changes.
    #[error("the {what} {found} is not supported")]
    Unsupported {
        /// What is unsupported.
        what: &'static str,
        /// Its number.
        found: u64,
    },
    /// An event came before the format description event.
    #[error("no format description event came before")]
    BeforeFormat,
    /// Text that is not valid in its character set. Never replaced by something else.
    #[error("the text is not valid {0}")]
    InvalidText(&'static str),
    /// Text that does not follow its grammar.
    #[error("the {0} is malformed")]
    Malformed(&'static str),
    /// Compressed data that does not decompress, or not to the length that was declared.
    #[error("the compressed {0} is damaged")]
    Damaged(&'static str),
    /// The row event belongs to another table or another shape of it.
    #[error("the rows have {rows} columns and their table {table}")]
    OtherShape {
        /// Columns of the row event.
        rows: usize,
        /// Columns of the table map.
        table: usize,
    },
    /// Something that the stream does not say and the caller did not supply. Guessing would
    /// corrupt values.
    #[error(
        "the column's {0} is neither in the stream (binlog_row_metadata) nor in the catalog that was given"
    )]
    Unstated(&'static str),
    /// JSON came as a difference, and the old image lacks the value that it refers to.
    #[error(
        "the value is a difference to an old one, which the event lacks (binlog_row_image is not FULL)"
    )]
    NoOldValue,
    /// A fault in the value of one column.
    #[error("column {column}: {fault}")]
    InColumn {
        /// The column's position, from 0.
        column: usize,
        /// What is wrong with it.
        fault: Box<Fault>,
    },
}

impl Fault {
    /// The same fault, of the column at `column`.
    pub(super) fn in_column(self, column: usize) -> Fault {
        match self {
            Fault::InColumn { .. } => self,
            fault => Fault::InColumn { column, fault: Box::new(fault) },
        }
    }
}
