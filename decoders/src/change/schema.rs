//! What a table looked like when a change to it was made.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A table's identity on the source: its OID in PostgreSQL. Stable over renames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TableId(pub u32);

/// Schema and name of a table, sequence or other relation, unquoted.
///
/// `Display` quotes each part as an SQL identifier, always, so it can go into a statement.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct QualifiedName {
    /// The schema (namespace).
    pub schema: String,
    /// The relation's name.
    pub name: String,
}

impl QualifiedName {
    /// A name from its two parts.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |part: &str| part.replace('"', "\"\"");
        write!(f, "\"{}\".\"{}\"", quoted(&self.schema), quoted(&self.name))
    }
}

/// Which old values the source writes to its log for UPDATE and DELETE
/// (PostgreSQL manual, ALTER TABLE .. REPLICA IDENTITY).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// A chosen unique index over NOT NULL columns.
    Index,
    /// The whole old row.
    Full,
    /// No old values: UPDATE and DELETE can't be replicated.
    Nothing,
}

/// How a generated column is stored (PostgreSQL manual, 5.4 Generated Columns).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Generated {
    /// `GENERATED ALWAYS AS (..) STORED`: computed on write.
    Stored,
    /// `GENERATED ALWAYS AS (..) VIRTUAL` (PostgreSQL 18): computed on read.
    Virtual,
}

/// A column as the stream describes it. Columns that the source does not publish (generated ones)
/// are not there.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Column {
    /// Name, unquoted.
    pub name: String,
    /// OID of the data type on the source. OIDs of user-defined types differ between servers. Of MySQL
    /// and MariaDB a number of [`SourceType`](crate::mysql::SourceType), beyond all OIDs in use.
    pub type_oid: u32,
    /// `atttypmod`; -1 for none. Of MySQL and MariaDB the arguments of the type.
    pub type_modifier: i32,
    /// Whether the column is part of the replica identity.
    pub in_key: bool,
}

/// A table at one moment of the stream. A changed table is a new value, shared by the events that
/// it describes.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct TableSchema {
    /// The table.
    pub id: TableId,
    /// Its name at that moment.
    pub name: QualifiedName,
    /// Its replica identity.
    pub identity: ReplicaIdentity,
    /// Its published columns, in the order of the row images.
    pub columns: Vec<Column>,
}

impl TableSchema {
    /// Positions of the replica identity's columns.
    pub fn key_positions(&self) -> impl Iterator<Item = usize> + '_ {
        self.columns.iter().enumerate().filter(|(_, column)| column.in_key).map(|(at, _)| at)
    }

    /// The columns' names, in order.
    pub fn column_names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }
}
