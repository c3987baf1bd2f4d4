//! JSON of MySQL whose text alone would not give the same value back.
//!
//! MySQL's JSON can hold exact decimals (`JSON_OBJECT('price', price)`), and prints them with all
//! their digits: `1.50`. The same text read as JSON is a double: `1.5`. Numbers that a double or an
//! integer would not print like that are therefore decimals, and such a document is built by
//! functions. What the text can't tell (a decimal `1.5`, a date inside of a document) becomes a
//! double or a string that prints the same.

use decoders::mysql::json::prints_as_parsed;

/// An expression that gives the document with this text; `None` if the text itself does.
///
/// `quote` appends a text as an SQL literal. The text is one that the server printed.
pub fn expression(text: &str, quote: &impl Fn(&mut Vec<u8>, &str)) -> Option<Vec<u8>> {
    if !numbers(text).any(|number| !prints_as_parsed(number)) {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() * 2);
    let mut reader = Reader { text, at: 0 };
    reader.value(&mut out, quote);
    // A document, also where the outermost function gives an SQL value.
    let mut document = b"CAST(".to_vec();
    document.append(&mut out);
    document.extend_from_slice(b" AS JSON)");
    Some(document)
}

/// The numbers outside of strings.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let at = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit())?;
            rest = &rest[at..];
            let end = match rest.starts_with('"') {
                true => string_end(rest),
                false => number_end(rest),
            };
            let (token, behind) = rest.split_at(end);
            rest = behind;
            if !token.starts_with('"') {
                return Some(token);
            }
        }
    })
}

fn number_end(text: &str) -> usize {
    let is_part = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
    text.find(|c| !is_part(c)).unwrap_or(text.len())
}

/// Behind the quote that ends the string which `text` begins with.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn peek(&mut self) -> u8 {
        let rest = self.text.as_bytes();
        while rest.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
        rest.get(self.at).copied().unwrap_or(b'n')
    }

    fn take(&mut self, end: usize) -> &'t str {
        let token = &self.text[self.at..self.at + end];
        self.at += end;
        token
    }

    /// An SQL expression of the next value: a document, or an SQL value that becomes one.
    fn value(&mut self, out: &mut Vec<u8>, quote: &impl Fn(&mut Vec<u8>, &str)) {
        match self.peek() {
            b'{' => self.list(out, quote, b'}', true),
            b'[' => self.list(out, quote, b']', false),
            b'"' => {
                let end = string_end(&self.text[self.at..]);
                document(out, self.take(end), quote);
            }
            b'-' | b'0'..=b'9' => {
                let end = number_end(&self.text[self.at..]);
                let number = self.take(end);
                match prints_as_parsed(number) {
                    true => document(out, number, quote),
                    false => decimal(out, number),
                }
            }
            _ => {
                let rest = &self.text[self.at..];
                let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
                // Never nothing, or a text that is none would be read for ever.
                let word = self.take(end.max(1).min(rest.len()));
                document(out, word, quote);
            }
        }
    }

    fn list(
        &mut self,
        out: &mut Vec<u8>,
        quote: &impl Fn(&mut Vec<u8>, &str),
        end: u8,
        is_object: bool,
    ) {
        out.extend_from_slice(if is_object { b"JSON_OBJECT(" } else { b"JSON_ARRAY(" });
        self.at += 1;
        let mut first = true;
        while self.at < self.text.len() && self.peek() != end {
            if !first {
                out.push(b',');
            }
            first = false;
            if is_object {
                let key_end = string_end(&self.text[self.at..]);
                let key = self.take(key_end);
                out.extend_from_slice(b"JSON_UNQUOTE(");
                quote(out, key);
                out.extend_from_slice(b"),");
                if self.peek() == b':' {
                    self.at += 1;
                }
            }
            self.value(out, quote);
            if self.peek() == b',' {
                self.at += 1;
                self.peek();
            }
        }
        self.at = (self.at + 1).min(self.text.len());
        out.push(b')');
    }
}

fn document(out: &mut Vec<u8>, text: &str, quote: &impl Fn(&mut Vec<u8>, &str)) {
    out.extend_from_slice(b"CAST(");
    quote(out, text);
    out.extend_from_slice(b" AS JSON)");
}

/// With as many digits before and behind the point as are printed.
fn decimal(out: &mut Vec<u8>, number: &str) {
    let digits = number.trim_start_matches('-');
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = fraction.len();
    let precision = (whole.trim_start_matches('0').len() + scale).max(1);
    let cast = format!("CAST({number} AS DECIMAL({precision},{scale}))");
    out.extend_from_slice(cast.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quote(out: &mut Vec<u8>, text: &str) {
        out.extend_from_slice(format!("'{text}'").as_bytes());
    }

    fn built(text: &str) -> Option<String> {
        expression(text, &quote).map(|sql| String::from_utf8(sql).unwrap())
    }

    #[test]
    fn documents_without_decimals_are_their_text() {
        for text in
            ["null", "[1, -2.5, 1e30, 0.1, 18446744073709551615]", r#"{"1.50": "1.50"}"#, "1.0"]
        {
            assert_eq!(built(text), None, "{text}");
        }
    }

    #[test]
    fn decimals_keep_their_digits() {
        assert_eq!(built("1.50").unwrap(), "CAST(CAST(1.50 AS DECIMAL(3,2)) AS JSON)");
        assert_eq!(
            built(r#"{"a": [0.000, true], "b\"": "x"}"#).unwrap(),
            r#"CAST(JSON_OBJECT(JSON_UNQUOTE('"a"'),JSON_ARRAY(CAST(0.000 AS DECIMAL(3,3)),CAST('true' AS JSON)),JSON_UNQUOTE('"b\""'),CAST('"x"' AS JSON)) AS JSON)"#
        );
        assert_eq!(
            built("[-12345678901234567890]").unwrap(),
            "CAST(JSON_ARRAY(CAST(-12345678901234567890 AS DECIMAL(20,0))) AS JSON)"
        );
        assert_eq!(
            built("[[], {}, 2.00]").unwrap(),
            "CAST(JSON_ARRAY(JSON_ARRAY(),JSON_OBJECT(),CAST(2.00 AS DECIMAL(3,2))) AS JSON)"
        );
    }
}
