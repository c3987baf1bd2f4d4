//! What the workers count, and the rates that follow from it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use decoders::postgres::chunks::TablePlan;
use tokio::sync::watch;

use super::progress::{BackfillProgress, Phase, TableProgress, TableState, Total};
use super::run::Run;

/// Rates look back this far.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// One table's counters; written by workers, read by the publisher.
#[derive(Debug)]
pub(super) struct TableCounters {
    pub plan: TablePlan,
    pub rows: AtomicU64,
    pub bytes: AtomicU64,
    pub chunks_begun: AtomicUsize,
    pub chunks_done: AtomicUsize,
    /// Chunks that are being read, each under its lock.
    pub chunks_locked: AtomicUsize,
    /// How often somebody who waited for the table was let in before a chunk of it was read.
    pub yields: watch::Sender<u32>,
    /// Its rows have to come from a later snapshot.
    pub is_left: AtomicBool,
    busy_since: Mutex<Option<Instant>>,
}

impl TableCounters {
    pub(super) fn new(plan: TablePlan) -> Self {
        Self {
            plan,
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            chunks_begun: AtomicUsize::new(0),
            chunks_done: AtomicUsize::new(0),
            chunks_locked: AtomicUsize::new(0),
            yields: watch::Sender::new(0),
            is_left: AtomicBool::new(false),
            busy_since: Mutex::new(None),
        }
    }

    /// Its lock could be had, or could not. Since when it can't is in the answer.
    pub(super) fn is_busy(&self, is_busy: bool) -> Option<Instant> {
        let mut since = self.busy_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = is_busy.then(|| since.unwrap_or_else(Instant::now));
        *since
    }

    /// Since when its lock can't be had.
    pub(super) fn busy_since(&self) -> Option<Instant> {
        *self.busy_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its rows come from a later snapshot.
    pub(super) fn leave(&self, why: &str) {
        if !self.is_left.swap(true, Ordering::AcqRel) {
            tracing::info!(table = %self.plan.name, why, "this table is copied from a later snapshot");
        }
        self.is_busy(false);
    }

    /// Whether all its rows are on green.
    pub(super) fn is_copied(&self) -> bool {
        self.state() == TableState::Copied && !self.is_left.load(Ordering::Acquire)
    }

    fn state(&self) -> TableState {
        if self.chunks_done.load(Ordering::Acquire) >= self.plan.chunks.len() {
            TableState::Copied
        } else if self.chunks_begun.load(Ordering::Acquire) > 0 {
            TableState::Copying
        } else {
            TableState::Waiting
        }
    }
}

/// Counts at moments, newest last.
#[derive(Debug, Default)]
pub(super) struct Window(VecDeque<(Instant, u64)>);

impl Window {
    /// Per second over the window, after adding what the count is now.
    pub(super) fn rate(&mut self, now: Instant, count: u64) -> u64 {
        self.0.push_back((now, count));
        while self.0.len() > 2 && self.0.get(1).is_some_and(|(at, _)| now - *at >= RATE_WINDOW) {
            self.0.pop_front();
        }
        match self.0.front() {
            Some((since, before)) if now > *since => {
                let per_s = count.saturating_sub(*before) as f64 / (now - *since).as_secs_f64();
                per_s as u64
            }
            _ => 0,
        }
    }
}

/// Turns counters into progress.
#[derive(Debug)]
pub(super) struct Meter {
    run: Arc<Run>,
    windows: Vec<Window>,
    rows: Window,
    bytes: Window,
}

impl Meter {
    pub(super) fn new(run: Arc<Run>) -> Self {
        let windows = run.tables.iter().map(|_| Window::default()).collect();
        Self { run, windows, rows: Window::default(), bytes: Window::default() }
    }

    /// Progress as of now.
    pub(super) fn publish(&mut self, progress: &mut BackfillProgress, now: Instant) {
        let mut total = Total { tables: self.run.tables.len(), ..Total::default() };
        let mut tables = Vec::with_capacity(self.run.tables.len());
        for (counters, window) in self.run.tables.iter().zip(&mut self.windows) {
            let table = measure(counters, window, now);
            total.tables_copied += usize::from(table.state == TableState::Copied);
            total.rows_copied += table.rows_copied;
            total.bytes_copied += table.bytes_copied;
            total.rows_estimated += table.rows_estimated.unwrap_or(table.rows_copied);
            total.bytes_estimated += table.bytes_estimated;
            tables.push(table);
        }
        total.rows_per_s = self.rows.rate(now, total.rows_copied);
        total.bytes_per_s = self.bytes.rate(now, total.bytes_copied);
        let left = total.bytes_estimated.saturating_sub(total.bytes_copied);
        total.eta_s = eta(left, total.bytes_per_s);
        progress.phase = Phase::Copying;
        progress.waiting_for = self.run.waiting_for();
        progress.tables = Arc::new(tables);
        progress.total = total;
    }
}

fn measure(counters: &TableCounters, window: &mut Window, now: Instant) -> TableProgress {
    let state = counters.state();
    let rows_copied = counters.rows.load(Ordering::Relaxed);
    let bytes_copied = counters.bytes.load(Ordering::Relaxed);
    // A finished table corrects its estimates, so that the total converges.
    let is_copied = state == TableState::Copied;
    let bytes_estimated =
        if is_copied { bytes_copied } else { counters.plan.bytes_on_disk.max(bytes_copied) };
    let rows_estimated = if is_copied {
        Some(rows_copied)
    } else {
        counters.plan.rows_estimated.map(|rows| rows.max(rows_copied))
    };
    let bytes_per_s = if state == TableState::Copying { window.rate(now, bytes_copied) } else { 0 };
    TableProgress {
        table: counters.plan.name.clone(),
        state,
        rows_estimated,
        rows_copied,
        bytes_estimated,
        bytes_copied,
        bytes_per_s,
        eta_s: eta(bytes_estimated - bytes_copied, bytes_per_s),
    }
}

pub(super) fn eta(left: u64, per_s: u64) -> Option<u64> {
    if left == 0 { Some(0) } else { left.checked_div(per_s) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_look_back_ten_seconds_only() {
        let mut window = Window::default();
        let start = Instant::now();
        assert_eq!(window.rate(start, 0), 0);
        assert_eq!(window.rate(start + Duration::from_secs(1), 1_000), 1_000);
        for second in 2..=12 {
            window.rate(start + Duration::from_secs(second), 1_000);
        }
        assert_eq!(window.rate(start + Duration::from_secs(13), 1_000), 0, "stalled");
    }

    #[test]
    fn nothing_left_is_now_and_no_rate_is_unknown() {
        assert_eq!(eta(0, 0), Some(0));
        assert_eq!(eta(10, 0), None);
        assert_eq!(eta(10, 5), Some(2));
    }
}
