//! `_cutover.trigger_states`: which triggers and rules of a side we keep off, and what each is to be when the side
//! opens. `fired` says that one may have acted on what was applied; it is written with the statement that switches it
//! off, and stays until the doubt about its table is written down.

use std::collections::BTreeMap;

use decoders::QualifiedName;
use decoders::postgres::catalog::Firing;
use decoders::postgres::session::Session;
use decoders::postgres::state_schema;
use sinks::TargetError;
use sinks::own::keys;
use sinks::postgres::target_error;
use tokio_postgres::types::ToSql;

use super::found::{Found, Kind, Which};

const THERE: &str = "SELECT pg_catalog.to_regclass('_cutover.trigger_states') IS NOT NULL";

const CREATE: &str = "CREATE SCHEMA IF NOT EXISTS _cutover;
CREATE TABLE IF NOT EXISTS _cutover.trigger_states (
  pipeline text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('trigger', 'rule')),
  table_schema text NOT NULL,
  table_name text NOT NULL,
  name text NOT NULL,
  state text NOT NULL CHECK (state IN ('A', 'D', 'O', 'R')),
  fired boolean NOT NULL DEFAULT false,
  noted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  PRIMARY KEY (pipeline, kind, table_schema, table_name, name))";

const READ: &str = "SELECT kind, table_schema, table_name, name, state
FROM _cutover.trigger_states WHERE pipeline = $1";

const WRITE: &str = "INSERT INTO _cutover.trigger_states
  (pipeline, kind, table_schema, table_name, name, state)
SELECT $1::text, * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
ON CONFLICT (pipeline, kind, table_schema, table_name, name)
DO UPDATE SET state = excluded.state, noted_at = excluded.noted_at";

/// As it is found before it is switched off. `$7`: it may have fired; one that was noted before has been switched on
/// since. One that does not fire is only reached by its parent's statement: what is noted of it stays.
const WRITE_OFF: &str = "INSERT INTO _cutover.trigger_states AS noted
  (pipeline, kind, table_schema, table_name, name, state, fired)
SELECT $1::text, one.*, $7 AND one.state IN ('A', 'R')
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
  one(kind, table_schema, table_name, name, state)
ON CONFLICT (pipeline, kind, table_schema, table_name, name)
DO UPDATE SET noted_at = excluded.noted_at,
  state = CASE WHEN excluded.state IN ('A', 'R') THEN excluded.state ELSE noted.state END,
  fired = noted.fired OR excluded.state IN ('A', 'R')";

const FIRED: &str = "SELECT kind, table_schema, table_name, name
FROM _cutover.trigger_states WHERE pipeline = $1 AND fired";

const TOLD: &str = "UPDATE _cutover.trigger_states SET fired = false WHERE pipeline = $1 AND fired
  AND (kind, table_schema, table_name, name) IN
    (SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]))";

const STRIKE: &str = "DELETE FROM _cutover.trigger_states WHERE pipeline = $1
  AND (kind, table_schema, table_name, name) IN
    (SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]))";

/// What is noted on a side, by what it is about.
pub(crate) type Notes = BTreeMap<Which, Firing>;

/// Makes the table if it is missing.
pub(super) async fn prepare(session: &Session) -> Result<(), TargetError> {
    keys::refuse_strangers(session).await?;
    if is_there(session).await? {
        return Ok(());
    }
    let sql = format!("BEGIN READ WRITE; {CREATE}; {}; COMMIT", state_schema::REVOKE);
    session.batch_execute(&sql).await.map_err(failed)?;
    keys::refuse_strangers(session).await
}

/// What a pipeline has noted there; nothing without the table. In a session that has seen that `_cutover` is ours alone.
pub(crate) async fn read(session: &Session, pipeline: &str) -> Result<Notes, TargetError> {
    if !is_there(session).await? {
        return Ok(Notes::new());
    }
    let mut notes = Notes::new();
    for row in session.query(READ, &[&pipeline]).await.map_err(failed)? {
        // The table's own constraint allows no other.
        if let Some(state) = Firing::from_code(row.try_get(4).map_err(failed)?) {
            notes.insert(which(&row)?, state);
        }
    }
    Ok(notes)
}

/// Those that may have fired for what was applied, about which nothing was written down yet.
pub(super) async fn fired(session: &Session, pipeline: &str) -> Result<Vec<Which>, TargetError> {
    if !is_there(session).await? {
        return Ok(Vec::new());
    }
    let rows = session.query(FIRED, &[&pipeline]).await.map_err(failed)?;
    rows.iter().map(which).collect()
}

/// The doubt about their tables is written down.
pub(super) async fn told(
    session: &Session,
    pipeline: &str,
    which: &[&Which],
) -> Result<(), TargetError> {
    let [kinds, schemas, tables, names] = columns(which);
    let told = session.execute(TOLD, &[&pipeline, &kinds, &schemas, &tables, &names]).await;
    told.map(drop).map_err(failed)
}

async fn is_there(session: &Session) -> Result<bool, TargetError> {
    session.query_one(THERE, &[]).await.map_err(failed)?.try_get(0).map_err(failed)
}

fn which(row: &tokio_postgres::Row) -> Result<Which, TargetError> {
    let text = |at: usize| row.try_get::<_, String>(at).map_err(failed);
    Ok(Which {
        kind: Kind::from_label(&text(0)?),
        table: QualifiedName::new(text(1)?, text(2)?),
        name: text(3)?,
    })
}

/// Writes notes, in the caller's transaction.
pub(super) async fn write(
    session: &Session,
    pipeline: &str,
    notes: impl Iterator<Item = (&Which, Firing)>,
) -> Result<(), TargetError> {
    let (which, states): (Vec<&Which>, Vec<&str>) =
        notes.map(|(which, state)| (which, state.code())).unzip();
    let [kinds, schemas, tables, names] = columns(&which);
    let written =
        session.execute(WRITE, &[&pipeline, &kinds, &schemas, &tables, &names, &states]).await;
    written.map(drop).map_err(failed)
}

/// Writes notes of what is switched off, in the caller's transaction. `may_have_fired`: changes were applied while it was
/// on.
pub(super) async fn write_off(
    session: &Session,
    pipeline: &str,
    off: &[&Found],
    may_have_fired: bool,
) -> Result<(), TargetError> {
    let which: Vec<_> = off.iter().map(|one| &one.which).collect();
    let states: Vec<_> = off.iter().map(|one| one.state.code()).collect();
    let [kinds, schemas, tables, names] = columns(&which);
    let given: [&(dyn ToSql + Sync); 7] =
        [&pipeline, &kinds, &schemas, &tables, &names, &states, &may_have_fired];
    session.execute(WRITE_OFF, &given).await.map(drop).map_err(failed)
}

/// Strikes notes out, in the caller's transaction.
pub(super) async fn strike(
    session: &Session,
    pipeline: &str,
    which: &[&Which],
) -> Result<(), TargetError> {
    let [kinds, schemas, tables, names] = columns(which);
    let struck = session.execute(STRIKE, &[&pipeline, &kinds, &schemas, &tables, &names]).await;
    struck.map(drop).map_err(failed)
}

fn columns<'a>(which: &[&'a Which]) -> [Vec<&'a str>; 4] {
    [
        which.iter().map(|one| one.kind.label()).collect(),
        which.iter().map(|one| &*one.table.schema).collect(),
        which.iter().map(|one| &*one.table.name).collect(),
        which.iter().map(|one| one.name.as_str()).collect(),
    ]
}

fn failed(error: tokio_postgres::Error) -> TargetError {
    target_error("keeping the states of triggers (_cutover.trigger_states)", &error)
}
