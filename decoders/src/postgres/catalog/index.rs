//! Unique indexes and the replica identity that follows from them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::column::ColumnInfo;
use super::error::CatalogError;
use crate::change::ReplicaIdentity;

/// A unique index of a table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UniqueIndex {
    /// OID.
    pub oid: u32,
    /// Name, unquoted; in the table's schema.
    pub name: String,
    /// Key columns by `attnum`, without INCLUDE columns; 0 where there is an expression.
    pub columns: Vec<i16>,
    /// The primary key.
    pub primary: bool,
    /// False for a DEFERRABLE constraint, whose index is no identity.
    pub immediate: bool,
    /// Usable and complete (`indisvalid` and `indisready`).
    pub valid: bool,
    /// Has a WHERE clause.
    pub partial: bool,
    /// NULLs count as equal (15+).
    pub nulls_not_distinct: bool,
    /// Marked by REPLICA IDENTITY USING INDEX.
    pub is_identity: bool,
}

impl UniqueIndex {
    /// Whether an expression is part of the key.
    pub fn has_expression(&self) -> bool {
        self.columns.contains(&0)
    }

    /// Whether ALTER TABLE .. REPLICA IDENTITY USING INDEX would take it: unique, valid, not
    /// partial, not deferrable, and only over NOT NULL columns (manual, ALTER TABLE).
    pub fn can_identify(&self, columns: &[ColumnInfo]) -> bool {
        self.valid
            && self.immediate
            && !self.partial
            && !self.columns.is_empty()
            && self.columns.iter().all(|number| {
                columns.iter().any(|column| {
                    column.number == *number && column.not_null && column.generated.is_none()
                })
            })
    }
}

/// How rows of a table are told apart in the stream.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResolvedIdentity {
    /// By these columns (`attnum`), of this index.
    Key {
        /// The index's name.
        index: String,
        /// Key columns in index order.
        columns: Vec<i16>,
    },
    /// By the whole old row.
    Full,
    /// Not at all: once published, UPDATE and DELETE fail on the source.
    Missing(MissingIdentity),
}

/// Why a table has no identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingIdentity {
    /// REPLICA IDENTITY DEFAULT and no primary key.
    NoPrimaryKey,
    /// REPLICA IDENTITY DEFAULT and a DEFERRABLE primary key, which PostgreSQL does not use.
    DeferrablePrimaryKey,
    /// REPLICA IDENTITY USING INDEX, and the index was dropped or is not valid.
    IndexGone,
    /// A column of the key is generated, which is not in the stream.
    GeneratedKey,
    /// A column of the key, or with FULL of the table, is generated, and the server (18+) refuses every UPDATE
    /// and DELETE once the table is published without its generated columns. FULL is no way out.
    GeneratedRefused,
    /// REPLICA IDENTITY NOTHING.
    Nothing,
}

/// The first version that refuses an identity with generated columns that are not published, as
/// `server_version_num`.
const REFUSES_GENERATED_SINCE: u32 = 180_000;

/// What PostgreSQL will do (`RelationGetIndexList`, `CheckCmdReplicaIdentity`): the setting and
/// the indexes as they are, not as they were when the setting was made.
pub fn resolve_identity(
    setting: ReplicaIdentity,
    indexes: &[UniqueIndex],
    columns: &[ColumnInfo],
    version_num: u32,
) -> ResolvedIdentity {
    let generated = match version_num >= REFUSES_GENERATED_SINCE {
        true => MissingIdentity::GeneratedRefused,
        false => MissingIdentity::GeneratedKey,
    };
    let is_generated = |number: &i16| {
        columns.iter().any(|column| column.number == *number && column.generated.is_some())
    };
    let key = |index: &UniqueIndex| match index.columns.iter().any(is_generated) {
        true => ResolvedIdentity::Missing(generated),
        false => {
            ResolvedIdentity::Key { index: index.name.clone(), columns: index.columns.clone() }
        }
    };
    match setting {
        ReplicaIdentity::Full
            if generated == MissingIdentity::GeneratedRefused
                && columns.iter().any(|column| column.generated.is_some()) =>
        {
            ResolvedIdentity::Missing(generated)
        }
        ReplicaIdentity::Full => ResolvedIdentity::Full,
        ReplicaIdentity::Nothing => ResolvedIdentity::Missing(MissingIdentity::Nothing),
        ReplicaIdentity::Default => match indexes.iter().find(|index| index.primary) {
            None => ResolvedIdentity::Missing(MissingIdentity::NoPrimaryKey),
            Some(index) if !index.immediate || !index.valid => {
                ResolvedIdentity::Missing(MissingIdentity::DeferrablePrimaryKey)
            }
            Some(index) => key(index),
        },
        ReplicaIdentity::Index => {
            match indexes.iter().find(|index| index.is_identity && index.valid && index.immediate) {
                None => ResolvedIdentity::Missing(MissingIdentity::IndexGone),
                Some(index) => key(index),
            }
        }
    }
}

