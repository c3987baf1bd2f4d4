//! A verification that goes on.
//!
//! The stream notes the key of every row that it writes ([`Touched`]) from before the comparison of
//! everything begins. So whatever that comparison has proven stays proven but for those rows; and
//! those are looked at again, oldest table first, by the same rules ([`super::settle`]). A look
//! begins behind the note, and waits until the stream has applied what blue shows: what it proves is
//! at least the version that was noted.
//!
//! A row is taken off the list only by a look that has come to a ruling, or because the source's row
//! was seen to be written during the look: then its next note is on the way. What could not be
//! settled goes back with its age. A table that is *dirty* is compared as a whole.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cutover::Side;
use cutover::verify::continuous::{ContinuousStatus, DirtyTable};
use cutover::verify::{Known, Mode, RowDifference, VerifyRequest};
use decoders::QualifiedName;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::compare::Compared;
use super::reader::Trouble;
use super::settle::{Settled, Suspects, settle_within};
use super::turning::{Turn, Turning};
use super::work::{self, Bench, Pair, Shop};
use super::{flag, known};
use crate::engine::touched::{Next, Touched, Watched};

/// Between two looks, where there is nothing left to look at.
const REST: Duration = Duration::from_millis(200);
/// After a trouble.
const TROUBLE_PAUSE: Duration = Duration::from_secs(2);
/// Rows of one settling: what could not be settled goes back together.
const STEP_ROWS: usize = 200;
/// How long a row may take to be caught at rest; one that is written that often is noted again.
const SETTLE: Duration = Duration::from_secs(1);
/// Differences after which nothing is looked at any more.
const ENOUGH: usize = 10_000;
/// Connections for a table that has to be compared again.
const WORKERS: u32 = 1;

/// Rows that were found to differ, since all that was found before was put right.
#[derive(Default)]
struct Found {
    /// Table and key, or content: a row that is looked at again stays one.
    rows: HashSet<(String, Vec<String>, Option<String>)>,
    last: Option<Timestamp>,
}

/// A verification that goes on.
pub(super) struct Continuous {
    id: String,
    mode: Mode,
    is_whole: bool,
    /// Clients of the source are spared.
    is_limited: bool,
    source: Side,
    turning: Arc<Turning>,
    touched: Arc<Touched>,
    is_proven: AtomicBool,
    rechecked: AtomicU64,
    found: Mutex<Found>,
    trouble: Mutex<Option<String>>,
    /// When everything began to be compared.
    compared: Instant,
    stop: watch::Sender<bool>,
}

