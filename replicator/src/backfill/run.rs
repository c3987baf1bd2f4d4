//! The copy as a whole: plan, claim, workers, flush.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use decoders::postgres::chunks::{ChunkError, CopyFormat, PlanOptions, TablePlan, plan};
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::Session;
use decoders::{QualifiedName, TableId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::chunks::{ChunkAt, Chunks};
use super::claim::claim;
use super::counters::{Meter, TableCounters};
use super::guard::guarded;
use super::throttle::Throttle;
use super::tuning::{CopyTuning, ServerFacts};
use super::worker::{ChunkEnd, Worker, open_blue, open_green};
use super::{
    BackfillError, Cancel, CopyConfig, ProgressSender, Setting, contention, pacing,
    unless_cancelled,
};
use crate::protect::BlueConnections;

/// How often progress is published.
const PUBLISH_EVERY: Duration = Duration::from_millis(200);

/// What is copied from where to where.
#[derive(Clone, Debug)]
pub struct Backfill {
    /// Where the rows come from.
    pub blue: ConnInfo,
    /// Where they go.
    pub green: ConnInfo,
    /// The slot's exported snapshot. Its connection must stay open until the workers have it; as
    /// long as this runs is best.
    pub snapshot: String,
    /// The tables; partitioned ones stand for their leaves.
    pub tables: Vec<TableId>,
    /// How.
    pub config: CopyConfig,
    /// The connections that blue may be asked for.
    pub connections: BlueConnections,
    /// When blue is too slow to be read from at full speed (`protect.answer_ms_max`).
    pub answer_ms_max: Setting,
    /// What the tables have to look like: green's were made after an earlier snapshot. `None`: green's
    /// definitions are of this snapshot.
    pub expected: Option<BTreeMap<TableId, Columns>>,
}

/// What becomes known of the tables while they are copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TableEvent {
    /// The tables with their bytes on blue's disk. Once, before the first row.
    Planned(Vec<(QualifiedName, u64)>),
    /// All rows of one table are on green and committed there.
    Copied(QualifiedName),
}

/// Where table events go.
pub type TableEvents = mpsc::UnboundedSender<TableEvent>;

/// One table that was copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopiedTable {
    /// The table on blue.
    pub id: TableId,
    /// Its name on both.
    pub name: QualifiedName,
    /// Rows.
    pub rows: u64,
    /// Bytes that travelled.
    pub bytes: u64,
    /// In which form.
    pub format: CopyFormat,
}

impl Summary {
    /// Adds what a copy from a later snapshot has copied of what this one has left.
    pub fn add(&mut self, later: Summary) {
        self.left = later.left;
        self.columns.extend(later.columns);
        self.rows += later.rows;
        self.bytes += later.bytes;
        self.duration_ms += later.duration_ms;
        self.tables.extend(later.tables);
    }
}

/// One table that was not copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeftTable {
    /// The table on blue.
    pub id: TableId,
    /// Its name on both.
    pub name: QualifiedName,
}

/// The columns of a table that travel, and the OIDs of their types on blue.
pub type Columns = Vec<(String, u32)>;

/// A copy that is complete but for what it has left, and flushed on green.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Table by table, largest first.
    pub tables: Vec<CopiedTable>,
    /// Tables whose rows this snapshot could not give: somebody emptied or rewrote them after it was
    /// taken, or held them locked. They have to be copied from a later one.
    pub left: Vec<LeftTable>,
    /// What all of them looked like in the snapshot, those that are left too.
    pub columns: BTreeMap<TableId, Columns>,
    /// Tables that an earlier copy had filled and that were emptied first.
    pub emptied: Vec<QualifiedName>,
    /// Rows.
    pub rows: u64,
    /// Bytes that travelled.
    pub bytes: u64,
    /// How long it took, milliseconds.
    pub duration_ms: u64,
    /// Whether `session_replication_role` kept triggers on green quiet; if not, there were none.
    pub is_replica_role: bool,
}

