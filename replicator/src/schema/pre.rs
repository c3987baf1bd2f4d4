//! The schema's first half: everything that rows need.

use std::collections::BTreeSet;

use decoders::QualifiedName;
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{Session, connect};
use tokio_postgres::error::SqlState;

use super::batch::{Position, Room};
use super::config::{SchemaConfig, SchemaMode};
use super::dump::Dumper;
use super::find::find_pg_dump;
use super::marks::Marks;
use super::script::{self, Dialect, Entry, parse};
use super::session::{Restorer, failed};
use crate::backfill::progress::begin;
use crate::backfill::{BackfillError, Cancel, Phase, ProgressSender, unless_cancelled};
use crate::protect::BlueConnections;

/// What the schema is copied from and to.
#[derive(Clone, Copy, Debug)]
pub struct PreData<'a> {
    /// Where the schema comes from.
    pub blue: &'a ConnInfo,
    /// Where it goes.
    pub green: &'a ConnInfo,
    /// The exported snapshot that the rows will be copied from.
    pub snapshot: &'a str,
    /// Tables that are not moved.
    pub exclude: &'a [QualifiedName],
    /// How.
    pub config: &'a SchemaConfig,
    /// The connections that blue may be asked for.
    pub connections: &'a BlueConnections,
}

/// What became of the first half.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PreReport {
    /// An earlier run had restored the same schema.
    pub was_there: bool,
    /// The pg_dump that was used.
    pub pg_dump: Option<String>,
    /// Statements executed.
    pub statements: usize,
    /// What is different on green and does not matter for the rows.
    pub warnings: Vec<String>,
}

/// Dumps the schema and restores its first half. The second is kept on green until the rows are
/// there ([`copy_post_data`](super::copy_post_data)). With [`SchemaMode::Existing`] nothing
/// happens.
///
/// # Errors
/// A schema whose locks fit into one transaction is there as a whole or not at all. Of a wider one, what is
/// restored stays and is written down, and the next call goes on behind it.
pub async fn copy_pre_data(
    job: PreData<'_>,
    progress: &ProgressSender,
    cancel: &Cancel,
) -> Result<PreReport, BackfillError> {
    if job.config.mode == SchemaMode::Existing {
        return Ok(PreReport::default());
    }
    begin(progress, Phase::Schema, 0);
    // Ours, and one for each of pg_dump's two processes.
    let permits = unless_cancelled(cancel, async { Ok(job.connections.permits(3).await) }).await?;
    let blue = connect(job.blue, "cutover schema")
        .await
        .map_err(|error| BackfillError::connect("blue", &error))?;
    let mut restorer = Restorer::open(job.green, "", cancel).await?;
    let (blue_major, green_major) =
        (blue.server_version() / 10_000, restorer.client().server_version() / 10_000);
    let program = find_pg_dump(blue_major, green_major, job.config.pg_dump.as_deref())
        .await
        .map_err(|error| BackfillError::halt(error.to_string(), "install a fitting pg_dump"))?;
    if job.config.owners {
        check_roles(&blue, restorer.client()).await?;
    }
    tracing::info!(pg_dump = %program, "dumping blue's schema");
    let dumper = Dumper {
        program: &program,
        blue: job.blue,
        host: blue.host(),
        snapshot: job.snapshot,
        exclude: job.exclude,
        config: job.config,
    };
    let (pre, post) = dumper.both(&blue, cancel).await?;
    drop(blue);
    drop(permits);

    Marks::prepare(restorer.client()).await?;
    let dialect = dialect(restorer.client(), job.config).await?;
    let entries = parse(&pre, &dialect);
    let mut report = PreReport { pg_dump: Some(program.to_string()), ..PreReport::default() };
    if is_restored(restorer.client(), &entries, &post, &dialect).await? {
        report.was_there = true;
        return Ok(report);
    }
    let entries = schema_privileges_first(entries);
    restore(&mut restorer, &entries, &pre, &post, progress, &mut report).await?;
    report.statements = entries.len();
    Ok(report)
}

/// Privileges on schemas go right behind the schemas. pg_dump has them at the end, which is late for
/// a role that is no superuser: an object can be given to an owner only who may create in its schema
/// (manual, ALTER TABLE).
fn schema_privileges_first(entries: Vec<Entry>) -> Vec<Entry> {
    let (privileges, mut others): (Vec<_>, Vec<_>) = entries
        .into_iter()
        .partition(|entry| entry.toc.kind == "ACL" && entry.toc.name.starts_with("SCHEMA "));
    let last_schema = others.iter().rposition(|entry| entry.toc.kind == "SCHEMA");
    let first_object = others.iter().position(|entry| !entry.toc.kind.is_empty());
    let at = last_schema.map(|at| at + 1).or(first_object).unwrap_or(others.len());
    others.splice(at..at, privileges);
    others
}

