//! Rows by the keys that a report shows.
//!
//! A key is text for people there, and has to find its row again. What it finds is matched by the same
//! text, so a key that finds too much, as collations do, does no harm.

use decoders::mysql::catalog::ColumnInfo;
use decoders::mysql::server::{identifier, literal};

use super::canonical::Form;
use super::plan::TablePlan;
use super::side::ByteRow;

/// A key, a text for each of its columns.
pub(super) type Key = Vec<String>;

/// What a key is matched by: the same for the same key, whichever server has printed it.
pub(super) fn identity(plan: &TablePlan, key: &[String]) -> Vec<Vec<u8>> {
    let part = |(column, text): (&super::canonical::Column, &String)| match column.form {
        Form::Float => column.form.canonical(text.as_bytes()).into_owned(),
        _ => text.clone().into_bytes(),
    };
    plan.key().iter().zip(key).map(part).collect()
}

/// The key of a row as [`TablePlan`] selects it.
pub(super) fn key_of(plan: &TablePlan, row: &ByteRow) -> Key {
    let part = |(column, value): (&super::canonical::Column, &Option<Vec<u8>>)| {
        value.as_deref().map_or("NULL".to_owned(), |value| column.form.shown(value))
    };
    plan.key().iter().zip(row).map(part).collect()
}

/// A condition that finds at least the rows with these keys. `None`: a key is none of its column's type.
pub(super) fn condition(plan: &TablePlan, keys: &[Key]) -> Option<String> {
    let columns: Vec<&ColumnInfo> =
        plan.key().iter().map(|part| plan.info.column(&part.name)).collect::<Option<_>>()?;
    let each = keys.iter().map(|key| {
        let parts = columns.iter().zip(plan.key()).zip(key);
        let parts = parts
            .map(|((column, part), text)| equal(&column.name, &column.data_type, part.form, text));
        let parts: Vec<String> = parts.collect::<Option<_>>()?;
        Some(format!("({})", parts.join(" AND ")))
    });
    let each: Vec<String> = each.collect::<Option<_>>()?;
    Some(format!("({})", each.join(" OR ")))
}

/// The same for keys as the stream has them.
pub(super) fn written(plan: &TablePlan, keys: &[Key]) -> Option<String> {
    let columns: Vec<&ColumnInfo> =
        plan.key().iter().map(|part| plan.info.column(&part.name)).collect::<Option<_>>()?;
    let each = keys.iter().map(|key| {
        let parts = columns.iter().zip(plan.key()).zip(key);
        let parts = parts.map(|((column, part), text)| {
            let form = if is_binary(&column.data_type) { Form::Bytes } else { part.form };
            as_shown(&column.data_type, text)
                .and_then(|text| equal(&column.name, &column.data_type, form, &text))
        });
        let parts: Vec<String> = parts.collect::<Option<_>>()?;
        Some(format!("({})", parts.join(" AND ")))
    });
    let each: Vec<String> = each.collect::<Option<_>>()?;
    Some(format!("({})", each.join(" OR ")))
}

fn is_binary(data_type: &str) -> bool {
    matches!(data_type, "binary" | "varbinary") || data_type.ends_with("blob")
}

/// The stream's text of a key column as a report shows it, as far as [`equal`] asks for it.
fn as_shown(data_type: &str, text: &str) -> Option<String> {
    Some(match data_type {
        "bit" => u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()?.to_string(),
        // The stream has the digits of the single; it is compared as the double that it is.
        "float" => format!("{:e}", f64::from(text.parse::<f32>().ok()?)),
        // An index is not looked at.
        "enum" | "set" => format!(":{text}"),
        _ => text.to_owned(),
    })
}

fn equal(column: &str, data_type: &str, form: Form, text: &str) -> Option<String> {
    let name = identifier(column);
    let is_number = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b"-.e".contains(&b))
    };
    let number = |text: &str| is_number(text).then(|| format!("{name} = {text}"));
    match data_type {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "bit" | "year" | "decimal" => {
            number(text)
        }
        // A literal with an exponent is a DOUBLE; without one it would be an exact number.
        "float" | "double" if text.contains('e') => number(text),
        "float" | "double" => number(text).map(|equal| format!("{equal}e0")),
        // Behind the index, or the bits.
        "enum" | "set" => {
            let (_, label) = text.split_once(':')?;
            Some(format!("{name} = {}", literal(label)))
        }
        _ => {
            let as_text = format!("{name} = {}", literal(text));
            let hex = text.strip_prefix("0x").filter(|hex| is_hex(hex));
            match (form, hex) {
                (Form::Bytes, hex) => hex.map(|hex| format!("{name} = x'{hex}'")),
                // Text that is none in its character set is shown like this as well.
                (Form::Text(_), Some(hex)) => {
                    Some(format!("({as_text} OR CAST({name} AS BINARY) = x'{hex}')"))
                }
                _ => Some(as_text),
            }
        }
    }
}

fn is_hex(text: &str) -> bool {
    text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use decoders::mysql::charset::Charset;

    use super::*;

    #[test]
    fn a_key_finds_its_row_and_is_no_statement() {
        let text = Form::Text(Charset::Utf8mb4);
        for (kind, form, key, expected) in [
            ("int", Form::Plain, "-7", Some("`k` = -7")),
            ("bigint", Form::Plain, "1 OR 1", None),
            ("double", Form::Float, "0.1", Some("`k` = 0.1e0")),
            ("double", Form::Float, "1e-300", Some("`k` = 1e-300")),
            ("varchar", text, "it's \\", Some("`k` = 'it''s \\\\'")),
            ("varchar", text, "0xFF", Some("(`k` = '0xFF' OR CAST(`k` AS BINARY) = x'FF')")),
            ("varbinary", Form::Bytes, "0x00FF", Some("`k` = x'00FF'")),
            ("varbinary", Form::Bytes, "0x'", None),
            ("enum", text, "3:c:d", Some("`k` = 'c:d'")),
            ("enum", text, "0xFF", None),
            ("datetime", Form::Plain, "0000-00-00 00:00:00", Some("`k` = '0000-00-00 00:00:00'")),
        ] {
            let found = equal("k", kind, form, key);
            assert_eq!(found.as_deref(), expected, "{kind} {key}");
        }
    }

    #[test]
    fn keys_of_the_stream_are_asked_for_as_they_are_shown() {
        for (kind, text, expected) in [
            ("bit", "0x0102", Some("258")),
            ("bit", "2", None),
            ("float", "0.1", Some("1.0000000149011612e-1")),
            ("enum", "a:b", Some(":a:b")),
            ("varchar", "0x0102", Some("0x0102")),
        ] {
            assert_eq!(as_shown(kind, text).as_deref(), expected, "{kind} {text}");
        }
        assert!(is_binary("longblob") && is_binary("varbinary") && !is_binary("varchar"));
    }
}
