//! What is compared of a column: two expressions for the servers, and a form that is no server's.
//!
//! | type | what the server is asked for | here |
//! |---|---|---|
//! | integers, YEAR, BIT | the number: no ZEROFILL, no display width | text |
//! | DECIMAL | all digits of its scale | text |
//! | FLOAT, DOUBLE | the DOUBLE, which holds every FLOAT, with all digits that it needs | its bits |
//! | dates and times | text with the type's fraction, in UTC; zero and impossible dates as they are | text |
//! | CHAR, VARCHAR, TEXT | bytes as they are stored, trailing spaces too; UTF-8 where the character sets differ | bytes |
//! | BINARY, BLOB, geometries, vectors | bytes as they are stored (SRID and WKB; IEEE 754) | bytes |
//! | ENUM, SET | index or bits, and label: a definition in another order shows | text |
//! | UUID, INET4, INET6 | text | text |
//! | JSON | the server's text | the value: keys in order, numbers by value |
//!
//! What a server prints may depend on its family in two cases: JSON, and a DOUBLE within an expression,
//! which MariaDB shows as `1` and MySQL as `1.0`. Equal text still proves equal values; unequal text is
//! judged here, by value. So servers' sums are a short cut to "equal" and never the reason for a
//! difference.
//!
//! That asks for text that is never the same for two values. A DOUBLE that MySQL casts and then makes a
//! string of gets 22 characters, which cuts the last digits of `-1.2345678901234568e-300`; as a member of
//! a JSON array it keeps them all, on both families. Selected by itself it does, too.
//!
//! MariaDB 10.11 has no -0: it stores and shows 0.

use std::borrow::Cow;

use decoders::mysql::catalog::{ColumnInfo, GeneratedAs};
use decoders::mysql::charset::Charset;
use decoders::mysql::server::identifier;

use super::json;
use crate::schema::mysql::canonical_name;

/// Values of long types that are longer than this come as their hash, bytes.
const LONG: u32 = 8192;

/// How a value is judged when it is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// ASCII that every server prints alike.
    Plain,
    /// A DOUBLE.
    Float,
    /// Text of this character set.
    Text(Charset),
    /// Bytes.
    Bytes,
    /// JSON in UTF-8.
    Json,
}

impl Form {
    /// Whether a value has one text only, whatever the server.
    pub fn is_exact(self) -> bool {
        !matches!(self, Form::Float | Form::Json)
    }

    /// The value in a form that is the same for equal values only.
    pub fn canonical(self, value: &[u8]) -> Cow<'_, [u8]> {
        let other = match self {
            Form::Plain | Form::Text(_) | Form::Bytes => None,
            Form::Float => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<f64>().ok())
                .map(|number| number.to_bits().to_be_bytes().to_vec()),
            Form::Json => json::canonical(value),
        };
        other.map_or(Cow::Borrowed(value), Cow::Owned)
    }

    /// Whether two values are one.
    pub fn is_same(self, one: Option<&[u8]>, other: Option<&[u8]>) -> bool {
        match (one, other) {
            (Some(one), Some(other)) => {
                one == other || (!self.is_exact() && self.canonical(one) == self.canonical(other))
            }
            (one, other) => one.is_none() && other.is_none(),
        }
    }

    /// A value for a person.
    pub fn shown(self, value: &[u8]) -> String {
        let text = match self {
            Form::Text(charset) => charset.decode(value).ok().map(Cow::into_owned),
            Form::Bytes => None,
            Form::Plain | Form::Float | Form::Json => {
                std::str::from_utf8(value).ok().map(str::to_owned)
            }
        };
        text.unwrap_or_else(|| {
            let hex: Vec<String> = value.iter().map(|byte| format!("{byte:02X}")).collect();
            format!("0x{}", hex.concat())
        })
    }
}

/// A column of both sides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Column {
    pub name: String,
    pub form: Form,
    /// Its value; of the source, of the target.
    pub select: [String; 2],
    /// Text that is never NULL, and another one for every other value: for hashes.
    pub hashed: [String; 2],
    /// Its value may come as a hash instead.
    pub is_long: bool,
}

