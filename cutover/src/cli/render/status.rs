//! The pipeline now, on one screen.

use crate::api::{
    Backfill, FinishState, Halt, Lag, Outcome, PipelinePhase, Positions, RunStatus, Server, Status,
    TableProgress,
};
use crate::phase::Phase;
use crate::side::Direction;

use super::{Paint, streams, units};

/// Whether the data is safe, in words, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// `false` only when that can't be shown.
    pub safe: bool,
    /// Why, and which database serves.
    pub data: String,
    /// The next command, or what to wait for.
    pub next: String,
}

/// What a status means to somebody who has to decide.
pub fn advice(status: &Status) -> Advice {
    let run = status.cutover.as_ref();
    let serving = run.map(|run| run.serving.as_str()).or(status.serving.as_deref());
    let serving = match serving {
        Some("none") => "no database admits writes now".to_owned(),
        Some(serving) => format!("{serving} serves"),
        None => "blue serves".into(),
    };
    let problem = status.last_error.as_ref();
    let safe = problem.is_none_or(|problem| problem.data_safe)
        && run
            .and_then(|run| run.report.as_ref())
            .and_then(|report| report.error.as_ref())
            .is_none_or(|error| error.data_safe);
    let data = match &status.halt {
        Some(halt) if safe => format!("{}; {serving}", halt.data),
        _ if safe => format!("safe: {serving}"),
        _ => format!("NOT PROVEN SAFE: {serving}"),
    };
    Advice { safe, data, next: next(status) }
}

fn next(status: &Status) -> String {
    if let Some(run) = &status.cutover {
        match (run.phase, run.report.as_ref().map(|report| report.outcome)) {
            (Phase::Held, _) => {
                let command = run
                    .report
                    .as_ref()
                    .and_then(|report| report.error.as_ref()?.next_command.clone());
                return command
                    .unwrap_or_else(|| "read the notes of the run: cutover status --json".into());
            }
            (_, Some(Outcome::Completed)) => return after(status),
            (Phase::Watching, None) => {
                return "nothing: the clients are served and watched. Back: cutover rollback"
                    .into();
            }
            (_, None) if run.abortable => {
                return "wait for the run, or stop it: cutover abort".into();
            }
            (_, None) => return "wait for the run: cutover status --watch".into(),
            (_, Some(_)) => {}
        }
    }
    if let Some(next) = status.last_error.as_ref().and_then(|problem| problem.next.clone()) {
        return next;
    }
    match status.phase {
        PipelinePhase::Starting
        | PipelinePhase::Copying
        | PipelinePhase::Indexing
        | PipelinePhase::CatchingUp => "cutover wait --for-state streaming --timeout 1h".into(),
        PipelinePhase::Streaming => "cutover plan, then: cutover --when-lag '<1s'".into(),
        PipelinePhase::CuttingOver => "cutover status --watch".into(),
        PipelinePhase::CutOver => after(status),
        PipelinePhase::Reconnecting => {
            "nothing: it goes on by itself once the server is back".into()
        }
        PipelinePhase::Halted => "remove the cause; it goes on by itself: cutover status".into(),
        PipelinePhase::Stopping => "start it again when you want to go on: replicator run".into(),
    }
}

/// Once green serves.
fn after(status: &Status) -> String {
    match status.finish {
        FinishState::UnderWay => "cutover finish, again: it was begun and has to be ended".into(),
        FinishState::NotAsked if status.direction == Direction::Back => {
            "nothing: green serves, blue follows. Back: cutover rollback. For good: cutover finish"
                .into()
        }
        _ => "nothing: green serves. Keep blue until you are sure".into(),
    }
}

