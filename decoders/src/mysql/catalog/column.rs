//! Columns.

use mysql_async::Conn;
use serde::{Deserialize, Serialize};

use super::scope::Scope;
use super::{CatalogError, query};
use crate::change::QualifiedName;
use crate::mysql::charset::Charset;
use crate::mysql::{CatalogColumn, MappedColumn, Special, WireType, labels};

/// How a generated column is stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeneratedAs {
    /// Computed on write. MariaDB calls it PERSISTENT, too.
    Stored,
    /// Computed on read.
    Virtual,
}

/// A column as `information_schema.columns` has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ColumnInfo {
    /// Name.
    pub name: String,
    /// Place among the table's columns, from 1. Row images have the columns in this order.
    pub position: u32,
    /// Type without its arguments, in lower case: `varchar`.
    pub data_type: String,
    /// Type with its arguments: `varchar(20)`, `int(10) unsigned`, `enum('a','b')`.
    pub column_type: String,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// Character set of text, by name.
    pub charset: Option<String>,
    /// Collation of text, by name.
    pub collation: Option<String>,
    /// The default as the server prints it; `None` for none (and, in MySQL, for NULL).
    pub default: Option<String>,
    /// The expression and how it is stored, of a generated column. The server computes it: it is
    /// never written.
    pub generated: Option<(GeneratedAs, String)>,
    /// Left out by `SELECT *`; row images have it.
    pub invisible: bool,
    /// AUTO_INCREMENT.
    pub auto_increment: bool,
}

impl ColumnInfo {
    /// What the binlog decoder may have to know of it.
    pub fn decoding(&self) -> CatalogColumn {
        let binary = matches!(self.data_type.as_str(), "binary" | "varbinary" | "vector")
            || self.data_type.ends_with("blob");
        let charset = self.charset.as_deref().and_then(Charset::by_name);
        CatalogColumn {
            unsigned: Some(self.is_unsigned()),
            charset: if binary { Some(Charset::Binary) } else { charset },
            labels: labels(&self.column_type),
            special: match self.data_type.as_str() {
                "uuid" => Some(Special::Uuid),
                "inet4" => Some(Special::Inet4),
                "inet6" => Some(Special::Inet6),
                _ => None,
            },
        }
    }

    /// UNSIGNED; ZEROFILL implies it.
    pub fn is_unsigned(&self) -> bool {
        self.column_type.contains("unsigned") || self.column_type.contains("zerofill")
    }

    /// Whether values of it can have been written as `mapped`. Not proof that they were: only types
    /// and NULL are compared, because the binlog has no more when this is asked.
    pub(super) fn fits(&self, mapped: &MappedColumn) -> bool {
        let same_name = mapped.metadata.name.as_ref().is_none_or(|name| *name == self.name);
        let wire = mapped.wire;
        let same_type = match self.data_type.as_str() {
            "tinyint" => wire == WireType::Integer { bytes: 1 },
            "smallint" => wire == WireType::Integer { bytes: 2 },
            "mediumint" => wire == WireType::Integer { bytes: 3 },
            "int" => wire == WireType::Integer { bytes: 4 },
            "bigint" => wire == WireType::Integer { bytes: 8 },
            "float" => wire == WireType::Float,
            "double" => wire == WireType::Double,
            "decimal" => matches!(wire, WireType::Decimal { .. }),
            "year" => wire == WireType::Year,
            "date" => wire == WireType::Date,
            "time" => matches!(wire, WireType::Time { .. } | WireType::OldTime),
            "datetime" => matches!(wire, WireType::DateTime { .. } | WireType::OldDateTime),
            "timestamp" => matches!(wire, WireType::Timestamp { .. } | WireType::OldTimestamp),
            "bit" => matches!(wire, WireType::Bit { .. }),
            "enum" => matches!(wire, WireType::Enum { .. }),
            "set" => matches!(wire, WireType::Set { .. }),
            "char" | "binary" => matches!(wire, WireType::Char { .. }),
            "uuid" | "inet6" => wire == WireType::Char { most: 16 },
            "inet4" => wire == WireType::Char { most: 4 },
            "varchar" | "varbinary" => {
                matches!(wire, WireType::Varchar { .. } | WireType::CompressedVarchar { .. })
            }
            "json" => matches!(wire, WireType::Json { .. } | WireType::Blob { .. }),
            "vector" => matches!(wire, WireType::Vector { .. } | WireType::Varchar { .. }),
            text if text.ends_with("text") || text.ends_with("blob") => {
                matches!(wire, WireType::Blob { .. } | WireType::CompressedBlob { .. })
            }
            // The rest are geometries.
            _ => matches!(wire, WireType::Geometry { .. }),
        };
        // A column of a primary key is never NULL, whatever the binlog's bitmap says of it.
        same_name && same_type && (mapped.nullable == self.nullable || !self.nullable)
    }
}

/// The columns with their table's name, in their order.
pub(super) async fn columns(
    conn: &mut Conn,
    scope: Scope<'_>,
) -> Result<Vec<(QualifiedName, ColumnInfo)>, CatalogError> {
    const WHAT: &str = "columns";
    let of = scope.condition("table_schema", "table_name");
    let sql = format!(
        "SELECT table_schema, table_name, column_name, ordinal_position, data_type, column_type,
                is_nullable, character_set_name, collation_name, column_default,
                generation_expression, extra
         FROM information_schema.columns WHERE {of}
         ORDER BY table_schema, table_name, ordinal_position"
    );
    let rows: Vec<mysql_async::Row> = query(conn, WHAT, &sql).await?;
    rows.into_iter().map(|row| column(row).ok_or_else(|| unreadable(WHAT))).collect()
}

pub(super) fn unreadable(what: &'static str) -> CatalogError {
    CatalogError::unexpected(what, "a field is missing or is no text")
}

fn column(mut row: mysql_async::Row) -> Option<(QualifiedName, ColumnInfo)> {
    let mut text = |at: usize| row.take_opt::<Option<String>, _>(at)?.ok();
    let ((schema, table, name), (data_type, column_type, nullable)): ((_, _, _), (_, _, _)) =
        ((text(0)??, text(1)??, text(2)??), (text(4)??, text(5)??, text(6)??));
    let (charset, collation, default) = (text(7)?, text(8)?, text(9)?);
    let (expression, extra) = (text(10)?, text(11)??.to_ascii_uppercase());
    let generated = match extra.as_str() {
        extra if extra.contains("VIRTUAL") => Some(GeneratedAs::Virtual),
        extra if extra.contains("STORED GENERATED") || extra.contains("PERSISTENT") => {
            Some(GeneratedAs::Stored)
        }
        _ => None,
    };
    let position = row.take_opt::<u32, _>(3)?.ok()?;
    let column = ColumnInfo {
        name,
        position,
        data_type: data_type.to_ascii_lowercase(),
        column_type,
        nullable: nullable == "YES",
        charset,
        collation,
        default,
        generated: generated.map(|stored| (stored, expression.unwrap_or_default())),
        invisible: extra.contains("INVISIBLE"),
        auto_increment: extra.contains("AUTO_INCREMENT"),
    };
    Some((QualifiedName::new(schema, table), column))
}
