//! One verification, from its request to its report.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use cutover::Side;
use cutover::api::{ApiError, ErrorCode, SCHEMA_VERSION};
use cutover::verify::{
    Known, Mode, Progress, Verdict, VerifyReport, VerifyRequest, VerifyState, VerifyStatus,
};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::continuous::Continuous;
use super::flag;
use super::known;
use super::mysql::{BinlogLooker, Found};
use super::reader::Trouble;
use super::rechecking::PostgresLooker;
use super::turning::Turning;
use super::work::{Bench, Shop};
use crate::store::{Ground, Unfinished};

/// What is being done.
#[derive(Clone)]
pub(super) enum Work {
    /// Between two PostgreSQL databases.
    Postgres { shop: Arc<Shop>, benches: Vec<Arc<Bench>> },
    /// Between two servers of MySQL or MariaDB; what was found is there once everything was compared.
    Binlog { progress: watch::Receiver<Progress>, found: Option<Arc<Found>> },
}

/// One engine's way to compare two sides.
pub(super) trait Comparison: Send + Sync + 'static {
    /// The side that is right.
    fn source(&self) -> Side;

    /// Compares them for `job`, until it is asked to stop.
    ///
    /// # Errors
    /// The servers or the stream are away for too long, or the question can't be answered.
    fn compare(
        &self,
        job: &Job,
        request: &VerifyRequest,
        turning: &Arc<Turning>,
    ) -> impl Future<Output = Result<VerifyReport, Trouble>> + Send;
}

