//! `_cutover.trigger_states`: which triggers and rules of a side we keep off, and what each is to be when the side
//! opens.

use std::collections::BTreeMap;

use decoders::QualifiedName;
use decoders::postgres::catalog::Firing;
use decoders::postgres::session::Session;
use decoders::postgres::state_schema;
use sinks::TargetError;
use sinks::own::keys;
use sinks::postgres::target_error;

use super::found::{Kind, Which};

const THERE: &str = "SELECT pg_catalog.to_regclass('_cutover.trigger_states') IS NOT NULL";

const CREATE: &str = "CREATE SCHEMA IF NOT EXISTS _cutover;
CREATE TABLE IF NOT EXISTS _cutover.trigger_states (
  pipeline text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('trigger', 'rule')),
  table_schema text NOT NULL,
  table_name text NOT NULL,
  name text NOT NULL,
  state text NOT NULL CHECK (state IN ('A', 'D', 'O', 'R')),
  noted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  PRIMARY KEY (pipeline, kind, table_schema, table_name, name))";

const READ: &str = "SELECT kind, table_schema, table_name, name, state
FROM _cutover.trigger_states WHERE pipeline = $1";

const WRITE: &str = "INSERT INTO _cutover.trigger_states
  (pipeline, kind, table_schema, table_name, name, state)
SELECT $1::text, * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
ON CONFLICT (pipeline, kind, table_schema, table_name, name)
DO UPDATE SET state = excluded.state, noted_at = excluded.noted_at";

const STRIKE: &str = "DELETE FROM _cutover.trigger_states WHERE pipeline = $1
  AND (kind, table_schema, table_name, name) IN
    (SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]))";

/// What is noted on a side, by what it is about.
pub(crate) type Notes = BTreeMap<Which, Firing>;

/// Makes the table if it is missing.
pub(super) async fn prepare(session: &Session) -> Result<(), TargetError> {
    keys::refuse_strangers(session).await?;
    if session.query_one(THERE, &[]).await.map_err(failed)?.get(0) {
        return Ok(());
    }
    let sql = format!("BEGIN READ WRITE; {CREATE}; {}; COMMIT", state_schema::REVOKE);
    session.batch_execute(&sql).await.map_err(failed)?;
    keys::refuse_strangers(session).await
}

/// What a pipeline has noted there; nothing without the table. In a session that has seen that `_cutover` is ours alone.
pub(crate) async fn read(session: &Session, pipeline: &str) -> Result<Notes, TargetError> {
    if !session.query_one(THERE, &[]).await.map_err(failed)?.get::<_, bool>(0) {
        return Ok(Notes::new());
    }
    let mut notes = Notes::new();
    for row in session.query(READ, &[&pipeline]).await.map_err(failed)? {
        let text = |at: usize| row.try_get::<_, String>(at).map_err(failed);
        let which = Which {
            kind: Kind::from_label(&text(0)?),
            table: QualifiedName::new(text(1)?, text(2)?),
            name: text(3)?,
        };
        // The table's own constraint allows no other.
        if let Some(state) = Firing::from_code(&text(4)?) {
            notes.insert(which, state);
        }
    }
    Ok(notes)
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
