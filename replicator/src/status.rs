//! What the sidecar knows about itself, in one place: written by the engine and its probes, read by
//! the API, the metrics and the alerts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cutover::lag::{LagReading, LagTracker};
use cutover::marker::Token;
use cutover::ports::Obstacle;
use cutover::{Direction, Side, api};
use decoders::Lsn;
use decoders::source::Positions;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::engine::budget::Budget;
use crate::engine::frontier::Frontier;
use crate::engine::hold::Hold;
use crate::engine::marker::MarkerGate;
use crate::engine::totals::AppliedTotals;
use crate::engine::touched::Touched;
use crate::protect::wal::WalStatus;

mod catalog;
mod confirmed;
mod copy;
mod documents;
mod halt;
mod kept;

pub use catalog::CatalogFacts;
use confirmed::Confirmed;

/// What blue's slot looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SlotReading {
    /// WAL that it makes blue keep.
    pub retained_bytes: Option<u64>,
    /// `max_slot_wal_keep_size`, if there is a limit.
    pub retained_bytes_max: Option<u64>,
    /// What blue says about that log.
    pub wal_status: WalStatus,
    /// `max_wal_size`: what blue keeps anyway.
    pub max_wal_size_bytes: u64,
    /// Whether a walsender serves it.
    pub active: bool,
    /// Age of the oldest transaction on blue that has written.
    pub oldest_write_transaction_seconds: Option<f64>,
}

struct Facts {
    phase: api::PipelinePhase,
    since: Timestamp,
    waiting_for: Option<String>,
    blue: api::Server,
    green: api::Server,
    last_error: Option<api::Problem>,
    /// The source's log, when it is as much as the source may keep for us.
    log_problem: Option<api::Problem>,
    halted: Option<halt::Halted>,
    /// Since when the attempt streams, if it does.
    hot_since: Option<Instant>,
    slot: SlotReading,
    head: Option<Lsn>,
    /// Why no cutover may begin although the stream is fine.
    obstacle: Option<Obstacle>,
    /// What a flip had to leave off on the side that serves.
    left_off: Option<LeftOff>,
    /// Constraints that the target lacks.
    constraints: Option<String>,
    confirmed: Confirmed,
    copy: copy::CopyProgress,
    kept: kept::Kept,
    /// The lag when it was last known; at the start it is taken to be none.
    lag_seen: (Instant, f64),
    /// What positions stand for, of a source of which transactions are counted.
    terms: Option<Arc<dyn Positions>>,
}

/// Triggers and rules that a flip had to leave off on the side that serves.
#[derive(Clone, PartialEq, Debug)]
pub struct LeftOff {
    /// Which, their statements, and why; never empty where it is shown.
    pub what: Vec<String>,
    /// The side that serves.
    pub side: Side,
    /// Since when clients are served without them.
    pub since: Timestamp,
}

/// The sidecar's self-knowledge. Shared by all its parts.
pub struct Shared {
    /// The pipeline's name.
    pub pipeline: String,
    /// Which way it streams. What is called blue here is the stream's source, and green its target.
    pub direction: Direction,
    /// Whether what the source writes goes to the target; else the stream stands by.
    pub carries: watch::Sender<bool>,
    /// Whether the stream reads.
    pub hot: watch::Sender<bool>,
    /// Whether it has ended for good.
    pub is_over: AtomicBool,
    /// The stream's positions.
    pub progress: Arc<watch::Sender<Frontier>>,
    /// What was applied.
    pub totals: watch::Sender<AppliedTotals>,
    /// Rows that a continuous verification has to look at.
    pub touched: Arc<Touched>,
    /// Markers.
    pub gate: MarkerGate,
    /// Where its target may be held.
    pub hold: Hold,
    /// What the watch over the catalogs has found.
    pub catalog: CatalogFacts,
    /// The memory budget.
    pub budget: Budget,
    /// Somebody wants the next attempt now.
    pub retry: Notify,
    lag: Mutex<LagTracker>,
    facts: Mutex<Facts>,
    reconnects: AtomicU64,
    errors: AtomicU64,
    alert_errors: AtomicU64,
    fence_leaks: AtomicU64,
}

