//! Reports of runs: found in the journal, and written for people.

use std::fmt::Write;

use crate::api::{ApiError, ErrorCode, Outcome, RunReport, Severity, Step, Stepped};
use crate::ports::{Entry, Journal, Record, World};
use crate::service::Service;

/// What a run is called that is asked for as the last one.
const LAST: [&str; 2] = ["current", "last"];

/// The newest report of a run, by its id or its epoch; `None`: it is not there, or not over.
pub fn find(entries: &[Entry], run: &str) -> Option<RunReport> {
    let is_meant = |entry: &&Entry| {
        LAST.contains(&run) || entry.run == run || entry.epoch.0.to_string() == run
    };
    entries.iter().rev().filter(is_meant).find_map(|entry| match &entry.record {
        Record::Ended { report } => Some((**report).clone()),
        _ => None,
    })
}

impl<W: World + 'static> Service<W> {
    /// `GET /v1/cutover/{run}/report`: of a run that is over, this process's or an earlier one's.
    /// `{run}` is an id, an epoch, or `last`.
    pub async fn report(&self, run: &str) -> Result<RunReport, ApiError> {
        let entries = self.world().journal().read_all().await.map_err(|error| {
            let answer = ApiError::new(ErrorCode::Unavailable, error.what, error.place);
            match error.remedy {
                Some(remedy) => answer.next(remedy),
                None => answer,
            }
        })?;
        find(&entries, run).ok_or_else(|| {
            let what = match LAST.contains(&run) {
                true => "no run has ended yet".to_owned(),
                false => format!("no run {run} has ended"),
            };
            ApiError::new(ErrorCode::NotFound, what, "sidecar").next("cutover history")
        })
    }
}

/// The report as Markdown.
pub fn markdown(report: &RunReport) -> String {
    let mut text = String::new();
    // Writing into a `String` can't fail.
    let _infallible = write_report(&mut text, report);
    text
}

fn write_report(text: &mut String, report: &RunReport) -> std::fmt::Result {
    let kind = match (report.outcome, report.direction) {
        (Outcome::Drilled, direction) => format!("Drill {direction}"),
        (_, crate::Direction::Forward) => "Cutover".to_owned(),
        (_, crate::Direction::Back) => "Rollback".to_owned(),
    };
    writeln!(text, "# {kind} {} (epoch {}): {}\n", report.run, report.epoch, outcome(report))?;
    let serving = match report.serving.as_str() {
        "none" => "**no database admits writes**".to_owned(),
        serving => format!("**{serving}** serves"),
    };
    writeln!(text, "- {serving}")?;
    match report.pause_ms {
        Some(pause) => writeln!(text, "- write pause: **{pause:.1} ms**")?,
        None => writeln!(text, "- clients were never held")?,
    }
    let stamp = "%Y-%m-%d %H:%M:%S%.3fZ";
    let (started, ended) = (report.started.strftime(stamp), report.ended.strftime(stamp));
    writeln!(text, "- from {started} to {ended} (the sidecar's clock)")?;
    if let Some(actor) = &report.actor {
        writeln!(text, "- asked for by {}", escaped(actor))?;
    }
    if let Some(reason) = &report.reason {
        writeln!(text, "- because: {}", escaped(reason))?;
    }
    if let Some(error) = &report.error {
        writeln!(text, "\n## Why it did not complete\n")?;
        writeln!(text, "- what: {} ({})", escaped(&error.what), escaped(&error.place))?;
        writeln!(text, "- state: {}", escaped(&error.state))?;
        if let Some(next) = &error.next_command {
            writeln!(text, "- next: `{next}`")?;
        }
    }
    write_timeline(text, &report.steps)?;
    write_pause(text, report)?;
    write_proof(text, report)?;
    if !report.routers.is_empty() {
        writeln!(text, "\n## Routers\n\n| router | leads to | verified | seen |")?;
        writeln!(text, "|---|---|---|---|")?;
        for member in &report.routers {
            let verified = if member.verified { "yes" } else { "**no**" };
            let (name, target) = (escaped(&member.member), &member.target);
            writeln!(text, "| {name} | {target} | {verified} | {} |", escaped(&member.evidence))?;
        }
    }
    writeln!(text, "\n## Way back\n")?;
    match report.way_back {
        Some(true) => {
            writeln!(text, "It carries: a rollback takes along what is written on green.")?
        }
        Some(false) => writeln!(text, "**There is none**: see the notes.")?,
        None => writeln!(text, "None was left by this run.")?,
    }
    write_checks(text, report)?;
    if !report.notes.is_empty() {
        writeln!(text, "\n## Notes\n")?;
        for note in &report.notes {
            writeln!(text, "- {}", escaped(note).replace('\n', "\n  "))?;
        }
    }
    Ok(())
}

