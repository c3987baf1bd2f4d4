//! Indexes that a server does not trust.

use decoders::QualifiedName;
use decoders::postgres::catalog::{CatalogError, TableFilter};
use tokio_postgres::Client;

use super::Probe;

/// Of tables and materialized views. One of a partitioned table is not valid until each partition has its
/// part, and is not made by REINDEX.
const INVALID: &str = "
SELECT n.nspname::text, c.relname::text, pg_catalog.format('%I.%I', n.nspname, i.relname),
       i.relkind = 'I'
FROM pg_catalog.pg_index x
JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
JOIN pg_catalog.pg_class c ON c.oid = x.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE NOT x.indisvalid AND c.relpersistence <> 't' AND c.relkind IN ('r', 'p', 'm')
ORDER BY 1, 2, 3";

/// An index that is there and not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidIndex {
    /// Its table.
    pub table: QualifiedName,
    /// Its name, quoted and with its schema.
    pub name: String,
    /// Whether it belongs to a partitioned table.
    pub is_partitioned: bool,
}

/// Those of the tables that take part.
pub(super) async fn read(client: &Client, filter: &TableFilter) -> Probe<Vec<InvalidIndex>> {
    let failed = |error| CatalogError::query("indexes that are not valid", error);
    let mut found = Vec::new();
    for row in client.query(INVALID, &[]).await.map_err(failed)? {
        let get = |at| row.try_get::<_, String>(at).map_err(failed);
        let table = QualifiedName::new(get(0)?, get(1)?);
        let is_partitioned = row.try_get(3).map_err(failed)?;
        found.push(InvalidIndex { table, name: get(2)?, is_partitioned });
    }
    found.retain(|index| filter.takes(&index.table));
    Ok(found)
}
