//! GTID events of MySQL.

use std::fmt;

use super::serialized::{signed, tag, unsigned};
use super::set::Sid;
use crate::mysql::error::Fault;
use crate::mysql::read::Reader;

/// The tag of a GTID: lower-case, or empty for none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tag(Option<Box<str>>);

impl Tag {
    /// The longest tag, in bytes (manual, 19.1.3.1 GTID Format and Storage).
    pub const MOST_BYTES: usize = 32;
    /// No tag.
    pub const NONE: Tag = Tag(None);

    /// A tag: up to 32 letters, digits and underscores, no digit first. Case is folded, as the
    /// server does. The empty text is no tag.
    pub fn new(text: &str) -> Option<Tag> {
        let fits = text.len() <= Tag::MOST_BYTES
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !text.starts_with(|first: char| first.is_ascii_digit());
        fits.then(|| Tag((!text.is_empty()).then(|| text.to_ascii_lowercase().into())))
    }

    /// Its text, empty for no tag.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// One transaction of MySQL.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Gtid {
    /// The server.
    pub sid: Sid,
    /// The tag.
    pub tag: Tag,
    /// The number, from 1.
    pub number: u64,
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tag.as_str() {
            "" => write!(f, "{}:{}", self.sid, self.number),
            tag => write!(f, "{}:{tag}:{}", self.sid, self.number),
        }
    }
}

/// The beginning of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GtidEvent {
    /// Its identity; `None` if the source runs without GTIDs.
    pub gtid: Option<Gtid>,
    /// It may hold statements (bit 0 of the flags): not only row events.
    pub may_have_statements: bool,
    /// Logical clock of the source's parallel replication: what had committed when this was
    /// prepared. Counts anew in each file.
    pub last_committed: Option<i64>,
    /// Its own place on that clock.
    pub sequence_number: Option<i64>,
    /// Microseconds since 1970 of the commit on the server that sent it.
    pub immediate_commit_us: Option<u64>,
    /// The same on the server where it was committed first.
    pub original_commit_us: Option<u64>,
    /// Bytes of the whole transaction in the binlog, this event included.
    pub transaction_bytes: Option<u64>,
    /// Version of the server that sent it, such as 90704.
    pub immediate_server_version: Option<u32>,
    /// Version of the server where it was committed first.
    pub original_server_version: Option<u32>,
    /// The group of the binlog group commit, where asked for.
    pub commit_group_ticket: Option<u64>,
}

impl GtidEvent {
    /// GTID and ANONYMOUS_GTID: fields in a row, the later ones there since newer versions.
    pub(in crate::mysql) fn read(reader: &mut Reader, anonymous: bool) -> Result<GtidEvent, Fault> {
        const LOGICAL_TIMESTAMPS: u8 = 2;
        /// Set in the first of two: the other one follows, else both are equal.
        const OTHER_TIME: u64 = 1 << 55;
        const OTHER_VERSION: u32 = 1 << 31;
        let flags = reader.u8()?;
        let sid = Sid(reader.array()?);
        let number = reader.u64()?;
        let gtid = match anonymous {
            true => None,
            false if number == 0 || number >= i64::MAX as u64 => {
                return Err(Fault::Impossible { what: "GTID's number", found: number });
            }
            false => Some(Gtid { sid, tag: Tag::NONE, number }),
        };
        let mut event = GtidEvent::with(gtid, flags);
        if reader.is_empty() || reader.u8()? != LOGICAL_TIMESTAMPS {
            reader.rest();
            return Ok(event);
        }
        event.last_committed = Some(reader.u64()? as i64);
        event.sequence_number = Some(reader.u64()? as i64);
        if reader.left() >= 7 {
            let immediate = reader.uint(7)?;
            event.immediate_commit_us = Some(immediate & !OTHER_TIME);
            event.original_commit_us = match immediate & OTHER_TIME {
                0 => event.immediate_commit_us,
                _ => Some(reader.uint(7)?),
            };
        }
        if !reader.is_empty() {
            event.transaction_bytes = Some(reader.packed()?);
        }
        if reader.left() >= 4 {
            let immediate = reader.u32()?;
            event.immediate_server_version = Some(immediate & !OTHER_VERSION);
            event.original_server_version = match immediate & OTHER_VERSION {
                0 => event.immediate_server_version,
                _ => Some(reader.u32()?),
            };
        }
        if reader.left() >= 8 {
            event.commit_group_ticket = Some(reader.u64()?);
        }
        // What newer versions append may be skipped by older ones.
        reader.rest();
        Ok(event)
    }

    fn with(gtid: Option<Gtid>, flags: u8) -> GtidEvent {
        GtidEvent {
            gtid,
            may_have_statements: flags & 1 != 0,
            last_committed: None,
            sequence_number: None,
            immediate_commit_us: None,
            original_commit_us: None,
            transaction_bytes: None,
            immediate_server_version: None,
            original_server_version: None,
            commit_group_ticket: None,
        }
    }

    /// GTID_TAGGED: fields by number, each in variable-length form.
    pub(in crate::mysql) fn read_tagged(reader: &mut Reader) -> Result<GtidEvent, Fault> {
        let total = reader.left();
        let version = unsigned(reader)?;
        if version == 0 {
            return Err(Fault::Unsupported { what: "serialization version", found: version });
        }
        let size = unsigned(reader)?;
        if size != total as u64 {
            return Err(Fault::Impossible { what: "message size", found: size });
        }
        /// The last field that an older reader must not skip.
        const LAST_KNOWN: u64 = 11;
        let last_required = unsigned(reader)?;
        if last_required > LAST_KNOWN + 1 {
            return Err(Fault::Unsupported {
                what: "GTID event's field",
                found: last_required - 1,
            });
        }
        let (mut flags, mut sid, mut number, mut name) = (0, None, None, Tag::NONE);
        let mut event = GtidEvent::with(None, 0);
        while !reader.is_empty() {
            match unsigned(reader)? {
                0 => flags = unsigned(reader)? as u8,
                1 => {
                    let mut bytes = [0; 16];
                    for byte in &mut bytes {
                        *byte = u8::try_from(unsigned(reader)?)
                            .map_err(|_| Fault::Malformed("server's UUID"))?;
                    }
                    sid = Some(Sid(bytes));
                }
                2 => number = Some(signed(reader)?),
                3 => name = tag(reader)?,
                4 => event.last_committed = Some(signed(reader)?),
                5 => event.sequence_number = Some(signed(reader)?),
                6 => event.immediate_commit_us = Some(unsigned(reader)?),
                7 => event.original_commit_us = Some(unsigned(reader)?),
                8 => event.transaction_bytes = Some(unsigned(reader)?),
                9 => event.immediate_server_version = Some(unsigned(reader)? as u32),
                10 => event.original_server_version = Some(unsigned(reader)? as u32),
                11 => event.commit_group_ticket = Some(unsigned(reader)?),
                // A field that may be skipped, and so may all behind it.
                _ => _ = reader.rest(),
            }
        }
        event.may_have_statements = flags & 1 != 0;
        event.original_commit_us = event.original_commit_us.or(event.immediate_commit_us);
        event.original_server_version =
            event.original_server_version.or(event.immediate_server_version);
        let sid = sid.ok_or(Fault::Malformed("GTID without a server"))?;
        let number = number.and_then(|number| u64::try_from(number).ok());
        let number = number.filter(|number| *number > 0 && *number < i64::MAX as u64);
        let number = number.ok_or(Fault::Malformed("GTID's number"))?;
        event.gtid = Some(Gtid { sid, tag: name, number });
        Ok(event)
    }
}
