//! A table of green as applying has to know it.

use std::collections::BTreeMap;
use std::sync::Arc;

use decoders::change::QualifiedName;
use decoders::mysql::catalog::{self, TableInfo};
use decoders::mysql::server::Server;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::sync::Mutex;

use super::error::target_error;
use crate::target::TargetError;

/// A table of green.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct GreenTable {
    pub info: TableInfo,
    /// Its columns that foreign keys of other tables refer to which cascade.
    pub cascading: Vec<String>,
}

/// Columns that cascading foreign keys refer to, by the table that has the columns.
type Referenced = BTreeMap<QualifiedName, Vec<String>>;

/// The cascading foreign keys of all of green. Who refers to a table can only be found by looking at every table of
/// the server, which takes as long for one of them as for all: so it is done once, until a schema change comes.
#[derive(Clone, Debug, Default)]
pub(super) struct Cascades(Arc<Mutex<Option<Looked>>>);

/// How many schema changes had come when the catalog was read, and what it said.
type Looked = (u64, Arc<Referenced>);

impl Cascades {
    /// Those of now. `definitions`: how many schema changes have come.
    async fn of(&self, conn: &mut Conn, definitions: u64) -> Result<Arc<Referenced>, TargetError> {
        let mut known = self.0.lock().await;
        if let Some((_, referenced)) = known.as_ref().filter(|(of, _)| *of == definitions) {
            return Ok(Arc::clone(referenced));
        }
        let sql = "SELECT DISTINCT k.referenced_table_schema, k.referenced_table_name,
                     k.referenced_column_name
             FROM information_schema.referential_constraints r
             JOIN information_schema.key_column_usage k
               ON k.constraint_schema = r.constraint_schema AND k.constraint_name = r.constraint_name
              AND k.table_name = r.table_name
             WHERE k.referenced_column_name IS NOT NULL
               AND (r.update_rule NOT IN ('RESTRICT', 'NO ACTION')
                    OR r.delete_rule NOT IN ('RESTRICT', 'NO ACTION'))";
        let rows: Result<Vec<(String, String, String)>, _> = conn.query(sql).await;
        let doing = "reading the foreign keys on green";
        let rows = rows.map_err(|error| target_error(doing, error))?;
        let mut referenced = Referenced::new();
        for (schema, table, column) in rows {
            referenced.entry(QualifiedName::new(schema, table)).or_default().push(column);
        }
        let referenced = Arc::new(referenced);
        *known = Some((definitions, Arc::clone(&referenced)));
        Ok(referenced)
    }
}

/// What the catalog says of a table; `None` if it is not there.
pub(super) async fn info(
    conn: &mut Conn,
    server: &Server,
    name: &QualifiedName,
) -> Result<Option<TableInfo>, TargetError> {
    let doing = || format!("reading the definition of {name} on green");
    catalog::table(conn, server, name).await.map_err(|error| match error.cause {
        Some(cause) => target_error(doing(), *cause),
        None => TargetError::halt(format!("{}: {}", doing(), error.reason), "Please report it"),
    })
}

/// The same, with what cascades to it. `definitions`: how many schema changes have come.
pub(super) async fn table(
    conn: &mut Conn,
    server: &Server,
    name: &QualifiedName,
    cascades: &Cascades,
    definitions: u64,
) -> Result<Option<GreenTable>, TargetError> {
    let Some(info) = info(conn, server, name).await? else { return Ok(None) };
    let cascading = cascades.of(conn, definitions).await?.get(name).cloned().unwrap_or_default();
    Ok(Some(GreenTable { info, cascading }))
}
