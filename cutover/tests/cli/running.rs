//! A cutover from its plan to its report, and what ^C means at each place.

use cutover::Phase;
use cutover::api::{Breach, Check, Outcome, RunEventKind, RunReport, Step};
use serde_json::json;

use crate::canned::{self, gate, report, step};
use crate::command::{Running, cutover, run};
use crate::server::{Sidecar, State};

const GO: [&str; 3] = ["--when-lag", "<1s", "--yes"];

/// Tells the whole way to green.
fn complete(state: &mut State) {
    let pause = [
        (Step::Quiesce, 0.4),
        (Step::Fence, 34.1),
        (Step::Drain, 39.4),
        (Step::Sync, 44.9),
        (Step::Seal, 52.6),
        (Step::Commit, 55.8),
        (Step::Flip, 58.9),
        (Step::Open, 59.7),
    ];
    let mut steps = vec![step(Step::Arm, None), step(Step::Gate, None)];
    steps.extend(pause.map(|(name, offset)| step(name, Some(offset))));
    for step in &steps {
        state.event(RunEventKind::Step(step.clone()));
    }
    state.event(RunEventKind::Note { text: "14 sessions were closed".into() });
    state.end(report(Outcome::Completed, Some(59.7), steps), Phase::Done);
}

/// A run that waits at `phase`, watched.
fn watched(phase: Phase, args: &[&str]) -> (Sidecar, Running) {
    let sidecar = Sidecar::start(canned::ready());
    let mut running = Running::start(cutover(sidecar.url(), args));
    sidecar.wait_for(|request| request.target == "/v1/cutover");
    sidecar.change(|state| {
        if let Some(run) = &mut state.run {
            run.phase = phase;
            run.abortable = phase < Phase::Committed;
        }
        state.event(RunEventKind::Note { text: "the test is ready".into() });
    });
    running.wait_for("the test is ready");
    (sidecar, running)
}

#[test]
fn a_completed_run_is_told_and_ends_with_0() {
    let sidecar = Sidecar::start(canned::ready());
    let args = [
        "--when-lag",
        "lt1s",
        "--for",
        "1s",
        "--gate-timeout",
        "5m",
        "--max-pause",
        "500ms",
        "--yes",
        "--reason",
        "the move",
        "--actor",
        "ada",
    ];
    let mut running = Running::start(cutover(sidecar.url(), &args));
    sidecar.wait_for(|request| request.target == "/v1/cutover");
    sidecar.change(|state| state.event(gate(2.6)));
    running.wait_for("needs <1s  [######--] 2.6/3.0s");
    sidecar.change(complete);
    let ended = running.end();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stderr.contains("WARN long-txn"), "{ended:#?}");
    assert!(ended.stderr.contains(" gate   lag <1s for 1s, within 5m "), "{ended:#?}");
    assert!(
        ended.stderr.contains("12:00:04.173  +55.8ms    COMMIT   commit went well"),
        "{ended:#?}"
    );
    assert!(ended.stderr.contains("14 sessions were closed"), "{ended:#?}");
    assert!(ended.stdout.starts_with("completed  green serves  write pause 59.7 ms  run 7f3a\n"));
    let started = sidecar.wait_for(|request| request.target == "/v1/cutover");
    assert_eq!(
        started.body,
        json!({
            "when_lag": "<1s", "for_ms": 1000, "gate_timeout_ms": 300_000, "max_pause_ms": 500,
            "actor": "ada", "reason": "the move", "confirmation": "--yes", "plan_hash": "7f3a0011",
        })
    );
}

#[test]
fn for_programs_there_is_one_object_and_nothing_else() {
    let sidecar = Sidecar::start(canned::ready());
    let running =
        Running::start(cutover(sidecar.url(), &[&GO[..], &["--json", "--quiet"]].concat()));
    sidecar.wait_for(|request| request.target == "/v1/cutover");
    sidecar.change(complete);
    let ended = running.end();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:#?}");
    let object = ended.json();
    assert_eq!((&object["outcome"], &object["pause_ms"]), (&json!("completed"), &json!(59.7)));
    assert_eq!(object["steps"].as_array().map(Vec::len), Some(10));
}

#[test]
fn each_outcome_has_its_code() {
    let outcomes = [
        (Outcome::PrecheckFailed, Phase::Aborted, 3),
        (Outcome::GateTimeout, Phase::Aborted, 4),
        (Outcome::Aborted, Phase::Aborted, 5),
        (Outcome::Held, Phase::Held, 7),
    ];
    for (outcome, phase, code) in outcomes {
        let sidecar = Sidecar::start(canned::ready());
        let running = Running::start(cutover(sidecar.url(), &GO));
        sidecar.wait_for(|request| request.target == "/v1/cutover");
        sidecar.change(|state| state.end(report(outcome, None, Vec::new()), phase));
        let ended = running.end();
        assert_eq!(ended.code, Some(code), "{outcome:?}: {ended:#?}");
        assert!(ended.stderr.contains("error: ") && ended.stderr.contains(" data "), "{ended:#?}");
    }
}

#[test]
fn another_active_run_is_exit_code_8() {
    let mut state = canned::ready();
    state.start_refused = Some((409, canned::error("busy", "run 6e2b is active")));
    let sidecar = Sidecar::start(state);
    let ended = run(sidecar.url(), &GO);
    assert_eq!(ended.code, Some(8), "{ended:#?}");
    assert!(ended.stderr.contains("run 6e2b is active"), "{ended:#?}");
    assert!(ended.stderr.contains(" next   cutover status --watch"), "{ended:#?}");
}