impl Backfill {
    /// Copies all rows that the snapshot still shows; [`Summary::left`] names the tables that it does
    /// not show any more.
    ///
    /// Tables that a copy that was broken off had filled are emptied first; other rows on green
    /// are an error. When this returns, everything is flushed on green. The tables stay claimed
    /// until [`record_copied`](super::record_copied).
    ///
    /// # Errors
    /// After a retryable one the copy starts over with a new snapshot.
    pub async fn run(
        &self,
        progress: &ProgressSender,
        cancel: &Cancel,
    ) -> Result<Summary, BackfillError> {
        self.run_telling(progress, cancel, None).await
    }

    /// [`run`](Self::run), telling which tables are complete. Nobody has to listen.
    ///
    /// # Errors
    /// The same.
    pub async fn run_telling(
        &self,
        progress: &ProgressSender,
        cancel: &Cancel,
        events: Option<TableEvents>,
    ) -> Result<Summary, BackfillError> {
        let begun = Instant::now();
        // Asks blue how it is and who waits, to the end.
        let _permit =
            unless_cancelled(cancel, async { Ok(self.connections.permit().await) }).await?;
        let keeper = unless_cancelled(cancel, open_blue(&self.blue, &self.snapshot)).await?;
        let (mut green, is_replica_role) =
            unless_cancelled(cancel, open_green(&self.green, false)).await?;
        let tuning = self.tuning(&keeper, &green).await?;
        let options = PlanOptions { chunk_bytes: tuning.chunk_bytes, workers: tuning.workers };
        let plans =
            guarded(vec![keeper.canceller()], cancel, plan(&keeper, &self.tables, &options))
                .await?
                .map_err(unplanned)?;
        self.refuse_altered(&plans)?;
        let is_raw = is_raw(&keeper).await?;

        let names: Vec<QualifiedName> = plans.iter().map(|plan| plan.name.clone()).collect();
        let emptied = guarded(vec![green.canceller()], cancel, claim(&mut green, &names)).await??;
        if !emptied.is_empty() {
            tracing::info!(
                tables = emptied.len(),
                "starting over: emptied what an earlier copy had filled on green"
            );
        }
        refuse_triggers(&green, &names, is_replica_role).await?;

        let run = Run {
            tables: plans.into_iter().map(TableCounters::new).collect(),
            throttle: Throttle::new(self.config.rate_limit_bytes_per_s),
            events,
            is_raw,
            waiting_for: Mutex::new(None),
        };
        let run = Arc::new(run);
        run.tell(|| {
            let bytes = |plan: &TablePlan| (plan.name.clone(), plan.bytes_on_disk);
            TableEvent::Planned(run.tables.iter().map(|table| bytes(&table.plan)).collect())
        });
        self.copy(&run, tuning.workers, &keeper, progress, cancel).await?;
        flush(&green).await?;
        release(keeper).await?;
        Ok(summary(&run.tables, emptied, begun, is_replica_role))
    }

    /// Refuses tables that are not what green's were made after.
    fn refuse_altered(&self, plans: &[TablePlan]) -> Result<(), BackfillError> {
        let Some(expected) = &self.expected else { return Ok(()) };
        let altered = plans.iter().find(|plan| expected.get(&plan.id) != Some(&columns(plan)));
        let Some(TablePlan { name, .. }) = altered else { return Ok(()) };
        Err(BackfillError::retry(format!(
            "{name} was altered while tables were copied; the copy has to start over with the new \
             definitions"
        )))
    }

    /// Decides how many at a time, and says why.
    async fn tuning(&self, blue: &Session, green: &Session) -> Result<CopyTuning, BackfillError> {
        let facts = ServerFacts::read(blue, "blue").await?;
        let room = self.connections.room(facts.max_connections);
        let green = ServerFacts::read(green, "green").await?;
        let tuning = CopyTuning::choose(&self.config, &green, room);
        tracing::info!(
            workers = tuning.workers,
            chunk_mib = tuning.chunk_bytes.map(|bytes| bytes >> 20),
            reason = tuning.reason,
            "how rows are copied"
        );
        Ok(tuning)
    }

