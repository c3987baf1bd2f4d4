//! The copy as a whole: snapshot, what is there already, workers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use decoders::QualifiedName;
use decoders::mysql::catalog::{self, TableInfo, TableKind};
use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::{self, Conn, Server, ServerUrl};
use decoders::postgres::catalog::TableFilter;
use mysql_async::prelude::Queryable;
use tokio::task::JoinSet;

use super::marks::{self, Mark};
use super::meter::{Counters, Meter};
use super::queue::{Queue, Task};
use super::snapshot::{self, Snapshot};
use super::turn::Epoch;
use super::worker::Worker;
use super::{failed, insert, of_catalog, of_source, refresh};
use crate::backfill::throttle::Throttle;
use crate::backfill::{BackfillError, Cancel, ProgressSender, cancelled, unless_cancelled};
use crate::schema::mysql::{Notes, qualified};

/// How often progress is published.
const PUBLISH_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

/// What is copied from where to where.
#[derive(Clone, Debug)]
pub struct RowCopy {
    /// Whose turn it is, and the pipeline's notes on green.
    pub epoch: Epoch,
    /// Where the rows come from.
    pub blue: ServerUrl,
    /// Where they go.
    pub green: ServerUrl,
    /// The tables, as they were when green's were made.
    pub tables: Vec<TableInfo>,
    /// Of which database they are all that the filter takes; `None`: of all.
    pub database: Option<String>,
    /// Which tables are moved.
    pub filter: TableFilter,
    /// Chunks copied at the same time; each takes a session on blue and one on green.
    pub workers: usize,
    /// Size to aim at for one chunk, of rows on blue's disk.
    pub chunk_bytes: u64,
    /// Most bytes per second for all workers together; 0 for no limit.
    pub rate_limit_bytes_per_s: u64,
}

/// A copy that is complete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copied {
    /// The transactions that the rows on green have, all of them and no others: the stream begins
    /// behind it.
    pub position: BinlogPosition,
    /// Rows.
    pub rows: u64,
    /// Bytes that travelled.
    pub bytes: u64,
    /// How long it took, milliseconds.
    pub duration_ms: u64,
    /// Chunks of a copy that broke off which were kept.
    pub chunks_kept: usize,
}

/// The chunks of each table that are known.
type Known = BTreeMap<QualifiedName, Vec<Mark>>;

/// What the workers share.
struct Run {
    tables: Vec<(TableInfo, Counters)>,
    known: Vec<Vec<Mark>>,
    queue: Queue,
    green: ServerUrl,
    epoch: Epoch,
    chunk_bytes: u64,
    throttle: Arc<Throttle>,
}

impl Run {
    fn new(job: &RowCopy, tables: Vec<TableInfo>, mut known: Known) -> Self {
        let known: Vec<Vec<Mark>> =
            tables.iter().map(|table| known.remove(&table.name).unwrap_or_default()).collect();
        let queue = Queue::default();
        let with_counters = |(at, table): (usize, TableInfo)| {
            let counters = Counters::default();
            for mark in &known[at] {
                counters.found(mark);
                if !mark.is_done {
                    queue.add(Task::Copy { table: at, mark: mark.clone() });
                }
            }
            (table, counters)
        };
        let tables: Vec<(TableInfo, Counters)> =
            tables.into_iter().enumerate().map(with_counters).collect();
        (0..tables.len()).for_each(|table| queue.add(Task::Cut { table }));
        Run {
            tables,
            known,
            queue,
            green: job.green.clone(),
            epoch: job.epoch.clone(),
            chunk_bytes: job.chunk_bytes,
            throttle: Arc::new(Throttle::new(job.rate_limit_bytes_per_s)),
        }
    }
}

