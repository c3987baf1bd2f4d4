//! Removing what a pipeline left on both servers. Copied data stays.

use decoders::postgres::{publication, session, slot};
use sinks::postgres::target_error;
use sinks::progress;

use super::failure::{Failure, of_connect};
use super::truncation;
use crate::config::Config;
use crate::store::Store;

/// Whether our schema is on blue, and which publications carry tables of it: another pipeline's.
/// PostgreSQL 10-18 alike.
const OWN_SCHEMA: &str = "
    SELECT EXISTS (SELECT FROM pg_catalog.pg_class c
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = '_cutover' AND c.relname IN ('marker', 'truncated')),
           ARRAY(SELECT DISTINCT p.pubname::text FROM pg_catalog.pg_publication p
                 JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
                 JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = '_cutover' ORDER BY 1)";

/// Removes slot, publication, triggers and our own tables, on whichever side they are, and forgets the
/// pipeline. Doing it twice does no harm. Every step is tried; what failed is in the error.
///
/// # Errors
/// Everything that could not be removed, in one failure.
pub async fn teardown(config: &Config) -> Result<Vec<String>, Failure> {
    let mut done = Vec::new();
    let mut failed: Vec<String> = Vec::new();
    for (side, removed) in [("blue", blue(config).await), ("green", green(config).await)] {
        match removed {
            Ok(lines) => done.extend(lines),
            Err(failure) => failed.push(format!("{side}: {}", failure.what)),
        }
    }
    if !failed.is_empty() {
        return Err(Failure::halt("teardown", failed.join("; "), "replicator teardown, again"));
    }
    // Last: as long as something is left on a server, the state says whose it is.
    if config.state_dir.exists() {
        let store = Store::open(&config.state_dir)?;
        store.forget_stage()?;
        store.forget_checkpoint()?;
        done.push(format!("state directory {}: pipeline forgotten", config.state_dir.display()));
    }
    Ok(done)
}

async fn blue(config: &Config) -> Result<Vec<String>, Failure> {
    let info = config.blue.resolve("blue").map_err(|e| Failure::halt("blue", e, "correct it"))?;
    let session = session::connect(&info, "cutover teardown").await;
    let session = session.map_err(|error| of_connect("blue", &error))?;
    // A blue that was cut over is read-only by default; what goes here is our own.
    let writable = session.batch_execute("SET default_transaction_read_only = off").await;
    writable.map_err(|error| target_error("making the session on blue writable", &error))?;
    let mut done = Vec::new();
    if slot::inspect(&session, &config.slot()).await?.is_some() {
        slot::drop(&session, &config.slot(), Some(&config.application_name())).await?;
        done.push(format!("blue: replication slot {} dropped", config.slot()));
    }
    if publication::exists(&session, &config.publication()).await? {
        publication::drop(&session, &config.publication()).await?;
        done.push(format!("blue: publication {} dropped", config.publication()));
    }
    let fail = |error| target_error("removing schema _cutover on blue", &error);
    let row = session.query_one(OWN_SCHEMA, &[]).await.map_err(fail)?;
    let others: Vec<String> = row.try_get(1).map_err(fail)?;
    if !row.try_get(0).map_err(fail)? {
        return Ok(done);
    }
    if !others.is_empty() {
        done.push(format!("blue: schema _cutover kept, in use by {}", others.join(", ")));
        return Ok(done);
    }
    let tables = truncation::remove(&session).await?;
    if tables > 0 {
        done.push(format!("blue: triggers that report TRUNCATE removed from {tables} tables"));
    }
    let sql = "DROP TABLE IF EXISTS _cutover.marker; DROP SCHEMA IF EXISTS _cutover";
    session.batch_execute(sql).await.map_err(fail)?;
    done.push("blue: schema _cutover dropped".into());
    Ok(done)
}

async fn green(config: &Config) -> Result<Vec<String>, Failure> {
    let info =
        config.green.resolve("green").map_err(|e| Failure::halt("green", e, "correct it"))?;
    let session = session::connect(&info, "cutover teardown").await;
    let session = session.map_err(|error| of_connect("green", &error))?;
    progress::remove(&session, &config.name).await?;
    // The copy's notes and the decisions; another pipeline's stream keeps them.
    let sql = "SELECT pg_catalog.to_regclass('_cutover.stream') IS NULL";
    let fail = |error| target_error("removing schema _cutover on green", &error);
    if session.query_one(sql, &[]).await.map_err(fail)?.get::<_, bool>(0) {
        session.batch_execute("DROP SCHEMA IF EXISTS _cutover CASCADE").await.map_err(fail)?;
    }
    Ok(vec![format!("green: progress of pipeline {} removed", config.name)])
}
