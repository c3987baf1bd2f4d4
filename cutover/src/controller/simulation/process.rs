//! A process of the simulated world, and what it sees of that: an act is carried out by the *server*, so
//! whoever asked for it may be dead by then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::actors::Stage;
use super::world::{Shared, State};
use crate::ports::{Entry, Epoch, PortError, PortResult};
use crate::side::Side;

/// A process that can die and be stopped.
pub struct Process {
    pub id: u64,
    pub name: String,
    /// Over which state directory.
    pub directory: usize,
    // A notification wakes in the order of waiting; a watch channel does not, and would make a
    // history of its own each time.
    is_dead: AtomicBool,
    death: Notify,
    stopped_until: Mutex<Instant>,
    /// Until when the lease's row is certainly its own, on which side that is, and for which run.
    pub lease: Mutex<(Instant, Side, Option<Epoch>)>,
    /// What it has written into its journal, as its watchdog sees it.
    pub pipe: Mutex<Vec<Entry>>,
    /// What its watchdog thinks of it.
    pub heard: Mutex<Heard>,
    /// When it has last said that it lives.
    pub last_beat: Mutex<Instant>,
    /// Who starts its watchdogs.
    pub kennel: OnceLock<Weak<Stage>>,
}

/// What a watchdog thinks of its sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// There is none.
    Alone,
    /// It was told at this moment that the sidecar lives.
    At(Instant),
    /// It may have taken the sidecar for dead.
    Lost,
}

impl Process {
    pub fn new(id: u64, name: &str, directory: usize) -> Arc<Self> {
        let now = Instant::now();
        let host = ["", "B:"][directory];
        Arc::new(Self {
            id,
            directory,
            name: format!("{host}{name}{id}"),
            is_dead: AtomicBool::new(false),
            death: Notify::new(),
            stopped_until: Mutex::new(now),
            lease: Mutex::new((now, Side::Green, None)),
            pipe: Mutex::default(),
            heard: Mutex::new(Heard::Alone),
            last_beat: Mutex::new(now),
            kennel: OnceLock::new(),
        })
    }

    pub fn is_alive(&self) -> bool {
        !self.is_dead.load(Ordering::SeqCst)
    }

    pub fn is_stopped(&self) -> bool {
        *self.stopped_until.lock().unwrap() > Instant::now()
    }

    pub fn stop(&self, until: Instant) {
        *self.stopped_until.lock().unwrap() = until;
    }

    /// SIGKILL. Its sessions end.
    pub fn kill(&self, shared: &Shared) {
        if self.is_dead.swap(true, Ordering::SeqCst) {
            return;
        }
        self.death.notify_waiters();
        let mut state = shared.lock();
        state.say(format!("{} is killed", self.name));
        for database in &mut state.sides {
            if database.witnessed_by == Some(self.id) {
                database.witnessed_by = None;
            }
        }
    }

    /// Never returns in a dead process, nor before the end of a stop in a stopped one.
    pub async fn go_on(&self) {
        loop {
            let until = *self.stopped_until.lock().unwrap();
            if until > Instant::now() {
                tokio::time::sleep_until(until).await;
                continue;
            }
            if self.is_alive() {
                return;
            }
            std::future::pending::<()>().await;
        }
    }

    pub async fn died(&self) {
        let death = self.death.notified();
        if self.is_alive() {
            death.await;
        }
    }

    pub async fn sleep_until(&self, at: Instant) {
        tokio::time::sleep_until(at).await;
        self.go_on().await;
    }

    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(Instant::now() + duration).await;
    }
}

/// A process's connection to the world.
#[derive(Clone)]
pub struct Link {
    pub shared: Arc<Shared>,
    pub process: Arc<Process>,
}

impl Link {
    /// Asks a server (of a side, or of neither) to do something. It may be done after the answer
    /// was given up, and after the process has died; the answer may get lost.
    pub async fn act<T: Send + 'static>(
        &self,
        name: &'static str,
        at: Option<Side>,
        deadline: Instant,
        act: impl FnOnce(&mut State) -> PortResult<T> + Send + 'static,
    ) -> PortResult<T> {
        self.process.go_on().await;
        let place = at.map_or("elsewhere", Side::name);
        let late = || PortError::new(place, format!("{name}: no answer in time")).in_doubt();
        let (before, after, is_lost) = {
            let mut state = self.shared.lock();
            let (slow, pace) = (state.slow, state.pace);
            let slow = state.random.per_mille(slow);
            let before = if slow { state.random.ms(100, 3000) } else { state.random.ms(0, pace) };
            let lossy = state.lossy;
            (before, state.random.ms(0, 2), state.random.per_mille(lossy))
        };
        let (answer, answered) = oneshot::channel();
        let (shared, process) = (self.shared.clone(), self.process.clone());
        tokio::spawn(async move {
            tokio::time::sleep(before).await;
            loop {
                let cut = at.map(|side| shared.lock().cut[side as usize]);
                match cut.filter(|cut| *cut > Instant::now()) {
                    Some(cut) => tokio::time::sleep_until(cut).await,
                    None => break,
                }
            }
            let mut state = shared.lock();
            let dead = if process.is_alive() { "" } else { " (dead)" };
            state.say(format!("{}{dead}: {name} {place}", process.name));
            // Nobody waits any more: what was done is done.
            let _nobody_waits = answer.send(act(&mut state));
        });
        let answer = async {
            let answer = answered.await.unwrap_or_else(|_| Err(late()));
            tokio::time::sleep(after).await;
            answer
        };
        let answer = tokio::time::timeout_at(deadline, answer).await;
        self.process.go_on().await;
        match answer {
            Ok(_) | Err(_) if is_lost => Err(late()),
            Ok(answer) => answer,
            Err(_) => Err(late()),
        }
    }

    /// Waits for something that is looked up again and again.
    pub async fn until<T>(
        &self,
        what: &str,
        deadline: Instant,
        look: impl Fn(&mut State) -> Option<T>,
    ) -> PortResult<T> {
        loop {
            self.process.go_on().await;
            if let Some(found) = look(&mut self.shared.lock()) {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                return Err(PortError::new("stream", format!("{what} did not come in time")));
            }
            self.process.sleep(Duration::from_millis(2)).await;
        }
    }
}
