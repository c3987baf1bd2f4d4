//! What the catalog says of a relation that takes part, in the detail in which a change of it can be told from
//! no change: who it is, where its rows lie, and which transactions wrote its catalog rows.
//!
//! A catalog row's `xmin` names the transaction that wrote that version of it (PostgreSQL manual, 5.6 System
//! Columns). It is compared for equality only, and only on one server: freezing keeps it since 9.4.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Row};

use super::error::CatalogError;
use super::filter::TableFilter;
use crate::change::QualifiedName;

/// A column, dropped ones too.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ColumnRecord {
    /// `attnum`: never given to another column.
    pub number: i16,
    /// Name, unquoted; of a dropped column what the server calls it since.
    pub name: String,
    /// The type with its modifier, as SQL; empty for a dropped column.
    pub type_name: String,
    /// NOT NULL.
    pub not_null: bool,
    /// The DEFAULT or the generation expression, as SQL.
    pub default: Option<String>,
    /// `attidentity`.
    pub identity: String,
    /// `attgenerated`.
    pub generated: String,
    /// It was dropped.
    pub is_dropped: bool,
    /// Rows from before it was added have a value that only the catalog holds (11+).
    pub fills_older_rows: bool,
    /// Who wrote the column's catalog row.
    pub version: String,
}

/// A table that a relation is a partition or a child of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ParentRecord {
    /// OID.
    pub oid: u32,
    /// Its name.
    pub name: QualifiedName,
    /// Who wrote the link.
    pub version: String,
}

/// An ordinary or partitioned table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RelationRecord {
    /// OID.
    pub oid: u32,
    /// Name.
    pub name: QualifiedName,
    /// A partitioned table: it holds no rows.
    pub is_root: bool,
    /// `relpersistence`.
    pub persistence: String,
    /// `relfilenode`: the file that its rows are in.
    pub file_node: u32,
    /// OID of its TOAST table; 0 if there is none.
    pub toast: u32,
    /// Who wrote the relation's catalog row.
    pub version: String,
    /// `relreplident`.
    pub replica_identity: String,
    /// The primary key as the server prints it.
    pub primary_key: Option<String>,
    /// Owner.
    pub owner: String,
    /// Parents; one for a partition.
    pub parents: Vec<ParentRecord>,
    /// The partition's bounds, as SQL: `FOR VALUES ..` or `DEFAULT`.
    pub bounds: Option<String>,
    /// Made as a child of the parent that it has, and with it ever since: see [`BORN`].
    pub is_born_child: bool,
    /// Who put it into the publication, and how: changes whenever it was outside for a while. That of a
    /// partition begins with that of its parent and a slash, if it is in through it. `None`: it is not in it.
    pub membership: Option<String>,
    /// Columns in `attnum` order.
    pub columns: Vec<ColumnRecord>,
}

impl RelationRecord {
    /// Whether it is a partition.
    pub fn is_partition(&self) -> bool {
        self.bounds.is_some()
    }

    /// Whether changes of its rows are in the log under its own OID.
    pub fn is_decoded(&self) -> bool {
        !self.is_root && self.persistence == "p"
    }
}

/// Whether a relation was made as a child (CREATE TABLE .. PARTITION OF) and never left its parent. The
/// catalog rows of system columns are written when a table is made and never again, in the same
/// command as those of its columns. ATTACH PARTITION writes those of all inherited columns anew (they
/// count their parents), also within the transaction that made the table. So: a column that has a parent
/// and was not written since the table was made had it from the beginning; and the link is as old.
const BORN: &str = "EXISTS (
    SELECT FROM pg_attribute a, pg_attribute s, pg_inherits i
    WHERE i.inhrelid = c.oid AND a.attrelid = c.oid AND s.attrelid = c.oid
      AND s.attnum = -1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attinhcount > 0
      AND a.xmin = s.xmin AND a.cmin = s.cmin AND i.xmin = s.xmin)";

/// Publication memberships: who wrote the publication and its rows, by relation.
const MEMBERS: &str = "
    SELECT r.prrelid, concat(p.oid, '.', p.xmin, '.', r.xmin)
    FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
    WHERE p.pubname = $1";

