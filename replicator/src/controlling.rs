//! The engine as the cutover's controller sees it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cutover::api::{Act, Check, PipelinePhase};
use cutover::counts::Counted;
use cutover::evidence::Committed;
use cutover::marker::Token;
use cutover::ports::{
    Handed, Leaks, Leftover, MarkerDecoded, MarkerDurable, Obstacle, PortError, PortResult,
    Progress, Refreshed, Replication,
};
use cutover::verify::Accepted;
use decoders::Lsn;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::pipeline::arming::SlotRoute;
use crate::pipeline::failure::Failure;
use crate::pipeline::route::Route;
use crate::status::Shared;
use crate::store::{Role, Store, StoreError};

/// How often the controller's view of the engine is renewed.
const RENEW_INTERVAL: Duration = Duration::from_millis(50);

/// Pause before something that is still in use is removed again.
const REMOVE_INTERVAL: Duration = Duration::from_millis(200);

/// The running engine of one direction. Cheap to clone; all clones are one engine.
pub struct EngineReplication<R = SlotRoute> {
    pub(crate) shared: Arc<Shared>,
    /// The stream the other way round.
    pub(crate) peer: Arc<Shared>,
    pub(crate) store: Store,
    pub(crate) route: Arc<R>,
    progress: watch::Sender<Progress>,
    finished: watch::Sender<bool>,
}

impl<R> Clone for EngineReplication<R> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            peer: Arc::clone(&self.peer),
            store: self.store.clone(),
            route: Arc::clone(&self.route),
            progress: self.progress.clone(),
            finished: self.finished.clone(),
        }
    }
}

impl<R: Route> EngineReplication<R> {
    /// Over the shared state of this direction's stream and of the other's, and the store of this
    /// direction. `finished` turns true when the stream must end for good.
    pub fn new(
        shared: Arc<Shared>,
        peer: Arc<Shared>,
        store: Store,
        route: Arc<R>,
        finished: watch::Sender<bool>,
    ) -> Self {
        let progress = watch::Sender::new(progress_of(&shared, None));
        Self { shared, peer, store, route, progress, finished }
    }

    /// What the stream is for, as it was recorded: before it is started.
    ///
    /// # Errors
    /// The store's.
    pub fn take_role(&self) -> Result<(), StoreError> {
        match self.store.role()? {
            Role::Carry => self.shared.carry(),
            Role::Standby { token, since } => self.shared.stand_by(&token, since),
        }
        Ok(())
    }

    /// Renews the controller's view for as long as it is polled.
    pub async fn renew(&self) {
        let mut tick = tokio::time::interval(RENEW_INTERVAL);
        let mut rate = Rate::default();
        loop {
            tick.tick().await;
            let transactions = self.shared.totals.borrow().transactions;
            let per_second = rate.observe(Instant::now(), transactions);
            self.progress.send_replace(progress_of(&self.shared, per_second));
        }
    }
}

fn progress_of(shared: &Shared, transactions_per_second: Option<f64>) -> Progress {
    // First: it takes a look at the checkpoint.
    let lag = shared.lag_now();
    let blocked = match shared.phase() {
        PipelinePhase::Streaming | PipelinePhase::CatchingUp | PipelinePhase::CuttingOver => {
            // A run that has its marker waits for it to be durable by itself, as long as its pause may last.
            let unconfirmed = || shared.unconfirmed().filter(|_| !shared.gate.is_reached());
            shared.obstacle().or_else(|| unconfirmed().map(Obstacle::passing))
        }
        PipelinePhase::Copying | PipelinePhase::Indexing => {
            Some(Obstacle::passing("the first copy is not done yet"))
        }
        PipelinePhase::CutOver => {
            Some(Obstacle::staying(format!("{} serves already", shared.direction.to())))
        }
        phase @ PipelinePhase::Halted => {
            let why = shared.trouble().unwrap_or_else(|| "no reason is known".into());
            Some(Obstacle::staying(format!("the stream is not running ({}): {why}", phase.name())))
        }
        phase => Some(Obstacle::passing(format!("the stream is not running ({})", phase.name()))),
    };
    Progress { lag, blocked, transactions_per_second }
}

