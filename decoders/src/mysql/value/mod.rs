//! Values, and their text.

use std::borrow::Cow;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

pub(super) mod decimal;
pub(super) mod number;
pub(super) mod special;
pub(super) mod temporal;

pub use decimal::Decimal;
pub use special::Uuid;
pub use temporal::{Date, DateTime, Time, Timestamp};

use super::json::Json;

/// A column's value, exactly as it is stored.
#[derive(Clone, PartialEq, Debug)]
pub enum Value<'a> {
    /// SQL NULL.
    Null,
    /// TINYINT to BIGINT.
    Signed(i64),
    /// The same, UNSIGNED.
    Unsigned(u64),
    /// FLOAT.
    Float(f32),
    /// DOUBLE.
    Double(f64),
    /// DECIMAL.
    Decimal(Decimal<'a>),
    /// YEAR: 0 or 1901 to 2155.
    Year(u16),
    /// DATE, also a zero or partial one.
    Date(Date),
    /// TIME.
    Time(Time),
    /// DATETIME, also a zero or partial one.
    DateTime(DateTime),
    /// TIMESTAMP.
    Timestamp(Timestamp),
    /// CHAR, VARCHAR and TEXT; MariaDB's JSON.
    Text(Cow<'a, str>),
    /// BINARY, VARBINARY and BLOB; MariaDB's VECTOR.
    Bytes(Cow<'a, [u8]>),
    /// BIT(n): n bits, right-aligned.
    Bits {
        /// How many bits.
        bits: u8,
        /// The bits, the highest byte first.
        bytes: &'a [u8],
    },
    /// ENUM.
    Enum {
        /// From 1; 0 for a value that was not in the list.
        index: u64,
        /// The label, where the labels are known.
        label: Option<&'a str>,
    },
    /// SET.
    Set {
        /// A bit for each member, the lowest for the first.
        mask: u64,
        /// The labels of all members, where they are known.
        labels: Option<&'a [String]>,
    },
    /// MySQL's JSON.
    Json(Json),
    /// Geometries: 4 bytes of SRID, little-endian, then WKB.
    Geometry(&'a [u8]),
    /// MySQL's VECTOR: 32-bit floats, little-endian.
    Vector(&'a [u8]),
    /// MariaDB's UUID.
    Uuid(Uuid),
    /// MariaDB's INET4.
    Inet4(Ipv4Addr),
    /// MariaDB's INET6.
    Inet6(Ipv6Addr),
}

impl Value<'_> {
    /// Appends what the server's own SELECT gives, in UTF-8 and with `time_zone = '+00:00'`; for
    /// binary types the bytes. Returns false, and appends nothing, for NULL.
    ///
    /// Where the stream knows more or less than SELECT shows: FLOAT has as many digits as it takes to
    /// get the same number back (SELECT rounds to 6), FLOAT(m,d) and ZEROFILL are not padded with
    /// zeros, and an ENUM or SET without known labels gives its number.
    pub fn write_text(&self, out: &mut Vec<u8>) -> bool {
        match self {
            Value::Null => return false,
            Value::Signed(number) => number::decimal(out, number.unsigned_abs(), *number < 0),
            Value::Unsigned(number) => number::decimal(out, *number, false),
            Value::Float(number) => number::float(out, *number),
            Value::Double(number) => number::double(out, *number),
            Value::Decimal(decimal) => decimal.write(out),
            Value::Year(year) => temporal::digits(out, u64::from(*year), 4),
            Value::Date(date) => date.write(out),
            Value::Time(time) => time.write(out),
            Value::DateTime(time) => time.write(out),
            Value::Timestamp(time) => time.write(out),
            Value::Text(text) => out.extend_from_slice(text.as_bytes()),
            Value::Bytes(bytes) => out.extend_from_slice(bytes),
            Value::Bits { bytes, .. } | Value::Geometry(bytes) | Value::Vector(bytes) => {
                out.extend_from_slice(bytes);
            }
            Value::Enum { label: Some(label), .. } => out.extend_from_slice(label.as_bytes()),
            Value::Enum { index, label: None } => number::decimal(out, *index, false),
            Value::Set { mask, labels: Some(labels) } => write_set(out, *mask, labels),
            Value::Set { mask, labels: None } => number::decimal(out, *mask, false),
            Value::Json(json) => json.write(out),
            Value::Uuid(uuid) => append(out, uuid),
            Value::Inet4(address) => append(out, address),
            Value::Inet6(address) => special::write_inet6(out, *address),
        }
        true
    }

    /// The text as [`Value::write_text`] has it; `None` for NULL.
    pub fn text(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        self.write_text(&mut out).then_some(out)
    }
}

fn write_set(out: &mut Vec<u8>, mask: u64, labels: &[String]) {
    let members = labels.iter().take(64).enumerate().filter(|(at, _)| mask >> at & 1 == 1);
    for (nth, (_, label)) in members.enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        out.extend_from_slice(label.as_bytes());
    }
}

/// Appends something's `Display`.
pub(super) fn append(out: &mut Vec<u8>, shown: &impl std::fmt::Display) {
    // Writing to a Vec can't fail.
    let _ = write!(out, "{shown}");
}
