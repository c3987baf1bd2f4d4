//! Values as SQL literals of their column's type.
//!
//! A literal of another type would be converted by rules of its own: an integer column compared with
//! a string goes by way of doubles, a decimal literal stored in a FLOAT is rounded twice, and the
//! string `0` is the year 2000. So numbers stand without quotes, floating-point numbers with an
//! exponent, which makes them doubles, and bytes as hexadecimal strings.

use std::io::Write as _;

use decoders::change::{Cell, Value};

/// How values of a column are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// TINYINT to BIGINT, YEAR.
    Integer,
    Decimal,
    Float,
    Double,
    Bits,
    /// CHAR to LONGTEXT, SET, UUID, INET4, INET6.
    Text,
    /// DATE, TIME, DATETIME, TIMESTAMP.
    Temporal,
    /// An ENUM whose labels don't include the empty text, which then is the mark of an invalid value.
    Enum,
    /// BINARY to LONGBLOB, VECTOR.
    Bytes,
    /// Geometries: the server's own form, an SRID and WKB.
    Geometry,
    /// MySQL's JSON.
    Json,
}

/// What is special about a literal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Note {
    /// It is an expression whose type is not the others': not to be put into one list with them.
    pub alone: bool,
    /// Values that green stores only with a warning, and outside of strict mode.
    pub invalid: u16,
}

/// The value is none of its column's type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unfit;

impl Kind {
    /// The kind of a type of `information_schema.columns.data_type`.
    pub(super) fn of(data_type: &str, labels: Option<&[String]>) -> Option<Kind> {
        Some(match data_type {
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year" => Kind::Integer,
            "decimal" => Kind::Decimal,
            "float" => Kind::Float,
            "double" => Kind::Double,
            "bit" => Kind::Bits,
            "enum" => match labels {
                Some(labels) if labels.iter().any(String::is_empty) => Kind::Text,
                _ => Kind::Enum,
            },
            "char" | "varchar" | "set" | "uuid" | "inet4" | "inet6" => Kind::Text,
            "date" | "time" | "datetime" | "timestamp" => Kind::Temporal,
            "json" => Kind::Json,
            "binary" | "varbinary" | "vector" => Kind::Bytes,
            "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
            | "multipolygon" | "geometrycollection" | "geomcollection" => Kind::Geometry,
            text if text.ends_with("text") => Kind::Text,
            blob if blob.ends_with("blob") => Kind::Bytes,
            _ => return None,
        })
    }

    /// Appends a value.
    ///
    /// # Errors
    /// The value has another form than the column's type; nothing useful was appended.
    pub(super) fn write(self, out: &mut Vec<u8>, cell: Cell<'_>) -> Result<Note, Unfit> {
        let value = cell.value().ok_or(Unfit)?;
        let is_bytes = matches!(self, Kind::Bits | Kind::Bytes | Kind::Geometry);
        let bytes = match value {
            Value::Null => {
                out.extend_from_slice(b"NULL");
                return Ok(Note::default());
            }
            Value::Text(text) if !is_bytes => text,
            Value::Binary(bytes) if is_bytes => bytes,
            Value::Text(_) | Value::Binary(_) => return Err(Unfit),
        };
        let mut note = Note::default();
        match self {
            Kind::Integer => out.extend_from_slice(checked(bytes, is_integer)?),
            Kind::Decimal => out.extend_from_slice(checked(bytes, is_decimal)?),
            Kind::Float => float(out, bytes)?,
            Kind::Double => {
                let text = checked(bytes, is_floating)?;
                out.extend_from_slice(text);
                if !text.contains(&b'e') {
                    out.extend_from_slice(b"e0");
                }
            }
            Kind::Bits => {
                let wide: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
                if wide.len() > 8 {
                    return Err(Unfit);
                }
                let number = wide.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
                // Writing to a Vec can't fail.
                let _ = write!(out, "{number}");
            }
            Kind::Text | Kind::Temporal => quote(out, bytes),
            Kind::Enum => {
                note.invalid = u16::from(bytes.is_empty());
                quote(out, bytes);
            }
            Kind::Bytes | Kind::Geometry => hexadecimal(out, bytes),
            Kind::Json => {
                let text = std::str::from_utf8(bytes).map_err(|_| Unfit)?;
                match super::json::expression(text, &|out, text| quote(out, text.as_bytes())) {
                    Some(expression) => {
                        note.alone = true;
                        out.extend_from_slice(&expression);
                    }
                    None => quote(out, bytes),
                }
            }
        }
        Ok(note)
    }
}

