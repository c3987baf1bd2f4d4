//! What the workers count, as progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use decoders::mysql::catalog::TableInfo;

use super::marks::Mark;
use crate::backfill::counters::{Window, eta};
use crate::backfill::progress::{BackfillProgress, Phase, TableProgress, TableState, Total};

/// One table's counters; written by workers, read by the publisher.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub rows: AtomicU64,
    pub bytes: AtomicU64,
    chunks_found: AtomicUsize,
    chunks_done: AtomicUsize,
    is_cut: AtomicBool,
}

impl Counters {
    /// A chunk is known; one that is done counts with its rows.
    pub(super) fn found(&self, mark: &Mark) {
        self.chunks_found.fetch_add(1, Ordering::Relaxed);
        if mark.is_done {
            self.done(mark.rows, mark.bytes);
        }
    }

    /// A chunk is on green.
    pub(super) fn done(&self, rows: u64, bytes: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.chunks_done.fetch_add(1, Ordering::Release);
    }

    /// All chunks are known.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
    }

    fn state(&self) -> TableState {
        let found = self.chunks_found.load(Ordering::Relaxed);
        if self.is_cut.load(Ordering::Acquire) && self.chunks_done.load(Ordering::Acquire) >= found
        {
            TableState::Copied
        } else if found > 0 {
            TableState::Copying
        } else {
            TableState::Waiting
        }
    }
}

/// Turns counters into progress.
#[derive(Debug)]
pub(super) struct Meter {
    windows: Vec<Window>,
    rows: Window,
    bytes: Window,
}

impl Meter {
    pub(super) fn new(tables: usize) -> Self {
        let windows = (0..tables).map(|_| Window::default()).collect();
        Self { windows, rows: Window::default(), bytes: Window::default() }
    }

    /// Progress as of now.
    pub(super) fn publish(
        &mut self,
        progress: &mut BackfillProgress,
        tables: &[(TableInfo, Counters)],
        now: Instant,
    ) {
        let mut total = Total { tables: tables.len(), ..Total::default() };
        let mut shown = Vec::with_capacity(tables.len());
        for ((table, counters), window) in tables.iter().zip(&mut self.windows) {
            let table = measure(table, counters, window, now);
            total.tables_copied += usize::from(table.state == TableState::Copied);
            total.rows_copied += table.rows_copied;
            total.bytes_copied += table.bytes_copied;
            total.rows_estimated += table.rows_estimated.unwrap_or(table.rows_copied);
            total.bytes_estimated += table.bytes_estimated;
            shown.push(table);
        }
        total.rows_per_s = self.rows.rate(now, total.rows_copied);
        total.bytes_per_s = self.bytes.rate(now, total.bytes_copied);
        let left = total.bytes_estimated.saturating_sub(total.bytes_copied);
        total.eta_s = eta(left, total.bytes_per_s);
        progress.phase = Phase::Copying;
        progress.tables = Arc::new(shown);
        progress.total = total;
    }
}

fn measure(
    table: &TableInfo,
    counters: &Counters,
    window: &mut Window,
    now: Instant,
) -> TableProgress {
    let state = counters.state();
    let rows_copied = counters.rows.load(Ordering::Relaxed);
    let bytes_copied = counters.bytes.load(Ordering::Relaxed);
    // A finished table corrects its estimates, so that the total converges.
    let is_copied = state == TableState::Copied;
    let estimated =
        |estimate: u64, copied: u64| if is_copied { copied } else { estimate.max(copied) };
    let bytes_estimated = estimated(table.bytes, bytes_copied);
    let bytes_per_s = if state == TableState::Copying { window.rate(now, bytes_copied) } else { 0 };
    TableProgress {
        table: table.name.clone(),
        state,
        rows_estimated: match (is_copied, table.estimated_rows) {
            (false, None) => None,
            (_, rows) => Some(estimated(rows.unwrap_or(0), rows_copied)),
        },
        rows_copied,
        bytes_estimated,
        bytes_copied,
        bytes_per_s,
        eta_s: eta(bytes_estimated - bytes_copied, bytes_per_s),
    }
}
