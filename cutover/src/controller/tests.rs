use std::time::Duration;

use super::sim::{Fault, Sim};
use super::{Limits, Order, Recovery, Scope, history, recover, run};
use crate::api::{Outcome, RunReport};
use crate::hub::RunHub;
use crate::phase::{Phase, Verdict};
use crate::ports::{Clock, Epoch, World};
use crate::rehearse::rehearse;
use crate::side::Direction;
use crate::verify::Requirement;

pub(super) fn order() -> Order {
    Order {
        run: "7f3a".into(),
        epoch: Epoch(42),
        when_lag: "<1s".parse().unwrap(),
        hold_for: Duration::from_secs(3),
        gate_timeout: Duration::from_secs(60),
        max_pause: Duration::from_secs(2),
        way_back: false,
        watch: Duration::ZERO,
        drill: false,
        plan_hash: None,
        require: Requirement::default(),
        accepts: Vec::new(),
        actor: Some("ann".into()),
        reason: None,
    }
}

/// Runs; `None`: the process has died.
async fn run_in(sim: &Sim) -> Option<RunReport> {
    let hub = RunHub::new("7f3a", Epoch(42), Direction::Forward, sim.clock().wall());
    let (order, limits) = (order(), Limits::default());
    tokio::select! {
        report = run(sim, &order, &limits, &hub) => Some(report),
        () = sim.crashed.notified() => None,
    }
}

/// The next life of the process: no more faults.
async fn next_life(sim: &Sim) -> Recovery {
    sim.state.lock().unwrap().faults.clear();
    recover(|_| Some(sim), &Limits::default(), Scope::Full, |_| {}).await.unwrap()
}

fn assert_blue_serves(sim: &Sim, case: &str) {
    let state = sim.get();
    assert!(!state.held, "{case}: clients still wait: {:?}", state.log);
    assert!(!state.read_only && !state.sealed, "{case}: blue is closed: {:?}", state.log);
    assert!(!state.armed, "{case}: the engine still holds back: {:?}", state.log);
    assert!(!state.at_green && !state.finished, "{case}: {:?}", state.log);
    assert_ne!(state.decisions.get(&Epoch(42)), Some(&Verdict::Commit), "{case}");
    assert!(!state.two_writers, "{case}: two writers");
}

fn assert_green_serves(sim: &Sim, case: &str) {
    let state = sim.get();
    assert!(!state.held && state.at_green && state.finished, "{case}: {:?}", state.log);
    assert!(state.read_only && state.sealed, "{case}: blue is open: {:?}", state.log);
    assert_eq!(state.decisions.get(&Epoch(42)), Some(&Verdict::Commit), "{case}");
    assert!(!state.two_writers, "{case}: two writers");
}

/// Every act before the decision, in order.
const BEFORE: [&str; 12] = [
    "inspect",
    "prepare_decision",
    "arm_router",
    "arm",
    "prepare",
    "hold",
    "raise",
    "mark",
    "await_marker",
    "sequences",
    "seal",
    "await_decoded",
];
/// Every act after it.
const AFTER: [&str; 4] = ["switch", "release_router", "verify", "finish"];

#[tokio::test(start_paused = true)]
async fn a_run_without_faults_completes() {
    let sim = Sim::new();
    let report = run_in(&sim).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed, "{report:?}");
    assert_eq!(report.serving, "green");
    assert!(report.pause_ms.is_some() && report.error.is_none());
    assert_eq!(report.fence_proof.as_deref(), Some("xid frozen at 100"));
    assert_green_serves(&sim, "no fault");
    let acts: Vec<_> = sim.get().log.into_iter().filter(|act| act != "journal").collect();
    let mut expected = BEFORE.to_vec();
    expected.insert(11, "mark_seal");
    // The gate passes: it is prepared once more.
    expected.insert(4, "prepare_decision");
    expected.push("commit");
    expected.extend(AFTER);
    assert_eq!(acts, expected);
    let past = history(&sim.get().journal);
    assert_eq!((past.len(), past[0].outcome), (1, Some(Outcome::Completed)));
    assert!(matches!(next_life(&sim).await, Recovery::CutOver(_)));
}

