//! Places in a source's history.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A PostgreSQL log sequence number: a byte offset in the write-ahead log.
///
/// Written as two hexadecimal halves, `16/B374D848` (PostgreSQL manual, 8.20 `pg_lsn` Type).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `0/0`, which PostgreSQL never gives to a record ("InvalidXLogRecPtr").
    pub const INVALID: Lsn = Lsn(0);

    /// Bytes from `earlier` to `self`; 0 if `self` is not later.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whether this is a real position.
    pub fn is_valid(self) -> bool {
        self != Lsn::INVALID
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not of the form `16/B374D848`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a log sequence number: {0:?} (expected two hexadecimal numbers, like 16/B374D848)")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseLsnError(text.chars().take(40).collect());
        let (high, low) = text.split_once('/').ok_or_else(refuse)?;
        let half = |digits: &str| {
            let hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
        };
        match (half(high), half(low)) {
            (Some(high), Some(low)) => Ok(Lsn(u64::from(high) << 32 | u64::from(low))),
            _ => Err(refuse()),
        }
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A place in a source's history, in that source's own terms.
///
/// Positions of different engines do not compare: [`Position::covers`] is then false, so a
/// confusion of streams can only ever hold something up, never skip it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// The end LSN of a commit record, or a keepalive's position. Never the LSN of a BEGIN:
    /// those go backwards when transactions interleave.
    Lsn(Lsn),
}

impl Position {
    /// Whether everything up to `other` is also up to `self`.
    pub fn covers(&self, other: &Position) -> bool {
        match (self, other) {
            (Position::Lsn(own), Position::Lsn(other)) => own >= other,
        }
    }

    /// Bytes of the source's log between `self` and a later `head`, where the engine counts so.
    pub fn bytes_until(&self, head: &Position) -> Option<u64> {
        match (self, head) {
            (Position::Lsn(own), Position::Lsn(head)) => Some(head.bytes_since(*own)),
        }
    }

    /// The LSN, if this is a PostgreSQL position.
    pub fn lsn(&self) -> Option<Lsn> {
        match self {
            Position::Lsn(lsn) => Some(*lsn),
        }
    }
}

impl From<Lsn> for Position {
    fn from(lsn: Lsn) -> Self {
        Position::Lsn(lsn)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Lsn(lsn) => lsn.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lsn_text_round_trips(raw: u64) {
            let lsn = Lsn(raw);
            prop_assert_eq!(lsn.to_string().parse::<Lsn>(), Ok(lsn));
        }

        #[test]
        fn covers_is_the_order_of_lsns(a: u64, b: u64) {
            let covers = Position::from(Lsn(a)).covers(&Position::from(Lsn(b)));
            prop_assert_eq!(covers, a >= b);
        }
    }

    #[test]
    fn malformed_lsns_are_refused() {
        for text in ["", "/", "1", "1/", "/1", "+1/2", "1/2/3", "1FFFFFFFF/0", "g/1", " 1/2"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?} was accepted");
        }
    }
}
