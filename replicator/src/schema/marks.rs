//! What has been done to green, written down on green in the same transaction.

use std::collections::BTreeSet;

use decoders::postgres::state_schema;
use tokio_postgres::{Client, GenericClient};

use crate::backfill::BackfillError;

/// Everything of ours on either server lives here.
pub(crate) const STATE_SCHEMA: &str = state_schema::STATE_SCHEMA;

/// One row for each thing done.
pub(crate) const STATE_TABLE: &str = "_cutover.copy_state";

const PRE_DATA: &str = "schema before the rows";
const POST_DATA: &str = "schema after the rows";
/// Of the first half, what is restored while it is not complete.
const RESTORING: &str = "schema before the rows, so far";

/// The marks of one pipeline on green.
pub(crate) struct Marks;

impl Marks {
    /// Makes the table. Concurrent callers get along.
    pub(crate) async fn prepare(green: &Client) -> Result<(), BackfillError> {
        let fail =
            |error| BackfillError::database(format!("creating {STATE_TABLE} on green"), &error);
        let ours = || async {
            let found = state_schema::strangers(green).await.map_err(fail)?;
            match state_schema::foreign(&found) {
                Some(what) => {
                    Err(BackfillError::halt(format!("green: {what}"), state_schema::REMEDY))
                }
                None => Ok(()),
            }
        };
        ours().await?;
        // Two CREATE .. IF NOT EXISTS at the same time can still collide in the catalog.
        let statement = format!(
            "BEGIN;
             SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('{STATE_TABLE}'));
             CREATE SCHEMA IF NOT EXISTS {STATE_SCHEMA};
             CREATE TABLE IF NOT EXISTS {STATE_TABLE} (
                 item text PRIMARY KEY,
                 detail text NOT NULL,
                 at timestamptz NOT NULL DEFAULT pg_catalog.now());
             {};
             COMMIT",
            state_schema::REVOKE
        );
        green.batch_execute(&statement).await.map_err(fail)?;
        // Somebody may have been faster than we were.
        ours().await
    }

    /// Writes a mark, replacing one of the same name.
    pub(crate) async fn set(
        green: &impl GenericClient,
        item: &str,
        detail: &str,
    ) -> Result<(), tokio_postgres::Error> {
        let statement = format!(
            "INSERT INTO {STATE_TABLE} (item, detail) VALUES ($1, $2)
             ON CONFLICT (item) DO UPDATE SET detail = excluded.detail, at = excluded.at"
        );
        green.execute(&statement, &[&item, &detail]).await.map(drop)
    }

    /// Reads a mark.
    pub(crate) async fn get(
        green: &impl GenericClient,
        item: &str,
    ) -> Result<Option<String>, tokio_postgres::Error> {
        let statement = format!("SELECT detail FROM {STATE_TABLE} WHERE item = $1");
        green.query_opt(&statement, &[&item]).await?.map(|row| row.try_get(0)).transpose()
    }

    /// The two halves of the schema's script, once the first is restored.
    pub(crate) async fn scripts(
        green: &impl GenericClient,
    ) -> Result<Option<(String, String)>, tokio_postgres::Error> {
        let pre = Self::get(green, PRE_DATA).await?;
        let post = Self::get(green, POST_DATA).await?;
        Ok(pre.zip(post))
    }

    /// Writes both halves down. The second outlives the snapshot that it was dumped from.
    pub(crate) async fn set_scripts(
        green: &impl GenericClient,
        pre: &str,
        post: &str,
    ) -> Result<(), tokio_postgres::Error> {
        Self::set(green, PRE_DATA, pre).await?;
        Self::set(green, POST_DATA, post).await
    }

    /// How far the first half is restored, if a part of it is.
    pub(crate) async fn restoring(
        green: &impl GenericClient,
    ) -> Result<Option<String>, tokio_postgres::Error> {
        Self::get(green, RESTORING).await
    }

    /// Writes down how far it is; `None`: it is complete.
    pub(crate) async fn set_restoring(
        green: &impl GenericClient,
        so_far: Option<&str>,
    ) -> Result<(), tokio_postgres::Error> {
        match so_far {
            Some(so_far) => Self::set(green, RESTORING, so_far).await,
            None => Self::forget(green, &[RESTORING.to_owned()]).await,
        }
    }

    /// What was put off, by the mark's name.
    pub(crate) async fn put_off(
        green: &impl GenericClient,
    ) -> Result<Vec<(String, String)>, tokio_postgres::Error> {
        const THERE: &str = "SELECT pg_catalog.to_regclass($1::text) IS NOT NULL";
        if !green.query_one(THERE, &[&STATE_TABLE]).await?.try_get::<_, bool>(0)? {
            return Ok(Vec::new());
        }
        let statement = format!(
            "SELECT item, detail FROM {STATE_TABLE} WHERE item LIKE 'put off %' ORDER BY 1"
        );
        let rows = green.query(&statement, &[]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// The mark of what was put off of a statement of the second half.
    pub(crate) fn put_off_item(ordinal: usize) -> String {
        format!("put off {ordinal:06}")
    }

    /// Numbers of the second half's statements that are done. `step` tells apart what is done for
    /// one statement in several steps.
    pub(crate) async fn done_statements(
        green: &impl GenericClient,
    ) -> Result<BTreeSet<String>, tokio_postgres::Error> {
        let statement = format!("SELECT item FROM {STATE_TABLE} WHERE item LIKE 'statement %'");
        let rows = green.query(&statement, &[]).await?;
        rows.into_iter().map(|row| row.try_get(0)).collect()
    }

    /// Takes marks back.
    pub(crate) async fn forget(
        green: &impl GenericClient,
        items: &[String],
    ) -> Result<(), tokio_postgres::Error> {
        let statement = format!("DELETE FROM {STATE_TABLE} WHERE item = ANY ($1)");
        green.execute(&statement, &[&items]).await.map(drop)
    }

    /// The mark of a statement of the second half.
    pub(crate) fn statement(ordinal: usize, step: &str) -> String {
        format!("statement {ordinal} {step}")
    }
}
