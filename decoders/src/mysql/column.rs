//! The types of columns as a table map has them: enough to know where a value ends.

use super::error::Fault;
use super::read::Reader;

/// How a column's values are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs)] // each is the SQL type of that name
pub enum WireType {
    /// TINYINT to BIGINT, in 1, 2, 3, 4 or 8 bytes.
    Integer {
        bytes: u8,
    },
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Year,
    Date,
    Time {
        fraction: u8,
    },
    DateTime {
        fraction: u8,
    },
    Timestamp {
        fraction: u8,
    },
    /// TIME, DATETIME and TIMESTAMP of tables made before MySQL 5.6, or with MariaDB's
    /// `mysql56_temporal_format=OFF`.
    OldTime,
    OldDateTime,
    OldTimestamp,
    Bit {
        bits: u8,
    },
    Enum {
        bytes: u8,
    },
    Set {
        bytes: u8,
    },
    /// CHAR and BINARY, and what MariaDB stores like that (UUID, INET4, INET6). At most so many bytes.
    Char {
        most: u16,
    },
    /// VARCHAR and VARBINARY.
    Varchar {
        most: u16,
    },
    /// MariaDB: VARCHAR and VARBINARY `COMPRESSED`.
    CompressedVarchar {
        most: u16,
    },
    /// TEXT and BLOB; the length before a value takes so many bytes.
    Blob {
        length_bytes: u8,
    },
    /// MariaDB: TEXT and BLOB `COMPRESSED`.
    CompressedBlob {
        length_bytes: u8,
    },
    Geometry {
        length_bytes: u8,
    },
    /// MySQL's binary JSON. MariaDB's JSON is TEXT.
    Json {
        length_bytes: u8,
    },
    /// MySQL's VECTOR. MariaDB's is VARBINARY.
    Vector {
        length_bytes: u8,
    },
}

/// Reads the types' codes and their metadata (`Table_map_event` of libbinlogevents,
/// `Field::save_field_metadata`).
pub(super) fn read_types(codes: &[u8], metadata: &[u8]) -> Result<Vec<WireType>, Fault> {
    let mut reader = Reader::new(metadata);
    let types = codes.iter().enumerate().map(|(column, code)| {
        read_type(*code, &mut reader).map_err(|fault| fault.in_column(column))
    });
    let types = types.collect::<Result<Vec<_>, _>>()?;
    reader.end()?;
    Ok(types)
}

fn read_type(code: u8, reader: &mut Reader) -> Result<WireType, Fault> {
    Ok(match code {
        1 => WireType::Integer { bytes: 1 },
        2 => WireType::Integer { bytes: 2 },
        3 => WireType::Integer { bytes: 4 },
        4 => {
            float_size(reader, 4)?;
            WireType::Float
        }
        5 => {
            float_size(reader, 8)?;
            WireType::Double
        }
        7 => WireType::OldTimestamp,
        8 => WireType::Integer { bytes: 8 },
        9 => WireType::Integer { bytes: 3 },
        10 | 14 => WireType::Date,
        11 => WireType::OldTime,
        12 => WireType::OldDateTime,
        13 => WireType::Year,
        15 | 253 => WireType::Varchar { most: reader.u16()? },
        16 => {
            let (rest, bytes) = (reader.u8()?, reader.u8()?);
            let bits = u16::from(bytes) * 8 + u16::from(rest);
            match u8::try_from(bits) {
                Ok(bits @ 1..=64) if rest < 8 => WireType::Bit { bits },
                _ => return Err(Fault::Impossible { what: "width of BIT", found: bits.into() }),
            }
        }
        17 => WireType::Timestamp { fraction: fraction(reader)? },
        18 => WireType::DateTime { fraction: fraction(reader)? },
        19 => WireType::Time { fraction: fraction(reader)? },
        140 => WireType::CompressedBlob { length_bytes: length_bytes(reader)? },
        141 => WireType::CompressedVarchar { most: reader.u16()? },
        242 => WireType::Vector { length_bytes: length_bytes(reader)? },
        245 => WireType::Json { length_bytes: length_bytes(reader)? },
        246 => {
            let (precision, scale) = (reader.u8()?, reader.u8()?);
            if precision == 0 || precision > 65 || scale > precision || scale > 38 {
                let found = u64::from(precision) << 8 | u64::from(scale);
                return Err(Fault::Impossible { what: "precision of DECIMAL", found });
            }
            WireType::Decimal { precision, scale }
        }
        249..=252 => WireType::Blob { length_bytes: length_bytes(reader)? },
        247 | 248 | 254 => string(reader)?,
        255 => WireType::Geometry { length_bytes: length_bytes(reader)? },
        found => return Err(Fault::Unsupported { what: "column type", found: found.into() }),
    })
}

