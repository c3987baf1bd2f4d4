//! A copy that broke off goes on with a new snapshot. Its chunks that are on green are as they were at
//! the old snapshot; what changed between the two is in the binlog. The rows that it names are read
//! anew, so that the whole of green is as blue was at the new snapshot.
//!
//! Why that is exact: a row of a finished chunk that differs between the two snapshots was changed by
//! a transaction between them, whose row images have its key. Keys that were changed by later ones, or
//! lie in chunks that are not finished, are read once too often, which changes nothing: what is
//! written is always what the new snapshot has. Where the binlog does not name every changed row
//! (cascades below the binlog, no key), the table is copied again.

use std::collections::{BTreeMap, BTreeSet};

use decoders::change::{ChangeEvent, Row, TableSchema, Value};
use decoders::mysql::catalog::{ColumnInfo, TableInfo};
use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::{Server, ServerUrl};
use decoders::mysql::stream::{BinlogStream, Change, Kind, Start, Statement, StreamOptions};
use decoders::source::Disposition;
use decoders::{QualifiedName, Source, SourceError, SourceEvent};
use uuid::Uuid;

use super::of_source;
use super::worker::Worker;
use crate::backfill::BackfillError;

/// Keys that are collected before their rows are read.
const KEYS_AT_ONCE: usize = 1_000;

/// How it shows in the server's list of replicas.
const NAME: &str = "cutover copy";

/// What to do with a table of which chunks are finished.
#[derive(Debug)]
struct Followed<'a> {
    table: &'a TableInfo,
    keys: BTreeSet<String>,
}

/// Brings finished chunks from one position to that of the worker's snapshot. Gives back the tables
/// that have to be copied again, all of them if the binlog can't be read from there any more.
pub(super) async fn refresh(
    worker: &mut Worker,
    blue: &ServerUrl,
    server: &Server,
    tables: &[&TableInfo],
    from: &BinlogPosition,
    to: &BinlogPosition,
) -> Result<BTreeSet<QualifiedName>, BackfillError> {
    let mut again: BTreeSet<QualifiedName> = BTreeSet::new();
    let mut followed: BTreeMap<QualifiedName, Followed<'_>> = BTreeMap::new();
    for table in tables {
        // Rows that InnoDB cascades to are not in the binlog, on MySQL depending on a setting.
        let cascades = table.foreign_keys.iter().any(|key| key.cascades());
        match cascades || !has_whole_key(table) {
            true => drop(again.insert(table.name.clone())),
            false => {
                let keys = BTreeSet::new();
                followed.insert(table.name.clone(), Followed { table, keys });
            }
        }
    }
    if from == to || followed.is_empty() {
        return Ok(again);
    }
    let everything = || tables.iter().map(|table| table.name.clone()).collect();
    if !to.covers(from) {
        tracing::warn!(%from, %to, "blue lacks transactions that green has copies of: all is copied again");
        return Ok(everything());
    }
    // The upper half: people number their servers from below.
    let mut options = StreamOptions::new(Uuid::new_v4().as_u128() as u32 | 1 << 31, NAME);
    options.start = Start::Behind(from.clone());
    let mut stream = match BinlogStream::open(blue, options).await {
        Ok(stream) => stream,
        Err(error) => return unreadable(error).map(|()| everything()),
    };
    tracing::info!(%from, %to, %server, "bringing finished chunks to the new snapshot");
    while !stream.position().covers(to) {
        let transaction = match stream.next().await {
            Ok(SourceEvent::Transaction(transaction)) => transaction,
            Ok(_) => continue,
            Err(error) => return unreadable(error).map(|()| everything()),
        };
        for change in &transaction.changes {
            match change {
                Change::Row(row) => {
                    // Only PostgreSQL sends what is no row.
                    let Some(schema) = table_of(row) else { return Ok(everything()) };
                    let Some(one) = followed.get_mut(&schema.name) else { continue };
                    if !note_keys(one, schema, row) {
                        again.insert(schema.name.clone());
                        followed.remove(&schema.name);
                        continue;
                    }
                    if one.keys.len() >= KEYS_AT_ONCE {
                        rewrite(worker, one, &mut again).await?;
                    }
                }
                Change::Statement(statement) => match concerned(statement) {
                    Concerned::Nothing => {}
                    Concerned::Tables(names) => {
                        let names = names.iter().map(|name| stream.selection().canonical(name));
                        again.extend(names.filter(|name| followed.remove(name).is_some()));
                    }
                    Concerned::Everything => return Ok(everything()),
                },
                // Its rows were prepared before, perhaps before `from`.
                Change::XaCommit(_) => return Ok(everything()),
                // Rows are read again, however they were written.
                Change::XaRollback(_) | Change::ForeignKeyChecks(_) => {}
            }
        }
    }
    stream.close().await;
    for one in followed.values_mut() {
        rewrite(worker, one, &mut again).await?;
    }
    Ok(again)
}

