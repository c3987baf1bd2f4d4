//! The type of a column where its values come from, and which types hold all of them exactly.
//!
//! A server stores much without a word that is not what it was sent: it rounds times to the digits of
//! the column, cuts spaces off the end of a CHAR, pads BINARY with zeros, makes the nearest double of a
//! decimal. So a type is only taken for one that holds another if every value comes back as it was;
//! what a strict server refuses with an error (too long, no such label) may be tried.

use super::catalog::ColumnInfo;
use crate::change::Column;

/// A column's type. Text and bytes without a length: what is too long is refused, not cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs)] // each is the SQL type of that name
pub enum SourceType {
    /// TINYINT to BIGINT.
    Integer {
        bytes: u8,
        unsigned: bool,
    },
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Year,
    Date,
    /// With the digits behind the second.
    Time {
        fraction: u8,
    },
    DateTime {
        fraction: u8,
    },
    Timestamp {
        fraction: u8,
    },
    Bit {
        bits: u8,
    },
    Enum,
    Set,
    Char,
    /// VARCHAR and TINYTEXT to LONGTEXT.
    Text,
    Binary {
        bytes: u16,
    },
    /// VARBINARY and TINYBLOB to LONGBLOB; MariaDB's VECTOR.
    Bytes,
    Uuid,
    Inet4,
    Inet6,
    Geometry,
    Json,
    Vector,
}

/// Beyond all OIDs of PostgreSQL's own types, and of any object that a server will ever have made.
const FIRST_NUMBER: u32 = 0xF000_0000;

impl SourceType {
    /// As a column of the change vocabulary has it.
    pub(super) fn numbers(self) -> (u32, i32) {
        use SourceType as T;
        let (number, argument) = match self {
            T::Integer { bytes, unsigned } => (1, i32::from(bytes) << 1 | i32::from(unsigned)),
            T::Float => (2, -1),
            T::Double => (3, -1),
            T::Decimal { precision, scale } => (4, i32::from(precision) << 8 | i32::from(scale)),
            T::Year => (5, -1),
            T::Date => (6, -1),
            T::Time { fraction } => (7, fraction.into()),
            T::DateTime { fraction } => (8, fraction.into()),
            T::Timestamp { fraction } => (9, fraction.into()),
            T::Bit { bits } => (10, bits.into()),
            T::Enum => (11, -1),
            T::Set => (12, -1),
            T::Char => (13, -1),
            T::Text => (14, -1),
            T::Binary { bytes } => (15, bytes.into()),
            T::Bytes => (16, -1),
            T::Uuid => (17, -1),
            T::Inet4 => (18, -1),
            T::Inet6 => (19, -1),
            T::Geometry => (20, -1),
            T::Json => (21, -1),
            T::Vector => (22, -1),
        };
        (FIRST_NUMBER + number, argument)
    }

    /// The type of a column of a binlog's stream; `None` for a column of any other.
    pub fn of(column: &Column) -> Option<SourceType> {
        use SourceType as T;
        let argument = u16::try_from(column.type_modifier).unwrap_or_default();
        let [high, low] = argument.to_be_bytes();
        Some(match column.type_oid.checked_sub(FIRST_NUMBER)? {
            1 => T::Integer { bytes: low >> 1, unsigned: low & 1 == 1 },
            2 => T::Float,
            3 => T::Double,
            4 => T::Decimal { precision: high, scale: low },
            5 => T::Year,
            6 => T::Date,
            7 => T::Time { fraction: low },
            8 => T::DateTime { fraction: low },
            9 => T::Timestamp { fraction: low },
            10 => T::Bit { bits: low },
            11 => T::Enum,
            12 => T::Set,
            13 => T::Char,
            14 => T::Text,
            15 => T::Binary { bytes: argument },
            16 => T::Bytes,
            17 => T::Uuid,
            18 => T::Inet4,
            19 => T::Inet6,
            20 => T::Geometry,
            21 => T::Json,
            22 => T::Vector,
            _ => return None,
        })
    }

