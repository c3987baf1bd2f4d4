//! A table of green as applying has to know it.

use decoders::change::QualifiedName;
use decoders::mysql::catalog::{self, TableInfo};
use decoders::mysql::server::{Server, literal};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::error::target_error;
use crate::target::TargetError;

/// A table of green.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct GreenTable {
    pub info: TableInfo,
    /// Its columns that foreign keys of other tables refer to which cascade.
    pub cascading: Vec<String>,
}

/// Reads a table; `None` if it is not there.
pub(super) async fn table(
    conn: &mut Conn,
    server: &Server,
    name: &QualifiedName,
) -> Result<Option<GreenTable>, TargetError> {
    let doing = || format!("reading the definition of {name} on green");
    let info = catalog::table(conn, server, name).await.map_err(|error| match error.cause {
        Some(cause) => target_error(doing(), *cause),
        None => TargetError::halt(format!("{}: {}", doing(), error.reason), "Please report it"),
    })?;
    let Some(info) = info else { return Ok(None) };
    let sql = format!(
        "SELECT DISTINCT k.referenced_column_name
         FROM information_schema.referential_constraints r
         JOIN information_schema.key_column_usage k
           ON k.constraint_schema = r.constraint_schema AND k.constraint_name = r.constraint_name
          AND k.table_name = r.table_name
         WHERE r.unique_constraint_schema = {} AND r.referenced_table_name = {}
           AND k.referenced_column_name IS NOT NULL
           AND (r.update_rule NOT IN ('RESTRICT', 'NO ACTION')
                OR r.delete_rule NOT IN ('RESTRICT', 'NO ACTION'))",
        literal(&name.schema),
        literal(&name.name)
    );
    let cascading: Result<Vec<String>, _> = conn.query(sql).await;
    let cascading = cascading.map_err(|error| target_error(doing(), error))?;
    Ok(Some(GreenTable { info, cascading }))
}
