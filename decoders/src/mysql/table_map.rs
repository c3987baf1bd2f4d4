//! TABLE_MAP: which table the row events mean, and what its columns are.

use super::column::{WireType, read_types};
use super::error::Fault;
use super::format::Flavor;
use super::metadata::{self, Metadata};
use super::read::{Reader, bit, name};

/// A table under the number that row events use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableMap {
    /// The number, good until the next map of the same number. 48 bits.
    pub table_id: u64,
    /// The family of the server that wrote it.
    pub flavor: Flavor,
    /// The schema (database).
    pub schema: String,
    /// The table.
    pub table: String,
    /// Its columns, in the order of the row images. Generated and invisible ones are among them.
    pub columns: Vec<MappedColumn>,
    /// The primary key, where `binlog_row_metadata=FULL` tells it.
    pub primary_key: Option<Vec<KeyPart>>,
}

/// A column of a table map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MappedColumn {
    /// How its values are written.
    pub wire: WireType,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// What else the stream says about it.
    pub metadata: ColumnMetadata,
}

/// What the optional metadata says of a column; `None` where the source does not say it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ColumnMetadata {
    /// Whether a number is unsigned.
    pub unsigned: Option<bool>,
    /// The collation's id, of text and of the labels of ENUM and SET.
    pub collation: Option<u64>,
    /// The name.
    pub name: Option<String>,
    /// The labels of ENUM or SET, in the column's character set.
    pub labels: Option<Vec<Vec<u8>>>,
    /// The kind of geometry: 0 for any, 1 point, 2 line string, ...
    pub geometry: Option<u64>,
    /// Whether `SELECT *` shows it.
    pub visible: Option<bool>,
    /// The dimensions of a VECTOR.
    pub dimensions: Option<u64>,
}

/// A column of the primary key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyPart {
    /// The column's position.
    pub column: usize,
    /// The key has only this many first characters (bytes, if it is binary) of the column.
    pub prefix: Option<u64>,
}

impl TableMap {
    pub(super) fn read(reader: &mut Reader, flavor: Flavor) -> Result<TableMap, Fault> {
        let table_id = reader.uint(6)?;
        reader.u16()?; // flags
        let schema = sized_name(reader)?;
        let table = sized_name(reader)?;
        let count = reader.packed_count()?;
        let types = read_types(reader.bytes(count)?, reader.packed_bytes()?)?;
        let nullable = reader.bytes(count.div_ceil(8))?;
        let metadata = Metadata { types: &types, flavor };
        let (described, primary_key) = metadata::read(reader, &metadata)?;
        let columns = types.iter().zip(described).enumerate();
        let columns = columns.map(|(at, (wire, metadata))| MappedColumn {
            wire: *wire,
            nullable: bit(nullable, at),
            metadata,
        });
        let columns = columns.collect();
        Ok(TableMap { table_id, flavor, schema, table, columns, primary_key })
    }
}

/// A name with its length before it and a zero byte behind it.
fn sized_name(reader: &mut Reader) -> Result<String, Fault> {
    let text = name(reader.sized(1)?)?;
    match reader.u8()? {
        0 => Ok(text),
        _ => Err(Fault::Malformed("end of a name")),
    }
}
