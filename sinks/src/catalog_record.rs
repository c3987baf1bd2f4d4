//! What the target keeps of the source's catalog: one row of `_cutover.catalog` for each relation that is
//! replicated, as it was when its rows were copied or when a change of it was last dealt with, and whether its
//! rows are still known to be the source's.
//!
//! A row says *unproven* from the moment when something is found that may have moved rows outside of the
//! stream, until a comparison of that table has found no difference. A comparison clears what was marked when
//! it began and nothing newer: each mark has a revision of its own.

use std::collections::BTreeMap;

use decoders::QualifiedName;
use decoders::postgres::catalog::RelationRecord;
use decoders::postgres::state_schema;
use serde::{Deserialize, Serialize};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::postgres::target_error;
use crate::progress::LOCK;
use crate::target::TargetError;

/// Version of the table and of the records in it.
const SCHEMA_VERSION: i32 = 1;

const CREATE: &str = "
CREATE SCHEMA IF NOT EXISTS _cutover;
CREATE TABLE IF NOT EXISTS _cutover.catalog (
  pipeline text NOT NULL,
  schema_name text NOT NULL,
  table_name text NOT NULL,
  version int NOT NULL,
  record text NOT NULL,
  unproven text,
  revision bigint NOT NULL DEFAULT 0,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (pipeline, schema_name, table_name)
);
";

const EXISTS: &str = "SELECT pg_catalog.to_regclass('_cutover.catalog') IS NOT NULL";

/// `$1` pipeline, `$2` and `$3` names, `$4` records, `$5` why they are unproven (or NULL), `$6` version, `$7`
/// and `$8` names that go away. What is marked already stays so.
const SAVE: &str = "
WITH given AS (
  SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[])
             AS given(schema_name, table_name, record, unproven)),
gone AS (
  DELETE FROM _cutover.catalog
  WHERE pipeline = $1
    AND (schema_name, table_name) IN (SELECT * FROM unnest($7::text[], $8::text[])))
INSERT INTO _cutover.catalog AS known
  (pipeline, schema_name, table_name, version, record, unproven, revision)
SELECT $1, schema_name, table_name, $6, record, unproven,
       (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint
FROM given
ON CONFLICT (pipeline, schema_name, table_name) DO UPDATE
SET record = excluded.record, version = excluded.version,
    updated_at = pg_catalog.clock_timestamp(),
    unproven = CASE
      WHEN excluded.unproven IS NULL THEN known.unproven
      WHEN known.unproven IS NULL OR known.unproven = excluded.unproven THEN excluded.unproven
      WHEN pg_catalog.strpos(known.unproven, excluded.unproven) > 0 THEN known.unproven
      ELSE known.unproven || '; ' || excluded.unproven END,
    revision = CASE WHEN excluded.unproven IS NULL THEN known.revision
                    ELSE excluded.revision END";

/// Parameters as of [`SAVE`]: whatever else the pipeline had goes away.
const BEGIN: &str = "
WITH given AS (
  SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[])
             AS given(schema_name, table_name, record, unproven)),
gone AS (
  DELETE FROM _cutover.catalog c
  WHERE pipeline = $1
    AND NOT EXISTS (SELECT FROM given g
                    WHERE g.schema_name = c.schema_name AND g.table_name = c.table_name))
INSERT INTO _cutover.catalog AS known
  (pipeline, schema_name, table_name, version, record, unproven, revision)
SELECT $1, schema_name, table_name, $6, record, unproven,
       (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint
FROM given
ON CONFLICT (pipeline, schema_name, table_name) DO UPDATE
SET record = excluded.record, version = excluded.version, unproven = excluded.unproven,
    revision = excluded.revision, updated_at = pg_catalog.clock_timestamp()";

/// What is kept of one relation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// As it was.
    pub relation: RelationRecord,
    /// Tables that had the name before, and were replaced by this one with somebody's knowledge. Their last rows may
    /// still be in the stream.
    #[serde(default)]
    pub former: Vec<u32>,
    /// Why its rows may not be the source's.
    #[serde(skip)]
    pub unproven: Option<String>,
}

/// A relation that is not proven.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Its name.
    pub table: QualifiedName,
    /// Why.
    pub why: String,
    /// Of this mark: a later one has another.
    pub revision: i64,
}

/// A pipeline's records by name.
pub type Records = BTreeMap<QualifiedName, Kept>;

fn fail(error: tokio_postgres::Error) -> TargetError {
    target_error("keeping the record of tables (_cutover.catalog)", &error)
}

/// Creates the table where it is missing. Needs CREATE on the database only if it is.
///
/// # Errors
/// The server's.
pub async fn create(client: &Client) -> Result<(), TargetError> {
    if exists(client).await? {
        return Ok(());
    }
    let sql = format!("{LOCK};{CREATE};{}", state_schema::REVOKE);
    client.batch_execute(&sql).await.map_err(fail)
}

async fn exists(client: &Client) -> Result<bool, TargetError> {
    Ok(client.query_one(EXISTS, &[]).await.map_err(fail)?.get(0))
}

