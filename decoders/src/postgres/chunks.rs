//! What one COPY of the first copy reads: whole tables, or ranges of them.
//!
//! Everything here happens inside one transaction on an exported snapshot, which the caller keeps
//! open until the copy is over: its locks are what keeps the plan true.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use crate::change::{QualifiedName, TableId};

use super::types::is_binary_safe;

/// TID range scans came with PostgreSQL 14 (release notes 14, E.1.3.1.2); before, a condition on
/// `ctid` reads the whole table every time.
const TID_RANGE_SCAN_VERSION: u32 = 140_000;

/// Most chunks of one table: beyond, they get larger.
const CHUNKS_PER_TABLE_MAX: u64 = 10_000;

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
    /// `TRUNCATE`, `VACUUM FULL`, `CLUSTER` or a rewriting `ALTER TABLE` came between the snapshot
    /// and the lock. Such a table can look empty to an older snapshot (PostgreSQL manual, 13.6
    /// Caveats), so copying it might lose rows.
    #[error("table {0} was rewritten, renamed or dropped after the snapshot was taken")]
    Rewritten(QualifiedName),
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
    /// Size to aim at for one chunk, with its share of the TOAST table, in bytes.
    pub chunk_bytes: u64,
    /// How long to wait for the tables' locks, milliseconds.
    pub lock_timeout_ms: u64,
}

/// The form in which values travel from COPY to COPY.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyFormat {
    /// Send and receive functions; only if every column's bytes mean the same on any server.
    Binary,
    /// Output and input functions, with the settings that they depend on pinned.
    Text,
}

impl CopyFormat {
    fn keyword(self) -> &'static str {
        match self {
            CopyFormat::Binary => "binary",
            CopyFormat::Text => "text",
        }
    }
}

/// A part of a table. The first has no lower and the last no upper bound, so together they are
/// the whole table whatever the statistics said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChunkRange {
    /// Everything.
    Whole,
    /// Heap blocks `from..until`.
    Blocks {
        /// First block.
        from: u32,
        /// First block that is no longer meant.
        until: Option<u32>,
    },
    /// Values of an integer primary key, `from..until`.
    Key {
        /// The key's column.
        column: String,
        /// Smallest value.
        from: Option<i64>,
        /// First value that is no longer meant.
        until: Option<i64>,
    },
}

/// One table and how it is copied.
#[derive(Clone, Debug)]
pub struct TablePlan {
    /// The table on the source.
    pub id: TableId,
    /// Its name.
    pub name: QualifiedName,
    /// Columns that travel: all but the generated ones, which the target computes.
    pub columns: Vec<String>,
    /// How values travel.
    pub format: CopyFormat,
    /// Rows by the source's statistics; `None` if it has none.
    pub rows_estimated: Option<u64>,
    /// Heap and TOAST, bytes on disk.
    pub bytes_on_disk: u64,
    /// The parts, together the whole table.
    pub chunks: Vec<ChunkRange>,
}

impl TablePlan {
    /// The statement that reads a chunk.
    pub fn copy_out_sql(&self, range: &ChunkRange) -> String {
        let format = self.format.keyword();
        let columns = self.column_list();
        let condition = match range {
            ChunkRange::Whole => {
                let columns = if columns.is_empty() { columns } else { format!(" ({columns})") };
                return format!("COPY {}{columns} TO STDOUT (FORMAT {format})", self.name);
            }
            ChunkRange::Blocks { from, until } => {
                let lower = (*from > 0).then(|| format!("ctid >= '({from},0)'::pg_catalog.tid"));
                let upper = until.map(|until| format!("ctid < '({until},0)'::pg_catalog.tid"));
                conjunction([lower, upper])
            }
            ChunkRange::Key { column, from, until } => {
                let column = quote(column);
                let lower = from.map(|from| format!("{column} >= {from}"));
                let upper = until.map(|until| format!("{column} < {until}"));
                conjunction([lower, upper])
            }
        };
        let name = &self.name;
        format!("COPY (SELECT {columns} FROM ONLY {name}{condition}) TO STDOUT (FORMAT {format})")
    }

    /// The statement that writes one on the target.
    pub fn copy_in_sql(&self) -> String {
        let columns = self.column_list();
        // A table without columns (or with generated ones only) takes no column list.
        let columns = if columns.is_empty() { columns } else { format!(" ({columns})") };
        format!("COPY {}{columns} FROM STDIN (FORMAT {})", self.name, self.format.keyword())
    }

    fn column_list(&self) -> String {
        self.columns.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")
    }
}

fn conjunction(conditions: [Option<String>; 2]) -> String {
    let conditions: Vec<String> = conditions.into_iter().flatten().collect();
    if conditions.is_empty() {
        String::new()
    } else {
        format!(" WHERE {}", conditions.join(" AND "))
    }
}

