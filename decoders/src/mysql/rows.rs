//! Row events: which columns they have, and the images one after the other.

use bytes::Bytes;

use super::error::{DecodeError, Fault};
use super::event::EventType;
use super::image::{Change, Image};
use super::layout::Layout;
use super::read::{Reader, bit};
use super::sealed::Sealed;

/// What happened to the rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Operation {
    /// Rows came.
    Insert,
    /// Rows changed.
    Update,
    /// Rows went.
    Delete,
}

/// Further information of version 2 of the event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtraInfo {
    /// The partition, and the one that an updated row came from.
    Partition {
        /// Where the rows are.
        id: u16,
        /// Where the updated rows were.
        source: Option<u16>,
    },
    /// Of NDB Cluster.
    Ndb,
}

/// Which columns images have.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Columns {
    /// Every one: `binlog_row_image=FULL`.
    All,
    /// A bit for each.
    Some(Box<[u8]>),
}

impl Columns {
    fn read(reader: &mut Reader, width: usize) -> Result<Columns, Fault> {
        let bitmap = reader.bytes(width.div_ceil(8))?;
        let (whole, last) = bitmap.split_at(width / 8);
        let all = whole.iter().all(|byte| *byte == 0xFF)
            && last.iter().all(|byte| byte.trailing_ones() as usize >= width % 8);
        Ok(if all { Columns::All } else { Columns::Some(bitmap.into()) })
    }

    fn has(&self, column: usize) -> bool {
        match self {
            Columns::All => true,
            Columns::Some(bitmap) => bit(bitmap, column),
        }
    }

    /// How many of a table's columns they are.
    fn count(&self, width: usize) -> usize {
        match self {
            Columns::All => width,
            Columns::Some(_) => (0..width).filter(|at| self.has(*at)).count(),
        }
    }
}

/// A row event. Its images are not decoded yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rows {
    /// The number of the table map.
    pub table_id: u64,
    /// What happened.
    pub operation: Operation,
    /// `Rows::STATEMENT_END` and others.
    pub flags: u16,
    /// Further information.
    pub extra: Box<[ExtraInfo]>,
    /// How many columns the table has.
    pub width: usize,
    event: EventType,
    /// Which columns the old image has (or the new one, of an insert).
    first_columns: Columns,
    /// Which columns the new image of an update has; `All` where there is none.
    second_columns: Columns,
    pub(super) rows: Sealed,
}

impl Rows {
    /// The last event of the statement: its table maps end with it.
    pub const STATEMENT_END: u16 = 1;
    /// The session had `foreign_key_checks` off.
    pub const NO_FOREIGN_KEY_CHECKS: u16 = 2;
    /// MySQL 9.6 and later: what cascading foreign keys did stands in the log.
    pub const LOGS_CASCADES: u16 = 16;
    /// The session had `unique_checks` off.
    pub const RELAXED_UNIQUE_CHECKS: u16 = 4;

    pub(super) fn read(
        event: EventType,
        frame: &Bytes,
        reader: &mut Reader,
    ) -> Result<Rows, Fault> {
        type T = EventType;
        let operation = match event {
            T::WRITE_ROWS_V1
            | T::WRITE_ROWS
            | T::MARIADB_WRITE_ROWS_COMPRESSED_V1
            | T::MARIADB_WRITE_ROWS_COMPRESSED => Operation::Insert,
            T::DELETE_ROWS_V1
            | T::DELETE_ROWS
            | T::MARIADB_DELETE_ROWS_COMPRESSED_V1
            | T::MARIADB_DELETE_ROWS_COMPRESSED => Operation::Delete,
            _ => Operation::Update,
        };
        let has_extra = matches!(
            event,
            T::WRITE_ROWS
                | T::UPDATE_ROWS
                | T::DELETE_ROWS
                | T::PARTIAL_UPDATE_ROWS
                | T::MARIADB_WRITE_ROWS_COMPRESSED
                | T::MARIADB_UPDATE_ROWS_COMPRESSED
                | T::MARIADB_DELETE_ROWS_COMPRESSED
        );
        let table_id = reader.uint(6)?;
        let flags = reader.u16()?;
        let extra = if has_extra { read_extra(reader, operation)? } else { Box::default() };
        // A bit for each column follows.
        let width = reader.packed()?;
        let width = usize::try_from(width).ok().filter(|width| width.div_ceil(8) <= reader.left());
        let width = width.ok_or(Fault::Truncated { needed: 1, left: reader.left() })?;
        let first_columns = Columns::read(reader, width)?;
        let second_columns = match operation {
            Operation::Update => Columns::read(reader, width)?,
            _ => Columns::All,
        };
        let rows = Sealed(frame.slice_ref(reader.rest()));
        let change = Rows {
            table_id,
            operation,
            flags,
            extra,
            width,
            event,
            first_columns,
            second_columns,
            rows,
        };
        Ok(change)
    }

