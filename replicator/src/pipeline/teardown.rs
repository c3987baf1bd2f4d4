//! Removing what a pipeline left on both servers. Copied data stays.

mod sealed;

use cutover::{Direction, Side};
use decoders::postgres::session::Session;
use decoders::postgres::{publication, slot};
use sinks::own::keys;
use sinks::postgres::target_error;
use sinks::progress;

use super::failure::Failure;
use super::truncation;
use crate::config::{Config, Endpoint};
use crate::store::Store;
use crate::triggers::{Switched, Triggers, Way};
use sealed::Entrance;

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
    let back = config.reversed();
    let entrance = |side, endpoint: &Endpoint, config: &Config| {
        let info = endpoint.resolve(Side::name(side));
        let info = info.map_err(|error| Failure::halt(Side::name(side), error, "correct it"))?;
        Ok::<_, Failure>(Entrance::new(config, side, info))
    };
    let mut blue = entrance(Side::Blue, &config.blue, config)?;
    let mut green = entrance(Side::Green, &config.green, &back)?;
    // Both slots before any origin: a slot may still have to decode what the origin's name is
    // needed for.
    let steps = [
        ("blue", source(config, "blue", &mut blue).await),
        ("green", source(&back, "green", &mut green).await),
        ("green", target(config, Direction::Forward, &mut green).await),
        ("blue", target(&back, Direction::Back, &mut blue).await),
        ("blue", objects("blue", &mut blue).await),
        ("green", objects("green", &mut green).await),
        ("blue", blue.leave().await),
        ("green", green.leave().await),
    ];
    for (side, removed) in steps {
        match removed {
            Ok(lines) => done.extend(lines),
            Err(failure) => {
                let what = format!("{side}: {}", failure.what);
                if !failed.contains(&what) {
                    failed.push(what);
                }
            }
        }
    }
    if !failed.is_empty() {
        return Err(Failure::halt("teardown", failed.join("; "), "replicator teardown, again"));
    }
    // Last: as long as something is left on a server, the state says whose it is.
    if config.state_dir.exists() {
        let store = Store::open(&config.state_dir)?;
        for direction in Direction::ALL {
            let store = store.towards(direction);
            store.forget_stage()?;
            store.forget_checkpoint()?;
            store.forget_verification()?;
        }
        crate::verify::forget(&config.state_dir).map_err(|error| {
            let what = format!("{}: {error}", config.state_dir.display());
            Failure::halt("state directory", what, "replicator teardown, again")
        })?;
        done.push(format!("state directory {}: pipeline forgotten", config.state_dir.display()));
    }
    Ok(done)
}

/// Slot and publication.
async fn source(
    config: &Config,
    side: &'static str,
    entrance: &mut Entrance,
) -> Result<Vec<String>, Failure> {
    let session = entrance.enter().await?;
    let mut done = Vec::new();
    if slot::inspect(session, &config.slot()).await?.is_some() {
        slot::drop(session, &config.slot(), Some(&config.application_name())).await?;
        done.push(format!("{side}: replication slot {} dropped", config.slot()));
    }
    if publication::exists(session, &config.publication()).await? {
        publication::drop(session, &config.publication()).await?;
        done.push(format!("{side}: publication {} dropped", config.publication()));
    }
    Ok(done)
}

/// Progress and origins, and the states of triggers.
async fn target(
    config: &Config,
    direction: Direction,
    entrance: &mut Entrance,
) -> Result<Vec<String>, Failure> {
    let side = direction.to().name();
    let session = entrance.enter().await?;
    let sql = "SELECT pg_catalog.to_regclass('_cutover.stream') IS NOT NULL";
    let fail = |error| target_error("looking for schema _cutover", &error);
    let is_there: bool = session.query_one(sql, &[]).await.map_err(fail)?.get(0);
    let mut done = triggers(session, config, direction, side).await?;
    progress::remove(session, &config.name).await?;
    if is_there {
        done.push(format!("{side}: progress of pipeline {} removed", config.name));
    }
    Ok(done)
}