    async fn copy(
        &self,
        run: &Arc<Run>,
        workers: usize,
        keeper: &Session,
        progress: &ProgressSender,
        cancel: &Cancel,
    ) -> Result<(), BackfillError> {
        let patience = Duration::from_secs(self.config.lock_timeout_s);
        let chunks = Arc::new(Chunks::new(&run.tables, patience));
        let count = workers.min(chunks.len());
        let mut workers = JoinSet::new();
        for _ in 0..count {
            let (job, run) = (self.clone(), Arc::clone(run));
            let (chunks, cancel) = (chunks.clone(), cancel.clone());
            workers.spawn(async move { job.work(&run, &chunks, &cancel).await });
        }
        let mut meter = Meter::new(Arc::clone(run));
        let mut publish = tokio::time::interval(PUBLISH_EVERY);
        let mut pacing = pin!(pacing::pace(keeper, self.answer_ms_max, run));
        let mut contention = pin!(contention::watch(keeper, run));
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
                reason = keeper.closed() => return Err(unkept(&reason)),
                reason = &mut pacing => return Err(unkept(&reason)),
                reason = &mut contention => return Err(unkept(&reason)),
                _ = publish.tick() => {
                    progress.send_modify(|state| meter.publish(state, Instant::now()));
                }
            }
        }
        run.waits_for(None);
        progress.send_modify(|state| meter.publish(state, Instant::now()));
        Ok(())
    }

    /// One worker: chunk after chunk until none is left.
    async fn work(&self, run: &Run, chunks: &Chunks, cancel: &Cancel) -> Result<(), BackfillError> {
        let opening = async {
            let permit = self.connections.permit().await;
            Worker::open(&self.blue, &self.green, &self.snapshot, run.is_raw, permit).await
        };
        let worker = unless_cancelled(cancel, opening).await?;
        while let Some(at) = chunks.next(&run.tables) {
            let ChunkAt { table, chunk } = at;
            let Some(table) = run.tables.get(table) else { continue };
            match worker.copy(table, chunk, &run.throttle, cancel).await? {
                ChunkEnd::Copied(true) => run.tell(|| TableEvent::Copied(table.plan.name.clone())),
                ChunkEnd::Copied(false) => {}
                ChunkEnd::Rewritten => table.leave("it was emptied or rewritten meanwhile"),
                ChunkEnd::Busy => {
                    table.is_busy(true);
                    if chunks.put_back(at, &run.tables) {
                        table.leave("somebody holds it locked");
                    }
                }
            }
        }
        Ok(())
    }
}

/// What all workers of one copy share.
#[derive(Debug)]
pub(super) struct Run {
    pub tables: Vec<TableCounters>,
    pub throttle: Throttle,
    events: Option<TableEvents>,
    is_raw: bool,
    waiting_for: Mutex<Option<String>>,
}

