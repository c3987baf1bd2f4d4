//! A verification that goes on.
//!
//! The stream notes the key of every row that it writes ([`Touched`]) from before the comparison of
//! everything begins. So whatever that comparison has proven stays proven but for those rows; and
//! those are looked at again, oldest table first. A look begins behind the note, and what it proves is
//! at least the version that was noted; how is each engine's ([`super::rechecking`], [`super::mysql`]).
//!
//! A row is taken off the list only by a look that has come to a ruling, or because the source's row
//! was seen to be written during the look: then its next note is on the way. What could not be
//! settled goes back with its age. A table that is *dirty* is compared as a whole.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cutover::Side;
use cutover::verify::continuous::{ContinuousStatus, DirtyTable};
use cutover::verify::{Known, Mode, RowDifference, VerifyRequest};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::reader::Trouble;
use super::settle::Settled;
use super::turning::{Turn, Turning};
use super::{flag, known};
use crate::engine::touched::{Touched, Watched};

/// After a trouble.
const TROUBLE_PAUSE: Duration = Duration::from_secs(2);
/// Differences after which nothing is looked at any more.
const ENOUGH: usize = 10_000;

/// One engine's way to look again at what the stream has written.
pub(super) trait Looker: Send {
    /// Looks at what has waited longest, and says what was found to `continuous`; false if there is
    /// nothing to do, or not now.
    ///
    /// # Errors
    /// The servers or the stream are away, or a run is in the way. Whatever was not settled is noted
    /// again.
    fn look(
        &mut self,
        continuous: &Continuous,
    ) -> impl Future<Output = Result<bool, Trouble>> + Send;

    /// Between two looks, where there is nothing left to look at.
    fn rest(&self) -> Duration;

    /// Sessions may be lost, or in the middle of something.
    fn recover(&mut self);
}

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
    pub(super) turning: Arc<Turning>,
    pub(super) touched: Arc<Touched>,
    state_dir: PathBuf,
    is_proven: AtomicBool,
    rechecked: AtomicU64,
    found: Mutex<Found>,
    trouble: Mutex<Option<String>>,
    /// When everything began to be compared.
    compared: Instant,
    stop: watch::Sender<bool>,
}

impl Continuous {
    /// Begins to note what the stream writes to these tables of `source`. What is compared after this is
    /// proven for as long as it is not noted.
    pub fn begin(
        id: &str,
        request: &VerifyRequest,
        source: Side,
        turning: Arc<Turning>,
        state_dir: PathBuf,
        tables: impl Iterator<Item = Watched>,
    ) -> Self {
        let touched = Arc::clone(&turning.shared.touched);
        touched.watch(tables, request.is_whole());
        Self {
            id: id.to_owned(),
            mode: request.mode,
            is_whole: request.is_whole(),
            is_limited: !request.unlimited,
            source,
            turning,
            touched,
            state_dir,
            is_proven: AtomicBool::new(false),
            rechecked: AtomicU64::new(0),
            found: Mutex::default(),
            trouble: Mutex::default(),
            compared: Instant::now(),
            stop: flag(),
        }
    }

    /// Whether clients of the source are spared.
    pub fn is_limited(&self) -> bool {
        self.is_limited
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

    /// Looks until it is stopped. Everything has been compared, and was equal. `spares` spares clients of
    /// the source for as long as it is polled.
    pub async fn go_on(self: Arc<Self>, mut looker: impl Looker, spares: impl Future<Output = ()>) {
        self.is_proven.store(true, Ordering::Release);
        tracing::info!(id = self.id, "rows that change are looked at again from now on");
        let mut stop = self.stop.subscribe();
        let looking = async {
            loop {
                let pause = match self.look(&mut looker).await {
                    Ok(true) => continue,
                    Ok(false) => {
                        *self.trouble() = None;
                        looker.rest()
                    }
                    // The words of a server may quote a value: they are in the answer only.
                    Err(trouble) => {
                        tracing::debug!(place = trouble.place, "rows can't be looked at again");
                        *self.trouble() = Some(trouble.to_string());
                        looker.recover();
                        looker.rest().max(TROUBLE_PAUSE)
                    }
                };
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = looking => {}
            () = spares, if self.is_limited => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        tracing::info!(id = self.id, "rows that change are not looked at any more");
    }

    async fn look(&self, looker: &mut impl Looker) -> Result<bool, Trouble> {
        match self.turning.now()? {
            // The other side is right now, or what was proven is not any more.
            Turn::Turned | Turn::Moved => {
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
        looker.look(self).await
    }

    /// So many rows were looked at again.
    pub fn rechecked(&self, rows: u64) {
        self.rechecked.fetch_add(rows, Ordering::Relaxed);
    }

    /// Leaves out what is known already, and remembers the rest, over a restart too.
    ///
    /// # Errors
    /// It could not be written down: the rows have to be looked at again.
    pub async fn take_new(&self, table: &str, settled: &mut Settled) -> Result<(), Trouble> {
        let name = |row: &RowDifference| {
            let key = row.key.iter().map(|part| part.value.clone()).collect();
            (table.to_owned(), key, row.row_hash.clone())
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
        let saved = self.save().await;
        if saved.is_err() {
            let mut found = self.found();
            for row in &settled.differences {
                found.rows.remove(&name(row));
            }
        }
        saved
    }

    async fn save(&self) -> Result<(), Trouble> {
        let Some(known) = self.known() else { return Ok(()) };
        let state_dir = self.state_dir.clone();
        let ground = self.turning.ground.clone();
        let saved = tokio::task::spawn_blocking(move || known::save(&state_dir, &known, &ground));
        let failed = |why: String| Trouble::new("state directory", format!("verify.json: {why}"));
        let saved = saved.await.map_err(|error| failed(error.to_string()))?;
        saved.map_err(|error| failed(error.to_string()))
    }
}