    /// The type of a column of the catalog; `None` for one that is not known.
    pub fn of_catalog(column: &ColumnInfo) -> Option<SourceType> {
        use SourceType as T;
        let name = column.data_type.as_str();
        let argument = |nth, or: u32| argument(&column.column_type, nth).unwrap_or(or);
        let small = |nth, or| u8::try_from(argument(nth, or)).ok();
        let unsigned = column.is_unsigned();
        Some(match name {
            "float" => T::Float,
            "double" => T::Double,
            "decimal" => T::Decimal { precision: small(0, 10)?, scale: small(1, 0)? },
            "year" => T::Year,
            "date" => T::Date,
            "time" => T::Time { fraction: small(0, 0)? },
            "datetime" => T::DateTime { fraction: small(0, 0)? },
            "timestamp" => T::Timestamp { fraction: small(0, 0)? },
            "bit" => T::Bit { bits: small(0, 1)? },
            "enum" => T::Enum,
            "set" => T::Set,
            "char" => T::Char,
            "binary" => T::Binary { bytes: u16::try_from(argument(0, 1)).ok()? },
            "uuid" => T::Uuid,
            "inet4" => T::Inet4,
            "inet6" => T::Inet6,
            "json" => T::Json,
            "vector" => T::Vector,
            _ if is_text(name) => T::Text,
            _ if is_bytes(name) => T::Bytes,
            _ if is_geometry(name) => T::Geometry,
            _ => T::Integer { bytes: integer_bytes(name)?, unsigned },
        })
    }

    /// Whether `target` gives back every value of this type that it takes.
    pub fn fits(self, target: &ColumnInfo) -> bool {
        use SourceType as T;
        let name = target.data_type.as_str();
        let argument = |nth| argument(&target.column_type, nth);
        let fraction = || argument(0).unwrap_or(0);
        match self {
            T::Integer { bytes, unsigned } => {
                integer_bytes(name).is_some_and(|most| match (unsigned, target.is_unsigned()) {
                    (true, false) => most > bytes,
                    // Negative numbers are refused; the others fit.
                    (false, true) | (true, true) | (false, false) => most >= bytes,
                })
            }
            T::Float => name == "float",
            T::Double => name == "double",
            T::Decimal { precision, scale } => {
                let (most, digits) = (argument(0).unwrap_or(10), argument(1).unwrap_or(0));
                name == "decimal"
                    && digits >= scale.into()
                    && most.saturating_sub(digits) >= u32::from(precision.saturating_sub(scale))
            }
            T::Year => name == "year",
            T::Date => name == "date",
            T::Time { fraction: digits } => name == "time" && fraction() >= digits.into(),
            T::DateTime { fraction: digits } => name == "datetime" && fraction() >= digits.into(),
            T::Timestamp { fraction: digits } => name == "timestamp" && fraction() >= digits.into(),
            T::Bit { bits } => name == "bit" && argument(0).unwrap_or(1) >= bits.into(),
            T::Enum => name == "enum",
            T::Set => name == "set",
            T::Char => name == "char" || is_text(name),
            T::Text => is_text(name),
            T::Binary { bytes } => {
                is_bytes(name) || (name == "binary" && argument(0).unwrap_or(1) == u32::from(bytes))
            }
            T::Bytes => is_bytes(name) || name == "vector",
            T::Uuid => name == "uuid",
            T::Inet4 => name == "inet4",
            T::Inet6 => name == "inet6",
            T::Geometry => is_geometry(name),
            T::Json => name == "json",
            T::Vector => name == "vector",
        }
    }
}

/// `(10,2)`: the first or the second number of it.
fn argument(column_type: &str, nth: usize) -> Option<u32> {
    let (_, rest) = column_type.split_once('(')?;
    rest.split_once(')')?.0.split(',').nth(nth)?.trim().parse().ok()
}

fn integer_bytes(name: &str) -> Option<u8> {
    Some(match name {
        "tinyint" => 1,
        "smallint" => 2,
        "mediumint" => 3,
        "int" => 4,
        "bigint" => 8,
        _ => return None,
    })
}

fn is_text(name: &str) -> bool {
    name == "varchar" || name.ends_with("text")
}

fn is_geometry(name: &str) -> bool {
    matches!(
        name,
        "geometry"
            | "point"
            | "linestring"
            | "polygon"
            | "multipoint"
            | "multilinestring"
            | "multipolygon"
            | "geometrycollection"
            | "geomcollection"
    )
}

fn is_bytes(name: &str) -> bool {
    name == "varbinary" || name.ends_with("blob")
}

