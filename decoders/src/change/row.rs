//! Rows as they travel: a value is the source's own bytes, cut out of the frame, never parsed.

use bytes::Bytes;

/// One column's value in the form in which the source sent it.
///
/// Text and binary are the two forms of the PostgreSQL protocol (manual, 55.2.5 Formats and
/// Format Codes). The bytes are a slice of the frame that they came in.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// The type's text output.
    Text(Bytes),
    /// The type's binary send format.
    Binary(Bytes),
}

impl Value {
    /// Whether this is SQL NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The bytes of a value that is not NULL.
    pub fn bytes(&self) -> Option<&Bytes> {
        match self {
            Value::Null => None,
            Value::Text(bytes) | Value::Binary(bytes) => Some(bytes),
        }
    }
}

/// A column in a row image: a value, or the word that the source did not send it.
///
/// A gap is a type of its own so that it can't be bound as NULL by mistake.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Cell {
    /// The column's value.
    Value(Value),
    /// A TOASTed value that the UPDATE did not touch, left out by the source.
    Unchanged,
}

impl Cell {
    /// The value, unless it was left out.
    pub fn value(&self) -> Option<&Value> {
        match self {
            Cell::Value(value) => Some(value),
            Cell::Unchanged => None,
        }
    }

    /// NULL, present.
    pub const NULL: Cell = Cell::Value(Value::Null);
}

/// The columns of a row image, in the order of its [`TableSchema`](super::TableSchema).
#[derive(Clone, PartialEq, Eq, Debug, Hash, Default)]
pub struct Row(pub Box<[Cell]>);

impl Row {
    /// The cells in column order.
    pub fn cells(&self) -> &[Cell] {
        &self.0
    }

    /// Bytes of all values, for budgets.
    pub fn bytes(&self) -> usize {
        let value_bytes = |cell: &Cell| match cell {
            Cell::Value(value) => value.bytes().map_or(0, Bytes::len),
            Cell::Unchanged => 0,
        };
        self.0.iter().map(value_bytes).sum()
    }
}

impl From<Vec<Cell>> for Row {
    fn from(cells: Vec<Cell>) -> Self {
        Row(cells.into_boxed_slice())
    }
}
