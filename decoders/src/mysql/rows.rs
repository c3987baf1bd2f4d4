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
    pub extra: Vec<ExtraInfo>,
    /// How many columns the table has.
    pub width: usize,
    event: EventType,
    /// Which columns the old image has (or the new one, of an insert).
    first_columns: Bytes,
    /// Which columns the new image of an update has.
    second_columns: Bytes,
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

    pub(super) fn read(event: EventType, body: &Bytes, reader: &mut Reader) -> Result<Rows, Fault> {
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
        let extra = if has_extra { read_extra(reader, operation)? } else { Vec::new() };
        // A bit for each column follows.
        let width = reader.packed()?;
        let width = usize::try_from(width).ok().filter(|width| width.div_ceil(8) <= reader.left());
        let width = width.ok_or(Fault::Truncated { needed: 1, left: reader.left() })?;
        let bitmap = |reader: &mut Reader| {
            reader.bytes(width.div_ceil(8)).map(|bytes| body.slice_ref(bytes))
        };
        let first_columns = bitmap(reader)?;
        let second_columns = match operation {
            Operation::Update => bitmap(reader)?,
            _ => Bytes::new(),
        };
        let rows = Sealed(body.slice_ref(reader.rest()));
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
        let all = |bitmap: &Bytes| (0..self.width).all(|at| bit(bitmap, at));
        all(&self.first_columns)
            && (self.operation != Operation::Update || all(&self.second_columns))
    }

    /// The columns that an image lacks.
    pub fn absent(&self) -> impl Iterator<Item = usize> + '_ {
        let lacks = |bitmap: &Bytes, at| !bit(bitmap, at);
        (0..self.width).filter(move |at| {
            lacks(&self.first_columns, *at)
                || (self.operation == Operation::Update && lacks(&self.second_columns, *at))
        })
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
fn read_extra(reader: &mut Reader, operation: Operation) -> Result<Vec<ExtraInfo>, Fault> {
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
    Ok(extra)
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
    columns: &[u8],
    image: &mut Image<'a>,
    partial: bool,
) -> Result<(), Fault> {
    let differences: &[u8] = match partial && reader.packed()? & 1 == 1 {
        true => reader.bytes(layout.json_columns().div_ceil(8))?,
        false => &[],
    };
    let begin = reader.clone();
    let present = (0..layout.columns().len()).filter(|at| bit(columns, *at)).count();
    let nulls = reader.bytes(present.div_ceil(8))?;
    image.clear();
    let (mut nth, mut json) = (0, 0);
    for (column, plan) in layout.columns().iter().enumerate() {
        let is_json = plan.is_json();
        let difference = is_json && bit(differences, json);
        json += usize::from(is_json);
        if !bit(columns, column) {
            image.absent();
            continue;
        }
        let null = bit(nulls, nth);
        nth += 1;
        if null {
            image.null();
            continue;
        }
        let bytes = plan.wire().read(reader).map_err(|fault| fault.in_column(column))?;
        match difference {
            true => image.difference(bytes),
            false => image.value(bytes),
        }
    }
    let is_whole = present == layout.columns().len() && differences.iter().all(|byte| *byte == 0);
    image.whole(is_whole.then(|| begin.until(reader)));
    Ok(())
}
