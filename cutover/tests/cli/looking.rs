//! Commands that start nothing: plan, status, wait, history, abort.

use std::fs;
use std::net::TcpListener;

use cutover::Phase;
use cutover::api::{Check, Outcome, SOCKET};
use serde_json::json;

use crate::canned;
use crate::command::{Running, cutover, run};
use crate::server::Sidecar;

#[test]
fn a_plan_says_whether_it_is_ready() {
    let sidecar = Sidecar::start(canned::ready());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("plan.json");
    let ended = run(sidecar.url(), &["plan", "--out", file.to_str().unwrap()]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stdout.contains("PAUSE shop") && ended.stdout.ends_with(" ready\n"));
    let written: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(written, json!(sidecar.state().plan));

    let fails = vec![Check::fail("primary-key", "public.log has none", "add one")];
    sidecar.change(|state| state.plan = json!(canned::plan(fails)));
    let ended = run(sidecar.url(), &["plan", "--json"]);
    assert_eq!((ended.code, &ended.json()["ready"]), (Some(3), &json!(false)));
    let ended = run(sidecar.url(), &["--when-lag", "<2s", "--max-pause", "1s", "--dry-run"]);
    assert_eq!(ended.code, Some(3), "{ended:#?}");
    assert!(ended.stdout.contains("FAIL primary-key"), "{ended:#?}");
    let asked = sidecar.wait_for(|request| request.body["max_pause_ms"] == 1000);
    assert_eq!(asked.body["when_lag"], "<2s");
    assert!(sidecar.state().requests.iter().all(|request| request.target == "/v1/plan"));
}

#[test]
fn a_plan_that_takes_long_is_waited_for_while_the_sidecar_lives() {
    let sidecar = Sidecar::start(canned::ready());
    sidecar.change(|state| state.plan_is_slow = true);
    let ended = run(sidecar.url(), &["plan", "--json"]);
    assert_eq!((ended.code, &ended.json()["ready"]), (Some(0), &json!(true)), "{ended:#?}");
    assert!(ended.stderr.contains("at work on its answer:"), "{ended:#?}");
}

#[test]
fn status_is_for_people_or_for_programs() {
    let sidecar = Sidecar::start(canned::ready());
    let ended = run(sidecar.url(), &["status"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stdout.contains("unknown: blue does not answer"), "{ended:#?}");
    assert!(ended.stdout.contains("safe: blue serves") && !ended.stdout.contains('\u{1b}'));
    let ended = run(sidecar.url(), &["status", "--json"]);
    assert_eq!(ended.json()["lag"]["known"], false);
    assert_eq!(run(sidecar.url(), &["history"]).stdout, "no run yet\n");
}

#[test]
fn watching_goes_on_until_interrupted() {
    let sidecar = Sidecar::start(canned::ready());
    let running = Running::start(cutover(sidecar.url(), &["status", "--watch", "--json"]));
    sidecar.wait_for(|request| request.target == "/v1/status");
    sidecar.change(|state| state.requests.clear());
    sidecar.wait_for(|request| request.target == "/v1/status");
    running.interrupt();
    let ended = running.end();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stdout.lines().count() >= 1, "{ended:#?}");
    for line in ended.stdout.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
}

#[test]
fn nobody_there_is_exit_code_10() {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let api = format!("http://127.0.0.1:{port}");
    let commands: [&[&str]; 5] =
        [&["status"], &["plan"], &["history"], &["--when-lag", "<1s", "--yes"], &["abort"]];
    for args in commands {
        let ended = run(&api, args);
        assert_eq!(ended.code, Some(10), "{args:?}: {ended:#?}");
        for part in ["does not answer", " where  http://127.0.0.1", " state ", " data ", " next "] {
            assert!(ended.stderr.contains(part), "{args:?}: {ended:#?}");
        }
    }
    assert_eq!(run(&api, &["status", "--json"]).json()["code"], "unavailable");
}