/// Transactions per second over the last two seconds or so.
#[derive(Default)]
struct Rate {
    since: Option<(Instant, u64)>,
    last: Option<f64>,
}

impl Rate {
    fn observe(&mut self, now: Instant, count: u64) -> Option<f64> {
        match self.since {
            None => self.since = Some((now, count)),
            Some((then, before)) if now - then >= Duration::from_secs(1) => {
                let seconds = (now - then).as_secs_f64();
                self.last = Some(count.saturating_sub(before) as f64 / seconds);
                self.since = Some((now, count));
            }
            Some(_) => {}
        }
        self.last
    }
}

impl<R: Route> Replication for EngineReplication<R> {
    fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    async fn arm(&self, token: &Token) -> PortResult<()> {
        self.route.prepare_to_know().await?;
        self.shared.gate.arm(token).map_err(|armed| {
            PortError::new("stream", format!("another run's marker is awaited already: {armed}"))
        })
    }

    async fn await_marker(&self, token: &Token, deadline: Instant) -> PortResult<MarkerDurable> {
        let mut gate = self.shared.gate.watch();
        let mut progress = self.shared.progress.subscribe();
        let arrived = async {
            let state = gate
                .wait_for(|state| state.armed.as_ref() != Some(token) || state.seen_at.is_some())
                .await
                .map_err(|_| PortError::new("stream", "the engine is gone"))?
                .clone();
            let Some(end_lsn) = state.seen_at.filter(|_| state.armed.as_ref() == Some(token))
            else {
                return Err(PortError::new("stream", format!("the marker {token} is not armed")));
            };
            let frontier = progress.wait_for(|frontier| frontier.durable() >= end_lsn).await;
            let durable =
                frontier.map_err(|_| PortError::new("stream", "the engine is gone"))?.durable();
            Ok(MarkerDurable { token: token.clone(), end_lsn, durable })
        };
        let arrived = async {
            let arrived = tokio::time::timeout_at(deadline, arrived).await;
            arrived.unwrap_or_else(|_| Err(self.late(&format!("the marker {token} on green"))))
        };
        // The source is closed: what has moved rows there outside of the stream has done so by now. So it is
        // looked at while the marker is on its way.
        let seen = async {
            let looking = self.route.look_at_source();
            in_time("a last look at the catalog", deadline, looking).await?
        };
        let (arrived, seen) = tokio::try_join!(arrived, seen)?;
        let known = self.route.ensure_known(&self.shared, seen);
        in_time("a last look at the catalog", deadline, known).await??;
        Ok(arrived)
    }

    async fn await_decoded(&self, token: &Token, deadline: Instant) -> PortResult<MarkerDecoded> {
        let mut gate = self.shared.gate.watch();
        let decoded =
            gate.wait_for(|state| state.later.as_ref().is_some_and(|(later, _, _)| later == token));
        let state = tokio::time::timeout_at(deadline, decoded)
            .await
            .map_err(|_| self.late(&format!("the marker {token} in the stream")))?
            .map_err(|_| PortError::new("stream", "the engine is gone"))?;
        let (token, end_lsn, leaks) =
            state.later.clone().expect("the condition above asks for a later marker");
        drop(state);
        self.shared.fence_leaked(leaks.count);
        Ok(MarkerDecoded { token, end_lsn, leaks })
    }

