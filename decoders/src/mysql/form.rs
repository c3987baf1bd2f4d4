//! The form of rows (see [`RowForm`]), as a stream tells it and as a catalog does.

use super::catalog::ColumnInfo;
use super::charset::Charset;
use super::column::{WireType, write_type};
use super::layout::{CatalogColumn, Special};
use super::table_map::{MappedColumn, TableMap};
use super::{Flavor, labels};
use crate::change::{ColumnForm, RowForm};

/// The form of a mapped table's rows; `None` if stream and catalog leave something open. `catalog` has as
/// many columns as the table, or is empty.
pub(super) fn of_map(map: &TableMap, catalog: &[CatalogColumn]) -> Option<RowForm> {
    let unknown = CatalogColumn::default();
    let columns = map.columns.iter().enumerate();
    let columns =
        columns.map(|(at, column)| of_mapped(column, catalog.get(at).unwrap_or(&unknown)));
    Some(RowForm { columns: columns.collect::<Option<_>>()? })
}

fn of_mapped(column: &MappedColumn, known: &CatalogColumn) -> Option<ColumnForm> {
    let MappedColumn { wire, nullable, metadata } = column;
    let mut form = written(*wire, *nullable);
    if wire.is_numeric() && *wire != WireType::Year {
        form.unsigned = metadata.unsigned.or(known.unsigned)?;
    }
    match wire {
        WireType::Char { .. } if known.special.is_some() => {
            form.special = known.special.map(special_name);
        }
        WireType::Char { .. }
        | WireType::Varchar { .. }
        | WireType::CompressedVarchar { .. }
        | WireType::Blob { .. }
        | WireType::CompressedBlob { .. } => {
            let stated = metadata.collation.and_then(|id| Charset::of_collation(id).ok());
            form.charset = Some(stated.or(known.charset)?.name());
        }
        WireType::Enum { .. } | WireType::Set { .. } => {
            form.labels = match (&metadata.labels, &known.labels) {
                (Some(labels), _) => {
                    let charset = Charset::of_collation(metadata.collation?).ok()?;
                    let text = |label: &Vec<u8>| Some(charset.decode(label).ok()?.into_owned());
                    labels.iter().map(text).collect::<Option<_>>()?
                }
                (None, known) => known.clone()?,
            };
        }
        _ => {}
    }
    Some(form)
}

pub(super) fn written(wire: WireType, nullable: bool) -> ColumnForm {
    let (mut codes, mut metadata) = (Vec::new(), Vec::new());
    write_type(wire, &mut codes, &mut metadata);
    ColumnForm {
        code: codes.first().copied().unwrap_or_default(),
        metadata,
        nullable,
        unsigned: false,
        charset: None,
        labels: Vec::new(),
        special: None,
    }
}

fn special_name(special: Special) -> &'static str {
    match special {
        Special::Uuid => "uuid",
        Special::Inet4 => "inet4",
        Special::Inet6 => "inet6",
    }
}

