//! Waiting for the moment: the lag, the writers, the way back, the rows of both sides, the plan and what
//! verifications have found.
//!
//! What can pass by itself is waited for and said. What can't - rows that differ, a world that is no
//! longer the plan's - ends the run with nothing touched.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;

use super::acts::precheck_failed;
use super::sight::{Armed, Sight};
use super::{Run, stop};
use crate::api::{Check, RunEventKind, Severity};
use crate::gate::Gate;
use crate::phase::{Stop, StopKind};
use crate::ports::{Clock, Decision, Fence, PortResult, Progress, Sequences, World};

/// Comparing the rows of both sides takes no longer than this.
const COMPARE: Duration = Duration::from_secs(15);
/// Comparing definitions takes no longer than this, hundreds of thousands of them on busy servers included.
/// Clients are not held meanwhile.
const COMPARE_DEFINITIONS: Duration = Duration::from_secs(10 * 60);
/// After an error, before the rows are compared again.
const COMPARE_AGAIN: Duration = Duration::from_secs(1);
/// A last look is good for this long, and for as long as the gate has to hold after it.
const LOOK_GOOD: Duration = Duration::from_secs(2);

type Comparison<'a> = Pin<Box<dyn Future<Output = PortResult<Vec<Check>>> + Send + 'a>>;

/// Compares both sides, of which one may be closed: `opening` opens it.
async fn compare<W: World>(
    world: &W,
    opening: Option<<W::Fence as Fence>::Undo>,
    deadline: Instant,
) -> PortResult<Vec<Check>> {
    let door = match &opening {
        Some(undo) => Some(world.fence_of(world.direction().to()).airlock(undo, deadline).await?),
        None => None,
    };
    world.ready_to_compare(deadline).await?;
    drop(door);
    world.compare(deadline).await
}

/// How far the comparison of both sides has come.
enum Rows<'a> {
    /// Not begun, or to be tried again: since when, and why.
    Open(Instant, Option<String>),
    /// Under way, and why the last try was for nothing.
    Counting(Comparison<'a>, Option<String>),
    /// No difference was found.
    Compared,
}

impl Rows<'_> {
    fn waiting_for(&self) -> Option<String> {
        match self {
            Rows::Open(_, Some(why)) | Rows::Counting(_, Some(why)) => {
                Some(format!("the rows could not be compared: {why}"))
            }
            Rows::Open(_, None) | Rows::Counting(_, None) => {
                Some("counting the rows of both sides".into())
            }
            Rows::Compared => None,
        }
    }

    async fn counted(&mut self) -> PortResult<Vec<Check>> {
        match self {
            Rows::Counting(comparison, _) => comparison.await,
            Rows::Open(..) | Rows::Compared => std::future::pending().await,
        }
    }
}

