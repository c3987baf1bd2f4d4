//! What a run shows of itself while it goes, and how it is asked to stop.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::api::{RunEvent, RunEventKind, RunReport, RunStatus, RunUpdate, SCHEMA_VERSION};
use crate::phase::{Phase, Stop, StopKind, WatchEnd};
use crate::ports::Epoch;
use crate::side::Direction;
use crate::watch::Baseline;

#[derive(Debug)]
struct Inner {
    status: RunStatus,
    events: Vec<RunEvent>,
}

/// One run as others see it. Shared between the controller, which writes, and the API.
#[derive(Debug)]
pub struct RunHub {
    inner: Mutex<Inner>,
    newest: watch::Sender<u64>,
    asked: watch::Sender<Option<Stop>>,
    watched: watch::Sender<Option<WatchEnd>>,
    baseline: Mutex<Baseline>,
    remarks: Mutex<Vec<String>>,
}

impl RunHub {
    /// A run that has not begun.
    pub fn new(
        run: impl Into<String>,
        epoch: Epoch,
        direction: Direction,
        started: Timestamp,
    ) -> Self {
        let status = RunStatus {
            schema_version: SCHEMA_VERSION,
            run: run.into(),
            epoch: epoch.0,
            direction,
            phase: Phase::Replicating,
            started,
            waiting_for: None,
            abortable: true,
            serving: direction.from().name().into(),
            watch_until: None,
            monitors: Vec::new(),
            last_event: 0,
            report: None,
        };
        Self {
            inner: Mutex::new(Inner { status, events: Vec::new() }),
            newest: watch::Sender::new(0),
            asked: watch::Sender::new(None),
            watched: watch::Sender::new(None),
            baseline: Mutex::default(),
            remarks: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that holds the lock can leave it half-written: a poisoned one is still right.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run now.
    pub fn status(&self) -> RunStatus {
        self.lock().status.clone()
    }

    /// Asks the run to stop. Returns `false` when it is too late for that.
    pub fn ask_to_stop(&self, what: impl Into<String>) -> bool {
        let inner = self.lock();
        if !inner.status.abortable {
            return false;
        }
        self.asked.send_replace(Some(Stop {
            kind: StopKind::Asked,
            what: what.into(),
            place: "operator".into(),
            remedy: None,
        }));
        true
    }

    /// From now on it is too late to stop the run; gives back the wish of somebody who was quicker.
    pub(crate) fn no_more_stops(&self) -> Option<Stop> {
        let mut inner = self.lock();
        let asked = self.asked.borrow().clone();
        inner.status.abortable = false;
        asked
    }

    /// Waits until somebody asks the run to stop.
    pub async fn asked_to_stop(&self) -> Stop {
        let mut asked = self.asked.subscribe();
        loop {
            if let Some(stop) = asked.borrow_and_update().clone() {
                return stop;
            }
            if asked.changed().await.is_err() {
                // The sender lives in `self`; it can't be gone. Wait for ever rather than stop.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Ends the time of watching, if the run has come so far and is not over. The first to do so
    /// is heard.
    pub fn end_watch(&self, end: WatchEnd) -> bool {
        if self.status().phase != Phase::Watching {
            return false;
        }
        self.watched.send_if_modified(|watched| {
            let is_first = watched.is_none();
            watched.get_or_insert(end);
            is_first
        })
    }

    /// Waits until somebody ends the time of watching.
    pub(crate) async fn watch_ended(&self) -> WatchEnd {
        let mut watched = self.watched.subscribe();
        loop {
            if let Some(end) = watched.borrow_and_update().clone() {
                return end;
            }
            if watched.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// How things are before the flip: until the run has passed its gate.
    pub fn keep_baseline(&self, baseline: Baseline) {
        if self.status().phase < Phase::Gate {
            self.keep_journaled_baseline(baseline);
        }
    }

    /// The same as the journal has it, for a run that is taken up again.
    pub(crate) fn keep_journaled_baseline(&self, baseline: Baseline) {
        *self.baseline.lock().unwrap_or_else(PoisonError::into_inner) = baseline;
    }

    /// How things were before the flip.
    pub fn baseline(&self) -> Baseline {
        self.baseline.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Something that was found while watching: an event now, and a note of the report.
    pub(crate) fn remark(&self, at: Timestamp, text: String) {
        let mut remarks = self.remarks.lock().unwrap_or_else(PoisonError::into_inner);
        if !remarks.contains(&text) {
            remarks.push(text.clone());
        }
        drop(remarks);
        self.event(at, RunEventKind::Note { text });
    }

    /// All that was found while watching.
    pub(crate) fn remarks(&self) -> Vec<String> {
        self.remarks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether somebody has asked the run to stop.
    pub fn stop(&self) -> Option<Stop> {
        self.asked.borrow().clone()
    }

    /// Events after `after`; waits at most `wait` for the first.
    pub async fn update(&self, after: u64, wait: Duration) -> RunUpdate {
        let mut newest = self.newest.subscribe();
        if !self.status().phase.is_final() {
            // Time out: the answer is then that there is nothing new.
            let _timed_out =
                tokio::time::timeout(wait, newest.wait_for(|newest| *newest > after)).await;
        }
        let inner = self.lock();
        let events = inner.events.iter().filter(|event| event.number > after).cloned().collect();
        RunUpdate { schema_version: SCHEMA_VERSION, status: inner.status.clone(), events }
    }

    /// Waits until the run is over.
    pub async fn ended(&self) -> RunReport {
        let mut newest = self.newest.subscribe();
        loop {
            newest.borrow_and_update();
            if let Some(report) = self.status().report {
                return report;
            }
            if newest.changed().await.is_err() {
                // The sender lives in `self`; it can't be gone.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Changes the status and tells who waits.
    pub(crate) fn set(&self, change: impl FnOnce(&mut RunStatus)) {
        change(&mut self.lock().status);
    }

    /// Ends the run. The report is there before the last event is.
    pub(crate) fn end(&self, report: RunReport, at: Timestamp) {
        let outcome = report.outcome;
        self.set(|status| {
            status.waiting_for = None;
            status.abortable = false;
            status.serving.clone_from(&report.serving);
            status.report = Some(report);
        });
        self.event(at, RunEventKind::Ended { outcome });
    }

    /// Adds an event.
    pub(crate) fn event(&self, at: Timestamp, kind: RunEventKind) {
        let number = {
            let mut inner = self.lock();
            inner.status.last_event += 1;
            let number = inner.status.last_event;
            let is_gate = |kind: &RunEventKind| matches!(kind, RunEventKind::Gate { .. });
            if is_gate(&kind) && inner.events.last().is_some_and(|last| is_gate(&last.kind)) {
                inner.events.pop();
            }
            inner.events.push(RunEvent { number, at, kind });
            number
        };
        self.newest.send_replace(number);
    }
}
