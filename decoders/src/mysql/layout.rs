//! What is needed to read the values of a table: the table map, completed from the catalog where
//! the stream does not say enough.

use std::borrow::Cow;

use super::charset::Charset;
use super::column::{Extent, WireType};
use super::error::{DecodeError, Fault};
use super::event::EventType;
use super::image::Cell;
use super::read::{Reader, little_endian};
use super::source_type::SourceType;
use super::table_map::{MappedColumn, TableMap};
use super::value::{Decimal, Value, special, temporal};
use super::{inflate, json};

/// What the catalog (`information_schema`) says of a column. The stream's own metadata goes first:
/// it is of the moment of the change. MariaDB sends none by default, and never tells UUID and INET
/// columns from BINARY.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CatalogColumn {
    /// Whether a number is unsigned.
    pub unsigned: Option<bool>,
    /// The character set; `None` for types without one, [`Charset::Binary`] for BINARY and BLOB.
    pub charset: Option<Charset>,
    /// The labels of ENUM or SET.
    pub labels: Option<Vec<String>>,
    /// A type of MariaDB's that is stored in another one.
    pub special: Option<Special>,
}

/// MariaDB's types that are stored as BINARY.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Special {
    /// UUID.
    Uuid,
    /// INET4.
    Inet4,
    /// INET6.
    Inet6,
}

/// How to read each value of a table.
#[derive(Clone, PartialEq, Debug)]
pub struct Layout {
    columns: Vec<ColumnPlan>,
    json_columns: usize,
}

/// How to read the values of one column.
#[derive(Clone, PartialEq, Debug)]
pub struct ColumnPlan {
    wire: WireType,
    extent: Extent,
    kind: Kind,
}

#[derive(Clone, PartialEq, Debug)]
enum Kind {
    Signed,
    Unsigned,
    /// The wire type says everything.
    Plain,
    Text(Charset),
    Bytes,
    /// BINARY(n): the server cuts zeros off the end.
    Padded,
    Labels(Vec<String>),
    /// ENUM and SET without labels.
    Unlabelled,
    Special(Special),
}

impl Layout {
    /// The layout of a mapped table. `catalog` has as many columns as the table, or is empty.
    ///
    /// Fails if a column's values can't be read exactly: nothing is guessed.
    pub fn new(map: &TableMap, catalog: &[CatalogColumn]) -> Result<Layout, DecodeError> {
        let wrong = |fault| DecodeError { event: EventType::TABLE_MAP, offset: 0, fault };
        if !catalog.is_empty() && catalog.len() != map.columns.len() {
            let fault = Fault::OtherShape { rows: map.columns.len(), table: catalog.len() };
            return Err(wrong(fault));
        }
        let unknown = CatalogColumn::default();
        let plans = map.columns.iter().enumerate().map(|(at, column)| {
            let known = catalog.get(at).unwrap_or(&unknown);
            plan(column, known).map_err(|fault| wrong(fault.in_column(at)))
        });
        let columns: Vec<ColumnPlan> = plans.collect::<Result<_, _>>()?;
        let json_columns = columns.iter().filter(|column| column.is_json()).count();
        Ok(Layout { columns, json_columns })
    }

    /// The columns' plans.
    pub fn columns(&self) -> &[ColumnPlan] {
        &self.columns
    }

    pub(super) fn json_columns(&self) -> usize {
        self.json_columns
    }
}

fn plan(column: &MappedColumn, known: &CatalogColumn) -> Result<ColumnPlan, Fault> {
    let metadata = &column.metadata;
    let unsigned = metadata.unsigned.or(known.unsigned);
    let charset = || match (metadata.collation, known.charset) {
        (Some(collation), _) => Charset::of_collation(collation),
        (None, Some(charset)) => Ok(charset),
        (None, None) => Err(Fault::Unstated("character set")),
    };
    let kind = match column.wire {
        WireType::Integer { .. } => match unsigned.ok_or(Fault::Unstated("sign"))? {
            true => Kind::Unsigned,
            false => Kind::Signed,
        },
        WireType::Char { most } => match (known.special, charset) {
            (Some(special), _) if usize::from(most) == special::stored_bytes(special) => {
                Kind::Special(special)
            }
            (Some(_), _) => return Err(Fault::Malformed("type in the catalog")),
            (None, charset) => match charset()? {
                Charset::Binary => Kind::Padded,
                charset => Kind::Text(charset),
            },
        },
        WireType::Varchar { .. }
        | WireType::CompressedVarchar { .. }
        | WireType::Blob { .. }
        | WireType::CompressedBlob { .. } => match charset()? {
            Charset::Binary => Kind::Bytes,
            charset => Kind::Text(charset),
        },
        WireType::Enum { .. } | WireType::Set { .. } => match (&metadata.labels, &known.labels) {
            (Some(labels), _) => {
                let charset = charset()?;
                let labels =
                    labels.iter().map(|label| charset.decode(label).map(|l| l.into_owned()));
                Kind::Labels(labels.collect::<Result<_, _>>()?)
            }
            (None, Some(labels)) => Kind::Labels(labels.clone()),
            (None, None) => Kind::Unlabelled,
        },
        _ => Kind::Plain,
    };
    Ok(ColumnPlan { wire: column.wire, extent: column.wire.extent(), kind })
}