/// Unique indexes of all candidate tables, by table; the primary key first, then by name.
pub(super) async fn unique_indexes(
    client: &Client,
    version_num: u32,
) -> Result<HashMap<u32, Vec<UniqueIndex>>, CatalogError> {
    let key_count = if version_num >= 110_000 { "i.indnkeyatts" } else { "i.indnatts" };
    let nulls = if version_num >= 150_000 { "i.indnullsnotdistinct" } else { "false" };
    let candidates = super::candidates();
    let sql = format!(
        "SELECT i.indrelid, i.indexrelid, x.relname::text,
                (SELECT array_agg(i.indkey[p] ORDER BY p)
                 FROM generate_series(0, {key_count} - 1) p) AS columns,
                i.indisprimary, i.indimmediate, i.indisvalid AND i.indisready AS valid,
                i.indpred IS NOT NULL AS partial, {nulls} AS nulls_not_distinct, i.indisreplident
         FROM ({candidates}) c
         JOIN pg_index i ON i.indrelid = c.oid AND i.indisunique
         JOIN pg_class x ON x.oid = i.indexrelid
         ORDER BY i.indrelid, i.indisprimary DESC, x.relname"
    );
    let rows = client
        .query(&sql, &[])
        .await
        .map_err(|error| CatalogError::query("unique indexes", error))?;
    let mut tables: HashMap<u32, Vec<UniqueIndex>> = HashMap::new();
    for row in &rows {
        tables.entry(row.get("indrelid")).or_default().push(UniqueIndex {
            oid: row.get("indexrelid"),
            name: row.get("relname"),
            columns: row.get::<_, Option<Vec<i16>>>("columns").unwrap_or_default(),
            primary: row.get("indisprimary"),
            immediate: row.get("indimmediate"),
            valid: row.get("valid"),
            partial: row.get("partial"),
            nulls_not_distinct: row.get("nulls_not_distinct"),
            is_identity: row.get("indisreplident"),
        });
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Generated;

    fn index(name: &str) -> UniqueIndex {
        UniqueIndex {
            oid: 1,
            name: name.into(),
            columns: vec![1],
            primary: false,
            immediate: true,
            valid: true,
            partial: false,
            nulls_not_distinct: false,
            is_identity: false,
        }
    }

    #[test]
    fn a_primary_key_is_the_default_identity() {
        let primary = UniqueIndex { primary: true, columns: vec![2, 1], ..index("pk") };
        assert_eq!(
            resolve_identity(ReplicaIdentity::Default, &[index("u"), primary], &[], 150_000),
            ResolvedIdentity::Key { index: "pk".into(), columns: vec![2, 1] }
        );
    }

    #[test]
    fn a_unique_index_alone_is_no_default_identity() {
        assert_eq!(
            resolve_identity(ReplicaIdentity::Default, &[index("u")], &[], 150_000),
            ResolvedIdentity::Missing(MissingIdentity::NoPrimaryKey)
        );
    }

    #[test]
    fn a_deferrable_primary_key_identifies_nothing() {
        let primary = UniqueIndex { primary: true, immediate: false, ..index("pk") };
        assert_eq!(
            resolve_identity(ReplicaIdentity::Default, &[primary], &[], 150_000),
            ResolvedIdentity::Missing(MissingIdentity::DeferrablePrimaryKey)
        );
    }

    #[test]
    fn an_identity_index_that_was_dropped_leaves_nothing() {
        let primary = UniqueIndex { primary: true, ..index("pk") };
        assert_eq!(
            resolve_identity(ReplicaIdentity::Index, &[primary], &[], 150_000),
            ResolvedIdentity::Missing(MissingIdentity::IndexGone)
        );
    }

    #[test]
    fn a_generated_column_identifies_nothing() {
        let column = |number: i16, generated| ColumnInfo {
            number,
            name: format!("c{number}"),
            type_oid: 25,
            type_name: "text".into(),
            type_modifier: -1,
            type_kind: super::super::TypeKind::Base,
            element_oid: 0,
            not_null: true,
            has_default: false,
            generated,
            identity: None,
            collation: None,
            deterministic: true,
            comparable: true,
        };
        let columns = [column(1, None), column(2, Some(Generated::Stored))];
        let resolve = |setting, index: UniqueIndex, version_num| {
            resolve_identity(setting, &[index], &columns, version_num)
        };
        let (full, by_index) = (ReplicaIdentity::Full, ReplicaIdentity::Index);
        let primary = UniqueIndex { primary: true, columns: vec![1, 2], ..index("pk") };
        let named = UniqueIndex { is_identity: true, columns: vec![2], ..index("u") };
        for (version_num, why) in
            [(170_000, MissingIdentity::GeneratedKey), (180_000, MissingIdentity::GeneratedRefused)]
        {
            let missing = ResolvedIdentity::Missing(why);
            assert_eq!(resolve(ReplicaIdentity::Default, primary.clone(), version_num), missing);
            assert_eq!(resolve(by_index, named.clone(), version_num), missing);
            let other = UniqueIndex { is_identity: true, columns: vec![1], ..index("u") };
            let key = ResolvedIdentity::Key { index: "u".into(), columns: vec![1] };
            assert_eq!(resolve(by_index, other, version_num), key);
        }
        assert_eq!(resolve(full, primary.clone(), 170_000), ResolvedIdentity::Full);
        let refused = ResolvedIdentity::Missing(MissingIdentity::GeneratedRefused);
        assert_eq!(resolve(full, primary, 180_000), refused);
    }
}