impl Run {
    /// Bytes that have travelled so far.
    pub(super) fn bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.bytes.load(Ordering::Relaxed)).sum()
    }

    /// What the copy waits for.
    pub(super) fn waits_for(&self, reason: Option<String>) {
        *self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// What the copy waits for, if anything.
    pub(super) fn waiting_for(&self) -> Option<String> {
        self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell(&self, event: impl FnOnce() -> TableEvent) {
        if let Some(events) = &self.events {
            // Nobody has to listen.
            let _ = events.send(event());
        }
    }
}

/// Ends the keeper's transaction, and with that proves that it was there to the end.
async fn release(keeper: Session) -> Result<(), BackfillError> {
    keeper.batch_execute("COMMIT").await.map_err(|error| unkept(&error))
}

fn unkept(reason: &dyn std::fmt::Display) -> BackfillError {
    BackfillError::retry(format!(
        "the connection to blue that watches over the copy was lost ({reason}); the snapshot may be \
         gone with it, so the copy has to start over"
    ))
}

pub(super) fn unplanned(error: ChunkError) -> BackfillError {
    match error {
        ChunkError::Database { doing, cause } => {
            BackfillError::database(format!("{doing} on blue"), &cause)
        }
        ChunkError::Missing(_) => {
            BackfillError::retry(format!("{error}; a new snapshot is needed"))
        }
        ChunkError::NotATable(..) => {
            BackfillError::halt(format!("blue: {error}"), "exclude it from the tables to move")
        }
    }
}

/// Whether texts have to travel unchecked: a database in `SQL_ASCII` may hold any bytes, and
/// asking for UTF-8 would refuse them.
async fn is_raw(blue: &Session) -> Result<bool, BackfillError> {
    let asked = |error| BackfillError::database("reading blue's encoding", &error);
    let row = blue
        .query_one("SELECT pg_catalog.current_setting('server_encoding') = 'SQL_ASCII'", &[])
        .await
        .map_err(asked)?;
    row.try_get(0).map_err(asked)
}

/// Refuses tables on green whose triggers would fire for every copied row.
async fn refuse_triggers(
    green: &Session,
    tables: &[QualifiedName],
    is_replica_role: bool,
) -> Result<(), BackfillError> {
    // tgtype: bit 2 is INSERT. In the replica role only ALWAYS and REPLICA triggers fire, and
    // foreign keys are not checked.
    const FIRING: &str = "
        SELECT DISTINCT c.oid::pg_catalog.regclass::text, t.tgname::text
        FROM pg_catalog.unnest($1::text[]) AS given (name)
        JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(given.name)
        JOIN pg_catalog.pg_trigger t ON t.tgrelid = c.oid
        WHERE t.tgtype & 4 <> 0
          AND CASE WHEN $2 THEN t.tgenabled IN ('A', 'R') ELSE t.tgenabled IN ('O', 'A') END
        ORDER BY 1, 2 LIMIT 20";
    let asked = |error| BackfillError::database("looking for triggers on green", &error);
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let mut firing = Vec::new();
    for row in green.query(FIRING, &[&names, &is_replica_role]).await.map_err(asked)? {
        let (table, trigger): (String, String) =
            (row.try_get(0).map_err(asked)?, row.try_get(1).map_err(asked)?);
        firing.push(format!("{trigger} on {table}"));
    }
    if firing.is_empty() {
        return Ok(());
    }
    let remedy = if is_replica_role {
        "disable them on green (ALTER TABLE .. DISABLE TRIGGER ..) until the copy is over"
    } else {
        "let the role set session_replication_role (PostgreSQL 15: GRANT SET ON PARAMETER \
         session_replication_role TO ..; or superuser), or drop foreign keys and disable triggers \
         on green until the copy is over"
    };
    Err(BackfillError::halt(
        format!("triggers on green would fire for every copied row: {}", firing.join(", ")),
        remedy,
    ))
}

/// The workers commit without waiting for the disk. A commit that does wait flushes all of the
/// log before it, and theirs are before it.
async fn flush(green: &Session) -> Result<(), BackfillError> {
    let table = crate::schema::STATE_TABLE;
    let statement = format!(
        "SET synchronous_commit = on;
         INSERT INTO {table} (item, detail) VALUES ('rows flushed', '')
         ON CONFLICT (item) DO UPDATE SET at = pg_catalog.now()"
    );
    green
        .batch_execute(&statement)
        .await
        .map_err(|error| BackfillError::database("flushing the copy on green", &error))
}

fn summary(
    run: &[TableCounters],
    emptied: Vec<QualifiedName>,
    begun: Instant,
    is_replica_role: bool,
) -> Summary {
    let copied = |table: &TableCounters| {
        let TablePlan { id, name, format, .. } = &table.plan;
        CopiedTable {
            id: *id,
            name: name.clone(),
            rows: table.rows.load(Ordering::Acquire),
            bytes: table.bytes.load(Ordering::Acquire),
            format: *format,
        }
    };
    let left =
        |table: &TableCounters| LeftTable { id: table.plan.id, name: table.plan.name.clone() };
    let tables: Vec<CopiedTable> =
        run.iter().filter(|table| table.is_copied()).map(copied).collect();
    Summary {
        left: run.iter().filter(|table| !table.is_copied()).map(left).collect(),
        columns: run.iter().map(|table| (table.plan.id, columns(&table.plan))).collect(),
        emptied,
        rows: tables.iter().map(|table| table.rows).sum(),
        bytes: tables.iter().map(|table| table.bytes).sum(),
        duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        is_replica_role,
        tables,
    }
}

fn columns(plan: &TablePlan) -> Columns {
    plan.columns.iter().cloned().zip(plan.column_types.iter().copied()).collect()
}
