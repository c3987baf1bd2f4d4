//! The sidecar, its watchdog, whoever restarts them, the operator, and the faults.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::ports::{Paper, Ports, ports, renew};
use super::process::{Link, Process};
use super::world::{Shared, State, router_name};
use crate::api::{AbortRequest, Outcome, RunReport, StartCutover};
use crate::controller::{Limits, Standing};
use crate::phase::Phase;
use crate::service::{Defaults, Service};
use crate::side::{Direction, Side};

/// How long the operator waits for an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// A sidecar that is at work.
type Sidecar = (Arc<Process>, Arc<Service<Ports>>);

/// The processes of now.
pub struct Stage {
    pub shared: Arc<Shared>,
    /// Over which state directory its processes act.
    directory: usize,
    /// Until when the host is off.
    off_until: Mutex<Instant>,
    pub sidecar: Mutex<Option<Sidecar>>,
    pub starting: Mutex<Option<Arc<Process>>>,
    pub watchdog: Mutex<Option<Arc<Process>>>,
    /// The sidecar, still alive, whose watchdog has acted.
    pub has_acted: Mutex<u64>,
}

pub fn limits() -> Limits {
    Limits {
        put_back: Duration::from_secs(8),
        forward: Duration::from_secs(15),
        ..Limits::default()
    }
}

impl Stage {
    pub fn new(shared: Arc<Shared>, directory: usize) -> Arc<Self> {
        Arc::new(Self {
            shared,
            directory,
            off_until: Mutex::new(Instant::now()),
            sidecar: Mutex::default(),
            starting: Mutex::default(),
            watchdog: Mutex::default(),
            has_acted: Mutex::new(0),
        })
    }

    pub fn process(&self, name: &str) -> Arc<Process> {
        let id = {
            let mut state = self.shared.lock();
            state.processes += 1;
            state.processes
        };
        Process::new(id, name, self.directory)
    }

    /// The sidecar that is at work, if one is.
    pub fn service(&self) -> Option<Arc<Service<Ports>>> {
        let sidecar = self.sidecar.lock().unwrap();
        let (process, service) = sidecar.as_ref()?;
        process.is_alive().then(|| service.clone())
    }

    /// The sidecar, also one that is only starting.
    pub fn sidecar_process(&self) -> Option<Arc<Process>> {
        self.starting.lock().unwrap().clone().filter(|process| process.is_alive())
    }

    /// Starts sidecars for ever, each some time after the death of the one before.
    pub async fn supervise(self: Arc<Self>) {
        loop {
            loop {
                let until = *self.off_until.lock().unwrap();
                if until <= Instant::now() {
                    break;
                }
                tokio::time::sleep_until(until).await;
            }
            let process = self.process("sidecar");
            *self.starting.lock().unwrap() = Some(process.clone());
            let started = tokio::spawn(self.clone().start(process.clone()));
            process.died().await;
            started.abort();
            *self.sidecar.lock().unwrap() = None;
            let pause = self.shared.lock().random.ms(0, 2500);
            tokio::time::sleep(pause).await;
        }
    }

