//! Decoded images as rows of the change vocabulary.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::tables::Described;
use crate::change::{ChangeEvent, OldRow, Row, RowBuilder};
use crate::mysql::{Cell, DecodeError, Fault, Operation, Rows, Value};

/// Where a value is among those of its event.
enum Place {
    Absent,
    Null,
    Text(Range<usize>),
    Binary(Range<usize>),
}

/// The changes of a row event. Each value is the text that the server's own SELECT gives in UTF-8 and
/// UTC, or bytes for types that are none. What an image lacks is a gap.
///
/// # Errors
/// A value can't be decoded exactly.
pub(super) fn changes(event: &Rows, table: &Described) -> Result<Vec<ChangeEvent>, RowsError> {
    let mut found = Found { keeps_images: table.form.is_some(), ..Found::default() };
    let mut reader = event.reader(&table.layout)?;
    while let Some(change) = reader.read()? {
        if change.has_before() {
            found.take(change.whole_before(), event.width, |column| change.before(column))?;
        }
        if change.has_after() {
            found.take(change.whole_after(), event.width, |column| change.after(column))?;
        }
    }
    let Found { values, places, wholes, .. } = found;
    if u32::try_from(values.len()).is_err() {
        return Err(RowsError::TooLarge);
    }
    Ok(assemble(event, table, &Bytes::from(values), places, wholes))
}

/// The values of an event, one behind the other.
#[derive(Default)]
struct Found {
    /// Whether images are kept as they came, before their values.
    keeps_images: bool,
    values: Vec<u8>,
    places: Vec<Place>,
    wholes: Vec<Range<usize>>,
}

impl Found {
    /// Takes the next image, of which `cell` gives the columns.
    fn take<'a>(
        &mut self,
        whole: Option<&[u8]>,
        width: usize,
        cell: impl Fn(usize) -> Result<Cell<'a>, Fault>,
    ) -> Result<(), RowsError> {
        if self.keeps_images {
            let start = self.values.len();
            self.values.extend_from_slice(whole.unwrap_or_default());
            self.wholes.push(start..self.values.len());
        }
        for column in 0..width {
            let place = match &cell(column) {
                Ok(Cell::Value(value)) => place(value, &mut self.values)?,
                Ok(Cell::Absent) => Place::Absent,
                Err(fault) => return Err(RowsError::Value(fault.clone())),
            };
            self.places.push(place);
        }
        Ok(())
    }
}

fn place(value: &Value, values: &mut Vec<u8>) -> Result<Place, RowsError> {
    let start = values.len();
    if !value.write_text(values) {
        return Ok(Place::Null);
    }
    let range = start..values.len();
    if range.len() > Row::VALUE_BYTES_MAX {
        return Err(RowsError::TooLarge);
    }
    Ok(match value {
        Value::Bytes(_) | Value::Bits { .. } | Value::Geometry(_) | Value::Vector(_) => {
            Place::Binary(range)
        }
        _ => Place::Text(range),
    })
}

fn assemble(
    event: &Rows,
    Described { schema, form, .. }: &Described,
    frame: &Bytes,
    places: Vec<Place>,
    wholes: Vec<Range<usize>>,
) -> Vec<ChangeEvent> {
    let mut wholes = wholes.into_iter();
    let mut places = places.into_iter().peekable();
    let mut changes = Vec::new();
    while places.peek().is_some() {
        let mut row = || {
            let mut row = RowBuilder::new(frame, event.width);
            // An image always has bytes: an empty one stands for none.
            if let (Some(form), Some(whole)) = (form, wholes.next().filter(|at| !at.is_empty())) {
                row.image(form, whole);
            }
            for place in places.by_ref().take(event.width) {
                match place {
                    Place::Absent => row.unchanged(),
                    Place::Null => row.null(),
                    Place::Text(range) => row.text(range),
                    Place::Binary(range) => row.binary(range),
                }
            }
            row.finish()
        };
        let table = Arc::clone(schema);
        changes.push(match event.operation {
            Operation::Insert => ChangeEvent::Insert { table, new: row() },
            Operation::Delete => ChangeEvent::Delete { table, old: OldRow::Full(row()) },
            Operation::Update => {
                let old = Some(OldRow::Full(row()));
                ChangeEvent::Update { table, old, new: row() }
            }
        });
    }
    changes
}

/// Why the rows of an event can't be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowsError {
    /// The event or a value of it is damaged or unknown.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A value can't be decoded.
    #[error("{0}")]
    Value(Fault),
    /// `binlog_row_image` is not FULL.
    #[error("its images lack columns")]
    Incomplete,
    /// More than a row can hold: 1 GiB a value, 4 GiB an event.
    #[error("a value or an event is too large to be held")]
    TooLarge,
}
