//! What the sidecar of the tests knows.

use cutover::Phase;
use cutover::api::{
    Check, Checks, Member, Outcome, Plan, RunEventKind, RunReport, RunStatus, SCHEMA_VERSION,
    Server, Step, Stepped,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::server::State;

pub fn at() -> Timestamp {
    "2026-11-21T12:00:04.118Z".parse().expect("a time")
}

fn database(name: &str, version: &str) -> Server {
    Server {
        url: format!("postgres://db-{name}:5432/shop"),
        database: "shop".into(),
        version: Some(version.into()),
        up: true,
    }
}

pub fn plan(checks: Vec<Check>) -> Plan {
    Plan {
        schema_version: SCHEMA_VERSION,
        hash: "7f3a0011".into(),
        epoch: 42,
        direction: cutover::Direction::Forward,
        way_back: true,
        blue: database("blue", "13.22"),
        green: database("green", "17.2"),
        router: "pgbouncer x3".into(),
        gate: "lag <1s for 3s".into(),
        max_pause_ms: 2000,
        ready: Checks::of(&checks).fail == 0,
        waits_for: None,
        checks,
        acts: vec![cutover::api::Act {
            step: "quiesce".into(),
            place: "pgb-1".into(),
            text: "PAUSE shop".into(),
        }],
    }
}

/// A sidecar that streams and is ready for a run.
pub fn ready() -> State {
    let checks =
        vec![Check::ok("wal-level", "logical"), Check::warn("long-txn", "pid 8812", "wait")];
    State {
        plan: json!(plan(checks)),
        status: status("streaming"),
        history: json!({"schema_version": 1, "runs": []}),
        ..State::default()
    }
}

pub fn status(phase: &str) -> Value {
    json!({
        "schema_version": 1, "pipeline": "shop", "version": "0.1.0", "at": at(), "phase": phase,
        "since": at(), "waiting_for": null,
        "blue": database("blue", "13.22"), "green": database("green", "17.2"),
        "lag": {"seconds": null, "bytes": null, "transactions": 0, "drain_estimate_seconds": null,
                "known": false, "reason": "blue does not answer"},
        "positions": {"head": null, "received": null, "applied": null, "durable": null, "acked": null},
        "backfill": null,
        "counters": {"transactions": 0, "inserts": 0, "updates": 0, "deletes": 0, "truncates": 0,
                     "bytes": 0, "reconnects": 0},
        "last_error": null, "cutover": null, "a_field_of_a_later_release": 1
    })
}

pub fn finish_plan(refused: Option<&str>) -> Value {
    json!({
        "schema_version": 1, "state": "not_asked", "serving": "green", "sealed": "blue",
        "database": "shop", "refused": refused, "reopen": [],
        "acts": [{"step": "finish", "where": "green", "text": "drop replication slot back"}]
    })
}

pub fn finished() -> Value {
    json!({
        "schema_version": 1, "serving": "green", "sealed": "blue", "reopen": ["blue: ALTER .."],
        "removed": ["green: replication slot back"]
    })
}

pub fn error(code: &str, what: &str) -> Value {
    json!({
        "schema_version": 1, "code": code, "what": what, "where": "sidecar", "state": "gate",
        "data_safe": true, "next_command": "cutover status --watch"
    })
}

pub fn started() -> RunStatus {
    RunStatus {
        schema_version: SCHEMA_VERSION,
        run: "7f3a".into(),
        epoch: 42,
        direction: cutover::Direction::Forward,
        phase: Phase::Replicating,
        started: at(),
        waiting_for: None,
        abortable: true,
        serving: "blue".into(),
        watch_until: None,
        monitors: Vec::new(),
        last_event: 0,
        report: None,
    }
}

pub fn gate(held_seconds: f64) -> RunEventKind {
    RunEventKind::Gate {
        lag_seconds: Some(0.24),
        condition: "<1s".into(),
        held_seconds,
        needed_seconds: 3.0,
        waiting_for: None,
        transactions_per_second: Some(2014.0),
        drain_estimate_ms: Some(3.0),
    }
}

pub fn step(step: Step, offset_ms: Option<f64>) -> Stepped {
    let summary = format!("{} went well", step.name());
    Stepped { step, start: at(), ms: offset_ms.unwrap_or(1.0), offset_ms, ok: true, summary }
}

pub fn report(outcome: Outcome, pause_ms: Option<f64>, steps: Vec<Stepped>) -> RunReport {
    let (serving, error) = match outcome {
        Outcome::Completed => ("green", None),
        Outcome::Held => ("none", Some("the router does not answer")),
        _ => ("blue", Some("somebody asked for it")),
    };
    RunReport {
        schema_version: SCHEMA_VERSION,
        run: "7f3a".into(),
        epoch: 42,
        direction: cutover::Direction::Forward,
        outcome,
        actor: Some("ada".into()),
        reason: None,
        started: at(),
        ended: at(),
        pause_ms,
        marker: None,
        fence_proof: None,
        steps,
        way_back: None,
        breach: None,
        checks: Checks::default(),
        findings: Vec::new(),
        drill: None,
        routers: vec![Member {
            member: "pgb-1".into(),
            target: serving.into(),
            verified: true,
            evidence: "answered".into(),
        }],
        serving: serving.into(),
        error: error.map(|what| {
            cutover::api::ApiError::new(cutover::api::ErrorCode::Internal, what, "operator")
        }),
        notes: vec!["nothing is left over".into()],
    }
}