/// Types by what they hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Integer,
    Decimal,
    Float,
    Time,
    Text,
    Bytes,
    Label,
    Address,
    Json,
}

fn class(column: &ColumnInfo) -> Class {
    match column.data_type.as_str() {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "bit" | "year" => Class::Integer,
        "decimal" => Class::Decimal,
        "float" | "double" => Class::Float,
        "date" | "datetime" | "timestamp" | "time" => Class::Time,
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => Class::Text,
        "enum" | "set" => Class::Label,
        "uuid" | "inet4" | "inet6" => Class::Address,
        "json" => Class::Json,
        // Binary strings, geometries, vectors.
        _ => Class::Bytes,
    }
}

/// Whether values may be longer than what a row can hold by itself.
fn is_long(column: &ColumnInfo) -> bool {
    let kind = column.data_type.as_str();
    let is_short = matches!(kind, "binary" | "varbinary" | "char" | "varchar");
    matches!(class(column), Class::Text | Class::Bytes | Class::Json) && !is_short
}

fn charset(column: &ColumnInfo) -> Option<String> {
    canonical_name(column.charset.as_deref())
}

/// What is compared of a column.
pub(super) fn column(source: &ColumnInfo, target: &ColumnInfo) -> Column {
    let name = source.name.clone();
    let quoted = identifier(&name);
    let both = [source, target];
    let classes = both.map(class);
    let charsets = both.map(charset);
    let of_known = charsets[0].as_deref().and_then(Charset::by_name);
    let converted = format!("CAST(CONVERT({quoted} USING utf8mb4) AS BINARY)");
    let stored = format!("CAST({quoted} AS BINARY)");
    let plain = |expression: String| (Form::Plain, [expression.clone(), expression]);
    let (form, value) = match classes {
        [Class::Integer, Class::Integer] => {
            let number = |column: &ColumnInfo| {
                let is_unsigned =
                    column.is_unsigned() || matches!(column.data_type.as_str(), "bit" | "year");
                let to = if is_unsigned { "UNSIGNED" } else { "SIGNED" };
                format!("CAST({quoted} AS {to})")
            };
            (Form::Plain, both.map(number))
        }
        // Without the zeros in front; a sum of the widest DECIMAL would lose digits, so only there.
        [Class::Decimal, Class::Decimal]
            if both.iter().any(|column| column.column_type.contains("zerofill")) =>
        {
            plain(format!("({quoted} + 0)"))
        }
        [Class::Decimal, Class::Decimal] => plain(quoted.clone()),
        [Class::Float, Class::Float] => {
            let exact = format!("CAST({quoted} AS DOUBLE)");
            (Form::Float, [exact.clone(), exact])
        }
        [Class::Time, Class::Time] => plain(quoted.clone()),
        [Class::Address, Class::Address] => plain(format!("CAST({quoted} AS CHAR)")),
        [Class::Json, Class::Json | Class::Text] | [Class::Text, Class::Json] => {
            (Form::Json, [converted.clone(), converted])
        }
        [Class::Label, Class::Label] => {
            let label = if charsets[0] == charsets[1] { &stored } else { &converted };
            let text = format!("CONCAT(CAST({quoted} AS UNSIGNED), ':', {label})");
            (Form::Text(Charset::Utf8mb4), [text.clone(), text])
        }
        [Class::Bytes, _] | [_, Class::Bytes] => (Form::Bytes, [stored.clone(), stored]),
        [Class::Text, Class::Text] if charsets[0] == charsets[1] => {
            (of_known.map_or(Form::Bytes, Form::Text), [stored.clone(), stored])
        }
        _ => (Form::Text(Charset::Utf8mb4), [converted.clone(), converted]),
    };
    let long = both.map(is_long);
    let at = [0, 1];
    let has_separators = !matches!(form, Form::Plain | Form::Float);
    let hashed = at.map(|at| {
        let value = &value[at];
        match (long.contains(&true), has_separators) {
            // Not IFNULL: what does not fit into a packet becomes NULL, and has to be noticed.
            (true, _) => format!("IF({quoted} IS NULL, '-', SHA2({value}, 256))"),
            _ if form == Form::Float => format!("JSON_ARRAY({value})"),
            (false, true) => format!("IFNULL(CONCAT(LENGTH({value}), ':', {value}), '-')"),
            (false, false) => format!("IFNULL({value}, '-')"),
        }
    });
    // JSON is judged here, and whole.
    let select = match long.contains(&true) && form != Form::Json {
        true => value.map(|value| {
            format!(
                "IF({quoted} IS NULL, NULL, IF(LENGTH({value}) > {LONG}, \
                 CONCAT('#', LENGTH({value}), ':', SHA2({value}, 256)), CONCAT('=', {value})))"
            )
        }),
        false => value,
    };
    let is_long = long.contains(&true) && form != Form::Json;
    Column { name, form, select, hashed, is_long }
}

