//! The ports once more, writing down instead of acting. A plan is the controller's own run over
//! these: what it lists and the order it lists it in are what a run does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use decoders::Lsn;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::{Act, ApiError, Check, Member, Plan, SCHEMA_VERSION, Server, Severity};
use crate::controller::sight::{Armed, Sight};
use crate::controller::{Limits, Order, run};
use crate::evidence::Committed;
use crate::gate::Gate;
use crate::hub::RunHub;
use crate::lag::LagReading;
use crate::marker::Token;
use crate::phase::Verdict;
use crate::ports::{
    Airlock, Clock, Decision, Entry, Epoch, Fence, FenceActs, FenceReport, Handed, Journal, Leaks,
    Lease, MarkerDecoded, MarkerDurable, MarkerWritten, PortError, PortResult, Progress, Refreshed,
    Replication, SealReport, SequenceReport, Sequences, Standby, SwitchActs, SwitchTraits,
    SystemClock, TrafficSwitch, WayBackStream, World, Writers,
};
use crate::side::{Direction, Side};
use crate::verify::Accepted;

/// The check that says what could not be refreshed.
const VIEWS: &str = "materialized-views";

/// How long a plan looks at the rows of both sides.
const COMPARE: Duration = Duration::from_secs(5);

/// What a run with this order would find and do. Reads only.
pub async fn rehearse<W: World>(world: &W, order: &Order) -> Plan {
    let Rehearsed { acts, mut checks, error } = rehearsed(world, order, Depth::Rows).await;
    if let Some(error) = error {
        checks.push(Check {
            name: "rehearsal".into(),
            severity: Severity::Fail,
            evidence: format!("{} ({})", error.what, error.place),
            fix: None,
        });
    }
    let (found, waits_for) = at_the_gate(world, order).await;
    checks.extend(found);
    let hash = hash_of(&acts);
    let (blue, green) = world.servers();
    Plan {
        schema_version: SCHEMA_VERSION,
        hash,
        epoch: order.epoch.0,
        direction: world.direction(),
        way_back: order.way_back,
        blue,
        green,
        router: world.switch().name(),
        gate: format!("lag {}", order.when_lag),
        max_pause_ms: order.max_pause.as_millis() as u64,
        ready: checks.iter().all(|check| check.severity != Severity::Fail),
        waits_for,
        checks,
        acts,
    }
}

/// What the gate would say now, by its own judgement, and what it would wait for. What a person has to
/// end fails the plan; what passes by itself does not.
async fn at_the_gate<W: World>(world: &W, order: &Order) -> (Vec<Check>, Option<String>) {
    const NAME: &str = "replication";
    let sight = Sight::take(world, order, Armed::NotYet).await;
    let gate = Gate::new(order.when_lag.clone(), Duration::ZERO, order.max_pause);
    let mut gate = gate.leaving(world.direction().from());
    let state = gate.observe(world.clock().now(), &sight.progress, &sight.writers);
    let lag = sight.progress.lag.seconds.unwrap_or_default();
    let check = match &state.waiting_for {
        None => Check::ok(NAME, format!("streaming, lag {lag:.2} s")),
        Some(obstacle) if obstacle.stays => {
            let fix = "end it, then: cutover plan; no run goes past it";
            Check::fail(NAME, &obstacle.why, fix)
        }
        Some(obstacle) => Check::warn(NAME, &obstacle.why, "the gate waits for it"),
    };
    let waits_for = state.waiting_for.filter(|obstacle| !obstacle.stays);
    (sight.proof.into_iter().chain([check]).collect(), waits_for.map(|obstacle| obstacle.why))
}

/// The hash of the plan of this order, by the world as it is now: the same number as
/// [`Plan::hash`], without the look at rows. An error: some act can't be told, so nobody knows.
pub async fn plan_hash<W: World>(world: &W, order: &Order) -> PortResult<String> {
    let rehearsed = rehearsed(world, order, Depth::Acts).await;
    match rehearsed.error {
        Some(error) => Err(PortError::new(error.place, error.what)),
        None => Ok(hash_of(&rehearsed.acts)),
    }
}

