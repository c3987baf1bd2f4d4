//! The rows of a chunk as COPY gives them.
//!
//! A chunk comes from both sides in COPY's binary form: each row's key as text, then what is compared
//! of it. Two sides that give the same bytes are equal without anybody having looked into them, which
//! is what nearly all chunks come to. Only a row whose bytes the other side does not have is taken
//! apart, for its key. (The format: PostgreSQL manual, COPY, Binary Format.)
//!
//! A value goes as its own binary form where every version writes the same one; the others are
//! printed ([`super::canonical`]), because the binary form of an enum inside of an array, say, has
//! numbers that differ from server to server.

use std::collections::{BTreeSet, HashMap};

use bytes::{Buf as _, Bytes};
use decoders::postgres::catalog::{ColumnInfo, quote_ident};

use super::reader::{Reader, Trouble};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// The signature, flags, and the length of an extension, which no version has.
const HEADER_BYTES: usize = 19;
/// Behind the last row.
const TRAILER: &[u8] = &[0xff, 0xff];

/// Types with the same binary form on every version, by OID (`pg_type.dat`): short values only, as
/// long ones go as a hash.
const SAME: [u32; 13] = [16, 20, 21, 23, 26, 1082, 1083, 1114, 1184, 1186, 1266, 1700, 2950];
/// Those, too; but a NaN has many binary forms.
const FLOATS: [(u32, &str); 2] = [(700, "float4"), (701, "float8")];

/// A column's value in binary, if both sides write it alike; `None`: it has to be printed.
pub(super) fn binary(source: &ColumnInfo, target: &ColumnInfo) -> Option<String> {
    if source.type_oid != target.type_oid {
        return None;
    }
    let name = format!("t.{}", quote_ident(&source.name));
    if let Some((_, kind)) = FLOATS.iter().find(|(oid, _)| *oid == source.type_oid) {
        let nan = format!("'NaN'::{kind}");
        return Some(format!("CASE WHEN {name} = {nan} THEN {nan} ELSE {name} END"));
    }
    SAME.contains(&source.type_oid).then_some(name)
}

/// Rows of one side, each as it came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rows(Vec<Bytes>);

impl Rows {
    /// Of a COPY's messages. Servers put a row into each, the first one behind the header.
    pub fn of(reader: &Reader, messages: Vec<Bytes>) -> Result<Self, Trouble> {
        Self::parse(messages).ok_or_else(|| Trouble::unexpected(reader.side, "no binary COPY"))
    }

    fn parse(mut messages: Vec<Bytes>) -> Option<Self> {
        let last = messages.pop()?;
        if messages.is_empty() {
            // Without a row the trailer comes in the header's message.
            let is_empty = last.len() == HEADER_BYTES + TRAILER.len()
                && last.starts_with(SIGNATURE)
                && last.ends_with(TRAILER);
            return is_empty.then(|| Self(Vec::new()));
        }
        if last != TRAILER {
            return None;
        }
        let first = messages.first_mut()?;
        if !first.starts_with(SIGNATURE) {
            return None;
        }
        // Flags, and an extension with its length.
        first.advance(SIGNATURE.len());
        if first.len() < 8 {
            return None;
        }
        first.advance(4);
        let extension = usize::try_from(first.get_u32()).ok()?;
        if first.len() < extension {
            return None;
        }
        first.advance(extension);
        messages.retain(|message| !message.is_empty());
        Some(Self(messages))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The keys, of this many columns, of rows that are not on both sides as often; in order.
    /// `None`: a key has a NULL.
    pub fn apart(&self, other: &Rows, key_columns: usize) -> Option<Vec<Vec<String>>> {
        if self == other {
            return Some(Vec::new());
        }
        let mut counts: HashMap<&Bytes, i64> = HashMap::with_capacity(self.len());
        for row in &self.0 {
            *counts.entry(row).or_default() += 1;
        }
        for row in &other.0 {
            *counts.entry(row).or_default() -= 1;
        }
        let rows = counts.into_iter().filter(|(_, count)| *count != 0).map(|(row, _)| row);
        let keys: Option<BTreeSet<_>> = rows.map(|row| key(row.clone(), key_columns)).collect();
        Some(keys?.into_iter().collect())
    }
}

/// A row begins with the number of its columns; each has its length and its bytes.
fn key(mut row: Bytes, columns: usize) -> Option<Vec<String>> {
    row.try_get_u16().ok()?;
    let column = |_| {
        let length = usize::try_from(row.try_get_i32().ok()?).ok()?;
        let value = (row.len() >= length).then(|| row.split_to(length))?;
        String::from_utf8(value.into()).ok()
    };
    (0..columns).map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: Option<&str>, content: &str) -> Vec<u8> {
        let mut row = vec![0, 2];
        for value in [key, Some(content)] {
            let length = value.map_or(-1, |value| value.len() as i32);
            row.extend(length.to_be_bytes());
            row.extend(value.unwrap_or_default().bytes());
        }
        row
    }

    fn rows(of: &[(Option<&str>, &str)]) -> Rows {
        let mut messages = vec![[SIGNATURE, &[0; 8]].concat()];
        for (at, (key, content)) in of.iter().enumerate() {
            let row = row(*key, content);
            match at {
                0 => messages[0].extend(row),
                _ => messages.push(row),
            }
        }
        messages.push(TRAILER.to_vec());
        Rows::parse(messages.into_iter().map(Bytes::from).collect()).unwrap()
    }

    #[test]
    fn rows_that_one_side_lacks_are_named_by_their_keys() {
        let (a, b, c) = ((Some("a"), "1"), (Some("b"), "2"), (Some("c"), ""));
        let none: Vec<Vec<String>> = Vec::new();
        assert_eq!(rows(&[a, b]).apart(&rows(&[a, b]), 1).unwrap(), none);
        assert_eq!(rows(&[a, b]).apart(&rows(&[b, a]), 1).unwrap(), none, "another order");
        assert_eq!(
            rows(&[a, b]).apart(&rows(&[a, (Some("b"), "3"), c]), 1).unwrap(),
            [["b"], ["c"]]
        );
        assert_eq!(rows(&[a, a]).apart(&rows(&[a]), 1).unwrap(), [["a"]], "twice is not once");
        assert_eq!(rows(&[]).apart(&rows(&[(None, "1")]), 1), None);
        assert_eq!(rows(&[a, b, c]).len(), 3);
        assert_eq!(rows(&[]).len(), 0);
    }

    #[test]
    fn what_is_no_copy_is_not_taken_for_an_empty_one() {
        let parse = |messages: &[&[u8]]| {
            Rows::parse(messages.iter().map(|message| Bytes::copy_from_slice(message)).collect())
        };
        let header = [SIGNATURE, &[0; 8]].concat();
        assert!(parse(&[&header, TRAILER]).is_some());
        let without_rows = parse(&[&[&header[..], TRAILER].concat()]);
        assert_eq!(without_rows.map(|rows| rows.len()), Some(0), "as servers send it");
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[&header]), None, "cut off");
        assert_eq!(parse(&[TRAILER]), None);
        assert_eq!(parse(&[b"text", TRAILER]), None);
        assert_eq!(parse(&[SIGNATURE, TRAILER]), None);
    }
}
