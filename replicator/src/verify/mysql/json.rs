//! JSON as a value: MySQL keeps it parsed and prints it in its own way, MariaDB keeps the text.
//!
//! Keys in the order of their bytes, the last of several with one name (as both families take it), no
//! space, strings without needless escapes, whole numbers by their digits, others by their bits. What
//! MySQL can't keep apart is not told apart: a whole number beyond 64 bits is a DOUBLE there.
//!
//! `serde_json` reads numbers into a form that loses the last bit or the kind, depending on features
//! that other crates turn on: numbers are read here.

use std::collections::BTreeMap;

/// Deeper than either server allows (100 and 32).
const MOST_DEPTH: usize = 200;

/// The value in one form; `None` if this is no JSON.
pub(super) fn canonical(text: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader { rest: std::str::from_utf8(text).ok()? };
    let mut out = Vec::with_capacity(text.len());
    reader.value(&mut out, 0)?;
    reader.space();
    reader.rest.is_empty().then_some(out)
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn takes(&mut self, token: &str) -> bool {
        self.space();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn value(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        if depth > MOST_DEPTH {
            return None;
        }
        self.space();
        match self.rest.as_bytes().first()? {
            b'{' => self.object(out, depth),
            b'[' => self.array(out, depth),
            b'"' => {
                let text = self.string()?;
                quote(out, &text);
                Some(())
            }
            b'-' | b'0'..=b'9' => self.number(out),
            _ => {
                let word = ["null", "true", "false"].into_iter().find(|word| self.takes(word))?;
                out.extend_from_slice(word.as_bytes());
                Some(())
            }
        }
    }

    fn object(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        let mut members = BTreeMap::new();
        self.takes("{").then_some(())?;
        if !self.takes("}") {
            loop {
                self.space();
                let name = self.string()?;
                self.takes(":").then_some(())?;
                let mut value = Vec::new();
                self.value(&mut value, depth + 1)?;
                members.insert(name, value);
                if !self.takes(",") {
                    break;
                }
            }
            self.takes("}").then_some(())?;
        }
        out.push(b'{');
        for (name, value) in members {
            quote(out, &name);
            out.push(b':');
            out.extend_from_slice(&value);
            out.push(b',');
        }
        out.push(b'}');
        Some(())
    }

    fn array(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        self.takes("[").then_some(())?;
        out.push(b'[');
        if !self.takes("]") {
            loop {
                self.value(out, depth + 1)?;
                out.push(b',');
                if !self.takes(",") {
                    break;
                }
            }
            self.takes("]").then_some(())?;
        }
        out.push(b']');
        Some(())
    }

    fn number(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let is_part = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        match (digits.parse::<i64>(), digits.parse::<u64>()) {
            // A whole number without its sign is no -0.
            (Ok(whole), _) if digits != "-0" => out.extend_from_slice(whole.to_string().as_bytes()),
            (_, Ok(whole)) => out.extend_from_slice(whole.to_string().as_bytes()),
            _ => {
                let bits = digits.parse::<f64>().ok()?.to_bits();
                out.extend_from_slice(format!("#{bits:016x}").as_bytes());
            }
        }
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        let mut text = String::new();
        self.rest = self.rest.strip_prefix('"')?;
        loop {
            let at = self.rest.find(['"', '\\'])?;
            text.push_str(&self.rest[..at]);
            let is_end = self.rest.as_bytes()[at] == b'"';
            self.rest = &self.rest[at + 1..];
            if is_end {
                return Some(text);
            }
            text.push(self.escaped()?);
        }
    }

    /// What stands behind a backslash.
    fn escaped(&mut self) -> Option<char> {
        let escape = self.rest.chars().next()?;
        self.rest = &self.rest[escape.len_utf8()..];
        Some(match escape {
            '"' | '\\' | '/' => escape,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let first = self.unit()?;
                if !(0xd800..0xdc00).contains(&first) {
                    return char::from_u32(first);
                }
                self.rest = self.rest.strip_prefix("\\u")?;
                let second = self.unit()?;
                let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                return char::from_u32(0x10000 + ((first - 0xd800) << 10) + low);
            }
            _ => return None,
        })
    }

    fn unit(&mut self) -> Option<u32> {
        let digits = self.rest.get(..4)?;
        self.rest = &self.rest[4..];
        u32::from_str_radix(digits, 16).ok()
    }
}

fn quote(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(one: &str, other: &str) -> bool {
        let both = [one, other].map(|text| canonical(text.as_bytes()).expect("JSON"));
        both[0] == both[1]
    }

    #[test]
    fn texts_of_one_value_are_the_same() {
        assert!(same(r#"{"b": 1, "a" : [1.0, null]}"#, r#"{"a": [1.0, null], "b": 1}"#));
        assert!(same(r#"{"a": 1, "a": 2}"#, r#"{"a":2}"#));
        assert!(same(r#""\u00e4\ud83d\ude00\/""#, r#""ä😀/""#));
        assert!(same("1.10", "1.1") && same("1e2", "100.0") && same("-0.0", "-0"));
        assert!(same("123456789012345678901234", "1.2345678901234568e23"));
        assert!(same("18446744073709551615", " 18446744073709551615 "));
    }

    #[test]
    fn other_values_are_not() {
        assert!(!same("1", "1.0") && !same("0.1", "0.10000000000000002"));
        assert!(!same("9007199254740993", "9007199254740992"));
        assert!(!same(r#"["a,b"]"#, r#"["a","b"]"#) && !same("[]", "{}"));
        assert!(!same(r#"["1"]"#, "[1]") && !same("[[1],2]", "[[1,2]]"));
        assert!(!same(r#"{"a":"b\",\"c"}"#, r#"{"a":"b","c":""}"#));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in ["", "{", "[1,]", "{\"a\" 1}", "\"\\ud800\"", "nul", "1 2", "\"a"] {
            assert_eq!(canonical(text.as_bytes()), None, "{text}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(canonical(deep.as_bytes()), None);
    }
}