/// CHAR, ENUM and SET share a code: the real type stands in the metadata, with the two highest bits
/// of a CHAR's length flipped into it.
fn string(reader: &mut Reader) -> Result<WireType, Fault> {
    let (real, length) = (reader.u8()?, reader.u8()?);
    match (real, length) {
        (247, 1 | 2) => Ok(WireType::Enum { bytes: length }),
        (248, 1..=8) => Ok(WireType::Set { bytes: length }),
        (247 | 248, _) => {
            Err(Fault::Impossible { what: "width of ENUM or SET", found: length.into() })
        }
        _ if real | 0x30 == 254 => {
            let high = u16::from((real & 0x30) ^ 0x30) << 4;
            Ok(WireType::Char { most: high | u16::from(length) })
        }
        _ => Err(Fault::Unsupported { what: "string type", found: real.into() }),
    }
}

fn float_size(reader: &mut Reader, expected: u8) -> Result<(), Fault> {
    match reader.u8()? {
        size if size == expected => Ok(()),
        found => Err(Fault::Impossible { what: "size of FLOAT or DOUBLE", found: found.into() }),
    }
}

fn fraction(reader: &mut Reader) -> Result<u8, Fault> {
    match reader.u8()? {
        digits @ 0..=6 => Ok(digits),
        found => Err(Fault::Impossible { what: "fractional digits", found: found.into() }),
    }
}

fn length_bytes(reader: &mut Reader) -> Result<u8, Fault> {
    match reader.u8()? {
        bytes @ 1..=4 => Ok(bytes),
        found => Err(Fault::Impossible { what: "width of a length", found: found.into() }),
    }
}

/// Appends the code of a type and its metadata: what [`read_types`] reads.
pub(super) fn write_type(wire: WireType, codes: &mut Vec<u8>, metadata: &mut Vec<u8>) {
    let code = match wire {
        WireType::Integer { bytes: 1 } => 1,
        WireType::Integer { bytes: 2 } => 2,
        WireType::Integer { bytes: 3 } => 9,
        WireType::Integer { bytes: 4 } => 3,
        WireType::Integer { .. } => 8,
        WireType::Float => {
            metadata.push(4);
            4
        }
        WireType::Double => {
            metadata.push(8);
            5
        }
        WireType::Decimal { precision, scale } => {
            metadata.extend([precision, scale]);
            246
        }
        WireType::Year => 13,
        WireType::Date => 10,
        WireType::OldTime => 11,
        WireType::OldDateTime => 12,
        WireType::OldTimestamp => 7,
        WireType::Timestamp { fraction } => {
            metadata.push(fraction);
            17
        }
        WireType::DateTime { fraction } => {
            metadata.push(fraction);
            18
        }
        WireType::Time { fraction } => {
            metadata.push(fraction);
            19
        }
        WireType::Bit { bits } => {
            metadata.extend([bits % 8, bits / 8]);
            16
        }
        WireType::Enum { bytes } => {
            metadata.extend([247, bytes]);
            254
        }
        WireType::Set { bytes } => {
            metadata.extend([248, bytes]);
            254
        }
        WireType::Char { most } => {
            let [high, low] = most.to_be_bytes();
            metadata.extend([254 ^ (high & 3) << 4, low]);
            254
        }
        WireType::Varchar { most } => {
            metadata.extend(most.to_le_bytes());
            15
        }
        WireType::CompressedVarchar { most } => {
            metadata.extend(most.to_le_bytes());
            141
        }
        WireType::Blob { length_bytes } => {
            metadata.push(length_bytes);
            252
        }
        WireType::CompressedBlob { length_bytes } => {
            metadata.push(length_bytes);
            140
        }
        WireType::Geometry { length_bytes } => {
            metadata.push(length_bytes);
            255
        }
        WireType::Json { length_bytes } => {
            metadata.push(length_bytes);
            245
        }
        WireType::Vector { length_bytes } => {
            metadata.push(length_bytes);
            242
        }
    };
    codes.push(code);
}