#[test]
fn a_failed_check_starts_nothing() {
    let mut state = canned::ready();
    state.plan = json!(canned::plan(vec![Check::fail("primary-key", "public.log", "add one")]));
    let sidecar = Sidecar::start(state);
    let ended = run(sidecar.url(), &[&GO[..], &["--json"]].concat());
    assert_eq!((ended.code, &ended.json()["ready"]), (Some(3), &json!(false)), "{ended:#?}");
    assert!(ended.stderr.contains("FAIL primary-key"), "{ended:#?}");
    assert!(sidecar.state().run.is_none());
}

#[test]
fn without_a_terminal_somebody_has_to_say_yes() {
    let sidecar = Sidecar::start(canned::ready());
    let ended = run(sidecar.url(), &["--when-lag", "<1s"]);
    assert_eq!(ended.code, Some(2), "{ended:#?}");
    assert!(ended.stderr.contains("--yes"), "{ended:#?}");
    assert!(sidecar.state().requests.is_empty());
}

#[test]
fn interrupted_before_the_gate_the_run_is_aborted_and_the_code_is_130() {
    let (sidecar, running) = watched(Phase::Armed, &GO);
    sidecar.state().on_abort = Some(report(Outcome::Aborted, None, Vec::new()));
    running.interrupt();
    let ended = running.end();
    assert_eq!(ended.code, Some(130), "{ended:#?}");
    sidecar.wait_for(|request| request.target == "/v1/cutover/7f3a/abort");
    assert!(ended.stdout.contains("blue serves"), "{ended:#?}");
}

#[test]
fn interrupted_during_the_pause_the_run_is_aborted_and_the_code_is_5() {
    let (sidecar, running) = watched(Phase::Fenced, &GO);
    sidecar.state().on_abort = Some(report(Outcome::Aborted, Some(40.0), Vec::new()));
    running.interrupt();
    let ended = running.end();
    assert_eq!(ended.code, Some(5), "{ended:#?}");
    sidecar.wait_for(|request| request.target == "/v1/cutover/7f3a/abort");
}

#[test]
fn after_the_point_of_no_return_an_interrupt_only_leaves() {
    let (sidecar, running) = watched(Phase::Committed, &GO);
    running.interrupt();
    let ended = running.end();
    assert_eq!(ended.code, Some(12), "{ended:#?}");
    assert!(ended.stderr.contains("the run goes on without this command"), "{ended:#?}");
    assert!(ended.stderr.contains("cutover status --watch"), "{ended:#?}");
    let state = sidecar.state();
    assert!(state.requests.iter().all(|request| !request.target.ends_with("/abort")));
}

#[test]
fn an_interrupt_while_a_rollback_is_due_only_leaves() {
    let (sidecar, running) = watched(Phase::Watching, &GO);
    sidecar.change(|state| {
        let what = "monitor errors: 7 of 10".to_owned();
        let breach = Some(Breach { at: canned::at(), what });
        let report = RunReport { breach, ..report(Outcome::Completed, Some(59.7), Vec::new()) };
        state.end(report, Phase::Done);
    });
    sidecar.wait_for(|request| request.target.starts_with("/v1/cutover/current"));
    running.interrupt();
    let ended = running.end();
    assert_eq!(ended.code, Some(12), "{ended:#?}");
    assert!(ended.stderr.contains("it may still begin"), "{ended:#?}");
}

/// The order has arrived, and what came of it can't be read: that is no sidecar that can't be reached.
#[test]
fn an_answer_that_can_t_be_read_is_exit_code_12() {
    let mut state = canned::ready();
    state.start_refused = Some((202, json!({ "schema_version": 99 })));
    let sidecar = Sidecar::start(state);
    let ended = run(sidecar.url(), &GO);
    assert_eq!(ended.code, Some(12), "{ended:#?}");
    assert!(ended.stderr.contains("the run may have been started"), "{ended:#?}");
}

#[test]
fn an_abort_that_comes_too_late_leaves_the_run_alone() {
    let (sidecar, mut running) = watched(Phase::Sealed, &GO);
    running.interrupt();
    running.wait_for("too late to abort");
    sidecar.change(complete);
    let ended = running.end();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
}

#[test]
fn a_sidecar_that_goes_away_during_a_run_is_exit_code_10() {
    let (sidecar, running) =
        watched(Phase::Fenced, &[&GO[..], &["--reconnect-for", "300ms"]].concat());
    sidecar.change(|state| state.mute = true);
    let ended = running.end();
    assert_eq!(ended.code, Some(10), "{ended:#?}");
    assert!(ended.stderr.contains("run 7f3a may be going on"), "{ended:#?}");
    assert!(ended.stderr.contains(" next   cutover status"), "{ended:#?}");
}

#[test]
fn a_sidecar_that_comes_back_is_followed_on() {
    let (sidecar, mut running) = watched(Phase::Fenced, &GO);
    sidecar.change(|state| state.mute = true);
    running.wait_for("trying for 30s");
    sidecar.change(|state| {
        state.mute = false;
        complete(state);
    });
    let ended = running.end();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stderr.contains("answers again"), "{ended:#?}");
}
