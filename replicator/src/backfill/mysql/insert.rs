//! Rows of blue as statements for green.
//!
//! Multi-row INSERTs rather than LOAD DATA LOCAL: the latter turns refused values and doubled keys
//! into warnings and goes on, and MySQL has it turned off. A strict `sql_mode` makes an error of
//! whatever would not be stored as it is.

use decoders::mysql::catalog::TableInfo;
use decoders::mysql::server::Conn;
use mysql_async::prelude::Queryable;
use mysql_async::{Params, Value};

use super::columns::{CopiedColumn, Form, document, write};
use super::failed;
use crate::backfill::BackfillError;
use crate::schema::mysql::qualified;

/// Statements are sent when they have grown to this.
const STATEMENT_BYTES: usize = 1 << 20;

/// What refuses everything that would be stored otherwise than it is written. Zero and impossible
/// dates are values that blue may hold; 0 in a counted column is a value too.
const STRICT: &str = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,\
     NO_ENGINE_SUBSTITUTION'";
/// The same for rows with a value 0 of an ENUM, which a strict server never takes. What else is not
/// stored as it is shows in the number of warnings.
const LENIENT: &str =
    "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION'";

/// Locks only what is written: a chunk that is emptied before it is filled would lock the gaps of every
/// secondary key otherwise, and the workers each other.
const ISOLATION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";

/// Prepares a session on green for rows.
pub(super) async fn prepare(green: &mut Conn) -> Result<(), BackfillError> {
    for setting in [
        "SET NAMES binary",
        "SET SESSION foreign_key_checks = 0, time_zone = '+00:00'",
        STRICT,
        ISOLATION,
    ] {
        green
            .query_drop(setting)
            .await
            .map_err(|error| failed("preparing a session on green for rows", error))?;
    }
    Ok(())
}

/// Statements for one table.
#[derive(Debug)]
pub(super) struct Inserts {
    table: String,
    columns: Vec<CopiedColumn>,
    head: Vec<u8>,
}

/// Some rows, on their way.
#[derive(Debug)]
pub(super) struct Batch {
    sql: Vec<u8>,
    rows: u64,
    /// Values 0 of ENUMs.
    refused_labels: u64,
    /// Values of a row that is too large for a statement with others.
    large: Option<Vec<Value>>,
}

impl Inserts {
    pub(super) fn new(table: &TableInfo, columns: Vec<CopiedColumn>) -> Self {
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let table = qualified(&table.name);
        let head = format!("INSERT INTO {table} ({}) VALUES ", names.join(", "));
        Self { table, columns, head: head.into_bytes() }
    }

    /// A batch without rows.
    pub(super) fn batch(&self) -> Batch {
        Batch { sql: self.head.clone(), rows: 0, refused_labels: 0, large: None }
    }

    /// Adds a row. Gives back a batch that is to be sent before, if the row does not go with it.
    pub(super) fn add(&self, batch: &mut Batch, row: Vec<Value>) -> Option<Batch> {
        let length = |value: &Value| match value {
            Value::Bytes(bytes) => bytes.len(),
            _ => 0,
        };
        let bytes: usize = row.iter().map(length).sum();
        if bytes > STATEMENT_BYTES {
            let mut alone = self.batch();
            alone.refused_labels = self.refused_labels(&row);
            alone.rows = 1;
            alone.large = Some(row);
            let before = std::mem::replace(batch, alone);
            return (!before.is_empty()).then_some(before);
        }
        let before = (batch.large.is_some() || batch.sql.len() + bytes > STATEMENT_BYTES)
            .then(|| std::mem::replace(batch, self.batch()))
            .filter(|before| !before.is_empty());
        batch.sql.extend_from_slice(if batch.rows == 0 { b"(" } else { b",(" });
        for (at, (column, value)) in self.columns.iter().zip(&row).enumerate() {
            if at > 0 {
                batch.sql.push(b',');
            }
            let value = match value {
                Value::Bytes(bytes) => Some(bytes.as_slice()),
                _ => None,
            };
            write(&mut batch.sql, column.form, value);
        }
        batch.sql.push(b')');
        batch.refused_labels += self.refused_labels(&row);
        batch.rows += 1;
        before
    }

    fn refused_labels(&self, row: &[Value]) -> u64 {
        let pairs = self.columns.iter().zip(row);
        let is_refused = |(column, value): &(&CopiedColumn, &Value)| {
            column.form == Form::EnumIndex
                && matches!(value, Value::Bytes(bytes) if bytes.as_slice() == b"0")
        };
        pairs.filter(is_refused).count() as u64
    }

    /// The statement of a large row, and what is sent apart from it.
    fn large(&self, row: Vec<Value>) -> (Vec<u8>, Vec<Value>) {
        let mut sql = self.head.clone();
        let mut apart = Vec::with_capacity(row.len());
        for (at, (column, value)) in self.columns.iter().zip(row).enumerate() {
            sql.push(if at == 0 { b'(' } else { b',' });
            let expression = match &value {
                Value::Bytes(text) if column.form == Form::Json => document(text),
                _ => None,
            };
            match expression {
                Some(expression) => sql.extend_from_slice(&expression),
                None => {
                    sql.extend_from_slice(column.placeholder().as_bytes());
                    apart.push(value);
                }
            }
        }
        sql.push(b')');
        (sql, apart)
    }

    /// Writes a batch. Exactly its rows are there afterwards, or there is an error.
    pub(super) async fn send(&self, green: &mut Conn, batch: Batch) -> Result<(), BackfillError> {
        let wrong = |error| failed(format!("writing rows to {} on green", self.table), error);
        let (rows, labels) = (batch.rows, batch.refused_labels);
        if labels > 0 {
            green.query_drop(LENIENT).await.map_err(wrong)?;
        }
        match batch.large {
            None => green.query_drop(batch.sql).await.map_err(wrong)?,
            Some(values) => {
                let (sql, values) = self.large(values);
                green.exec_drop(sql, Params::Positional(values)).await.map_err(wrong)?;
            }
        }
        let (written, warnings) = (green.affected_rows(), u64::from(green.get_warnings()));
        if labels > 0 {
            green.query_drop(STRICT).await.map_err(wrong)?;
        }
        // The counter of warnings has 16 bits.
        let expected = labels.min(u64::from(u16::MAX));
        if written == rows && warnings == expected {
            return Ok(());
        }
        Err(BackfillError::halt(
            format!(
                "{}: green stored {written} of {rows} rows, with {warnings} warnings where {expected} \
                 were expected; they are rolled back",
                self.table
            ),
            "compare the table's definition on both sides",
        ))
    }
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes that travel, about.
    pub(super) fn bytes(&self) -> u64 {
        let large = self.large.iter().flatten().map(|value| match value {
            Value::Bytes(bytes) => bytes.len(),
            _ => 0,
        });
        (self.sql.len() + large.sum::<usize>()) as u64
    }
}
