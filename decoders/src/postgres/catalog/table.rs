//! Tables that take part in the move.

use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Row};

use super::attached::{self, ForeignKey, Rule, Trigger};
use super::column::{self, ColumnInfo};
use super::error::CatalogError;
use super::filter::{TableFilter, USER_SCHEMAS};
use super::index::{self, ResolvedIdentity, UniqueIndex, resolve_identity};
use crate::change::{QualifiedName, ReplicaIdentity};

/// What kind of table it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableKind {
    /// An ordinary table, alone or in old-style inheritance.
    Plain,
    /// A partition that holds rows.
    PartitionLeaf,
    /// A partitioned table: holds no rows. It may itself be a partition.
    PartitionRoot,
}

/// How a table is stored (`relpersistence`). Temporary tables are never listed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Persistence {
    /// Logged.
    Permanent,
    /// Not in the write-ahead log, so no change of it can be decoded.
    Unlogged,
}

/// What the connected role may do with a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TableAccess {
    /// SELECT on the table and USAGE on its schema.
    pub select: bool,
    /// INSERT, UPDATE, DELETE and TRUNCATE, and USAGE on its schema.
    pub write: bool,
    /// Has the rights of the owner: needed to publish the table or to alter it.
    pub own: bool,
    /// Row-level security applies to the role (`row_security_active`).
    pub rows_hidden: bool,
}

/// An ordinary or partitioned table.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TableInfo {
    /// OID.
    pub oid: u32,
    /// Name.
    pub name: QualifiedName,
    /// Kind.
    pub kind: TableKind,
    /// How it is stored.
    pub persistence: Persistence,
    /// Owner.
    pub owner: String,
    /// Tablespace, where it is not the database's.
    pub tablespace: Option<String>,
    /// Access method where it is not `heap` (12+).
    pub access_method: Option<String>,
    /// The partitioned table that this is a partition of.
    pub partition_of: Option<u32>,
    /// Parents in old-style inheritance.
    pub inherits: Vec<u32>,
    /// WITH OIDS (before 12).
    pub has_oids: bool,
    /// Columns that are not dropped, in `attnum` order.
    pub columns: Vec<ColumnInfo>,
    /// REPLICA IDENTITY as it was set.
    pub identity_setting: ReplicaIdentity,
    /// REPLICA IDENTITY as it works; meaningless for [`TableKind::PartitionRoot`].
    pub identity: ResolvedIdentity,
    /// Unique indexes, the primary key first.
    pub unique_indexes: Vec<UniqueIndex>,
    /// Foreign keys from this table.
    pub foreign_keys: Vec<ForeignKey>,
    /// Users' triggers.
    pub triggers: Vec<Trigger>,
    /// Rules.
    pub rules: Vec<Rule>,
    /// ROW LEVEL SECURITY is enabled.
    pub row_security: bool,
    /// .. and binds the owner too.
    pub row_security_forced: bool,
    /// What the connected role may do.
    pub access: TableAccess,
    /// Pages by the last VACUUM or ANALYZE; 0 if there was none. Too small is possible.
    pub pages: i64,
    /// Rows by the last VACUUM or ANALYZE; `None` if there was none.
    pub estimated_rows: Option<f64>,
    /// Bytes on disk with TOAST, without indexes. Estimated from `pages` while somebody holds an
    /// exclusive lock, which a look at the files would have to wait for.
    pub bytes: i64,
}

impl TableInfo {
    /// Whether rows are stored in the table itself.
    pub fn holds_rows(&self) -> bool {
        self.kind != TableKind::PartitionRoot
    }

    /// Whether changes of the table are in the write-ahead log under its own OID.
    pub fn is_decoded(&self) -> bool {
        self.holds_rows() && self.persistence == Persistence::Permanent
    }

    /// Columns that are copied and replicated: those that the server does not compute.
    pub fn copied_columns(&self) -> impl Iterator<Item = &ColumnInfo> {
        self.columns.iter().filter(|column| column.generated.is_none())
    }