/// A verification.
pub struct Job {
    id: String,
    mode: Mode,
    started: Timestamp,
    /// When it went on, if it was interrupted.
    resumed: Option<Timestamp>,
    began: Instant,
    work: Mutex<Option<Work>>,
    outcome: Mutex<Option<Result<VerifyReport, ApiError>>>,
    /// Whether it goes on once everything was compared.
    continuous: Mutex<Option<Arc<Continuous>>>,
    stop: watch::Sender<bool>,
    ended: watch::Sender<bool>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Job {
    /// Not begun yet; or to go on.
    pub(super) fn new(request: &VerifyRequest, unfinished: Option<Unfinished>) -> Self {
        let new = uuid::Uuid::new_v4().simple().to_string();
        let now = Timestamp::now();
        let resumed = unfinished.is_some().then_some(now);
        let (id, started) =
            unfinished.map_or((new[..8].to_owned(), now), |found| (found.id, found.started));
        Self {
            id,
            mode: request.mode,
            started,
            resumed,
            began: Instant::now(),
            work: Mutex::default(),
            outcome: Mutex::default(),
            continuous: Mutex::default(),
            stop: flag(),
            ended: flag(),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Turns true when it is to end.
    pub(super) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn started(&self) -> Timestamp {
        self.started
    }

    /// When it went on, if it was interrupted.
    pub(super) fn resumed(&self) -> Option<Timestamp> {
        self.resumed
    }

    /// What is compared from now on.
    pub(super) fn works_on(&self, work: Work) {
        *locked(&self.work) = Some(work);
    }

    /// It goes on once everything was compared.
    pub(super) fn continues(&self, continuous: Continuous) {
        *locked(&self.continuous) = Some(Arc::new(continuous));
    }

    pub(super) fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// What was compared, table by table, and what with; `None` before it is known, and between
    /// servers that show no versions of rows.
    pub(super) fn compared(&self) -> Option<(Arc<Shop>, Vec<Arc<Bench>>)> {
        match locked(&self.work).clone()? {
            Work::Postgres { shop, benches } => Some((shop, benches)),
            Work::Binlog { .. } => None,
        }
    }

    /// The same between servers of MySQL or MariaDB.
    pub(super) fn found(&self) -> Option<Arc<Found>> {
        match locked(&self.work).clone()? {
            Work::Postgres { .. } => None,
            Work::Binlog { found, .. } => found,
        }
    }

    /// The side that was taken as right, if something was compared.
    pub(super) fn compared_with(&self) -> Option<Side> {
        let of_postgres = self.compared().map(|(shop, _)| shop.source.1);
        of_postgres.or_else(|| self.found().map(|found| found.source()))
    }

    /// As it is now.
    pub fn status(&self) -> VerifyStatus {
        let outcome = locked(&self.outcome).clone();
        let state = match &outcome {
            None => VerifyState::Running,
            Some(Ok(report)) if report.stopped => VerifyState::Stopped,
            Some(Ok(_)) => VerifyState::Done,
            Some(Err(_)) => VerifyState::Failed,
        };
        let (report, error) = match outcome {
            Some(Ok(report)) => (Some(report), None),
            Some(Err(error)) => (None, Some(error)),
            None => (None, None),
        };
        VerifyStatus {
            schema_version: SCHEMA_VERSION,
            id: self.id.clone(),
            mode: self.mode,
            state,
            started: self.started,
            progress: self.progress(),
            report,
            error,
        }
    }

    fn progress(&self) -> Progress {
        let (shop, benches) = match locked(&self.work).clone() {
            None => return Progress::default(),
            Some(Work::Binlog { progress, .. }) => return progress.borrow().clone(),
            Some(Work::Postgres { shop, benches }) => (shop, benches),
        };
        let estimated: u64 = benches.iter().map(|bench| bench.plan.rows_estimated).sum();
        let part = shop.sample.map_or(1.0, |(percent, _)| percent / 100.0);
        let seconds = self.began.elapsed().as_secs_f64();
        let tables = benches.len() as u64;
        let progress = shop.counts.progress(tables, estimated, part, seconds);
        Progress { limit: Some(shop.gate.limit()), ..progress }
    }

    /// Runs to its end, which [`Job::ended`] tells.
    pub(super) async fn run(
        self: Arc<Self>,
        comparison: impl Comparison,
        request: VerifyRequest,
        turning: Arc<Turning>,
        state_dir: PathBuf,
    ) {
        let is_resumed = self.resumed.is_some();
        tracing::info!(id = self.id, mode = self.mode.name(), is_resumed, "verification begins");
        let source = comparison.source();
        let compared = tokio::select! {
            compared = comparison.compare(&self, &request, &turning) => compared,
            trouble = turning.ended() => Err(trouble),
        };
        // What was compared may have been another pair of sides: nothing of it is kept.
        let compared = match turning.check() {
            Err(trouble) => Err(trouble),
            Ok(()) => {
                let is_whole = request.is_whole();
                let known = match &compared {
                    Ok(report) if report.stopped && report.differences == 0 => None,
                    Ok(report) => Some(Known::of(report, is_whole)),
                    Err(_) if !is_whole => None,
                    Err(_) => {
                        let id = self.id.clone();
                        Some(Known::broken_off(id, self.mode, source, self.started))
                    }
                };
                let remembered = match known {
                    Some(known) => remember(state_dir, known, turning.ground.clone()).await,
                    None => Ok(()),
                };
                compared.and_then(|report| remembered.map(|()| report))
            }
        };
        self.go_on(compared.as_ref().is_ok_and(|report| report.verdict == Verdict::Equal));
        match &compared {
            Ok(report) => tracing::info!(
                id = self.id,
                verdict = ?report.verdict,
                rows = report.rows,
                differences = report.differences,
                "verification ends"
            ),
            // The words of a server may quote a value: they are in the answer only.
            Err(trouble) => {
                tracing::error!(id = self.id, place = trouble.place, "verification failed");
            }
        }
        let outcome = compared.map_err(|trouble| {
            ApiError::new(ErrorCode::Unavailable, trouble.what, trouble.place)
                .in_state("nothing was changed; the stream goes on")
                .next("cutover verify")
        });
        *locked(&self.outcome) = Some(outcome);
        self.ended.send_replace(true);
    }

    /// What goes on, or was to.
    pub(super) fn continuous(&self) -> Option<Arc<Continuous>> {
        locked(&self.continuous).clone()
    }

    /// Only what was equal once can stay so.
    fn go_on(&self, is_equal: bool) {
        let Some(continuous) = self.continuous() else { return };
        match locked(&self.work).clone().filter(|_| is_equal) {
            Some(Work::Postgres { shop, benches }) => {
                let shop = Arc::new(shop.again(continuous.is_limited()));
                tokio::spawn(async move {
                    let looker = PostgresLooker::new(Arc::clone(&shop), benches);
                    continuous.go_on(looker, shop.govern()).await;
                });
            }
            Some(Work::Binlog { found: Some(found), .. }) => {
                // Who looks is sparing by itself.
                let looker = BinlogLooker::new(found);
                tokio::spawn(continuous.go_on(looker, std::future::pending()));
            }
            Some(Work::Binlog { found: None, .. }) | None => continuous.stop(),
        }
    }
}

/// A look at one table takes nothing back that a look at all of them has found.
async fn remember(state_dir: PathBuf, known: Known, ground: Ground) -> Result<(), Trouble> {
    let saved = tokio::task::spawn_blocking(move || {
        // One that can't be read is replaced: it would only stand in the way.
        let before = known::load(&state_dir, Some(&ground)).unwrap_or_default();
        if !known.replaces(before.as_ref()) {
            return Ok(());
        }
        known::save(&state_dir, &known, &ground)
    });
    let failed = |why: String| Trouble::new("state directory", format!("verify.json: {why}"));
    saved.await.map_err(|error| failed(error.to_string()))?.map_err(|e| failed(e.to_string()))
}
