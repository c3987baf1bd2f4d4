//! The schema's second half: what is better made, or must be made, when the rows are there.

use std::collections::{BTreeMap, BTreeSet};

use decoders::QualifiedName;
use decoders::postgres::conninfo::ConnInfo;
use futures_util::future::try_join_all;
use tokio_postgres::GenericClient;

use super::classify::{Plan, classify};
use super::config::{SchemaConfig, SchemaMode};
use super::foreign_keys::{self, Way};
use super::indexes;
use super::marks::Marks;
use super::pre::dialect;
use super::queue::{Job, Queue};
use super::script::{Entry, parse};
use super::session::{Outcome, Restorer};
use crate::backfill::progress::{Step, begin};
use crate::backfill::{BackfillError, Cancel, Phase, ProgressSender, record_copied};

/// Marks the check of a foreign key that was added before.
const VALIDATED: &str = "validated";
const RESTORED: &str = "restored";

/// What became of the second half.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PostReport {
    /// Statements executed by this call; those of an earlier one are not repeated.
    pub statements: usize,
    /// What is different on green and does not matter for the rows.
    pub warnings: Vec<String>,
}

/// Green's tables as far as ordering the work needs them.
#[derive(Debug, Default)]
struct Tables {
    sizes: BTreeMap<QualifiedName, i64>,
    partitioned: BTreeSet<QualifiedName>,
}

struct Context<'a> {
    green: &'a ConnInfo,
    config: &'a SchemaConfig,
    progress: &'a ProgressSender,
    cancel: &'a Cancel,
    done: BTreeSet<String>,
    tables: Tables,
}

