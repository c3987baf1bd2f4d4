//! The chunks of all tables, dealt to workers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cutover::Side;
use cutover::ports::Replication;
use cutover::verify::{Mode, Progress, RowDifference, RowKind, TableReport, sample};
use decoders::Lsn;
use decoders::postgres::conninfo::ConnInfo;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::clients::PostgresWatch;
use super::compare::{self, Compared};
use super::gate::Gate;
use super::plan::{Cut, Range, TablePlan};
use super::reader::{HEAD, Reader, TextRow, Trouble};
use super::resume::Memory;
use super::settle::Settled;
use super::stride::Stride;
use crate::controlling::EngineReplication;
use crate::door::Door;
use crate::store::FinishedChunk;

/// How long the stream may take to apply what was just read, in each of [`TRIES`]; a new connection
/// is made in that time.
const APPLY: Duration = Duration::from_secs(300);
/// Tries of one chunk while a server is away.
pub(super) const TRIES: u32 = 6;
/// Before the second of them; each further pause is twice as long.
pub(super) const TRY_PAUSE: Duration = Duration::from_millis(500);
/// Differences of a table in its report.
const NAMED: usize = 100;
/// Differences of a table after which it is given up: it is not equal, and settling each row of a
/// table that was never copied would take for ever.
pub(super) const ENOUGH: u64 = 10_000;

/// What all workers share.
pub(super) struct Shop {
    pub mode: Mode,
    pub settle: Duration,
    pub source: (ConnInfo, Side),
    pub target: (ConnInfo, Side),
    pub door: Door,
    pub stream: EngineReplication,
    /// Percent of the chunks, and the seed.
    pub sample: Option<(f64, u64)>,
    pub pace: Pace,
    pub memory: Memory,
    pub gate: Gate,
    pub counts: Counts,
}

/// Numbers that grow while the work goes on.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub rows: AtomicU64,
    /// Of those, rows that were read before a restart.
    pub rows_before: AtomicU64,
    pub rechecked: AtomicU64,
    pub differences: AtomicU64,
    pub tables_done: AtomicU64,
}

impl Counts {
    /// Adds a chunk.
    pub fn add(&self, compared: &Compared) {
        self.rows.fetch_add(compared.rows, Ordering::Relaxed);
        self.rechecked.fetch_add(compared.rechecked, Ordering::Relaxed);
        let found = compared.settled.differences.len() as u64;
        self.differences.fetch_add(found, Ordering::Relaxed);
    }

    /// As numbers for an operator, `seconds` after the beginning.
    pub fn progress(&self, tables: u64, rows_estimated: u64, part: f64, seconds: f64) -> Progress {
        let rows_done = self.rows.load(Ordering::Relaxed);
        let rows_before = self.rows_before.load(Ordering::Relaxed);
        let rate = rows_done.saturating_sub(rows_before) as f64 / seconds.max(1e-3);
        let tables_done = self.tables_done.load(Ordering::Relaxed);
        let left = rows_estimated as f64 * part - rows_done as f64;
        // More rows than anybody estimated (a table that was never analyzed): the end is not in sight.
        let is_in_sight = rate > 0.0 && (left > 0.0 || tables_done == tables);
        Progress {
            tables,
            tables_done,
            rows_estimated,
            rows_done,
            rows_rechecked: self.rechecked.load(Ordering::Relaxed),
            differences: self.differences.load(Ordering::Relaxed),
            rows_per_second: rate,
            eta_seconds: is_in_sight.then(|| left.max(0.0) / rate),
            limit: None,
        }
    }
}

/// Adds a chunk to its table's report.
pub(super) fn report(report: &mut TableReport, compared: Compared) {
    report.chunks += 1;
    report.rows += compared.rows;
    report.rechecked += compared.rechecked;
    report.in_motion += compared.settled.in_motion;
    report.unsettled += compared.settled.unsettled;
    for one in compared.settled.differences {
        match one.kind {
            RowKind::Missing => report.missing += 1,
            RowKind::Extra => report.extra += 1,
            RowKind::Different => report.different += 1,
        }
        if report.differences.len() < NAMED {
            report.differences.push(one);
        }
    }
    report.cut_short |= report.differing() >= ENOUGH;
}

