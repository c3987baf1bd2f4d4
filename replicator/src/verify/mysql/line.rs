//! The chunks of all tables, one after the other, over all slices.
//!
//! A chunk ends at a key that the source chose in whatever snapshot it was asked in. Chunks meet without a
//! gap all the same: each begins behind the bound at which the last one ended, and every row is in the
//! chunk that its key falls into, in the order of both sides. So a snapshot may end between two chunks.

use std::iter::Peekable;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::vec::IntoIter;

use cutover::verify::{RowDifference, TableReport, sample};
use tokio::sync::Mutex;

use super::plan::{Chunk, TablePlan};
use super::side::Reader;
use crate::backfill::mysql::Range;
use crate::schema::mysql::qualified;
use crate::store::FinishedChunk;
use crate::verify::Trouble;
use crate::verify::compare::Compared;
use crate::verify::settle::Settled;
use crate::verify::work::{self, Counts};

/// A table and what is known of it so far.
pub(super) struct Bench {
    pub plan: TablePlan,
    pub report: Mutex<TableReport>,
    /// All differences that were found, of which the report shows the first.
    pub found: Mutex<Vec<RowDifference>>,
}

impl Bench {
    pub fn new(plan: TablePlan, error: Option<String>) -> Self {
        let report = TableReport {
            table: qualified(&plan.name),
            key: plan.key().iter().map(|column| column.name.clone()).collect(),
            limits: plan.limits.clone(),
            left_out: plan.left_out.clone(),
            predicate: plan.restriction.as_ref().map(|restriction| restriction.said.clone()),
            error,
            ..TableReport::default()
        };
        Self { plan, report: Mutex::new(report), found: Mutex::default() }
    }

    pub async fn is_given_up(&self) -> bool {
        let report = self.report.lock().await;
        report.error.is_some() || report.cut_short
    }

    pub async fn failed(&self, what: impl ToString) {
        self.report.lock().await.error.get_or_insert_with(|| what.to_string());
    }

    pub async fn take(&self, compared: Compared, counts: &Counts, seconds: f64) {
        counts.add(&compared);
        self.found.lock().await.extend(compared.settled.differences.iter().cloned());
        let mut report = self.report.lock().await;
        work::report(&mut report, compared);
        report.seconds += seconds;
    }

    /// A chunk that was done before a restart.
    async fn restore(&self, chunk: FinishedChunk, counts: &Counts) {
        counts.rows_before.fetch_add(chunk.rows, Ordering::Relaxed);
        let mut report = self.report.lock().await;
        report.rows_before += chunk.rows;
        report.chunks_before += 1;
        drop(report);
        let FinishedChunk { rows, rechecked, in_motion, differences, .. } = chunk;
        let settled = Settled { differences, in_motion, unsettled: 0 };
        self.take(Compared { rows, rechecked, settled }, counts, 0.0).await;
    }
}

/// A chunk of a table that somebody compares.
pub(super) type Task = (Arc<Bench>, Chunk);

/// What there is to do.
pub(super) enum Next {
    Task(Task),
    /// This time nothing; there is more.
    Nothing,
    /// Everything is given out.
    End,
}

/// All chunks in order.
pub(super) struct Line {
    /// Percent of the chunks, and the seed.
    sample: Option<(f64, u64)>,
    benches: IntoIter<Arc<Bench>>,
    before: Vec<FinishedChunk>,
    current: Option<Current>,
    /// Chunks whose comparison broke off.
    returned: Vec<Task>,
}

/// The table that is being cut.
struct Current {
    bench: Arc<Bench>,
    before: Peekable<IntoIter<FinishedChunk>>,
    number: u64,
    above: Option<Vec<String>>,
    seed: u64,
}

impl Line {
    pub fn new(
        benches: Vec<Arc<Bench>>,
        before: Vec<FinishedChunk>,
        sample: Option<(f64, u64)>,
    ) -> Self {
        let benches = benches.into_iter();
        Self { sample, benches, before, current: None, returned: Vec::new() }
    }

    /// Whether every chunk has been given out.
    pub fn is_empty(&self) -> bool {
        self.current.is_none() && self.benches.len() == 0 && self.returned.is_empty()
    }

    /// A chunk whose comparison broke off.
    pub fn give_back(&mut self, task: Task) {
        self.returned.push(task);
    }