    async fn await_applied(&self, position: Lsn, deadline: Instant) -> PortResult<()> {
        let mut progress = self.shared.progress.subscribe();
        let applied = progress.wait_for(|frontier| frontier.applied() >= position);
        match tokio::time::timeout_at(deadline, applied).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(PortError::new("stream", "the engine is gone")),
            Err(_) => Err(self.late(&format!("what was committed up to {position}"))),
        }
    }

    async fn count_rows(&self, bytes: u64, deadline: Instant) -> PortResult<Counted> {
        self.route.count_rows(&self.shared, bytes, deadline).await
    }

    async fn inspect(&self) -> PortResult<Vec<Check>> {
        self.route.compare().await
    }

    async fn refresh(&self, accepts: &[Accepted]) -> PortResult<Refreshed> {
        self.route.refresh(accepts).await
    }

    async fn refreshing(&self, accepts: &[Accepted]) -> PortResult<Vec<Act>> {
        self.route.refreshing(accepts).await
    }

    fn leaks(&self) -> Leaks {
        self.shared.gate.watch().borrow().leaks.clone()
    }

    async fn release(&self, token: &Token) -> PortResult<()> {
        self.shared.gate.release(token);
        Ok(())
    }

    async fn prepare_hand_over(&self, deadline: Instant) -> PortResult<()> {
        let noted = in_time("noting triggers and events", deadline, self.route.note_automation());
        noted.await?.map_err(|failure| of_failure(self.route.put(failure)))
    }

    async fn hand_over(&self, proof: &Committed, deadline: Instant) -> PortResult<Handed> {
        if proof.to() != self.route.direction().to() {
            return Err(PortError::new(
                "stream",
                format!("{} serves, and this stream does not lead there", proof.to()),
            ));
        }
        let made = in_time("making triggers and events", deadline, self.route.bring_automation());
        made.await?.map_err(|failure| of_failure(self.route.put(failure)))
    }

    fn hands_over(&self) -> bool {
        self.route.brings_automation()
    }

    fn handing_over(&self) -> Vec<Act> {
        self.route.bringing()
    }

    async fn finish(&self, token: &Token) -> PortResult<()> {
        let (store, marker) = (self.store.clone(), token.to_string());
        let recorded = tokio::task::spawn_blocking(move || store.end(marker));
        let recorded =
            recorded.await.map_err(|e| PortError::new("state directory", e.to_string()))?;
        recorded.map_err(|error| {
            PortError::new("state directory", error.to_string())
                .remedy(error.remedy())
                .caused_by(error)
        })?;
        self.shared.enter(PipelinePhase::CutOver);
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.finished.send_replace(true);
        Ok(())
    }

    async fn unneeded(&self, deadline: Instant) -> PortResult<Vec<String>> {
        let found = in_time("reading replica identities", deadline, self.route.unneeded()).await?;
        found.map_err(|failure| of_failure(self.route.put(failure)))
    }

    fn removal(&self, what: Leftover) -> Act {
        self.route.removal(what)
    }

    async fn remove(&self, what: Leftover, deadline: Instant) -> PortResult<String> {
        let name = what.name();
        let removed = async {
            loop {
                match self.route.remove(what).await {
                    // The stream's sessions are about to end.
                    Err(failure) if failure.is_transient() => {
                        tracing::debug!(what = name, error = failure.what, "not removed yet");
                        tokio::time::sleep(REMOVE_INTERVAL).await;
                    }
                    removed => return removed,
                }
            }
        };
        let removed = in_time(&format!("removing the {name}"), deadline, removed).await?;
        removed.map_err(|failure| of_failure(self.route.put(failure)))
    }
}

/// What `act` gives, unless it takes too long.
pub(crate) async fn in_time<T>(
    doing: &str,
    deadline: Instant,
    act: impl Future<Output = T>,
) -> PortResult<T> {
    let late = |_| PortError::new("stream", format!("{doing} takes too long"));
    tokio::time::timeout_at(deadline, act).await.map_err(late)
}

/// A failure of the pipeline as the controller takes it.
pub(crate) fn of_failure(failure: Failure) -> PortError {
    let error = PortError::new(failure.place, failure.what).of(failure.nature);
    match failure.remedy {
        Some(remedy) => error.remedy(remedy),
        None => error,
    }
}

impl<R: Route> EngineReplication<R> {
    pub(crate) fn late(&self, what: &str) -> PortError {
        let lag = self.shared.lag_now();
        let behind = lag.bytes.map_or("unknown".into(), |bytes| format!("{bytes} bytes"));
        PortError::new("stream", format!("{what} did not arrive in time (lag {behind})"))
    }
}
