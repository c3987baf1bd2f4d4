//! What green knows of the chunks of its tables: where each begins and ends, and which have their
//! rows. The mark of a chunk commits together with its rows.

use std::collections::BTreeMap;

use decoders::QualifiedName;
use decoders::mysql::server::{Conn, code};
use mysql_async::prelude::Queryable;

use super::failed;
use super::turn::Epoch;
use crate::backfill::BackfillError;
use crate::schema::mysql::{Notes, qualified};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS _cutover.copy_chunks (
  pipeline VARCHAR(64) NOT NULL, db VARCHAR(64) NOT NULL, name VARCHAR(64) NOT NULL, chunk INT UNSIGNED NOT NULL,
  above LONGTEXT NOT NULL, up_to LONGTEXT NOT NULL, is_done TINYINT NOT NULL,
  copied_rows BIGINT UNSIGNED NOT NULL, copied_bytes BIGINT UNSIGNED NOT NULL,
  PRIMARY KEY (pipeline, db, name, chunk)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";

/// `Table doesn't exist`, `Unknown database`.
pub(crate) const NOT_THERE: [u16; 2] = [1146, 1049];

/// Which rows of a table: those whose key is above one bound and not above another, as SQL literals.
/// No bound: all of them on that side.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Range {
    pub above: Option<Vec<String>>,
    pub up_to: Option<Vec<String>>,
}

/// A chunk as green knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    pub chunk: u32,
    pub range: Range,
    pub is_done: bool,
    pub rows: u64,
    pub bytes: u64,
}

fn asked(error: mysql_async::Error) -> BackfillError {
    failed("the marks of the copy on green (_cutover.copy_chunks)", error)
}

/// Makes the table of marks; the database is there.
pub(super) async fn prepare(green: &mut Conn) -> Result<(), BackfillError> {
    green.query_drop(CREATE).await.map_err(asked)
}

/// All marks of a pipeline, by table and in the order of their chunks.
pub(super) async fn read(
    green: &mut Conn,
    notes: &Notes,
) -> Result<BTreeMap<QualifiedName, Vec<Mark>>, BackfillError> {
    let sql = "SELECT db, name, chunk, above, up_to, is_done, copied_rows, copied_bytes
               FROM _cutover.copy_chunks WHERE pipeline = ? ORDER BY db, name, chunk";
    type Row = (String, String, u32, String, String, bool, u64, u64);
    let rows: Vec<Row> = green.exec(sql, (notes.pipeline(),)).await.map_err(asked)?;
    let mut marks: BTreeMap<QualifiedName, Vec<Mark>> = BTreeMap::new();
    for (db, name, chunk, above, up_to, is_done, rows, bytes) in rows {
        let range = Range { above: bound(&above)?, up_to: bound(&up_to)? };
        let mark = Mark { chunk, range, is_done, rows, bytes };
        marks.entry(QualifiedName::new(db, name)).or_default().push(mark);
    }
    Ok(marks)
}

/// Writes where a chunk begins and ends, before it is copied.
pub(super) async fn plan(
    green: &mut Conn,
    notes: &Notes,
    table: &QualifiedName,
    chunk: u32,
    range: &Range,
) -> Result<(), BackfillError> {
    let sql = "INSERT INTO _cutover.copy_chunks VALUES (?, ?, ?, ?, ?, ?, 0, 0, 0)";
    let values = (
        notes.pipeline(),
        &table.schema,
        &table.name,
        chunk,
        text(range.above.as_ref())?,
        text(range.up_to.as_ref())?,
    );
    green.exec_drop(sql, values).await.map_err(asked)
}

/// Marks a chunk as copied, in the transaction of its rows.
pub(super) async fn done(
    green: &mut Conn,
    notes: &Notes,
    table: &QualifiedName,
    chunk: u32,
    rows: u64,
    bytes: u64,
) -> Result<(), BackfillError> {
    let sql = "UPDATE _cutover.copy_chunks SET is_done = 1, copied_rows = ?, copied_bytes = ?
               WHERE pipeline = ? AND db = ? AND name = ? AND chunk = ? AND is_done = 0";
    let values = (rows, bytes, notes.pipeline(), &table.schema, &table.name, chunk);
    green.exec_drop(sql, values).await.map_err(asked)?;
    match green.affected_rows() {
        1 => Ok(()),
        _ => Err(BackfillError::halt(
            format!("chunk {chunk} of {table} was marked by somebody else on green"),
            "let one replicator at a time copy to green",
        )),
    }
}

/// Empties a table for a new copy of it. Marks first say that nothing is copied, and are forgotten
/// last: whatever a crash leaves, they never claim rows that are not there, and tell that the table is
/// ours to empty.
pub(super) async fn empty(
    green: &mut Conn,
    notes: &Notes,
    table: &QualifiedName,
) -> Result<(), BackfillError> {
    let doing = || format!("emptying the table {table} on green");
    let sql =
        "UPDATE _cutover.copy_chunks SET is_done = 0 WHERE pipeline = ? AND db = ? AND name = ?";
    let names = (notes.pipeline(), &table.schema, &table.name);
    green.exec_drop(sql, names).await.map_err(|error| failed(doing(), error))?;
    let truncate = format!("TRUNCATE TABLE {}", qualified(table));
    green.query_drop(truncate).await.map_err(|error| failed(doing(), error))?;
    forget_table(green, notes, table).await
}

/// Forgets the chunks of a table, which is about to be made anew or emptied.
pub(crate) async fn forget_table(
    green: &mut Conn,
    notes: &Notes,
    table: &QualifiedName,
) -> Result<(), BackfillError> {
    let sql = "DELETE FROM _cutover.copy_chunks WHERE pipeline = ? AND db = ? AND name = ?";
    match green.exec_drop(sql, (notes.pipeline(), &table.schema, &table.name)).await {
        Err(error) if code(&error).is_some_and(|code| NOT_THERE.contains(&code)) => Ok(()),
        forgotten => forgotten.map_err(asked),
    }
}

/// Ends the copy: its tables are green's own from now on, and a mark of it is leave to empty none.
///
/// # Errors
/// The claims are still there.
pub async fn record_copied(green: &mut Conn, epoch: &Epoch) -> Result<(), BackfillError> {
    epoch.begin(green).await?;
    epoch.notes().record_copied(green).await?;
    let sql = "DELETE FROM _cutover.copy_chunks WHERE pipeline = ?";
    match green.exec_drop(sql, (epoch.notes().pipeline(),)).await {
        Err(error) if code(&error).is_some_and(|code| NOT_THERE.contains(&code)) => {}
        forgotten => forgotten.map_err(asked)?,
    }
    green.query_drop("COMMIT").await.map_err(asked)
}

/// No bound is the empty text.
fn bound(text: &str) -> Result<Option<Vec<String>>, BackfillError> {
    if text.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(text).map(Some).map_err(|error| {
        BackfillError::halt(
            format!("a mark of the copy on green can't be read: {error}"),
            "drop the copied tables and the database _cutover on green, and copy anew",
        )
    })
}

fn text(bound: Option<&Vec<String>>) -> Result<String, BackfillError> {
    let text = bound.map(serde_json::to_string).transpose();
    text.map(Option::unwrap_or_default)
        .map_err(|error| BackfillError::retry(format!("writing a mark: {error}")))
}