    /// Whether JSON columns may come as differences to their old values.
    pub fn is_partial(&self) -> bool {
        self.event == EventType::PARTIAL_UPDATE_ROWS
    }

    /// Whether images may lack columns (`binlog_row_image` is not FULL).
    pub fn is_complete(&self) -> bool {
        self.first_columns == Columns::All && self.second_columns == Columns::All
    }

    /// The columns that an image lacks.
    pub fn absent(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.width)
            .filter(move |at| !self.first_columns.has(*at) || !self.second_columns.has(*at))
    }

    /// Bytes of the images after decompression.
    pub fn image_bytes(&self) -> usize {
        self.rows.len()
    }

    /// Reads the images, which must be of the table that `layout` describes.
    pub fn reader<'a>(&'a self, layout: &'a Layout) -> Result<RowReader<'a>, DecodeError> {
        if layout.columns().len() != self.width {
            let fault = Fault::OtherShape { rows: self.width, table: layout.columns().len() };
            return Err(DecodeError { event: self.event, offset: 0, fault });
        }
        Ok(RowReader { rows: self, layout, reader: Reader::new(&self.rows), change: Change::new() })
    }
}

/// Extra information: a length that counts itself, then type and value, one after the other.
fn read_extra(reader: &mut Reader, operation: Operation) -> Result<Box<[ExtraInfo]>, Fault> {
    let length = reader.u16()?.checked_sub(2).ok_or(Fault::Malformed("extra row information"))?;
    let mut reader = Reader::new(reader.bytes(length.into())?);
    let mut extra = Vec::new();
    while !reader.is_empty() {
        extra.push(match reader.u8()? {
            0 => {
                // The length counts itself and the format byte.
                let length = reader.u8()?.checked_sub(1);
                reader.bytes(length.ok_or(Fault::Malformed("extra row information"))?.into())?;
                ExtraInfo::Ndb
            }
            1 => {
                let id = reader.u16()?;
                let source = (operation == Operation::Update).then(|| reader.u16()).transpose()?;
                ExtraInfo::Partition { id, source }
            }
            found => {
                let what = "extra row information";
                return Err(Fault::Unsupported { what, found: found.into() });
            }
        });
    }
    Ok(extra.into())
}

/// Reads the images of a row event one change after the other, into the same memory.
#[derive(Debug)]
pub struct RowReader<'a> {
    rows: &'a Rows,
    layout: &'a Layout,
    reader: Reader<'a>,
    change: Change<'a>,
}