/// The screen.
pub fn render_status(status: &Status, paint: Paint) -> String {
    let phase = status.phase.name();
    let phase = match status.phase {
        PipelinePhase::Streaming | PipelinePhase::CutOver => paint.good(phase),
        PipelinePhase::Halted => paint.bad(phase),
        PipelinePhase::Reconnecting | PipelinePhase::Stopping => paint.warn(phase),
        _ => paint.bold(phase),
    };
    let mut text = format!(
        "{}  {phase} for {}  at {}  sidecar {}\n",
        paint.bold(&status.pipeline),
        units::since(status.at, status.since),
        units::date(status.at),
        status.version,
    );
    if let Some(waiting_for) = &status.waiting_for {
        row(&mut text, "waits", &paint.warn(waiting_for));
    }
    if let Some(why) = &status.audit_broken {
        row(&mut text, "audit", &paint.bad(&format!("THE LOG WAS CHANGED: {why}")));
    }
    row(&mut text, "blue", &server(&status.blue, paint));
    row(&mut text, "green", &server(&status.green, paint));
    for (name, value) in streams::rows(status, paint) {
        row(&mut text, name, &value);
    }
    let of_which = match status.direction {
        Direction::Forward => "",
        Direction::Back => "  (of blue behind green)",
    };
    row(&mut text, "lag", &format!("{}{of_which}", lag(&status.lag, paint)));
    row(&mut text, "position", &positions(&status.positions));
    if let Some(copy) = &status.backfill {
        backfill(&mut text, copy, status.phase);
    }
    let counters = &status.counters;
    row(
        &mut text,
        "applied",
        &format!(
            "{} tx  +{} ~{} -{} rows  {} truncates  {}  {} reconnects",
            units::count(counters.transactions),
            units::count(counters.inserts),
            units::count(counters.updates),
            units::count(counters.deletes),
            units::count(counters.truncates),
            units::bytes(counters.bytes),
            units::count(counters.reconnects),
        ),
    );
    if let Some(verification) = &status.verification {
        let sentence = verification.sentence();
        let sentence = match verification.differences {
            0 => sentence,
            _ => paint.bad(&sentence),
        };
        row(&mut text, "verified", &sentence);
    }
    if let Some(run) = &status.cutover {
        row(&mut text, "cutover", &cutover(run, paint));
    }
    if let Some(halt) = &status.halt {
        row(&mut text, "halted", &paint.bad(&halted(halt, status)));
    }
    if let Some(problem) = &status.last_error {
        row(&mut text, "error", &paint.bad(&problem.what));
        let ago = units::since(status.at, problem.at);
        row(&mut text, "  where", &format!("{}, {ago} ago", problem.place));
    }
    if let Some(halt) = &status.halt {
        row(&mut text, "  state", &halt.state);
    }
    let advice = advice(status);
    let data = if advice.safe { paint.good(&advice.data) } else { paint.bad(&advice.data) };
    row(&mut text, "data", &data);
    row(&mut text, "next", &advice.next);
    text
}

/// Since when, and what becomes of it.
fn halted(halt: &Halt, status: &Status) -> String {
    let tried = match halt.tries {
        0 => String::new(),
        1 => ", tried again once".to_owned(),
        tries => format!(", tried again {tries} times"),
    };
    let again = match halt.retry_at {
        Some(at) => format!("again in {}; at once: cutover retry", units::since(at, status.at)),
        None if status.phase == PipelinePhase::Halted => {
            "it waits for: cutover retry, unless an attempt is under way".to_owned()
        }
        None => "an attempt is under way".to_owned(),
    };
    let since = units::since(status.at, halt.since);
    format!("for {since}, since {}{tried}; {again}", units::date(halt.since))
}

fn row(text: &mut String, name: &str, value: &str) {
    text.push_str(&format!(" {name:<9}{}\n", value.replace('\n', "\n          ")));
}

fn server(server: &Server, paint: Paint) -> String {
    let up = if server.up { paint.good("up  ") } else { paint.bad("DOWN") };
    format!("{up}  {:<8}  {}", server.version.as_deref().unwrap_or("-"), server.url)
}