/// The form in which a server of this family would write the column; `None` for types that are not known,
/// compressed columns among them.
pub fn of_column(column: &ColumnInfo, flavor: Flavor) -> Option<ColumnForm> {
    let ColumnInfo { data_type, column_type, nullable, .. } = column;
    if column_type.to_ascii_uppercase().contains("COMPRESSED") {
        return None;
    }
    let known = column.decoding();
    let argument = |nth| argument(column_type, nth);
    let fraction = || u8::try_from(argument(0).unwrap_or(0)).ok();
    let characters =
        |of: u16| -> Option<u16> { u16::try_from(u32::from(of) * argument(0).unwrap_or(1)).ok() };
    let bytes_each = known.charset.map_or(1, Charset::most_bytes);
    let wire = match data_type.as_str() {
        "tinyint" => WireType::Integer { bytes: 1 },
        "smallint" => WireType::Integer { bytes: 2 },
        "mediumint" => WireType::Integer { bytes: 3 },
        "int" => WireType::Integer { bytes: 4 },
        "bigint" => WireType::Integer { bytes: 8 },
        "float" => WireType::Float,
        "double" => WireType::Double,
        "decimal" => WireType::Decimal {
            precision: u8::try_from(argument(0).unwrap_or(10)).ok()?,
            scale: u8::try_from(argument(1).unwrap_or(0)).ok()?,
        },
        "year" => WireType::Year,
        "date" => WireType::Date,
        "time" => WireType::Time { fraction: fraction()? },
        "datetime" => WireType::DateTime { fraction: fraction()? },
        "timestamp" => WireType::Timestamp { fraction: fraction()? },
        "bit" => WireType::Bit { bits: u8::try_from(argument(0).unwrap_or(1)).ok()? },
        "enum" => WireType::Enum { bytes: if labels(column_type)?.len() < 256 { 1 } else { 2 } },
        "set" => match labels(column_type)?.len().div_ceil(8) {
            bytes @ 1..=4 => WireType::Set { bytes: bytes as u8 },
            _ => WireType::Set { bytes: 8 },
        },
        "char" | "binary" => WireType::Char { most: characters(bytes_each)? },
        "uuid" | "inet6" => WireType::Char { most: 16 },
        "inet4" => WireType::Char { most: 4 },
        "varchar" | "varbinary" => WireType::Varchar { most: characters(bytes_each)? },
        "tinytext" | "tinyblob" => WireType::Blob { length_bytes: 1 },
        "text" | "blob" => WireType::Blob { length_bytes: 2 },
        "mediumtext" | "mediumblob" => WireType::Blob { length_bytes: 3 },
        "longtext" | "longblob" => WireType::Blob { length_bytes: 4 },
        "json" if flavor == Flavor::Mysql => WireType::Json { length_bytes: 4 },
        "vector" if flavor == Flavor::Mysql => WireType::Vector { length_bytes: 4 },
        "vector" => WireType::Varchar { most: characters(4)? },
        "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
        | "multipolygon" | "geometrycollection" | "geomcollection" => {
            WireType::Geometry { length_bytes: 4 }
        }
        _ => return None,
    };
    let mut form = written(wire, *nullable);
    form.special = known.special.map(special_name);
    match wire {
        _ if form.special.is_some() => {}
        WireType::Char { .. } | WireType::Varchar { .. } | WireType::Blob { .. } => {
            form.charset = Some(known.charset?.name());
        }
        WireType::Enum { .. } | WireType::Set { .. } => form.labels = known.labels?,
        _ => {}
    }
    if wire.is_numeric() && wire != WireType::Year {
        form.unsigned = column.is_unsigned();
    }
    Some(form)
}

/// `(10,2)`: the first or the second number of it.
fn argument(column_type: &str, nth: usize) -> Option<u32> {
    let (_, rest) = column_type.split_once('(')?;
    rest.split_once(')')?.0.split(',').nth(nth)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(column_type: &str, charset: Option<&str>) -> ColumnInfo {
        let data_type = column_type.split(['(', ' ']).next().unwrap_or_default();
        ColumnInfo {
            name: "c".into(),
            position: 1,
            data_type: data_type.into(),
            column_type: column_type.into(),
            nullable: true,
            charset: charset.map(Into::into),
            collation: None,
            default: None,
            generated: None,
            invisible: false,
            auto_increment: false,
        }
    }

    #[test]
    fn what_lies_in_the_bytes_makes_another_form() {
        let form = |text: &str, charset| of_column(&column(text, charset), Flavor::Mysql);
        // The same length in bytes, other characters.
        let (one, other) =
            (form("varchar(80)", Some("latin1")), form("varchar(20)", Some("utf8mb4")));
        assert_eq!(
            one.as_ref().map(|form| &form.metadata),
            other.as_ref().map(|form| &form.metadata)
        );
        assert_ne!(one, other);
        assert_ne!(form("decimal(10,2)", None), form("decimal(10,2) unsigned", None));
        assert_ne!(form("enum('a','b')", Some("latin1")), form("enum('b','a')", Some("latin1")));
        assert_ne!(form("timestamp", None), form("timestamp(3)", None));
        assert_eq!(form("int(11)", None), form("int", None));
        assert_eq!(form("text /*M!100301 COMPRESSED*/", Some("latin1")), None);
    }
}