    async fn start(self: Arc<Self>, process: Arc<Process>) {
        // Of a state directory only one process may act: the watchdog of the last life first ends
        // what it does, or is ended.
        let watchdog = self.watchdog.lock().unwrap().clone();
        if let Some(watchdog) = watchdog {
            let over = tokio::time::timeout(Duration::from_secs(2), watchdog.died()).await;
            if over.is_err() {
                watchdog.kill(&self.shared);
            }
        }
        let link = Link { shared: self.shared.clone(), process: process.clone() };
        // A process is made once: there is nothing here yet.
        let _first = process.kennel.set(Arc::downgrade(&self));
        tokio::spawn(async move {
            loop {
                link.process.sleep(Duration::from_millis(500)).await;
                // What is left of the lease says how it went.
                let _late = renew(&link).await;
            }
        });
        let (beating, shared) = (process.clone(), self.shared.clone());
        tokio::spawn(async move {
            loop {
                beating.sleep(Duration::from_millis(250)).await;
                beating.beat(&shared);
            }
        });
        let [forward, back] = ports(&self.shared, &process, &Paper::Disk, true);
        let defaults =
            Defaults { hold_for: Duration::ZERO, limits: limits(), ..Defaults::default() };
        let service = Service::both(forward, Some(back), defaults);
        let interrupted = Standing::read(&self.shared.lock().journals[self.directory]);
        if interrupted.is_ok_and(|standing| standing.unfinished.is_some()) {
            process.watch(&self.shared);
        }
        loop {
            match service.recover().await {
                Ok(_) => break,
                Err(error) => {
                    self.shared.lock().say(format!("{}: recovery: {error}", process.name));
                    process.sleep(Duration::from_millis(500)).await;
                }
            }
        }
        // Nothing streams while a run is held.
        while service.current().is_some_and(|run| run.phase == Phase::Held) {
            process.sleep(Duration::from_millis(500)).await;
            *self.sidecar.lock().unwrap() = Some((process.clone(), service.clone()));
        }
        process.go_on().await;
        if !self.adopt() {
            self.shared.lock().say(format!("{}: green has been cut over to", process.name));
            return;
        }
        loop {
            let streams = {
                let mut state = self.shared.lock();
                state.take_slots(&process) || state.reads(&process)
            };
            if streams && self.sidecar.lock().unwrap().is_none() {
                *self.sidecar.lock().unwrap() = Some((process.clone(), service.clone()));
            }
            process.sleep(Duration::from_millis(4)).await;
            for direction in Direction::ALL {
                let mut state = self.shared.lock();
                if state.reads(&process) {
                    state.pump(direction);
                }
            }
        }
    }

    /// A new state directory takes the pipeline up, unless it has changed over.
    fn adopt(&self) -> bool {
        let mut state = self.shared.lock();
        if self.directory == 0 || state.is_adopted {
            return true;
        }
        let decisions = &state.side(Side::Green).decisions;
        let has_flipped =
            decisions.values().any(|verdict| *verdict == crate::phase::Verdict::Commit);
        state.is_adopted = !has_flipped;
        state.is_adopted
    }

    /// Everything of this host ends at once, and comes back after a while.
    pub fn power_cut(&self, long: Duration) {
        *self.off_until.lock().unwrap() = Instant::now() + long;
        let watchdog = self.watchdog.lock().unwrap().clone();
        for process in [self.sidecar_process(), watchdog].into_iter().flatten() {
            process.kill(&self.shared);
        }
    }

    /// The host stands still for a while, and nothing on it knows.
    pub fn freeze(&self, long: Duration) {
        let until = Instant::now() + long;
        let watchdog = self.watchdog.lock().unwrap().clone();
        for process in [self.sidecar_process(), watchdog].into_iter().flatten() {
            process.stop(until);
        }
        self.shared.lock().say(format!("host {} stands still for {long:?}", self.directory));
    }

    /// Ends that now.
    pub fn thaw(&self) {
        let watchdog = self.watchdog.lock().unwrap().clone();
        for process in [self.sidecar_process(), watchdog].into_iter().flatten() {
            if process.is_stopped() {
                process.stop(Instant::now());
                self.shared.lock().say(format!("{} goes on", process.name));
            }
        }
    }

