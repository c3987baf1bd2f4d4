//! What to stream, from where, and how.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::assemble::{KnownTables, PART_BYTES_DEFAULT};
use crate::change::Lsn;
use crate::spool::Spool;

/// The first version that can leave out what was replicated to it, as `server_version_num`.
pub const ORIGIN_FILTER_SINCE: u32 = 160_000;

/// Whether values may travel in binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// If the server can (PostgreSQL 14+) and every published column's type is safe.
    Auto,
    /// Never: all values are text.
    Off,
}

/// Which transactions the server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OriginFilter {
    /// All.
    #[default]
    Any,
    /// None that was itself replicated to it, by anybody (`origin = none`, PostgreSQL 16+; manual,
    /// 55.5.1 Logical Streaming Replication Parameters). Older servers send all the same.
    None,
}

/// Which slot to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotUse {
    /// One that exists and outlives the stream.
    Existing,
    /// One that is made for this stream and dies with its connection, whatever ends it (manual,
    /// 55.4, CREATE_REPLICATION_SLOT, TEMPORARY). The stream begins now.
    Temporary,
}

/// Who a server is: survives restarts, not a new `initdb`; the timeline changes with a failover or
/// a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemIdentity {
    /// `pg_control_system().system_identifier`
    pub system_id: u64,
    /// The timeline of its log.
    pub timeline: u32,
}

/// What to stream, and from where.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// The slot's name.
    pub slot: String,
    /// Whether it exists already.
    pub slot_use: SlotUse,
    /// The publications; exist since before the slot.
    pub publications: Vec<String>,
    /// Resume behind this position; it has to be durable on the target, because the slot forgets
    /// what is before it. `None`: where the slot stands, which is right for a new slot only.
    /// Before PostgreSQL 17 a restart of the server may put it back to an earlier position.
    pub start: Option<Lsn>,
    /// The newest transaction that was applied, which may be behind `start`: what another server has to
    /// have, too, to go on in the place of the one that was followed.
    pub applied: Option<Lsn>,
    /// A transaction larger than this comes in parts.
    pub part_bytes: usize,
    /// The form of values.
    pub binary: Binary,
    /// Which transactions come.
    pub origin: OriginFilter,
    /// The server that the position belongs to, if it is known already.
    pub expected_identity: Option<SystemIdentity>,
    /// The tables that were copied, by name: a name that stands for another table ends the stream there.
    pub known_tables: KnownTables,
    /// Where large transactions are kept that arrive while they run (PostgreSQL 14+). `None`: they
    /// come after their commit.
    pub spool: Option<Arc<dyn Spool>>,
    /// How our sessions call themselves. Unique for a pipeline: a walsender of this name and our
    /// user that still holds the slot is a left-over of ours, and is ended.
    pub application_name: String,
}

impl StreamOptions {
    /// Where the slot stands, with parts of 16 MiB, binary where it is safe, on any server, each
    /// transaction after its commit.
    pub fn new(
        slot: impl Into<String>,
        publications: Vec<String>,
        application_name: impl Into<String>,
    ) -> Self {
        Self {
            slot: slot.into(),
            slot_use: SlotUse::Existing,
            publications,
            start: None,
            applied: None,
            part_bytes: PART_BYTES_DEFAULT,
            binary: Binary::Auto,
            origin: OriginFilter::Any,
            expected_identity: None,
            known_tables: KnownTables::default(),
            spool: None,
            application_name: application_name.into(),
        }
    }
}

impl OriginFilter {
    /// Whether the server is to be told, given its `server_version_num`.
    pub(in crate::postgres) fn is_sent(self, version_num: u32) -> bool {
        self == OriginFilter::None && version_num >= ORIGIN_FILTER_SINCE
    }
}
