//! Which stream of a binlog the checkpoint belongs to. Its numbers mean nothing in another one.

use sinks::mysql::BinlogStreamIdentity;

use super::stage::FAMILY;
use super::{Store, StoreError};

const KEYS: [&str; 2] = ["forward-binlog", "back-binlog"];
/// The marker behind which nothing was applied, of a stream that has ended for good.
const END_KEYS: [&str; 2] = ["forward-binlog-end", "back-binlog-end"];

impl Store {
    /// The stream whose checkpoint this is; `None` before its first start.
    pub fn binlog_stream(&self) -> Result<Option<BinlogStreamIdentity>, StoreError> {
        self.get(FAMILY, self.key(KEYS))
    }

    /// Records the stream, before its first checkpoint; durable when this returns.
    pub fn save_binlog_stream(&self, stream: &BinlogStreamIdentity) -> Result<(), StoreError> {
        self.put(FAMILY, self.key(KEYS), stream)
    }

    /// Forgets which stream it is, and not what it is for. Its checkpoint is forgotten before.
    pub fn unname_binlog_stream(&self) -> Result<(), StoreError> {
        self.delete(FAMILY, self.key(KEYS))
    }

    /// Whether the stream has ended for good: nothing of its source may ever be applied again.
    pub fn binlog_stream_has_ended(&self) -> Result<bool, StoreError> {
        Ok(self.get::<String>(FAMILY, self.key(END_KEYS))?.is_some())
    }

    pub(super) fn end_binlog_stream(&self, marker: &String) -> Result<(), StoreError> {
        self.put(FAMILY, self.key(END_KEYS), marker)
    }

    /// Forgets the stream and what it was for, after its checkpoint.
    pub fn forget_binlog_stream(&self) -> Result<(), StoreError> {
        self.forget_role()?;
        self.delete(FAMILY, self.key(END_KEYS))?;
        self.unname_binlog_stream()
    }
}