fn hash_of(acts: &[Act]) -> String {
    let mut digest = Sha256::new();
    for act in acts {
        for part in [&act.step, &act.place, &act.text] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a rehearsal has found.
struct Rehearsed {
    acts: Vec<Act>,
    checks: Vec<Check>,
    error: Option<ApiError>,
}

/// How closely a rehearsal looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// At what would be done.
    Acts,
    /// At the rows of both sides, too.
    Rows,
}

async fn rehearsed<W: World>(world: &W, order: &Order, depth: Depth) -> Rehearsed {
    let stage = Stage {
        world,
        depth,
        epoch: order.epoch,
        acts: Mutex::default(),
        checks: Mutex::default(),
        has_compared: AtomicBool::new(depth == Depth::Acts),
    };
    let rehearsal = Rehearsal::new(&stage);
    // A drill is rehearsed as the run that it rehearses; what was agreed on is compared with what
    // comes out, and not by the rehearsal itself.
    let order = Order {
        hold_for: Duration::ZERO,
        // Nothing opens: there is nothing to watch, and nobody to wait for.
        watch: Duration::ZERO,
        drill: false,
        plan_hash: None,
        ..order.clone()
    };
    let hub = RunHub::new(order.run.clone(), order.epoch, world.direction(), SystemClock.wall());
    let limits = Limits::default();
    let report = crate::failpoint::passing_by(run(&rehearsal, &order, &limits, &hub)).await;
    Rehearsed {
        acts: stage.acts.into_inner().unwrap_or_else(PoisonError::into_inner),
        checks: stage.checks.into_inner().unwrap_or_else(PoisonError::into_inner),
        error: report.error,
    }
}

/// What the rehearsal's ports share.
struct Stage<'a, W: World> {
    world: &'a W,
    depth: Depth,
    /// Of the run that is rehearsed.
    epoch: Epoch,
    acts: Mutex<Vec<Act>>,
    checks: Mutex<Vec<Check>>,
    /// Definitions were compared: once is enough for a plan.
    has_compared: AtomicBool,
}

impl<W: World> Stage<'_, W> {
    fn note(&self, acts: impl IntoIterator<Item = Act>) {
        self.acts.lock().unwrap_or_else(PoisonError::into_inner).extend(acts);
    }

    /// Keeps what the checks found, and lets the rehearsal go on all the same.
    fn keep(&self, found: PortResult<Vec<Check>>, name: &str) -> PortResult<Vec<Check>> {
        let found = found.unwrap_or_else(|error| {
            let fix = error.remedy.clone().unwrap_or_else(|| "see the error".into());
            vec![Check::fail(name, error.what, fix)]
        });
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
        Ok(Vec::new())
    }
}

/// One type for all ports: none of them has a state of its own.
struct Rehearsal<'a, W: World> {
    stage: &'a Stage<'a, W>,
    progress: watch::Sender<Progress>,
    clock: SystemClock,
}

impl<'a, W: World> Rehearsal<'a, W> {
    fn new(stage: &'a Stage<'a, W>) -> Self {
        let lag = LagReading {
            at: Instant::now(),
            seconds: Some(0.0),
            bytes: Some(0),
            transactions: 0,
            drain_estimate_seconds: Some(0.0),
            reason: None,
        };
        let progress = Progress { lag, blocked: None, transactions_per_second: None };
        Self { stage, progress: watch::Sender::new(progress), clock: SystemClock }
    }

    /// Green, untouched, has flushed this far.
    const MARKER: Lsn = Lsn(1);
    const SEAL: Lsn = Lsn(2);

    /// Keeps some of the switch's acts.
    fn note_switch(&self, which: impl FnOnce(SwitchActs) -> Vec<Act>) {
        self.stage.note(which(self.stage.world.switch().describe(self.direction().to())));
    }
}