fn lag(lag: &Lag, paint: Paint) -> String {
    let mut text = match (lag.known, lag.seconds) {
        (true, Some(seconds)) => units::seconds(seconds),
        _ => {
            let reason = lag.reason.as_deref().unwrap_or("the sidecar does not say why");
            paint.warn(&format!("unknown: {reason}"))
        }
    };
    if let Some(bytes) = lag.bytes {
        text.push_str(&format!("  {}", units::bytes(bytes)));
    }
    text.push_str(&format!("  {} tx in flight", units::count(lag.transactions)));
    if let Some(estimate) = lag.drain_estimate_seconds {
        text.push_str(&format!("  drain ~{}", units::ms(estimate * 1000.0)));
    }
    if let (true, Some(reason)) = (lag.known, &lag.reason) {
        text.push_str(&format!("  ({reason})"));
    }
    text
}

fn positions(positions: &Positions) -> String {
    let stages = [
        ("head", &positions.head),
        ("received", &positions.received),
        ("applied", &positions.applied),
        ("durable", &positions.durable),
        ("acked", &positions.acked),
    ];
    let shown = stages.map(|(name, position)| match position {
        Some(position) => format!("{name} {position}"),
        None => format!("{name} -"),
    });
    shown.join("  ")
}

fn backfill(text: &mut String, copy: &Backfill, phase: PipelinePhase) {
    let copying = matches!(phase, PipelinePhase::Copying | PipelinePhase::Indexing);
    let mut line = format!(
        "{}/{} tables  {} rows  {}",
        copy.tables_done,
        copy.tables_total,
        units::count(copy.rows),
        amount(copy.bytes, copy.bytes_total),
    );
    if copying {
        line.push_str(&pace(copy.rows_per_second, copy.eta_seconds));
        if !copy.doing.is_empty() {
            line.push_str(&format!("  {}", copy.doing));
        }
    }
    row(text, "copy", &line);
    if !copying {
        return;
    }
    let width = copy.active.iter().map(|table| table.table.chars().count()).max().unwrap_or(0);
    for table in &copy.active {
        row(text, "", &format!("{:width$}  {}", table.table, table_line(table)));
    }
}

fn table_line(table: &TableProgress) -> String {
    format!(
        "{} rows  {}{}",
        units::count(table.rows),
        amount(table.bytes, table.bytes_total),
        pace(table.rows_per_second, table.eta_seconds)
    )
}

fn amount(done: u64, total: u64) -> String {
    match units::percent(done, total) {
        Some(percent) => format!("{} of ~{} ({percent})", units::bytes(done), units::bytes(total)),
        None => units::bytes(done),
    }
}

fn pace(rows_per_second: f64, eta_seconds: Option<f64>) -> String {
    let eta = match eta_seconds {
        Some(seconds) => format!("  {} left", units::seconds(seconds)),
        None => String::new(),
    };
    format!("  {} rows/s{eta}", units::rate(rows_per_second))
}

