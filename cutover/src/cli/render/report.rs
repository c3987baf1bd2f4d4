//! What a run leaves behind.

use crate::api::{Outcome, RunReport};

use super::{Paint, units};

/// The outcome, who serves, the write pause, the proof, the routers and what a person has to know.
/// The error, if there is one, is shown as an error.
pub fn render_report(report: &RunReport, paint: Paint) -> String {
    let outcome = match report.outcome {
        Outcome::Completed => paint.good("completed"),
        Outcome::RolledBack => paint.good("rolled back"),
        Outcome::Held => paint.bad("HELD: a person has to decide"),
        Outcome::Drilled => paint.good("drilled: nothing was changed over"),
        Outcome::Aborted => paint.warn("aborted: everything was put back"),
        Outcome::GateTimeout => paint.warn("the gate did not pass in time: nothing was touched"),
        Outcome::PrecheckFailed => paint.warn("a precheck failed: nothing was touched"),
    };
    let serving = match report.serving.as_str() {
        "none" => paint.bad("no database admits writes"),
        serving => format!("{serving} serves"),
    };
    let pause = match report.pause_ms {
        Some(pause) => format!("write pause {}", units::ms(pause)),
        None => "clients were never held".into(),
    };
    let mut text = format!("{outcome}  {serving}  {pause}  run {}\n", report.run);
    if let Some(marker) = report.marker {
        text.push_str(&format!(" marker   {marker}\n"));
    }
    if let Some(proof) = &report.fence_proof {
        text.push_str(&format!(" proof    {proof}\n"));
    }
    for member in &report.routers {
        let seen =
            if member.verified { paint.good("verified") } else { paint.warn("NOT VERIFIED") };
        let (name, target, evidence) = (&member.member, &member.target, &member.evidence);
        text.push_str(&format!(" router   {name} -> {target}  {seen}  {evidence}\n"));
    }
    let back = match (report.outcome, report.way_back) {
        (Outcome::Completed, Some(true)) => {
            Some("blue follows green: cutover rollback takes along what is written there")
        }
        (Outcome::RolledBack, Some(true)) => {
            Some("green follows blue: cutover --when-lag '<1s' goes there again")
        }
        _ => None,
    };
    if let Some(back) = back {
        text.push_str(&format!(" way back {back}\n"));
    }
    for note in &report.notes {
        text.push_str(&format!(" note     {}\n", note.replace('\n', "\n          ")));
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::{Checks, Member, SCHEMA_VERSION};
    use decoders::Lsn;

    pub fn report(outcome: Outcome, serving: &str, pause_ms: Option<f64>) -> RunReport {
        RunReport {
            schema_version: SCHEMA_VERSION,
            run: "7f3a".into(),
            epoch: 42,
            direction: crate::Direction::Forward,
            outcome,
            actor: None,
            reason: None,
            started: "2026-11-21T12:00:00Z".parse().unwrap(),
            ended: "2026-11-21T12:00:05Z".parse().unwrap(),
            pause_ms,
            marker: Some(Lsn(0x5_9A1F_02C8)),
            fence_proof: None,
            steps: Vec::new(),
            checks: Checks::default(),
            findings: Vec::new(),
            drill: None,
            routers: vec![Member {
                member: "pgb-1".into(),
                target: serving.into(),
                verified: true,
                evidence: "port 5433 answered".into(),
            }],
            way_back: None,
            breach: None,
            serving: serving.into(),
            error: None,
            notes: vec!["pause is 4 ms\nof 2 s".into()],
        }
    }

    #[test]
    fn the_first_line_says_it_all() {
        let text = render_report(&report(Outcome::Completed, "green", Some(59.68)), Paint::none());
        assert_eq!(
            text,
            "completed  green serves  write pause 59.7 ms  run 7f3a\n marker   5/9A1F02C8\n \
             router   pgb-1 -> green  verified  port 5433 answered\n \
             note     pause is 4 ms\n          of 2 s\n"
        );
        let back =
            RunReport { way_back: Some(true), ..report(Outcome::RolledBack, "blue", Some(59.68)) };
        let text = render_report(&back, Paint::none());
        assert!(text.starts_with("rolled back  blue serves  write pause 59.7 ms"), "{text}");
        assert!(text.contains(" way back green follows blue"), "{text}");
        let text = render_report(&report(Outcome::GateTimeout, "blue", None), Paint::none());
        assert!(text.contains("nothing was touched  blue serves  clients were never held"));
        let text = render_report(&report(Outcome::Held, "none", Some(3.0)), Paint::none());
        assert!(text.starts_with("HELD: a person has to decide  no database admits writes"));
    }
}
