//! What a time of watching may do by itself: end, and begin one rollback.
//!
//! That a monitor ended it is in the run's report, in the journal, before the rollback begins. So a
//! crash in between is made up for by the next life ([`Service::due_rollback`]), and whatever
//! becomes of the rollback, there is no second one: the run that it answers is over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;

use super::{Service, WATCH_END};
use crate::api::{ApiError, MonitorStatus, RunStatus, StartCutover};
use crate::controller::{Breached, Finish};
use crate::hub::RunHub;
use crate::phase::WatchEnd;
use crate::ports::{Clock, Replication, World};
use crate::side::Direction;
use crate::watch::Baseline;

/// Who asks for a rollback that nobody asked for, for the record.
pub const ACTOR: &str = "watch";
/// A rollback that could not be begun for so long is not begun any more: whoever looks at it by
/// then does not expect it.
const DUE_FOR: SignedDuration = SignedDuration::from_mins(5);
/// How long the lag has to be small before such a rollback: its clients have waited long enough.
const HOLD_FOR_MS: u64 = 500;
/// No rollback is begun by itself over a way back that is further behind, seconds: its gate would
/// not pass, and there is only one.
const READY_LAG_S: f64 = 5.0;

/// What the monitors and the runs tell each other.
#[derive(Debug, Default)]
pub(super) struct Board {
    baseline: Mutex<Baseline>,
    breach: Mutex<Option<Breached>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// Gives a run that begins what is known of the time before it.
    pub(super) fn prepare(&self, hub: &RunHub) {
        hub.keep_baseline(lock(&self.baseline).clone());
    }
}

impl<W: World + 'static> Service<W> {
    /// How things are before a flip: kept for the run that comes, or that waits for its gate.
    pub(crate) fn keep_baseline(&self, baseline: Baseline) {
        if let Some(hub) = self.hub() {
            hub.keep_baseline(baseline.clone());
        }
        *lock(&self.board.baseline) = baseline;
    }

    /// How things were before the flip of this run.
    pub(crate) fn baseline_of(&self, run: &str) -> Baseline {
        self.of_run(run).map(|hub| hub.baseline()).unwrap_or_default()
    }

    /// Shows how the monitors of a run do.
    pub(crate) fn show_monitors(&self, run: &str, monitors: Vec<MonitorStatus>) {
        if let Some(hub) = self.of_run(run) {
            hub.set(|status| status.monitors = monitors);
        }
    }

    /// Adds something that was found while watching to a run's report.
    pub(crate) fn remark(&self, run: &str, text: String) {
        if let Some(hub) = self.of_run(run) {
            hub.remark(self.forward.clock().wall(), text);
        }
    }

    /// The ports of a direction, if there is such a stream.
    pub(crate) fn world_in(&self, direction: Direction) -> Option<Arc<W>> {
        self.world_of(direction)
    }

    fn of_run(&self, run: &str) -> Option<Arc<RunHub>> {
        self.hub().filter(|hub| hub.status().run == run)
    }

    /// Why nothing could be rolled back over the way back of a cutover now.
    pub(crate) fn way_back_obstacle(&self) -> Result<(), String> {
        let Some(back) = self.world_of(Direction::Back) else {
            return Err("there is no way back".into());
        };
        let progress = back.replication().progress();
        let progress = progress.borrow();
        if let Some(blocked) = &progress.blocked {
            return Err(format!("the way back: {blocked}"));
        }
        match progress.lag.seconds {
            None => Err("how far the way back is behind is not known".into()),
            Some(lag) if lag > READY_LAG_S => {
                Err(format!("the way back is more than {READY_LAG_S} s behind"))
            }
            Some(_) => Ok(()),
        }
    }

    /// Ends a run's time of watching because of what its monitors found. `true`: it is in the
    /// journal, and a rollback is due.
    pub(crate) async fn end_by_breach(&self, run: &str, what: String) -> bool {
        let Some(hub) = self.of_run(run) else { return false };
        hub.end_watch(WatchEnd::Breached(what))
            && tokio::time::timeout(WATCH_END, hub.ended()).await.is_ok()
    }

    /// The breach that ended the newest cutover's time of watching, if one did; answered or not. As
    /// of the last [`Service::due_rollback`].
    pub fn breach(&self) -> Option<Breached> {
        lock(&self.board.breach).clone()
    }

    /// The breach that no rollback was begun for yet, if one still should be. Reads the journal.
    pub(crate) async fn due_rollback(&self) -> Option<Breached> {
        let standing = match self.standing().await {
            Ok(standing) => standing,
            Err(error) => {
                tracing::warn!("whether a rollback is due can't be seen: {error}");
                return None;
            }
        };
        // Whoever ends the move has decided about it.
        let of_interest = standing.breach.clone().filter(|_| standing.finish == Finish::NotAsked);
        *lock(&self.board.breach) = of_interest;
        let age = |breach: &Breached| self.forward.clock().wall().duration_since(breach.at).abs();
        standing.breach.filter(|breach| {
            !breach.answered
                && standing.finish == Finish::NotAsked
                && standing.way_back
                && age(breach) < DUE_FOR
        })
    }

    /// Begins the rollback that is due.
    pub(crate) async fn answer_breach(
        self: &Arc<Self>,
        breach: &Breached,
        gate_timeout: Duration,
    ) -> Result<RunStatus, ApiError> {
        let request = StartCutover {
            for_ms: Some(HOLD_FOR_MS),
            gate_timeout_ms: Some(u64::try_from(gate_timeout.as_millis()).unwrap_or(u64::MAX)),
            watch_ms: Some(0),
            actor: Some(ACTOR.into()),
            reason: Some(format!("run {}: {}", breach.run, breach.what)),
            confirmation: Some("--yes".into()),
            ..StartCutover::default()
        };
        self.rollback(request).await
    }
}
