//! A sidecar's watchdogs: one at a time, from a run's arming to its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::actors::{Stage, limits};
use super::ports::{LEASE, Paper, ports};
use super::process::{Heard, Process};
use super::world::Shared;
use crate::controller::{Recovery, Scope, Standing, recover};
use crate::phase::Phase;
use crate::ports::Entry;
use crate::side::Direction;

/// What is in the pipe already is read for so long before a silence counts.
const GRACE: Duration = Duration::from_millis(200);

impl Process {
    /// For how long its watchdog certainly does not act.
    pub fn left(&self) -> Duration {
        match *self.heard.lock().unwrap() {
            Heard::Alone => Duration::MAX,
            Heard::At(at) => LEASE.saturating_sub(at.elapsed()),
            Heard::Lost => Duration::ZERO,
        }
    }

    /// A run is about to touch clients.
    pub fn watch(self: &Arc<Self>, shared: &Arc<Shared>) {
        self.unwatch(shared);
        *self.pipe.lock().unwrap() = shared.lock().journals[self.directory].clone();
        if let Some(stage) = self.kennel.get().and_then(std::sync::Weak::upgrade) {
            *self.heard.lock().unwrap() = Heard::At(Instant::now());
            *stage.has_acted.lock().unwrap() = 0;
            stage.start_watchdog(self);
        }
    }

    /// The run is over; a watchdog that acts all the same is ended.
    pub fn unwatch(&self, shared: &Arc<Shared>) {
        *self.heard.lock().unwrap() = Heard::Alone;
        let Some(stage) = self.kennel.get().and_then(std::sync::Weak::upgrade) else { return };
        if let Some(watchdog) = stage.watchdog.lock().unwrap().take() {
            watchdog.kill(shared);
        }
    }

    /// Tells its watchdog that it lives, or another one if that has died.
    pub fn beat(self: &Arc<Self>, shared: &Arc<Shared>) {
        let Some(stage) = self.kennel.get().and_then(std::sync::Weak::upgrade) else { return };
        let heard = *self.heard.lock().unwrap();
        if heard == Heard::Alone {
            return;
        }
        let watchdog = stage.watchdog.lock().unwrap().clone();
        let watchdog = watchdog.filter(|watchdog| watchdog.is_alive());
        let is_late = self.left().is_zero();
        // A watchdog that has ended by itself has acted.
        let has_acted = watchdog.is_none() && *stage.has_acted.lock().unwrap() == self.id;
        *self.last_beat.lock().unwrap() = Instant::now();
        *self.heard.lock().unwrap() =
            if is_late || has_acted { Heard::Lost } else { Heard::At(Instant::now()) };
        if watchdog.is_none() {
            shared.lock().say(format!("{}: another watchdog", self.name));
            stage.start_watchdog(self);
        }
    }
}

/// Whether clients may be waiting.
fn clients_wait(entries: &[Entry]) -> bool {
    let standing = Standing::read(entries).ok().and_then(|standing| standing.unfinished);
    standing.is_some_and(|run| (Phase::Gate..Phase::Open).contains(&run.reached))
}

impl Stage {
    /// Starts a watchdog for this sidecar. One that acts still is waited for by it.
    pub fn start_watchdog(self: &Arc<Self>, sidecar: &Arc<Process>) {
        let watchdog = self.process("watchdog");
        *self.watchdog.lock().unwrap() = Some(watchdog.clone());
        tokio::spawn(self.clone().watch_over(sidecar.clone(), watchdog));
    }

    /// Waits for its sidecar to die or to fall silent, and then serves the clients.
    async fn watch_over(self: Arc<Self>, sidecar: Arc<Process>, watchdog: Arc<Process>) {
        let since = Instant::now();
        while sidecar.is_alive() {
            watchdog.sleep(Duration::from_millis(100)).await;
            let heard = since.max(*sidecar.last_beat.lock().unwrap());
            if heard.elapsed() <= LEASE + GRACE || !clients_wait(&sidecar.pipe.lock().unwrap()) {
                continue;
            }
            if self.shared.lock().kill_works {
                sidecar.kill(&self.shared);
            }
            break;
        }
        watchdog.go_on().await;
        let told = sidecar.pipe.lock().unwrap().clone();
        if clients_wait(&told) {
            self.shared.lock().say(format!("{} acts", watchdog.name));
            self.act(&watchdog, told).await;
            watchdog.go_on().await;
        }
        if sidecar.is_alive() {
            *self.has_acted.lock().unwrap() = sidecar.id;
        }
        watchdog.kill(&self.shared);
    }

    async fn act(&self, watchdog: &Arc<Process>, told: Vec<Entry>) {
        let told = Arc::new(std::sync::Mutex::new(told));
        let worlds = ports(&self.shared, watchdog, &Paper::Memory(told), false);
        loop {
            let world_of = |direction: Direction| Some(worlds[direction as usize].as_ref());
            let recovered = recover(world_of, &limits(), Scope::Traffic, |_| {}).await;
            watchdog.go_on().await;
            let (said, is_over) = match &recovered {
                Ok(Recovery::Nothing) => ("nothing to do".to_owned(), true),
                Ok(Recovery::Finished(report)) => {
                    let is_held = report.outcome == crate::api::Outcome::Held;
                    (format!("{:?}", report.outcome), !is_held)
                }
                Ok(Recovery::Left(phase)) => (format!("left in {}", phase.name()), true),
                Ok(Recovery::CutOver(_)) => ("cut over".to_owned(), true),
                Err(error) => (error.to_string(), false),
            };
            self.shared.lock().say(format!("{}: {said}", watchdog.name));
            if is_over {
                return;
            }
            watchdog.sleep(Duration::from_secs(1)).await;
        }
    }
}
