//! What one COPY of the first copy reads: whole tables, or ranges of them.
//!
//! Everything here happens inside transactions on one exported snapshot. No table is locked for longer
//! than one chunk of it is read, and [`hold`] says for each chunk whether the snapshot still shows the
//! table's rows.
mod catalog;
mod hold;
mod ranges;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use crate::postgres::user_types::{InnerOids, binary_safe};
use catalog::{columns, integer_keys, leaves, sizes};
use ranges::{Cutting, block_ranges, key_ranges};

use crate::change::{QualifiedName, TableId};

pub use hold::{Held, hold, is_lock_timeout, let_go};
pub use table::{ChunkRange, CopyFormat, TablePlan};

/// TID range scans came with PostgreSQL 14 (release notes 14, E.1.3.1.2); before, a condition on
/// `ctid` reads the whole table every time.
const TID_RANGE_SCAN_VERSION: u32 = 140_000;

/// Why the copy could not be planned.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// The server or the connection.
    #[error("{doing}")]
    Database {
        /// What was being done.
        doing: String,
        /// What it said.
        #[source]
        cause: tokio_postgres::Error,
    },
    /// The table is not in the snapshot.
    #[error("table with OID {} does not exist in the snapshot", .0.0)]
    Missing(TableId),
    /// Rows are stored by something whose physical ranges we know nothing about.
    #[error("{0} is not a table that can be copied (relkind {1:?})")]
    NotATable(QualifiedName, String),
}

fn database<'a>(doing: &'a str) -> impl Fn(tokio_postgres::Error) -> ChunkError + use<'a> {
    move |cause| ChunkError::Database { doing: doing.to_owned(), cause }
}

/// How to cut.
#[derive(Clone, Copy, Debug)]
pub struct PlanOptions {
    /// Size to aim at for one chunk, with its share of the TOAST table, in bytes. `None`: tables
    /// stay whole unless one is more than a worker's share of all of them.
    pub chunk_bytes: Option<u64>,
    /// Chunks that will be read at the same time.
    pub workers: usize,
}

/// Plans the tables' copy, largest with its indexes first.
///
/// Partitioned tables stand for their leaves; a table that comes twice is planned once.
/// `client` must be inside the snapshot's transaction. No lock of a table stays behind; each chunk
/// is read under [`hold`].
///
/// # Errors
/// [`ChunkError`].
pub async fn plan(
    client: &Client,
    tables: &[TableId],
    options: &PlanOptions,
) -> Result<Vec<TablePlan>, ChunkError> {
    let failed = database("reading the server's version");
    let version = client.query_one("SELECT current_setting('server_version_num')::int4", &[]).await;
    let version = version.and_then(|row| row.try_get::<_, i32>(0)).map_err(failed)? as u32;
    let relations = leaves(client, tables).await?;
    let ids: Vec<u32> = relations.iter().map(|relation| relation.id.0).collect();
    let sizes = sizes(client, &ids).await?;
    let mut columns = columns(client, &ids, version).await?;
    let types: BTreeSet<u32> = columns.values().flatten().map(|(_, type_oid)| *type_oid).collect();
    let safe = binary_safe(client, types, InnerOids::Kept)
        .await
        .map_err(database("reading the columns' types"))?;
    let keys = if version < TID_RANGE_SCAN_VERSION {
        integer_keys(client, &ids).await?
    } else {
        BTreeMap::new()
    };

    let total = sizes.values().map(|size| size.bytes).sum();
    let cutting = match options.chunk_bytes {
        Some(bytes) => Cutting::into(bytes),
        None => Cutting::by_share(total, options.workers),
    };
    let mut plans = Vec::with_capacity(relations.len());
    for relation in relations {
        let columns = columns.remove(&relation.id).unwrap_or_default();
        let size = sizes.get(&relation.id).copied().unwrap_or_default();
        let is_safe = columns.iter().all(|(_, type_oid)| safe.contains(type_oid));
        let is_heap = relation.access_method.as_deref().is_none_or(|name| name == "heap");
        let pieces = cutting.pieces(size);
        let chunks = if pieces < 2 {
            vec![ChunkRange::Whole]
        } else if version >= TID_RANGE_SCAN_VERSION && is_heap {
            block_ranges(size.blocks, pieces)
        } else if let Some(key) = keys.get(&relation.id) {
            key_ranges(client, &relation.name, key, pieces).await?
        } else {
            vec![ChunkRange::Whole]
        };
        let (columns, column_types) = columns.into_iter().unzip();
        plans.push(TablePlan {
            id: relation.id,
            name: relation.name,
            file_node: relation.file_node,
            columns,
            column_types,
            format: if is_safe { CopyFormat::Binary } else { CopyFormat::Text },
            // -1: never analyzed; 0 before PostgreSQL 14 means the same.
            rows_estimated: (relation.rows > 0.0).then_some(relation.rows as u64),
            bytes_on_disk: size.bytes,
            index_bytes: size.index_bytes,
            chunks,
        });
    }
    // The one that will keep everybody busy longest comes first; its indexes are built while others
    // are copied.
    let work = |plan: &TablePlan| plan.bytes_on_disk.saturating_add(plan.index_bytes);
    plans.sort_by(|a, b| work(b).cmp(&work(a)).then_with(|| a.name.cmp(&b.name)));
    Ok(plans)
}
