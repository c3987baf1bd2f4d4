//! Removing what a pipeline left on both servers. Copied data stays.

use decoders::postgres::{publication, session, slot};
use sinks::progress;
use sinks::postgres::target_error;

use super::failure::{Failure, of_connect};
use crate::config::Config;
use crate::store::Store;

/// Removes slot, publication and our own tables, on whichever side they are, and forgets the
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
    let mut done = Vec::new();
    if slot::inspect(&session, &config.slot()).await?.is_some() {
        slot::drop(&session, &config.slot(), Some(&config.application_name())).await?;
        done.push(format!("blue: replication slot {} dropped", config.slot()));
    }
    if publication::exists(&session, &config.publication()).await? {
        publication::drop(&session, &config.publication()).await?;
        done.push(format!("blue: publication {} dropped", config.publication()));
    }
    let schema = "SELECT pg_catalog.to_regclass('_cutover.marker') IS NOT NULL";
    let fail = |error| target_error("removing the marker table on blue", &error);
    if session.query_one(schema, &[]).await.map_err(fail)?.get::<_, bool>(0) {
        let sql = "DROP TABLE _cutover.marker; DROP SCHEMA _cutover";
        session.batch_execute(sql).await.map_err(fail)?;
        done.push("blue: schema _cutover dropped".into());
    }
    Ok(done)
}

async fn green(config: &Config) -> Result<Vec<String>, Failure> {
    let info = config.green.resolve("green").map_err(|e| Failure::halt("green", e, "correct it"))?;
    let session = session::connect(&info, "cutover teardown").await;
    let session = session.map_err(|error| of_connect("green", &error))?;
    progress::remove(&session, &config.name).await?;
    Ok(vec![format!("green: progress of pipeline {} removed", config.name)])
}
