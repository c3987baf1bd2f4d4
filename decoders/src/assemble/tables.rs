//! The stream's descriptions of tables: what the changes that come next refer to.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::error::AssembleError;
use crate::change::{TableId, TableSchema};

/// A moment of the stream: grows with everything that has to be told apart by its order.
pub type Moment = u64;

/// A table as described last.
#[derive(Debug, Clone)]
pub(super) struct Described {
    pub(super) schema: Arc<TableSchema>,
    /// Positions of the replica identity's columns.
    pub(super) key: Box<[usize]>,
    at: Moment,
}

/// Descriptions by table.
#[derive(Debug, Default)]
pub(super) struct Tables(HashMap<TableId, Described, BuildHasherDefault<OidHasher>>);

impl Tables {
    /// Remembers a description that was received at `at`. The one before stays in use while it
    /// says the same.
    pub(super) fn describe(&mut self, schema: TableSchema, at: Moment) {
        match self.0.entry(schema.id) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.at = at;
                if *known.schema != schema {
                    *known = Described::new(schema, at);
                }
            }
            Entry::Vacant(unknown) => {
                unknown.insert(Described::new(schema, at));
            }
        }
    }

    pub(super) fn get(&self, id: TableId) -> Result<&Described, AssembleError> {
        self.0.get(&id).ok_or(AssembleError::UnknownTable(id))
    }

    /// Takes over what was described to a transaction that has now committed, unless the same
    /// table was described later, to somebody else: the server sends a description once and counts
    /// on the latest.
    pub(super) fn adopt(&mut self, others: Tables) {
        for (id, other) in others.0 {
            match self.0.entry(id) {
                Entry::Occupied(mut known) if known.get().at < other.at => {
                    if known.get().schema == other.schema {
                        known.get_mut().at = other.at;
                    } else {
                        known.insert(other);
                    }
                }
                Entry::Occupied(_) => {}
                Entry::Vacant(unknown) => {
                    unknown.insert(other);
                }
            }
        }
    }
}

impl Described {
    fn new(schema: TableSchema, at: Moment) -> Self {
        let key = schema.key_positions().collect();
        Self { schema: Arc::new(schema), key, at }
    }
}

/// For OIDs, which the source hands out and nobody can choose to collide: a lookup for each change
/// of a stream is worth not to hash like a password.
#[derive(Default)]
pub(super) struct OidHasher(u64);

impl Hasher for OidHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    /// Fibonacci hashing: the table takes its bits from both ends of the product.
    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
