//! Whole rows, as changes of the target take them.

use std::sync::Arc;

use decoders::change::{Cell, ChangeEvent, Column, OldRow, ReplicaIdentity, Row};
use decoders::mysql::catalog::{ColumnInfo, TableInfo};
use decoders::mysql::server::identifier;
use decoders::{TableId, TableSchema};

use super::super::canonical;

/// A row's values, in the order of [`Images::columns`].
pub(super) type Image = Vec<Option<Vec<u8>>>;

/// How whole rows of a table are asked for and written.
#[derive(Debug)]
pub(super) struct Images {
    pub schema: Arc<TableSchema>,
    /// What each side is asked for.
    select: [String; 2],
    /// Whether a column's values are bytes.
    is_bytes: Vec<bool>,
}

/// Types whose values travel as bytes.
fn is_bytes(column: &ColumnInfo) -> bool {
    let kind = column.data_type.as_str();
    matches!(kind, "bit" | "binary" | "varbinary" | "vector" | "geometry")
        || kind.ends_with("blob")
        || ["point", "linestring", "polygon", "collection"]
            .iter()
            .any(|shape| kind.ends_with(shape))
}

/// What a binlog would say of a value, as a SELECT.
fn select(column: &ColumnInfo) -> String {
    let name = identifier(&column.name);
    match column.data_type.as_str() {
        // A FLOAT by itself shows six digits.
        "float" | "double" => format!("CAST({name} AS DOUBLE)"),
        "uuid" | "inet4" | "inet6" => format!("CAST({name} AS CHAR)"),
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "year" | "date"
        | "time" | "datetime" | "timestamp" => name,
        _ if is_bytes(column) => name,
        // UTF-8 whatever the session's or the column's character set.
        _ => format!("CAST(CONVERT({name} USING utf8mb4) AS BINARY)"),
    }
}

impl Images {
    /// Of a table as both sides have it.
    ///
    /// # Errors
    /// Why its rows can't be written, a sentence.
    pub fn new(source: &TableInfo, target: &TableInfo) -> Result<Self, String> {
        let mut columns = Vec::new();
        let mut selects = [Vec::new(), Vec::new()];
        let mut of_bytes = Vec::new();
        for column in source.columns.iter().filter(|column| canonical::is_comparable(column)) {
            let name = identifier(&column.name);
            let Some(other) = target.column(&column.name) else {
                return Err(format!("the target lacks its column {name}"));
            };
            if is_bytes(column) != is_bytes(other) {
                return Err(format!("the type of its column {name} is another one on the target"));
            }
            columns.push(Column {
                name: column.name.clone(),
                type_oid: 0,
                type_modifier: -1,
                in_key: true,
            });
            selects[0].push(select(column));
            selects[1].push(select(other));
            of_bytes.push(is_bytes(column));
        }
        if columns.is_empty() {
            return Err("it has no columns".to_owned());
        }
        let schema = TableSchema {
            id: TableId(0),
            name: source.name.clone(),
            identity: ReplicaIdentity::Full,
            columns,
        };
        let select = selects.map(|select| select.join(", "));
        Ok(Self { schema: Arc::new(schema), select, is_bytes: of_bytes })
    }

    /// Expressions for a whole row on this side.
    pub fn select(&self, side: usize) -> &str {
        &self.select[side]
    }

    fn row(&self, image: &Image) -> Row {
        let mut cells: Vec<Cell<'_>> = Vec::with_capacity(image.len());
        for (value, is_bytes) in image.iter().zip(&self.is_bytes) {
            cells.push(match value {
                None => Cell::NULL,
                Some(value) if *is_bytes => Cell::binary(value),
                Some(value) => Cell::text(value),
            });
        }
        cells.into_iter().collect()
    }

    pub fn insert(&self, image: &Image) -> ChangeEvent {
        ChangeEvent::Insert { table: Arc::clone(&self.schema), new: self.row(image) }
    }

    pub fn delete(&self, image: &Image) -> ChangeEvent {
        let old = OldRow::Full(self.row(image));
        ChangeEvent::Delete { table: Arc::clone(&self.schema), old }
    }

    pub fn update(&self, from: &Image, to: &Image) -> ChangeEvent {
        let old = Some(OldRow::Full(self.row(from)));
        ChangeEvent::Update { table: Arc::clone(&self.schema), old, new: self.row(to) }
    }
}
