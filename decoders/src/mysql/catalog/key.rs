//! Unique keys and foreign keys.

use std::collections::BTreeMap;

use mysql_async::Conn;
use serde::{Deserialize, Serialize};

use super::scope::Scope;
use super::{CatalogError, query};
use crate::change::QualifiedName;

/// A column of a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyColumn {
    /// The column's name; `None` for an expression (MySQL's functional key parts).
    pub column: Option<String>,
    /// Only so many first characters count.
    pub prefix: Option<u32>,
}

/// A primary key or a unique key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UniqueKey {
    /// Name; `PRIMARY` for the primary key.
    pub name: String,
    /// Its columns, in key order.
    pub columns: Vec<KeyColumn>,
}

impl UniqueKey {
    /// Whether it is the primary key.
    pub fn is_primary(&self) -> bool {
        self.name == "PRIMARY"
    }
}

/// What happens to the rows that refer to a row that is changed or deleted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReferentialAction {
    /// The change is refused.
    Restrict,
    /// They are changed or deleted too.
    Cascade,
    /// Their columns become NULL.
    SetNull,
    /// Their columns get their defaults; no engine does that.
    SetDefault,
}

/// A foreign key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ForeignKey {
    /// Name.
    pub name: String,
    /// The columns that refer, in key order.
    pub columns: Vec<String>,
    /// The table that they refer to.
    pub references: QualifiedName,
    /// Its columns, in the same order.
    pub referenced_columns: Vec<String>,
    /// ON UPDATE.
    pub on_update: ReferentialAction,
    /// ON DELETE.
    pub on_delete: ReferentialAction,
}

impl ForeignKey {
    /// Whether a change of one row changes rows of the table that refers.
    pub fn cascades(&self) -> bool {
        [self.on_update, self.on_delete].iter().any(|action| *action != ReferentialAction::Restrict)
    }
}

/// The unique keys by table, the primary key first, the others by name.
pub(super) async fn unique_keys(
    conn: &mut Conn,
    scope: Scope<'_>,
    mariadb: bool,
) -> Result<BTreeMap<QualifiedName, Vec<UniqueKey>>, CatalogError> {
    let of = scope.condition("table_schema", "table_name");
    // MariaDB has no column `expression`, and its column names are never NULL.
    let column = if mariadb { "column_name" } else { "if(expression IS NULL, column_name, NULL)" };
    let sql = format!(
        "SELECT table_schema, table_name, index_name, {column}, sub_part
         FROM information_schema.statistics WHERE non_unique = 0 AND {of}
         ORDER BY table_schema, table_name, index_name <> 'PRIMARY', index_name, seq_in_index"
    );
    type Row = (String, String, String, Option<String>, Option<u32>);
    let rows: Vec<Row> = query(conn, "keys", &sql).await?;
    let mut keys: BTreeMap<QualifiedName, Vec<UniqueKey>> = BTreeMap::new();
    for (schema, table, name, column, prefix) in rows {
        let of_table = keys.entry(QualifiedName::new(schema, table)).or_default();
        let part = KeyColumn { column, prefix };
        match of_table.last_mut().filter(|key| key.name == name) {
            Some(key) => key.columns.push(part),
            None => of_table.push(UniqueKey { name, columns: vec![part] }),
        }
    }
    Ok(keys)
}

/// The foreign keys by the table that refers.
pub(super) async fn foreign_keys(
    conn: &mut Conn,
    scope: Scope<'_>,
) -> Result<BTreeMap<QualifiedName, Vec<ForeignKey>>, CatalogError> {
    const WHAT: &str = "foreign keys";
    let of = scope.condition("table_schema", "table_name");
    let columns = format!(
        "SELECT table_schema, table_name, constraint_name, column_name,
                referenced_table_schema, referenced_table_name, referenced_column_name
         FROM information_schema.key_column_usage
         WHERE referenced_table_name IS NOT NULL AND {of}
         ORDER BY table_schema, table_name, constraint_name, ordinal_position"
    );
    type Row = (String, String, String, String, String, String, String);
    let rows: Vec<Row> = query(conn, WHAT, &columns).await?;
    let of = scope.condition("constraint_schema", "table_name");
    let rules = format!(
        "SELECT constraint_schema, table_name, constraint_name, update_rule, delete_rule
         FROM information_schema.referential_constraints WHERE {of}"
    );
    let rules: Vec<(String, String, String, String, String)> = query(conn, WHAT, &rules).await?;
    let rules: BTreeMap<_, _> = rules
        .into_iter()
        .map(|(schema, table, name, update, delete)| ((schema, table, name), (update, delete)))
        .collect();
    let mut keys: BTreeMap<QualifiedName, Vec<ForeignKey>> = BTreeMap::new();
    for (schema, table, name, column, to_schema, to_table, to_column) in rows {
        let of_table = keys.entry(QualifiedName::new(&schema, &table)).or_default();
        if let Some(key) = of_table.last_mut().filter(|key| key.name == name) {
            key.columns.push(column);
            key.referenced_columns.push(to_column);
            continue;
        }
        let rule = rules.get(&(schema, table, name.clone()));
        let (update, delete) = rule.ok_or_else(|| {
            CatalogError::unexpected(WHAT, format!("the foreign key {name} has no rules"))
        })?;
        of_table.push(ForeignKey {
            name,
            columns: vec![column],
            references: QualifiedName::new(to_schema, to_table),
            referenced_columns: vec![to_column],
            on_update: action(update)?,
            on_delete: action(delete)?,
        });
    }
    Ok(keys)
}

fn action(rule: &str) -> Result<ReferentialAction, CatalogError> {
    Ok(match rule {
        "RESTRICT" | "NO ACTION" => ReferentialAction::Restrict,
        "CASCADE" => ReferentialAction::Cascade,
        "SET NULL" => ReferentialAction::SetNull,
        "SET DEFAULT" => ReferentialAction::SetDefault,
        other => {
            let reason = format!("the rule {other:?} of a foreign key is unknown");
            return Err(CatalogError::unexpected("foreign keys", reason));
        }
    })
}