/// Settings that green knows and kinds that are not wanted.
pub(super) async fn dialect(
    green: &Session,
    config: &SchemaConfig,
) -> Result<Dialect, BackfillError> {
    let asked = |error| BackfillError::database("reading green's settings", &error);
    let rows =
        green.query("SELECT name::text FROM pg_catalog.pg_settings", &[]).await.map_err(asked)?;
    let known: Result<BTreeSet<String>, _> = rows.into_iter().map(|row| row.try_get(0)).collect();
    let known = known.map_err(asked)?.into_iter().map(|name| name.to_ascii_lowercase()).collect();
    let superuser = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user";
    let row = green.query_opt(superuser, &[]).await.map_err(asked)?;
    let is_superuser = row.map(|row| row.try_get(0)).transpose().map_err(asked)?;
    Ok(Dialect {
        known_settings: Some(known),
        may_act_for_others: is_superuser.unwrap_or(false),
        skip_kinds: config.skip_kinds.iter().cloned().collect(),
    })
}

/// Whether an earlier run restored this schema. One that has changed since can't be gone on with.
async fn is_restored(
    green: &Session,
    entries: &[Entry],
    post: &str,
    dialect: &Dialect,
) -> Result<bool, BackfillError> {
    let asked = |error| BackfillError::database("reading what was restored on green", &error);
    let Some((old_pre, old_post)) = Marks::scripts(&**green).await.map_err(asked)? else {
        return Ok(false);
    };
    let same = |old: &str, new: &[Entry]| {
        let old = parse(old, dialect);
        old.len() == new.len() && old.iter().zip(new).all(|(old, new)| old.sql == new.sql)
    };
    if same(&old_pre, entries) && same(&old_post, &parse(post, dialect)) {
        return Ok(true);
    }
    Err(BackfillError::halt(
        "blue's schema has changed since it was copied to green, and green still has the old one",
        "drop what was copied to green (replicator teardown, then DROP SCHEMA .. CASCADE) and start again",
    ))
}

async fn restore(
    restorer: &mut Restorer,
    entries: &[Entry],
    pre: &str,
    post: &str,
    progress: &ProgressSender,
    report: &mut PreReport,
) -> Result<(), BackfillError> {
    begin(progress, Phase::Schema, entries.len());
    let framed = |error| BackfillError::database("restoring the schema on green", &error);
    let mut room = Room::read(&**restorer.client()).await?;
    let mut position = Position::read(&**restorer.client(), entries).await?;
    if position.done > 0 {
        tracing::info!(
            done = position.done,
            statements = entries.len(),
            "going on with the schema where an earlier run broke off"
        );
    }
    progress.send_modify(|state| state.steps.done = position.done);
    loop {
        position.begin(restorer).await?;
        let mut is_authorized = false;
        while let Some(entry) = entries.get(position.done) {
            execute(restorer, entry, report).await?;
            position.advance(entry);
            progress.send_modify(|state| state.steps.done += 1);
            is_authorized = script::authorizes(&entry.sql).unwrap_or(is_authorized);
            // In another role's name nothing can be written down.
            if !is_authorized && room.is_full(&**restorer.client()).await? {
                break;
            }
        }
        if position.done == entries.len() {
            break;
        }
        position.note(restorer).await?;
        restorer.run("COMMIT").await?.map_err(framed)?;
        room.emptied();
        tracing::debug!(done = position.done, statements = entries.len(), "schema restored so far");
    }
    Marks::set_scripts(&**restorer.client(), pre, post).await.map_err(framed)?;
    Marks::set_restoring(&**restorer.client(), None).await.map_err(framed)?;
    restorer.run("COMMIT").await?.map_err(framed)
}

async fn execute(
    restorer: &mut Restorer,
    entry: &Entry,
    report: &mut PreReport,
) -> Result<(), BackfillError> {
    restorer.apply_settings(entry).await?;
    let tolerated = tolerated(entry);
    if tolerated.is_empty() {
        return restorer
            .run(&entry.sql)
            .await?
            .map_err(|error| BackfillError::database(failed(entry), &error));
    }
    if let Some(warning) = attempt(restorer, entry, tolerated).await? {
        tracing::warn!("{warning}");
        report.warnings.push(warning);
    }
    Ok(())
}