/// An SQL identifier, quoted always.
fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

struct Relation {
    id: TableId,
    name: QualifiedName,
    kind: String,
    access_method: Option<String>,
    file_node: u32,
    rows: f32,
}

/// Locks the tables against being rewritten and plans their copy, largest first.
///
/// Partitioned tables stand for their leaves; a table that comes twice is planned once.
/// `client` must be inside the snapshot's transaction, which must stay open as long as any chunk
/// is still to be read.
///
/// # Errors
/// [`ChunkError`]; [`ChunkError::Rewritten`] goes away with a new snapshot.
pub async fn plan(
    client: &Client,
    tables: &[TableId],
    options: &PlanOptions,
) -> Result<Vec<TablePlan>, ChunkError> {
    let failed = database("reading the server's version");
    let version = client.query_one("SELECT current_setting('server_version_num')::int4", &[]).await;
    let version = version.and_then(|row| row.try_get::<_, i32>(0)).map_err(failed)? as u32;
    let relations = leaves(client, tables).await?;
    lock(client, &relations, options).await?;

    let ids: Vec<u32> = relations.iter().map(|relation| relation.id.0).collect();
    let sizes = sizes(client, &relations, &ids).await?;
    let mut columns = columns(client, &ids, version).await?;
    let types: BTreeSet<u32> = columns.values().flatten().map(|(_, type_oid)| *type_oid).collect();
    let safe = binary_safe(client, types).await?;
    let keys = if version < TID_RANGE_SCAN_VERSION {
        integer_keys(client, &ids).await?
    } else {
        BTreeMap::new()
    };

    let mut plans = Vec::with_capacity(relations.len());
    for relation in relations {
        let columns = columns.remove(&relation.id).unwrap_or_default();
        let size = sizes.get(&relation.id).copied().unwrap_or_default();
        let is_safe = columns.iter().all(|(_, type_oid)| safe.contains(type_oid));
        let is_heap = relation.access_method.as_deref().is_none_or(|name| name == "heap");
        let pieces = size.pieces(options.chunk_bytes);
        let chunks = if pieces < 2 {
            vec![ChunkRange::Whole]
        } else if version >= TID_RANGE_SCAN_VERSION && is_heap {
            block_ranges(size.blocks, pieces)
        } else if let Some(key) = keys.get(&relation.id) {
            key_ranges(client, &relation.name, key, pieces).await?
        } else {
            vec![ChunkRange::Whole]
        };
        plans.push(TablePlan {
            id: relation.id,
            name: relation.name,
            columns: columns.into_iter().map(|(name, _)| name).collect(),
            format: if is_safe { CopyFormat::Binary } else { CopyFormat::Text },
            // -1: never analyzed; 0 before PostgreSQL 14 means the same.
            rows_estimated: (relation.rows > 0.0).then_some(relation.rows as u64),
            bytes_on_disk: size.bytes,
            chunks,
        });
    }
    plans.sort_by(|a, b| b.bytes_on_disk.cmp(&a.bytes_on_disk).then_with(|| a.name.cmp(&b.name)));
    Ok(plans)
}