/// What is kept of a pipeline; nothing, if no record was ever taken.
///
/// # Errors
/// Halts if another version of the program has written it, or somebody else.
pub async fn read(client: &Client, pipeline: &str) -> Result<Records, TargetError> {
    if !exists(client).await? {
        return Ok(Records::new());
    }
    let sql = "SELECT version, record, unproven FROM _cutover.catalog WHERE pipeline = $1";
    let rows = client.query(sql, &[&pipeline]).await.map_err(fail)?;
    rows.iter().map(kept).collect()
}

fn kept(row: &Row) -> Result<(QualifiedName, Kept), TargetError> {
    let version: i32 = row.get(0);
    if version != SCHEMA_VERSION {
        return Err(TargetError::halt(
            format!(
                "the record of tables (_cutover.catalog) has version {version}, this program's is \
                 {SCHEMA_VERSION}"
            ),
            "use the version of the replicator that began this stream",
        ));
    }
    let kept: Kept = serde_json::from_str(row.get(1)).map_err(|error| {
        TargetError::halt(
            format!("the record of tables (_cutover.catalog) can't be read: {error}"),
            "_cutover.catalog was changed by hand: restore it",
        )
    })?;
    Ok((kept.relation.name.clone(), Kept { unproven: row.get(2), ..kept }))
}

/// Replaces all that is kept of a pipeline, in one transaction. The table must exist.
///
/// # Errors
/// The server's.
pub async fn begin(client: &Client, pipeline: &str, all: &[Kept]) -> Result<(), TargetError> {
    write(client, pipeline, all, None).await
}

/// Renews what is kept of some relations, and forgets others, in one transaction. A relation that is
/// given as unproven is marked; one that is not keeps what mark it has.
///
/// # Errors
/// The server's.
pub async fn save(
    client: &Client,
    pipeline: &str,
    changed: &[Kept],
    gone: &[QualifiedName],
) -> Result<(), TargetError> {
    write(client, pipeline, changed, Some(gone)).await
}

/// Of no `gone`: whatever is not given goes.
async fn write(
    client: &Client,
    pipeline: &str,
    given: &[Kept],
    gone: Option<&[QualifiedName]>,
) -> Result<(), TargetError> {
    let records = given.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
    let records = records.map_err(|error| {
        TargetError::halt(format!("a record of a table can't be written: {error}"), "report this")
    })?;
    let name = |kept: &Kept| kept.relation.name.clone();
    let (schemas, tables): (Vec<_>, Vec<_>) =
        given.iter().map(name).map(|name| (name.schema, name.name)).unzip();
    let whys: Vec<_> = given.iter().map(|kept| kept.unproven.as_deref()).collect();
    let (gone_schemas, gone_tables): (Vec<_>, Vec<_>) =
        gone.unwrap_or_default().iter().map(|name| (&*name.schema, &*name.name)).unzip();
    let mut parameters: Vec<&(dyn ToSql + Sync)> =
        vec![&pipeline, &schemas, &tables, &records, &whys, &SCHEMA_VERSION];
    let sql = match gone {
        None => BEGIN,
        Some(_) => {
            parameters.push(&gone_schemas);
            parameters.push(&gone_tables);
            SAVE
        }
    };
    client.execute(sql, &parameters).await.map(drop).map_err(fail)
}

/// The relations of a pipeline that are not proven, by name.
///
/// # Errors
/// The server's.
pub async fn marks(client: &Client, pipeline: &str) -> Result<Vec<Mark>, TargetError> {
    if !exists(client).await? {
        return Ok(Vec::new());
    }
    let sql = "SELECT schema_name, table_name, unproven, revision FROM _cutover.catalog \
               WHERE pipeline = $1 AND unproven IS NOT NULL ORDER BY 1, 2";
    let rows = client.query(sql, &[&pipeline]).await.map_err(fail)?;
    let mark = |row: &Row| Mark {
        table: QualifiedName { schema: row.get(0), name: row.get(1) },
        why: row.get(2),
        revision: row.get(3),
    };
    Ok(rows.iter().map(mark).collect())
}

/// These marks were answered: their tables were compared since, and are equal. Gives how many were
/// still what they were.
///
/// # Errors
/// The server's.
pub async fn clear(client: &Client, pipeline: &str, marks: &[Mark]) -> Result<u64, TargetError> {
    let (schemas, tables): (Vec<_>, Vec<_>) =
        marks.iter().map(|mark| (&*mark.table.schema, &*mark.table.name)).unzip();
    let revisions: Vec<i64> = marks.iter().map(|mark| mark.revision).collect();
    let sql = "UPDATE _cutover.catalog SET unproven = NULL
               WHERE pipeline = $1 AND (schema_name, table_name, revision) IN
                     (SELECT * FROM unnest($2::text[], $3::text[], $4::bigint[]))";
    client.execute(sql, &[&pipeline, &schemas, &tables, &revisions]).await.map_err(fail)
}

/// Forgets a pipeline's records, and the table with the last of them.
///
/// # Errors
/// The server's.
pub async fn remove(client: &Client, pipeline: &str) -> Result<(), TargetError> {
    if !exists(client).await? {
        return Ok(());
    }
    let sql = "DELETE FROM _cutover.catalog WHERE pipeline = $1";
    client.execute(sql, &[&pipeline]).await.map_err(fail)?;
    let drop_if_unused = format!(
        "{LOCK};
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM _cutover.catalog) THEN
    DROP TABLE _cutover.catalog;
  END IF;
END $$"
    );
    client.batch_execute(&drop_if_unused).await.map_err(fail)
}
