//! The schema's second half: what is better made, or must be made, when the rows are there.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Mutex;

use decoders::QualifiedName;
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::Session;
use tokio_postgres::GenericClient;

use super::classify::{Plan, classify};
use super::config::{SchemaConfig, SchemaMode};
use super::foreign_keys::{self, Way};
use super::indexes;
use super::marks::Marks;
use super::pool::Pool;
use super::pre::dialect;
use super::queue::Queue;
use super::script::{Entry, parse};
use super::session::{BuildResources, Restorer};
use super::settle;
use super::task::{RESTORED, Task, VALIDATED};
use crate::backfill::progress::begin;
use crate::backfill::tuning::{IndexTuning, ServerFacts};
use crate::backfill::{BackfillError, Cancel, CopyConfig, Phase, ProgressSender, record_copied};

/// What became of the second half.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PostReport {
    /// Statements executed by this call; those of an earlier one are not repeated.
    pub statements: usize,
    /// What is different on green and does not matter for the rows.
    pub warnings: Vec<String>,
}

/// The second half, and what has to be known to restore it.
pub(super) struct SecondHalf {
    pub plan: Plan,
    pub tables: Tables,
    /// Marks of what is done.
    pub done: BTreeSet<String>,
    pub tuning: IndexTuning,
}

/// Whether the tables' sizes are asked for. That takes a lock on each, which a COPY that freezes its
/// rows does not share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sizes {
    Asked,
    LeftOut,
}

/// Green's tables as far as ordering the work needs them.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// Bytes of heap and TOAST.
    pub sizes: BTreeMap<QualifiedName, u64>,
    pub partitioned: BTreeSet<QualifiedName>,
}

impl SecondHalf {
    /// Reads it from green; `None` if the first half was not restored by us.
    pub(super) async fn read(
        green: &Session,
        copy: &CopyConfig,
        schema: &SchemaConfig,
        sizes: Sizes,
    ) -> Result<Option<Self>, BackfillError> {
        let asked =
            |error| BackfillError::database("reading what is to be restored on green", &error);
        let Some((_, script)) = Marks::scripts(&**green).await.map_err(asked)? else {
            return Ok(None);
        };
        let entries = parse(&script, &dialect(green, schema).await?);
        let tables = read_tables(&**green, sizes).await.map_err(asked)?;
        let names = tables.sizes.keys().cloned().collect();
        let facts = ServerFacts::read(green, "green").await?;
        Ok(Some(Self {
            plan: classify(entries, &names),
            tables,
            done: Marks::done_statements(&**green).await.map_err(asked)?,
            tuning: IndexTuning::choose(copy, schema, &facts),
        }))
    }
}

/// What the second half is restored on and how.
#[derive(Clone, Copy, Debug)]
pub struct PostData<'a> {
    /// Where.
    pub green: &'a ConnInfo,
    /// How the rows were copied: says what green's cores are.
    pub copy: &'a CopyConfig,
    /// How.
    pub config: &'a SchemaConfig,
}

