//! Starts of a sidecar in a world that was made by hand.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;

use super::actors::limits;
use super::ports::{Paper, Ports, ports};
use super::process::Process;
use super::world::{Shared, SimClaim};
use crate::api::{Checks, Outcome, RunReport, SCHEMA_VERSION};
use crate::controller::{Recovery, Scope, recover};
use crate::phase::{Phase, Verdict};
use crate::ports::{Entry, Epoch, Record};
use crate::side::{Direction, Side};

/// A world whose sidecar, of the first state directory, is about to start.
struct Start {
    shared: Arc<Shared>,
    worlds: [Arc<Ports>; 2],
}

fn claim(epoch: u64) -> SimClaim {
    SimClaim { directory: 0, run: format!("run{epoch}"), epoch: Epoch(epoch) }
}

impl Start {
    fn new() -> Self {
        let shared = Shared::new(1);
        let process = Process::new(1, "sidecar", 0);
        let worlds = ports(&shared, &process, &Paper::Disk, true);
        Self { shared, worlds }
    }

    fn journal(&self, epoch: u64, record: Record) {
        let mut state = self.shared.lock();
        let seq = state.journals[0].len() as u64 + 1;
        let (run, at) = (format!("run{epoch}"), Timestamp::UNIX_EPOCH);
        state.journals[0].push(Entry { seq, run, epoch: Epoch(epoch), at, record });
    }

    fn began(&self, epoch: u64, direction: Direction) {
        self.journal(epoch, Record::Began { request: json!({ "way_back": true }), direction });
        self.reached(epoch, Phase::Gate, "hold_traffic", json!({ "undo": claim(epoch) }));
    }

    fn reached(&self, epoch: u64, phase: Phase, next: &str, detail: serde_json::Value) {
        let next = Some(next.to_owned());
        self.journal(epoch, Record::Reached { phase, seen: String::new(), next, detail });
    }

    /// Blue was left by run 1, which only watches green any more.
    fn green_serves(&self) {
        self.began(1, Direction::Forward);
        self.reached(1, Phase::Watching, "watch", json!({ "marker": "0/1" }));
        let mut state = self.shared.lock();
        state.routers.iter_mut().for_each(|router| router.target = Side::Green);
        state.side(Side::Green).decisions.insert(Epoch(1), Verdict::Commit);
        let blue = state.side(Side::Blue);
        (blue.sealed, blue.claim) = (true, Some(claim(1)));
    }

    async fn recover(&self, scope: Scope, abortable: &mut Vec<bool>) -> Recovery {
        let world_of = |direction: Direction| Some(self.worlds[direction as usize].as_ref());
        let shown = |hub: Arc<crate::hub::RunHub>| {
            abortable.push(hub.status().abortable);
            abortable.push(hub.ask_to_stop("a test"));
        };
        recover(world_of, &limits(), scope, shown).await.unwrap()
    }

    fn did(&self, what: &str) -> bool {
        self.shared.lock().schedule.iter().any(|line| line.contains(what))
    }
}

/// Run 2 has brought the clients back to blue, which a watchdog has opened; the journal ends before
/// that, and the first question is not answered.
#[tokio::test(start_paused = true)]
async fn a_side_that_serves_is_not_shut_because_it_does_not_answer() {
    let start = Start::new();
    start.green_serves();
    start.began(2, Direction::Back);
    start.reached(2, Phase::Sealed, "decide", json!({}));
    {
        let mut state = start.shared.lock();
        state.routers.iter_mut().for_each(|router| router.target = Side::Blue);
        let blue = state.side(Side::Blue);
        blue.decisions.insert(Epoch(2), Verdict::Commit);
        (blue.sealed, blue.claim) = (false, None);
        let green = state.side(Side::Green);
        (green.sealed, green.claim) = (true, Some(claim(2)));
        state.cut[Side::Blue as usize] = Instant::now() + Duration::from_millis(4500);
    }
    let recovered = start.recover(Scope::Traffic, &mut Vec::new()).await;
    assert!(matches!(recovered, Recovery::Left(_)), "{recovered:?}");
    assert!(!start.did("airlock"), "{:#?}", start.shared.lock().schedule);
    assert!(start.shared.lock().side(Side::Blue).admits(false));
}

/// `finish` has told a person how to open blue, who has done so and left our comment there.
#[tokio::test(start_paused = true)]
async fn a_side_that_a_person_has_opened_after_the_end_stays_open() {
    for finished in [false, true] {
        let start = Start::new();
        start.green_serves();
        let mut report = report(1);
        report.outcome = Outcome::Completed;
        start.journal(1, Record::Ended { report: Box::new(report) });
        if finished {
            let step = super::super::finish::LAST.to_owned();
            start.journal(1, Record::Finishing { step, actor: None });
        }
        start.shared.lock().side(Side::Blue).sealed = false;
        let recovered = start.recover(Scope::Roles, &mut Vec::new()).await;
        assert!(matches!(recovered, Recovery::CutOver(_)), "{recovered:?}");
        assert_eq!(start.shared.lock().side(Side::Blue).sealed, !finished);
    }
}

/// Green says `commit`; until it is asked, the next life takes no abort either.
#[tokio::test(start_paused = true)]
async fn a_run_that_is_taken_up_again_can_not_be_aborted() {
    let start = Start::new();
    start.began(1, Direction::Forward);
    start.reached(1, Phase::Sealed, "decide", json!({}));
    {
        let mut state = start.shared.lock();
        state.side(Side::Green).decisions.insert(Epoch(1), Verdict::Commit);
        let blue = state.side(Side::Blue);
        (blue.sealed, blue.claim) = (true, Some(claim(1)));
    }
    let mut abortable = Vec::new();
    start.recover(Scope::Traffic, &mut abortable).await;
    assert_eq!(abortable, [false, false], "shown as abortable, an abort was accepted");
}

fn report(epoch: u64) -> RunReport {
    RunReport {
        schema_version: SCHEMA_VERSION,
        run: format!("run{epoch}"),
        epoch,
        direction: Direction::Forward,
        outcome: Outcome::Aborted,
        actor: None,
        reason: None,
        started: Timestamp::UNIX_EPOCH,
        ended: Timestamp::UNIX_EPOCH,
        pause_ms: None,
        marker: None,
        fence_proof: None,
        steps: Vec::new(),
        checks: Checks::default(),
        findings: Vec::new(),
        drill: None,
        routers: Vec::new(),
        way_back: Some(true),
        breach: None,
        serving: String::new(),
        error: None,
        notes: Vec::new(),
    }
}
