//! Answers the API's requests about runs. The HTTP server only translates.
//!
//! A cutover goes over the ports of one direction, a rollback over those of the other; which of
//! them may be, the journal says.

mod breach;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::api::{
    AbortRequest, ApiError, ErrorCode, FinishPlan, FinishReport, FinishRequest, History, Plan,
    PlanRequest, RunStatus, RunUpdate, SCHEMA_VERSION, StartCutover,
};
use crate::controller::finish::{self, finish};
use crate::controller::{Finish, Limits, Order, Recovery, Scope, Standing, history, recover, run};
use crate::gate::{LagExpr, ParseExprError};
use crate::hub::RunHub;
use crate::phase::{Phase, WatchEnd};
use crate::ports::{Clock, Decision, Epoch, Fence, Journal, PortError, PortResult, World};
use crate::rehearse::{plan_hash, rehearse};
use crate::side::{Direction, Side};

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

    /// `POST /v1/cutover`: starts a run and returns at once.
    pub async fn start(self: &Arc<Self>, request: StartCutover) -> Result<RunStatus, ApiError> {
        self.start_run(Direction::Forward, request).await
    }

    /// `POST /v1/rollback`: the same the other way round. A run that is still watching is ended, and
    /// blue, which was there before, is watched only if that is asked for.
    pub async fn rollback(self: &Arc<Self>, request: StartCutover) -> Result<RunStatus, ApiError> {
        let when_lag = request.when_lag.clone().or_else(|| Some("<1s".into()));
        let watch_ms = request.watch_ms.or(Some(0));
        self.start_run(Direction::Back, StartCutover { when_lag, watch_ms, ..request }).await
    }

    /// Ends the time of watching of the active run; `false`: none is watching.
    pub fn end_watch(&self, end: WatchEnd) -> bool {
        self.hub().is_some_and(|hub| hub.end_watch(end))
    }

    async fn start_run(
        self: &Arc<Self>,
        direction: Direction,
        request: StartCutover,
    ) -> Result<RunStatus, ApiError> {
        let world = self.world_of(direction).ok_or_else(no_way_back)?;
        let order = self.order(&request)?;
        self.confirm(request.confirmation.as_deref())?;
        let _starting = self.starting.lock().await;
        let standing = self.settle(direction).await?;
        let epoch = self.next_epoch(&standing).await.map_err(not_ready)?;
        let order = Order { epoch, ..order };
        if let Some(expected) = &request.plan_hash {
            let found = plan_hash(world.as_ref(), &order).await.map_err(not_ready)?;
            // The epoch is part of the acts: a run in between makes the plan another one.
            if found != *expected {
                return Err(ApiError::new(
                    ErrorCode::PrecheckFailed,
                    "the world has changed since the plan was made",
                    "plan",
                )
                .next("cutover plan"));
            }
        }
        let started = world.clock().wall();
        let hub = Arc::new(RunHub::new(order.run.clone(), order.epoch, direction, started));
        self.board.prepare(&hub);
        self.show(hub.clone());
        let status = hub.status();
        let service = self.clone();
        tokio::spawn(async move {
            run(world.as_ref(), &order, &service.defaults.limits, &hub).await;
        });
        Ok(status)
    }

    fn confirm(&self, typed: Option<&str>) -> Result<(), ApiError> {
        let database = self.forward.servers().0.database;
        match typed {
            Some("--yes") => Ok(()),
            Some(typed) if typed == database => Ok(()),
            _ => Err(ApiError::new(
                ErrorCode::BadRequest,
                format!(
                    "the run is not confirmed: expected the name of blue's database, {database}"
                ),
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

    /// Whether a run in this direction may begin now; ends a watch that is in its way.
    async fn settle(self: &Arc<Self>, direction: Direction) -> Result<Standing, ApiError> {
        let watching = |run: &RunStatus| run.direction == direction.reversed();
        self.leave_watch(watching, format!("a run {direction} begins")).await;
        self.refuse_if_busy()?;
        let mut standing = self.standing().await.map_err(unavailable)?;
        if standing.unfinished.is_some() {
            // Its end could not be written down: look again, which ends it in the journal, too.
            let recovery = self.recover_in(Scope::Full, |hub| self.show(hub)).await;
            recovery.map_err(unavailable)?;
            self.refuse_if_busy()?;
            standing = self.standing().await.map_err(unavailable)?;
        }
        refuse_by_standing(&standing, direction)?;
        Ok(standing)
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

    async fn next_epoch(&self, standing: &Standing) -> PortResult<Epoch> {
        let mut newest = standing.epoch;
        for side in Side::ALL {
            // Decisions of runs to blue are on blue; without a way back there are none.
            if side == Side::Blue && self.back.is_none() {
                continue;
            }
            newest = newest.max(self.last_epoch(standing, side).await?);
        }
        Ok(Epoch(newest.0 + 1))
    }

    async fn last_epoch(&self, standing: &Standing, side: Side) -> PortResult<Epoch> {
        let world = self.forward.as_ref();
        let undo = standing.undo_of(side).cloned().map(serde_json::from_value).transpose();
        let undo = undo.map_err(|error| {
            PortError::new("journal", format!("{side}'s prior settings can't be read: {error}"))
        })?;
        let deadline = world.clock().now() + ASK;
        let _airlock = match &undo {
            Some(undo) => Some(world.fence_of(side).airlock(undo, deadline).await?),
            None => None,
        };
        world.decision_of(side).last_epoch().await
    }

    fn order(&self, request: &StartCutover) -> Result<Order, ApiError> {
        let refuse = |what: String| ApiError::new(ErrorCode::BadRequest, what, "request");
        let Some(when_lag) = &request.when_lag else {
            return Err(refuse("when_lag is missing, for example <1s".into()));
        };
        let when_lag: LagExpr =
            when_lag.parse().map_err(|error: ParseExprError| refuse(error.to_string()))?;
        let ms = |given: Option<u64>, default| given.map_or(default, Duration::from_millis);
        let max_pause = ms(request.max_pause_ms, self.defaults.max_pause);
        if !(PAUSE_MIN..=PAUSE_MAX).contains(&max_pause) {
            return Err(refuse(format!(
                "max_pause_ms must be between {} and {}",
                PAUSE_MIN.as_millis(),
                PAUSE_MAX.as_millis()
            )));
        }
        let way_back = self.back.is_some() && !request.no_way_back;
        Ok(Order {
            run: uuid::Uuid::new_v4().simple().to_string()[..8].to_owned(),
            epoch: Epoch(0),
            when_lag,
            hold_for: ms(request.for_ms, self.defaults.hold_for),
            gate_timeout: ms(request.gate_timeout_ms, self.defaults.gate_timeout),
            max_pause,
            way_back,
            watch: ms(request.watch_ms, self.defaults.watch),
            drill: request.drill,
            plan_hash: request.plan_hash.clone(),
            actor: request.actor.clone(),
            reason: request.reason.clone(),
        })
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
            let _starting = self.starting.lock().await;
            self.recover_now().await.map_err(unavailable)?;
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

/// Refuses a run that the journal rules out, whatever the servers say.
fn refuse_by_standing(standing: &Standing, direction: Direction) -> Result<(), ApiError> {
    let (from, to) = (direction.from(), direction.to());
    let refuse = |what: String, next: &str| {
        let state = format!("unchanged: {} serves", standing.serving);
        Err(ApiError::new(ErrorCode::PrecheckFailed, what, "sidecar").in_state(state).next(next))
    };
    match standing.finish {
        Finish::NotAsked => {}
        Finish::UnderWay => {
            return refuse(
                "the way back was given up: finish was begun and has to be ended".into(),
                "cutover finish",
            );
        }
        Finish::Done => {
            return refuse(
                format!(
                    "the move was finished; {} serves, and no stream leads to {to} any more",
                    standing.serving
                ),
                "cutover history",
            );
        }
    }
    if standing.serving != from {
        let next = match standing.serving {
            Side::Blue => "cutover --when-lag '<1s'",
            Side::Green => "cutover rollback",
        };
        return refuse(format!("{to} serves already"), next);
    }
    if standing.sealed.is_some() && !standing.way_back {
        return refuse(format!("the last run left no way back to {to}"), "cutover history");
    }
    Ok(())
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