impl<'a, W: World> World for Rehearsal<'a, W> {
    type Fence = Self;
    type Switch = Self;
    type Replication = Self;
    type Sequences = Self;
    type Decision = Self;
    type Journal = Self;
    type Clock = SystemClock;
    type WayBack = Self;
    type Lease = Self;

    fn direction(&self) -> Direction {
        self.stage.world.direction()
    }
    fn fence_of(&self, _side: Side) -> &Self {
        self
    }
    fn way_back(&self) -> &Self {
        self
    }
    fn lease(&self) -> &Self {
        self
    }
    fn switch(&self) -> &Self {
        self
    }
    fn replication(&self) -> &Self {
        self
    }
    fn sequences(&self) -> &Self {
        self
    }
    fn decision_of(&self, _side: Side) -> &Self {
        self
    }
    fn journal(&self) -> &Self {
        self
    }
    fn clock(&self) -> &SystemClock {
        &self.clock
    }
    fn servers(&self) -> (Server, Server) {
        self.stage.world.servers()
    }

    async fn ready_to_compare(&self, deadline: Instant) -> PortResult<()> {
        match self.stage.depth {
            Depth::Rows => self.stage.world.ready_to_compare(deadline).await,
            Depth::Acts => Ok(()),
        }
    }

    async fn compare(&self, _deadline: Instant) -> PortResult<Vec<Check>> {
        if self.stage.depth == Depth::Acts {
            return Ok(Vec::new());
        }
        let found = self.stage.world.compare(Instant::now() + COMPARE).await;
        let found = found.or_else(|error| {
            let evidence = format!("not compared now: {} ({})", error.what, error.place);
            Ok(vec![Check::warn("row-counts", evidence, "the gate compares them again")])
        });
        self.stage.keep(found, "row-counts")
    }

    async fn definitions(&self, order: &Order, deadline: Instant) -> PortResult<Vec<Check>> {
        if self.stage.has_compared.swap(true, Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        self.stage.keep(self.stage.world.definitions(order, deadline).await, "definitions")
    }
}

impl<W: World> Fence for Rehearsal<'_, W> {
    type Undo = <W::Fence as Fence>::Undo;

    async fn inspect(&self) -> PortResult<Vec<Check>> {
        let side = self.direction().from().name();
        self.stage.keep(self.stage.world.fence().inspect().await, side)
    }

    async fn prepare(&self) -> PortResult<Self::Undo> {
        self.stage.world.fence().prepare().await
    }

    async fn writers(&self) -> PortResult<Writers> {
        Ok(Writers::default())
    }

    async fn raise(&self, undo: &Self::Undo, _deadline: Instant) -> PortResult<FenceReport> {
        let acts = self.stage.world.fence().describe(undo);
        self.stage.note(acts.raise);
        // The first marker is what comes next.
        self.stage.note(acts.mark);
        Ok(FenceReport { clean_scans: 2, ..FenceReport::default() })
    }

    async fn mark(&self, token: &Token, _deadline: Instant) -> PortResult<MarkerWritten> {
        Ok(MarkerWritten::new(token.clone(), 1))
    }

    async fn seal(&self, undo: &Self::Undo, _deadline: Instant) -> PortResult<SealReport> {
        let acts = self.stage.world.fence().describe(undo);
        self.stage.note(acts.seal);
        // The second marker, written under the seal.
        self.stage.note(acts.mark.into_iter().map(|act| Act {
            step: "seal".into(),
            text: act.text.replace("RUN.EPOCH.drain", "RUN.EPOCH.seal"),
            place: act.place,
        }));
        Ok(SealReport { refuses_clients: true, unbroken: true, ..SealReport::default() })
    }

    /// Without faults only the flip lowers a fence: the one that an earlier run has left on the
    /// side that is to open.
    async fn lower(&self, undo: &Self::Undo, _deadline: Instant) -> PortResult<()> {
        let opening = self.stage.world.fence_of(self.direction().to());
        let acts = opening.describe(undo).lower.into_iter();
        self.stage.note(acts.map(|act| Act { step: "flip".into(), ..act }));
        Ok(())
    }

