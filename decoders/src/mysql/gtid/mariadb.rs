//! GTIDs of MariaDB: in each domain one sequence, of which the last member is the position.

use std::collections::BTreeMap;
use std::fmt;

use crate::mysql::error::Fault;
use crate::mysql::read::Reader;

/// One event group of MariaDB, written `domain-server-sequence`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MariadbGtid {
    /// The replication domain: groups are in order within one, and only there.
    pub domain: u32,
    /// The server that committed it first.
    pub server: u32,
    /// Its number within the domain.
    pub sequence: u64,
}

impl fmt::Display for MariadbGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server, self.sequence)
    }
}

/// The last GTID of each domain, as in `gtid_binlog_pos`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct GtidPosition {
    domains: BTreeMap<u32, (u32, u64)>,
}

impl GtidPosition {
    /// Before the first group of any domain.
    pub fn new() -> GtidPosition {
        GtidPosition::default()
    }

    /// The last GTID of a domain.
    pub fn domain(&self, domain: u32) -> Option<MariadbGtid> {
        let (server, sequence) = self.domains.get(&domain)?;
        Some(MariadbGtid { domain, server: *server, sequence: *sequence })
    }

    /// Makes `gtid` the last of its domain, also if its number is lower than the one before: a
    /// source without `gtid_strict_mode` may write such.
    pub fn set(&mut self, gtid: MariadbGtid) {
        self.domains.insert(gtid.domain, (gtid.server, gtid.sequence));
    }

    /// The last GTIDs by domain.
    pub fn iter(&self) -> impl Iterator<Item = MariadbGtid> + '_ {
        let gtid = |(domain, (server, sequence)): (&u32, &(u32, u64))| MariadbGtid {
            domain: *domain,
            server: *server,
            sequence: *sequence,
        };
        self.domains.iter().map(gtid)
    }

    /// Whether the group is at this position or before it. Numbers of a domain ascend whichever
    /// server wrote them, which only `gtid_strict_mode` guarantees.
    pub fn contains(&self, gtid: &MariadbGtid) -> bool {
        self.domains.get(&gtid.domain).is_some_and(|(_, last)| *last >= gtid.sequence)
    }

    /// Whether every group up to `other` is at this position or before it.
    pub fn covers(&self, other: &GtidPosition) -> bool {
        other.iter().all(|gtid| self.contains(&gtid))
    }
}

impl fmt::Display for GtidPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, gtid) in self.iter().enumerate() {
            write!(f, "{}{gtid}", if at > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

/// The beginning of an event group. There is no BEGIN behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MariadbGtidEvent {
    /// The group's identity.
    pub gtid: MariadbGtid,
    /// `FL_*`.
    pub flags: u8,
    /// Groups with the same number were committed together and don't depend on each other.
    pub commit_id: Option<u64>,
    /// The distributed transaction that this group prepares or completes.
    pub xid: Option<Box<Xid>>,
    /// `FL_*_E1`, further flags; 0 where the source has none.
    pub extra_flags: u8,
    /// The session on the source (11.6+).
    pub thread_id: Option<u32>,
}

/// The identity of a distributed transaction as MariaDB's GTID event has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Xid {
    /// The number that the application chose for its kind of identities.
    pub format_id: u32,
    /// The global part.
    pub global: Vec<u8>,
    /// The branch.
    pub branch: Vec<u8>,
}

impl MariadbGtidEvent {
    /// The group is one statement, DDL for one: no COMMIT or XID ends it.
    pub const STANDALONE: u8 = 1;
    const GROUP_COMMIT: u8 = 2;
    /// All tables are transactional.
    pub const TRANSACTIONAL: u8 = 4;
    /// The source allowed it to run in parallel with others.
    pub const ALLOW_PARALLEL: u8 = 8;
    /// It waited for another one's lock.
    pub const WAITED: u8 = 16;
    /// It is DDL.
    pub const DDL: u8 = 32;
    /// It ends with XA PREPARE.
    pub const PREPARED_XA: u8 = 64;
    /// It commits or rolls back a prepared transaction.
    pub const COMPLETED_XA: u8 = 128;

    const MULTI_ENGINE: u8 = 1;
    /// The first half of an ALTER TABLE that is logged when it starts.
    pub const START_ALTER: u8 = 2;
    /// The other half of it, successful.
    pub const COMMIT_ALTER: u8 = 4;
    /// The other half of it, failed.
    pub const ROLLBACK_ALTER: u8 = 8;
    const THREAD_ID: u8 = 16;

    pub(in crate::mysql) fn read(reader: &mut Reader, server: u32) -> Result<Self, Fault> {
        let sequence = reader.u64()?;
        let domain = reader.u32()?;
        let flags = reader.u8()?;
        let mut event = MariadbGtidEvent {
            gtid: MariadbGtid { domain, server, sequence },
            flags,
            commit_id: None,
            xid: None,
            extra_flags: 0,
            thread_id: None,
        };
        if flags & Self::GROUP_COMMIT != 0 {
            event.commit_id = Some(reader.u64()?);
        }
        if flags & (Self::PREPARED_XA | Self::COMPLETED_XA) != 0 {
            let format_id = reader.u32()?;
            let (global, branch) = (reader.u8()?, reader.u8()?);
            let global = reader.bytes(global.into())?.to_vec();
            let branch = reader.bytes(branch.into())?.to_vec();
            event.xid = Some(Box::new(Xid { format_id, global, branch }));
        }
        // The event has at least the size that the format description promises; zeros fill it up.
        if !reader.is_empty() {
            event.extra_flags = reader.u8()?;
            if event.extra_flags & Self::MULTI_ENGINE != 0 {
                reader.u8()?; // how many engines take part
            }
            if event.extra_flags & (Self::COMMIT_ALTER | Self::ROLLBACK_ALTER) != 0 {
                reader.u64()?; // the number of the group that started it
            }
            if event.extra_flags & Self::THREAD_ID != 0 {
                event.thread_id = Some(reader.u32()?);
            }
        }
        reader.rest();
        Ok(event)
    }

    /// Whether one of `flags` is set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

/// What the files before this one end with, and more: of each domain and server the last GTID, the
/// very last of a domain behind the others of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GtidList {
    /// The GTIDs in their order.
    pub gtids: Vec<MariadbGtid>,
    /// `FLAG_UNTIL_REACHED` and `FLAG_IGN_GTIDS`, for replicas that stop at a position.
    pub flags: u8,
}

impl GtidList {
    pub(in crate::mysql) fn read(reader: &mut Reader) -> Result<GtidList, Fault> {
        let head = reader.u32()?;
        let (count, flags) = (head & 0x0FFF_FFFF, (head >> 28) as u8);
        let mut gtids = Vec::new();
        for _ in 0..count {
            let (domain, server, sequence) = (reader.u32()?, reader.u32()?, reader.u64()?);
            gtids.push(MariadbGtid { domain, server, sequence });
        }
        reader.rest(); // an empty list is filled up with zeros
        Ok(GtidList { gtids, flags })
    }

    /// The position: of each domain the last.
    pub fn position(&self) -> GtidPosition {
        let mut position = GtidPosition::new();
        for gtid in &self.gtids {
            position.set(*gtid);
        }
        position
    }
}
