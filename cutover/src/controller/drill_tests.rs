use super::sim::{Fault, Sim};
use super::tests::order;
use super::{Limits, Order, Recovery, Scope, Standing, recover, run};
use crate::api::{Outcome, RunReport};
use crate::hub::RunHub;
use crate::ports::{Clock, Epoch, Record, World};
use crate::side::{Direction, Side};

/// What a drill may do, in order. No fence, no seal, no decision, no flip.
const ACTS: [&str; 11] = [
    "inspect",
    "prepare_decision",
    "arm_router",
    "arm",
    "prepare_decision",
    "prepare",
    "hold",
    "mark",
    "await_marker",
    "release_router",
    "release",
];

fn drilling(faults: &[(&'static str, Fault, u32)]) -> Sim {
    let sim = Sim::with(faults);
    sim.state.lock().unwrap().drill = true;
    sim
}

/// Drills; `None`: the process has died.
async fn drill_in(sim: &Sim) -> Option<RunReport> {
    let hub = RunHub::new("7f3a", Epoch(42), Direction::Forward, sim.clock().wall());
    let (order, limits) = (Order { drill: true, ..order() }, Limits::default());
    tokio::select! {
        report = run(sim, &order, &limits, &hub) => Some(report),
        () = sim.crashed.notified() => None,
    }
}

fn assert_as_before(sim: &Sim, case: &str) {
    let state = sim.get();
    assert!(!state.held && !state.armed, "{case}: {:?}", state.log);
    assert!(!state.read_only && !state.sealed && !state.at_green, "{case}: {:?}", state.log);
    assert!(!state.finished && state.decisions.is_empty(), "{case}: {:?}", state.log);
    for act in ["raise", "lower", "seal", "commit", "claim_abort", "switch", "sequences"] {
        assert!(!state.log.iter().any(|done| done == act), "{case}: {act}: {:?}", state.log);
    }
    let standing = Standing::read(&state.journal).unwrap();
    assert_eq!((standing.serving, standing.unfinished), (Side::Blue, None), "{case}");
}

#[tokio::test(start_paused = true)]
async fn it_holds_drains_and_lets_go_and_nothing_else() {
    let sim = drilling(&[]);
    let report = drill_in(&sim).await.unwrap();
    assert_eq!(report.outcome, Outcome::Drilled, "{report:?}");
    assert_eq!((report.serving.as_str(), report.error), ("blue", None));
    assert!(report.pause_ms.is_some() && report.drill.is_some());
    assert_as_before(&sim, "no fault");
    let acts: Vec<_> = sim.get().log.into_iter().filter(|act| act != "journal").collect();
    assert_eq!(acts, ACTS);
    let intended = |entry: &crate::ports::Entry| match &entry.record {
        Record::Reached { next, .. } => next.clone(),
        _ => None,
    };
    let next: Vec<_> = sim.get().journal.iter().filter_map(intended).collect();
    assert_eq!(next, ["arm", "await_gate", "hold_traffic", "drill", "put_back"]);
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_it_is_put_back_within_the_budget() {
    for act in &ACTS[..8] {
        for fault in [Fault::Fails, Fault::DoneInDoubt, Fault::Hangs] {
            if (*act, fault) == ("prepare", Fault::Hangs) {
                continue;
            }
            let sim = drilling(&[(act, fault, 1)]);
            let report = drill_in(&sim).await.unwrap();
            let case = format!("{act} {fault:?}");
            assert_eq!(report.outcome, Outcome::Aborted, "{case}: {report:?}");
            assert!(report.pause_ms.is_none_or(|pause| pause <= 2000.0), "{case}");
            assert_as_before(&sim, &case);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_in_it_is_recovered_without_a_fence_to_lower() {
    for act in ACTS {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let sim = drilling(&[(act, fault, 1)]);
            let case = format!("{act} {fault:?}");
            assert!(drill_in(&sim).await.is_none(), "{case}");
            sim.state.lock().unwrap().faults.clear();
            let recovered = recover(|_| Some(&sim), &Limits::default(), Scope::Full, |_| {}).await;
            let recovered = recovered.unwrap();
            assert!(matches!(recovered, Recovery::Finished(_)), "{case}: {recovered:?}");
            assert_as_before(&sim, &case);
        }
    }
}