/// Nothing is applied there any more: triggers and rules that were kept off for that get their states back. Says what
/// was done.
///
/// # Errors
/// The server's; halts if one could not be switched. What is noted of it stays.
pub(super) async fn triggers(
    session: &Session,
    config: &Config,
    direction: Direction,
    side: &str,
) -> Result<Vec<String>, Failure> {
    keys::refuse_strangers(session).await?;
    let triggers = Triggers::of(config, direction);
    let Switched { done: switched, missing, gone } = triggers.bring(session, Way::Beside).await?;
    if !triggers.notes(session).await?.is_empty() {
        return Err(Failure::halt(
            side,
            format!(
                "triggers and rules that were kept off could not be switched back: {}",
                missing.join("; ")
            ),
            "let our role do it, or run those statements and DELETE FROM _cutover.trigger_states there; then again",
        ));
    }
    let mut done = Vec::new();
    if !switched.is_empty() {
        let count = switched.len();
        done.push(format!("{side}: {count} triggers and rules have their states again"));
    }
    done.extend(gone.iter().map(|which| format!("{side}: {which} is not there any more")));
    Ok(done)
}

/// Whether triggers are still kept off there: what is noted of them must stay.
async fn has_states(session: &Session) -> Result<bool, Failure> {
    let fail = |error| target_error("looking for the states of triggers", &error);
    let there = "SELECT pg_catalog.to_regclass('_cutover.trigger_states') IS NOT NULL";
    if !session.query_one(there, &[]).await.map_err(fail)?.get::<_, bool>(0) {
        return Ok(false);
    }
    let any = "SELECT EXISTS (SELECT FROM _cutover.trigger_states)";
    Ok(session.query_one(any, &[]).await.map_err(fail)?.get(0))
}

/// What is left of our schema: markers, the copy's notes and the decisions. Another pipeline keeps
/// them.
async fn objects(side: &'static str, entrance: &mut Entrance) -> Result<Vec<String>, Failure> {
    let session = entrance.enter().await?;
    let lines = markers(session).await?.into_iter();
    let mut done: Vec<_> = lines.map(|line| format!("{side}: {line}")).collect();
    let sql = "SELECT pg_catalog.to_regclass('_cutover.stream') IS NULL \
                      AND pg_catalog.to_regclass('_cutover.marker') IS NULL \
                      AND pg_catalog.to_regnamespace('_cutover') IS NOT NULL";
    let fail = |error| target_error("removing schema _cutover", &error);
    if session.query_one(sql, &[]).await.map_err(fail)?.get::<_, bool>(0)
        && !has_states(session).await?
    {
        session.batch_execute("DROP SCHEMA IF EXISTS _cutover CASCADE").await.map_err(fail)?;
        done.push(format!("{side}: schema _cutover dropped"));
    }
    Ok(done)
}

/// Whatever tables are left in our schema, but for the decisions: they say for ever who serves.
/// Another pipeline keeps everything. Says what was done.
pub(super) async fn tables_but_decisions(session: &Session) -> Result<Vec<String>, Failure> {
    let fail = |error| target_error("removing our tables", &error);
    let sql = "SELECT c.oid::pg_catalog.regclass::text FROM pg_catalog.pg_class c \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = '_cutover' AND c.relkind = 'r' AND c.relname <> 'decision' \
                 AND pg_catalog.to_regclass('_cutover.stream') IS NULL \
                 AND pg_catalog.to_regclass('_cutover.marker') IS NULL ORDER BY 1";
    let mut done = Vec::new();
    let has_states = has_states(session).await?;
    for row in session.query(sql, &[]).await.map_err(fail)? {
        let table: String = row.try_get(0).map_err(fail)?;
        if has_states && table == "_cutover.trigger_states" {
            continue;
        }
        session.batch_execute(&format!("DROP TABLE IF EXISTS {table}")).await.map_err(fail)?;
        done.push(format!("{table} dropped"));
    }
    Ok(done)
}

/// Markers and the triggers that report TRUNCATE, unless another pipeline uses them. Says what was
/// done.
pub(super) async fn markers(session: &Session) -> Result<Vec<String>, Failure> {
    let fail = |error| target_error("removing our tables", &error);
    let row = session.query_one(OWN_SCHEMA, &[]).await.map_err(fail)?;
    let others: Vec<String> = row.try_get(1).map_err(fail)?;
    if !row.try_get(0).map_err(fail)? {
        return Ok(Vec::new());
    }
    if !others.is_empty() {
        return Ok(vec![format!("schema _cutover kept, in use by {}", others.join(", "))]);
    }
    let mut done = Vec::new();
    let tables = truncation::remove(session).await?;
    if tables > 0 {
        done.push(format!("triggers that report TRUNCATE removed from {tables} tables"));
    }
    session.batch_execute("DROP TABLE IF EXISTS _cutover.marker").await.map_err(fail)?;
    done.push("markers removed".into());
    Ok(done)
}
