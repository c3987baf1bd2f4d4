//! Sets of MySQL GTIDs.

use std::collections::BTreeMap;
use std::fmt;

use super::event::{Gtid, Tag};
use super::interval::Intervals;
use super::serialized;
use crate::mysql::error::Fault;
use crate::mysql::read::Reader;

/// The UUID of the server on which a transaction was first committed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sid(pub [u8; 16]);

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which transactions: `uuid:1-5:7:tag:1-3, uuid2:..` as in `gtid_executed`.
///
/// Written with the separators that the server uses, so it can be compared with and sent to it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct GtidSet {
    members: BTreeMap<(Sid, Tag), Intervals>,
}

impl GtidSet {
    /// No transaction.
    pub fn new() -> GtidSet {
        GtidSet::default()
    }

    /// Whether there is no transaction in it.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many transactions there are.
    pub fn count(&self) -> u64 {
        self.members.values().map(Intervals::count).fold(0, u64::saturating_add)
    }

    /// The numbers by server and tag, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (Sid, &Tag, &Intervals)> {
        self.members.iter().map(|((sid, tag), intervals)| (*sid, tag, intervals))
    }

    /// Adds one transaction.
    pub fn add(&mut self, gtid: &Gtid) {
        self.add_range(gtid.sid, gtid.tag.clone(), gtid.number, gtid.number);
    }

    /// Adds the transactions `start..=end`; nothing if that is empty.
    pub fn add_range(&mut self, sid: Sid, tag: Tag, start: u64, end: u64) {
        if start <= end {
            self.members.entry((sid, tag)).or_default().add(start, end);
        }
    }

    /// Whether the transaction is in it.
    pub fn contains(&self, gtid: &Gtid) -> bool {
        let numbers = self.members.get(&(gtid.sid, gtid.tag.clone()));
        numbers.is_some_and(|numbers| numbers.contains(gtid.number))
    }

    /// Whether all of `other` is in it.
    pub fn covers(&self, other: &GtidSet) -> bool {
        other
            .members
            .iter()
            .all(|(key, numbers)| self.members.get(key).is_some_and(|own| own.covers(numbers)))
    }

    /// Adds what `other` has.
    pub fn union(&mut self, other: &GtidSet) {
        for (key, numbers) in &other.members {
            self.members.entry(key.clone()).or_default().union(numbers);
        }
    }

    /// Removes what `other` has.
    pub fn subtract(&mut self, other: &GtidSet) {
        for (key, numbers) in &other.members {
            if let Some(own) = self.members.get_mut(key) {
                own.subtract(numbers);
            }
        }
        self.members.retain(|_, numbers| !numbers.is_empty());
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = None;
        for (sid, tag, numbers) in self.iter() {
            if last != Some(sid) {
                if last.is_some() {
                    f.write_str(",\n")?;
                }
                fmt::Display::fmt(&sid, f)?;
                last = Some(sid);
            }
            match tag.as_str() {
                "" => write!(f, ":{numbers}")?,
                tag => write!(f, ":{tag}:{numbers}")?,
            }
        }
        Ok(())
    }
}

/// The set of a PREVIOUS_GTIDS event, with tags (MySQL 8.3+) or without.
pub(in crate::mysql) fn read_set(reader: &mut Reader) -> Result<GtidSet, Fault> {
    let head = reader.u64()?;
    // The highest byte is the format. With tags the lowest repeats it, which an older server reads
    // as a count that is too large.
    let (with_tags, count) = match head >> 56 {
        0 => (false, head),
        1 => (true, head >> 8 & 0xFFFF_FFFF_FFFF),
        found => return Err(Fault::Unsupported { what: "format of GTID sets", found }),
    };
    let mut set = GtidSet::new();
    for _ in 0..count {
        let sid = Sid(reader.array()?);
        let tag = match with_tags {
            true => serialized::tag(reader)?,
            false => Tag::NONE,
        };
        for _ in 0..reader.u64()? {
            let (start, end) = (reader.u64()?, reader.u64()?);
            // The end is the first number that is not in it; numbers are positive i64.
            if start == 0 || end <= start || end > i64::MAX as u64 {
                return Err(Fault::Malformed("interval of GTIDs"));
            }
            set.add_range(sid, tag.clone(), start, end - 1);
        }
    }
    Ok(set)
}
