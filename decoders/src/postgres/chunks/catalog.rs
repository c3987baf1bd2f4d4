//! What the plan needs to know of the tables, and the locks that keep it true.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::{ChunkError, PlanOptions, database};
use crate::change::{QualifiedName, TableId};

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

/// Keeps everybody from rewriting, truncating or dropping the tables until the transaction ends.
pub(super) async fn lock(
    client: &Client,
    relations: &[Relation],
    options: &PlanOptions,
) -> Result<(), ChunkError> {
    const BATCH: usize = 500;
    let timeout = format!("SET LOCAL lock_timeout = {}", options.lock_timeout_ms);
    client.batch_execute(&timeout).await.map_err(database("setting lock_timeout"))?;
    for batch in relations.chunks(BATCH) {
        let names: Vec<String> =
            batch.iter().map(|relation| format!("ONLY {}", relation.name)).collect();
        let statement = format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "));
        let doing = match batch {
            [one] => format!("locking table {} against being rewritten", one.name),
            [first, rest @ ..] => {
                format!("locking {} and {} more against being rewritten", first.name, rest.len())
            }
            [] => continue,
        };
        client.batch_execute(&statement).await.map_err(database(&doing))?;
    }
    client
        .batch_execute("SET LOCAL lock_timeout = 0")
        .await
        .map_err(database("setting lock_timeout"))
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

/// Sizes now, and proof that what the snapshot sees is what was locked: `relfilenode` comes from
/// the snapshot, `pg_relation_filenode` and `to_regclass` from now.
pub(super) async fn sizes(
    client: &Client,
    relations: &[Relation],
    ids: &[u32],
) -> Result<BTreeMap<TableId, Size>, ChunkError> {
    const SIZES: &str = "
        SELECT oid, pg_catalog.pg_relation_filenode(oid),
               pg_catalog.pg_relation_size(oid) / current_setting('block_size')::int8,
               pg_catalog.pg_table_size(oid), pg_catalog.pg_indexes_size(oid),
               pg_catalog.to_regclass(
                   pg_catalog.quote_ident(nspname) || '.' || pg_catalog.quote_ident(relname))::oid
        FROM (SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE c.oid = ANY ($1)) known";
    let failed = database("reading the tables' sizes");
    let rows = client.query(SIZES, &[&ids]).await.map_err(&failed)?;
    let mut now = BTreeMap::new();
    for row in rows {
        let id = TableId(row.try_get(0).map_err(&failed)?);
        let file_node: Option<u32> = row.try_get(1).map_err(&failed)?;
        let blocks: Option<i64> = row.try_get(2).map_err(&failed)?;
        let bytes: Option<i64> = row.try_get(3).map_err(&failed)?;
        let index_bytes: Option<i64> = row.try_get(4).map_err(&failed)?;
        let named: Option<u32> = row.try_get(5).map_err(&failed)?;
        let size = Size {
            blocks: u64::try_from(blocks.unwrap_or(0)).unwrap_or(0),
            bytes: u64::try_from(bytes.unwrap_or(0)).unwrap_or(0),
            index_bytes: u64::try_from(index_bytes.unwrap_or(0)).unwrap_or(0),
        };
        now.insert(id, (file_node, named, size));
    }
    let mut sizes = BTreeMap::new();
    for relation in relations {
        match now.get(&relation.id) {
            Some((file_node, named, size))
                if *file_node == Some(relation.file_node) && *named == Some(relation.id.0) =>
            {
                sizes.insert(relation.id, *size);
            }
            _ => return Err(ChunkError::Rewritten(relation.name.clone())),
        }
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