impl std::fmt::Display for SourceType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use SourceType as T;
        match self {
            T::Integer { bytes, unsigned } => {
                let name = match bytes {
                    1 => "tinyint",
                    2 => "smallint",
                    3 => "mediumint",
                    4 => "int",
                    _ => "bigint",
                };
                write!(f, "{name}{}", if *unsigned { " unsigned" } else { "" })
            }
            T::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            T::Time { fraction } => write!(f, "time({fraction})"),
            T::DateTime { fraction } => write!(f, "datetime({fraction})"),
            T::Timestamp { fraction } => write!(f, "timestamp({fraction})"),
            T::Bit { bits } => write!(f, "bit({bits})"),
            T::Binary { bytes } => write!(f, "binary({bytes})"),
            other => f.write_str(match other {
                T::Float => "float",
                T::Double => "double",
                T::Year => "year",
                T::Date => "date",
                T::Enum => "enum",
                T::Set => "set",
                T::Char => "char",
                T::Text => "varchar or text",
                T::Bytes => "varbinary or blob",
                T::Uuid => "uuid",
                T::Inet4 => "inet4",
                T::Inet6 => "inet6",
                T::Geometry => "geometry",
                T::Json => "json",
                _ => "vector",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [SourceType; 23] = [
        SourceType::Integer { bytes: 1, unsigned: false },
        SourceType::Integer { bytes: 8, unsigned: true },
        SourceType::Float,
        SourceType::Double,
        SourceType::Decimal { precision: 65, scale: 30 },
        SourceType::Year,
        SourceType::Date,
        SourceType::Time { fraction: 6 },
        SourceType::DateTime { fraction: 3 },
        SourceType::Timestamp { fraction: 0 },
        SourceType::Bit { bits: 64 },
        SourceType::Enum,
        SourceType::Set,
        SourceType::Char,
        SourceType::Text,
        SourceType::Binary { bytes: 255 },
        SourceType::Bytes,
        SourceType::Uuid,
        SourceType::Inet4,
        SourceType::Inet6,
        SourceType::Geometry,
        SourceType::Json,
        SourceType::Vector,
    ];

    fn green(column_type: &str) -> ColumnInfo {
        let end = column_type.find(['(', ' ']).unwrap_or(column_type.len());
        ColumnInfo {
            name: "c".into(),
            position: 1,
            data_type: column_type[..end].into(),
            column_type: column_type.into(),
            nullable: true,
            charset: None,
            collation: None,
            default: None,
            generated: None,
            invisible: false,
            auto_increment: false,
        }
    }

    #[test]
    fn numbers_stand_for_one_type() {
        for one in ALL {
            let (type_oid, type_modifier) = one.numbers();
            let column = Column { name: "c".into(), type_oid, type_modifier, in_key: false };
            assert_eq!(SourceType::of(&column), Some(one));
        }
        let of_postgres =
            Column { name: "c".into(), type_oid: 25, type_modifier: -1, in_key: false };
        assert_eq!(SourceType::of(&of_postgres), None);
    }

    #[test]
    fn what_would_be_altered_without_a_word_does_not_fit() {
        use SourceType as T;
        let int = |bytes, unsigned| T::Integer { bytes, unsigned };
        let decimal = T::Decimal { precision: 10, scale: 4 };
        for (blue, column_type, fits) in [
            (T::DateTime { fraction: 6 }, "datetime", false),
            (T::DateTime { fraction: 6 }, "datetime(3)", false),
            (T::DateTime { fraction: 3 }, "datetime(6)", true),
            (T::DateTime { fraction: 0 }, "timestamp", false),
            (T::Timestamp { fraction: 6 }, "timestamp(6)", true),
            (T::Time { fraction: 2 }, "time(1)", false),
            (T::Date, "datetime", false),
            (int(4, false), "int(11)", true),
            (int(4, true), "int", false),
            (int(4, true), "bigint(20)", true),
            (int(8, false), "double", false),
            (int(4, false), "mediumint", false),
            (decimal, "decimal(12,4)", true),
            (decimal, "decimal(12,6)", true),
            (decimal, "decimal(10,5)", false),
            (decimal, "decimal(12,2)", false),
            (decimal, "double", false),
            (T::Double, "float", false),
            (T::Text, "char(200)", false),
            (T::Text, "mediumtext", true),
            (T::Char, "varchar(9)", true),
            (T::Bytes, "binary(16)", false),
            (T::Binary { bytes: 16 }, "binary(16)", true),
            (T::Binary { bytes: 16 }, "binary(20)", false),
            (T::Binary { bytes: 16 }, "varbinary(20)", true),
            (T::Uuid, "varchar(36)", false),
            (T::Bit { bits: 3 }, "bit(2)", false),
        ] {
            assert_eq!(blue.fits(&green(column_type)), fits, "{blue} in {column_type}");
        }
    }
}
