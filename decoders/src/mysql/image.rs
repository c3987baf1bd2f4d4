//! One changed row: where its values are.

use super::error::Fault;
use super::json;
use super::layout::Layout;
use super::value::Value;

/// What an image has of a column.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot<'a> {
    Absent,
    Null,
    Value(&'a [u8]),
    /// Differences to the value in the old image.
    Difference(&'a [u8]),
}

/// Says where, never what: row values must not get into a log.
impl std::fmt::Debug for Slot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Slot::Absent => f.write_str("absent"),
            Slot::Null => f.write_str("NULL"),
            Slot::Value(bytes) => write!(f, "{} bytes", bytes.len()),
            Slot::Difference(bytes) => write!(f, "a difference of {} bytes", bytes.len()),
        }
    }
}

/// A column of an image.
#[derive(Clone, PartialEq, Debug)]
pub enum Cell<'a> {
    /// The source left the column out: it did not change, or the image need not have it.
    Absent,
    /// Its value.
    Value(Value<'a>),
}

/// A row before or after a change.
#[derive(Clone, Debug, Default)]
pub(super) struct Image<'a> {
    slots: Vec<Slot<'a>>,
    /// All of it as it was written, unless parts of it are differences.
    whole: Option<&'a [u8]>,
}

impl<'a> Image<'a> {
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.whole = None;
    }

    /// An empty image for so many columns.
    pub(super) fn begin(&mut self, columns: usize) {
        self.clear();
        self.slots.reserve_exact(columns);
    }

    pub(super) fn whole(&mut self, bytes: Option<&'a [u8]>) {
        self.whole = bytes;
    }

    pub(super) fn absent(&mut self) {
        self.slots.push(Slot::Absent);
    }

    pub(super) fn null(&mut self) {
        self.slots.push(Slot::Null);
    }

    pub(super) fn value(&mut self, bytes: &'a [u8]) {
        self.slots.push(Slot::Value(bytes));
    }

    pub(super) fn difference(&mut self, bytes: &'a [u8]) {
        self.slots.push(Slot::Difference(bytes));
    }
}

/// One row of a row event.
#[derive(Clone, Debug)]
pub struct Change<'a> {
    pub(super) before: Image<'a>,
    pub(super) after: Image<'a>,
    pub(super) layout: Option<&'a Layout>,
}

impl<'a> Change<'a> {
    pub(super) fn new() -> Change<'a> {
        Change { before: Image::default(), after: Image::default(), layout: None }
    }

    /// Whether there is an old image: of an update or a delete.
    pub fn has_before(&self) -> bool {
        !self.before.slots.is_empty()
    }

    /// Whether there is a new image: of an insert or an update.
    pub fn has_after(&self) -> bool {
        !self.after.slots.is_empty()
    }

    /// A column of the old image.
    #[inline]
    pub fn before(&self, column: usize) -> Result<Cell<'a>, Fault> {
        self.cell(&self.before, column)
    }

    /// A column of the new image. JSON that came as differences is put together with the old
    /// value.
    #[inline]
    pub fn after(&self, column: usize) -> Result<Cell<'a>, Fault> {
        self.cell(&self.after, column)
    }

    /// The bytes of a column in the old image, as they were stored; `None` if it is NULL or absent.
    pub fn raw_before(&self, column: usize) -> Option<&'a [u8]> {
        raw(&self.before, column)
    }

    /// The bytes of a column in the new image, as they were stored; `None` if it is NULL, absent, or
    /// came as differences.
    pub fn raw_after(&self, column: usize) -> Option<&'a [u8]> {
        raw(&self.after, column)
    }

    /// The old image as it was written: its NULLs and its values.
    pub fn whole_before(&self) -> Option<&'a [u8]> {
        self.before.whole
    }

    /// The new image as it was written; `None` also if parts of it came as differences.
    pub fn whole_after(&self) -> Option<&'a [u8]> {
        self.after.whole
    }

    #[inline(always)]
    fn cell(&self, image: &Image<'a>, column: usize) -> Result<Cell<'a>, Fault> {
        let plan = self.layout.and_then(|layout| layout.columns().get(column));
        let (Some(plan), Some(slot)) = (plan, image.slots.get(column)) else {
            return Ok(Cell::Absent);
        };
        match *slot {
            Slot::Absent => Ok(Cell::Absent),
            Slot::Null => Ok(Cell::Value(Value::Null)),
            Slot::Value(bytes) => plan.cell(bytes, column),
            Slot::Difference(bytes) => {
                let value = match self.before.slots.get(column) {
                    Some(Slot::Value(old)) => json::patched(old, bytes).map(Value::Json),
                    _ => Err(Fault::NoOldValue),
                };
                value.map(Cell::Value).map_err(|fault| fault.in_column(column))
            }
        }
    }
}

fn raw<'a>(image: &Image<'a>, column: usize) -> Option<&'a [u8]> {
    match image.slots.get(column) {
        Some(Slot::Value(bytes)) => Some(bytes),
        _ => None,
    }
}
