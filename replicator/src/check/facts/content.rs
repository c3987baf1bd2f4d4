//! What green holds already.

use decoders::QualifiedName;
use decoders::postgres::catalog::{CatalogError, TableInfo};
use tokio_postgres::Client;

use super::Probe;

/// Tables looked into by one statement.
const TABLES_PER_QUERY: usize = 200;

/// Rows and functions on green.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Content {
    /// Tables with at least one row.
    pub filled: Vec<QualifiedName>,
    /// Tables that could not be looked into, for want of SELECT or because of row-level security.
    pub unseen: Vec<QualifiedName>,
    /// Users' functions, procedures and aggregates.
    pub functions: Vec<String>,
}

pub(super) async fn read(client: &Client, tables: &[TableInfo]) -> Probe<Content> {
    let failed = |error| CatalogError::query("what green holds already", error);
    let holding = tables.iter().filter(|table| table.holds_rows());
    let (seen, unseen): (Vec<&TableInfo>, Vec<&TableInfo>) =
        holding.partition(|table| table.access.select && !table.access.rows_hidden);
    let mut filled = Vec::new();
    for tables in seen.chunks(TABLES_PER_QUERY) {
        let selects: Vec<String> = tables
            .iter()
            .enumerate()
            .map(|(at, table)| {
                format!("SELECT {at}::int4 WHERE EXISTS (SELECT 1 FROM ONLY {})", table.name)
            })
            .collect();
        for row in client.query(&selects.join(" UNION ALL "), &[]).await.map_err(failed)? {
            let at = usize::try_from(row.get::<_, i32>(0)).ok();
            if let Some(table) = at.and_then(|at| tables.get(at)) {
                filled.push(table.name.clone());
            }
        }
    }
    let functions = client
        .query(
            "SELECT p.oid::pg_catalog.regprocedure::text
             FROM pg_catalog.pg_proc p
             JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
             WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', '_cutover')
               AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend x
                               WHERE x.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                                 AND x.objid = p.oid AND x.deptype IN ('e', 'i'))
             ORDER BY 1",
            &[],
        )
        .await
        .map_err(failed)?;
    filled.sort();
    Ok(Content {
        filled,
        unseen: unseen.iter().map(|table| table.name.clone()).collect(),
        functions: functions.iter().map(|row| row.get(0)).collect(),
    })
}