    /// Asks for a run and waits for what becomes of it; `None`: nobody knows.
    pub async fn order(self: &Arc<Self>, direction: Direction) -> Option<RunReport> {
        let patience = Instant::now() + Duration::from_secs(40);
        loop {
            if Instant::now() > patience {
                return None;
            }
            let Some(service) = self.service() else {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            };
            let drill = self.shared.lock().random.per_mille(150);
            let request = StartCutover {
                when_lag: Some("<1s".into()),
                gate_timeout_ms: Some(8000),
                confirmation: Some("--yes".into()),
                watch_ms: Some(self.shared.lock().random.below(2) * 700),
                drill,
                ..StartCutover::default()
            };
            // A sidecar that dies or hangs does not answer.
            let starting = async {
                match direction {
                    Direction::Forward => service.start(request).await,
                    Direction::Back => service.rollback(request).await,
                }
            };
            let Ok(started) = tokio::time::timeout(ANSWER, starting).await else { continue };
            let (run, epoch) = match started {
                Ok(status) => (status.run, status.epoch),
                Err(error) => {
                    self.shared.lock().say(format!("operator: refused: {:?}", error.code));
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    if self.shared.lock().truth() == direction.to() {
                        return None;
                    }
                    continue;
                }
            };
            self.shared.lock().say(format!("operator: {direction} is epoch {epoch}"));
            let mut after = 0;
            while Instant::now() < patience {
                let service = self.service()?;
                let update = service.update(&run, after, Duration::from_millis(300)).await.ok()?;
                after = update.status.last_event;
                if update.status.report.is_some() {
                    return update.status.report;
                }
                // A final phase is answered at once, its report comes a moment later.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            return None;
        }
    }

    /// Asks the active run to stop. Before the decision that has to work, after it never.
    pub async fn abort(&self) {
        let Some(service) = self.service() else { return };
        let Some(run) = service.current().filter(|run| run.report.is_none()) else { return };
        let decided = |state: &mut super::world::State| {
            Side::ALL.iter().any(|side| {
                let verdict = state.side(*side).decisions.get(&crate::ports::Epoch(run.epoch));
                verdict == Some(&crate::phase::Verdict::Commit)
            })
        };
        let was_decided = decided(&mut self.shared.lock());
        let abort = service.abort(&run.run, AbortRequest::default());
        let Ok(answer) = tokio::time::timeout(ANSWER, abort).await else { return };
        let accepted = answer.is_ok();
        let mut state = self.shared.lock();
        state.say(format!("operator: abort in {}: {accepted}", run.phase.name()));
        if accepted && was_decided && run.phase != Phase::Held {
            state.violated(format!(
                "an abort was accepted in {} after the decision",
                run.phase.name()
            ));
        }
        if !accepted && run.abortable && !was_decided && run.phase < Phase::Sealed {
            state.violated(format!("an abort was refused in {}", run.phase.name()));
        }
    }

    /// Resolves what only a person can, once the world is well again.
    pub async fn resolve(&self) {
        let Some(service) = self.service() else { return };
        if service.current().is_some_and(|run| run.phase == Phase::Held && run.report.is_some()) {
            self.shared.lock().say("operator: the held run is looked at again");
            let abort = service.abort("current", AbortRequest::default());
            // Still held, or no answer: looked at again later.
            let _answer = tokio::time::timeout(ANSWER, abort).await;
        }
    }
}

/// What a report has to be true about.
pub fn check_report(shared: &Shared, report: &RunReport) {
    let direction = report.direction;
    let mut state = shared.lock();
    let why = report.error.as_ref().map(|error| error.what.as_str()).unwrap_or_default();
    state.say(format!("operator: epoch {} ends {:?} {why}", report.epoch, report.outcome));
    let verdict =
        state.side(direction.to()).decisions.get(&crate::ports::Epoch(report.epoch)).copied();
    let is_flipped = verdict == Some(crate::phase::Verdict::Commit);
    let says_flipped = matches!(report.outcome, Outcome::Completed | Outcome::RolledBack);
    if report.outcome != Outcome::Held && is_flipped != says_flipped {
        state
            .violated(format!("run {} says {:?}, the row {verdict:?}", report.run, report.outcome));
    }
    // An act that takes long may still be on its way.
    let is_calm = (state.slow, state.lossy) == (0, 0);
    if report.outcome == Outcome::Held && is_flipped && is_calm {
        given_up(&mut state, report);
    }
}

/// After the decision: nobody waits for somebody else's router.
fn given_up(state: &mut State, report: &RunReport) {
    let to = report.direction.to();
    for (at, router) in state.routers.clone().into_iter().enumerate() {
        let name = router_name(at);
        if router.is_up() && router.held && router.target == to {
            state.violated(format!("{name} leads to {to} and holds its clients for another one"));
        }
        let is_named = report.notes.iter().any(|note| note.contains(&name))
            || report.error.iter().any(|error| error.place == name);
        // It may have died a moment ago.
        let is_lasting = !router.is_up() && router.down_since.elapsed() > Duration::from_secs(6);
        let is_flipping = report.error.iter().any(|error| error.state.contains("after committed"));
        if is_lasting && is_flipping && !is_named {
            state.violated(format!("{name} is down, and nobody says so: {:?}", report.notes));
        }
    }
}
