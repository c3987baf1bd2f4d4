//! One table's plan, and the statements that read and write it.

use crate::change::{QualifiedName, TableId};
use crate::postgres::ident::quote_identifier;

/// The form in which values travel from COPY to COPY.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyFormat {
    /// Send and receive functions; only if every column's bytes mean the same on any server.
    Binary,
    /// Output and input functions, with the settings that they depend on pinned.
    Text,
}

impl CopyFormat {
    fn keyword(self) -> &'static str {
        match self {
            CopyFormat::Binary => "binary",
            CopyFormat::Text => "text",
        }
    }
}

/// A part of a table. The first has no lower and the last no upper bound, so together they are
/// the whole table whatever the statistics said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChunkRange {
    /// Everything.
    Whole,
    /// Heap blocks `from..until`.
    Blocks {
        /// First block.
        from: u32,
        /// First block that is no longer meant.
        until: Option<u32>,
    },
    /// Values of an integer primary key, `from..until`.
    Key {
        /// The key's column.
        column: String,
        /// Smallest value.
        from: Option<i64>,
        /// First value that is no longer meant.
        until: Option<i64>,
    },
}

/// One table and how it is copied.
#[derive(Clone, Debug)]
pub struct TablePlan {
    /// The table on the source.
    pub id: TableId,
    /// Its name.
    pub name: QualifiedName,
    /// Its `relfilenode` in the snapshot.
    pub file_node: u32,
    /// Columns that travel: all but the generated ones, which the target computes.
    pub columns: Vec<String>,
    /// OIDs of their types on the source.
    pub column_types: Vec<u32>,
    /// How values travel.
    pub format: CopyFormat,
    /// Rows by the source's statistics; `None` if it has none.
    pub rows_estimated: Option<u64>,
    /// Heap and TOAST, bytes on disk.
    pub bytes_on_disk: u64,
    /// Its indexes, bytes on disk.
    pub index_bytes: u64,
    /// The parts, together the whole table.
    pub chunks: Vec<ChunkRange>,
}

impl TablePlan {
    /// The statement that reads a chunk.
    pub fn copy_out_sql(&self, range: &ChunkRange) -> String {
        let format = self.format.keyword();
        let columns = self.column_list();
        let condition = match range {
            ChunkRange::Whole => {
                let columns = if columns.is_empty() { columns } else { format!(" ({columns})") };
                return format!("COPY {}{columns} TO STDOUT (FORMAT {format})", self.name);
            }
            ChunkRange::Blocks { from, until } => {
                let lower = (*from > 0).then(|| format!("ctid >= '({from},0)'::pg_catalog.tid"));
                let upper = until.map(|until| format!("ctid < '({until},0)'::pg_catalog.tid"));
                conjunction([lower, upper])
            }
            ChunkRange::Key { column, from, until } => {
                let column = quote_identifier(column);
                let lower = from.map(|from| format!("{column} >= {from}"));
                let upper = until.map(|until| format!("{column} < {until}"));
                conjunction([lower, upper])
            }
        };
        let name = &self.name;
        format!("COPY (SELECT {columns} FROM ONLY {name}{condition}) TO STDOUT (FORMAT {format})")
    }

    /// The statement that writes one on the target; `freeze` only for a whole table that the same
    /// transaction has emptied (PostgreSQL manual, COPY).
    pub fn copy_in_sql(&self, freeze: bool) -> String {
        let columns = self.column_list();
        // A table without columns (or with generated ones only) takes no column list.
        let columns = if columns.is_empty() { columns } else { format!(" ({columns})") };
        let format = self.format.keyword();
        let freeze = if freeze { ", FREEZE" } else { "" };
        format!("COPY {}{columns} FROM STDIN (FORMAT {format}{freeze})", self.name)
    }

    fn column_list(&self) -> String {
        self.columns.iter().map(|name| quote_identifier(name)).collect::<Vec<_>>().join(", ")
    }
}

fn conjunction(conditions: [Option<String>; 2]) -> String {
    let conditions: Vec<String> = conditions.into_iter().flatten().collect();
    if conditions.is_empty() {
        String::new()
    } else {
        format!(" WHERE {}", conditions.join(" AND "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(columns: &[&str]) -> TablePlan {
        TablePlan {
            id: TableId(1),
            name: QualifiedName::new("S p", "t\"x"),
            file_node: 1,
            column_types: columns.iter().map(|_| 25).collect(),
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            format: CopyFormat::Binary,
            rows_estimated: None,
            bytes_on_disk: 0,
            index_bytes: 0,
            chunks: vec![ChunkRange::Whole],
        }
    }

    #[test]
    fn statements_quote_every_name() {
        let plan = table(&["a", "B\"b"]);
        assert_eq!(
            plan.copy_out_sql(&ChunkRange::Whole),
            r#"COPY "S p"."t""x" ("a", "B""b") TO STDOUT (FORMAT binary)"#
        );
        assert_eq!(
            plan.copy_out_sql(&ChunkRange::Blocks { from: 7, until: None }),
            r#"COPY (SELECT "a", "B""b" FROM ONLY "S p"."t""x" WHERE ctid >= '(7,0)'::pg_catalog.tid) TO STDOUT (FORMAT binary)"#
        );
        assert_eq!(
            plan.copy_in_sql(true),
            r#"COPY "S p"."t""x" ("a", "B""b") FROM STDIN (FORMAT binary, FREEZE)"#
        );
    }

    #[test]
    fn tables_without_columns_take_no_list() {
        let plan = table(&[]);
        assert_eq!(
            plan.copy_out_sql(&ChunkRange::Whole),
            r#"COPY "S p"."t""x" TO STDOUT (FORMAT binary)"#
        );
        assert_eq!(plan.copy_in_sql(false), r#"COPY "S p"."t""x" FROM STDIN (FORMAT binary)"#);
    }
}
