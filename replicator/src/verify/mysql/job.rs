//! One verification, from its request to its report.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cutover::Side;
use cutover::verify::{Dialect, Mode, ObjectFinding, Progress, VerifyReport, VerifyRequest};
use decoders::mysql::catalog::{TableInfo, TableKind};
use decoders::mysql::server::ServerUrl;
use decoders::postgres::catalog::TableFilter;
use jiff::Timestamp;
use sinks::mysql::logs_cascades;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::Instant;

use super::clients::{Ours, SourceWatch};
use super::compare;
use super::definitions::{self, Scope};
use super::line::{Bench, Line, Next, Task};
use super::plan::{SOURCE, TARGET, TablePlan};
use super::rechecking;
use super::side::{End, close};
use super::slices::{self, Pair, Stream};
use crate::backfill::mysql::of_source;
use crate::engine::touched::Watched;
use crate::schema::mysql::qualified;
use crate::store::FinishedChunk;
use crate::verify::Trouble;
use crate::verify::chosen::Chosen;
use crate::verify::gate::Gate;
use crate::verify::work::{Counts, ENOUGH, Pace, TRIES, TRY_PAUSE};

/// How long a snapshot is kept: what a server that writes much can hold back without harm. The tables in it are
/// let go after each chunk ([`slices::Pair::let_go`]).
pub const SLICE: Duration = Duration::from_secs(60);
/// The same where a snapshot can't let go of the tables that were read: whoever alters one of them waits
/// for so long.
const SLICE_THAT_KEEPS: Duration = Duration::from_secs(2);
/// What a sample takes, in percent, if the request does not say.
const SAMPLE_DEFAULT: f64 = 1.0;
/// Pairs of sessions, if the request does not say.
const CONNECTIONS_DEFAULT: u32 = 2;

/// A verification that is to be run.
#[derive(Debug)]
pub struct Verification<S> {
    /// Its name; eight hexadecimal digits, which are a sample's seed, too.
    pub id: String,
    /// When it began.
    pub started: Timestamp,
    /// What is asked for. What is about settling rows and going on has no meaning here.
    pub request: VerifyRequest,
    /// The side that is right.
    pub source: (Side, ServerUrl),
    /// The side that is compared with it.
    pub target: (Side, ServerUrl),
    /// Only this database; all of them without it.
    pub database: Option<String>,
    /// Tables that take part in the move.
    pub filter: TableFilter,
    /// From the source to the target.
    pub stream: Arc<S>,
    /// How long a snapshot is kept, see [`SLICE`].
    pub slice: Duration,
    /// Chunks that were finished before a restart. Their bounds are keys as literals; the lower one
    /// belongs to the chunk before.
    pub before: Vec<FinishedChunk>,
    /// Gets every chunk that is finished.
    pub finished: Option<mpsc::UnboundedSender<FinishedChunk>>,
    /// Gets what has been done.
    pub progress: watch::Sender<Progress>,
}

/// What all workers share.
struct Shop {
    mode: Mode,
    part: f64,
    began: Instant,
    line: Mutex<Line>,
    counts: Counts,
    gate: Gate,
    pace: Pace,
    benches: Vec<Arc<Bench>>,
    finished: Option<mpsc::UnboundedSender<FinishedChunk>>,
    progress: watch::Sender<Progress>,
    /// It was said that tables are kept from being altered.
    keeps_tables: AtomicBool,
}

impl<S: Stream> Verification<S> {
    /// Runs it. When `stop` becomes true it ends at once; chunks that are being compared then count as not
    /// compared.
    ///
    /// # Errors
    /// It can't begin, or the servers or the stream are away for too long. Nothing was changed.
    pub async fn run(self, stop: watch::Receiver<bool>) -> Result<VerifyReport, Trouble> {
        Ok(self.prepare().await?.compare(stop).await?.0)
    }

    /// Finds out what there is to compare.
    ///
    /// # Errors
    /// It can't begin.
    pub(super) async fn prepare(self) -> Result<Prepared<S>, Trouble> {
        let (from, to) = (self.source.0, self.target.0);
        let ends = tokio::try_join!(
            End::find(from, self.source.1.clone()),
            End::find(to, self.target.1.clone()),
        )?;
        let ends = [ends.0, ends.1];
        let before = self.read(&ends).await?;
        let benches = self.benches(&ends, &before).await?;
        Ok(Prepared { verification: self, ends, before, benches })
    }

