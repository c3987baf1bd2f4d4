//! The optional metadata at the end of a TABLE_MAP (`binlog_row_metadata`; MySQL 8.0.1+, MariaDB
//! 10.5+).

use super::column::WireType;
use super::error::Fault;
use super::format::Flavor;
use super::read::{Reader, name};
use super::table_map::{ColumnMetadata, KeyPart};

/// What the fields refer to.
pub(super) struct Metadata<'a> {
    pub(super) types: &'a [WireType],
    pub(super) flavor: Flavor,
}

type Described = (Vec<ColumnMetadata>, Option<Vec<KeyPart>>);

/// Reads the fields, each a type, a length and a value.
pub(super) fn read(reader: &mut Reader, table: &Metadata) -> Result<Described, Fault> {
    let mut columns = vec![ColumnMetadata::default(); table.types.len()];
    let mut key = None;
    while !reader.is_empty() {
        let field = reader.u8()?;
        let mut value = Reader::new(reader.packed_bytes()?);
        let value = &mut value;
        match field {
            1 => table.signedness(value, &mut columns)?,
            2 => table.default_collation(value, &mut columns, &table.characters())?,
            3 => table.collations(value, &mut columns, &table.characters())?,
            4 => {
                for column in &mut columns {
                    column.name = Some(name(value.packed_bytes()?)?);
                }
            }
            5 => labels(
                value,
                &mut columns,
                &table.positions(|t| matches!(t, WireType::Set { .. })),
            )?,
            6 => labels(
                value,
                &mut columns,
                &table.positions(|t| matches!(t, WireType::Enum { .. })),
            )?,
            7 => {
                for at in table.positions(|t| matches!(t, WireType::Geometry { .. })) {
                    columns[at].geometry = Some(value.packed()?);
                }
            }
            8 | 9 => {
                let mut parts = Vec::new();
                while !value.is_empty() {
                    let column = position(value.packed()?, table.types.len())?;
                    let prefix = if field == 9 { value.packed()? } else { 0 };
                    parts.push(KeyPart { column, prefix: (prefix > 0).then_some(prefix) });
                }
                key = Some(parts);
            }
            10 => {
                let at = table.positions(WireType::is_enum_or_set);
                table.default_collation(value, &mut columns, &at)?;
            }
            11 => {
                let at = table.positions(WireType::is_enum_or_set);
                table.collations(value, &mut columns, &at)?;
            }
            12 => {
                let bits = value.rest();
                for (at, column) in columns.iter_mut().enumerate() {
                    column.visible = Some(bit_from_top(bits, at)?);
                }
            }
            13 => {
                for at in table.positions(|t| matches!(t, WireType::Vector { .. })) {
                    columns[at].dimensions = Some(value.packed()?);
                }
            }
            // By its format a field may be skipped by who does not know it.
            _ => _ = value.rest(),
        }
        value.end()?;
    }
    Ok((columns, key))
}

impl Metadata<'_> {
    fn positions(&self, wanted: impl Fn(WireType) -> bool) -> Vec<usize> {
        let types = self.types.iter().enumerate();
        types.filter(|(_, wire)| wanted(**wire)).map(|(at, _)| at).collect()
    }

    fn characters(&self) -> Vec<usize> {
        self.positions(|wire| wire.is_character(self.flavor == Flavor::Mariadb))
    }

    fn signedness(&self, value: &mut Reader, columns: &mut [ColumnMetadata]) -> Result<(), Fault> {
        let bits = value.rest();
        for (bit, at) in self.positions(WireType::is_numeric).into_iter().enumerate() {
            columns[at].unsigned = Some(bit_from_top(bits, bit)?);
        }
        Ok(())
    }

    /// One collation for all, then those that differ: a position *among these columns*, and its
    /// collation.
    fn default_collation(
        &self,
        value: &mut Reader,
        columns: &mut [ColumnMetadata],
        among: &[usize],
    ) -> Result<(), Fault> {
        let default = value.packed()?;
        for at in among {
            columns[*at].collation = Some(default);
        }
        while !value.is_empty() {
            let at = position(value.packed()?, among.len())?;
            columns[among[at]].collation = Some(value.packed()?);
        }
        Ok(())
    }

    fn collations(
        &self,
        value: &mut Reader,
        columns: &mut [ColumnMetadata],
        among: &[usize],
    ) -> Result<(), Fault> {
        for at in among {
            columns[*at].collation = Some(value.packed()?);
        }
        Ok(())
    }
}

fn labels(
    value: &mut Reader,
    columns: &mut [ColumnMetadata],
    among: &[usize],
) -> Result<(), Fault> {
    for at in among {
        let count = value.packed_count()?;
        let labels = (0..count).map(|_| value.packed_bytes().map(<[u8]>::to_vec));
        columns[*at].labels = Some(labels.collect::<Result<_, _>>()?);
    }
    Ok(())
}

fn position(found: u64, count: usize) -> Result<usize, Fault> {
    let at = usize::try_from(found).ok().filter(|at| *at < count);
    at.ok_or(Fault::Impossible { what: "column's position", found })
}

/// One bit of a bitmap whose highest bit comes first.
fn bit_from_top(bitmap: &[u8], at: usize) -> Result<bool, Fault> {
    match bitmap.get(at / 8) {
        Some(byte) => Ok(byte << (at % 8) & 0x80 != 0),
        None => Err(Fault::Truncated { needed: at / 8 + 1, left: bitmap.len() }),
    }
}