#[test]
fn the_token_comes_from_the_environment_or_a_file() {
    let sidecar = Sidecar::start(canned::ready());
    let mut command = cutover(sidecar.url(), &["status"]);
    command.env("CUTOVER_API_TOKEN", "from-the-environment");
    assert_eq!(Running::start(command).end().code, Some(0));
    let sent = |token: &'static str| {
        let header = format!("authorization: Bearer {token}");
        sidecar.wait_for(move |request| request.headers.contains(&header))
    };
    sent("from-the-environment");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, "from-a-file\n").unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(run(sidecar.url(), &["status", "--token-file", file]).code, Some(0));
    sent("from-a-file");
    assert_eq!(run(sidecar.url(), &["status", "--token-file", "/nowhere"]).code, Some(2));
}

#[test]
fn another_program_at_the_address_is_told_apart() {
    let mut state = canned::ready();
    state.status = json!({"hello": "world"});
    let sidecar = Sidecar::start(state);
    let ended = run(sidecar.url(), &["status"]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stderr.contains("not a sidecar's API"), "{ended:#?}");
    sidecar.change(|state| state.status["schema_version"] = json!(2));
    let ended = run(sidecar.url(), &["status"]);
    assert!(ended.stderr.contains("speaks version 2"), "{ended:#?}");
}

#[test]
fn wait_ends_when_the_state_is_reached_or_can_not_come() {
    let mut state = canned::ready();
    state.status = canned::status("copying");
    let sidecar = Sidecar::start(state);
    let waiting = Running::start(cutover(sidecar.url(), &["wait", "--for-state", "streaming"]));
    sidecar.wait_for(|request| request.target == "/v1/status");
    sidecar.change(|state| state.status = canned::status("streaming"));
    let ended = waiting.end();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "streaming\n"));
    // What lies behind has been reached.
    assert_eq!(run(sidecar.url(), &["wait", "--for-state", "copying"]).code, Some(0));
    let late = run(sidecar.url(), &["wait", "--for-state", "open", "--timeout", "10ms"]);
    assert_eq!(late.code, Some(4), "{late:#?}");
    sidecar.change(|state| state.status = canned::status("halted"));
    let halted = run(sidecar.url(), &["wait", "--for-state", "streaming"]);
    assert_eq!(halted.code, Some(7), "{halted:#?}");
    assert_eq!(run(sidecar.url(), &["wait", "--for-state", "nowhere"]).code, Some(2));
}

/// Its first start makes the socket that the command finds it by.
#[test]
fn wait_may_begin_before_the_sidecar() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("cutover.toml");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fs::write(&config, format!("state_dir = {:?}\n[api]\nlisten = '{nobody}'\n", directory.path()))
        .unwrap();
    let config = config.to_str().unwrap();
    let mut command = cutover("", &["wait", "--for-state", "streaming", "--config", config]);
    command.env_remove("CUTOVER_API").env_remove("CUTOVER_STATE_DIR");
    let mut waiting = Running::start(command);
    waiting.wait_for("refused");

    let mut state = canned::ready();
    state.status = canned::status("streaming");
    let sidecar = Sidecar::start(state);
    sidecar.listen_at(&directory.path().join(SOCKET));
    let ended = waiting.end();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "streaming\n"), "{ended:#?}");
}

#[test]
fn abort_waits_for_the_end() {
    let mut state = canned::ready();
    state.run = Some(canned::started());
    state.on_abort = Some(canned::report(Outcome::Aborted, Some(12.0), Vec::new()));
    let sidecar = Sidecar::start(state);
    let ended = run(sidecar.url(), &["abort", "--reason", "too early", "--actor", "ada"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stdout.starts_with("aborted: everything was put back  blue serves"));
    let asked = sidecar.wait_for(|request| request.target == "/v1/cutover/current/abort");
    assert_eq!(asked.body, json!({"actor": "ada", "reason": "too early"}));
    // Now it is too late.
    let ended = run(sidecar.url(), &["abort", "--json"]);
    assert_eq!((ended.code, &ended.json()["code"]), (Some(1), &json!("too_late")));
    assert_eq!(sidecar.state().run.as_ref().map(|run| run.phase), Some(Phase::Aborted));
}