    /// Compares these tables once more, from the first to the last row.
    ///
    /// # Errors
    /// The servers or the stream are away for too long. What is wrong with a table is in its report.
    pub(super) async fn again(self, benches: Vec<Arc<Bench>>) -> Result<(), Trouble> {
        let (from, to) = (self.source.0, self.target.0);
        let ends = tokio::try_join!(
            End::find(from, self.source.1.clone()),
            End::find(to, self.target.1.clone()),
        )?;
        let ends = [ends.0, ends.1];
        let (shop, ours) = (self.shop(benches), Ours::default());
        let spare =
            async || SourceWatch::open(&ends[SOURCE], ours.clone(), Arc::clone(&self.stream)).await;
        tokio::select! {
            done = self.slices(&ends, &shop, &ours) => done,
            () = shop.gate.govern(spare), if !self.request.unlimited => {
                unreachable!("governs for ever")
            }
        }
    }

    fn shop(&self, benches: Vec<Arc<Bench>>) -> Arc<Shop> {
        let seed = u64::from_str_radix(&self.id, 16).unwrap_or_default();
        let percent = self.request.sample_percent.unwrap_or(SAMPLE_DEFAULT);
        let sample = (self.request.mode == Mode::Sample).then_some((percent, seed));
        Arc::new(Shop {
            mode: self.request.mode,
            part: sample.map_or(1.0, |(percent, _)| percent / 100.0),
            began: Instant::now(),
            line: Mutex::new(Line::new(benches.clone(), self.before.clone(), sample)),
            counts: Counts::default(),
            gate: Gate::new(!self.request.unlimited),
            pace: Pace::new(self.request.rows_per_second),
            benches,
            finished: self.finished.clone(),
            progress: self.progress.clone(),
            keeps_tables: AtomicBool::default(),
        })
    }

    /// The tables of both sides.
    async fn read(&self, ends: &[End; 2]) -> Result<[Vec<TableInfo>; 2], Trouble> {
        let database = self.database.as_deref();
        let (here, there) =
            tokio::try_join!(ends[SOURCE].tables(database), ends[TARGET].tables(database))?;
        Ok([here, there])
    }

    /// What is no row and differs.
    async fn objects(
        &self,
        ends: &[End; 2],
        tables: &[Vec<TableInfo>; 2],
    ) -> Result<Vec<ObjectFinding>, Trouble> {
        let chosen = Chosen::of(&self.request).map_err(|what| Trouble::new("request", what))?;
        let scope =
            Scope { database: self.database.as_deref(), is_whole: self.request.tables.is_empty() };
        let is_wanted =
            |table: &&TableInfo| self.filter.selects(&table.name) && chosen.takes(&table.name);
        let read = async |side: usize| {
            let mut reader = ends[side].open().await?;
            let tables: Vec<&TableInfo> = tables[side].iter().filter(is_wanted).collect();
            definitions::read(&mut reader, &ends[side].server, &tables, scope).await
        };
        let (here, there) = tokio::try_join!(read(SOURCE), read(TARGET))?;
        let sides = [SOURCE, TARGET].map(|side| ends[side].side);
        let servers = [SOURCE, TARGET].map(|side| &ends[side].server);
        Ok(definitions::compare(&[here, there], sides, servers))
    }

    async fn benches(
        &self,
        ends: &[End; 2],
        [here, there]: &[Vec<TableInfo>; 2],
    ) -> Result<Vec<Arc<Bench>>, Trouble> {
        let chosen = Chosen::of(&self.request).map_err(|what| Trouble::new("request", what))?;
        let is_wanted = |table: &&TableInfo| {
            let name = &table.name;
            table.kind != TableKind::Sequence && self.filter.selects(name) && chosen.takes(name)
        };
        let servers = [SOURCE, TARGET].map(|side| &ends[side].server);
        let others: HashMap<_, _> = there.iter().map(|other| (&other.name, other)).collect();
        let mut benches = Vec::new();
        for table in here.iter().filter(is_wanted) {
            let other = others.get(&table.name).copied();
            let restriction = chosen.restriction(&table.name, Dialect::Mysql)?;
            let plan =
                TablePlan::new(table, other.unwrap_or(table), servers, &self.request, restriction);
            let engines = [Some(table), other];
            let is_seen = engines.iter().flatten().all(|table| table.is_transactional());
            let error = match other {
                None => Some(format!("{} does not have it", ends[TARGET].side)),
                Some(_) if !is_seen => Some(
                    "its engine knows no snapshots: its rows can't be seen at one moment"
                        .to_owned(),
                ),
                Some(_) => None,
            };
            benches.push((table.bytes, Arc::new(Bench::new(plan, error))));
        }
        if benches.is_empty() {
            return Err(Trouble::new(ends[SOURCE].side, "no replicated table has such a name"));
        }
        // The largest first, so that they do not end last.
        benches.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let benches: Vec<Arc<Bench>> = benches.into_iter().map(|(_, bench)| bench).collect();
        chosen.check_names(benches.iter().map(|bench| &bench.plan.name))?;
        for end in ends {
            let mut reader = end.open().await?;
            for sql in benches.iter().filter_map(|bench| bench.plan.predicate_sql()) {
                reader.run("trying the condition", &sql).await?;
            }
        }
        Ok(benches)
    }

