//! Relations that are not tables and so do not travel in the stream.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::error::CatalogError;
use super::filter::USER_SCHEMAS;
use crate::change::QualifiedName;

/// Kind of a relation without replicated rows of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelationKind {
    /// A view.
    View,
    /// A materialized view.
    MaterializedView,
    /// A foreign table.
    ForeignTable,
    /// A table that belongs to an extension and whose rows are the user's configuration
    /// (`pg_extension_config_dump`).
    ExtensionConfig,
}

/// A relation that is not a table of the user's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Relation {
    /// OID.
    pub oid: u32,
    /// Name.
    pub name: QualifiedName,
    /// Kind.
    pub kind: RelationKind,
    /// Owner.
    pub owner: String,
    /// Materialized views: whether there is data in it.
    pub populated: bool,
    /// The extension, for [`RelationKind::ExtensionConfig`].
    pub extension: Option<String>,
}

/// Views, materialized views and foreign tables of the users', and extensions' configuration
/// tables, by name.
pub async fn relations(client: &Client) -> Result<Vec<Relation>, CatalogError> {
    super::pin_search_path(client).await?;
    let sql = format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text,
                pg_get_userbyid(c.relowner)::text AS owner, c.relispopulated,
                e.extname::text AS extension
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_extension e ON c.oid = ANY (e.extconfig)
         WHERE (e.oid IS NOT NULL AND c.relkind = 'r')
            OR (c.relkind IN ('v', 'm', 'f') AND c.relpersistence <> 't' AND {USER_SCHEMAS}
                AND NOT EXISTS (SELECT 1 FROM pg_depend x
                                WHERE x.classid = 'pg_class'::regclass AND x.objid = c.oid
                                  AND x.objsubid = 0 AND x.deptype = 'e'))
         ORDER BY n.nspname, c.relname"
    );
    let rows =
        client.query(&sql, &[]).await.map_err(|error| CatalogError::query("relations", error))?;
    rows.iter()
        .map(|row| {
            let kind = match row.get::<_, &str>("relkind") {
                "v" => RelationKind::View,
                "m" => RelationKind::MaterializedView,
                "f" => RelationKind::ForeignTable,
                "r" => RelationKind::ExtensionConfig,
                code => {
                    let reason = format!("unknown relkind {code:?}");
                    return Err(CatalogError::unexpected("relations", reason));
                }
            };
            Ok(Relation {
                oid: row.get("oid"),
                name: QualifiedName { schema: row.get("nspname"), name: row.get("relname") },
                kind,
                owner: row.get("owner"),
                populated: row.get("relispopulated"),
                extension: row.get("extension"),
            })
        })
        .collect()
}
