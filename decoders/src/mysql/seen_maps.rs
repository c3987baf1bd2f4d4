//! Table maps that were read before. A server writes one before every statement, mostly the same as before.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::read::little_endian;
use super::table_map::TableMap;

/// Table maps begin with the table's number, which has this size in every version since MySQL 5.1.4.
const TABLE_ID_BYTES: usize = 6;
/// A server gives a table another number each time it opens it.
const MOST: usize = 1024;
/// Larger ones are read each time.
const MOST_BYTES: usize = 64 << 10;

/// By the table's number: the bytes of its last map, and what they say.
#[derive(Debug, Default)]
pub(super) struct SeenMaps(HashMap<u64, Seen, RandomState>);

#[derive(Debug)]
struct Seen {
    bytes: Box<[u8]>,
    map: Arc<TableMap>,
}

impl SeenMaps {
    /// The map that was read from the same bytes.
    pub fn get(&self, bytes: &[u8]) -> Option<&Arc<TableMap>> {
        let seen = self.0.get(&table_id(bytes)?)?;
        (*seen.bytes == *bytes).then_some(&seen.map)
    }

    /// Keeps what was read from these bytes, in the place of what its number stood for.
    pub fn keep(&mut self, bytes: &[u8], map: &Arc<TableMap>) {
        let Some(id) = table_id(bytes).filter(|_| bytes.len() <= MOST_BYTES) else { return };
        if self.0.len() >= MOST && !self.0.contains_key(&id) {
            self.0.clear();
        }
        self.0.insert(id, Seen { bytes: Box::from(bytes), map: Arc::clone(map) });
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

fn table_id(bytes: &[u8]) -> Option<u64> {
    bytes.get(..TABLE_ID_BYTES).map(little_endian)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::Flavor;

    fn map(table: &str) -> Arc<TableMap> {
        Arc::new(TableMap {
            table_id: 1,
            flavor: Flavor::Mysql,
            schema: "d".into(),
            table: table.into(),
            columns: Vec::new(),
            primary_key: None,
        })
    }

    #[test]
    fn only_the_same_bytes_are_the_same_map() {
        let mut seen = SeenMaps::default();
        let (one, other) = (map("one"), map("other"));
        assert!(seen.get(b"1").is_none() && seen.get(b"000001a").is_none());
        seen.keep(b"000001a", &one);
        assert!(Arc::ptr_eq(seen.get(b"000001a").unwrap(), &one));
        assert!(seen.get(b"000001b").is_none() && seen.get(b"000001").is_none());
        // The table was altered, and kept its number.
        seen.keep(b"000001b", &other);
        assert!(Arc::ptr_eq(seen.get(b"000001b").unwrap(), &other));
        assert!(seen.get(b"000001a").is_none());
        seen.clear();
        assert!(seen.get(b"000001b").is_none());
    }

    #[test]
    fn what_it_keeps_is_bounded() {
        let mut seen = SeenMaps::default();
        seen.keep(&vec![b'0'; MOST_BYTES + 1], &map("large"));
        assert!(seen.0.is_empty());
        for number in 0..3 * MOST as u64 {
            let bytes = [&number.to_le_bytes()[..TABLE_ID_BYTES], b"a"].concat();
            seen.keep(&bytes, &map("t"));
            assert!(seen.get(&bytes).is_some() && seen.0.len() <= MOST);
        }
    }
}