/// A binlog that is gone, or not understood, is a reason to copy again; a broken connection is none.
fn unreadable(error: SourceError) -> Result<(), BackfillError> {
    if error.disposition == Disposition::Retry {
        return Err(of_source(error));
    }
    tracing::warn!(%error, "finished chunks can't be brought to the new snapshot: all are copied again");
    Ok(())
}

/// Whether the rows of a key in the binlog are surely found by it: a literal that misses its row would
/// leave it as it was without anybody knowing. Left out are types whose comparison with a literal has
/// exceptions (times, floats, labels), and character sets in which two sequences of bytes are one
/// character of Unicode.
fn has_whole_key(table: &TableInfo) -> bool {
    let Some(key) = table.row_key() else { return false };
    key.columns.iter().all(|part| {
        let column = part.column.as_deref().and_then(|name| table.column(name));
        part.prefix.is_none() && column.is_some_and(is_followed)
    })
}

fn is_followed(column: &ColumnInfo) -> bool {
    match column.data_type.as_str() {
        "char" | "varchar" => {
            let charset = column.charset.as_deref().unwrap_or_default();
            ["ascii", "latin1", "utf8", "utf8mb3", "utf8mb4"].contains(&charset)
        }
        "binary" | "varbinary" => true,
        other => is_number(other),
    }
}

fn is_number(data_type: &str) -> bool {
    matches!(data_type, "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal")
}

fn table_of(change: &ChangeEvent) -> Option<&TableSchema> {
    match change {
        ChangeEvent::Insert { table, .. }
        | ChangeEvent::Update { table, .. }
        | ChangeEvent::Delete { table, .. } => Some(table),
        ChangeEvent::Truncate { .. }
        | ChangeEvent::Message { .. }
        | ChangeEvent::Definition(_)
        | ChangeEvent::Distributed(_) => None,
    }
}

/// Notes the keys of a row before and after; false if one can't be told.
fn note_keys(one: &mut Followed<'_>, schema: &TableSchema, change: &ChangeEvent) -> bool {
    let images: Vec<&Row> = match change {
        ChangeEvent::Insert { new, .. } => vec![new],
        ChangeEvent::Update { old: Some(old), new, .. } => vec![old.row(), new],
        ChangeEvent::Delete { old, .. } => vec![old.row()],
        _ => return false,
    };
    for image in images {
        let Some(condition) = key_of(one.table, schema, image) else { return false };
        one.keys.insert(condition);
    }
    true
}

/// The condition that finds the row: `(a = 1 AND b = _utf8mb4 x'61')`.
fn key_of(table: &TableInfo, schema: &TableSchema, row: &Row) -> Option<String> {
    let key = table.row_key()?;
    let parts = key.columns.iter().map(|part| {
        let column = part.column.as_deref()?;
        let position = schema.column_names().position(|name| name == column)?;
        let is_number = is_number(&table.column(column)?.data_type);
        let literal = match row.value(position)? {
            Value::Text(bytes) if is_number => std::str::from_utf8(bytes).ok()?.to_owned(),
            Value::Text(bytes) => format!("_utf8mb4 x'{}'", hex(bytes)),
            Value::Binary(bytes) => format!("x'{}'", hex(bytes)),
            _ => return None,
        };
        Some(format!("{} = {literal}", decoders::mysql::server::identifier(column)))
    });
    let parts: Option<Vec<String>> = parts.collect();
    Some(format!("({})", parts?.join(" AND ")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Reads the rows of the noted keys anew. A row that takes a unique value from one that is noted and
/// not read yet is refused: then the table is copied again.
async fn rewrite(
    worker: &mut Worker,
    one: &mut Followed<'_>,
    again: &mut BTreeSet<QualifiedName>,
) -> Result<(), BackfillError> {
    let keys = std::mem::take(&mut one.keys);
    let name = &one.table.name;
    if keys.is_empty() || again.contains(name) {
        return Ok(());
    }
    let keys: Vec<String> = keys.into_iter().collect();
    match worker.rewrite(one.table, &keys.join(" OR ")).await {
        Err(error) if !error.is_retryable() => {
            tracing::info!(table = %name, %error, "its finished chunks can't be mended: it is copied again");
            worker.roll_back().await?;
            again.insert(name.clone());
            Ok(())
        }
        done => done,
    }
}

/// What a statement may have changed, of tables that are copied.
enum Concerned<'a> {
    Nothing,
    Tables(&'a [QualifiedName]),
    Everything,
}

fn concerned(statement: &Statement) -> Concerned<'_> {
    match statement.kind {
        Kind::View
        | Kind::Routine
        | Kind::Sequence
        | Kind::Account
        | Kind::Maintenance
        | Kind::Server
        | Kind::Database
        | Kind::TemporaryTable => Concerned::Nothing,
        _ if statement.tables.is_empty() => Concerned::Everything,
        _ => Concerned::Tables(&statement.tables),
    }
}