impl ColumnPlan {
    /// The type as SQL has it, as far as it matters to who stores the values.
    pub fn source_type(&self) -> SourceType {
        use SourceType as T;
        match self.wire {
            WireType::Integer { bytes } => {
                T::Integer { bytes, unsigned: self.kind == Kind::Unsigned }
            }
            WireType::Float => T::Float,
            WireType::Double => T::Double,
            WireType::Decimal { precision, scale } => T::Decimal { precision, scale },
            WireType::Year => T::Year,
            WireType::Date => T::Date,
            WireType::Time { fraction } => T::Time { fraction },
            WireType::DateTime { fraction } => T::DateTime { fraction },
            WireType::Timestamp { fraction } => T::Timestamp { fraction },
            WireType::OldTime => T::Time { fraction: 0 },
            WireType::OldDateTime => T::DateTime { fraction: 0 },
            WireType::OldTimestamp => T::Timestamp { fraction: 0 },
            WireType::Bit { bits } => T::Bit { bits },
            WireType::Enum { .. } => T::Enum,
            WireType::Set { .. } => T::Set,
            WireType::Char { most } => match &self.kind {
                Kind::Special(Special::Uuid) => T::Uuid,
                Kind::Special(Special::Inet4) => T::Inet4,
                Kind::Special(Special::Inet6) => T::Inet6,
                Kind::Text(_) => T::Char,
                _ => T::Binary { bytes: most },
            },
            WireType::Varchar { .. }
            | WireType::CompressedVarchar { .. }
            | WireType::Blob { .. }
            | WireType::CompressedBlob { .. } => match &self.kind {
                Kind::Text(_) => T::Text,
                _ => T::Bytes,
            },
            WireType::Geometry { .. } => T::Geometry,
            WireType::Json { .. } => T::Json,
            WireType::Vector { .. } => T::Vector,
        }
    }

    pub(super) fn is_json(&self) -> bool {
        matches!(self.wire, WireType::Json { .. })
    }

