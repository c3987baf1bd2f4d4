//! Tables for unit tests.

use decoders::postgres::catalog::{
    ColumnInfo, Persistence, TableAccess, TableInfo, TableKind, TypeKind, UniqueIndex,
    resolve_identity,
};
use decoders::{QualifiedName, ReplicaIdentity};

/// A NOT NULL integer column.
pub fn column(number: i16, name: &str) -> ColumnInfo {
    ColumnInfo {
        number,
        name: name.into(),
        type_oid: 23,
        type_name: "integer".into(),
        type_modifier: -1,
        type_kind: TypeKind::Base,
        element_oid: 0,
        not_null: true,
        has_default: false,
        generated: None,
        identity: None,
        collation: None,
        deterministic: true,
        comparable: true,
    }
}

/// A unique index.
pub fn unique(name: &str, columns: &[i16], primary: bool) -> UniqueIndex {
    UniqueIndex {
        oid: 1,
        name: name.into(),
        columns: columns.to_vec(),
        primary,
        immediate: true,
        valid: true,
        partial: false,
        nulls_not_distinct: false,
        is_identity: false,
    }
}

/// An ordinary table `"S"."name"` with columns `a` and `B`, and full access to it.
pub fn table(name: &str, setting: ReplicaIdentity, indexes: Vec<UniqueIndex>) -> TableInfo {
    let columns = vec![column(1, "a"), column(2, "B")];
    TableInfo {
        oid: 1,
        name: QualifiedName::new("S", name),
        kind: TableKind::Plain,
        persistence: Persistence::Permanent,
        owner: "app".into(),
        tablespace: None,
        access_method: None,
        partition_of: None,
        inherits: Vec::new(),
        has_oids: false,
        identity_setting: setting,
        identity: resolve_identity(setting, &indexes, &columns, 150_000),
        columns,
        unique_indexes: indexes,
        foreign_keys: Vec::new(),
        triggers: Vec::new(),
        rules: Vec::new(),
        row_security: false,
        row_security_forced: false,
        access: TableAccess { select: true, write: true, own: true, rows_hidden: false },
        pages: 0,
        estimated_rows: None,
        bytes: 0,
    }
}
