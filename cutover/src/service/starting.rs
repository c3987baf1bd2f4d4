//! Whether a run may begin, and its begin.

use std::sync::Arc;
use std::time::Duration;

use super::{ASK, PAUSE_MAX, PAUSE_MIN, Service, no_way_back, not_ready, unavailable};
use crate::api::{ApiError, ErrorCode, RunStatus, Severity, StartCutover};
use crate::controller::{Finish, Order, Scope, Standing, run};
use crate::gate::{LagExpr, ParseExprError};
use crate::hub::RunHub;
use crate::phase::Phase;
use crate::ports::{Clock, Decision, Epoch, Fence, PortError, PortResult, World};
use crate::rehearse::{plan_hash, rehearse};
use crate::side::{Direction, Side};
use crate::verify::Requirement;

impl<W: World + 'static> Service<W> {
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

    async fn start_run(
        self: &Arc<Self>,
        direction: Direction,
        request: StartCutover,
    ) -> Result<RunStatus, ApiError> {
        let world = self.world_of(direction).ok_or_else(no_way_back)?;
        let order = self.order(&request)?;
        self.confirm(request.confirmation.as_deref())?;
        let _starting = self.starting.lock().await;
        if self.is_watching(direction.reversed()) {
            self.refuse_while_watching(direction, &order).await?;
        }
        let standing = self.settle(direction).await?;
        let epoch = self.next_epoch(&standing).await.map_err(not_ready)?;
        let order = Order { epoch, ..order };
        if let Some(expected) = &request.plan_hash {
            let found = plan_hash(world.as_ref(), &order).await.map_err(not_ready)?;
            // The epoch is part of the acts: a run in between makes the plan another one.
            if found != *expected {
                return Err(plan_outdated());
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

    fn is_watching(&self, direction: Direction) -> bool {
        let is_watching =
            |run: &RunStatus| run.direction == direction && run.phase == Phase::Watching;
        self.current().is_some_and(|run| is_watching(&run))
    }

    /// A run this way would end a watch, and with it a rollback that would come by itself: what can
    /// be known to stand in its way has to be known before.
    async fn refuse_while_watching(
        &self,
        direction: Direction,
        order: &Order,
    ) -> Result<(), ApiError> {
        if order.drill {
            let what = "a drill would end the watch of the side that serves, and its rollback";
            return Err(ApiError::new(ErrorCode::Busy, what, "sidecar")
                .in_state(Phase::Watching.name())
                .next("cutover status --watch"));
        }
        let standing = self.standing().await.map_err(unavailable)?;
        refuse_by_standing(&standing, direction)?;
        let world = self.world_of(direction).ok_or_else(no_way_back)?;
        let epoch = self.next_epoch(&standing).await.map_err(not_ready)?;
        let order = Order { epoch, ..order.clone() };
        let plan = rehearse(world.as_ref(), &order).await;
        if let Some(check) = plan.checks.iter().find(|check| check.severity == Severity::Fail) {
            let what = format!("{}: {}", check.name, check.evidence);
            let refused = ApiError::new(ErrorCode::PrecheckFailed, what, "prechecks")
                .in_state("the side that serves is still watched");
            return Err(match &check.fix {
                Some(fix) => refused.next(fix.clone()),
                None => refused.next("cutover plan"),
            });
        }
        if order.plan_hash.as_ref().is_some_and(|expected| *expected != plan.hash) {
            return Err(plan_outdated());
        }
        Ok(())
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

    pub(super) fn order(&self, request: &StartCutover) -> Result<Order, ApiError> {
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
            require: Requirement::new(request.require_verified_ms, request.accept_differences),
            accepts: request.accepts.clone(),
            actor: request.actor.clone(),
            reason: request.reason.clone(),
        })
    }

    pub(super) async fn next_epoch(&self, standing: &Standing) -> PortResult<Epoch> {
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
}

fn plan_outdated() -> ApiError {
    let what = "the world has changed since the plan was made";
    ApiError::new(ErrorCode::PrecheckFailed, what, "plan").next("cutover plan")
}

/// Refuses a run that the journal rules out, whatever the servers say.
pub(super) fn refuse_by_standing(
    standing: &Standing,
    direction: Direction,
) -> Result<(), ApiError> {
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
