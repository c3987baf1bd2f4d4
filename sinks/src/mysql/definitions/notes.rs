//! What green knows of schema changes: `_cutover.definition`, a row for each, written before it runs.

use decoders::change::Lsn;
use decoders::mysql::server::literal;
use decoders::mysql::stream::DEFINITION_TABLE;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::Arriving;
use super::shape::Shape;
use crate::mysql::error::target_error;
use crate::target::TargetError;

/// The table.
pub(super) const TABLE: &str = "_cutover.definition";

/// Makes the table.
pub(in crate::mysql) fn create_statement(name_type: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS _cutover.{DEFINITION_TABLE} (
           pipeline {name_type},
           number bigint unsigned NOT NULL,
           place varchar(255) CHARACTER SET ascii NOT NULL,
           kind varchar(64) CHARACTER SET ascii NOT NULL,
           objects longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
           statement longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
           shape_before longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
           state varchar(10) CHARACTER SET ascii NOT NULL,
           noted_at datetime(6) NOT NULL,
           PRIMARY KEY (pipeline, number)
         ) ENGINE = InnoDB"
    )
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// A person has to do it.
    Waits,
    /// It runs, or has run.
    Begun,
    /// It is there.
    Done,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Waits => "waits",
            State::Begun => "begun",
            State::Done => "done",
        }
    }
}

/// A row.
pub(super) struct Note {
    pub place: String,
    pub text: String,
    pub before: String,
    pub state: State,
}

/// Which row.
pub(super) fn condition(pipeline: &str, number: Lsn) -> String {
    format!("pipeline = {} AND number = {}", literal(pipeline), number.0)
}

pub(super) async fn read(
    conn: &mut Conn,
    pipeline: &str,
    number: Lsn,
) -> Result<Option<Note>, TargetError> {
    let which = condition(pipeline, number);
    let sql = format!("SELECT place, statement, shape_before, state FROM {TABLE} WHERE {which}");
    let row: Result<Option<(String, String, String, String)>, _> = conn.query_first(sql).await;
    let row =
        row.map_err(|error| target_error("reading what is noted of a schema change", error))?;
    let Some((place, text, before, state)) = row else { return Ok(None) };
    let known = [State::Waits, State::Begun, State::Done];
    let state = known.into_iter().find(|known| known.name() == state).ok_or_else(|| {
        TargetError::halt(
            format!("{TABLE} on green has a state that is none ({which})"),
            "Set state = 'done' there if the statement has been done, or remove the row if nothing of it \
             has; then it goes on by itself",
        )
    })?;
    Ok(Some(Note { place, text, before, state }))
}

/// Notes it, in place of what was noted before.
pub(super) async fn write(
    conn: &mut Conn,
    arriving: &Arriving<'_>,
    before: &Shape,
    state: State,
) -> Result<(), TargetError> {
    let definition = arriving.definition;
    let delete =
        format!("DELETE FROM {TABLE} WHERE {}", condition(arriving.pipeline, arriving.number));
    let insert = format!(
        "INSERT INTO {TABLE} VALUES ({}, {}, {}, {}, {}, {}, {}, '{}', utc_timestamp(6))",
        literal(arriving.pipeline),
        arriving.number.0,
        literal(&definition.place),
        literal(definition.kind),
        literal(&definition.names()),
        literal(&definition.text),
        literal(&before.text),
        state.name(),
    );
    marked(conn, arriving, &[&delete, &insert])
        .await
        .map_err(|error| target_error("noting a schema change on green", error))
}

/// Says that the server has refused it: a person has to do it, or to make room for it.
pub(super) async fn wait(conn: &mut Conn, arriving: &Arriving<'_>) -> Result<(), TargetError> {
    let which = condition(arriving.pipeline, arriving.number);
    let sql = format!("UPDATE {TABLE} SET state = '{}' WHERE {which}", State::Waits.name());
    marked(conn, arriving, &[&sql])
        .await
        .map_err(|error| target_error("noting that a schema change was refused on green", error))
}

/// A transaction that is known as ours in green's own log.
async fn marked(
    conn: &mut Conn,
    arriving: &Arriving<'_>,
    statements: &[&str],
) -> Result<(), mysql_async::Error> {
    conn.query_drop("START TRANSACTION").await?;
    conn.query_drop(&arriving.marks.statement()[..]).await?;
    for sql in statements {
        conn.query_drop(*sql).await?;
    }
    conn.query_drop("COMMIT").await
}

/// The statement that closes a note: in the transaction that moves the progress.
pub(in crate::mysql) fn close_statement(pipeline: &str, number: Lsn) -> Vec<u8> {
    let which = condition(pipeline, number);
    format!("UPDATE {TABLE} SET state = '{}' WHERE {which}", State::Done.name()).into_bytes()
}
