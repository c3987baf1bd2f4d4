//! States and notes, changed together.

use std::time::Duration;

use decoders::postgres::catalog::Firing;
use decoders::postgres::session::{self, Session};
use sinks::TargetError;
use sinks::postgres::target_error;
use tokio::time::Instant;
use tokio_postgres::types::ToSql;

use super::due::Due;
use super::found::{Kind, Which};
use super::{BATCH, noted};

/// A trigger waits for who writes to its table, a rule for who reads it, and everybody who comes later waits behind
/// us. Autovacuum gets out of the way by itself only after `deadlock_timeout`, so it is cancelled.
const LOCK_TIMEOUT_MS: u32 = 100;

/// How long those that could not be had together are tried one by one, while clients wait.
const ONE_BY_ONE: Duration = Duration::from_secs(2);

/// Who holds a lock that ours waits for, on tables of `$1` and `$2` (for triggers) or `$3` and `$4` (for rules): whether
/// it is autovacuum, and whether it could be told to go. `$5`: clients are told to go, too.
const CLEAR: &str = "
WITH wanted AS (
  SELECT c.oid, false AS is_rule
  FROM unnest($1::text[], $2::text[]) w(space, rel)
  JOIN pg_catalog.pg_namespace n ON n.nspname = w.space::name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.rel::name
 UNION ALL
  SELECT c.oid, true FROM unnest($3::text[], $4::text[]) w(space, rel)
  JOIN pg_catalog.pg_namespace n ON n.nspname = w.space::name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.rel::name
), holders AS (
  SELECT DISTINCT a.pid, a.backend_type = 'autovacuum worker' AS is_vacuum
  FROM wanted w JOIN pg_catalog.pg_locks l ON l.relation = w.oid
  JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
  WHERE l.locktype = 'relation' AND l.granted AND a.pid <> pg_catalog.pg_backend_pid()
    AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
    AND (w.is_rule OR l.mode NOT IN ('AccessShareLock', 'RowShareLock'))
)
SELECT is_vacuum, CASE WHEN is_vacuum THEN pg_catalog.pg_cancel_backend(pid)
                       ELSE pg_catalog.pg_terminate_backend(pid) END
FROM holders WHERE is_vacuum OR $5";

/// Whose locks give way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Nobody works there yet: whoever holds a lock is ended.
    Cleared,
    /// Clients may be at work: only autovacuum is told to go.
    Beside,
}

/// What was set, and what could not be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Switched {
    /// How many are as noted.
    pub count: usize,
    /// What is not as noted, and why.
    pub missing: Vec<String>,
}

/// Switches these off and notes their states, in one transaction.
pub(super) async fn off(
    target: &Session,
    pipeline: &str,
    notes: &[(&Which, Firing)],
) -> Result<(), TargetError> {
    let try_it = || async {
        begin(target).await?;
        let done = async {
            noted::write(target, pipeline, notes.iter().copied()).await?;
            set(target, notes.iter().map(|(which, _)| (*which, Firing::Disabled))).await
        };
        end(target, done.await).await
    };
    match try_it().await {
        Err(_) if !target.is_closed() => {
            clear(target, notes.iter().map(|(which, _)| *which), Way::Beside).await;
            try_it().await
        }
        done => done,
    }
}

/// Renews notes, in one transaction.
pub(super) async fn renew(target: &Session, pipeline: &str, due: &Due) -> Result<(), TargetError> {
    begin(target).await?;
    let done = async {
        let gone: Vec<_> = due.strike.iter().collect();
        noted::strike(target, pipeline, &gone).await?;
        noted::write(target, pipeline, due.note.iter().map(|(which, state)| (which, *state))).await
    };
    end(target, done.await).await
}

/// Sets these states and strikes their notes. The error is a lost session's.
pub(super) async fn on(
    target: &Session,
    pipeline: &str,
    wanted: &[(Which, Firing)],
    way: Way,
) -> Result<Switched, TargetError> {
    let mut switched = Switched::default();
    let mut refused: Vec<&(Which, Firing)> = Vec::new();
    for batch in wanted.chunks(BATCH) {
        let mut done = switch(target, pipeline, batch).await;
        if done.is_err() && !target.is_closed() {
            clear(target, batch.iter().map(|(which, _)| which), way).await;
            done = switch(target, pipeline, batch).await;
        }
        match done {
            Ok(()) => switched.count += batch.len(),
            Err(error) if target.is_closed() => return Err(error),
            Err(_) => refused.extend(batch),
        }
    }
    let until = Instant::now() + ONE_BY_ONE;
    for one in refused {
        let (which, state) = one;
        let why = match Instant::now() < until {
            true => match switch(target, pipeline, std::slice::from_ref(one)).await {
                Ok(()) => {
                    switched.count += 1;
                    continue;
                }
                Err(error) if target.is_closed() => return Err(error),
                Err(error) => error.to_string(),
            },
            false => "there was no more time for it".to_owned(),
        };
        switched.missing.push(format!("{which} ({}): {why}", which.statement(*state)));
    }
    Ok(switched)
}

async fn switch(
    target: &Session,
    pipeline: &str,
    batch: &[(Which, Firing)],
) -> Result<(), TargetError> {
    begin(target).await?;
    let done = async {
        set(target, batch.iter().map(|(which, state)| (which, *state))).await?;
        let which: Vec<_> = batch.iter().map(|(which, _)| which).collect();
        noted::strike(target, pipeline, &which).await
    };
    end(target, done.await).await
}

/// Makes whoever holds a lock on their tables let go, as far as we may.
async fn clear(target: &Session, all: impl Iterator<Item = &Which>, way: Way) {
    let [mut schemas, mut tables, mut rule_schemas, mut rule_tables] = [const { Vec::new() }; 4];
    for which in all {
        let (to_schemas, to_tables) = match which.kind {
            Kind::Trigger => (&mut schemas, &mut tables),
            Kind::Rule => (&mut rule_schemas, &mut rule_tables),
        };
        to_schemas.push(&*which.table.schema);
        to_tables.push(&*which.table.name);
    }
    let is_cleared = way == Way::Cleared;
    let given: [&(dyn ToSql + Sync); 5] =
        [&schemas, &tables, &rule_schemas, &rule_tables, &is_cleared];
    match target.query(CLEAR, &given).await {
        Ok(rows) if rows.is_empty() => {}
        Ok(rows) => tracing::warn!(
            "{} sessions had locks on tables whose triggers are switched: ended, or \
                                    cancelled if they were autovacuum's",
            rows.len()
        ),
        Err(error) => tracing::debug!("locks can't be cleared: {}", session::describe(&error)),
    }
}

async fn begin(target: &Session) -> Result<(), TargetError> {
    let sql = format!("BEGIN READ WRITE; SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}");
    target.batch_execute(&sql).await.map_err(failed)
}

async fn end(target: &Session, done: Result<(), TargetError>) -> Result<(), TargetError> {
    let word = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = target.batch_execute(word).await;
    done?;
    ended.map_err(failed)
}

async fn set(
    target: &Session,
    wanted: impl Iterator<Item = (&Which, Firing)>,
) -> Result<(), TargetError> {
    let statements: Vec<_> = wanted.map(|(which, state)| which.statement(state)).collect();
    target.batch_execute(&statements.join("; ")).await.map_err(failed)
}

fn failed(error: tokio_postgres::Error) -> TargetError {
    target_error("switching triggers and rules", &error)
}