/// At most so many rows a second.
pub(super) struct Pace {
    rows_per_second: Option<u64>,
    free_at: Mutex<Instant>,
}

impl Pace {
    pub fn new(rows_per_second: Option<u64>) -> Self {
        Self { rows_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until the rows that were read are paid for.
    pub async fn pay(&self, rows: u64) {
        let Some(rate) = self.rows_per_second else { return };
        let due = {
            let mut free_at = self.free_at.lock().await;
            let cost = Duration::from_secs_f64(rows as f64 / rate.max(1) as f64);
            *free_at = (*free_at).max(Instant::now()) + cost;
            *free_at
        };
        tokio::time::sleep_until(due).await;
    }

    /// Waits until everything that was read is paid for.
    pub async fn settle(&self) {
        let due = *self.free_at.lock().await;
        tokio::time::sleep_until(due).await;
    }
}

impl Shop {
    /// Waits until everything up to `position` is on the target.
    pub async fn await_applied(&self, position: Lsn) -> Result<(), Trouble> {
        let applied = self.stream.await_applied(position, Instant::now() + APPLY).await;
        // A stream that is behind catches up.
        applied.map_err(|error| Trouble {
            is_transient: true,
            ..Trouble::new(error.place, error.what)
        })
    }

    /// Waits until everything that the source has logged is on the target, so that nothing of it is on
    /// its way there.
    pub async fn await_head(&self) -> Result<(), Trouble> {
        let (source, from) = &self.source;
        let reader = Reader::open(source, *from, &self.door).await?;
        let head = reader.rows(HEAD).await?;
        self.await_applied(reader.head(&head)?).await
    }

    /// The same for what is compared later: nothing of it is kept over a restart.
    pub fn again(&self, is_limited: bool) -> Self {
        Self {
            mode: self.mode,
            settle: self.settle,
            source: self.source.clone(),
            target: self.target.clone(),
            door: self.door.clone(),
            stream: self.stream.clone(),
            sample: None,
            pace: Pace::new(self.pace.rows_per_second),
            memory: Memory::nowhere(),
            gate: Gate::new(is_limited),
            counts: Counts::default(),
        }
    }

    /// Spares the source's clients for as long as it is polled, which is for ever.
    pub async fn govern(&self) {
        let (source, from) = &self.source;
        let watch = async || {
            let reader = Reader::open(source, *from, &self.door).await?;
            Ok(PostgresWatch { reader, stream: &self.stream })
        };
        self.gate.govern(watch).await;
    }

    /// Sessions for one worker, opened when clients can bear it: a server makes a process for each, and
    /// proves a password.
    async fn open_sparing(&self) -> Result<Pair, Trouble> {
        let _pass = self.gate.enter().await;
        self.open().await
    }

    pub async fn open(&self) -> Result<Pair, Trouble> {
        let ((source, from), (target, to)) = (&self.source, &self.target);
        let (source, target) = tokio::try_join!(
            Reader::open(source, *from, &self.door),
            Reader::open(target, *to, &self.door),
        )?;
        Ok(Pair { source, target, rounded: false })
    }
}

/// A worker's sessions.
pub(super) struct Pair {
    pub source: Reader,
    pub target: Reader,
    rounded: bool,
}

impl Pair {
    pub async fn set_for(&mut self, table: &TablePlan) -> Result<(), Trouble> {
        if self.rounded != table.is_rounded {
            let settings = table.settings();
            tokio::try_join!(self.source.sets(&settings), self.target.sets(&settings))?;
            self.rounded = table.is_rounded;
        }
        Ok(())
    }
}

/// A table and what is known of it so far.
pub(super) struct Bench {
    pub plan: TablePlan,
    pub report: Mutex<TableReport>,
    /// What was done before a restart, in the order of keys.
    before: Vec<FinishedChunk>,
    /// All rows that differ, as far as they were looked at: for a repair.
    pub found: Mutex<Vec<RowDifference>>,
    /// Rows of a chunk while clients are spared.
    stride: Stride,
    began: Mutex<Option<Instant>>,
    /// Chunks that were dealt and are not done; and one for the dealer.
    open: AtomicU64,
}

impl Bench {
    pub fn new(plan: TablePlan, mut before: Vec<FinishedChunk>) -> Self {
        before.sort_by_key(|chunk| chunk.number);
        let report = TableReport {
            table: plan.name.to_string(),
            key: plan.key.iter().map(|column| column.name.clone()).collect(),
            limits: plan.limits.clone(),
            left_out: plan.left_out.clone(),
            predicate: plan.restriction.as_ref().map(|restriction| restriction.said.clone()),
            ..TableReport::default()
        };
        let report = Mutex::new(report);
        let found = Mutex::default();
        let (stride, began) = (Stride::default(), Mutex::new(None));
        Self { plan, report, found, before, stride, began, open: AtomicU64::new(1) }
    }

    /// A statement that has read so many rows took so long, while clients were spared.
    pub fn took(&self, rows: u64, took: Option<Duration>) {
        if let Some(took) = took {
            self.stride.took(rows, took);
        }
    }

    async fn is_given_up(&self) -> bool {
        let report = self.report.lock().await;
        report.error.is_some() || report.cut_short
    }

    async fn failed(&self, trouble: &Trouble) {
        self.report.lock().await.error.get_or_insert_with(|| trouble.to_string());
    }

    async fn left(&self, shop: &Shop) {
        if self.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            let began = *self.began.lock().await;
            let seconds = began.map_or(0.0, |began| began.elapsed().as_secs_f64());
            self.report.lock().await.seconds = seconds;
            shop.counts.tables_done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A chunk that was done before a restart.
    async fn restore(&self, chunk: FinishedChunk, shop: &Shop) {
        let rows = chunk.rows;
        shop.counts.rows_before.fetch_add(rows, Ordering::Relaxed);
        let mut report = self.report.lock().await;
        report.rows_before += rows;
        report.chunks_before += 1;
        drop(report);
        let FinishedChunk { rechecked, in_motion, differences, .. } = chunk;
        let settled = Settled { differences, in_motion, unsettled: 0 };
        self.take(Compared { rows, rechecked, settled }, shop).await;
    }

    pub async fn take(&self, compared: Compared, shop: &Shop) {
        shop.counts.add(&compared);
        self.found.lock().await.extend(compared.settled.differences.iter().cloned());
        report(&mut *self.report.lock().await, compared);
    }
}

/// Rows of which the bounds are looked for at a time while clients are spared. Only their keys are read.
const BOUNDS_ROWS: i64 = 2_000;

/// A chunk of a table; `None`: all of a table without a key.
type Task = (Arc<Bench>, Option<Range>);

/// Compares all tables on `workers` pairs of connections, and one more that finds the chunks.
pub(super) async fn all(
    shop: Arc<Shop>,
    benches: Vec<Arc<Bench>>,
    workers: u32,
) -> Result<(), Trouble> {
    let (tasks, queue) = mpsc::channel::<Task>(workers as usize * 2);
    let queue = Arc::new(Mutex::new(queue));
    let mut set = tokio::task::JoinSet::new();
    set.spawn(deal(Arc::clone(&shop), benches, tasks));
    for _ in 0..workers {
        set.spawn(work(Arc::clone(&shop), Arc::clone(&queue)));
    }
    // Dropping the set, also when this is dropped, ends all of them.
    while let Some(ended) = set.join_next().await {
        ended.map_err(|error| Trouble::new("verification", error.to_string()))??;
    }
    Ok(())
}

async fn work(shop: Arc<Shop>, queue: Arc<Mutex<mpsc::Receiver<Task>>>) -> Result<(), Trouble> {
    let mut pair = None;
    loop {
        let task = queue.lock().await.recv().await;
        let Some((bench, range)) = task else { return Ok(()) };
        if !bench.is_given_up().await {
            bench.began.lock().await.get_or_insert_with(Instant::now);
            let compared = retried(&shop, &mut pair, &bench, range.as_ref()).await;
            match compared {
                Ok(compared) => {
                    let rows = compared.rows;
                    shop.memory.keep(&bench.plan, range.as_ref(), &compared).await;
                    bench.take(compared, &shop).await;
                    shop.pace.pay(rows).await;
                }
                Err(trouble) => {
                    // A statement of one side may still run, and its cancel be on the way.
                    pair = None;
                    bench.failed(&trouble).await;
                }
            }
        }
        bench.left(&shop).await;
    }
}

/// A chunk, again while a server is away or the stream is behind.
async fn retried(
    shop: &Shop,
    pair: &mut Option<Pair>,
    bench: &Bench,
    range: Option<&Range>,
) -> Result<Compared, Trouble> {
    let mut pause = TRY_PAUSE;
    for _ in 1..TRIES {
        match once(shop, pair, bench, range).await {
            Err(trouble) if trouble.is_transient => {
                *pair = None;
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            ended => return ended,
        }
    }
    once(shop, pair, bench, range).await
}

async fn once(
    shop: &Shop,
    pair: &mut Option<Pair>,
    bench: &Bench,
    range: Option<&Range>,
) -> Result<Compared, Trouble> {
    let pair = match pair {
        Some(pair) => pair,
        None => pair.insert(shop.open_sparing().await?),
    };
    let plan = &bench.plan;
    pair.set_for(plan).await?;
    let enough = ENOUGH as usize;
    match range {
        Some(range) => compare::range(shop, pair, bench, range, enough).await,
        None => compare::multiset(shop, pair, plan, enough).await,
    }
}

/// Finds the chunks of one table after the other.
async fn deal(
    shop: Arc<Shop>,
    benches: Vec<Arc<Bench>>,
    tasks: mpsc::Sender<Task>,
) -> Result<(), Trouble> {
    let mut pair = None;
    for bench in benches {
        let dealt = deal_one(&shop, &mut pair, &bench, &tasks).await;
        if let Err(trouble) = dealt {
            bench.failed(&trouble).await;
            pair = None;
        }
        bench.left(&shop).await;
    }
    Ok(())
}

async fn deal_one(
    shop: &Shop,
    pair: &mut Option<Pair>,
    bench: &Arc<Bench>,
    tasks: &mpsc::Sender<Task>,
) -> Result<(), Trouble> {
    let mut before = bench.before.iter().cloned().peekable();
    if bench.plan.key.is_empty() {
        bench.report.lock().await.chunks_in_all = 1;
        match before.next() {
            Some(done) => bench.restore(done, shop).await,
            None => give(bench, None, tasks).await?,
        }
        return Ok(());
    }
    let sample = shop
        .sample
        .map(|(percent, seed)| (percent, sample::seed_of(seed, &bench.plan.name.to_string())));
    let mut lo: Option<Vec<String>> = None;
    let mut number = 0;
    let mut ahead = VecDeque::new();
    while !bench.is_given_up().await {
        if let Some(next) = before.peek() {
            bench.report.lock().await.chunks_in_all += 1;
            if lo == next.lo {
                let Some(done) = before.next() else { return Ok(()) };
                (lo, number) = (done.hi.clone(), done.number + 1);
                bench.restore(done, shop).await;
                if lo.is_none() {
                    return Ok(());
                }
            } else {
                // What was under way when it was interrupted; as many chunks as there were workers
                // at most.
                let range = Range { number, lo, hi: next.lo.clone() };
                (lo, number) = (next.lo.clone(), next.number);
                give(bench, Some(range), tasks).await?;
            }
            continue;
        }
        if ahead.is_empty() {
            ahead = bounds(shop, pair, bench, lo.as_ref()).await?;
        }
        let hi = ahead.pop_front();
        bench.report.lock().await.chunks_in_all += 1;
        let range = Range { number, lo, hi: hi.clone() };
        if sample.is_none_or(|(percent, seed)| sample::takes(seed, number, percent)) {
            give(bench, Some(range), tasks).await?;
        }
        let Some(hi) = hi else { return Ok(()) };
        lo = Some(hi);
        number += 1;
    }
    Ok(())
}

async fn give(
    bench: &Arc<Bench>,
    range: Option<Range>,
    tasks: &mpsc::Sender<Task>,
) -> Result<(), Trouble> {
    bench.open.fetch_add(1, Ordering::SeqCst);
    let given = tasks.send((Arc::clone(bench), range)).await;
    given.map_err(|_| Trouble::new("verification", "no worker is left"))
}

/// Where the next chunks from `lo` on end; nothing: the next one ends nowhere.
async fn bounds(
    shop: &Shop,
    pair: &mut Option<Pair>,
    bench: &Bench,
    lo: Option<&Vec<String>>,
) -> Result<VecDeque<Vec<String>>, Trouble> {
    let plan = &bench.plan;
    if pair.is_none() {
        *pair = Some(shop.open_sparing().await?);
    }
    let pass = shop.gate.enter().await;
    // The chunks of a sample are of one size.
    let cut = match pass.is_sparing() && shop.sample.is_none() {
        true => {
            let rows = bench.stride.rows(plan.chunk_rows);
            Cut { rows, chunks: (BOUNDS_ROWS / rows).max(1) }
        }
        false => Cut { rows: plan.chunk_rows, chunks: 1 },
    };
    // Whether bounds come in order is asked of both sides, for each.
    let cut = Cut { chunks: if plan.order_differs { 1 } else { cut.chunks }, ..cut };
    let mut skipped = 0;
    let mut pause = TRY_PAUSE;
    let mut tries = 1;
    loop {
        match try_bounds(shop, pair, plan, lo, &cut, skipped).await {
            Ok(Bounds::At(bounds)) => return Ok(bounds),
            Ok(Bounds::Unordered) => skipped += cut.rows,
            Err(trouble) if trouble.is_transient && tries < TRIES => {
                *pair = None;
                tokio::time::sleep(pause).await;
                (pause, tries) = (pause * 2, tries + 1);
            }
            Err(trouble) => return Err(trouble),
        }
    }
}

enum Bounds {
    At(VecDeque<Vec<String>>),
    Unordered,
}

/// Ranges have to partition the keys on both sides, each by its own order. A bound that is not
/// behind the last one on a side (another collation) is passed over.
async fn try_bounds(
    shop: &Shop,
    pair: &mut Option<Pair>,
    plan: &TablePlan,
    lo: Option<&Vec<String>>,
    cut: &Cut,
    skipped: i64,
) -> Result<Bounds, Trouble> {
    let pair = match pair {
        Some(pair) => pair,
        None => pair.insert(shop.open().await?),
    };
    pair.set_for(plan).await?;
    let sql = match cut.chunks {
        1 => plan.bound_sql(lo, cut.rows + skipped),
        _ => plan.bounds_sql(lo, cut),
    };
    let found = pair.source.rows(&sql).await?;
    let side = pair.source.side;
    let key = |row: TextRow| {
        let key: Option<Vec<String>> = row.into_iter().collect();
        key.ok_or_else(|| Trouble::unexpected(side, "a key with NULL"))
    };
    let bounds = found.into_iter().map(key).collect::<Result<VecDeque<_>, _>>()?;
    if let (Some(lo), Some(hi), true) = (lo, bounds.front(), plan.order_differs) {
        let [here, there] = [false, true].map(|target| plan.is_behind_sql(lo, hi, target));
        let (here, there) = tokio::try_join!(pair.source.rows(&here), pair.target.rows(&there))?;
        let is_behind = |rows: &[TextRow]| {
            rows.first().is_some_and(|row| row.first() == Some(&Some("t".into())))
        };
        if !is_behind(&here) || !is_behind(&there) {
            return Ok(Bounds::Unordered);
        }
    }
    Ok(Bounds::At(bounds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eta(counts: &Counts, estimated: u64, seconds: f64) -> Option<f64> {
        counts.progress(2, estimated, 1.0, seconds).eta_seconds
    }

    #[test]
    fn the_end_is_in_sight_only_where_the_number_of_rows_is_known() {
        let counts = Counts::default();
        assert_eq!(eta(&counts, 1_000, 1.0), None, "nothing was read yet");
        counts.rows.store(100, Ordering::Relaxed);
        assert_eq!(eta(&counts, 1_000, 10.0), Some(90.0));
        // What was read before a restart says nothing about how fast it is.
        counts.rows_before.store(50, Ordering::Relaxed);
        assert_eq!(eta(&counts, 1_000, 10.0), Some(180.0));
        assert_eq!(eta(&counts, 0, 10.0), None, "tables that nobody has analyzed");
        counts.tables_done.store(2, Ordering::Relaxed);
        assert_eq!(eta(&counts, 0, 10.0), Some(0.0));
    }
}
