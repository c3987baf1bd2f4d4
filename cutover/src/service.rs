//! Answers the API's requests about runs. The HTTP server only translates.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::api::{
    AbortRequest, ApiError, ErrorCode, History, Plan, PlanRequest, RunStatus, RunUpdate,
    SCHEMA_VERSION, StartCutover,
};
use crate::controller::{Limits, Order, Recovery, history, recover, run};
use crate::gate::{LagExpr, ParseExprError};
use crate::hub::RunHub;
use crate::phase::Phase;
use crate::ports::{Clock, Decision, Epoch, Journal, PortError, PortResult, World};
use crate::rehearse::rehearse;

/// What a request means that says nothing about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// How long the gate must hold.
    pub hold_for: Duration,
    /// How long to wait for it.
    pub gate_timeout: Duration,
    /// The longest write pause.
    pub max_pause: Duration,
    /// Everything else.
    pub limits: Limits,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            hold_for: Duration::from_secs(3),
            gate_timeout: Duration::from_secs(30 * 60),
            max_pause: Duration::from_secs(2),
            limits: Limits::default(),
        }
    }
}

/// The longest a request for events may wait.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Pauses outside of these bounds are mistakes.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// The runs of one pipeline: at most one at a time.
pub struct Service<W: World + 'static> {
    world: Arc<W>,
    defaults: Defaults,
    current: Mutex<Option<Arc<RunHub>>>,
    /// Held while a run is being started, so that two requests can't both find nothing running.
    starting: tokio::sync::Mutex<()>,
}

impl<W: World + 'static> Service<W> {
    /// For a world whose engine may not be running yet. Call [`Service::recover`] next.
    pub fn new(world: Arc<W>, defaults: Defaults) -> Arc<Self> {
        let (current, starting) = (Mutex::default(), tokio::sync::Mutex::default());
        Arc::new(Self { world, defaults, current, starting })
    }

    /// Puts back or finishes what an earlier life of this process left behind. Before the stream
    /// is started: after [`Recovery::CutOver`], or a finished run whose outcome is `completed`, it
    /// must not be.
    pub async fn recover(&self) -> PortResult<Recovery> {
        let _starting = self.starting.lock().await;
        self.recover_now().await
    }

    async fn recover_now(&self) -> PortResult<Recovery> {
        recover(self.world.as_ref(), &self.defaults.limits, |hub| self.show(hub)).await
    }

    /// The ports.
    pub fn world(&self) -> &Arc<W> {
        &self.world
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
        let order = self.order(&request)?;
        let database = self.world.servers().0.database;
        match request.confirmation.as_deref() {
            Some("--yes") => {}
            Some(typed) if typed == database => {}
            _ => {
                return Err(ApiError::new(
                    ErrorCode::BadRequest,
                    format!(
                        "the run is not confirmed: expected the name of blue's database, {database}"
                    ),
                    "request",
                )
                .next("cutover --when-lag '<1s' --yes"));
            }
        }
        let _starting = self.starting.lock().await;
        self.refuse_if_busy()?;
        let order = Order { epoch: self.next_epoch().await.map_err(unavailable)?, ..order };
        if let Some(expected) = &request.plan_hash {
            let plan = rehearse(self.world.as_ref(), &order).await;
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
        let hub = Arc::new(RunHub::new(
            order.run.clone(),
            order.epoch,
            self.world.direction(),
            self.world.clock().wall(),
        ));
        self.show(hub.clone());
        let status = hub.status();
        let service = self.clone();
        tokio::spawn(async move {
            run(service.world.as_ref(), &order, &service.defaults.limits, &hub).await;
        });
        Ok(status)
    }

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
            Phase::Done => refuse(
                format!("run {} has cut over already; green serves", status.run),
                "cutover history",
            ),
            // The last event comes a moment after the last phase.
            phase if !phase.is_final() || status.report.is_none() => {
                refuse(format!("run {} is active", status.run), "cutover status --watch")
            }
            _ => Ok(()),
        }
    }

    async fn next_epoch(&self) -> PortResult<Epoch> {
        let entries = self.world.journal().read_all().await?;
        let journaled = entries.iter().map(|entry| entry.epoch).max().unwrap_or_default();
        let decided = self.world.decision().last_epoch().await?;
        Ok(Epoch(journaled.max(decided).0 + 1))
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
        Ok(Order {
            run: uuid::Uuid::new_v4().simple().to_string()[..8].to_owned(),
            epoch: Epoch(0),
            when_lag,
            hold_for: ms(request.for_ms, self.defaults.hold_for),
            gate_timeout: ms(request.gate_timeout_ms, self.defaults.gate_timeout),
            max_pause,
            way_back: false,
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

    /// `POST /v1/plan`.
    pub async fn plan(&self, request: PlanRequest) -> Result<Plan, ApiError> {
        let order = self.order(&StartCutover {
            when_lag: Some(request.when_lag.unwrap_or_else(|| "<1s".into())),
            max_pause_ms: request.max_pause_ms,
            ..StartCutover::default()
        })?;
        let order = Order { epoch: self.next_epoch().await.map_err(unavailable)?, ..order };
        let gate = format!("lag {} for {:?}", order.when_lag, order.hold_for);
        Ok(Plan { gate, ..rehearse(self.world.as_ref(), &order).await })
    }

    /// `GET /v1/history`.
    pub async fn history(&self) -> Result<History, ApiError> {
        let entries = self.world.journal().read_all().await.map_err(unavailable)?;
        Ok(History { schema_version: SCHEMA_VERSION, runs: history(&entries) })
    }
}

fn unavailable(error: PortError) -> ApiError {
    let answer = ApiError::new(ErrorCode::Unavailable, error.what, error.place);
    match error.remedy {
        Some(remedy) => answer.next(remedy),
        None => answer,
    }
}