impl Shared {
    /// A pipeline that is starting.
    pub fn new(
        pipeline: String,
        direction: Direction,
        blue: api::Server,
        green: api::Server,
        budget: Budget,
    ) -> Self {
        Self {
            pipeline,
            direction,
            carries: watch::Sender::new(direction == Direction::Forward),
            hot: watch::Sender::new(false),
            is_over: AtomicBool::new(false),
            progress: Arc::new(watch::Sender::new(Frontier::default())),
            totals: watch::Sender::new(AppliedTotals::default()),
            touched: Arc::default(),
            gate: MarkerGate::default(),
            hold: Hold::default(),
            catalog: CatalogFacts::default(),
            budget,
            retry: Notify::new(),
            lag: Mutex::new(LagTracker::new()),
            facts: Mutex::new(Facts {
                phase: api::PipelinePhase::Starting,
                since: Timestamp::now(),
                waiting_for: None,
                blue,
                green,
                last_error: None,
                log_problem: None,
                halted: None,
                hot_since: None,
                slot: SlotReading::default(),
                head: None,
                obstacle: None,
                left_off: None,
                constraints: None,
                confirmed: Confirmed::new(Instant::now()),
                copy: copy::CopyProgress::default(),
                kept: kept::Kept::default(),
                lag_seen: (Instant::now(), 0.0),
                terms: None,
            }),
            reconnects: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            alert_errors: AtomicU64::new(0),
            fence_leaks: AtomicU64::new(0),
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        // A panic elsewhere must not hide the status that would explain it.
        self.facts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn lag(&self) -> MutexGuard<'_, LagTracker> {
        self.lag.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The pipeline is doing something else now.
    pub fn enter(&self, phase: api::PipelinePhase) {
        let mut facts = self.facts();
        if facts.keeps_back(phase) {
            return;
        }
        if facts.phase != phase {
            tracing::info!(pipeline = self.pipeline, phase = phase.name(), "phase");
            facts.phase = phase;
            facts.since = Timestamp::now();
        }
        facts.waiting_for = None;
    }

    /// The stream reads now, or does so no more; the phase follows.
    pub fn runs(&self, hot: bool) {
        self.hot.send_replace(hot);
        if hot {
            self.facts().hot_since.get_or_insert_with(Instant::now);
            self.enter(self.phase_of_hot());
        }
    }

    fn phase_of_hot(&self) -> api::PipelinePhase {
        match *self.carries.borrow() {
            true => api::PipelinePhase::Streaming,
            false => api::PipelinePhase::CutOver,
        }
    }

    /// From now on what the source writes goes to the target, with what was held.
    pub fn carry(&self) {
        self.gate.open();
        self.carries.send_replace(true);
        if *self.hot.borrow() {
            self.enter(self.phase_of_hot());
        }
    }

    /// From now on whatever the source commits at or behind `since` is held.
    pub fn stand_by(&self, token: &Token, since: Lsn) {
        self.gate.close(token, since);
        self.carries.send_replace(false);
        // What stood in the way of a run from this side is none of the other direction's.
        self.stand_in_the_way(None);
        self.enter(self.phase_of_hot());
    }

    /// What it waits for, in words; `None` when it waits no more.
    pub fn wait_for(&self, reason: Option<String>) {
        self.facts().waiting_for = reason;
    }

    /// The phase now.
    pub fn phase(&self) -> api::PipelinePhase {
        self.facts().phase
    }

    /// Something went wrong; stays visible until [`Shared::healed`].
    pub fn problem(&self, problem: api::Problem) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.facts().last_error = Some(problem);
    }

    /// It is over; what a halt is about stays until the halt is over.
    pub fn healed(&self) {
        let mut facts = self.facts();
        if facts.halted.is_none() {
            facts.last_error = None;
        }
    }

    /// The source keeps as much log for us as it may, or no more.
    pub fn log_budget(&self, problem: Option<api::Problem>) {
        if problem.is_some() {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        self.facts().log_problem = problem;
    }

    /// What went wrong, if that is not over.
    pub fn trouble(&self) -> Option<String> {
        let facts = self.facts();
        let problem = facts.last_error.as_ref()?;
        Some(format!("{}: {}", problem.place, problem.what))
    }

    /// A connection has to be made anew.
    pub fn reconnecting(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    /// Blue answered (with its version) or did not.
    pub fn blue_seen(&self, version: Option<&str>, up: bool) {
        Self::server_seen(&mut self.facts().blue, version, up);
    }

    /// Green answered (with its version) or did not.
    pub fn green_seen(&self, version: Option<&str>, up: bool) {
        Self::server_seen(&mut self.facts().green, version, up);
    }

    fn server_seen(server: &mut api::Server, version: Option<&str>, up: bool) {
        server.up = up;
        if let Some(version) = version {
            server.version = Some(version.to_string());
        }
    }

    /// The slot, as last seen.
    pub fn slot_seen(&self, slot: SlotReading) {
        let mut facts = self.facts();
        facts.slot = slot;
        facts.kept.seen(Instant::now(), slot.retained_bytes);
    }

    /// The slot, as last seen.
    pub fn slot(&self) -> SlotReading {
        self.facts().slot
    }

    /// Blue's head was asked for at `asked_at`.
    pub fn head_sampled(&self, asked_at: Instant, head: Lsn) {
        self.lag().sample(asked_at, head);
        self.facts().head = Some(head);
    }

    /// Blue's head as it was asked for at `since` has not been read yet, and is not counted for that
    /// reason; `None` if all have.
    pub fn head_awaited(&self, since: Option<Instant>) {
        self.lag().awaits(since);
    }

    /// Log between blue's head and what was received; `None` if the head is not known.
    pub fn bytes_behind(&self) -> Option<u64> {
        let received = self.progress.borrow().received();
        let facts = self.facts();
        facts.head.filter(|_| facts.terms.is_none()).map(|head| head.bytes_since(received))
    }

    /// Blue's head could not be read.
    pub fn head_unknown(&self, reason: &str) {
        self.lag().sample_failed(reason);
    }

    /// Positions are numbers of transactions from now on, not bytes of a log, and `terms` says what they
    /// stand for.
    pub fn counts_transactions(&self, terms: Arc<dyn Positions>) {
        self.facts().terms = Some(terms);
    }

    /// Something that no cutover may go past, or nothing any more.
    pub fn stand_in_the_way(&self, obstacle: Option<String>) {
        let mut facts = self.facts();
        let obstacle = obstacle.map(Obstacle::staying);
        if let Some(obstacle) = obstacle.as_ref().filter(|_| facts.obstacle != obstacle) {
            let obstacle = &obstacle.why;
            tracing::warn!(pipeline = self.pipeline, obstacle, "no cutover is possible");
        }
        facts.obstacle = obstacle;
    }

    /// No cutover until something is known that is not known yet; nothing is wrong.
    pub fn hold_back(&self, reason: &str) {
        self.facts().obstacle = Some(Obstacle::passing(reason));
    }

    /// A flip had to leave these off where clients are served; `None` when all are on.
    pub fn leaves_off(&self, left: Option<LeftOff>) {
        self.facts().left_off = left;
    }

    /// Constraints that the target can't have yet, in words; `None` when it has all.
    pub fn lacks_constraints(&self, words: Option<String>) {
        let mut facts = self.facts();
        if let Some(constraints) = words.as_ref().filter(|_| facts.constraints != words) {
            tracing::warn!(pipeline = self.pipeline, constraints, "no cutover is possible");
        }
        facts.constraints = words;
    }

    /// Constraints that the target can't have yet.
    pub fn lacking_constraints(&self) -> Option<String> {
        self.facts().constraints.clone()
    }

    /// What no cutover may go past.
    pub fn obstacle(&self) -> Option<Obstacle> {
        let facts = self.facts();
        match (&facts.obstacle, &facts.constraints) {
            (obstacle, None) => obstacle.clone(),
            (None, Some(constraints)) => Some(Obstacle::staying(constraints)),
            (Some(obstacle), Some(constraints)) => {
                Some(Obstacle::staying(format!("{obstacle}; {constraints}")))
            }
        }
    }

    /// An alert could not be delivered.
    pub fn alert_failed(&self) {
        self.alert_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Why no cutover may begin although everything is applied: what is applied is not durable.
    pub fn unconfirmed(&self) -> Option<String> {
        let silent = self.facts().confirmed.silent_for(Instant::now())?;
        let (from, to) = (self.direction.from(), self.direction.to());
        Some(format!(
            "what is applied on {to} has not been confirmed for {:.0} s: {to}'s log (is a synchronous \
             standby away?) or the state directory's disk does not answer; {from} keeps its log for it meanwhile",
            silent.as_secs_f64(),
        ))
    }

    /// Row changes came behind a fence.
    pub fn fence_leaked(&self, changes: u64) {
        self.fence_leaks.fetch_add(changes, Ordering::Relaxed);
    }

    /// Lag as of now, with the newest positions.
    pub fn lag_now(&self) -> LagReading {
        let counts_bytes = self.facts().terms.is_none();
        let mut tracker = self.lag();
        // Behind the tracker's lock, or an older one could come after a newer one, as if green had lost something.
        let frontier = *self.progress.borrow();
        let now = Instant::now();
        self.facts().confirmed.seen(now, frontier.durable(), frontier.applied());
        tracker.applied(now, frontier.applied());
        tracker.in_flight(frontier.in_flight());
        let reading = tracker.reading(now);
        LagReading { bytes: reading.bytes.filter(|_| counts_bytes), ..reading }
    }

    /// How many alerts could not be delivered.
    pub fn alert_errors(&self) -> u64 {
        self.alert_errors.load(Ordering::Relaxed)
    }
}
