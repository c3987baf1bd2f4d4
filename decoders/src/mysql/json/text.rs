//! JSON as the server prints it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Json;
use crate::mysql::value::{append, number};

impl Json {
    /// Appends the text that SELECT gives, byte for byte (`Json_wrapper::to_string`).
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Json::Null => out.extend_from_slice(b"null"),
            Json::Bool(true) => out.extend_from_slice(b"true"),
            Json::Bool(false) => out.extend_from_slice(b"false"),
            Json::Signed(value) => number::decimal(out, value.unsigned_abs(), *value < 0),
            Json::Unsigned(value) => number::decimal(out, *value, false),
            Json::Double(value) => double(out, *value),
            Json::Decimal(text) => out.extend_from_slice(text.as_bytes()),
            Json::String(text) => quoted(out, text),
            Json::Temporal(text) => append(out, &format_args!("\"{text}\"")),
            Json::Opaque(field_type, bytes) => {
                let bytes = STANDARD.encode(bytes);
                append(out, &format_args!("\"base64:type{field_type}:{bytes}\""));
            }
            Json::Array(items) => {
                out.push(b'[');
                for (at, item) in items.iter().enumerate() {
                    separate(out, at);
                    item.write(out);
                }
                out.push(b']');
            }
            Json::Object(members) => {
                out.push(b'{');
                for (at, (key, member)) in members.iter().enumerate() {
                    separate(out, at);
                    quoted(out, key);
                    out.extend_from_slice(b": ");
                    member.write(out);
                }
                out.push(b'}');
            }
        }
    }
}

/// Whether MySQL, reading this number in a JSON text, keeps one that it prints like that. It reads
/// integers up to 64 bits as such and everything else as doubles; its exact decimals it only prints.
pub fn prints_as_parsed(number: &str) -> bool {
    if number.parse::<i64>().is_ok_and(|value| value.to_string() == number)
        || number.parse::<u64>().is_ok_and(|value| value.to_string() == number)
    {
        return true;
    }
    let Ok(value) = number.parse::<f64>() else { return false };
    let mut printed = Vec::new();
    double(&mut printed, value);
    printed == number.as_bytes()
}

fn separate(out: &mut Vec<u8>, at: usize) {
    if at > 0 {
        out.extend_from_slice(b", ");
    }
}

/// A double keeps a mark of its type: `1.0`, not `1`.
fn double(out: &mut Vec<u8>, value: f64) {
    let start = out.len();
    number::double(out, value);
    if !out[start..].iter().any(|byte| matches!(byte, b'.' | b'e')) {
        out.extend_from_slice(b".0");
    }
}

/// Text in quotes. Only what must be escaped is.
fn quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0C => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control @ 0..0x20 => append(out, &format_args!("\\u{control:04x}")),
            other => out.push(other),
        }
    }
    out.push(b'"');
}
