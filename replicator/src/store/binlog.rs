//! Which stream of a binlog the checkpoint belongs to. Its numbers mean nothing in another one.

use sinks::mysql::BinlogStreamIdentity;

use super::stage::FAMILY;
use super::{Store, StoreError};

const KEYS: [&str; 2] = ["forward-binlog", "back-binlog"];

impl Store {
    /// The stream whose checkpoint this is; `None` before its first start.
    pub fn binlog_stream(&self) -> Result<Option<BinlogStreamIdentity>, StoreError> {
        self.get(FAMILY, self.key(KEYS))
    }

    /// Records the stream, before its first checkpoint; durable when this returns.
    pub fn save_binlog_stream(&self, stream: &BinlogStreamIdentity) -> Result<(), StoreError> {
        self.put(FAMILY, self.key(KEYS), stream)
    }

    /// Forgets the stream, after its checkpoint.
    pub fn forget_binlog_stream(&self) -> Result<(), StoreError> {
        self.delete(FAMILY, self.key(KEYS))
    }
}