    /// The primary key's columns, in index order.
    pub fn primary_key(&self) -> Option<Vec<&ColumnInfo>> {
        let index = self.unique_indexes.iter().find(|index| index.primary)?;
        index.columns.iter().map(|number| self.column(*number)).collect()
    }

    /// The identity's columns, in index order; `None` for FULL or none.
    pub fn key_columns(&self) -> Option<Vec<&ColumnInfo>> {
        match &self.identity {
            ResolvedIdentity::Key { columns, .. } => {
                columns.iter().map(|number| self.column(*number)).collect()
            }
            ResolvedIdentity::Full | ResolvedIdentity::Missing(_) => None,
        }
    }

    /// A column by `attnum`.
    pub fn column(&self, number: i16) -> Option<&ColumnInfo> {
        self.columns.iter().find(|column| column.number == number)
    }

    /// A column by name.
    pub fn column_named(&self, name: &str) -> Option<&ColumnInfo> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// OIDs of the tables before the filter: ordinary and partitioned, permanent or unlogged, outside of
/// system schemas and not owned by an extension.
pub(super) fn candidates() -> String {
    format!(
        "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND {USER_SCHEMAS}
           AND NOT EXISTS (SELECT 1 FROM pg_depend x
                           WHERE x.classid = 'pg_class'::regclass AND x.objid = c.oid
                             AND x.objsubid = 0 AND x.deptype = 'e')"
    )
}

/// Reads all tables that the filter takes, by name. Six queries, whatever the number of tables;
/// nothing is locked and nothing waits. Within a transaction the snapshot rules, except for
/// sizes and privileges.
pub async fn tables(client: &Client, filter: &TableFilter) -> Result<Vec<TableInfo>, CatalogError> {
    super::pin_search_path(client).await?;
    let version_num = super::server::version_num(client).await?;
    let failed = |error| CatalogError::query("tables", error);
    let rows = client.query(&tables_query(version_num), &[]).await.map_err(failed)?;
    let mut columns = column::columns(client, version_num).await?;
    let mut indexes = index::unique_indexes(client, version_num).await?;
    let mut foreign_keys = attached::foreign_keys(client, version_num).await?;
    let mut triggers = attached::triggers(client).await?;
    let mut rules = attached::rules(client).await?;
    let mut tables = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut table = table(row)?;
        if !filter.takes(&table.name) {
            continue;
        }
        let oid = table.oid;
        table.columns = columns.remove(&oid).unwrap_or_default();
        table.unique_indexes = indexes.remove(&oid).unwrap_or_default();
        table.identity = resolve_identity(
            table.identity_setting,
            &table.unique_indexes,
            &table.columns,
            version_num,
        );
        table.foreign_keys = foreign_keys.remove(&oid).unwrap_or_default();
        table.triggers = triggers.remove(&oid).unwrap_or_default();
        table.rules = rules.remove(&oid).unwrap_or_default();
        tables.push(table);
    }
    Ok(tables)
}

fn tables_query(version_num: u32) -> String {
    let has_oids = if version_num < 120_000 { "c.relhasoids" } else { "false" };
    let access_method = if version_num >= 120_000 {
        "(SELECT m.amname::text FROM pg_am m WHERE m.oid = c.relam AND m.amname <> 'heap')"
    } else {
        "NULL::text"
    };
    let candidates = candidates();
    // The size functions take an ACCESS SHARE lock, so they would queue behind an ALTER TABLE:
    // tables under an exclusive lock (held or waited for) are estimated instead.
    format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relispartition,
                c.relpersistence::text, pg_get_userbyid(c.relowner)::text AS owner,
                s.spcname::text AS tablespace, {access_method} AS access_method,
                {has_oids} AS has_oids, c.relreplident::text,
                c.relrowsecurity, c.relforcerowsecurity,
                c.relpages::int8 AS pages, c.reltuples::float8 AS estimated_rows,
                (SELECT array_agg(i.inhparent ORDER BY i.inhseqno)
                 FROM pg_inherits i WHERE i.inhrelid = c.oid) AS parents,
                u.usage AND has_table_privilege(c.oid, 'SELECT') AS may_select,
                u.usage AND has_table_privilege(c.oid, 'INSERT')
                    AND has_table_privilege(c.oid, 'UPDATE')
                    AND has_table_privilege(c.oid, 'DELETE')
                    AND has_table_privilege(c.oid, 'TRUNCATE') AS may_write,
                pg_has_role(c.relowner, 'USAGE') AS may_own,
                row_security_active(c.oid) AS rows_hidden,
                coalesce(CASE WHEN c.relkind = 'p' THEN 0
                    WHEN c.oid IN (SELECT l.relation FROM pg_locks l
                                   WHERE l.mode = 'AccessExclusiveLock' AND l.relation IS NOT NULL)
                    THEN c.relpages::int8 * current_setting('block_size')::int8
                    ELSE pg_table_size(c.oid) END, 0) AS bytes
         FROM ({candidates}) k
         JOIN pg_class c ON c.oid = k.oid
         JOIN pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
         CROSS JOIN LATERAL (SELECT has_schema_privilege(n.oid, 'USAGE') AS usage) u
         ORDER BY n.nspname, c.relname"
    )
}