/// Refusals that leave green fit for the rows.
fn tolerated(entry: &Entry) -> &'static [SqlState] {
    match entry.toc.kind.as_str() {
        // Made by hand beforehand, or, like public, by initdb.
        "SCHEMA" => &[SqlState::DUPLICATE_SCHEMA, SqlState::INSUFFICIENT_PRIVILEGE],
        // Only an extension's owner may comment on it, and services own theirs.
        "COMMENT" if entry.sql.starts_with("COMMENT ON EXTENSION") => {
            &[SqlState::INSUFFICIENT_PRIVILEGE]
        }
        "COMMENT" if entry.sql.starts_with("COMMENT ON SCHEMA") => {
            &[SqlState::INSUFFICIENT_PRIVILEGE]
        }
        "PROCEDURAL LANGUAGE" => &[SqlState::DUPLICATE_OBJECT],
        // A label means nothing without its provider.
        "SECURITY LABEL" => &[SqlState::INVALID_PARAMETER_VALUE, SqlState::INSUFFICIENT_PRIVILEGE],
        _ => &[],
    }
}

/// Executes a statement that may be refused; the refusal becomes a warning.
async fn attempt(
    restorer: &Restorer,
    entry: &Entry,
    tolerated: &[SqlState],
) -> Result<Option<String>, BackfillError> {
    let asked = |error| BackfillError::database(failed(entry), &error);
    restorer.run("SAVEPOINT entry").await?.map_err(asked)?;
    match restorer.run(&entry.sql).await? {
        Ok(()) => {
            restorer.run("RELEASE SAVEPOINT entry").await?.map_err(asked)?;
            Ok(None)
        }
        Err(error) if error.code().is_some_and(|code| tolerated.contains(code)) => {
            let back = "ROLLBACK TO SAVEPOINT entry; RELEASE SAVEPOINT entry";
            restorer.run(back).await?.map_err(asked)?;
            // A schema that is there already is what was wanted.
            if error.code() == Some(&SqlState::DUPLICATE_SCHEMA) {
                return Ok(None);
            }
            Ok(Some(BackfillError::database(failed(entry), &error).to_string()))
        }
        Err(error) => Err(asked(error)),
    }
}

/// Every role that blue's objects name has to be on green.
async fn check_roles(blue: &Session, green: &Session) -> Result<(), BackfillError> {
    // Shared dependencies name owners, grantees and the roles of policies, all but the role that
    // initdb made, which may be called differently on green.
    const NAMED: &str = "
        SELECT pg_catalog.pg_get_userbyid(relowner)::text FROM pg_catalog.pg_class WHERE oid >= 16384
        UNION
        SELECT pg_catalog.pg_get_userbyid(proowner)::text FROM pg_catalog.pg_proc WHERE oid >= 16384
        UNION
        SELECT r.rolname::text FROM pg_catalog.pg_shdepend d
        JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid
        JOIN pg_catalog.pg_database b ON b.oid = d.dbid AND b.datname = pg_catalog.current_database()
        WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
        ORDER BY 1";
    const MISSING: &str = "
        SELECT name FROM pg_catalog.unnest($1::text[]) AS name
        WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = name) ORDER BY 1";
    let on_blue = |error| BackfillError::database("reading blue's roles", &error);
    let on_green = |error| BackfillError::database("reading green's roles", &error);
    let rows = blue.query(NAMED, &[]).await.map_err(on_blue)?;
    let named: Result<Vec<String>, _> = rows.into_iter().map(|row| row.try_get(0)).collect();
    let rows = green.query(MISSING, &[&named.map_err(on_blue)?]).await.map_err(on_green)?;
    let missing: Result<Vec<String>, _> = rows.into_iter().map(|row| row.try_get(0)).collect();
    let missing = missing.map_err(on_green)?;
    if missing.is_empty() {
        return Ok(());
    }
    let create: Vec<String> = missing
        .iter()
        .map(|role| format!("CREATE ROLE \"{}\";", role.replace('"', "\"\"")))
        .collect();
    Err(BackfillError::halt(
        format!(
            "green lacks roles that own something or have privileges on blue: {}",
            missing.join(", ")
        ),
        format!(
            "create them on green ({}; pg_dumpall --roles-only has their passwords), or set schema.owners = false",
            create.join(" ")
        ),
    ))
}
