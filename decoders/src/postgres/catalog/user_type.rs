//! Types that users made.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::error::CatalogError;
use super::filter::USER_SCHEMAS;
use crate::change::QualifiedName;

/// What a type is made of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TypeDetail {
    /// An enum's labels in order.
    Enum(Vec<String>),
    /// A domain's base type as SQL.
    Domain(String),
    /// A free-standing composite type's attributes: name and type as SQL.
    Composite(Vec<(String, String)>),
    /// A range.
    Range,
    /// A base type (made with C functions).
    Base,
}

/// A type outside of system schemas and extensions. Row types of tables, array types and
/// multiranges, which come with another object, are not listed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UserType {
    /// OID on this server.
    pub oid: u32,
    /// Name.
    pub name: QualifiedName,
    /// What it is made of.
    pub detail: TypeDetail,
}

/// All users' types, by name.
pub async fn user_types(client: &Client) -> Result<Vec<UserType>, CatalogError> {
    super::pin_search_path(client).await?;
    let sql = format!(
        "SELECT t.oid, n.nspname::text, t.typname::text, t.typtype::text,
                format_type(t.typbasetype, t.typtypmod) AS base,
                (SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder)
                 FROM pg_enum e WHERE e.enumtypid = t.oid) AS labels,
                (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
                 WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS names,
                (SELECT array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
                 FROM pg_attribute a
                 WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS types
         FROM pg_type t
         JOIN pg_namespace n ON n.oid = t.typnamespace
         LEFT JOIN pg_class c ON c.oid = t.typrelid
         WHERE t.typtype IN ('b', 'c', 'd', 'e', 'r') AND t.typisdefined AND {USER_SCHEMAS}
           AND (t.typrelid = 0 OR c.relkind = 'c')
           AND NOT EXISTS (SELECT 1 FROM pg_type el WHERE el.typarray = t.oid)
           AND NOT EXISTS (SELECT 1 FROM pg_depend x
                           WHERE x.classid = 'pg_type'::regclass AND x.objid = t.oid
                             AND x.deptype = 'e')
         ORDER BY n.nspname, t.typname"
    );
    let rows =
        client.query(&sql, &[]).await.map_err(|error| CatalogError::query("types", error))?;
    rows.iter()
        .map(|row| {
            let texts = |name| row.get::<_, Option<Vec<String>>>(name).unwrap_or_default();
            let detail = match row.get::<_, &str>("typtype") {
                "e" => TypeDetail::Enum(texts("labels")),
                "d" => TypeDetail::Domain(row.get::<_, Option<_>>("base").unwrap_or_default()),
                "c" => {
                    TypeDetail::Composite(texts("names").into_iter().zip(texts("types")).collect())
                }
                "r" => TypeDetail::Range,
                "b" => TypeDetail::Base,
                code => {
                    let reason = format!("unknown typtype {code:?}");
                    return Err(CatalogError::unexpected("types", reason));
                }
            };
            Ok(UserType {
                oid: row.get("oid"),
                name: QualifiedName { schema: row.get("nspname"), name: row.get("typname") },
                detail,
            })
        })
        .collect()
}