/// Restores the schema's second half from the script that
/// [`copy_pre_data`](super::copy_pre_data) left on green: indexes and primary keys in parallel,
/// then foreign keys, then triggers and everything else. Blue is not needed.
///
/// `beside` is done while foreign keys are checked, which reads tables and keeps few cores busy:
/// statistics.
///
/// Ends the claims of the copy ([`crate::backfill::record_copied`]), so call it only when it is
/// recorded elsewhere that all rows are there. May be called again after any failure or crash: what is done is not repeated.
///
/// # Errors
/// Names the object. What was restored before it stays.
pub async fn copy_post_data(
    job: PostData<'_>,
    progress: &ProgressSender,
    cancel: &Cancel,
    beside: impl Future<Output = Result<(), BackfillError>>,
) -> Result<PostReport, BackfillError> {
    let PostData { green, copy, config } = job;
    let mut main = Restorer::open(green, "", cancel).await?;
    record_copied(main.client()).await?;
    if config.mode == SchemaMode::Existing {
        beside.await?;
        return Ok(PostReport::default());
    }
    let Some(half) = SecondHalf::read(main.client(), copy, config, Sizes::Asked).await? else {
        return Err(BackfillError::halt(
            "green does not hold the schema's second half, although the rows are there",
            "the first half was not restored by Cutover: set schema.mode = 'existing', or start over",
        ));
    };
    let SecondHalf { plan, tables, done, tuning } = half;
    let attached = plan.attached();
    let Plan { indexes, attachments, foreign_keys, rest } = plan;
    let resources = BuildResources { memory_mib: tuning.memory_mib, helpers: None };
    main.set_resources(resources).await?;
    let pool = Pool { green, tuning: &tuning, progress, cancel, done, put_off: Mutex::default() };
    let mut report = PostReport::default();

    let jobs = indexes::jobs(indexes, &tables.sizes, &tables.partitioned, &attached);
    let jobs = pool.open_jobs(jobs);
    let attachments = pool.open(attachments.into_iter().map(Task::whole).collect());
    let statements = jobs.iter().map(|job| job.tasks.len()).sum::<usize>() + attachments.len();
    begin(progress, Phase::Indexes, statements);
    report.statements += pool.run(&Queue::new(jobs)).await?;
    for task in &attachments {
        report.statements += pool.restore(&mut main, task).await?;
    }

    let checked = restore_foreign_keys(&pool, &mut main, &tables, foreign_keys);
    let (count, ()) = tokio::try_join!(checked, beside)?;
    report.statements += count;

    let rest = pool.open(rest.into_iter().map(Task::whole).collect());
    begin(progress, Phase::Rest, rest.len());
    for task in &rest {
        if settle::wait_for_it(main.client(), &task.entry, &task.mark()).await? {
            continue;
        }
        match pool.restore(&mut main, task).await {
            Ok(count) => report.statements += count,
            // Its rows are derived from others; a refresh can be repeated at any time.
            Err(error @ BackfillError::Failed { .. })
                if task.entry.toc.kind == "MATERIALIZED VIEW DATA" && !error.is_retryable() =>
            {
                tracing::warn!("{error}; REFRESH MATERIALIZED VIEW remains to be done");
                report.warnings.push(format!("{error}; refresh it by hand"));
            }
            Err(error) => return Err(error),
        }
    }
    for open in settle::open(&**main.client()).await? {
        report.warnings.push(format!("{} is put off: rows violate it; {}", open.what, open.find));
    }
    Ok(report)
}

async fn restore_foreign_keys(
    pool: &Pool<'_>,
    main: &mut Restorer,
    tables: &Tables,
    entries: Vec<Entry>,
) -> Result<usize, BackfillError> {
    let mut adds = Vec::new();
    let mut checks = Vec::new();
    for entry in entries {
        match foreign_keys::way(&entry, &tables.partitioned) {
            Way::Whole => adds.push(Task::whole(entry)),
            Way::InTwo { add, validate } => {
                adds.push(Task::step(entry.clone(), add, RESTORED));
                checks.push(Task::step(entry, validate, VALIDATED));
            }
        }
    }
    let (adds, checks) = (pool.open(adds), pool.open(checks));
    begin(pool.progress, Phase::ForeignKeys, adds.len() + checks.len());
    let mut statements = 0;
    for task in &adds {
        statements += pool.restore(main, task).await?;
    }
    let size = |table: &QualifiedName| tables.sizes.get(table).copied().unwrap_or(0);
    let queue = Queue::new(foreign_keys::jobs(checks, size));
    Ok(statements + pool.run(&queue).await?)
}

async fn read_tables(
    green: &impl GenericClient,
    sizes: Sizes,
) -> Result<Tables, tokio_postgres::Error> {
    let bytes = match sizes {
        Sizes::Asked => "pg_catalog.pg_table_size(c.oid)",
        Sizes::LeftOut => "0::int8",
    };
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text, c.relkind = 'p', {bytes}
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname NOT LIKE 'pg\\_%'
           AND n.nspname <> 'information_schema'"
    );
    let mut tables = Tables::default();
    for row in green.query(&sql, &[]).await? {
        let name = QualifiedName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?);
        if row.try_get(2)? {
            tables.partitioned.insert(name.clone());
        }
        let bytes = row.try_get::<_, Option<i64>>(3)?.unwrap_or(0);
        tables.sizes.insert(name, u64::try_from(bytes).unwrap_or(0));
    }
    Ok(tables)
}
