//! What the plan needs to know of the tables.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::hold::is_lock_timeout;
use super::{ChunkError, database};
use crate::change::{QualifiedName, TableId};

/// How long a look at the sizes may wait for a table's lock, milliseconds.
const SIZE_LOCK_MS: u64 = 200;

pub(super) struct Relation {
    pub id: TableId,
    pub name: QualifiedName,
    pub kind: String,
    pub access_method: Option<String>,
    pub file_node: u32,
    pub rows: f32,
}

/// The tables, with partitioned ones replaced by their leaves.
pub(super) async fn leaves(
    client: &Client,
    tables: &[TableId],
) -> Result<Vec<Relation>, ChunkError> {
    const LEAVES: &str = "
        WITH RECURSIVE tree AS (
            SELECT oid, oid AS root FROM pg_catalog.pg_class WHERE oid = ANY ($1)
            UNION ALL
            SELECT i.inhrelid, tree.root
            FROM tree
            JOIN pg_catalog.pg_class parent ON parent.oid = tree.oid AND parent.relkind = 'p'
            JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid)
        SELECT DISTINCT c.oid, n.nspname::text, c.relname::text, c.relkind::text, am.amname::text,
               c.relfilenode, c.reltuples, c.relispartition
        FROM tree
        JOIN pg_catalog.pg_class c ON c.oid = tree.oid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
        ORDER BY 1";
    let failed = database("reading the tables' catalog entries");
    let ids: Vec<u32> = tables.iter().map(|id| id.0).collect();
    let rows = client.query(LEAVES, &[&ids]).await.map_err(&failed)?;
    let mut seen = BTreeSet::new();
    let mut relations = Vec::new();
    for row in rows {
        let id = TableId(row.try_get(0).map_err(&failed)?);
        let relation = Relation {
            id,
            name: QualifiedName::new(
                row.try_get::<_, String>(1).map_err(&failed)?,
                row.try_get::<_, String>(2).map_err(&failed)?,
            ),
            kind: row.try_get(3).map_err(&failed)?,
            access_method: row.try_get(4).map_err(&failed)?,
            file_node: row.try_get(5).map_err(&failed)?,
            rows: row.try_get(6).map_err(&failed)?,
        };
        let is_partition: bool = row.try_get(7).map_err(&failed)?;
        seen.insert(id);
        match relation.kind.as_str() {
            "r" => relations.push(relation),
            "p" => {}
            // A foreign partition's rows are not the source's own.
            "f" if is_partition => {}
            _ => return Err(ChunkError::NotATable(relation.name, relation.kind)),
        }
    }
    match tables.iter().find(|id| !seen.contains(id)) {
        Some(missing) => Err(ChunkError::Missing(*missing)),
        None => Ok(relations),
    }
}

/// How large a table is on disk.
#[derive(Clone, Copy, Default)]
pub(super) struct Size {
    /// Of the heap.
    pub blocks: u64,
    /// Of heap and TOAST.
    pub bytes: u64,
    /// Of the indexes.
    pub index_bytes: u64,
}

/// Sizes now. A table that somebody has locked exclusively is not waited for: statistics say how
/// large it was. Sizes only say how to cut; a chunk is whole whatever they were.
pub(super) async fn sizes(
    client: &Client,
    ids: &[u32],
) -> Result<BTreeMap<TableId, Size>, ChunkError> {
    // The functions lock the table for a moment. Whoever waits for an exclusive lock comes first.
    const SIZES: &str = "
        SELECT c.oid,
               CASE WHEN locked THEN c.relpages::int8 ELSE
                   pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::int8 END,
               CASE WHEN locked THEN c.relpages::int8 * current_setting('block_size')::int8
                   ELSE pg_catalog.pg_table_size(c.oid) END,
               CASE WHEN locked THEN 0 ELSE pg_catalog.pg_indexes_size(c.oid) END
        FROM (SELECT c.oid, c.relpages, $2 OR c.oid IN (
                  SELECT l.relation FROM pg_catalog.pg_locks l
                  WHERE l.mode = 'AccessExclusiveLock' AND l.relation IS NOT NULL) AS locked
              FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1)) c";
    let failed = database("reading the tables' sizes");
    // Somebody may come between the look at the locks and the function.
    let begin = format!("SAVEPOINT sizes; SET LOCAL lock_timeout = {SIZE_LOCK_MS}");
    client.batch_execute(&begin).await.map_err(&failed)?;
    let rows = match client.query(SIZES, &[&ids, &false]).await {
        Err(error) if is_lock_timeout(&error) => {
            client.batch_execute("ROLLBACK TO SAVEPOINT sizes").await.map_err(&failed)?;
            client.query(SIZES, &[&ids, &true]).await
        }
        result => result,
    };
    let rows = rows.map_err(&failed)?;
    let end = "ROLLBACK TO SAVEPOINT sizes; RELEASE SAVEPOINT sizes";
    client.batch_execute(end).await.map_err(&failed)?;
    let mut sizes = BTreeMap::new();
    for row in rows {
        let number = |at: usize| -> Result<u64, ChunkError> {
            let number: Option<i64> = row.try_get(at).map_err(&failed)?;
            Ok(u64::try_from(number.unwrap_or(0)).unwrap_or(0))
        };
        let size = Size { blocks: number(1)?, bytes: number(2)?, index_bytes: number(3)? };
        sizes.insert(TableId(row.try_get(0).map_err(&failed)?), size);
    }
    Ok(sizes)
}

pub(super) type Columns = BTreeMap<TableId, Vec<(String, u32)>>;

pub(super) async fn columns(
    client: &Client,
    ids: &[u32],
    version: u32,
) -> Result<Columns, ChunkError> {
    // Generated columns came with PostgreSQL 12.
    let ungenerated = if version >= 120_000 { "AND attgenerated = ''" } else { "" };
    let statement = format!(
        "SELECT attrelid, attname::text, atttypid FROM pg_catalog.pg_attribute
         WHERE attrelid = ANY ($1) AND attnum > 0 AND NOT attisdropped {ungenerated}
         ORDER BY attrelid, attnum"
    );
    let failed = database("reading the tables' columns");
    let mut columns = Columns::new();
    for row in client.query(&statement, &[&ids]).await.map_err(&failed)? {
        let id = TableId(row.try_get(0).map_err(&failed)?);
        let name = row.try_get(1).map_err(&failed)?;
        let type_oid = row.try_get(2).map_err(&failed)?;
        columns.entry(id).or_default().push((name, type_oid));
    }
    Ok(columns)
}

/// Single-column integer primary keys.
pub(super) async fn integer_keys(
    client: &Client,
    ids: &[u32],
) -> Result<BTreeMap<TableId, String>, ChunkError> {
    const KEYS: &str = "
        SELECT i.indrelid, a.attname::text
        FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = ANY ($1) AND i.indisprimary AND i.indisvalid AND i.indnatts = 1
          AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)";
    let failed = database("reading the tables' primary keys");
    let mut keys = BTreeMap::new();
    for row in client.query(KEYS, &[&ids]).await.map_err(&failed)? {
        keys.insert(TableId(row.try_get(0).map_err(&failed)?), row.try_get(1).map_err(&failed)?);
    }
    Ok(keys)
}