fn outcome(report: &RunReport) -> &'static str {
    match report.outcome {
        Outcome::Completed => "completed",
        Outcome::RolledBack => "rolled back",
        Outcome::PrecheckFailed => "a precheck failed, nothing was touched",
        Outcome::GateTimeout => "the gate did not pass in time, nothing was touched",
        Outcome::Aborted => "aborted, everything was put back",
        Outcome::Drilled => "nothing was changed over",
        Outcome::Held => "HELD, a person has to decide",
    }
}

fn write_timeline(text: &mut String, steps: &[Stepped]) -> std::fmt::Result {
    writeln!(text, "\n## Timeline\n\n| begun | step | took | in the pause | seen |")?;
    writeln!(text, "|---|---|---:|---:|---|")?;
    for step in steps {
        let at = step.start.strftime("%H:%M:%S%.3f");
        let offset = step.offset_ms.map_or(String::new(), |offset| format!("+{offset:.1} ms"));
        let failed = if step.ok { "" } else { "**failed**: " };
        let (name, took, seen) = (step.step.name(), step.ms, escaped(&step.summary));
        writeln!(text, "| {at} | {name} | {took:.1} ms | {offset} | {failed}{seen} |")?;
    }
    Ok(())
}

/// What each step cost the clients, milliseconds: it ended so long after the one before.
pub fn pause_by_step(report: &RunReport) -> Vec<(Step, f64)> {
    let Some(pause) = report.pause_ms else { return Vec::new() };
    let mut before = 0.0;
    let mut parts = Vec::new();
    for step in &report.steps {
        let Some(offset) = step.offset_ms else { continue };
        // Looking through the routers comes after the clients were let go.
        let end = offset.min(pause);
        if end > before {
            parts.push((step.step, end - before));
            before = end;
        }
    }
    parts
}

fn write_pause(text: &mut String, report: &RunReport) -> std::fmt::Result {
    let (parts, Some(pause)) = (pause_by_step(report), report.pause_ms) else { return Ok(()) };
    writeln!(text, "\n## The pause by step\n\n| step | ms | part |\n|---|---:|---:|")?;
    for (step, ms) in &parts {
        writeln!(text, "| {} | {ms:.1} | {:.0} % |", step.name(), 100.0 * ms / pause)?;
    }
    writeln!(text, "| all | {pause:.1} | |")
}

fn write_proof(text: &mut String, report: &RunReport) -> std::fmt::Result {
    if report.marker.is_none() && report.fence_proof.is_none() {
        return Ok(());
    }
    writeln!(text, "\n## Proof\n")?;
    let (from, to) = (report.direction.from(), report.direction.to());
    if let Some(marker) = report.marker {
        writeln!(text, "- everything up to {marker} on {from} was durable on {to}")?;
    }
    if let Some(proof) = &report.fence_proof {
        writeln!(text, "- nobody wrote to {from} after that: {}", escaped(proof))?;
    }
    Ok(())
}

fn write_checks(text: &mut String, report: &RunReport) -> std::fmt::Result {
    let counts = report.checks;
    writeln!(
        text,
        "\n## Checks\n\n{} passed, {} with a warning, {} failed.",
        counts.ok, counts.warn, counts.fail
    )?;
    if report.findings.is_empty() {
        return Ok(());
    }
    writeln!(text, "\n| check | | seen | what to do |\n|---|---|---|---|")?;
    let mut findings: Vec<_> = report.findings.iter().collect();
    findings.sort_by_key(|check| std::cmp::Reverse(check.severity));
    for check in findings {
        let severity = match check.severity {
            Severity::Ok => "ok",
            Severity::Warn => "warning",
            Severity::Fail => "**FAIL**",
        };
        let fix = check.fix.as_deref().map(escaped).unwrap_or_default();
        writeln!(text, "| {} | {severity} | {} | {fix} |", check.name, escaped(&check.evidence))?;
    }
    Ok(())
}

