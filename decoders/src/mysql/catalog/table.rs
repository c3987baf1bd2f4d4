//! Tables that take part in the move.

use std::collections::BTreeMap;

use mysql_async::Conn;
use serde::{Deserialize, Serialize};

use super::column::{self, ColumnInfo};
use super::key::{self, ForeignKey, UniqueKey};
use super::scope::Scope;
use super::{CatalogError, query};
use crate::change::QualifiedName;
use crate::mysql::server::Server;
use crate::mysql::{Selection, TableMap};
use crate::postgres::catalog::TableFilter;

/// What kind of table it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableKind {
    /// An ordinary table, with partitions or without.
    Plain,
    /// MariaDB: WITH SYSTEM VERSIONING; old rows stay.
    SystemVersioned,
    /// MariaDB: a sequence, which is stored as a table of one row.
    Sequence,
}

/// A trigger.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Trigger {
    /// Its schema, which is its table's, and its name.
    pub name: QualifiedName,
    /// `BEFORE INSERT` and the like.
    pub fires: String,
}

/// A table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TableInfo {
    /// Name.
    pub name: QualifiedName,
    /// Kind.
    pub kind: TableKind,
    /// Storage engine, such as `InnoDB`; `None` for a table that can't be opened.
    pub engine: Option<String>,
    /// The collation of columns that name none.
    pub collation: Option<String>,
    /// The next number that AUTO_INCREMENT gives, as far as the statistics know.
    pub auto_increment: Option<u64>,
    /// Rows by the engine's estimate.
    pub estimated_rows: Option<u64>,
    /// Bytes of the rows without secondary indexes, by the engine's estimate.
    pub bytes: u64,
    /// Columns in their order, generated and invisible ones too.
    pub columns: Vec<ColumnInfo>,
    /// Primary key and unique keys, the primary key first.
    pub unique_keys: Vec<UniqueKey>,
    /// Foreign keys from this table.
    pub foreign_keys: Vec<ForeignKey>,
    /// Triggers.
    pub triggers: Vec<Trigger>,
}

impl TableInfo {
    /// A column by name.
    pub fn column(&self, name: &str) -> Option<&ColumnInfo> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Columns that are copied and replicated: those that the server does not compute.
    pub fn copied_columns(&self) -> impl Iterator<Item = &ColumnInfo> {
        self.columns.iter().filter(|column| column.generated.is_none())
    }

    /// The primary key.
    pub fn primary_key(&self) -> Option<&UniqueKey> {
        self.unique_keys.iter().find(|key| key.is_primary())
    }

    /// The key that tells rows apart: the primary key, or else a unique key without NULLs and
    /// prefixes.
    pub fn row_key(&self) -> Option<&UniqueKey> {
        let whole = |key: &&UniqueKey| {
            key.columns.iter().all(|part| {
                let column = part.column.as_ref().and_then(|name| self.column(name));
                part.prefix.is_none() && column.is_some_and(|column| !column.nullable)
            })
        };
        self.primary_key().or_else(|| self.unique_keys.iter().find(whole))
    }

    /// Whether changes of it can be rolled back.
    pub fn is_transactional(&self) -> bool {
        let engine = self.engine.as_deref().unwrap_or_default();
        ["InnoDB", "NDB", "ndbcluster", "RocksDB"]
            .iter()
            .any(|name| name.eq_ignore_ascii_case(engine))
    }

    /// Positions of the primary key's columns, in the order of the columns.
    pub(in crate::mysql) fn primary_key_positions(&self) -> Option<Vec<usize>> {
        let key = self.primary_key()?;
        let position = |part: &key::KeyColumn| {
            let name = part.column.as_ref()?;
            self.columns.iter().position(|column| column.name == *name)
        };
        key.columns.iter().map(position).collect()
    }

    /// Whether the table that the binlog mapped can be this one.
    pub(in crate::mysql) fn fits(&self, map: &TableMap) -> bool {
        self.columns.len() == map.columns.len()
            && self.columns.iter().zip(&map.columns).all(|(column, mapped)| column.fits(mapped))
    }
}