impl Continuous {
    /// Begins to note what the stream writes to these tables. What is compared after this is proven
    /// for as long as it is not noted.
    pub fn begin(
        id: &str,
        request: &VerifyRequest,
        turning: Arc<Turning>,
        shop: &Shop,
        benches: &[Arc<Bench>],
    ) -> Self {
        let touched = Arc::clone(&shop.stream.shared.touched);
        let watched = benches.iter().map(|bench| Watched {
            name: bench.plan.name.clone(),
            key: bench.plan.key.iter().map(|column| column.name.clone()).collect(),
            columns: bench.plan.columns.clone(),
        });
        touched.watch(watched, request.is_whole());
        Self {
            id: id.to_owned(),
            mode: request.mode,
            is_whole: request.is_whole(),
            is_limited: !request.unlimited,
            source: shop.source.1,
            turning,
            touched,
            is_proven: AtomicBool::new(false),
            rechecked: AtomicU64::new(0),
            found: Mutex::default(),
            trouble: Mutex::default(),
            compared: Instant::now(),
            stop: flag(),
        }
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The side that is taken as right.
    pub fn source(&self) -> Side {
        self.source
    }

    /// Whether it has found rows that differ, and nothing has shown since that they do no more.
    pub fn differs(&self) -> bool {
        !self.found().rows.is_empty()
    }

    /// A verification of everything that began at `began` has found both sides equal.
    pub fn put_right(&self, began: Timestamp) {
        let mut found = self.found();
        if found.last.is_some_and(|last| last < began) {
            *found = Found::default();
        }
    }

    /// Ends it; what it knew is forgotten.
    pub fn stop(&self) {
        self.stop.send_replace(true);
        self.touched.forget();
    }

    /// Whether it still goes on.
    pub fn goes_on(&self) -> bool {
        !*self.stop.borrow()
    }

    /// As it is now.
    pub fn status(&self) -> ContinuousStatus {
        let unproven = self.touched.unproven();
        let now = Instant::now();
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs_f64();
        ContinuousStatus {
            id: self.id.clone(),
            source: self.source,
            is_proven: self.is_proven.load(Ordering::Acquire),
            unproven_rows: unproven.rows as u64,
            oldest_seconds: unproven.oldest.map(seconds),
            dirty: unproven
                .dirty
                .into_iter()
                .map(|(table, dirty)| DirtyTable {
                    table: table.to_string(),
                    why: dirty.why.to_owned(),
                    seconds: seconds(dirty.since),
                })
                .collect(),
            compared_seconds: seconds(self.compared),
            lag_seconds: self.turning.shared.lag_now().seconds,
            void: unproven.void.map(str::to_owned),
            rechecked: self.rechecked.load(Ordering::Relaxed),
            differences: self.found().rows.len() as u64,
            trouble: self.trouble().clone(),
        }
    }

    /// What it is worth for the gate now.
    pub fn known(&self) -> Option<Known> {
        let status = self.status();
        status.known(self.mode, self.is_whole, jiff::Timestamp::now())
    }

    /// Looks until it is stopped. Everything has been compared, and was equal.
    pub async fn go_on(self: Arc<Self>, shop: Arc<Shop>, benches: Vec<Arc<Bench>>) {
        self.is_proven.store(true, Ordering::Release);
        tracing::info!(id = self.id, "rows that change are looked at again from now on");
        let shop = Arc::new(shop.again(self.is_limited));
        let mut stop = self.stop.subscribe();
        let looking = async {
            let mut pair = None;
            loop {
                let pause = match self.look(&shop, &benches, &mut pair).await {
                    Ok(true) => continue,
                    Ok(false) => {
                        *self.trouble() = None;
                        REST
                    }
                    // The words of a server may quote a value: they are in the answer only.
                    Err(trouble) => {
                        tracing::debug!(place = trouble.place, "rows can't be looked at again");
                        *self.trouble() = Some(trouble.to_string());
                        pair = None;
                        TROUBLE_PAUSE
                    }
                };
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = looking => {}
            () = shop.govern(), if self.is_limited => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        tracing::info!(id = self.id, "rows that change are not looked at any more");
    }

    /// One table's rows, or one table as a whole; false if there is nothing to do.
    async fn look(
        &self,
        shop: &Arc<Shop>,
        benches: &[Arc<Bench>],
        pair: &mut Option<Pair>,
    ) -> Result<bool, Trouble> {
        match self.turning.now()? {
            // The other side is right now.
            Turn::Turned => {
                self.stop();
                return Ok(false);
            }
            // A run that is aborted leaves everything as it was.
            Turn::Pausing => return Ok(false),
            Turn::None => {}
        }
        if self.found().rows.len() >= ENOUGH {
            return Ok(false);
        }
        let of = |table: &QualifiedName| benches.iter().find(|bench| bench.plan.name == *table);
        let (table, rows) = match self.touched.take() {
            None => return Ok(false),
            Some(Next::Rows(table, rows)) => (table, rows),
            Some(Next::Table(table, dirty)) => {
                let Some(bench) = of(&table) else { return Ok(false) };
                let compared = self.whole(shop, bench).await;
                match compared {
                    Ok(()) => self.touched.settle(&table, Vec::new()),
                    Err(_) => {
                        self.touched.soil(&table, dirty);
                        self.touched.postpone(&table);
                    }
                }
                return compared.map(|()| true);
            }
        };
        let Some(bench) = of(&table) else { return Ok(false) };
        let mut open = Vec::new();
        let mut rows = rows.into_iter();
        loop {
            let step: Vec<_> = rows.by_ref().take(STEP_ROWS).collect();
            if step.is_empty() {
                break;
            }
            let keys = step.iter().map(|(key, _)| key.clone()).collect();
            match self.step(shop, bench, pair, keys).await {
                Ok(true) => {}
                Ok(false) => open.extend(step),
                Err(trouble) => {
                    open.extend(step);
                    open.extend(rows);
                    self.touched.settle(&table, open);
                    self.touched.postpone(&table);
                    return Err(trouble);
                }
            }
        }
        let is_done = open.is_empty();
        self.touched.settle(&table, open);
        Ok(is_done)
    }

    /// Whether all of them are settled.
    async fn step(
        &self,
        shop: &Arc<Shop>,
        bench: &Arc<Bench>,
        pair: &mut Option<Pair>,
        keys: Vec<Vec<String>>,
    ) -> Result<bool, Trouble> {
        let pair = match pair {
            Some(pair) => pair,
            None => pair.insert(shop.open().await?),
        };
        pair.set_for(&bench.plan).await?;
        // Settling waits for the stream more than it reads: it is no reading that lasts.
        drop(shop.gate.enter().await);
        let rechecked = keys.len() as u64;
        let suspects = Suspects::Keys(keys);
        let mut settled = settle_within(SETTLE, shop, pair, &bench.plan, &suspects, ENOUGH).await?;
        // In and behind a pause clients write the other side: what was seen then is no difference.
        self.turning.check()?;
        let unsettled = settled.unsettled;
        self.rechecked.fetch_add(rechecked, Ordering::Relaxed);
        self.take_new(shop, bench, &mut settled).await?;
        bench.take(Compared { rows: 0, rechecked, settled }, shop).await;
        Ok(unsettled == 0)
    }

    /// A table from its first to its last row.
    async fn whole(&self, shop: &Arc<Shop>, bench: &Arc<Bench>) -> Result<(), Trouble> {
        shop.await_head().await?;
        let again = Arc::new(Bench::new(bench.plan.clone(), Vec::new()));
        // A pause is no time to read tables.
        tokio::select! {
            all = work::all(Arc::clone(shop), vec![Arc::clone(&again)], WORKERS) => all?,
            trouble = self.turning.ended() => return Err(trouble),
        }
        self.turning.check()?;
        let report = again.report.lock().await.clone();
        self.rechecked.fetch_add(report.rows, Ordering::Relaxed);
        if let Some(error) = report.error {
            return Err(Trouble::new("verification", error));
        }
        let differences = again.found.lock().await.clone();
        let mut settled = Settled { differences, ..Settled::default() };
        self.take_new(shop, bench, &mut settled).await?;
        bench.take(Compared { rows: 0, rechecked: report.rows, settled }, shop).await;
        match report.unsettled {
            0 => Ok(()),
            _ => Err(Trouble::new("verification", "rows of a table could not be settled")),
        }
    }

    /// Leaves out what is known already, and remembers the rest, over a restart too.
    async fn take_new(
        &self,
        shop: &Shop,
        bench: &Bench,
        settled: &mut Settled,
    ) -> Result<(), Trouble> {
        let table = bench.plan.name.to_string();
        let name = |row: &RowDifference| {
            let key = row.key.iter().map(|part| part.value.clone()).collect();
            (table.clone(), key, row.row_hash.clone())
        };
        {
            let mut found = self.found();
            settled.differences.retain(|row| !found.rows.contains(&name(row)));
            if settled.differences.is_empty() {
                return Ok(());
            }
            // From here on the gate refuses, whether it can be written down or not.
            found.rows.extend(settled.differences.iter().map(name));
            found.last = Some(Timestamp::now());
        }
        let differences = settled.differences.len();
        tracing::error!(
            id = self.id,
            differences,
            "a continuous verification has found differences"
        );
        let saved = self.save(shop).await;
        if saved.is_err() {
            let mut found = self.found();
            for row in &settled.differences {
                found.rows.remove(&name(row));
            }
        }
        saved
    }

    async fn save(&self, shop: &Shop) -> Result<(), Trouble> {
        let Some(known) = self.known() else { return Ok(()) };
        let state_dir = shop.stream.route.config.state_dir.clone();
        let ground = self.turning.ground.clone();
        let saved = tokio::task::spawn_blocking(move || known::save(&state_dir, &known, &ground));
        let failed = |why: String| Trouble::new("state directory", format!("verify.json: {why}"));
        let saved = saved.await.map_err(|error| failed(error.to_string()))?;
        saved.map_err(|error| failed(error.to_string()))
    }
}