fn checked(text: &[u8], is: impl Fn(&[u8]) -> bool) -> Result<&[u8], Unfit> {
    if is(text) { Ok(text) } else { Err(Unfit) }
}

fn is_integer(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fn is_decimal(text: &[u8]) -> bool {
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let whole = parts.next().is_some_and(is_integer);
    whole && parts.next().is_none_or(|part| !part.starts_with(b"-") && is_integer(part))
}

fn is_floating(text: &[u8]) -> bool {
    let mut parts = text.splitn(2, |byte| *byte == b'e');
    parts.next().is_some_and(is_decimal) && parts.next().is_none_or(is_integer)
}

/// The double that the single is: a shorter text would be rounded by way of a double on its own.
fn float(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Unfit> {
    let text = std::str::from_utf8(checked(text, is_floating)?).map_err(|_| Unfit)?;
    let single: f32 = text.parse().map_err(|_| Unfit)?;
    // Writing to a Vec can't fail.
    let _ = write!(out, "{:e}", f64::from(single));
    Ok(())
}

/// A text in quotes, under an `sql_mode` without NO_BACKSLASH_ESCAPES and in UTF-8.
pub(super) fn quote(out: &mut Vec<u8>, text: &[u8]) {
    out.reserve(text.len() + 2);
    out.push(b'\'');
    for byte in text {
        match byte {
            b'\'' => out.extend_from_slice(b"\\'"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0 => out.extend_from_slice(b"\\0"),
            byte => out.push(*byte),
        }
    }
    out.push(b'\'');
}

/// Bytes as `x'..'`.
pub(super) fn hexadecimal(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(2 * bytes.len() + 3);
    out.extend_from_slice(b"x'");
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
    out.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(kind: Kind, cell: Cell<'_>) -> Option<String> {
        let mut out = Vec::new();
        kind.write(&mut out, cell).ok()?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn literals_have_the_type_of_their_column() {
        for (kind, text, expected) in [
            (Kind::Integer, "-9223372036854775808", "-9223372036854775808"),
            (Kind::Integer, "0000", "0000"),
            (Kind::Decimal, "-0.10", "-0.10"),
            (Kind::Float, "1.1", "1.100000023841858e0"),
            (Kind::Double, "-0", "-0e0"),
            (Kind::Double, "1e308", "1e308"),
            (Kind::Text, "it's \\ \0", "'it\\'s \\\\ \\0'"),
            (Kind::Temporal, "0000-00-00", "'0000-00-00'"),
            (Kind::Json, "[1]", "'[1]'"),
        ] {
            assert_eq!(written(kind, Cell::text(text)).as_deref(), Some(expected), "{kind:?}");
        }
        assert_eq!(written(Kind::Bits, Cell::binary(&[0, 1, 2])).as_deref(), Some("258"));
        assert_eq!(written(Kind::Bytes, Cell::binary(b"")).as_deref(), Some("x''"));
        assert_eq!(written(Kind::Bytes, Cell::binary(&[0, 255])).as_deref(), Some("x'00ff'"));
        assert_eq!(written(Kind::Text, Cell::NULL).as_deref(), Some("NULL"));
    }

    #[test]
    fn what_is_no_value_of_the_type_is_refused() {
        for text in ["", "-", "1; DROP TABLE t", "1e5", "--1", "0x1", "inf", "1."] {
            assert_eq!(written(Kind::Integer, Cell::text(text)), None, "{text}");
            assert_eq!(written(Kind::Decimal, Cell::text(text)), None, "{text}");
        }
        for text in ["inf", "nan", "1e", "1e1.5", "1e+5", ".5"] {
            assert_eq!(written(Kind::Double, Cell::text(text)), None, "{text}");
            assert_eq!(written(Kind::Float, Cell::text(text)), None, "{text}");
        }
        assert_eq!(written(Kind::Bytes, Cell::text("a")), None);
        assert_eq!(written(Kind::Text, Cell::binary(b"a")), None);
        assert_eq!(written(Kind::Text, Cell::Unchanged), None);
        assert_eq!(written(Kind::Bits, Cell::binary(&[1; 9])), None);
    }
}