    /// Slice after slice, until every chunk is done.
    async fn slices(&self, ends: &[End; 2], shop: &Arc<Shop>, ours: &Ours) -> Result<(), Trouble> {
        let connections = self.request.connections.unwrap_or(CONNECTIONS_DEFAULT).max(1);
        let (mut pause, mut tries) = (TRY_PAUSE, 1);
        while !shop.line.lock().await.is_empty() {
            // Not in a slice: no snapshot is kept only to wait.
            shop.pace.settle().await;
            let done = shop.counts.rows.load(Ordering::Relaxed);
            let sliced = self.slice(ends, shop, ours, connections as usize).await;
            match sliced {
                Err(trouble) if trouble.is_transient && tries < TRIES => {
                    // Chunks that were finished show that it can be done.
                    if shop.counts.rows.load(Ordering::Relaxed) > done {
                        (pause, tries) = (TRY_PAUSE, 1);
                    }
                    tokio::time::sleep(pause).await;
                    (pause, tries) = (pause * 2, tries + 1);
                }
                sliced => sliced?,
            }
        }
        Ok(())
    }

    async fn slice(
        &self,
        ends: &[End; 2],
        shop: &Arc<Shop>,
        ours: &Ours,
        connections: usize,
    ) -> Result<(), Trouble> {
        let both = [SOURCE, TARGET].map(|side| &ends[side]);
        let pairs = slices::open(both, &*self.stream, connections).await?;
        let lets_go = pairs.iter().all(|pair| pair.lets_go);
        if !lets_go && !shop.keeps_tables.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "tables that are verified are kept from being altered for up to {SLICE_THAT_KEEPS:?}: the \
                 account lacks BINLOG ADMIN, without which MariaDB keeps their metadata locks"
            );
        }
        let slice = if lets_go { self.slice } else { self.slice.min(SLICE_THAT_KEEPS) };
        let until = Instant::now() + slice;
        ours.replace(pairs.iter().map(|pair| pair.source.conn.id()));
        let mut workers = tokio::task::JoinSet::new();
        for pair in pairs {
            workers.spawn(Arc::clone(shop).work(pair, until));
        }
        let mut ended = Ok(());
        while let Some(worker) = workers.join_next().await {
            let worker = worker.map_err(|e| Trouble::new("verification", e.to_string()));
            ended = ended.and(worker.and_then(|worker| worker));
        }
        ended
    }
}

/// A verification whose tables are known.
pub(super) struct Prepared<S> {
    verification: Verification<S>,
    ends: [End; 2],
    /// Definitions of both sides.
    before: [Vec<TableInfo>; 2],
    benches: Vec<Arc<Bench>>,
}

impl<S: Stream> Prepared<S> {
    /// What of the stream is to be noted for a verification that goes on.
    ///
    /// # Errors
    /// The source's.
    pub async fn watched(&self) -> Result<Vec<Watched>, Trouble> {
        let mut reader = self.ends[SOURCE].open().await?;
        let logs = logs_cascades(&mut reader.conn, &self.ends[SOURCE].server).await;
        let logs = logs.map_err(|error| Trouble::of(reader.side, of_source(error)))?;
        close(reader).await;
        let plans: Vec<&TablePlan> = self.benches.iter().map(|bench| &bench.plan).collect();
        if !logs && let Some((child, parent)) = rechecking::unwatched(&plans) {
            let what = format!(
                "rows of {} change along with those of {}, which the log does not show: a verification \
                 that goes on has to be of both",
                qualified(child),
                qualified(parent)
            );
            return Err(Trouble::new(self.verification.source.0, what));
        }
        Ok(plans.iter().map(|plan| rechecking::watched(plan, &plans, !logs)).collect())
    }

