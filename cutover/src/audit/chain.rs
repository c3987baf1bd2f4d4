//! The chain of hashes. Pure.
//!
//! A line is one JSON object in ASCII. Its last field is `hash`, SHA-256 over the bytes of the line
//! before that field; among those is `prev`, the hash of the line before. So a line that is changed,
//! taken out or put in breaks the chain there, and whoever wants to hide it has to write everything
//! behind it anew.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// `prev` of the first line.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Between a line's body and its hash.
const HASH_FIELD: &str = ",\"hash\":\"";
/// Behind it.
const END: &str = "\"}";
const HASH_LEN: usize = 64;

/// Where a chain ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tip {
    /// Number of the last line; 0: there is none.
    pub number: u64,
    /// Its hash.
    pub hash: String,
}

impl Default for Tip {
    fn default() -> Self {
        Self { number: 0, hash: GENESIS.into() }
    }
}

/// What every line has, whatever else it says.
#[derive(Debug, Deserialize)]
struct Link {
    number: u64,
    prev: String,
}

/// A line that breaks the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// Which line of the text, from 1.
    pub line: u64,
    /// Why, a sentence.
    pub why: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

/// What following a chain has shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Followed {
    /// Lines that are whole and in their place.
    pub lines: u64,
    /// The last of them.
    pub tip: Tip,
    /// The first line that is not; nothing behind it was looked at.
    pub broken: Option<Broken>,
}

/// Closes the JSON object `body`, which ends with its last field and `}`, with its hash.
pub fn sealed(body: &str) -> (String, String) {
    let open = ascii(body.strip_suffix('}').unwrap_or(body));
    let hash = hash_of(&open);
    (format!("{open}{HASH_FIELD}{hash}{END}"), hash)
}

/// The same JSON without a character beyond ASCII: they only occur within strings, where each can
/// be written as an escape. A terminal or a transport that changes characters can't break a line.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

fn hash_of(open: &str) -> String {
    Sha256::digest(open).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether `line` is whole and follows `tip`; its own place in the chain then.
pub fn follow(tip: &Tip, line: &str) -> Result<Tip, String> {
    let whole = || {
        let rest = line.strip_suffix(END)?;
        let (open, hash) = rest.split_at_checked(rest.len().checked_sub(HASH_LEN)?)?;
        Some((open.strip_suffix(HASH_FIELD)?, hash))
    };
    let (open, hash) = whole().ok_or("it does not end with a hash")?;
    if hash_of(open) != hash {
        return Err("its hash is not that of its text: it was changed".into());
    }
    let link: Link = serde_json::from_str(line).map_err(|error| format!("no JSON: {error}"))?;
    if link.prev != tip.hash {
        return Err("it does not follow the line before: lines were taken out or put in".into());
    }
    if link.number != tip.number + 1 {
        return Err(format!("it is number {}, after {}", link.number, tip.number));
    }
    Ok(Tip { number: link.number, hash: hash.into() })
}

/// Follows all lines, up to the first that breaks the chain.
pub fn follow_all<'a>(lines: impl IntoIterator<Item = &'a str>) -> Followed {
    let mut followed = Followed::default();
    for line in lines {
        match follow(&followed.tip, line) {
            Ok(tip) => followed.tip = tip,
            Err(why) => {
                followed.broken = Some(Broken { line: followed.lines + 1, why });
                break;
            }
        }
        followed.lines += 1;
    }
    followed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chain(texts: &[String]) -> Vec<String> {
        let mut tip = Tip::default();
        let mut lines = Vec::new();
        for text in texts {
            let number = tip.number + 1;
            let body = serde_json::json!({ "number": number, "what": text, "prev": tip.hash });
            let (line, hash) = sealed(&body.to_string());
            lines.push(line);
            tip = Tip { number, hash };
        }
        lines
    }

    fn broken(lines: &[String]) -> Option<u64> {
        follow_all(lines.iter().map(String::as_str)).broken.map(|broken| broken.line)
    }

    #[test]
    fn every_tampering_is_told_at_its_line() {
        let texts: Vec<String> = (0..5).map(|n| format!("größe {n} \u{1f980} \u{9b}")).collect();
        let whole = chain(&texts);
        assert_eq!(broken(&whole), None);
        assert!(whole.iter().all(|line| line.is_ascii()));

        let mut changed = whole.clone();
        changed[2] = changed[2].replace("e 2", "e 9");
        assert_eq!(broken(&changed), Some(3));
        let mut lacking = whole.clone();
        lacking.remove(1);
        assert_eq!(broken(&lacking), Some(2));
        let mut swapped = whole.clone();
        swapped.swap(3, 4);
        assert_eq!(broken(&swapped), Some(4));
        let mut rehashed = whole.clone();
        rehashed[2] = chain(&texts[..3].iter().map(|t| t.replace('2', "9")).collect::<Vec<_>>())
            .pop()
            .unwrap();
        assert_eq!(broken(&rehashed), Some(4), "the next line still names the old hash");
        let mut torn = whole.clone();
        torn[4].truncate(30);
        assert_eq!(broken(&torn), Some(5));
    }

    proptest! {
        #[test]
        fn any_changed_byte_breaks_it(
            texts in proptest::collection::vec("\\PC{0,20}", 1..6),
            line in 0usize..6, byte in 0usize..400, to in b' '..b'~'
        ) {
            let mut lines = chain(&texts);
            let line = line % lines.len();
            let byte = byte % lines[line].len();
            let before = lines[line].clone();
            let mut bytes = before.clone().into_bytes();
            bytes[byte] = to;
            lines[line] = String::from_utf8(bytes).unwrap();
            prop_assume!(lines[line] != before);
            prop_assert_eq!(broken(&lines), Some(line as u64 + 1));
        }

        #[test]
        fn lines_say_what_was_put_in(text in "\\PC{0,40}") {
            let lines = chain(std::slice::from_ref(&text));
            let value: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
            prop_assert_eq!(value["what"].as_str(), Some(text.as_str()));
        }
    }
}