    /// What comes next. It asks the source at most once.
    ///
    /// # Errors
    /// The source does not answer. What it refuses about a table is in the table's report.
    pub async fn next(&mut self, source: &mut Reader, counts: &Counts) -> Result<Next, Trouble> {
        if let Some(task) = self.returned.pop() {
            return Ok(Next::Task(task));
        }
        let Some(current) = &mut self.current else {
            let Some(bench) = self.benches.next() else { return Ok(Next::End) };
            self.current = Some(self.begin(bench));
            return Ok(Next::Nothing);
        };
        let bench = Arc::clone(&current.bench);
        if bench.is_given_up().await {
            self.leave(counts);
            return Ok(Next::Nothing);
        }
        let chunk =
            match current.next(source, counts, self.sample.map(|(percent, _)| percent)).await {
                Ok(Step::Taken(chunk)) => Some(chunk),
                Ok(Step::Last(chunk)) => {
                    self.leave(counts);
                    chunk
                }
                Ok(Step::Passed) => None,
                Err(trouble) if trouble.is_transient => return Err(trouble),
                Err(trouble) => {
                    bench.failed(trouble).await;
                    None
                }
            };
        Ok(chunk.map_or(Next::Nothing, |chunk| Next::Task((bench, chunk))))
    }

    fn leave(&mut self, counts: &Counts) {
        self.current = None;
        counts.tables_done.fetch_add(1, Ordering::Relaxed);
    }

    fn begin(&mut self, bench: Arc<Bench>) -> Current {
        let (name, plan) = (bench.plan.name.to_string(), bench.plan.fingerprint());
        let of_it = |done: &FinishedChunk| done.table == name && done.plan == plan;
        let mut before: Vec<_> = self.before.iter().filter(|done| of_it(done)).cloned().collect();
        before.sort_by_key(|done| done.number);
        let seed = self.sample.map_or(0, |(_, seed)| sample::seed_of(seed, &name));
        Current { bench, before: before.into_iter().peekable(), number: 0, above: None, seed }
    }
}

/// What there was.
enum Step {
    Taken(Chunk),
    /// The last one; `None`: it is not compared (again).
    Last(Option<Chunk>),
    /// One that is not compared (again).
    Passed,
}

impl Current {
    async fn next(
        &mut self,
        source: &mut Reader,
        counts: &Counts,
        sample: Option<f64>,
    ) -> Result<Step, Trouble> {
        let bench = Arc::clone(&self.bench);
        let plan = &bench.plan;
        let Some(cut) = &plan.cut else {
            bench.report.lock().await.chunks_in_all = 1;
            return Ok(match self.before.next() {
                Some(done) => {
                    bench.restore(done, counts).await;
                    Step::Last(None)
                }
                None => Step::Last(Some(Chunk { number: 0, range: None })),
            });
        };
        if let Some(next) = self.before.peek() {
            let number = self.number;
            bench.report.lock().await.chunks_in_all += 1;
            if self.above != next.lo {
                // What was under way when it was interrupted.
                let range = Range { above: self.above.take(), up_to: next.lo.clone() };
                (self.above, self.number) = (next.lo.clone(), next.number);
                return Ok(Step::Taken(Chunk { number, range: Some(range) }));
            }
            let Some(done) = self.before.next() else { return Ok(Step::Passed) };
            (self.above, self.number) = (done.hi.clone(), done.number + 1);
            bench.restore(done, counts).await;
            return Ok(if self.above.is_none() { Step::Last(None) } else { Step::Passed });
        }
        let above = self.above.as_ref();
        let bound = cut.next_bound(&mut source.conn, &plan.info, above, plan.chunk_rows).await;
        let bound = bound.map_err(|error| Trouble::of(source.side, error))?;
        bench.report.lock().await.chunks_in_all += 1;
        let range = Range { above: self.above.take(), up_to: bound.clone() };
        let chunk = Chunk { number: self.number, range: Some(range) };
        let is_taken = sample.is_none_or(|percent| sample::takes(self.seed, chunk.number, percent));
        (self.above, self.number) = (bound, self.number + 1);
        Ok(match (self.above.is_some(), is_taken) {
            (true, true) => Step::Taken(chunk),
            (true, false) => Step::Passed,
            (false, is_taken) => Step::Last(is_taken.then_some(chunk)),
        })
    }
}
