//! Index builds that do not wait for the last row: a table's indexes begin as soon as its own rows
//! are complete.
//!
//! Nothing depends on it. What a crash leaves behind is either in the second half's marks, and not
//! done again, or, if the rows have to be copied again, removed with them ([`UndoneIndexes`]). A
//! build that fails ends the building; the second half meets the same fault and reports it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use decoders::QualifiedName;
use decoders::postgres::catalog::quote_ident;
use decoders::postgres::conninfo::ConnInfo;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_postgres::GenericClient;

use super::classify::classify;
use super::config::{SchemaConfig, SchemaMode};
use super::constraints;
use super::indexes;
use super::marks::Marks;
use super::pool::Pool;
use super::post::{SecondHalf, Sizes};
use super::queue::Queue;
use super::script::{Dialect, parse};
use super::session::Restorer;
use super::task::{BUILT, RESTORED};
use crate::backfill::{
    BackfillError, Cancel, CopyConfig, Phase, ProgressSender, Steps, TableEvent, TableEvents,
};

/// Builds indexes in the background. Dropping it ends the builds that run.
#[derive(Debug)]
pub struct IndexBuilder {
    task: JoinHandle<Result<usize, BackfillError>>,
    rows_are_there: Option<oneshot::Sender<()>>,
    progress: ProgressSender,
}

impl Drop for IndexBuilder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl IndexBuilder {
    /// Begins to listen for tables that are complete. With [`SchemaMode::Existing`] there is
    /// nothing to build.
    pub fn start(
        green: ConnInfo,
        copy: CopyConfig,
        schema: SchemaConfig,
        progress: ProgressSender,
        cancel: Cancel,
    ) -> (Self, TableEvents) {
        let (events, told) = mpsc::unbounded_channel();
        let (rows_are_there, finish) = oneshot::channel();
        let shown = progress.clone();
        let task = tokio::spawn(async move {
            if schema.mode == SchemaMode::Existing {
                return Ok(0);
            }
            let built = build(&green, &copy, &schema, &progress, &cancel, told, finish).await;
            if let Err(error @ BackfillError::Failed { .. }) = &built {
                tracing::warn!("index builds stop until all rows are there: {error}");
            }
            built
        });
        (Self { task, rows_are_there: Some(rows_are_there), progress: shown }, events)
    }

    /// All rows are there: waits until the rest is built, too. Gives back the number of
    /// statements; fewer than wanted if a build failed, which the second half will report.
    ///
    /// # Errors
    /// [`BackfillError::Cancelled`].
    pub async fn finish(mut self) -> Result<usize, BackfillError> {
        if let Some(rows_are_there) = self.rows_are_there.take() {
            // Nobody listens if it has ended already.
            let _ = rows_are_there.send(());
        }
        self.progress.send_modify(|state| state.phase = Phase::Indexes);
        match (&mut self.task).await {
            Ok(Ok(statements)) => Ok(statements),
            Ok(Err(BackfillError::Cancelled)) => Err(BackfillError::Cancelled),
            Ok(Err(BackfillError::Failed { .. })) => Ok(0),
            Err(died) => {
                tracing::error!("the index builder died: {died}");
                Ok(0)
            }
        }
    }
}

async fn build(
    green: &ConnInfo,
    copy: &CopyConfig,
    schema: &SchemaConfig,
    progress: &ProgressSender,
    cancel: &Cancel,
    mut events: mpsc::UnboundedReceiver<TableEvent>,
    rows_are_there: oneshot::Receiver<()>,
) -> Result<usize, BackfillError> {
    let Some(TableEvent::Planned(sizes)) = events.recv().await else { return Ok(0) };
    let main = Restorer::open(green, "", cancel).await?;
    let Some(half) = SecondHalf::read(main.client(), copy, schema, Sizes::LeftOut).await? else {
        return Ok(0);
    };
    drop(main);
    let sizes = sizes.into_iter().collect();
    let tuning = half.tuning;
    let pool = Pool {
        green,
        tuning: &tuning,
        progress,
        cancel,
        done: half.done,
        put_off: Mutex::default(),
    };
    let attached = half.plan.attached();
    let jobs = indexes::jobs(half.plan.indexes, &sizes, &half.tables.partitioned, &attached);
    let jobs = pool.open_jobs(jobs);
    let total = jobs.iter().map(|job| job.tasks.len()).sum();
    if total == 0 {
        return Ok(0);
    }
    tracing::info!(
        jobs = tuning.jobs,
        memory_mib = tuning.memory_mib,
        parallel_workers = tuning.parallel_max,
        reason = tuning.reason,
        "how indexes are built"
    );
    progress.send_modify(|state| state.steps = Steps { total, ..Steps::default() });
    let queue = Queue::held(jobs);
    let listening = async {
        while let Some(event) = events.recv().await {
            if let TableEvent::Copied(table) = event {
                queue.ready(table);
            }
        }
        // Dropped without a word, everything here is.
        if rows_are_there.await.is_ok() {
            queue.all_ready();
        }
    };
    let (built, ()) = tokio::join!(pool.run(&queue), listening);
    built
}

/// What was built for tables before their rows were complete, and how it is removed: rows that come in
/// later would have to be put into every index one by one.
#[derive(Debug, Default)]
pub(crate) struct UndoneIndexes {
    /// By table: the statement, and the marks that it takes back.
    by_table: BTreeMap<QualifiedName, Vec<(String, Vec<String>)>>,
}

impl UndoneIndexes {
    /// What there is of these tables.
    ///
    /// # Errors
    /// Green's.
    pub(crate) async fn read(
        green: &impl GenericClient,
        tables: &[QualifiedName],
    ) -> Result<Self, tokio_postgres::Error> {
        let marks = Marks::done_statements(green).await?;
        if marks.is_empty() {
            return Ok(Self::default());
        }
        let Some((_, script)) = Marks::scripts(green).await? else { return Ok(Self::default()) };
        let tables: BTreeSet<QualifiedName> = tables.iter().cloned().collect();
        let mut by_table: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (table, group) in classify(parse(&script, &Dialect::default()), &tables).indexes {
            let steps = [BUILT, RESTORED];
            let of_group = group
                .iter()
                .flat_map(|entry| steps.map(|step| Marks::statement(entry.ordinal, step)));
            let done: Vec<String> = of_group.filter(|mark| marks.contains(mark)).collect();
            let Some(entry) = group.first().filter(|_| !done.is_empty()) else { continue };
            let index = |name: &str| QualifiedName::new(table.schema.clone(), name).to_string();
            let sql = match constraints::name(entry, &table) {
                Some(name) if entry.toc.kind == "CONSTRAINT" => format!(
                    "ALTER TABLE ONLY {table} DROP CONSTRAINT IF EXISTS {}; DROP INDEX IF EXISTS {}",
                    quote_ident(name),
                    index(name)
                ),
                _ => format!("DROP INDEX IF EXISTS {}", index(&entry.toc.name)),
            };
            by_table.entry(table).or_default().push((sql, done));
        }
        Ok(Self { by_table })
    }

    /// Removes what there is of one table, and its marks.
    ///
    /// # Errors
    /// Nothing is said to be removed that is not: both happen in the caller's transaction.
    pub(crate) async fn undo(
        &self,
        green: &impl GenericClient,
        table: &QualifiedName,
    ) -> Result<(), tokio_postgres::Error> {
        for (sql, marks) in self.by_table.get(table).into_iter().flatten() {
            green.batch_execute(sql).await?;
            Marks::forget(green, marks).await?;
        }
        Ok(())
    }
}