    async fn airlock(&self, undo: &Self::Undo, deadline: Instant) -> PortResult<Airlock> {
        // The checks have to look inside.
        self.stage.world.fence_of(self.direction().to()).airlock(undo, deadline).await
    }

    async fn leave(&self) {}

    fn describe(&self, undo: &Self::Undo) -> FenceActs {
        self.stage.world.fence().describe(undo)
    }
}

impl<W: World> TrafficSwitch for Rehearsal<'_, W> {
    fn traits(&self) -> SwitchTraits {
        self.stage.world.switch().traits()
    }

    async fn inspect(&self, from: Side, max_pause: Duration) -> PortResult<Vec<Check>> {
        self.stage.keep(self.stage.world.switch().inspect(from, max_pause).await, "router")
    }

    async fn arm(&self, _to: Side, _deadline: Instant) -> PortResult<()> {
        Ok(())
    }

    async fn hold(&self, _epoch: Epoch, _deadline: Instant) -> PortResult<String> {
        self.note_switch(|acts| acts.hold);
        Ok(String::new())
    }

    async fn holding(&self, _epoch: Epoch, _deadline: Instant) -> PortResult<bool> {
        Ok(true)
    }

    async fn switch(&self, _proof: &Committed, _deadline: Instant) -> PortResult<Vec<Member>> {
        self.note_switch(|acts| acts.switch);
        Ok(Vec::new())
    }

    async fn release(&self, _epoch: Epoch, _deadline: Instant) -> PortResult<()> {
        self.note_switch(|acts| acts.release);
        Ok(())
    }

    async fn verify(&self, _proof: &Committed, _deadline: Instant) -> PortResult<Vec<Member>> {
        self.note_switch(|acts| acts.verify);
        Ok(Vec::new())
    }

    fn name(&self) -> String {
        self.stage.world.switch().name()
    }

    fn describe(&self, to: Side) -> SwitchActs {
        self.stage.world.switch().describe(to)
    }
}

impl<W: World> WayBackStream for Rehearsal<'_, W> {
    async fn inspect(&self) -> PortResult<Vec<Check>> {
        self.stage.keep(self.stage.world.way_back().inspect().await, "way back")
    }

    async fn arm(&self, _token: &Token, _deadline: Instant) -> PortResult<String> {
        self.stage.note(self.stage.world.way_back().describe());
        Ok(String::new())
    }

    fn standby(&self) -> Standby {
        Standby::default()
    }

    async fn mark(&self, token: &Token, _deadline: Instant) -> PortResult<MarkerWritten> {
        Ok(MarkerWritten::new(token.clone(), 1))
    }

    async fn await_decoded(&self, token: &Token, _: Instant) -> PortResult<MarkerDecoded> {
        let token = token.clone();
        Ok(MarkerDecoded { token, end_lsn: Self::MARKER, leaks: Leaks::default() })
    }

    async fn turn(&self, _proof: &Committed, _token: &Token, _since: Lsn) -> PortResult<()> {
        self.stage.note(self.stage.world.way_back().turning());
        Ok(())
    }

    async fn beat(&self, _token: &Token, _deadline: Instant) -> PortResult<Duration> {
        Ok(Duration::ZERO)
    }

    fn describe(&self) -> Vec<Act> {
        self.stage.world.way_back().describe()
    }
}

impl<W: World> Lease for Rehearsal<'_, W> {
    async fn acquire(&self, _epoch: Epoch) -> PortResult<()> {
        Ok(())
    }

    fn left(&self) -> Duration {
        Duration::MAX
    }

    async fn renew(&self) -> PortResult<()> {
        Ok(())
    }
}

