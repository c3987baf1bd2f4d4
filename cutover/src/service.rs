//! Answers the API's requests about runs. The HTTP server only translates.
//!
//! A cutover goes over the ports of one direction, a rollback over those of the other; which of
//! them may be, the journal says.

mod breach;
mod starting;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::api::{
    AbortRequest, ApiError, ErrorCode, FinishPlan, FinishReport, FinishRequest, History, Plan,
    PlanRequest, RunStatus, RunUpdate, SCHEMA_VERSION, StartCutover,
};
use crate::controller::finish::{self, finish};
use crate::controller::{Limits, Order, Recovery, Scope, Standing, history, recover};
use crate::hub::RunHub;
use crate::phase::{Phase, WatchEnd};
use crate::ports::{Journal, PortError, PortResult, World};
use crate::rehearse::rehearse;
use crate::side::Direction;
use starting::refuse_by_standing;

/// What a request means that says nothing about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// How long the gate must hold.
    pub hold_for: Duration,
    /// How long to wait for it.
    pub gate_timeout: Duration,
    /// The longest write pause.
    pub max_pause: Duration,
    /// How long to watch the side that opened.
    pub watch: Duration,
    /// Everything else.
    pub limits: Limits,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            hold_for: Duration::from_secs(3),
            gate_timeout: Duration::from_secs(30 * 60),
            max_pause: Duration::from_secs(2),
            watch: Duration::ZERO,
            limits: Limits::default(),
        }
    }
}

/// The longest a request for events may wait.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Pauses outside of these bounds are mistakes.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// So many runs of this process can still be asked for.
const RUNS_KEPT: usize = 8;
/// How long a run may take to end once its time of watching is over.
const WATCH_END: Duration = Duration::from_secs(5);
/// An answer about a database that is not needed for anything else takes no longer than this.
const ASK: Duration = Duration::from_secs(5);

/// The runs of one pipeline: at most one at a time.
pub struct Service<W: World + 'static> {
    forward: Arc<W>,
    back: Option<Arc<W>>,
    defaults: Defaults,
    /// The runs of this process, newest first: who follows one can see its end after another one
    /// has begun.
    runs: Mutex<VecDeque<Arc<RunHub>>>,
    board: breach::Board,
    /// Held while a run is being started, so that two requests can't both find nothing running.
    starting: tokio::sync::Mutex<()>,
}