/// Whether both sides put values of the column in the same order.
pub(super) fn is_ordered_alike(
    source: &ColumnInfo,
    target: &ColumnInfo,
    servers: [&decoders::mysql::server::Server; 2],
) -> bool {
    let collations = [source, target].map(|column| canonical_name(column.collation.as_deref()));
    if source.data_type != target.data_type || collations[0] != collations[1] {
        return false;
    }
    let same_family = servers[0].flavor == servers[1].flavor;
    match source.data_type.as_str() {
        "char" | "varchar" => {
            // Collations of one family keep their order under one name; between the families only
            // that of the bytes is the same.
            same_family || collations[0].as_deref().is_some_and(|name| name.ends_with("_bin"))
        }
        "uuid" => {
            servers[0].number == servers[1].number || servers.iter().all(|s| by_time(s.number))
        }
        _ => true,
    }
}

/// MDEV-29959: UUIDs are ordered in another way since these versions of MariaDB.
fn by_time((major, minor, patch): (u16, u16, u16)) -> bool {
    match (major, minor) {
        (10, 10) => patch >= 6,
        (10, 11) => patch >= 5,
        (11, 0) => patch >= 3,
        (11, 1) => patch >= 2,
        _ => major > 10,
    }
}

/// What is not a row's own: expressions that give another value to everybody who asks, and the times
/// at which a server noted its own changes.
pub(super) fn is_comparable(column: &ColumnInfo) -> bool {
    const OWN: [&str; 2] = ["ROW START", "ROW END"];
    // Only what is computed on reading may be made of these.
    const MOMENTARY: [&str; 15] = [
        "now(",
        "current_timestamp",
        "sysdate",
        "curdate",
        "current_date",
        "curtime",
        "current_time",
        "rand(",
        "uuid",
        "connection_id",
        "user(",
        "current_user",
        "current_role",
        "version()",
        "@@",
    ];
    let Some((stored, expression)) = &column.generated else { return true };
    let is_momentary = || {
        let expression = expression.to_ascii_lowercase();
        MOMENTARY.iter().any(|word| expression.contains(word))
    };
    match stored {
        GeneratedAs::Stored => !OWN.iter().any(|own| expression.eq_ignore_ascii_case(own)),
        GeneratedAs::Virtual => !is_momentary(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_judged_by_what_they_mean() {
        let same = |form: Form, one: &str, other: &str| {
            form.is_same(Some(one.as_bytes()), Some(other.as_bytes()))
        };
        assert!(same(Form::Float, "1e16", "10000000000000000"));
        assert!(!same(Form::Float, "-1.0000000031710769e-30", "-1.000000003171077e-30"));
        assert!(!same(Form::Float, "0.1", "0.10000000000000002"));
        assert!(!same(Form::Float, "0", "-0"));
        assert!(!same(Form::Plain, "1.0", "1.00"));
        assert!(!same(Form::Text(Charset::Utf8mb4), "a", "a "));
        assert!(Form::Bytes.is_same(None, None) && !Form::Bytes.is_same(None, Some(b"")));
    }

    #[test]
    fn keys_are_shown_to_people() {
        assert_eq!(Form::Text(Charset::Utf8mb4).shown("ä".as_bytes()), "ä");
        assert_eq!(Form::Bytes.shown(b"\x00\xff"), "0x00FF");
        assert_eq!(Form::Text(Charset::Utf8mb4).shown(b"\xff"), "0xFF", "no text at all");
    }
}