/// All tables of `database` (of all databases, without one) that the filter takes, by name.
///
/// # Errors
/// A query failed, or the server said something unknown.
pub async fn tables(
    conn: &mut Conn,
    server: &Server,
    database: Option<&str>,
    filter: &TableFilter,
) -> Result<Vec<TableInfo>, CatalogError> {
    let scope = database.map_or(Scope::All, Scope::Database);
    let mut tables = read(conn, server, scope).await?;
    // Names of the catalog have one spelling.
    let selection = Selection::new(filter.clone(), None, false);
    tables.retain(|table| selection.takes(&table.name));
    Ok(tables)
}

/// One table; `None` if it is not there or is a view.
///
/// # Errors
/// As for [`tables`].
pub async fn table(
    conn: &mut Conn,
    server: &Server,
    name: &QualifiedName,
) -> Result<Option<TableInfo>, CatalogError> {
    // A server that folds case may answer with more than one.
    Ok(read(conn, server, Scope::Table(name)).await?.into_iter().find(|table| table.name == *name))
}

/// The names of MariaDB's sequences, of all databases. MySQL has none.
///
/// # Errors
/// As for [`tables`].
pub async fn sequences(conn: &mut Conn) -> Result<Vec<QualifiedName>, CatalogError> {
    let sql = "SELECT table_schema, table_name FROM information_schema.tables
               WHERE table_type = 'SEQUENCE'";
    let names: Vec<(String, String)> = query(conn, "sequences", sql).await?;
    Ok(names.into_iter().map(|(schema, name)| QualifiedName::new(schema, name)).collect())
}

async fn read(
    conn: &mut Conn,
    server: &Server,
    scope: Scope<'_>,
) -> Result<Vec<TableInfo>, CatalogError> {
    let of = scope.condition("table_schema", "table_name");
    let sql = format!(
        "SELECT table_schema, table_name, table_type, engine, table_collation, auto_increment,
                table_rows, ifnull(data_length, 0)
         FROM information_schema.tables
         WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED', 'SEQUENCE') AND {of}
         ORDER BY table_schema, table_name"
    );
    type Row =
        (String, String, String, Option<String>, Option<String>, Option<u64>, Option<u64>, u64);
    let rows: Vec<Row> = query(conn, "tables", &sql).await?;
    let mut columns: BTreeMap<QualifiedName, Vec<ColumnInfo>> = BTreeMap::new();
    for (table, column) in column::columns(conn, scope).await? {
        columns.entry(table).or_default().push(column);
    }
    let mut unique_keys = key::unique_keys(conn, scope, server.is_mariadb()).await?;
    let mut foreign_keys = key::foreign_keys(conn, scope).await?;
    let mut triggers = triggers(conn, scope).await?;
    let table =
        |(schema, name, kind, engine, collation, auto_increment, estimated_rows, bytes): Row| {
            let name = QualifiedName::new(schema, name);
            TableInfo {
                kind: match kind.as_str() {
                    "SEQUENCE" => TableKind::Sequence,
                    "SYSTEM VERSIONED" => TableKind::SystemVersioned,
                    _ => TableKind::Plain,
                },
                engine,
                collation,
                auto_increment,
                estimated_rows,
                bytes,
                columns: columns.remove(&name).unwrap_or_default(),
                unique_keys: unique_keys.remove(&name).unwrap_or_default(),
                foreign_keys: foreign_keys.remove(&name).unwrap_or_default(),
                triggers: triggers.remove(&name).unwrap_or_default(),
                name,
            }
        };
    Ok(rows.into_iter().map(table).collect())
}

async fn triggers(
    conn: &mut Conn,
    scope: Scope<'_>,
) -> Result<BTreeMap<QualifiedName, Vec<Trigger>>, CatalogError> {
    let of = scope.condition("event_object_schema", "event_object_table");
    let sql = format!(
        "SELECT event_object_schema, event_object_table, trigger_name,
                concat(action_timing, ' ', event_manipulation)
         FROM information_schema.triggers WHERE {of}
         ORDER BY event_object_schema, event_object_table, trigger_name"
    );
    let rows: Vec<(String, String, String, String)> = query(conn, "triggers", &sql).await?;
    let mut triggers: BTreeMap<QualifiedName, Vec<Trigger>> = BTreeMap::new();
    for (schema, table, name, fires) in rows {
        let trigger = Trigger { name: QualifiedName::new(&schema, name), fires };
        triggers.entry(QualifiedName::new(schema, table)).or_default().push(trigger);
    }
    Ok(triggers)
}