/// Bytes of the fraction of TIME, DATETIME and TIMESTAMP.
fn fraction_bytes(digits: u8) -> usize {
    usize::from(digits.div_ceil(2))
}

/// Where a value ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Extent {
    /// It has so many bytes.
    Fixed(usize),
    /// Its length stands before it, in so many bytes.
    Counted(u8),
}

impl Extent {
    /// Reads one value's bytes: without their length, where there is one.
    #[inline]
    pub(super) fn read<'a>(self, reader: &mut Reader<'a>) -> Result<&'a [u8], Fault> {
        match self {
            Extent::Fixed(bytes) => reader.bytes(bytes),
            // The two that nearly all have, without the loop over the length's bytes.
            Extent::Counted(1) => {
                let length = reader.u8()?;
                reader.bytes(length.into())
            }
            Extent::Counted(2) => {
                let length = reader.u16()?;
                reader.bytes(length.into())
            }
            Extent::Counted(width) => reader.sized(width.into()),
        }
    }
}

impl WireType {
    /// Where its values end.
    pub(super) fn extent(self) -> Extent {
        match self {
            WireType::Integer { bytes } | WireType::Enum { bytes } | WireType::Set { bytes } => {
                Extent::Fixed(bytes.into())
            }
            WireType::Float | WireType::OldTimestamp => Extent::Fixed(4),
            WireType::Double | WireType::OldDateTime => Extent::Fixed(8),
            WireType::Decimal { precision, scale } => {
                Extent::Fixed(super::value::decimal::stored_bytes(precision, scale))
            }
            WireType::Year => Extent::Fixed(1),
            WireType::Date | WireType::OldTime => Extent::Fixed(3),
            WireType::Time { fraction } => Extent::Fixed(3 + fraction_bytes(fraction)),
            WireType::DateTime { fraction } => Extent::Fixed(5 + fraction_bytes(fraction)),
            WireType::Timestamp { fraction } => Extent::Fixed(4 + fraction_bytes(fraction)),
            WireType::Bit { bits } => Extent::Fixed(bits.div_ceil(8).into()),
            WireType::Char { most }
            | WireType::Varchar { most }
            | WireType::CompressedVarchar { most } => {
                Extent::Counted(if most > 255 { 2 } else { 1 })
            }
            WireType::Blob { length_bytes }
            | WireType::CompressedBlob { length_bytes }
            | WireType::Geometry { length_bytes }
            | WireType::Json { length_bytes }
            | WireType::Vector { length_bytes } => Extent::Counted(length_bytes),
        }
    }

    /// Whether SIGNEDNESS of the optional metadata has a bit for it. YEAR has one too.
    pub(super) fn is_numeric(self) -> bool {
        matches!(
            self,
            WireType::Integer { .. }
                | WireType::Year
                | WireType::Float
                | WireType::Double
                | WireType::Decimal { .. }
        )
    }

    /// Whether the optional metadata has a character set for it (`is_character_type`). VECTOR
    /// counts among them, and in MariaDB a geometry.
    pub(super) fn is_character(self, geometry: bool) -> bool {
        match self {
            WireType::Char { .. }
            | WireType::Varchar { .. }
            | WireType::CompressedVarchar { .. }
            | WireType::Blob { .. }
            | WireType::CompressedBlob { .. }
            | WireType::Vector { .. } => true,
            WireType::Geometry { .. } => geometry,
            _ => false,
        }
    }

    pub(super) fn is_enum_or_set(self) -> bool {
        matches!(self, WireType::Enum { .. } | WireType::Set { .. })
    }
}
