//! Messages about rows: Insert, Update, Delete, Truncate.

use std::ops::Range;

use super::error::DecodeError;
use super::read::Reader;
use crate::change::{OldRow, Row, RowBuilder, TableId};

/// `I`: a row was added.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Insert {
    /// The table, described by the latest Relation with this id.
    pub table: TableId,
    /// The row.
    pub new: Row,
}

impl Insert {
    #[inline]
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let table = TableId(reader.u32()?);
        match reader.u8()? {
            b'N' => Ok(Self { table, new: row(reader)? }),
            found => Err(reader.unknown_byte("new row", found)),
        }
    }
}

/// `U`: a row was changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Update {
    /// The table.
    pub table: TableId,
    /// The old image: the key if it changed (or is TOASTed), everything with identity FULL.
    pub old: Option<OldRow>,
    /// The new image, with gaps for unchanged TOASTed values.
    pub new: Row,
}

impl Update {
    #[inline]
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let table = TableId(reader.u32()?);
        let mut kind = reader.u8()?;
        let mut old = None;
        if kind != b'N' {
            old = Some(old_row(reader, kind)?);
            kind = reader.u8()?;
        }
        match kind {
            b'N' => Ok(Self { table, old, new: row(reader)? }),
            found => Err(reader.unknown_byte("new row", found)),
        }
    }
}

/// `D`: a row was removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delete {
    /// The table.
    pub table: TableId,
    /// The old image: the key, or everything with identity FULL.
    pub old: OldRow,
}

impl Delete {
    #[inline]
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let table = TableId(reader.u32()?);
        let kind = reader.u8()?;
        Ok(Self { table, old: old_row(reader, kind)? })
    }
}

/// `T`: tables were emptied (PostgreSQL 11+).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Truncate {
    /// The published ones among the tables of the statement, those reached by CASCADE too.
    pub tables: Vec<TableId>,
    /// CASCADE was given.
    pub cascade: bool,
    /// RESTART IDENTITY was given.
    pub restart_identity: bool,
}

impl Truncate {
    #[inline]
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        const CASCADE: u8 = 1;
        const RESTART_IDENTITY: u8 = 2;
        let count = reader.count32("number of truncated tables", 4)?;
        let options = reader.flags("truncate", CASCADE | RESTART_IDENTITY)?;
        let mut tables = Vec::with_capacity(count);
        for _ in 0..count {
            tables.push(TableId(reader.u32()?));
        }
        Ok(Self {
            tables,
            cascade: options & CASCADE != 0,
            restart_identity: options & RESTART_IDENTITY != 0,
        })
    }
}

fn old_row(reader: &mut Reader<'_>, kind: u8) -> Result<OldRow, DecodeError> {
    match kind {
        b'K' => Ok(OldRow::Key(row(reader)?)),
        b'O' => Ok(OldRow::Full(row(reader)?)),
        found => Err(reader.unknown_byte("row image", found)),
    }
}

/// The manual's TupleData.
fn row(reader: &mut Reader<'_>) -> Result<Row, DecodeError> {
    let count = reader.count16("number of columns", 1)?;
    let mut row = RowBuilder::new(reader.frame(), count);
    for _ in 0..count {
        let (kind, range) = match reader.cell() {
            Some(cell) => cell,
            None => wrong_cell(reader)?,
        };
        match kind {
            b't' => row.text(range),
            b'b' => row.binary(range),
            b'n' => row.null(),
            _ => row.unchanged(),
        }
    }
    Ok(row.finish())
}

/// Says what is wrong with the next cell.
#[cold]
fn wrong_cell(reader: &mut Reader<'_>) -> Result<(u8, Range<usize>), DecodeError> {
    match reader.u8()? {
        kind @ (b't' | b'b') => {
            let range = reader.sized_range("length of a value", Row::VALUE_BYTES_MAX)?;
            Ok((kind, range))
        }
        kind @ (b'n' | b'u') => Ok((kind, 0..0)),
        found => Err(reader.unknown_byte("kind of cell", found)),
    }
}