impl<W: World + 'static> Service<W> {
    /// For a world whose engine may not be running yet; there is no way back. Call
    /// [`Service::recover`] next.
    pub fn new(world: Arc<W>, defaults: Defaults) -> Arc<Self> {
        Self::both(world, None, defaults)
    }

    /// The same with the ports of the way back, which every run is then to leave behind.
    pub fn both(forward: Arc<W>, back: Option<Arc<W>>, defaults: Defaults) -> Arc<Self> {
        let (runs, starting) = (Mutex::default(), tokio::sync::Mutex::default());
        let board = breach::Board::default();
        Arc::new(Self { forward, back, defaults, runs, board, starting })
    }

    /// Puts back or finishes what an earlier life of this process left behind, before the streams
    /// are started: their roles are right then. What has to wait for the streams goes on by itself.
    pub async fn recover(self: &Arc<Self>) -> PortResult<Recovery> {
        let _starting = self.starting.lock().await;
        self.recover_now().await
    }

    async fn recover_now(self: &Arc<Self>) -> PortResult<Recovery> {
        let recovery = self.recover_in(Scope::Roles, |hub| self.show(hub)).await?;
        if let Recovery::Left(phase) = recovery {
            tracing::info!(phase = phase.name(), "an interrupted run goes on with the streams");
            let service = self.clone();
            tokio::spawn(async move {
                if let Err(error) = service.recover_in(Scope::Full, |hub| service.show(hub)).await {
                    tracing::error!("an interrupted run can't go on: {error}");
                }
            });
        }
        Ok(recovery)
    }

    async fn recover_in(
        &self,
        scope: Scope,
        on_found: impl FnOnce(Arc<RunHub>),
    ) -> PortResult<Recovery> {
        let world_of = |direction| match direction {
            Direction::Forward => Some(self.forward.as_ref()),
            Direction::Back => self.back.as_deref(),
        };
        recover(world_of, &self.defaults.limits, scope, on_found).await
    }

    fn world_of(&self, direction: Direction) -> Option<Arc<W>> {
        match direction {
            Direction::Forward => Some(self.forward.clone()),
            Direction::Back => self.back.clone(),
        }
    }

    /// What the journal says about the pipeline as a whole.
    pub async fn standing(&self) -> PortResult<Standing> {
        Standing::read(&self.forward.journal().read_all().await?)
    }

    /// The ports of a cutover.
    pub fn world(&self) -> &Arc<W> {
        &self.forward
    }

    /// The active run, or the last one of this process.
    pub fn current(&self) -> Option<RunStatus> {
        self.hub().map(|hub| hub.status())
    }

    fn hub(&self) -> Option<Arc<RunHub>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).front().cloned()
    }

    fn show(&self, hub: Arc<RunHub>) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        // A recovery shows the same run again.
        let run = hub.status().run;
        runs.retain(|known| known.status().run != run);
        runs.push_front(hub);
        runs.truncate(RUNS_KEPT);
    }

    /// Ends the time of watching of the active run; `false`: none is watching.
    pub fn end_watch(&self, end: WatchEnd) -> bool {
        self.hub().is_some_and(|hub| hub.end_watch(end))
    }

    /// Looks once more at a held run, as an operator's abort does: the world may be better now, and
    /// what is to be done is written in the journal and on the side that was to open. `false`: none
    /// is held.
    ///
    /// # Errors
    /// The journal's.
    pub async fn try_held_again(self: &Arc<Self>) -> PortResult<bool> {
        let is_held = |run: &RunStatus| run.phase == Phase::Held && run.report.is_some();
        let _starting = self.starting.lock().await;
        if !self.current().is_some_and(|run| is_held(&run)) {
            return Ok(false);
        }
        self.recover_now().await?;
        Ok(true)
    }

    fn confirm(&self, typed: Option<&str>) -> Result<(), ApiError> {
        let database = self.forward.servers().0.database;
        match typed {
            Some("--yes") => Ok(()),
            Some(typed) if typed == database && !database.is_empty() => Ok(()),
            _ => Err(ApiError::new(
                ErrorCode::BadRequest,
                match database.as_str() {
                    "" => "the run is not confirmed: all databases of blue are moved, so it takes --yes"
                        .to_owned(),
                    database => format!(
                        "the run is not confirmed: expected the name of blue's database, {database}"
                    ),
                },
                "request",
            )
            .next("cutover --when-lag '<1s' --yes")),
        }
    }

    /// Ends a time of watching and waits until its run is over.
    async fn leave_watch(&self, which: impl FnOnce(&RunStatus) -> bool, why: String) {
        let Some(hub) = self.hub().filter(|hub| which(&hub.status())) else { return };
        if !hub.end_watch(WatchEnd::Cut(why)) {
            return;
        }
        if tokio::time::timeout(WATCH_END, hub.ended()).await.is_err() {
            // It shows as active then, and whoever asked is told so.
            tracing::warn!("the run that was watching does not end");
        }
    }

    /// `POST /v1/finish`: ends the way back for good. Goes on where an interrupted one has stopped;
    /// once it is done there is nothing left to do, and that is no error.
    pub async fn finish(
        self: &Arc<Self>,
        request: FinishRequest,
    ) -> Result<FinishReport, ApiError> {
        self.confirm(request.confirmation.as_deref())?;
        let _starting = self.starting.lock().await;
        if let Some(why) = self.watched().filter(|_| !request.force_abandon_rollback) {
            return Err(ApiError::new(ErrorCode::Busy, why, "sidecar")
                .in_state(Phase::Watching.name())
                .next("cutover finish --force-abandon-rollback"));
        }
        self.leave_watch(|_| true, "the way back is given up".into()).await;
        self.refuse_if_busy()?;
        let standing = self.standing_to_finish().await?;
        finish(|direction| self.world_of(direction), &standing, request.actor)
            .await
            .map_err(unavailable)
    }

    /// `GET /v1/finish`: what ending the way back would remove. Touches nothing.
    pub async fn finish_plan(&self) -> Result<FinishPlan, ApiError> {
        let standing = self.standing_to_finish().await?;
        let database = self.forward.servers().0.database;
        finish::plan(|direction| self.world_of(direction), &standing, database, self.watched())
            .await
            .map_err(unavailable)
    }

    /// Why the way back may not be ended yet, but by force: the new side is being watched.
    fn watched(&self) -> Option<String> {
        let status = self.current().filter(|run| run.phase == Phase::Watching)?;
        Some(format!("run {} still watches how {} does", status.run, status.serving))
    }

    async fn standing_to_finish(&self) -> Result<Standing, ApiError> {
        let standing = self.standing().await.map_err(unavailable)?;
        let unfinished = standing.unfinished.as_ref();
        let what = match unfinished.filter(|run| run.reached != Phase::Watching) {
            Some(run) => format!("run {} is not over: nothing can be finished yet", run.run),
            None if standing.sealed.is_none() => {
                "nothing has been cut over that could be finished".to_owned()
            }
            None => return Ok(standing),
        };
        let state = format!("unchanged: {} serves", standing.serving);
        Err(ApiError::new(ErrorCode::PrecheckFailed, what, "sidecar")
            .in_state(state)
            .next("cutover status"))
    }

    /// Refuses while a run goes on.
    fn refuse_if_busy(&self) -> Result<(), ApiError> {
        let Some(status) = self.current() else { return Ok(()) };
        let refuse = |what: String, next: &str| {
            Err(ApiError::new(ErrorCode::Busy, what, "sidecar")
                .in_state(status.phase.name())
                .next(next))
        };
        match status.phase {
            Phase::Held => refuse(
                format!("run {} is held and has to be resolved first", status.run),
                "cutover status",
            ),
            // The last event comes a moment after the last phase.
            phase if !phase.is_final() || status.report.is_none() => {
                refuse(format!("run {} is active", status.run), "cutover status --watch")
            }
            _ => Ok(()),
        }
    }

    /// `GET /v1/cutover/{run}`: events after `after`, waiting at most `wait` for the first.
    pub async fn update(
        &self,
        run: &str,
        after: u64,
        wait: Duration,
    ) -> Result<RunUpdate, ApiError> {
        Ok(self.find(run)?.update(after, wait.min(WAIT_MAX)).await)
    }

    fn find(&self, run: &str) -> Result<Arc<RunHub>, ApiError> {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let found = runs.iter().find(|hub| run == "current" || hub.status().run == run).cloned();
        found.ok_or_else(|| {
            ApiError::new(ErrorCode::NotFound, format!("there is no run {run}"), "sidecar")
                .next("cutover history")
        })
    }

    /// `POST /v1/cutover/{run}/abort`. A held run is looked at again, and put back or finished,
    /// whichever green's decision row says.
    pub async fn abort(
        self: &Arc<Self>,
        run: &str,
        request: AbortRequest,
    ) -> Result<RunStatus, ApiError> {
        let hub = self.find(run)?;
        let who = request.actor.unwrap_or_else(|| "an operator".into());
        let why = request.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        if hub.ask_to_stop(format!("{who} asked to stop{why}")) {
            return Ok(hub.status());
        }
        let status = hub.status();
        if status.phase == Phase::Held && status.report.is_some() {
            // Not given up with the request: who has asked may leave, and nobody else would see the
            // run to its end.
            let service = self.clone();
            let recovering = tokio::spawn(async move {
                let _starting = service.starting.lock().await;
                service.recover_now().await
            });
            let recovered = recovering.await.unwrap_or_else(|error| {
                Err(PortError::new("sidecar", "looking at the run again has stopped")
                    .caused_by(error))
            });
            recovered.map_err(unavailable)?;
            return Ok(self.current().unwrap_or(status));
        }
        Err(ApiError::new(
            ErrorCode::TooLate,
            format!("run {} can't be aborted any more", status.run),
            "sidecar",
        )
        .in_state(format!("{}; {} serves", status.phase.name(), status.serving))
        .next(match (status.phase, status.direction) {
            (Phase::Watching, Direction::Forward) => "cutover rollback",
            (Phase::Watching, Direction::Back) => "cutover --when-lag '<1s'",
            _ => "cutover status",
        }))
    }

    /// `POST /v1/plan`: of a cutover, or of a rollback once green serves.
    pub async fn plan(&self, request: PlanRequest) -> Result<Plan, ApiError> {
        let order = self.order(&StartCutover {
            when_lag: Some(request.when_lag.unwrap_or_else(|| "<1s".into())),
            max_pause_ms: request.max_pause_ms,
            no_way_back: request.no_way_back,
            require_verified_ms: request.require_verified_ms,
            accept_differences: request.accept_differences,
            accepts: request.accepts,
            ..StartCutover::default()
        })?;
        let standing = self.standing().await.map_err(unavailable)?;
        let possible = Direction::leaving(standing.serving);
        let direction = request.direction.unwrap_or(possible);
        refuse_by_standing(&standing, direction)?;
        let world = self.world_of(direction).ok_or_else(no_way_back)?;
        let epoch = self.next_epoch(&standing).await.map_err(not_ready)?;
        let order = Order { epoch, ..order };
        let gate = format!("lag {} for {:?}", order.when_lag, order.hold_for);
        Ok(Plan { gate, ..rehearse(world.as_ref(), &order).await })
    }

    /// `GET /v1/history`.
    pub async fn history(&self) -> Result<History, ApiError> {
        let entries = self.forward.journal().read_all().await.map_err(unavailable)?;
        Ok(History { schema_version: SCHEMA_VERSION, runs: history(&entries) })
    }
}

fn no_way_back() -> ApiError {
    ApiError::new(
        ErrorCode::Unavailable,
        "nothing streams back from green to blue: there is no way back",
        "sidecar",
    )
    .next("cutover history")
}

/// A server that a run would need, before anything was touched.
fn not_ready(error: PortError) -> ApiError {
    ApiError { code: ErrorCode::PrecheckFailed, ..unavailable(error) }
}

fn unavailable(error: PortError) -> ApiError {
    let answer = ApiError::new(ErrorCode::Unavailable, error.what, error.place);
    match error.remedy {
        Some(remedy) => answer.next(remedy),
        None => answer,
    }
}