impl<'a> RowReader<'a> {
    /// The next change; `None` after the last. After an error there is no use in going on.
    pub fn read(&mut self) -> Result<Option<&Change<'a>>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        match self.read_change() {
            Ok(()) => Ok(Some(&self.change)),
            Err(fault) => {
                let offset = self.reader.at();
                // Nothing more comes out of a damaged event.
                self.reader.rest();
                Err(DecodeError { event: self.rows.event, offset, fault })
            }
        }
    }

    fn read_change(&mut self) -> Result<(), Fault> {
        let before_end = self.reader.left();
        let RowReader { rows, layout, reader, change } = self;
        let Change { before, after, layout: described } = change;
        *described = Some(layout);
        match rows.operation {
            Operation::Insert => {
                before.clear();
                read_image(reader, layout, &rows.first_columns, after, false)?;
            }
            Operation::Delete => {
                after.clear();
                read_image(reader, layout, &rows.first_columns, before, false)?;
            }
            Operation::Update => {
                read_image(reader, layout, &rows.first_columns, before, false)?;
                read_image(reader, layout, &rows.second_columns, after, rows.is_partial())?;
            }
        }
        // A table without columns does not exist, so an image always takes room.
        if reader.left() == before_end {
            return Err(Fault::Malformed("empty row image"));
        }
        Ok(())
    }
}

/// Reads one image: a bitmap of NULLs over the columns that are there, then their values. In a
/// partial update two fields stand before: options, and which JSON columns are differences.
fn read_image<'a>(
    reader: &mut Reader<'a>,
    layout: &Layout,
    columns: &Columns,
    image: &mut Image<'a>,
    partial: bool,
) -> Result<(), Fault> {
    if *columns == Columns::All && !partial {
        return read_full_image(reader, layout, image);
    }
    let differences: &[u8] = match partial && reader.packed()? & 1 == 1 {
        true => reader.bytes(layout.json_columns().div_ceil(8))?,
        false => &[],
    };
    let begin = reader.clone();
    let present = columns.count(layout.columns().len());
    let nulls = reader.bytes(present.div_ceil(8))?;
    image.begin(layout.columns().len());
    let (mut nth, mut json) = (0, 0);
    for (column, plan) in layout.columns().iter().enumerate() {
        let is_json = plan.is_json();
        let difference = is_json && bit(differences, json);
        json += usize::from(is_json);
        if !columns.has(column) {
            image.absent();
            continue;
        }
        let null = bit(nulls, nth);
        nth += 1;
        if null {
            image.null();
            continue;
        }
        let bytes = plan.read(reader).map_err(|fault| fault.in_column(column))?;
        match difference {
            true => image.difference(bytes),
            false => image.value(bytes),
        }
    }
    let is_whole = present == layout.columns().len() && differences.iter().all(|byte| *byte == 0);
    image.whole(is_whole.then(|| begin.until(reader)));
    Ok(())
}

/// What [`read_image`] does for most images, without looking for columns that are not there.
fn read_full_image<'a>(
    reader: &mut Reader<'a>,
    layout: &Layout,
    image: &mut Image<'a>,
) -> Result<(), Fault> {
    let begin = reader.clone();
    let nulls = reader.bytes(layout.columns().len().div_ceil(8))?;
    image.begin(layout.columns().len());
    for (column, plan) in layout.columns().iter().enumerate() {
        match bit(nulls, column) {
            true => image.null(),
            false => {
                image.value(plan.read(reader).map_err(|fault| fault.in_column(column))?);
            }
        }
    }
    image.whole(Some(begin.until(reader)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(bitmap: &[u8], width: usize) -> Columns {
        Columns::read(&mut Reader::new(bitmap), width).unwrap()
    }

    #[test]
    fn all_columns_are_all_of_the_table_whatever_the_bits_behind_them() {
        for width in 0..=17 {
            let bytes = usize::div_ceil(width, 8);
            assert_eq!(columns(&vec![0xFF; bytes], width), Columns::All, "{width}");
            let mut exact = vec![0; bytes];
            (0..width).for_each(|at| exact[at / 8] |= 1 << (at % 8));
            assert_eq!(columns(&exact, width), Columns::All, "{width}");
            for lacking in 0..width {
                let mut bitmap = vec![0xFF; bytes];
                bitmap[lacking / 8] &= !(1 << (lacking % 8));
                let columns = columns(&bitmap, width);
                assert!((0..width).all(|at| columns.has(at) == (at != lacking)), "{width}");
                assert_eq!(columns.count(width), width - 1);
            }
        }
        assert!(Columns::read(&mut Reader::new(&[0xFF]), 9).is_err());
    }
}