/// From `relkind` and `relispartition`.
pub(super) fn kind(row: &Row, name: &QualifiedName) -> Result<TableKind, CatalogError> {
    Ok(match (row.get::<_, &str>("relkind"), row.get("relispartition")) {
        ("p", _) => TableKind::PartitionRoot,
        ("r", true) => TableKind::PartitionLeaf,
        ("r", false) => TableKind::Plain,
        (code, _) => {
            let reason = format!("{name} has relkind {code:?}");
            return Err(CatalogError::unexpected("tables", reason));
        }
    })
}

fn table(row: &Row) -> Result<TableInfo, CatalogError> {
    let name = QualifiedName { schema: row.get("nspname"), name: row.get("relname") };
    let unknown = |what: &str, code: &str| {
        CatalogError::unexpected("tables", format!("{name} has {what} {code:?}"))
    };
    let is_partition: bool = row.get("relispartition");
    let kind = kind(row, &name)?;
    let persistence = match row.get::<_, &str>("relpersistence") {
        "p" => Persistence::Permanent,
        "u" => Persistence::Unlogged,
        code => return Err(unknown("relpersistence", code)),
    };
    let identity_setting = match row.get::<_, &str>("relreplident") {
        "d" => ReplicaIdentity::Default,
        "i" => ReplicaIdentity::Index,
        "f" => ReplicaIdentity::Full,
        "n" => ReplicaIdentity::Nothing,
        code => return Err(unknown("relreplident", code)),
    };
    let parents: Vec<u32> = row.get::<_, Option<_>>("parents").unwrap_or_default();
    let pages: i64 = row.get("pages");
    // Before 14 a table that was never analyzed has 0 pages and 0 rows, since then -1 rows.
    let rows: f64 = row.get("estimated_rows");
    let analyzed = rows > 0.0 || (rows == 0.0 && pages > 0);
    Ok(TableInfo {
        oid: row.get("oid"),
        kind,
        persistence,
        owner: row.get("owner"),
        tablespace: row.get("tablespace"),
        access_method: row.get("access_method"),
        partition_of: if is_partition { parents.first().copied() } else { None },
        inherits: if is_partition { Vec::new() } else { parents },
        has_oids: row.get("has_oids"),
        columns: Vec::new(),
        identity_setting,
        identity: resolve_identity(identity_setting, &[], &[], 0),
        unique_indexes: Vec::new(),
        foreign_keys: Vec::new(),
        triggers: Vec::new(),
        rules: Vec::new(),
        row_security: row.get("relrowsecurity"),
        row_security_forced: row.get("relforcerowsecurity"),
        access: TableAccess {
            select: row.get("may_select"),
            write: row.get("may_write"),
            own: row.get("may_own"),
            rows_hidden: row.get("rows_hidden"),
        },
        pages,
        estimated_rows: analyzed.then_some(rows),
        bytes: row.get("bytes"),
        name,
    })
}
