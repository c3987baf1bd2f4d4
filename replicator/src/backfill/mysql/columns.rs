//! How a column's values travel: what blue is asked for, and how green is told.
//!
//! Both sessions speak in bytes (`character_set_results = NULL` on blue, `SET NAMES binary` on
//! green), so text arrives as it is stored, whatever its character set, and even if it is not valid
//! in it. What has no exact text is asked for in another way.

use decoders::mysql::catalog::{ColumnInfo, TableInfo};
use decoders::mysql::server::identifier;
use sinks::mysql::json_expression;

/// How a value stands in a statement for green.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// As it is: digits, sign and point.
    Number,
    /// The index of an ENUM's label. 0 is a value that was refused, which a strict server takes for
    /// an error.
    EnumIndex,
    /// Bytes in quotation marks.
    Bytes,
    /// JSON of MySQL: bytes that are said to be UTF-8, because it is not made of binary strings, or an
    /// expression where the text would be read as another value.
    Json,
    /// Bytes that are said to be Latin-1: UUID and addresses of MariaDB take binary strings for
    /// their stored form.
    Ascii,
}

/// A column that is copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CopiedColumn {
    /// What blue is asked for.
    pub select: String,
    /// Its name, quoted.
    pub name: String,
    pub form: Form,
}

/// The columns of a table that are copied: all but generated ones, invisible ones too.
pub(super) fn columns(table: &TableInfo) -> Vec<CopiedColumn> {
    table.copied_columns().map(copied).collect()
}

fn copied(column: &ColumnInfo) -> CopiedColumn {
    let name = identifier(&column.name);
    let (select, form) = match column.data_type.as_str() {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" => {
            (name.clone(), Form::Number)
        }
        // The text of a FLOAT has six digits; that of a DOUBLE as many as it needs.
        "float" | "double" => (format!("CAST({name} AS DOUBLE)"), Form::Bytes),
        "bit" | "set" => (format!("CAST({name} AS UNSIGNED)"), Form::Number),
        "enum" => (format!("CAST({name} AS UNSIGNED)"), Form::EnumIndex),
        "json" => (name.clone(), Form::Json),
        "uuid" | "inet4" | "inet6" => (name.clone(), Form::Ascii),
        // Texts, bytes, times, geometries and vectors.
        _ => (name.clone(), Form::Bytes),
    };
    CopiedColumn { select, name, form }
}

impl CopiedColumn {
    /// A place for a value that is sent apart from the statement, as text or bytes.
    pub(super) fn placeholder(&self) -> &'static str {
        match self.form {
            Form::Number | Form::Bytes => "?",
            Form::EnumIndex => "CAST(? AS UNSIGNED)",
            Form::Json => "CONVERT(? USING utf8mb4)",
            Form::Ascii => "CONVERT(? USING latin1)",
        }
    }
}

/// Writes a value into a statement. `None` is NULL.
pub(super) fn write(out: &mut Vec<u8>, form: Form, value: Option<&[u8]>) {
    let Some(value) = value else {
        out.extend_from_slice(b"NULL");
        return;
    };
    match form {
        Form::Number | Form::EnumIndex => out.extend_from_slice(value),
        Form::Json => match document(value) {
            Some(expression) => out.extend_from_slice(&expression),
            None => utf8(out, value),
        },
        Form::Bytes => quote(out, value),
        Form::Ascii => {
            out.extend_from_slice(b"_latin1");
            quote(out, value);
        }
    }
}

/// An expression that gives the document with this text, if the text itself would give another one: exact
/// decimals would become doubles.
pub(super) fn document(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    json_expression(text, &|out: &mut Vec<u8>, text: &str| utf8(out, text.as_bytes()))
}

fn utf8(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(b"_utf8mb4");
    quote(out, value);
}

fn quote(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b'\'');
    let mut rest = value;
    // The session's sql_mode has no NO_BACKSLASH_ESCAPES, and its character set no byte that is
    // a part of another character.
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\'' | b'\\')) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[b'\\', rest[at]]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_bytes() {
        let written = |form, value: Option<&[u8]>| {
            let mut out = Vec::new();
            write(&mut out, form, value);
            out
        };
        assert_eq!(written(Form::Bytes, Some(b"a'b\\c\0\xff")), b"'a\\'b\\\\c\0\xff'");
        assert_eq!(written(Form::Bytes, Some(b"")), b"''");
        assert_eq!(written(Form::Json, Some(b"{}")), b"_utf8mb4'{}'");
        assert_eq!(written(Form::Json, Some(b"[1.5, \"a'b\"]")), b"_utf8mb4'[1.5, \"a\\'b\"]'");
        assert_eq!(written(Form::Number, Some(b"-7")), b"-7");
        assert_eq!(written(Form::Number, None), b"NULL");
    }

    #[test]
    fn decimals_in_documents_stay_exact() {
        let mut out = Vec::new();
        write(&mut out, Form::Json, Some(br#"{"price": 1.50}"#));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "CAST(JSON_OBJECT(JSON_UNQUOTE(_utf8mb4'\"price\"'),CAST(1.50 AS DECIMAL(3,2))) AS JSON)"
        );
    }
}
