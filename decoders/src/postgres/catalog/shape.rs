//! What tables are like, without what is measured of them or asked about them.
//!
//! Comparing the definitions of ten thousand tables needs neither their sizes, for which the server looks
//! at every file, nor their indexes, foreign keys and triggers in the form in which the engine goes by them.

use tokio_postgres::Client;

use super::column::{self, ColumnInfo};
use super::error::CatalogError;
use super::filter::TableFilter;
use super::table::{self, TableInfo, TableKind, candidates};
use crate::change::QualifiedName;

/// An ordinary or partitioned table.
#[derive(Clone, PartialEq, Debug)]
pub struct TableShape {
    /// Name.
    pub name: QualifiedName,
    /// Kind.
    pub kind: TableKind,
    /// It is a partition.
    pub is_partition: bool,
    /// Columns that are not dropped, in `attnum` order.
    pub columns: Vec<ColumnInfo>,
}

impl From<&TableInfo> for TableShape {
    fn from(table: &TableInfo) -> Self {
        Self {
            name: table.name.clone(),
            kind: table.kind,
            is_partition: table.partition_of.is_some(),
            columns: table.columns.clone(),
        }
    }
}

/// Reads all tables that the filter takes, by name: those that [`super::tables`] reads. Two queries, whatever
/// the number of tables; nothing is locked and nothing waits.
pub async fn table_shapes(
    client: &Client,
    filter: &TableFilter,
) -> Result<Vec<TableShape>, CatalogError> {
    super::pin_search_path(client).await?;
    let version_num = super::server::version_num(client).await?;
    let candidates = candidates();
    let sql = format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relispartition
         FROM ({candidates}) k
         JOIN pg_class c ON c.oid = k.oid
         JOIN pg_namespace n ON n.oid = c.relnamespace
         ORDER BY n.nspname, c.relname"
    );
    let rows =
        client.query(&sql, &[]).await.map_err(|error| CatalogError::query("tables", error))?;
    let mut columns = column::columns(client, version_num).await?;
    let mut shapes = Vec::with_capacity(rows.len());
    for row in &rows {
        let name = QualifiedName { schema: row.get("nspname"), name: row.get("relname") };
        if !filter.takes(&name) {
            continue;
        }
        let oid: u32 = row.get("oid");
        shapes.push(TableShape {
            kind: table::kind(row, &name)?,
            is_partition: row.get("relispartition"),
            columns: columns.remove(&oid).unwrap_or_default(),
            name,
        });
    }
    Ok(shapes)
}
