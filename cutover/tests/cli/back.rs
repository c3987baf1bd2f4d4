//! `cutover rollback` and `cutover finish`.

use cutover::Phase;
use cutover::api::Outcome;
use serde_json::json;

use crate::canned;
use crate::command::{Running, cutover, run};
use crate::server::Sidecar;

const ROLLBACK: [&str; 2] = ["rollback", "--yes"];

/// A run that ended so, asked for with these arguments.
fn ended(args: &[&str], path: &'static str, outcome: Outcome, phase: Phase) -> (Sidecar, i32) {
    let sidecar = Sidecar::start(canned::ready());
    let running = Running::start(cutover(sidecar.url(), args));
    sidecar.wait_for(|request| request.target == path);
    sidecar.change(|state| state.end(canned::report(outcome, Some(59.7), Vec::new()), phase));
    let ended = running.end();
    let code = ended.code.unwrap_or_else(|| panic!("{ended:#?}"));
    (sidecar, code)
}

#[test]
fn a_rollback_that_was_asked_for_and_came_is_code_0() {
    let (sidecar, code) = ended(&ROLLBACK, "/v1/rollback", Outcome::RolledBack, Phase::Done);
    assert_eq!(code, 0);
    let planned = sidecar.wait_for(|request| request.target == "/v1/plan");
    assert_eq!(planned.body["direction"], "back");
    let asked = sidecar.wait_for(|request| request.target == "/v1/rollback");
    // The sidecar's own condition holds where none is given.
    assert_eq!(asked.body["when_lag"], json!(null));
    assert_eq!(asked.body["confirmation"], "--yes");
}

#[test]
fn a_cutover_that_was_rolled_back_by_itself_is_code_6() {
    let go = ["--when-lag", "<1s", "--yes", "--watch", "5m"];
    let (sidecar, code) = ended(&go, "/v1/cutover", Outcome::RolledBack, Phase::Done);
    assert_eq!(code, 6);
    let asked = sidecar.wait_for(|request| request.target == "/v1/cutover");
    assert_eq!(asked.body["watch_ms"], 300_000);
    let planned = sidecar.wait_for(|request| request.target == "/v1/plan");
    assert_eq!(planned.body["direction"], "forward");
}

#[test]
fn a_rollback_has_the_codes_of_a_run() {
    for (outcome, phase, wanted) in [
        (Outcome::PrecheckFailed, Phase::Aborted, 3),
        (Outcome::GateTimeout, Phase::Aborted, 4),
        (Outcome::Aborted, Phase::Aborted, 5),
        (Outcome::Held, Phase::Held, 7),
    ] {
        let (_, code) = ended(&ROLLBACK, "/v1/rollback", outcome, phase);
        assert_eq!(code, wanted, "{outcome:?}");
    }
}

#[test]
fn without_a_way_back_is_asked_for_and_planned_for() {
    let go = ["--when-lag", "<1s", "--yes", "--no-way-back"];
    let (sidecar, code) = ended(&go, "/v1/cutover", Outcome::Completed, Phase::Done);
    assert_eq!(code, 0);
    for path in ["/v1/plan", "/v1/cutover"] {
        let asked = sidecar.wait_for(|request| request.target == path);
        assert_eq!(asked.body["no_way_back"], true, "{path}");
    }
}

#[test]
fn finish_shows_what_goes_and_says_what_went() {
    let mut state = canned::ready();
    state.finish_plan = canned::finish_plan(None);
    let sidecar = Sidecar::start(state);
    let ended = run(sidecar.url(), &["finish"]);
    assert_eq!(ended.code, Some(2), "nobody was asked: {ended:#?}");
    let ended = run(sidecar.url(), &["finish", "--yes"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stderr.contains("does   green  drop replication slot back"), "{ended:#?}");
    assert!(ended.stdout.starts_with("finished  green serves for good\n"), "{ended:#?}");
    let asked =
        sidecar.wait_for(|request| request.target == "/v1/finish" && request.method == "POST");
    assert_eq!(asked.body["confirmation"], "--yes");
    assert_eq!(asked.body["force_abandon_rollback"], false);
}

#[test]
fn finish_is_refused_while_watching_unless_it_is_forced() {
    let mut state = canned::ready();
    state.finish_plan = canned::finish_plan(Some("run 7f3a still watches"));
    let sidecar = Sidecar::start(state);
    let ended = run(sidecar.url(), &["finish", "--yes"]);
    assert_eq!(ended.code, Some(8), "{ended:#?}");
    assert!(ended.stderr.contains("next   cutover finish --force-abandon-rollback"), "{ended:#?}");
    assert!(!sidecar.state().requests.iter().any(|request| request.method == "POST"));
    let ended = run(sidecar.url(), &["finish", "--yes", "--force-abandon-rollback", "--json"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(ended.json()["removed"][0], "green: replication slot back");
}
