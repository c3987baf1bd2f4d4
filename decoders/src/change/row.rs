//! Rows as they travel: a row is the frame that it came in and where its values are in there.
//!
//! Nothing is parsed and nothing is copied: however many columns a row has, it costs one share of
//! the frame and eight bytes a column.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::form::RowForm;

/// One column's value in the form in which the source sent it.
///
/// Text and binary are the two forms of the PostgreSQL protocol (manual, 55.2.5 Formats and
/// Format Codes).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Value<'a> {
    /// SQL NULL.
    Null,
    /// The type's text output.
    Text(&'a [u8]),
    /// The type's binary send format.
    Binary(&'a [u8]),
}

impl<'a> Value<'a> {
    /// Whether this is SQL NULL.
    pub fn is_null(self) -> bool {
        matches!(self, Value::Null)
    }

    /// The bytes of a value that is not NULL.
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Value::Null => None,
            Value::Text(bytes) | Value::Binary(bytes) => Some(bytes),
        }
    }
}

/// A column in a row image: a value, or the word that the source did not send it.
///
/// A gap is a type of its own so that it can't be bound as NULL by mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Cell<'a> {
    /// The column's value.
    Value(Value<'a>),
    /// A TOASTed value that the UPDATE did not touch, left out by the source.
    Unchanged,
}

impl<'a> Cell<'a> {
    /// NULL, present.
    pub const NULL: Cell<'static> = Cell::Value(Value::Null);

    /// A value in text form.
    pub fn text(bytes: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Cell::Value(Value::Text(bytes.as_ref()))
    }

    /// A value in binary form.
    pub fn binary(bytes: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Cell::Value(Value::Binary(bytes.as_ref()))
    }

    /// The value, unless it was left out.
    pub fn value(self) -> Option<Value<'a>> {
        match self {
            Cell::Value(value) => Some(value),
            Cell::Unchanged => None,
        }
    }
}

/// Where a cell is in its frame: the start, and length and kind in one word.
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    length_and_kind: u32,
}

impl Span {
    const KIND_SHIFT: u32 = 30;
    const NULL: u32 = 0;
    const UNCHANGED: u32 = 1;
    const TEXT: u32 = 2;
    const BINARY: u32 = 3;

    fn kind(self) -> u32 {
        self.length_and_kind >> Self::KIND_SHIFT
    }

    fn range(self) -> Range<usize> {
        let start = self.start as usize;
        start..start + (self.length_and_kind & (Row::VALUE_BYTES_MAX as u32)) as usize
    }
}

/// The columns of a row image, in the order of its [`TableSchema`](super::TableSchema).
#[derive(Clone, Default)]
pub struct Row {
    frame: Bytes,
    spans: Box<[Span]>,
    image: Option<(Arc<RowForm>, ImageSpan)>,
}

/// Where the image is in the frame.
#[derive(Clone, Copy)]
struct ImageSpan {
    start: u32,
    length: u32,
}

/// A row as the log of its source has it, for who can pass it on like that.
#[derive(Clone, Copy, Debug)]
pub struct RowImage<'a> {
    /// How it is written.
    pub form: &'a Arc<RowForm>,
    /// Its NULLs and its values.
    pub bytes: &'a [u8],
}

impl Row {
    /// The longest value there can be: PostgreSQL allocates less than 1 GiB for one
    /// (`MaxAllocSize` in `memutils.h`).
    pub const VALUE_BYTES_MAX: usize = (1 << Span::KIND_SHIFT) - 1;

    /// How many columns it has.
    pub fn width(&self) -> usize {
        self.spans.len()
    }

    /// The cells in column order.
    pub fn cells(&self) -> impl ExactSizeIterator<Item = Cell<'_>> + Clone {
        self.spans.iter().map(|span| self.at(*span))
    }

    /// The cell at `position`, if the row is that wide.
    pub fn cell(&self, position: usize) -> Option<Cell<'_>> {
        self.spans.get(position).map(|span| self.at(*span))
    }

    /// The value at `position`, if the row is that wide and the source sent it.
    pub fn value(&self, position: usize) -> Option<Value<'_>> {
        self.cell(position).and_then(Cell::value)
    }

    /// Whether no cell was left out.
    pub fn is_complete(&self) -> bool {
        self.spans.iter().all(|span| span.kind() != Span::UNCHANGED)
    }

    /// The row as the source's log has it, if the reader was asked to keep that.
    pub fn image(&self) -> Option<RowImage<'_>> {
        let (form, ImageSpan { start, length }) = self.image.as_ref()?;
        let bytes = &self.frame[*start as usize..*start as usize + *length as usize];
        Some(RowImage { form, bytes })
    }

    fn at(&self, span: Span) -> Cell<'_> {
        match span.kind() {
            Span::NULL => Cell::NULL,
            Span::TEXT => Cell::Value(Value::Text(&self.frame[span.range()])),
            Span::BINARY => Cell::Value(Value::Binary(&self.frame[span.range()])),
            _ => Cell::Unchanged,
        }
    }

    /// Puts what `other` has at `position` in the place of this row's cell. Free if both came in
    /// one frame, as the two images of an UPDATE do.
    pub fn take_cell(&mut self, position: usize, other: &Row) {
        let same_frame =
            self.frame.as_ptr() == other.frame.as_ptr() && self.frame.len() == other.frame.len();
        self.image = None;
        if same_frame {
            self.spans[position] = other.spans[position];
            return;
        }
        let merged = self.cells().enumerate().map(|(at, cell)| match at == position {
            true => other.at(other.spans[position]),
            false => cell,
        });
        *self = merged.collect();
    }

    /// Bytes that the row occupies beside its frame.
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.spans)
    }
}