/// Restores the schema's second half from the script that
/// [`copy_pre_data`](super::copy_pre_data) left on green: indexes and primary keys in parallel,
/// then foreign keys, then triggers and everything else. Blue is not needed.
///
/// Ends the claims of the copy ([`crate::backfill::record_copied`]), so call it only when it is
/// recorded elsewhere that all rows are there. May be called again after any failure or crash: what is done is not repeated.
///
/// # Errors
/// Names the object. What was restored before it stays.
pub async fn copy_post_data(
    green: &ConnInfo,
    config: &SchemaConfig,
    progress: &ProgressSender,
    cancel: &Cancel,
) -> Result<PostReport, BackfillError> {
    let mut main = Restorer::open(green, &session_settings(config), cancel).await?;
    record_copied(main.client()).await?;
    if config.mode == SchemaMode::Existing {
        return Ok(PostReport::default());
    }
    let asked = |error| BackfillError::database("reading what is to be restored on green", &error);
    let Some((_, script)) = Marks::scripts(&**main.client()).await.map_err(asked)? else {
        return Err(BackfillError::halt(
            "green does not hold the schema's second half, although the rows are there",
            "the first half was not restored by Cutover: set schema.mode = 'existing', or start over",
        ));
    };
    let entries = parse(&script, &dialect(main.client(), config).await?);
    let tables = read_tables(&**main.client()).await.map_err(asked)?;
    let names = tables.sizes.keys().cloned().collect();
    let Plan { indexes, attachments, foreign_keys, rest } = classify(entries, &names);
    let context = Context {
        green,
        config,
        progress,
        cancel,
        done: Marks::done_statements(&**main.client()).await.map_err(asked)?,
        tables,
    };
    let mut report = PostReport::default();

    let jobs = context.open_jobs(indexes::jobs(indexes, &context.tables.sizes), RESTORED);
    let attachments = context.open(attachments, RESTORED);
    let statements = jobs.iter().map(|job| job.group.len()).sum::<usize>() + attachments.len();
    begin(progress, Phase::Indexes, statements);
    report.statements += context.in_parallel(jobs, &|entry| Restore::of(entry)).await?;
    for entry in &attachments {
        report.statements += context.restore(&mut main, &Restore::of(entry)).await?;
    }
    report.statements += context.foreign_keys(&mut main, foreign_keys).await?;

    let rest = context.open(rest, RESTORED);
    begin(progress, Phase::Rest, rest.len());
    for entry in &rest {
        match context.restore(&mut main, &Restore::of(entry)).await {
            Ok(count) => report.statements += count,
            // Its rows are derived from others; a refresh can be repeated at any time.
            Err(error @ BackfillError::Failed { .. })
                if entry.toc.kind == "MATERIALIZED VIEW DATA" && !error.is_retryable() =>
            {
                tracing::warn!("{error}; REFRESH MATERIALIZED VIEW remains to be done");
                report.warnings.push(format!("{error}; refresh it by hand"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(report)
}

/// One statement with its mark.
struct Restore<'a> {
    entry: &'a Entry,
    sql: std::borrow::Cow<'a, str>,
    step: &'static str,
}

impl<'a> Restore<'a> {
    fn of(entry: &'a Entry) -> Self {
        Self { entry, sql: entry.sql.as_str().into(), step: RESTORED }
    }
}

impl Context<'_> {
    /// Those that no earlier call has done.
    fn open(&self, entries: Vec<Entry>, step: &str) -> Vec<Entry> {
        let is_open = |entry: &Entry| !self.done.contains(&Marks::statement(entry.ordinal, step));
        entries.into_iter().filter(is_open).collect()
    }

    fn open_jobs(&self, jobs: Vec<Job>, step: &str) -> Vec<Job> {
        jobs.into_iter()
            .map(|job| Job { group: self.open(job.group, step), ..job })
            .filter(|job| !job.group.is_empty())
            .collect()
    }

    async fn restore(
        &self,
        restorer: &mut Restorer,
        restore: &Restore<'_>,
    ) -> Result<usize, BackfillError> {
        let step = Step::begin(self.progress, restore.entry.toc.describe());
        let mark = Marks::statement(restore.entry.ordinal, restore.step);
        let outcome = restorer.run_marked(restore.entry, &restore.sql, &mark).await?;
        if outcome == Outcome::Existed {
            tracing::info!(object = restore.entry.toc.describe(), "was on green already");
        }
        step.finish();
        Ok(1)
    }

    /// Runs the jobs over several sessions.
    async fn in_parallel(
        &self,
        jobs: Vec<Job>,
        what: &(dyn for<'e> Fn(&'e Entry) -> Restore<'e> + Sync),
    ) -> Result<usize, BackfillError> {
        let sessions = self.config.jobs.max(1).min(jobs.len());
        let queue = Queue::new(jobs);
        let worker = || async {
            let mut restorer =
                Restorer::open(self.green, &session_settings(self.config), self.cancel).await?;
            let mut statements = 0;
            while let Some(job) = queue.next().await {
                let mut result = Ok(());
                for entry in &job.group {
                    match self.restore(&mut restorer, &what(entry)).await {
                        Ok(count) => statements += count,
                        Err(error) => {
                            result = Err(error);
                            break;
                        }
                    }
                }
                queue.give_back(&job, result.is_ok());
                result?;
            }
            Ok(statements)
        };
        let counts: Vec<usize> = try_join_all((0..sessions).map(|_| worker())).await?;
        Ok(counts.into_iter().sum())
    }

    async fn foreign_keys(
        &self,
        main: &mut Restorer,
        entries: Vec<Entry>,
    ) -> Result<usize, BackfillError> {
        let mut to_check = Vec::new();
        let mut ways = BTreeMap::new();
        let mut statements = 0;
        let added: BTreeSet<usize> =
            self.open(entries.clone(), RESTORED).iter().map(|entry| entry.ordinal).collect();
        let checks = self.open(entries.clone(), VALIDATED).len();
        begin(self.progress, Phase::ForeignKeys, added.len() + checks);
        for entry in entries {
            let way = foreign_keys::way(&entry, &self.tables.partitioned);
            let add = match &way {
                Way::Whole => entry.sql.clone(),
                Way::InTwo { add, .. } => add.clone(),
            };
            if added.contains(&entry.ordinal) {
                let restore = Restore { entry: &entry, sql: add.into(), step: RESTORED };
                statements += self.restore(main, &restore).await?;
            }
            match way {
                // Checked as it was added: that step has nothing to do.
                Way::Whole => self.progress.send_modify(|state| state.steps.done += 1),
                Way::InTwo { validate, .. } => {
                    ways.insert(entry.ordinal, validate);
                    to_check.push(entry);
                }
            }
        }
        let size = |table: &QualifiedName| self.tables.sizes.get(table).copied().unwrap_or(0);
        let jobs = foreign_keys::jobs(self.open(to_check, VALIDATED), size);
        let validate = |entry: &Entry| ways.get(&entry.ordinal).cloned().unwrap_or_default();
        statements += self
            .in_parallel(jobs, &|entry| Restore {
                entry,
                sql: validate(entry).into(),
                step: VALIDATED,
            })
            .await
            .map_err(violated)?;
        Ok(statements)
    }
}

fn violated(error: BackfillError) -> BackfillError {
    error.or_remedy(
        "if the same rows are on blue, they were written with its triggers off: repair them there \
         and start over, or drop the constraint on blue. If they are not, please report it: rows are missing",
    )
}

/// Memory for index builds, never less than green's own setting.
fn session_settings(config: &SchemaConfig) -> String {
    let mib = config.index_memory_mib;
    format!(
        "SELECT pg_catalog.set_config('maintenance_work_mem', '{mib}MB', false)
         FROM pg_catalog.pg_settings WHERE name = 'maintenance_work_mem' AND setting::int8 < {mib}::int8 * 1024;"
    )
}

async fn read_tables(green: &impl GenericClient) -> Result<Tables, tokio_postgres::Error> {
    const TABLES: &str = "
        SELECT n.nspname::text, c.relname::text, c.relkind = 'p', pg_catalog.pg_table_size(c.oid)
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname NOT LIKE 'pg\\_%'
          AND n.nspname <> 'information_schema'";
    let mut tables = Tables::default();
    for row in green.query(TABLES, &[]).await? {
        let name = QualifiedName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?);
        if row.try_get(2)? {
            tables.partitioned.insert(name.clone());
        }
        tables.sizes.insert(name, row.try_get::<_, Option<i64>>(3)?.unwrap_or(0));
    }
    Ok(tables)
}