    /// Compares everything. Gives also the tables, with what was found.
    ///
    /// # Errors
    /// As for [`Verification::run`].
    pub async fn compare(
        self,
        stop: watch::Receiver<bool>,
    ) -> Result<(VerifyReport, Vec<Arc<Bench>>), Trouble> {
        let Prepared { verification, ends, before, benches } = self;
        let (from, to) = (verification.source.0, verification.target.0);
        let objects = match verification.request.rows_only {
            true => Vec::new(),
            false => verification.objects(&ends, &before).await?,
        };
        let shop = verification.shop(benches);
        let ours = Ours::default();
        let spare = async || {
            let stream = Arc::clone(&verification.stream);
            SourceWatch::open(&ends[SOURCE], ours.clone(), stream).await
        };
        let mut stopping = stop;
        let stopped = tokio::select! {
            done = verification.slices(&ends, &shop, &ours) => done.map(|()| false)?,
            // Whoever can't ask any more has not asked.
            Ok(_) = stopping.wait_for(|stop| *stop) => true,
            () = shop.gate.govern(spare), if !verification.request.unlimited => {
                unreachable!("governs for ever")
            }
        };
        let after = verification.read(&ends).await?;
        let mut reports = Vec::new();
        for bench in &shop.benches {
            if [SOURCE, TARGET].iter().any(|side| changed(bench, &before[*side], &after[*side])) {
                bench.failed("its definition was changed while it was compared").await;
            }
            reports.push(bench.report.lock().await.clone());
        }
        reports.sort_by(|one, other| one.table.cmp(&other.table));
        let (id, started) = (verification.id.clone(), verification.started);
        let mode = verification.request.mode;
        let report = VerifyReport::judged(id, mode, [from, to], started, reports, objects, stopped);
        Ok((report, shop.benches.clone()))
    }
}

impl Shop {
    /// Compares chunks until the slice is over.
    async fn work(self: Arc<Self>, mut pair: Pair, until: Instant) -> Result<(), Trouble> {
        let is_over = || Instant::now() >= until;
        while !is_over() {
            let pass = self.gate.enter().await;
            // It may have waited for long.
            if is_over() {
                break;
            }
            let task = match self.line.lock().await.next(&mut pair.source, &self.counts).await? {
                Next::Task(task) => task,
                Next::Nothing => {
                    pair.let_go().await?;
                    continue;
                }
                Next::End => break,
            };
            if task.0.is_given_up().await {
                pair.let_go().await?;
                continue;
            }
            let began = Instant::now();
            let (bench, chunk) = &task;
            let enough = ENOUGH as usize;
            let compared = compare::chunk(&mut pair, &bench.plan, self.mode, chunk, enough).await;
            // Before anything is waited for.
            let let_go = pair.let_go().await;
            drop(pass);
            let compared = match (compared, let_go) {
                (Ok(_), Err(trouble)) => Err(trouble),
                (compared, _) => compared,
            };
            match compared {
                Ok(compared) => {
                    let rows = compared.rows;
                    self.keep(&task, &compared);
                    let (bench, _) = task;
                    bench.take(compared, &self.counts, began.elapsed().as_secs_f64()).await;
                    self.tell();
                    // What is still owed then is waited for between the slices.
                    let _ = tokio::time::timeout_at(until, self.pace.pay(rows)).await;
                }
                Err(trouble) if trouble.is_transient => {
                    self.line.lock().await.give_back(task);
                    return Err(trouble);
                }
                Err(trouble) => bench.failed(trouble).await,
            }
        }
        close(pair.source).await;
        close(pair.target).await;
        Ok(())
    }

    fn keep(&self, (bench, chunk): &Task, compared: &compare::Compared) {
        let Some(finished) = self.finished.as_ref().filter(|_| compared.settled.unsettled == 0)
        else {
            return;
        };
        let range = chunk.range.clone().unwrap_or_default();
        // Whoever does not listen any more starts anew after a crash.
        let _ = finished.send(FinishedChunk {
            table: bench.plan.name.to_string(),
            plan: bench.plan.fingerprint(),
            number: chunk.number,
            lo: range.above,
            hi: range.up_to,
            rows: compared.rows,
            rechecked: compared.rechecked,
            in_motion: 0,
            differences: compared.settled.differences.clone(),
        });
    }

    fn tell(&self) {
        let estimated = |bench: &Arc<Bench>| bench.plan.info.estimated_rows.unwrap_or_default();
        let rows = self.benches.iter().map(estimated).sum();
        let seconds = self.began.elapsed().as_secs_f64();
        let tables = self.benches.len() as u64;
        let progress = self.counts.progress(tables, rows, self.part, seconds);
        self.progress.send_replace(Progress { limit: Some(self.gate.limit()), ..progress });
    }
}

/// Whether a table's columns and keys are not what they were.
fn changed(bench: &Bench, before: &[TableInfo], after: &[TableInfo]) -> bool {
    let of = |tables: &[TableInfo]| {
        let table = tables.iter().find(|table| table.name == bench.plan.name);
        table.map(|table| (table.columns.clone(), table.unique_keys.clone()))
    };
    of(before) != of(after)
}