/// The tables, with partitioned ones replaced by their leaves.
async fn leaves(client: &Client, tables: &[TableId]) -> Result<Vec<Relation>, ChunkError> {
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
async fn lock(
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

#[derive(Clone, Copy, Default)]
struct Size {
    blocks: u64,
    bytes: u64,
}

impl Size {
    /// Chunks to aim at; below 2 the table stays whole.
    fn pieces(self, chunk_bytes: u64) -> u64 {
        let wanted = self.bytes.div_ceil(chunk_bytes.max(1));
        // One that is barely above the size is not worth two scans.
        if self.bytes < chunk_bytes.saturating_add(chunk_bytes / 2) {
            return 1;
        }
        wanted.min(self.blocks).min(CHUNKS_PER_TABLE_MAX)
    }
}

/// Sizes now, and proof that what the snapshot sees is what was locked: `relfilenode` comes from
/// the snapshot, `pg_relation_filenode` and `to_regclass` from now.
async fn sizes(
    client: &Client,
    relations: &[Relation],
    ids: &[u32],
) -> Result<BTreeMap<TableId, Size>, ChunkError> {
    const SIZES: &str = "
        SELECT oid, pg_catalog.pg_relation_filenode(oid),
               pg_catalog.pg_relation_size(oid) / current_setting('block_size')::int8,
               pg_catalog.pg_table_size(oid),
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
        let named: Option<u32> = row.try_get(4).map_err(&failed)?;
        let size = Size {
            blocks: u64::try_from(blocks.unwrap_or(0)).unwrap_or(0),
            bytes: u64::try_from(bytes.unwrap_or(0)).unwrap_or(0),
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

type Columns = BTreeMap<TableId, Vec<(String, u32)>>;

async fn columns(client: &Client, ids: &[u32], version: u32) -> Result<Columns, ChunkError> {
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

struct TypeFacts {
    kind: String,
    /// Of a domain.
    base: u32,
    /// Of a range or multirange.
    subtype: Option<u32>,
    /// Of a composite.
    fields: Vec<u32>,
}

/// Those of `types` whose binary form means the same on every server.
///
/// User-defined types differ in their OIDs only. Enums travel as their label, domains as their
/// base type, ranges and multiranges as their bounds: none of them carries an OID. Arrays carry
/// their element's and composites their fields' OIDs, so they are safe with built-in ones only.
async fn binary_safe(client: &Client, types: BTreeSet<u32>) -> Result<BTreeSet<u32>, ChunkError> {
    const FACTS: &str = "
        SELECT t.oid, t.typtype::text, t.typbasetype, r.rngsubtype,
               ARRAY(SELECT a.atttypid FROM pg_catalog.pg_attribute a
                     WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0
                       AND NOT a.attisdropped)
        FROM pg_catalog.pg_type t
        LEFT JOIN pg_catalog.pg_range r
             ON t.oid IN (r.rngtypid, (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::oid)
        WHERE t.oid = ANY ($1)";
    let failed = database("reading the columns' types");
    let mut facts: BTreeMap<u32, TypeFacts> = BTreeMap::new();
    let mut wanted: Vec<u32> = types.iter().copied().filter(|oid| !is_binary_safe(*oid)).collect();
    while !wanted.is_empty() {
        let rows = client.query(FACTS, &[&wanted]).await.map_err(&failed)?;
        wanted.clear();
        for row in rows {
            let known = TypeFacts {
                kind: row.try_get(1).map_err(&failed)?,
                base: row.try_get(2).map_err(&failed)?,
                subtype: row.try_get(3).map_err(&failed)?,
                fields: row.try_get(4).map_err(&failed)?,
            };
            wanted.extend(known.subtype.into_iter().chain(Some(known.base)));
            facts.insert(row.try_get(0).map_err(&failed)?, known);
        }
        wanted.retain(|oid| *oid != 0 && !facts.contains_key(oid) && !is_binary_safe(*oid));
        wanted.sort_unstable();
        wanted.dedup();
    }
    Ok(types.into_iter().filter(|oid| is_safe(*oid, &facts)).collect())
}

fn is_safe(oid: u32, facts: &BTreeMap<u32, TypeFacts>) -> bool {
    if is_binary_safe(oid) {
        return true;
    }
    let Some(known) = facts.get(&oid) else {
        return false;
    };
    match known.kind.as_str() {
        "e" => true,
        "d" => is_safe(known.base, facts),
        "r" | "m" => known.subtype.is_some_and(|subtype| is_safe(subtype, facts)),
        "c" => known.fields.iter().all(|field| is_binary_safe(*field)),
        _ => false,
    }
}

/// Single-column integer primary keys.
async fn integer_keys(
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

/// Equal ranges of blocks.
fn block_ranges(blocks: u64, pieces: u64) -> Vec<ChunkRange> {
    let step = blocks.div_ceil(pieces.max(1)).max(1);
    // Block numbers are 32 bits wide (BlockNumber), so this never saturates.
    let block = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
    let starts: Vec<u64> = (0..blocks.max(1)).step_by(step as usize).collect();
    starts
        .iter()
        .enumerate()
        .map(|(at, from)| ChunkRange::Blocks {
            from: block(*from),
            until: starts.get(at + 1).map(|next| block(*next)),
        })
        .collect()
}

/// Equal ranges of key values, open at both ends.
async fn key_ranges(
    client: &Client,
    table: &QualifiedName,
    column: &str,
    pieces: u64,
) -> Result<Vec<ChunkRange>, ChunkError> {
    let key = quote(column);
    let statement = format!("SELECT min({key})::int8, max({key})::int8 FROM ONLY {table}");
    let doing = format!("reading the key range of {table}");
    let failed = database(&doing);
    let row = client.query_one(&statement, &[]).await.map_err(&failed)?;
    let min: Option<i64> = row.try_get(0).map_err(&failed)?;
    let max: Option<i64> = row.try_get(1).map_err(&failed)?;
    Ok(match (min, max) {
        (Some(min), Some(max)) => split_keys(column, min, max, pieces),
        _ => vec![ChunkRange::Whole],
    })
}

fn split_keys(column: &str, min: i64, max: i64, pieces: u64) -> Vec<ChunkRange> {
    let (low, high) = (i128::from(min), i128::from(max));
    let step = ((high - low) / i128::from(pieces.max(1))).max(1);
    let mut bounds: Vec<i64> = Vec::new();
    for piece in 1..i128::from(pieces) {
        match i64::try_from(low + step * piece) {
            Ok(bound) if bound <= max => bounds.push(bound),
            _ => break,
        }
    }
    if bounds.is_empty() {
        return vec![ChunkRange::Whole];
    }
    let lower = std::iter::once(None).chain(bounds.iter().copied().map(Some));
    let upper = bounds.iter().copied().map(Some).chain(std::iter::once(None));
    lower
        .zip(upper)
        .map(|(from, until)| ChunkRange::Key { column: column.to_owned(), from, until })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(columns: &[&str]) -> TablePlan {
        TablePlan {
            id: TableId(1),
            name: QualifiedName::new("S p", "t\"x"),
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            format: CopyFormat::Binary,
            rows_estimated: None,
            bytes_on_disk: 0,
            chunks: vec![ChunkRange::Whole],
        }
    }

    #[test]
    fn statements_quote_every_name() {
        let plan = table(&["a", "B\"b"]);
        assert_eq!(
            plan.copy_out_sql(&ChunkRange::Whole),
            r#"COPY "S p"."t""x" ("a", "B""b") TO STDOUT (FORMAT binary)"#
        );
        assert_eq!(
            plan.copy_out_sql(&ChunkRange::Blocks { from: 7, until: None }),
            r#"COPY (SELECT "a", "B""b" FROM ONLY "S p"."t""x" WHERE ctid >= '(7,0)'::pg_catalog.tid) TO STDOUT (FORMAT binary)"#
        );
        assert_eq!(
            plan.copy_in_sql(),
            r#"COPY "S p"."t""x" ("a", "B""b") FROM STDIN (FORMAT binary)"#
        );
    }

    #[test]
    fn tables_without_columns_take_no_list() {
        let plan = table(&[]);
        assert_eq!(
            plan.copy_out_sql(&ChunkRange::Whole),
            r#"COPY "S p"."t""x" TO STDOUT (FORMAT binary)"#
        );
        assert_eq!(plan.copy_in_sql(), r#"COPY "S p"."t""x" FROM STDIN (FORMAT binary)"#);
    }

    #[test]
    fn oids_inside_values_make_a_type_unsafe() {
        let facts = |kind: &str, base, subtype, fields: &[u32]| TypeFacts {
            kind: kind.into(),
            base,
            subtype,
            fields: fields.to_vec(),
        };
        let known = BTreeMap::from([
            (20_000, facts("e", 0, None, &[])),
            (20_001, facts("b", 0, None, &[])),
            (20_002, facts("d", 20_000, None, &[])),
            (20_003, facts("d", 20_001, None, &[])),
            (20_004, facts("r", 0, Some(20_000), &[])),
            (20_005, facts("c", 0, None, &[23, 25])),
            (20_006, facts("c", 0, None, &[23, 20_000])),
            (20_007, facts("d", 2205, None, &[])),
        ]);
        let safe: Vec<u32> = known.keys().copied().filter(|oid| is_safe(*oid, &known)).collect();
        assert_eq!(safe, [20_000, 20_002, 20_004, 20_005]);
        assert!(!is_safe(30_000, &known), "an unknown type");
    }

    proptest! {
        #[test]
        fn block_ranges_meet_and_cover_everything(blocks in 0u64..5_000_000, pieces in 1u64..10_000) {
            let ranges = block_ranges(blocks, pieces);
            prop_assert!(ranges.len() as u64 <= pieces);
            let mut next = Some(0);
            for range in ranges {
                let ChunkRange::Blocks { from, until } = range else { panic!("{range:?}") };
                prop_assert_eq!(next, Some(from));
                prop_assert!(until.is_none_or(|until| until > from));
                next = until;
            }
            prop_assert_eq!(next, None, "the last one is open");
        }

        #[test]
        fn every_key_is_in_exactly_one_range(
            a: i64, b: i64, probe: i64, pieces in 1u64..100,
        ) {
            let ranges = split_keys("k", a.min(b), a.max(b), pieces);
            prop_assert!(ranges.len() as u64 <= pieces);
            let holds = |range: &ChunkRange| match range {
                ChunkRange::Whole => true,
                ChunkRange::Key { from, until, .. } => {
                    from.is_none_or(|from| probe >= from) && until.is_none_or(|until| probe < until)
                }
                ChunkRange::Blocks { .. } => false,
            };
            prop_assert_eq!(ranges.iter().filter(|range| holds(range)).count(), 1);
        }
    }
}
