//! The chain of hashes. Pure.
//!
//! A line is one JSON object in ASCII. Its last field is `hash`, over the bytes of the line before that
//! field; among those is `prev`, the hash of the line before. So a line that is changed, taken out or
//! put in breaks the chain there.
//!
//! A line with a `key` has an HMAC-SHA256 under the key of that name as its hash: who has not the key
//! can't write lines anew. Lines without one, which former releases wrote, have a plain SHA-256. None
//! follows a keyed line.

use std::fmt;

use ring::hmac;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// `prev` of the first line.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Between a line's body and its hash.
const HASH_FIELD: &str = ",\"hash\":\"";
/// Behind it.
const END: &str = "\"}";
const HASH_LEN: usize = 64;
/// Hexadecimal digits of a key's name.
const KEY_NAME_LEN: usize = 16;

/// What lines are sealed with.
#[derive(Clone)]
pub struct Key {
    name: String,
    hmac: hmac::Key,
}

impl Key {
    /// From its secret.
    pub fn new(secret: &[u8]) -> Self {
        let name = hex(&Sha256::digest([b"cutover audit key ".as_slice(), secret].concat()));
        Self { name: name[..KEY_NAME_LEN].into(), hmac: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// What lines call it. Says nothing about the secret.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Where a chain ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tip {
    /// Number of the last line; 0: there is none.
    pub number: u64,
    /// Its hash.
    pub hash: String,
    /// Whether it is keyed.
    pub is_keyed: bool,
}

impl Default for Tip {
    fn default() -> Self {
        Self { number: 0, hash: GENESIS.into(), is_keyed: false }
    }
}

/// What every line has, whatever else it says.
#[derive(Debug, Deserialize)]
struct Link {
    number: u64,
    #[serde(default)]
    key: Option<String>,
    prev: String,
}

/// A line that breaks the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// The number that it should have.
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
    /// Number of the first line that is there; more than 1 where older files were taken away.
    pub first: u64,
    /// Lines that are whole and in their place.
    pub lines: u64,
    /// Those of them whose hash could not be computed, for want of the key.
    pub unproven: u64,
    /// The last of them.
    pub tip: Tip,
    /// The first line that is not; nothing behind it was looked at.
    pub broken: Option<Broken>,
}

/// Closes the JSON object `body`, which ends with its last field and `}`, with its hash.
pub fn sealed(body: &str, key: Option<&Key>) -> (String, String) {
    let open = ascii(body.strip_suffix('}').unwrap_or(body));
    let hash = hash_of(&open, key);
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

fn hash_of(open: &str, key: Option<&Key>) -> String {
    match key {
        Some(key) => hex(hmac::sign(&key.hmac, open.as_bytes()).as_ref()),
        None => hex(&Sha256::digest(open)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Followed {
    /// The next line, if the chain has held so far. The first of all may have any number: older files
    /// may have been taken away. Without a key, the hashes of keyed lines are only compared with the
    /// `prev` of the next line.
    pub fn follow(&mut self, line: &str, key: Option<&Key>) {
        if self.broken.is_some() {
            return;
        }
        match self.checked(line, key) {
            Ok((first, tip, is_proven)) => {
                if self.lines == 0 {
                    self.first = first;
                }
                self.lines += 1;
                self.unproven += u64::from(!is_proven);
                self.tip = tip;
            }
            Err(why) => self.broken = Some(Broken { line: self.tip.number + 1, why }),
        }
    }

    fn checked(&self, line: &str, key: Option<&Key>) -> Result<(u64, Tip, bool), String> {
        let whole = || {
            let rest = line.strip_suffix(END)?;
            let (open, hash) = rest.split_at_checked(rest.len().checked_sub(HASH_LEN)?)?;
            Some((open.strip_suffix(HASH_FIELD)?, hash))
        };
        let (open, hash) = whole().ok_or("it does not end with a hash")?;
        let link: Option<Link> = serde_json::from_str(line).ok();
        let named = link.as_ref().and_then(|link| link.key.clone());
        let is_keyed = named.is_some();
        let is_proven = match (named, key) {
            (Some(named), Some(key)) if named != key.name => {
                return Err(format!("its key {named} is not here: it can't be proven"));
            }
            (Some(_), None) => false,
            (_, key) => {
                if hash_of(open, key.filter(|_| is_keyed)) != hash {
                    return Err("its hash is not that of its text: it was changed".into());
                }
                true
            }
        };
        let link = link.ok_or("it is no JSON of this log")?;
        if self.tip.is_keyed && !is_keyed {
            return Err("it has no key, after lines that have one: it was put in".into());
        }
        let is_first = self.tip == Tip::default() && link.number > 1;
        if !is_first && link.prev != self.tip.hash {
            return Err("it does not follow the line before: lines were taken out or put in".into());
        }
        if !is_first && link.number != self.tip.number + 1 {
            return Err(format!("it is number {}, after {}", link.number, self.tip.number));
        }
        let tip = Tip { number: link.number, hash: hash.into(), is_keyed };
        Ok((link.number, tip, is_proven))
    }
}

/// Follows all lines, up to the first that breaks the chain.
pub fn follow_all<'a>(lines: impl IntoIterator<Item = &'a str>, key: Option<&Key>) -> Followed {
    let mut followed = Followed::default();
    for line in lines {
        followed.follow(line, key);
    }
    followed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chain(texts: &[String]) -> Vec<String> {
        chain_with(texts, None)
    }

    fn chain_with(texts: &[String], key: Option<&Key>) -> Vec<String> {
        let mut tip = Tip::default();
        let mut lines = Vec::new();
        for text in texts {
            let number = tip.number + 1;
            let mut body = serde_json::json!({ "number": number, "what": text, "prev": tip.hash });
            if let Some(key) = key {
                body["key"] = key.name().into();
            }
            let (line, hash) = sealed(&body.to_string(), key);
            lines.push(line);
            tip = Tip { number, hash, is_keyed: key.is_some() };
        }
        lines
    }

    fn broken(lines: &[String]) -> Option<u64> {
        follow(lines, None).broken.map(|broken| broken.line)
    }

    fn follow(lines: &[String], key: Option<&Key>) -> Followed {
        follow_all(lines.iter().map(String::as_str), key)
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

    #[test]
    fn who_has_not_the_key_can_write_no_line() {
        let key = Key::new(b"secret");
        let texts: Vec<String> = (0..5).map(|n| format!("line {n}")).collect();
        let whole = chain_with(&texts, Some(&key));
        let followed = follow(&whole, Some(&key));
        assert_eq!((followed.lines, followed.unproven, followed.broken), (5, 0, None));
        let unseen = follow(&whole, None);
        assert_eq!((unseen.lines, unseen.unproven, unseen.broken), (5, 5, None));

        // All lines from the third on written anew, with another key of the same name.
        let mut forger = Key::new(b"guess");
        forger.name = key.name.clone();
        let changed: Vec<String> = texts.iter().map(|text| text.replace('2', "9")).collect();
        let mut forged = whole[..2].to_vec();
        forged.extend_from_slice(&chain_with(&changed, Some(&forger))[2..]);
        assert_eq!(follow(&forged, Some(&key)).broken.map(|broken| broken.line), Some(3));
        // The same without a key at all, as the former release would have.
        let plain = chain(&changed);
        let mut downgraded = whole[..2].to_vec();
        downgraded.extend_from_slice(&plain[2..]);
        assert_eq!(follow(&downgraded, Some(&key)).broken.map(|broken| broken.line), Some(3));
        assert_eq!(follow(&downgraded, None).broken.map(|broken| broken.line), Some(3));
        // Under a key that is not here.
        let other = chain_with(&texts, Some(&Key::new(b"other")));
        let broken = follow(&other, Some(&key)).broken.unwrap();
        assert!(broken.line == 1 && broken.why.contains("is not here"), "{broken}");
    }

    #[test]
    fn a_chain_whose_older_lines_were_taken_away_begins_later() {
        let texts: Vec<String> = (0..5).map(|n| format!("line {n}")).collect();
        let followed = follow(&chain(&texts)[2..], None);
        assert_eq!((followed.first, followed.lines, followed.broken), (3, 3, None));
        let mut hole = chain(&texts)[2..].to_vec();
        hole.remove(1);
        assert_eq!(follow(&hole, None).broken.map(|broken| broken.line), Some(4));
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