/// A row that owns a copy of its values: for tests and for rows that come in no frame.
impl<'a> FromIterator<Cell<'a>> for Row {
    fn from_iter<I: IntoIterator<Item = Cell<'a>>>(cells: I) -> Self {
        let cells: Vec<Cell<'a>> = cells.into_iter().collect();
        let mut frame = BytesMut::new();
        let ranges: Vec<Range<usize>> = cells
            .iter()
            .map(|cell| {
                let start = frame.len();
                let value = cell.value().and_then(Value::bytes);
                frame.extend_from_slice(value.unwrap_or_default());
                start..frame.len()
            })
            .collect();
        let mut row = RowBuilder::new(&frame.freeze(), cells.len());
        for (cell, range) in cells.iter().zip(ranges) {
            match cell {
                Cell::Unchanged => row.unchanged(),
                Cell::Value(Value::Null) => row.null(),
                Cell::Value(Value::Text(_)) => row.text(range),
                Cell::Value(Value::Binary(_)) => row.binary(range),
            }
        }
        row.finish()
    }
}

impl<'a> From<Vec<Cell<'a>>> for Row {
    fn from(cells: Vec<Cell<'a>>) -> Self {
        cells.into_iter().collect()
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.cells().eq(other.cells())
    }
}

impl Eq for Row {}

impl Hash for Row {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.cells().for_each(|cell| cell.hash(state));
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.cells()).finish()
    }
}

/// Notes where the cells of one frame are.
pub struct RowBuilder {
    frame: Bytes,
    spans: Vec<Span>,
    image: Option<(Arc<RowForm>, ImageSpan)>,
}

impl RowBuilder {
    /// A row of `width` cells in `frame`.
    pub fn new(frame: &Bytes, width: usize) -> Self {
        Self { frame: frame.clone(), spans: Vec::with_capacity(width), image: None }
    }

    /// The whole row as the source's log has it is at `range` of the frame.
    ///
    /// # Panics
    /// If `range` is not in the frame, or beyond 4 GiB: the decoder has checked both.
    pub fn image(&mut self, form: &Arc<RowForm>, range: Range<usize>) {
        assert!(range.end <= self.frame.len());
        let number = |at: usize| u32::try_from(at).expect("a frame is shorter than 4 GiB");
        let span = ImageSpan { start: number(range.start), length: number(range.len()) };
        self.image = Some((Arc::clone(form), span));
    }

    /// The next cell is NULL.
    pub fn null(&mut self) {
        self.push(Span::NULL, 0..0);
    }

    /// The next cell was left out.
    pub fn unchanged(&mut self) {
        self.push(Span::UNCHANGED, 0..0);
    }

    /// The next cell is text, at `range` of the frame.
    pub fn text(&mut self, range: Range<usize>) {
        self.push(Span::TEXT, range);
    }

    /// The next cell is binary, at `range` of the frame.
    pub fn binary(&mut self, range: Range<usize>) {
        self.push(Span::BINARY, range);
    }

    /// # Panics
    /// If `range` is not in the frame or longer than [`Row::VALUE_BYTES_MAX`]: the decoder has
    /// checked both.
    fn push(&mut self, kind: u32, range: Range<usize>) {
        assert!(range.end <= self.frame.len() && range.len() <= Row::VALUE_BYTES_MAX);
        let start = u32::try_from(range.start).expect("a frame is shorter than 4 GiB");
        let length_and_kind = range.len() as u32 | kind << Span::KIND_SHIFT;
        self.spans.push(Span { start, length_and_kind });
    }

    /// The row.
    pub fn finish(self) -> Row {
        Row { frame: self.frame, spans: self.spans.into_boxed_slice(), image: self.image }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        [Cell::text("a"), Cell::NULL, Cell::Unchanged, Cell::binary(b"\x01\x02")]
            .into_iter()
            .collect()
    }

    #[test]
    fn cells_come_back_as_they_were_put() {
        let row = row();
        assert_eq!(row.width(), 4);
        assert_eq!(row.cell(0), Some(Cell::text("a")));
        assert_eq!(row.cell(1), Some(Cell::NULL));
        assert_eq!(row.cell(2), Some(Cell::Unchanged));
        assert_eq!(row.value(3), Some(Value::Binary(b"\x01\x02")));
        assert_eq!(row.cell(4), None);
        assert!(!row.is_complete());
    }

    #[test]
    fn a_cell_is_taken_from_the_same_frame_and_from_another() {
        let frame = Bytes::from_static(b"oldnew");
        let build = |range: Range<usize>| {
            let mut row = RowBuilder::new(&frame, 1);
            row.text(range);
            row.finish()
        };
        let (old, mut new) = (build(0..3), build(3..6));
        new.take_cell(0, &old);
        assert_eq!(new, old);
        let mut other = row();
        let complete: Row = vec![Cell::NULL; 2].into_iter().chain([Cell::text("x"); 2]).collect();
        other.take_cell(2, &complete);
        let expected = [Cell::text("a"), Cell::NULL, Cell::text("x"), Cell::binary(b"\x01\x02")];
        assert_eq!(other, Row::from(Vec::from(expected)));
    }
}