fn cutover(run: &RunStatus, paint: Paint) -> String {
    let mut text = format!("run {}  epoch {}  ", run.run, run.epoch);
    match &run.report {
        Some(report) => {
            let outcome = report.outcome.name();
            text.push_str(&match report.outcome {
                Outcome::Completed | Outcome::RolledBack => paint.good(outcome),
                Outcome::Held => paint.bad(outcome),
                _ => paint.warn(outcome),
            });
            if let Some(pause) = report.pause_ms {
                text.push_str(&format!("  write pause {}", units::ms(pause)));
            }
            if let Some(error) = &report.error {
                text.push_str(&format!("\n{} ({})", error.what, error.place));
            }
            if report.outcome == Outcome::Held {
                for note in &report.notes {
                    text.push_str(&format!("\n{note}"));
                }
            }
        }
        None => {
            text.push_str(&paint.bold(run.phase.name()));
            text.push_str(&format!("  {} admits writes", run.serving));
            if let Some(waiting_for) = &run.waiting_for {
                text.push_str(&format!("\n{waiting_for}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Counters, Place, Problem, SCHEMA_VERSION};
    use crate::cli::render::plan::tests::shop;
    use crate::cli::render::report::tests::report;
    use decoders::Lsn;

    fn streaming() -> Status {
        Status {
            schema_version: SCHEMA_VERSION,
            pipeline: "shop".into(),
            version: "0.1.0".into(),
            at: "2026-11-21T12:04:16Z".parse().unwrap(),
            phase: PipelinePhase::Streaming,
            since: "2026-11-21T12:00:04Z".parse().unwrap(),
            waiting_for: None,
            blue: shop("blue", "13.22"),
            green: Server { up: false, version: None, ..shop("green", "17.2") },
            serving: Some("blue".into()),
            sealed: None,
            direction: Direction::Forward,
            streams: Vec::new(),
            finish: FinishState::NotAsked,
            lag: Lag {
                seconds: Some(0.05),
                bytes: Some(1536),
                transactions: 3,
                drain_estimate_seconds: Some(0.0032),
                known: true,
                reason: None,
            },
            positions: Positions {
                head: Some(Place::Lsn(Lsn(0x5_9A1F_02C8))),
                ..Positions::default()
            },
            backfill: Some(Backfill {
                tables_total: 20,
                tables_done: 12,
                rows: 1_234_567,
                bytes: 1 << 30,
                bytes_total: 1 << 32,
                rows_per_second: 120_000.4,
                eta_seconds: Some(252.0),
                doing: "tables".into(),
                active: vec![TableProgress {
                    table: "public.accounts".into(),
                    rows: 99,
                    bytes: 45,
                    bytes_total: 100,
                    rows_per_second: 7.0,
                    eta_seconds: None,
                }],
            }),
            counters: Counters { transactions: 1234, inserts: 5, ..Counters::default() },
            last_error: None,
            halt: None,
            cutover: None,
            audit_broken: None,
            verification: None,
        }
    }

    #[test]
    fn one_screen_says_where_everything_is() {
        assert_eq!(
            render_status(&streaming(), Paint::none()),
            "shop  streaming for 4m12s  at 2026-11-21 12:04:16 UTC  sidecar 0.1.0\n \
             blue     up    13.22     postgres://db-blue:5432/shop\n \
             green    DOWN  -         postgres://db-green:5432/shop\n \
             serves   blue\n \
             lag      0.05 s  1.5 KiB  3 tx in flight  drain ~3.2 ms\n \
             position head 5/9A1F02C8  received -  applied -  durable -  acked -\n \
             copy     12/20 tables  1,234,567 rows  1.0 GiB of ~4.0 GiB (25%)\n \
             applied  1,234 tx  +5 ~0 -0 rows  0 truncates  0 B  0 reconnects\n \
             data     safe: blue serves\n \
             next     cutover plan, then: cutover --when-lag '<1s'\n"
        );
    }

    #[test]
    fn while_copying_each_table_has_a_line() {
        let status = Status { phase: PipelinePhase::Copying, ..streaming() };
        let text = render_status(&status, Paint::none());
        assert!(text.contains("(25%)  120,000 rows/s  4m12s left  tables\n"), "{text}");
        assert!(
            text.contains("\n          public.accounts  99 rows  45 B of ~100 B (45%)  7 rows/s\n"),
            "{text}"
        );
    }

    #[test]
    fn an_unknown_lag_says_why_and_shows_no_number() {
        let lag = Lag { reason: Some("blue does not answer".into()), ..Lag::default() };
        let text = render_status(&Status { lag, ..streaming() }, Paint::none());
        assert!(text.contains(" lag      unknown: blue does not answer  0 tx"), "{text}");
        let lag = Lag { seconds: Some(0.0), known: false, ..Lag::default() };
        let text = render_status(&Status { lag, ..streaming() }, Paint::none());
        assert!(text.contains("unknown: ") && !text.contains("0.00 s"), "{text}");
    }

    #[test]
    fn an_error_says_whether_the_data_is_safe_and_what_to_do() {
        let problem = Problem {
            what: "table public.t was dropped on blue".into(),
            place: "stream".into(),
            at: "2026-11-21T12:04:00Z".parse().unwrap(),
            data_safe: true,
            next: Some("replicator check".into()),
        };
        let status = Status {
            phase: PipelinePhase::Halted,
            last_error: Some(problem.clone()),
            ..streaming()
        };
        let text = render_status(&status, Paint::none());
        assert!(text.contains(" error    table public.t was dropped on blue\n"), "{text}");
        assert!(text.contains("where  stream, 16 s ago\n"), "{text}");
        assert!(
            text.contains(" data     safe: blue serves\n next     replicator check\n"),
            "{text}"
        );
        let last_error = Some(Problem { data_safe: false, ..problem });
        assert!(!advice(&Status { last_error, ..status }).safe);
    }

    #[test]
    fn a_halt_says_since_when_what_is_safe_and_when_it_goes_on() {
        let halt = Halt {
            since: "2026-11-21T12:01:16Z".parse().unwrap(),
            what: "the server is read-only".into(),
            place: "green".into(),
            state: "replication stopped; blue is serving and keeps its log for us".into(),
            data: "safe on blue".into(),
            data_safe: true,
            remedy: Some("make it writable".into()),
            tries: 4,
            retry_at: Some("2026-11-21T12:04:28Z".parse().unwrap()),
        };
        let problem = Problem {
            what: halt.what.clone(),
            place: halt.place.clone(),
            at: halt.since,
            data_safe: true,
            next: halt.remedy.clone(),
        };
        let status = Status {
            phase: PipelinePhase::Halted,
            halt: Some(halt.clone()),
            last_error: Some(problem),
            ..streaming()
        };
        let text = render_status(&status, Paint::none());
        for line in [
            " halted   for 3m00s, since 2026-11-21 12:01:16 UTC, tried again 4 times; again in 12 s; \
             at once: cutover retry\n",
            " error    the server is read-only\n",
            " where  green",
            " state  replication stopped; blue is serving and keeps its log for us\n",
            " data     safe on blue; blue serves\n",
            " next     make it writable\n",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        let halt = Some(Halt { retry_at: None, ..halt });
        let text = render_status(&Status { halt, ..status }, Paint::none());
        assert!(text.contains("it waits for: cutover retry"), "{text}");
    }

    fn with_run(phase: Phase, serving: &str, outcome: Option<Outcome>) -> Status {
        let run = RunStatus {
            schema_version: SCHEMA_VERSION,
            run: "7f3a".into(),
            epoch: 42,
            direction: crate::Direction::Forward,
            phase,
            started: "2026-11-21T12:04:00Z".parse().unwrap(),
            waiting_for: None,
            abortable: phase < Phase::Committed,
            serving: serving.into(),
            watch_until: None,
            monitors: Vec::new(),
            last_event: 9,
            report: outcome.map(|outcome| report(outcome, serving, Some(59.7))),
        };
        Status { cutover: Some(run), ..streaming() }
    }

    #[test]
    fn a_run_decides_who_serves_and_what_is_next() {
        let advised = |phase, serving, outcome| advice(&with_run(phase, serving, outcome));
        let fenced = advised(Phase::Fenced, "none", None);
        assert_eq!(fenced.data, "safe: no database admits writes now");
        assert!(fenced.next.contains("cutover abort"));
        assert!(!advised(Phase::Flipped, "none", None).next.contains("abort"));
        let done = advised(Phase::Done, "green", Some(Outcome::Completed));
        assert_eq!(done.data, "safe: green serves");
        let held = advised(Phase::Held, "none", Some(Outcome::Held));
        assert!(held.next.contains("notes"), "{held:?}");
        let aborted = advised(Phase::Aborted, "blue", Some(Outcome::Aborted));
        assert!(aborted.next.contains("--when-lag"), "{aborted:?}");
    }
}
