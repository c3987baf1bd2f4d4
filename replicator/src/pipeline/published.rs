//! Which tables the publication names.
//!
//! From PostgreSQL 13 on a partitioned table can be published: its partitions are then in the
//! stream under their own names, those made later too, so no row of a new partition is ever missed
//! (the stream stops at its first row instead, until green has it). Before 13, and when some
//! partitions are left out, the partitions themselves are named.

use std::collections::{BTreeMap, BTreeSet};

use decoders::QualifiedName;
use decoders::postgres::catalog::{TableFilter, TableInfo, TableKind};

/// The first version that publishes partitioned tables, as `server_version_num`.
const PUBLISHES_ROOTS: u32 = 130_000;

/// What to publish so that exactly the tables of `tables` that hold rows are in the stream.
///
/// `tables` is what `filter` takes; a partition that it leaves out keeps its root from being named.
pub(super) fn published(
    tables: &[TableInfo],
    filter: &TableFilter,
    version_num: u32,
) -> Vec<QualifiedName> {
    let by_oid: BTreeMap<u32, &TableInfo> = tables.iter().map(|table| (table.oid, table)).collect();
    let top = |table: &TableInfo| {
        let mut oid = table.oid;
        while let Some(parent) = by_oid.get(&oid).and_then(|table| table.partition_of) {
            // A root that the filter leaves out can't be named for its partitions.
            if !by_oid.contains_key(&parent) {
                return None;
            }
            oid = parent;
        }
        Some(oid)
    };
    let names_roots = version_num >= PUBLISHES_ROOTS && filter.takes_all();
    let mut names = BTreeSet::new();
    for table in tables.iter().filter(|table| table.is_decoded()) {
        let named = match top(table) {
            Some(root) if names_roots && table.kind == TableKind::PartitionLeaf => by_oid[&root],
            _ => table,
        };
        names.insert(named.name.clone());
    }
    names.into_iter().collect()
}