    /// The bytes of the column's next value, for [`ColumnPlan::cell`].
    #[inline]
    pub(super) fn read<'a>(&self, reader: &mut Reader<'a>) -> Result<&'a [u8], Fault> {
        self.extent.read(reader)
    }

    /// The value in the bytes of the column, which is the `at`th.
    ///
    /// Numbers and text, which most columns are, are built right where they are asked for: each call on the way
    /// would copy them, and a copy of what was just written in pieces costs more than to read the bytes.
    #[inline(always)]
    pub(super) fn cell<'a>(&'a self, bytes: &'a [u8], at: usize) -> Result<Cell<'a>, Fault> {
        match (self.wire, &self.kind) {
            (WireType::Integer { .. }, Kind::Unsigned) => {
                Ok(Cell::Value(Value::Unsigned(little_endian(bytes))))
            }
            (WireType::Integer { .. }, _) => Ok(Cell::Value(Value::Signed(signed(bytes)))),
            (
                WireType::Char { .. } | WireType::Varchar { .. } | WireType::Blob { .. },
                Kind::Text(charset),
            ) => match charset.as_utf8(bytes) {
                Some(text) => Ok(Cell::Value(Value::Text(Cow::Borrowed(text)))),
                None => self.other_cell(bytes, at),
            },
            _ => self.other_cell(bytes, at),
        }
    }

    #[inline(never)]
    fn other_cell<'a>(&'a self, bytes: &'a [u8], at: usize) -> Result<Cell<'a>, Fault> {
        self.value(bytes).map(Cell::Value).map_err(|fault| fault.in_column(at))
    }

    fn value<'a>(&'a self, bytes: &'a [u8]) -> Result<Value<'a>, Fault> {
        Ok(match self.wire {
            WireType::Integer { .. } => match self.kind {
                Kind::Unsigned => Value::Unsigned(little_endian(bytes)),
                _ => Value::Signed(signed(bytes)),
            },
            WireType::Float => Value::Float(f32::from_le_bytes(fixed(bytes)?)),
            WireType::Double => Value::Double(f64::from_le_bytes(fixed(bytes)?)),
            WireType::Decimal { precision, scale } => {
                Value::Decimal(Decimal::read(bytes, precision, scale)?)
            }
            WireType::Year => Value::Year(temporal::year(fixed::<1>(bytes)?[0])),
            WireType::Date => Value::Date(temporal::date(fixed(bytes)?)?),
            WireType::Time { fraction } => Value::Time(temporal::time(bytes, fraction)?),
            WireType::DateTime { fraction } => {
                Value::DateTime(temporal::datetime(bytes, fraction)?)
            }
            WireType::Timestamp { fraction } => {
                Value::Timestamp(temporal::timestamp(bytes, fraction)?)
            }
            WireType::OldTime => Value::Time(temporal::old_time(fixed(bytes)?)?),
            WireType::OldDateTime => Value::DateTime(temporal::old_datetime(fixed(bytes)?)?),
            WireType::OldTimestamp => Value::Timestamp(temporal::old_timestamp(fixed(bytes)?)),
            WireType::Bit { bits } => Value::Bits { bits, bytes },
            WireType::Enum { .. } => {
                let index = little_endian(bytes);
                Value::Enum { index, label: self.label(index)? }
            }
            WireType::Set { .. } => {
                let mask = little_endian(bytes);
                Value::Set { mask, labels: self.set_labels(mask)? }
            }
            WireType::Char { most } => match &self.kind {
                Kind::Special(special) => special::value(*special, bytes)?,
                Kind::Text(charset) => Value::Text(charset.decode(bytes)?),
                _ => Value::Bytes(padded(bytes, most.into())?),
            },
            WireType::Varchar { .. } | WireType::Blob { .. } => match &self.kind {
                Kind::Text(charset) => Value::Text(charset.decode(bytes)?),
                _ => Value::Bytes(Cow::Borrowed(bytes)),
            },
            WireType::CompressedVarchar { .. } | WireType::CompressedBlob { .. } => {
                let bytes = inflate::mariadb_column(bytes, COLUMN_BYTES)?;
                match &self.kind {
                    Kind::Text(charset) => {
                        Value::Text(Cow::Owned(charset.decode(&bytes)?.into_owned()))
                    }
                    _ => Value::Bytes(Cow::Owned(bytes)),
                }
            }
            WireType::Geometry { .. } => Value::Geometry(bytes),
            WireType::Json { .. } => Value::Json(json::read(bytes)?),
            WireType::Vector { .. } => Value::Vector(bytes),
        })
    }

    /// The label of an ENUM's index; index 0 is the empty text that MySQL stores for a value that is
    /// not in the list.
    fn label(&self, index: u64) -> Result<Option<&str>, Fault> {
        let Kind::Labels(labels) = &self.kind else { return Ok(None) };
        let Some(at) = index.checked_sub(1) else { return Ok(Some("")) };
        let label = usize::try_from(at).ok().and_then(|at| labels.get(at));
        match label {
            Some(label) => Ok(Some(label)),
            None => Err(Fault::Impossible { what: "ENUM's index", found: index }),
        }
    }

    /// All labels of a SET, if it has one for each bit of `mask`.
    fn set_labels(&self, mask: u64) -> Result<Option<&[String]>, Fault> {
        let Kind::Labels(labels) = &self.kind else { return Ok(None) };
        match 64 - mask.leading_zeros() as usize <= labels.len() {
            true => Ok(Some(labels)),
            false => Err(Fault::Impossible { what: "SET's members", found: mask }),
        }
    }
}

/// The longest value of a column: LONGBLOB's 4 GiB are cut by `max_allowed_packet`'s 1 GiB.
const COLUMN_BYTES: usize = 1 << 30;

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Fault> {
    bytes.try_into().map_err(|_| Fault::Truncated { needed: N, left: bytes.len() })
}

/// Two's complement in 1 to 8 bytes.
#[inline]
fn signed(bytes: &[u8]) -> i64 {
    if let Ok(bytes) = bytes.try_into() {
        return i32::from_le_bytes(bytes).into();
    }
    if let Ok(bytes) = bytes.try_into() {
        return i64::from_le_bytes(bytes);
    }
    let unused = 64 - 8 * bytes.len().clamp(1, 8) as u32;
    ((little_endian(bytes) << unused) as i64) >> unused
}

/// A BINARY(n) with the zeros that the server cut off.
fn padded(bytes: &[u8], width: usize) -> Result<Cow<'_, [u8]>, Fault> {
    match bytes.len() {
        length if length == width => Ok(Cow::Borrowed(bytes)),
        length if length < width => {
            let mut whole = bytes.to_vec();
            whole.resize(width, 0);
            Ok(Cow::Owned(whole))
        }
        length => Err(Fault::Impossible { what: "length of BINARY", found: length as u64 }),
    }
}
