//! Answers the API's requests about runs. The HTTP server only translates.
//!
//! A cutover goes over the ports of one direction, a rollback over those of the other; which of
//! them may be, the journal says.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::api::{
    AbortRequest, ApiError, ErrorCode, FinishReport, FinishRequest, History, Plan, PlanRequest,
    RunStatus, RunUpdate, SCHEMA_VERSION, StartCutover,
};
use crate::controller::finish::finish;
use crate::controller::{Finish, Limits, Order, Recovery, Scope, Standing, history, recover, run};
use crate::gate::{LagExpr, ParseExprError};
use crate::hub::RunHub;
use crate::phase::{Phase, WatchEnd};
use crate::ports::{Clock, Decision, Epoch, Fence, Journal, PortError, PortResult, World};
use crate::rehearse::rehearse;
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

/// How long a run may take to end once its time of watching is over.
const WATCH_END: Duration = Duration::from_secs(5);
/// An answer about a database that is not needed for anything else takes no longer than this.
const ASK: Duration = Duration::from_secs(5);

/// The runs of one pipeline: at most one at a time.
pub struct Service<W: World + 'static> {
    forward: Arc<W>,
    back: Option<Arc<W>>,
    defaults: Defaults,
    current: Mutex<Option<Arc<RunHub>>>,
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
        let (current, starting) = (Mutex::default(), tokio::sync::Mutex::default());
        Arc::new(Self { forward, back, defaults, current, starting })
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
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show(&self, hub: Arc<RunHub>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(hub);
    }

    /// `POST /v1/cutover`: starts a run and returns at once.
    pub async fn start(self: &Arc<Self>, request: StartCutover) -> Result<RunStatus, ApiError> {
        self.start_run(Direction::Forward, request).await
    }

    /// `POST /v1/rollback`: the same the other way round. A run that is still watching is ended.
    pub async fn rollback(self: &Arc<Self>, request: StartCutover) -> Result<RunStatus, ApiError> {
        let when_lag = request.when_lag.clone().or_else(|| Some("<1s".into()));
        self.start_run(Direction::Back, StartCutover { when_lag, ..request }).await
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
        let epoch = self.next_epoch(&standing).await.map_err(unavailable)?;
        let order = Order { epoch, ..order };
        if let Some(expected) = &request.plan_hash {
            let plan = rehearse(world.as_ref(), &order).await;
            // The epoch is part of the acts: a run in between makes the plan another one.
            if plan.hash != *expected {
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
        let refuse = |what: String, next: &str| {
            Err(ApiError::new(ErrorCode::Busy, what, "sidecar").next(next))
        };
        let (from, to) = (direction.from(), direction.to());
        match standing.finish {
            Finish::NotAsked => {}
            Finish::UnderWay => {
                return refuse("finish was begun and has to be ended".into(), "cutover finish");
            }
            Finish::Done => {
                return refuse(
                    format!("the move was finished; {} serves", standing.serving),
                    "cutover history",
                );
            }
        }
        if standing.serving != from {
            return refuse(format!("{to} serves already"), "cutover history");
        }
        if standing.sealed.is_some() && !standing.way_back {
            return refuse(format!("the last run left no way back to {to}"), "cutover history");
        }
        Ok(standing)
    }

    /// `POST /v1/finish`: ends the way back for good. Goes on where an interrupted one has stopped.
    pub async fn finish(
        self: &Arc<Self>,
        request: FinishRequest,
    ) -> Result<FinishReport, ApiError> {
        self.confirm(request.confirmation.as_deref())?;
        let _starting = self.starting.lock().await;
        let watching = self.current().filter(|run| run.phase == Phase::Watching);
        if let Some(status) = watching.filter(|_| !request.force_abandon_rollback) {
            return Err(ApiError::new(
                ErrorCode::Busy,
                format!("run {} still watches how {} does", status.run, status.serving),
                "sidecar",
            )
            .in_state(status.phase.name())
            .next("cutover finish --force-abandon-rollback"));
        }
        self.leave_watch(|_| true, "the way back is given up".into()).await;
        self.refuse_if_busy()?;
        let standing = self.standing().await.map_err(unavailable)?;
        if standing.unfinished.is_some() || standing.sealed.is_none() {
            return Err(ApiError::new(
                ErrorCode::Busy,
                "nothing has been cut over that could be finished",
                "sidecar",
            )
            .next("cutover status"));
        }
        finish(|direction| self.world_of(direction), &standing, request.actor)
            .await
            .map_err(unavailable)
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
        self.hub().filter(|hub| run == "current" || hub.status().run == run).ok_or_else(|| {
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
        .in_state(status.phase.name()))
    }

    /// `POST /v1/plan`: of a cutover, or of a rollback once green serves.
    pub async fn plan(&self, request: PlanRequest) -> Result<Plan, ApiError> {
        let order = self.order(&StartCutover {
            when_lag: Some(request.when_lag.unwrap_or_else(|| "<1s".into())),
            max_pause_ms: request.max_pause_ms,
            ..StartCutover::default()
        })?;
        let standing = self.standing().await.map_err(unavailable)?;
        let direction = Direction::leaving(standing.serving);
        let world = self.world_of(direction).ok_or_else(no_way_back)?;
        let epoch = self.next_epoch(&standing).await.map_err(unavailable)?;
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

fn unavailable(error: PortError) -> ApiError {
    let answer = ApiError::new(ErrorCode::Unavailable, error.what, error.place);
    match error.remedy {
        Some(remedy) => answer.next(remedy),
        None => answer,
    }
}