impl RowCopy {
    /// Copies all rows as they are at one moment of blue.
    ///
    /// A copy that broke off is gone on with: its chunks are brought to the new moment. Rows of
    /// somebody else on green are an error. The tables stay ours to empty until
    /// [`record_copied`](super::record_copied).
    ///
    /// # Errors
    /// After a retryable one the copy goes on when this is called again.
    pub async fn run(
        &self,
        progress: &ProgressSender,
        cancel: &Cancel,
    ) -> Result<Copied, BackfillError> {
        let begun = Instant::now();
        let mut blue = server::connect(&self.blue).await.map_err(of_source)?;
        let server = Server::read(&mut blue).await.map_err(of_source)?;
        let mut green = server::connect(&self.green).await.map_err(of_source)?;
        insert::prepare(&mut green).await?;
        marks::prepare(&mut green).await?;
        self.epoch.empties_by(&mut green).await?;
        let tables = self.tables.iter().filter(|table| table.kind != TableKind::Sequence);
        let mut tables: Vec<TableInfo> = tables.cloned().collect();
        // The largest first: the last to end is then a small one.
        tables.sort_by_key(|table| std::cmp::Reverse(table.bytes));
        let known = known(&mut green, self.epoch.notes(), &tables).await?;

        let mut snapshot = snapshot::open(&self.blue, &server, self.workers, cancel).await?;
        tracing::info!(
            position = %snapshot.position,
            sessions = snapshot.readers.len(),
            tables = tables.len(),
            "copying rows as they are on blue at this position"
        );
        self.unchanged(&mut blue, &server).await?;
        let resuming = self.resume(&mut green, &server, &tables, known, &mut snapshot);
        let known = unless_cancelled(cancel, resuming).await?;
        let run = Arc::new(Run::new(self, tables, known));
        copy(&run, snapshot.readers, progress, cancel).await?;
        let sum = |of: fn(&Counters) -> &std::sync::atomic::AtomicU64| {
            let each = run.tables.iter().map(|(_, counters)| of(counters));
            each.map(|counter| counter.load(std::sync::atomic::Ordering::Acquire)).sum()
        };
        Ok(Copied {
            position: snapshot.position,
            rows: sum(|counters| &counters.rows),
            bytes: sum(|counters| &counters.bytes),
            chunks_kept: run.known.iter().flatten().filter(|mark| mark.is_done).count(),
            duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }
}

impl RowCopy {
    /// Brings what is finished to the snapshot, empties what can't be brought there, and notes the
    /// snapshot's position. Gives back the chunks that stay.
    async fn resume(
        &self,
        green: &mut Conn,
        server: &Server,
        tables: &[TableInfo],
        mut known: Known,
        snapshot: &mut Snapshot,
    ) -> Result<Known, BackfillError> {
        let is_begun = |name: &QualifiedName, known: &Known| {
            known.get(name).is_some_and(|marks| marks.iter().any(|mark| mark.is_done))
        };
        let begun: Vec<&TableInfo> =
            tables.iter().filter(|table| is_begun(&table.name, &known)).collect();
        let mut again: BTreeSet<QualifiedName> =
            known.keys().filter(|name| !is_begun(name, &known)).cloned().collect();
        let from = self.epoch.notes().position(green).await?.map(|(position, _)| position);
        match (from, begun.is_empty()) {
            (_, true) => {}
            (None, false) => again.extend(begun.iter().map(|table| table.name.clone())),
            (Some(from), false) => {
                let reader = snapshot
                    .readers
                    .pop()
                    .ok_or_else(|| BackfillError::retry("the snapshot has no session on blue"))?;
                let mut worker =
                    Worker::open(reader, &self.green, &self.epoch, Arc::new(Throttle::new(0)))
                        .await?;
                let to = &snapshot.position;
                let unmended =
                    refresh::refresh(&mut worker, &self.blue, server, &begun, &from, to).await?;
                again.extend(unmended);
                snapshot.readers.push(worker.blue);
            }
        }
        for name in &again {
            marks::empty(green, self.epoch.notes(), name).await?;
            known.remove(name);
        }
        if !again.is_empty() || !begun.is_empty() {
            tracing::info!(
                tables_kept = known.len(),
                tables_emptied = again.len(),
                "going on with a copy that broke off"
            );
        }
        self.epoch.begin(green).await?;
        self.epoch.notes().write_position(green, &snapshot.position).await?;
        let noted = green.query_drop("COMMIT").await;
        noted.map_err(|error| failed("noting the position of the copy on green", error))?;
        Ok(known)
    }

    /// Definitions were read before the snapshot: what changed in between would not fit, and a table that
    /// came in between is in no binlog that the stream will read.
    async fn unchanged(&self, blue: &mut Conn, server: &Server) -> Result<(), BackfillError> {
        let database = self.database.as_deref();
        let now = catalog::tables(blue, server, database, &self.filter).await;
        let now = now.map_err(|error| of_catalog("blue", error))?;
        let definition = |table: &TableInfo| {
            let TableInfo { engine, collation, columns, unique_keys, foreign_keys, .. } = table;
            (
                engine.clone(),
                collation.clone(),
                columns.clone(),
                unique_keys.clone(),
                foreign_keys.clone(),
            )
        };
        let named = |tables: &[TableInfo], name: &QualifiedName| {
            tables.iter().find(|table| table.name == *name).map(definition)
        };
        let names: BTreeSet<&QualifiedName> =
            self.tables.iter().chain(&now).map(|table| &table.name).collect();
        let changed: Vec<&QualifiedName> = names
            .into_iter()
            .filter(|name| named(&self.tables, name) != named(&now, name))
            .collect();
        match changed.first() {
            None => Ok(()),
            Some(name) => Err(BackfillError::retry(format!(
                "{} tables were changed on blue while the copy began, {name} among them",
                changed.len()
            ))),
        }
    }
}

async fn copy(
    run: &Arc<Run>,
    readers: Vec<Conn>,
    progress: &ProgressSender,
    cancel: &Cancel,
) -> Result<(), BackfillError> {
    let mut workers = JoinSet::new();
    for reader in readers {
        let (run, cancel) = (Arc::clone(run), cancel.clone());
        workers.spawn(async move { unless_cancelled(&cancel, work(&run, reader)).await });
    }
    let mut meter = Meter::new(run.tables.len());
    let mut publish = tokio::time::interval(PUBLISH_EVERY);
    loop {
        tokio::select! {
            ended = workers.join_next() => match ended {
                None => break,
                Some(Ok(Ok(()))) => {}
                // Dropping the set ends the others.
                Some(Ok(Err(error))) => return Err(error),
                Some(Err(panic)) => {
                    return Err(BackfillError::halt(
                        format!("a copy worker died: {panic}"),
                        "this is a defect; please report it",
                    ));
                }
            },
            () = cancelled(cancel) => return Err(BackfillError::Cancelled),
            _ = publish.tick() => {
                progress.send_modify(|state| meter.publish(state, &run.tables, Instant::now()));
            }
        }
    }
    progress.send_modify(|state| meter.publish(state, &run.tables, Instant::now()));
    Ok(())
}

/// One worker: task after task until none is left.
async fn work(run: &Run, reader: Conn) -> Result<(), BackfillError> {
    let mut worker =
        Worker::open(reader, &run.green, &run.epoch, Arc::clone(&run.throttle)).await?;
    while let Some(task) = run.queue.next().await {
        match task {
            Task::Cut { table: at } => {
                let (table, counters) = &run.tables[at];
                let found = |mark: Mark| {
                    counters.found(&mark);
                    run.queue.add(Task::Copy { table: at, mark });
                };
                worker.cut(table, &run.known[at], run.chunk_bytes, found).await?;
                counters.cut();
                run.queue.cut();
            }
            Task::Copy { table: at, mark } => {
                let (table, counters) = &run.tables[at];
                // Rows that were mended may lie in it.
                let is_used = !run.known[at].is_empty();
                let (rows, bytes) = worker.copy(table, &mark, is_used).await?;
                counters.done(rows, bytes);
            }
        }
    }
    // Its transaction was there to the end.
    worker.blue.query_drop("COMMIT").await.map_err(|error| failed("ending the snapshot", error))
}

/// The chunks that a copy that broke off has noted. Makes sure that no table has rows of others.
async fn known(
    green: &mut Conn,
    notes: &Notes,
    tables: &[TableInfo],
) -> Result<Known, BackfillError> {
    let mut known = marks::read(green, notes).await?;
    known.retain(|name, _| tables.iter().any(|table| table.name == *name));
    for table in tables.iter().filter(|table| !known.contains_key(&table.name)) {
        let sql = format!("SELECT 1 FROM {} LIMIT 1", qualified(&table.name));
        let row: Option<u8> = green.query_first(sql).await.map_err(|error| {
            failed(format!("looking at the table {} on green", table.name), error)
        })?;
        if row.is_some() {
            return Err(BackfillError::halt(
                format!("green already has rows in {}", table.name),
                "check that this is the right server; if it is, empty the table or exclude it",
            ));
        }
    }
    Ok(known)
}