/// Records of all relations that the filter takes, roots too, by name. A few queries, no locks; within
/// a transaction its snapshot rules. `publication` need not exist.
pub async fn relation_records(
    client: &Client,
    filter: &TableFilter,
    publication: &str,
) -> Result<Vec<RelationRecord>, CatalogError> {
    super::pin_search_path(client).await?;
    let version_num = super::server::version_num(client).await?;
    let failed = |error| CatalogError::query("records of tables", error);
    let rows = client.query(&relations_query(), &[]).await.map_err(failed)?;
    let mut columns: HashMap<u32, Vec<ColumnRecord>> = HashMap::new();
    for row in client.query(&columns_query(version_num), &[]).await.map_err(failed)? {
        columns.entry(row.get("attrelid")).or_default().push(column(&row));
    }
    let mut parents: HashMap<u32, Vec<ParentRecord>> = HashMap::new();
    for row in client.query(&parents_query(), &[]).await.map_err(failed)? {
        parents.entry(row.get("inhrelid")).or_default().push(ParentRecord {
            oid: row.get("inhparent"),
            name: QualifiedName { schema: row.get("nspname"), name: row.get("relname") },
            version: row.get("version"),
        });
    }
    let members = client.query(MEMBERS, &[&publication]).await.map_err(failed)?;
    let members: HashMap<u32, String> =
        members.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut records: Vec<_> = rows
        .iter()
        .map(|row| relation(row, &mut columns, &parents))
        .filter(|record| filter.takes(&record.name))
        .collect();
    for record in &mut records {
        record.membership = membership(record.oid, &parents, &members);
    }
    Ok(records)
}

/// By itself, or through a partitioned table above it: then every link between them counts.
fn membership(
    oid: u32,
    parents: &HashMap<u32, Vec<ParentRecord>>,
    members: &HashMap<u32, String>,
) -> Option<String> {
    let (mut at, mut links) = (oid, String::new());
    loop {
        if let Some(member) = members.get(&at) {
            return Some(format!("{member}{links}"));
        }
        // An ordinary child is not published with its parent once the publication is made.
        let [parent] = parents.get(&at)?.as_slice() else { return None };
        links = format!("/{}.{}{links}", parent.oid, parent.version);
        at = parent.oid;
    }
}

fn relations_query() -> String {
    let candidates = super::candidates();
    format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind = 'p' AS is_root,
                c.relpersistence::text, c.relfilenode, c.reltoastrelid, c.xmin::text AS version,
                c.relreplident::text, pg_get_userbyid(c.relowner)::text AS owner,
                (SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k
                 WHERE k.conrelid = c.oid AND k.contype = 'p') AS primary_key,
                CASE WHEN c.relispartition THEN pg_get_expr(c.relpartbound, c.oid) END AS bounds,
                {BORN} AS is_born_child
         FROM ({candidates}) k JOIN pg_class c ON c.oid = k.oid
         JOIN pg_namespace n ON n.oid = c.relnamespace
         ORDER BY n.nspname, c.relname"
    )
}

fn columns_query(version_num: u32) -> String {
    let candidates = super::candidates();
    let missing = if version_num >= 110_000 { "a.atthasmissing" } else { "false" };
    let generated = if version_num >= 120_000 { "a.attgenerated::text" } else { "''::text" };
    format!(
        "SELECT a.attrelid, a.attnum, a.attname::text,
                CASE WHEN a.attisdropped THEN '' ELSE format_type(a.atttypid, a.atttypmod) END
                    AS type_name,
                a.attnotnull, pg_get_expr(d.adbin, d.adrelid) AS default,
                a.attidentity::text, {generated} AS generated, a.attisdropped,
                {missing} AS fills_older_rows, a.xmin::text AS version
         FROM ({candidates}) c
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
         LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         ORDER BY a.attrelid, a.attnum"
    )
}

/// Of all partitions, and of children: whatever they are called, a link above a candidate counts.
fn parents_query() -> String {
    "SELECT i.inhrelid, i.inhparent, i.xmin::text AS version, n.nspname::text, p.relname::text
     FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
     JOIN pg_namespace n ON n.oid = p.relnamespace
     WHERE p.relkind IN ('r', 'p')
     ORDER BY i.inhrelid, i.inhseqno"
        .to_owned()
}

fn column(row: &Row) -> ColumnRecord {
    ColumnRecord {
        number: row.get("attnum"),
        name: row.get("attname"),
        type_name: row.get("type_name"),
        not_null: row.get("attnotnull"),
        default: row.get("default"),
        identity: row.get("attidentity"),
        generated: row.get("generated"),
        is_dropped: row.get("attisdropped"),
        fills_older_rows: row.get("fills_older_rows"),
        version: row.get("version"),
    }
}

fn relation(
    row: &Row,
    columns: &mut HashMap<u32, Vec<ColumnRecord>>,
    parents: &HashMap<u32, Vec<ParentRecord>>,
) -> RelationRecord {
    let oid: u32 = row.get("oid");
    RelationRecord {
        oid,
        name: QualifiedName { schema: row.get("nspname"), name: row.get("relname") },
        is_root: row.get("is_root"),
        persistence: row.get("relpersistence"),
        file_node: row.get("relfilenode"),
        toast: row.get("reltoastrelid"),
        version: row.get("version"),
        replica_identity: row.get("relreplident"),
        primary_key: row.get("primary_key"),
        owner: row.get("owner"),
        parents: parents.get(&oid).cloned().unwrap_or_default(),
        bounds: row.get("bounds"),
        is_born_child: row.get("is_born_child"),
        membership: None,
        columns: columns.remove(&oid).unwrap_or_default(),
    }
}