impl<W: World> Run<'_, W> {
    pub(super) async fn gate(&mut self) -> Result<String, Stop> {
        let order = self.order;
        let world = self.world;
        let mut gate = Gate::new(order.when_lag.clone(), order.hold_for, order.max_pause)
            .leaving(self.direction().from());
        let ends = self.now() + order.gate_timeout;
        let mut rows = Rows::Open(self.now(), None);
        let mut views = self.views();
        let mut ready_until = None;
        let mut not_ready = None;
        loop {
            if let Some(asked) = self.hub.stop() {
                return Err(asked);
            }
            let sight = Sight::take(world, order, Armed::Yes).await;
            if let Some(check) = sight.refusal() {
                return Err(precheck_failed(check, 1));
            }
            let Sight { progress: latest, writers, proof } = sight;
            let now = self.now();
            let state = gate.observe(now, &latest, &writers);
            if state.waiting_for.is_none()
                && let Rows::Open(since, why) = &rows
                && now >= *since
            {
                let why = why.clone();
                let comparison = compare(world, self.opening.clone(), (now + COMPARE).min(ends));
                rows = Rows::Counting(Box::pin(comparison), why);
            }
            if state.passed && matches!(rows, Rows::Compared) {
                self.keep_fresh(&mut views);
            }
            let is_fresh = views.is_fresh(now);
            let is_ready = is_fresh && ready_until.is_some_and(|until| now < until);
            let lag = latest.lag.seconds;
            if state.passed && is_ready && matches!(rows, Rows::Compared) {
                self.gate_event(&latest, state.held, None);
                self.checks.extend(proof);
                let lag = lag.unwrap_or_default();
                let also = views.done().map_or(String::new(), |done| format!("; {done}"));
                return Ok(format!("lag {lag:.2} s, {} held{also}", order.when_lag));
            }
            let waiting_for = state
                .waiting_for
                .map(|obstacle| obstacle.why)
                .or_else(|| rows.waiting_for().filter(|_| state.passed))
                .or_else(|| views.waiting_for().filter(|_| state.passed))
                .or_else(|| not_ready.clone().filter(|_| state.passed));
            self.gate_event(&latest, state.held, waiting_for.clone());
            let reason = waiting_for.unwrap_or_else(|| {
                format!("the lag has to stay {} for {:?}", order.when_lag, order.hold_for)
            });
            if now >= ends {
                return Err(Stop {
                    kind: StopKind::GateTimeout,
                    what: format!(
                        "the gate did not pass within {:?}: {reason}",
                        order.gate_timeout
                    ),
                    place: "gate".into(),
                    remedy: Some(
                        "resolve what it waited for, allow more time with --gate-timeout, or a larger lag"
                            .into(),
                    ),
                });
            }
            self.waiting(reason);
            if state.passed && is_fresh && !is_ready && matches!(rows, Rows::Compared) {
                not_ready = match self.look_at_plan(ends).await? {
                    Some(why) => Some(why),
                    None => match self.look_at_definitions(ends).await? {
                        Some(why) => Some(why),
                        None => self.prepare_again(ends).await?,
                    },
                };
                let Some(why) = &not_ready else {
                    // Everything else is looked at once more, right away.
                    ready_until = Some(self.now() + LOOK_GOOD + order.hold_for);
                    continue;
                };
                self.waiting(why.clone());
                self.gate_event(&latest, state.held, Some(why.clone()));
            }
            let tick = (now + self.limits.gate_tick).min(ends);
            tokio::select! {
                biased;
                asked = self.hub.asked_to_stop() => return Err(asked),
                found = rows.counted() => rows = self.compared(found)?,
                refreshed = views.refreshed() => views = self.after_refresh(&views, refreshed)?,
                () = world.clock().sleep_until(tick) => {}
            }
        }
    }

    fn gate_event(&self, latest: &Progress, held: Duration, waiting_for: Option<String>) {
        self.hub.event(
            self.world.clock().wall(),
            RunEventKind::Gate {
                lag_seconds: latest.lag.seconds,
                condition: self.order.when_lag.to_string(),
                held_seconds: held.as_secs_f64(),
                needed_seconds: self.order.hold_for.as_secs_f64(),
                waiting_for,
                transactions_per_second: latest.transactions_per_second,
                drain_estimate_ms: latest.lag.drain_estimate_seconds.map(|s| s * 1e3),
            },
        );
    }

    /// What the comparison has found. A difference does not go away by itself.
    fn compared<'a>(&mut self, found: PortResult<Vec<Check>>) -> Result<Rows<'a>, Stop> {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                let why = format!("{} ({})", error.what, error.place);
                return Ok(Rows::Open(self.now() + COMPARE_AGAIN, Some(why)));
            }
        };
        let differs: Vec<_> =
            found.iter().filter(|check| check.severity == Severity::Fail).cloned().collect();
        self.checks.extend(found);
        match differs.as_slice() {
            [] => Ok(Rows::Compared),
            [first, ..] => Err(precheck_failed(first, differs.len())),
        }
    }

    /// Whether the world is still the one that the plan was made of; `Some`: nobody can tell, and
    /// why.
    async fn look_at_plan(&self, deadline: Instant) -> Result<Option<String>, Stop> {
        if self.plan.is_none() {
            return Ok(None);
        }
        let Some(found) = self.until_stopped(self.world.plan_hash(self.order), deadline).await?
        else {
            return Ok(Some("the plan can't be looked at again: no answer in time".into()));
        };
        match found {
            Ok(found) if found == self.plan => Ok(None),
            Ok(_) => Err(Stop {
                kind: StopKind::Precheck,
                what:
                    "the world is no longer the one that the plan was made of: a table, a right, \
                       a setting or a router was changed since"
                        .into(),
                place: "plan".into(),
                remedy: Some("look at what has changed with: cutover plan".into()),
            }),
            Err(error) => {
                let why = stop(error);
                Ok(Some(format!("the plan can't be looked at again: {} ({})", why.what, why.place)))
            }
        }
    }

    /// Whether definitions, rights and settings are still the same on both sides; `Some`: nobody can
    /// tell, and why. A deploy while the gate waited is found here.
    async fn look_at_definitions(&mut self, deadline: Instant) -> Result<Option<String>, Stop> {
        let deadline = deadline.min(self.now() + COMPARE_DEFINITIONS);
        let comparing = async {
            let _airlock = self.airlock(deadline).await?;
            self.world.definitions(self.order, deadline).await
        };
        let found = match self.until_stopped(comparing, deadline).await? {
            Some(Ok(found)) => found,
            Some(Err(error)) => {
                let why = format!("{} ({})", error.what, error.place);
                return Ok(Some(format!("definitions can't be compared: {why}")));
            }
            None => return Ok(Some("definitions can't be compared: no answer in time".into())),
        };
        let differs: Vec<_> =
            found.iter().filter(|check| check.severity == Severity::Fail).cloned().collect();
        // What was known when the run armed is in its report already.
        for check in found {
            if !self.checks.contains(&check) {
                self.checks.push(check);
            }
        }
        match differs.as_slice() {
            [] => Ok(None),
            [first, ..] => Err(precheck_failed(first, differs.len())),
        }
    }

    /// The gate may have waited for days. A commit needs a session that was not lost since it was
    /// prepared, and sequences have moved. `Some`: it can't be done, and why.
    async fn prepare_again(&self, deadline: Instant) -> Result<Option<String>, Stop> {
        let preparing = async {
            let _airlock = self.airlock(deadline).await?;
            self.world.decision().prepare().await?;
            self.world.sequences().carry_ahead(deadline).await
        };
        let why = match self.until_stopped(preparing, deadline).await? {
            Some(Ok(_)) => return Ok(None),
            Some(Err(error)) => format!("{} ({})", error.what, error.place),
            None => format!("no answer from {} in time", self.direction().to()),
        };
        let to = self.direction().to();
        Ok(Some(format!("{to} can't be prepared again for the decision: {why}")))
    }

    /// What an act has come to, unless somebody asks the run to stop; `None`: it was not done in time.
    async fn until_stopped<T>(
        &self,
        act: impl Future<Output = T>,
        deadline: Instant,
    ) -> Result<Option<T>, Stop> {
        tokio::select! {
            biased;
            asked = self.hub.asked_to_stop() => Err(asked),
            done = act => Ok(Some(done)),
            () = self.world.clock().sleep_until(deadline) => Ok(None),
        }
    }
}