/// Texts of servers and names of tables: nothing of them is markup.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' => {
                escaped.push('\\');
                escaped.push(c);
            }
            '\n' => escaped.push(' '),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Check, Checks, Member, SCHEMA_VERSION};
    use crate::ports::Epoch;

    fn step(step: Step, offset_ms: Option<f64>) -> Stepped {
        let start = "2026-11-21T12:00:04.118Z".parse().unwrap();
        Stepped { step, start, ms: 10.0, offset_ms, ok: true, summary: "1/1 hold".into() }
    }

    fn report(outcome: Outcome) -> RunReport {
        let findings = vec![
            Check::ok("lag", "0.1 s"),
            Check::fail("row-counts", "public.a|b: 1 missing", "look"),
        ];
        RunReport {
            schema_version: SCHEMA_VERSION,
            run: "7f3a".into(),
            epoch: 42,
            direction: crate::Direction::Forward,
            outcome,
            actor: Some("ann".into()),
            reason: Some("new *major*".into()),
            started: "2026-11-21T12:00:00Z".parse().unwrap(),
            ended: "2026-11-21T12:00:05Z".parse().unwrap(),
            pause_ms: Some(50.0),
            marker: Some(decoders::Lsn(0x5_9A1F_02C8)),
            fence_proof: Some("xid frozen at 100".into()),
            steps: vec![
                step(Step::Gate, None),
                step(Step::Quiesce, Some(10.0)),
                step(Step::Fence, Some(35.0)),
                step(Step::Open, Some(60.0)),
                step(Step::Finish, Some(70.0)),
            ],
            checks: Checks::of(&findings),
            findings,
            drill: None,
            routers: vec![Member {
                member: "pgb-1".into(),
                target: "green".into(),
                verified: true,
                evidence: "port 5433".into(),
            }],
            way_back: Some(true),
            breach: None,
            serving: "green".into(),
            error: None,
            notes: vec!["one\nnote".into()],
        }
    }

    #[test]
    fn the_parts_of_the_pause_add_up_to_it() {
        let report = report(Outcome::Completed);
        let parts = pause_by_step(&report);
        let expected = [(Step::Quiesce, 10.0), (Step::Fence, 25.0), (Step::Open, 15.0)];
        assert_eq!(parts, expected);
        assert_eq!(parts.iter().map(|(_, ms)| ms).sum::<f64>(), report.pause_ms.unwrap());
        assert!(pause_by_step(&RunReport { pause_ms: None, ..report }).is_empty());
    }

    #[test]
    fn everything_is_in_it_and_nothing_is_markup() {
        let text = markdown(&report(Outcome::Completed));
        for part in [
            "# Cutover 7f3a (epoch 42): completed",
            "**green** serves",
            "write pause: **50.0 ms**",
            "asked for by ann",
            "because: new \\*major\\*",
            "| fence | 25.0 | 50 % |",
            "everything up to 5/9A1F02C8 on blue was durable on green",
            "xid frozen at 100",
            "| pgb-1 | green | yes | port 5433 |",
            "It carries",
            "1 passed, 0 with a warning, 1 failed.",
            "| row-counts | **FAIL** | public.a\\|b: 1 missing | look |",
            "- one note",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn a_run_is_found_by_its_name_its_epoch_or_as_the_last() {
        let entry = |seq: u64, epoch: u64, outcome| Entry {
            seq,
            run: format!("run{epoch}"),
            epoch: Epoch(epoch),
            at: "2026-11-21T12:00:00Z".parse().unwrap(),
            record: Record::Ended { report: Box::new(RunReport { epoch, ..report(outcome) }) },
        };
        let entries = [
            entry(1, 7, Outcome::Completed),
            entry(2, 8, Outcome::Held),
            entry(3, 8, Outcome::Completed),
        ];
        assert_eq!(find(&entries, "run7").unwrap().epoch, 7);
        assert_eq!(find(&entries, "7").unwrap().epoch, 7);
        let last = find(&entries, "last").unwrap();
        assert_eq!((last.epoch, last.outcome), (8, Outcome::Completed));
        assert_eq!(find(&entries, "run9"), None);
        assert_eq!(find(&[], "last"), None);
    }
}