#[tokio::test(start_paused = true)]
async fn every_act_that_fails_or_hangs_before_the_decision_is_put_back() {
    for act in BEFORE.iter().chain(&["mark_seal"]) {
        for fault in [Fault::Fails, Fault::InDoubt, Fault::DoneInDoubt, Fault::Hangs] {
            // `prepare` runs between two acts, with its own timeout inside the port.
            if (*act, fault) == ("prepare", Fault::Hangs) {
                continue;
            }
            let sim = Sim::with(&[(act, fault, 1)]);
            let began = tokio::time::Instant::now();
            let report = run_in(&sim).await.unwrap();
            let case = format!("{act} {fault:?}");
            assert_eq!(report.outcome, Outcome::Aborted, "{case}: {report:?}");
            assert_blue_serves(&sim, &case);
            assert!(report.error.unwrap().state.contains("blue serves"), "{case}");
            if let Some(pause_ms) = report.pause_ms {
                assert!(pause_ms <= 2000.0, "{case}: the pause took {pause_ms} ms");
            }
            assert!(began.elapsed() < Duration::from_secs(70), "{case}");
            assert!(matches!(next_life(&sim).await, Recovery::Nothing), "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_proof_that_fails_is_put_back() {
    let sim = Sim::new();
    sim.state.lock().unwrap().writers.push("pid 1".into());
    let report = run_in(&sim).await.unwrap();
    assert_eq!(report.outcome, Outcome::Aborted);
    assert!(report.error.unwrap().what.contains("pid 1"));
    assert_blue_serves(&sim, "a writer behind the fence");

    let sim = Sim::new();
    sim.state.lock().unwrap().leaks = 1;
    let report = run_in(&sim).await.unwrap();
    assert_eq!(report.outcome, Outcome::Aborted);
    assert!(report.error.unwrap().what.contains("leak"));
    assert_blue_serves(&sim, "a leak");
}

#[tokio::test(start_paused = true)]
async fn what_fails_on_the_way_back_is_tried_again() {
    for act in ["lower", "release_router", "release"] {
        let sim = Sim::with(&[("mark", Fault::Fails, 1), (act, Fault::Fails, 5)]);
        let report = run_in(&sim).await.unwrap();
        assert_eq!(report.outcome, Outcome::Aborted, "{act}");
        assert_blue_serves(&sim, act);
    }
}

#[tokio::test(start_paused = true)]
async fn a_way_back_that_stays_blocked_is_held_and_the_next_life_tries_again() {
    let sim = Sim::with(&[("mark", Fault::Fails, 1), ("lower", Fault::Fails, u32::MAX)]);
    let report = run_in(&sim).await.unwrap();
    assert_eq!(report.outcome, Outcome::Held);
    assert!(!report.notes.is_empty());
    assert!(!sim.get().held, "clients wait for a door that nobody opens");
    let Recovery::Finished(report) = next_life(&sim).await else { panic!("not recovered") };
    assert_eq!(report.outcome, Outcome::Aborted);
    assert_blue_serves(&sim, "held, then recovered");
}

#[tokio::test(start_paused = true)]
async fn after_the_decision_it_only_goes_forward() {
    for act in AFTER {
        let sim = Sim::with(&[(act, Fault::Fails, 3)]);
        let report = run_in(&sim).await.unwrap();
        assert_eq!(report.outcome, Outcome::Completed, "{act}");
        assert_green_serves(&sim, act);

        let sim = Sim::with(&[(act, Fault::Fails, u32::MAX)]);
        let report = run_in(&sim).await.unwrap();
        assert_eq!(report.outcome, Outcome::Held, "{act}");
        assert!(sim.get().sealed, "{act}: blue was opened after the decision");
        let Recovery::Finished(report) = next_life(&sim).await else { panic!("not recovered") };
        assert_eq!(report.outcome, Outcome::Completed, "{act}");
        assert_green_serves(&sim, act);
    }
}

#[tokio::test(start_paused = true)]
async fn a_router_that_can_not_be_told_keeps_no_other_waiting() {
    let sim = Sim::with(&[("switch", Fault::Fails, u32::MAX)]);
    sim.state.lock().unwrap().another = true;
    let report = run_in(&sim).await.unwrap();
    assert_eq!(report.outcome, Outcome::Held);
    assert_eq!((&report.serving[..], report.routers.len()), ("green", 1));
    let named = "All routers lead to green but sim.";
    assert!(report.notes.iter().any(|note| note.contains(named)), "{:?}", report.notes);
    let acts: Vec<_> = sim.get().log;
    let at = |name: &str| acts.iter().position(|act| act == name).unwrap();
    assert_eq!(acts[at("switch") + 1], "open_switched");
    assert!(acts.iter().filter(|act| *act == "switch").count() > 1, "it was not tried again");
    let Recovery::Finished(report) = next_life(&sim).await else { panic!("not recovered") };
    assert_eq!(report.outcome, Outcome::Completed);
    assert_green_serves(&sim, "the router was back");
}

#[tokio::test(start_paused = true)]
async fn a_router_that_is_gone_does_not_hold_a_run_that_went_back() {
    let sim = Sim::with(&[("mark", Fault::Fails, 1), ("release_router", Fault::Fails, u32::MAX)]);
    let report = run_in(&sim).await.unwrap();
    assert_eq!((report.outcome, &report.serving[..]), (Outcome::Aborted, "blue"));
    let named = "blue serves, but sim could not be told so: release_router failed";
    assert!(report.notes.iter().any(|note| note.contains(named)), "{:?}", report.notes);
    assert!(!sim.get().read_only && !sim.get().armed);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_the_commit_is_settled_by_the_row() {
    let sim = Sim::with(&[("commit", Fault::DoneInDoubt, 1)]);
    assert_eq!(run_in(&sim).await.unwrap().outcome, Outcome::Completed);
    assert_green_serves(&sim, "the commit had arrived");

    let sim = Sim::with(&[("commit", Fault::InDoubt, 1)]);
    assert_eq!(run_in(&sim).await.unwrap().outcome, Outcome::Aborted);
    assert_blue_serves(&sim, "the commit had not arrived");

    let sim =
        Sim::with(&[("commit", Fault::DoneInDoubt, 1), ("claim_abort", Fault::InDoubt, u32::MAX)]);
    assert_eq!(run_in(&sim).await.unwrap().outcome, Outcome::Held);
    assert!(sim.get().sealed && !sim.get().two_writers);
    let Recovery::Finished(report) = next_life(&sim).await else { panic!("not recovered") };
    assert_eq!(report.outcome, Outcome::Completed);
    assert_green_serves(&sim, "green could be asked again");
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_act_recovers() {
    let all = BEFORE.iter().chain(&["mark_seal", "commit"]).chain(&AFTER);
    for act in all {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let sim = Sim::with(&[(act, fault, 1)]);
            assert!(run_in(&sim).await.is_none());
            let committed = sim.get().decisions.contains_key(&Epoch(42));
            let recovery = next_life(&sim).await;
            let case = format!("{act} {fault:?}");
            let Recovery::Finished(report) = recovery else { panic!("{case}: {recovery:?}") };
            if committed {
                assert_eq!(report.outcome, Outcome::Completed, "{case}");
                assert_green_serves(&sim, &case);
            } else {
                assert_eq!(report.outcome, Outcome::Aborted, "{case}");
                assert_blue_serves(&sim, &case);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_write_to_the_journal_recovers() {
    for skip in 0..16 {
        for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::Fails] {
            // The n-th write: let the ones before pass by a fault that is none.
            let sim = Sim::new();
            let hub = RunHub::new("7f3a", Epoch(42), Direction::Forward, sim.clock().wall());
            let (order, limits) = (order(), Limits::default());
            let running = run(&sim, &order, &limits, &hub);
            tokio::pin!(running);
            let ended = loop {
                tokio::select! {
                    biased;
                    () = sim.crashed.notified() => break None,
                    report = &mut running => break Some(report),
                    () = tokio::time::sleep(Duration::from_micros(10)) => {}
                }
                let mut state = sim.state.lock().unwrap();
                if state.journal.len() == skip && state.faults.is_empty() {
                    state.faults.push(("journal", fault, 1));
                }
            };
            let case = format!("write {skip} {fault:?}");
            if ended.is_none() {
                next_life(&sim).await;
            }
            if sim.get().decisions.get(&Epoch(42)) == Some(&Verdict::Commit) {
                assert_green_serves(&sim, &case);
            } else {
                assert_blue_serves(&sim, &case);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn somebody_who_asks_to_stop_is_heard_until_the_decision() {
    for act in BEFORE.iter().filter(|act| **act != "prepare") {
        let sim = Sim::with(&[(act, Fault::Hangs, 1)]);
        let hub = RunHub::new("7f3a", Epoch(42), Direction::Forward, sim.clock().wall());
        let (order, limits) = (order(), Limits::default());
        let asking = async {
            while sim.get().log.last().map(String::as_str) != Some(*act) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(hub.ask_to_stop("enough"));
            std::future::pending::<()>().await;
        };
        let report = tokio::select! {
            report = run(&sim, &order, &limits, &hub) => report,
            () = asking => unreachable!(),
        };
        assert_eq!(report.outcome, Outcome::Aborted, "{act}");
        assert_eq!(report.error.unwrap().what, "enough", "{act}");
        assert_blue_serves(&sim, act);
        assert!(!hub.ask_to_stop("again"), "{act}: a run that is over");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rehearsal_touches_nothing_and_lists_everything() {
    let sim = Sim::new();
    let plan = rehearse(&sim, &order()).await;
    assert!(plan.ready, "{:?}", plan.checks);
    assert_eq!(plan.hash.len(), 64);
    let state = sim.get();
    assert!(state.journal.is_empty() && !state.held && !state.armed && !state.read_only);
    assert!(state.decisions.is_empty());
    assert_eq!(state.log, ["inspect", "prepare"]);
    assert!(sim.get().log.iter().all(|act| act != "hold"));
    let _ = Phase::Done;
}

/// How long clients waited in a run that was put back.
async fn held_ms_in(sim: &Sim, case: &str) -> u128 {
    let report = run_in(sim).await.unwrap();
    assert_eq!(report.outcome, Outcome::Aborted, "{case}: {report:?}");
    let held_for = sim.get().held_for.expect("the routers were let go");
    held_for.as_millis()
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_stops_in_the_pause_is_not_waited_for() {
    let sim = Sim::with(&[("await_marker", Fault::Hangs, 1)]);
    sim.state.lock().unwrap().stream_stops_at_hold = true;
    let held_ms = held_ms_in(&sim, "the stream").await;
    assert!(held_ms < 700, "clients waited {held_ms} ms for a stream that was down");
    assert_blue_serves(&sim, "the stream");
}

#[tokio::test(start_paused = true)]
async fn clients_do_not_wait_until_a_frozen_server_answers() {
    let sim = Sim::with(&[("await_marker", Fault::Fails, 1), ("lower", Fault::Hangs, 4)]);
    let held_ms = held_ms_in(&sim, "lower").await;
    assert!(held_ms < 1000, "clients waited {held_ms} ms");
    assert_blue_serves(&sim, "lower");
}

#[tokio::test(start_paused = true)]
async fn going_back_does_not_wait_for_the_journal() {
    let sim = Sim::with(&[("await_marker", Fault::Fails, 1)]);
    sim.state.lock().unwrap().journal_hangs_after = Some("await_marker");
    // Its end can't be written either: only what clients wait for counts.
    let run = run_in(&sim);
    drop(tokio::time::timeout(Duration::from_secs(60), run).await);
    let held_ms = sim.get().held_for.expect("the routers were let go").as_millis();
    assert!(held_ms < 700, "clients waited {held_ms} ms for the journal");
}