impl<W: World> Replication for Rehearsal<'_, W> {
    fn progress(&self) -> watch::Receiver<Progress> {
        // Good for as long as a rehearsal may look at the rows.
        self.progress.send_modify(|progress| progress.lag.at = Instant::now() + 2 * COMPARE);
        self.progress.subscribe()
    }

    async fn arm(&self, _token: &Token) -> PortResult<()> {
        Ok(())
    }

    async fn await_marker(&self, token: &Token, _: Instant) -> PortResult<MarkerDurable> {
        let token = token.clone();
        self.stage.note([Act {
            step: "drain".into(),
            place: self.direction().to().name().into(),
            text: "wait until the marker is applied and flushed".into(),
        }]);
        Ok(MarkerDurable { token, end_lsn: Self::MARKER, durable: Self::MARKER })
    }

    async fn await_decoded(&self, token: &Token, _: Instant) -> PortResult<MarkerDecoded> {
        let token = token.clone();
        Ok(MarkerDecoded { token, end_lsn: Self::SEAL, leaks: Leaks::default() })
    }

    async fn inspect(&self) -> PortResult<Vec<Check>> {
        self.stage.keep(self.stage.world.replication().inspect().await, "definitions")
    }

    async fn refresh(&self, accepts: &[Accepted]) -> PortResult<Refreshed> {
        Ok(match self.stage.world.replication().refreshing(accepts).await {
            Ok(acts) => {
                self.stage.note(acts);
                Refreshed::Nothing
            }
            // A run waits until it can tell; a plan does not.
            Err(error) => {
                let what = format!("what has to be refreshed is not known now: {}", error.what);
                let check = Check::fail(VIEWS, what, "make the server answer, then: cutover plan");
                if self.stage.depth == Depth::Acts {
                    return Ok(Refreshed::Refused(check));
                }
                self.stage.keep(Ok(vec![check]), VIEWS)?;
                Refreshed::Nothing
            }
        })
    }

    fn leaks(&self) -> Leaks {
        Leaks::default()
    }

    async fn release(&self, _token: &Token) -> PortResult<()> {
        Ok(())
    }

    async fn hand_over(&self, _proof: &Committed, _: Instant) -> PortResult<Handed> {
        self.stage.note(self.stage.world.replication().handing_over());
        Ok(Handed::default())
    }

    async fn finish(&self, _token: &Token) -> PortResult<()> {
        Ok(())
    }
}

impl<W: World> Sequences for Rehearsal<'_, W> {
    async fn inspect(&self, sealed: bool) -> PortResult<Vec<Check>> {
        self.stage.keep(self.stage.world.sequences().inspect(sealed).await, "sequences")
    }

    async fn copy(&self, _deadline: Instant) -> PortResult<SequenceReport> {
        self.stage.note(self.stage.world.sequences().describe());
        Ok(SequenceReport::default())
    }

    fn describe(&self) -> Vec<Act> {
        self.stage.world.sequences().describe()
    }
}

impl<W: World> Decision for Rehearsal<'_, W> {
    async fn prepare(&self) -> PortResult<()> {
        Ok(())
    }

    async fn last_epoch(&self) -> PortResult<Epoch> {
        self.stage.world.decision().last_epoch().await
    }

    async fn commit(&self, epoch: Epoch, _marker: Lsn, _: Instant) -> PortResult<Verdict> {
        self.stage.note(self.stage.world.decision().describe(epoch));
        Ok(Verdict::Commit)
    }

    async fn abort(&self, _epoch: Epoch, _: Instant) -> PortResult<Verdict> {
        Ok(Verdict::Abort)
    }

    async fn read(&self, _epoch: Epoch, _deadline: Instant) -> PortResult<Option<Verdict>> {
        Ok(None)
    }

    fn describe(&self, epoch: Epoch) -> Vec<Act> {
        self.stage.world.decision().describe(epoch)
    }
}

impl<W: World> Journal for Rehearsal<'_, W> {
    async fn append(&self, _entry: &Entry) -> PortResult<()> {
        Ok(())
    }

    async fn read_all(&self) -> PortResult<Vec<Entry>> {
        let entries = self.stage.world.journal().read_all().await?;
        // A run that makes sure of its own plan is not in its own way.
        Ok(entries.into_iter().filter(|entry| entry.epoch != self.stage.epoch).collect())
    }
}
