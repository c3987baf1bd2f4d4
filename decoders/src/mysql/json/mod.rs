//! MySQL's binary JSON: read, changed by differences, written as the server writes it.

mod binary;
mod difference;
mod path;
mod text;

pub(super) use binary::read;
pub(super) use difference::patched;
pub use text::prints_as_parsed;

/// The nesting that the server allows (`JSON_DOCUMENT_MAX_DEPTH`).
const MOST_DEPTH: usize = 100;

/// A JSON value with MySQL's own scalars.
#[derive(Clone, PartialEq, Debug)]
pub enum Json {
    /// `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// An integer.
    Signed(i64),
    /// An integer beyond i64.
    Unsigned(u64),
    /// A floating-point number.
    Double(f64),
    /// A decimal number with all its digits, as text.
    Decimal(String),
    /// Text.
    String(String),
    /// A date or time, as text.
    Temporal(String),
    /// A value of another SQL type: type code and bytes.
    Opaque(u8, Vec<u8>),
    /// An array.
    Array(Vec<Json>),
    /// An object, its keys in the server's order: by length, then by bytes.
    Object(Vec<(String, Json)>),
}
