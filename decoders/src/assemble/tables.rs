//! The stream's descriptions of tables: what the changes that come next refer to.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, PoisonError, RwLock};

use super::error::AssembleError;
use crate::change::{QualifiedName, TableId, TableSchema};

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

/// Which table each name stands for. A name that changes hands means that the rows of one table went
/// away and those of another came, of which the stream says nothing.
#[derive(Debug, Default)]
pub(super) struct Names {
    described: HashMap<QualifiedName, TableId>,
    known: KnownTables,
}

/// The tables that a name may stand for, where they are known before the stream describes them: the one that was
/// copied, and whichever has taken its place since with somebody's knowledge. Clones are one: what is learned
/// while a stream runs counts for it at once.
#[derive(Debug, Default, Clone)]
pub struct KnownTables(Arc<RwLock<HashMap<QualifiedName, Vec<TableId>>>>);

impl KnownTables {
    /// Replaces what is known; the last of a name is the newest.
    pub fn set(&self, known: HashMap<QualifiedName, Vec<TableId>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// Whether the name may stand for the table; if not, the one that it should.
    fn check(&self, name: &QualifiedName, found: TableId) -> Option<Result<(), TableId>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let ids = known.get(name)?;
        let newest = *ids.last()?;
        Some(if ids.contains(&found) { Ok(()) } else { Err(newest) })
    }
}

impl Names {
    pub(super) fn new(known: KnownTables) -> Self {
        Self { described: HashMap::new(), known }
    }

    /// Notes which table has the name.
    ///
    /// # Errors
    /// It is another one than the last time, or than is known.
    pub(super) fn check(&mut self, schema: &TableSchema) -> Result<(), AssembleError> {
        let (name, found) = (&schema.name, schema.id);
        let known = match self.known.check(name, found) {
            Some(Ok(())) => return Ok(()),
            Some(Err(known)) => known,
            None => *self.described.entry(name.clone()).or_insert(found),
        };
        if known == found {
            return Ok(());
        }
        Err(AssembleError::MadeAgain { table: name.clone(), known, found })
    }
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
