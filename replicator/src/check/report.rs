//! All findings together: for a person, for a machine, and as an exit code.

use std::fmt::{self, Write};

use serde::Serialize;

use super::finding::{Finding, Fix, Severity};

/// Objects and statements shown for one finding; the JSON form has all of them.
const SHOWN: usize = 12;

/// What the preflight found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// Version of this form.
    pub schema_version: u32,
    /// No blocker.
    pub ready: bool,
    /// Findings that stop the move.
    pub blockers: usize,
    /// Findings to know of.
    pub warnings: usize,
    /// Checks that found everything in order.
    pub ok: usize,
    /// Blue and green in a few words each.
    pub blue: String,
    /// See `blue`.
    pub green: String,
    /// Blockers first, then warnings, then what is in order.
    pub findings: Vec<Finding>,
}

impl Report {
    /// A report of findings in any order.
    pub fn new(blue: String, green: String, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| (finding.severity, finding.side, finding.id));
        let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
        let blockers = count(Severity::Blocker);
        Self {
            schema_version: 1,
            ready: blockers == 0,
            blockers,
            warnings: count(Severity::Warning),
            ok: count(Severity::Ok),
            blue,
            green,
            findings,
        }
    }

    /// The same with these findings more.
    #[must_use]
    pub fn with(self, more: Vec<Finding>) -> Self {
        Self::new(self.blue, self.green, [self.findings, more].concat())
    }

    /// 0 if the move can start, 3 if something blocks it.
    pub fn exit_code(&self) -> u8 {
        if self.ready { 0 } else { 3 }
    }

    /// The blockers.
    pub fn blocking(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Blocker)
    }

    /// The first finding of a name.
    pub fn find(&self, id: &str) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.id == id)
    }
}

impl fmt::Display for Report {
    /// The form for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "blue   {}", self.blue)?;
        writeln!(f, "green  {}", self.green)?;
        for finding in &self.findings {
            write_finding(f, finding)?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "{} blocking, {} to know, {} in order: {}",
            self.blockers,
            self.warnings,
            self.ok,
            if self.ready { "ready" } else { "not ready" }
        )
    }
}

fn write_finding(f: &mut fmt::Formatter<'_>, finding: &Finding) -> fmt::Result {
    if finding.severity == Severity::Ok {
        write!(f, "\n{:<8} {:<6} {}: {}", "ok", finding.side, finding.id, finding.summary)?;
        if !finding.evidence.is_empty() {
            write!(f, " ({})", finding.evidence)?;
        }
        return Ok(());
    }
    writeln!(f, "\n{:<8} {:<6} {}", finding.severity, finding.side, finding.id)?;
    write!(f, "    {}", finding.summary)?;
    if !finding.evidence.is_empty() {
        write!(f, "\n    seen: {}", finding.evidence)?;
    }
    for object in finding.objects.iter().take(SHOWN) {
        write!(f, "\n      - {object}")?;
    }
    write_more(f, finding.objects.len())?;
    match &finding.fix {
        None => {}
        Some(Fix::Advice { text }) => write!(f, "\n    fix: {text}")?,
        Some(Fix::Command { command }) => write!(f, "\n    fix: $ {command}")?,
        Some(Fix::Sql { side, statements, then }) => {
            write!(f, "\n    fix, on {side}:")?;
            for statement in statements.iter().take(SHOWN) {
                write!(f, "\n      {statement};")?;
            }
            write_more(f, statements.len())?;
            if let Some(then) = then {
                write!(f, "\n      then {then}")?;
            }
        }
    }
    if finding.acceptable && finding.severity == Severity::Blocker {
        write!(f, "\n    or go on without: accept {}", finding.id)?;
    }
    f.write_char('\n')
}

fn write_more(f: &mut fmt::Formatter<'_>, total: usize) -> fmt::Result {
    match total.checked_sub(SHOWN) {
        None | Some(0) => Ok(()),
        Some(more) => {
            write!(f, "\n      .. and {more} more (--json has all, --fix all statements)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Side;
    use super::*;

    fn report() -> Report {
        Report::new(
            "b".into(),
            "g".into(),
            vec![
                Finding::ok("fine", Side::Blue, "all good"),
                Finding::warning("hm", Side::Green, "look"),
                Finding::blocker("no", Side::Blue, "stop")
                    .objects((0..20).map(|n| format!("t{n}")).collect())
                    .fix(Fix::setting_and_restart(Side::Blue, "wal_level", "'logical'")),
            ],
        )
    }

    #[test]
    fn blockers_come_first_and_decide_the_exit_code() {
        let report = report();
        let ids: Vec<_> = report.findings.iter().map(|finding| finding.id).collect();
        assert_eq!(ids, ["no", "hm", "fine"]);
        assert_eq!((report.blockers, report.warnings, report.ok), (1, 1, 1));
        assert_eq!(report.exit_code(), 3);
        let ready = Report::new("b".into(), "g".into(), report.findings[1..].to_vec());
        assert!(ready.ready);
        assert_eq!(ready.exit_code(), 0);
    }

    #[test]
    fn people_get_a_page_and_machines_everything() {
        let text = report().to_string();
        assert!(text.contains("BLOCKER  blue   no"), "{text}");
        assert!(text.contains("ALTER SYSTEM SET wal_level = 'logical';"), "{text}");
        assert!(text.contains("then restart the server"), "{text}");
        assert!(text.contains("and 8 more"), "{text}");
        assert!(text.ends_with("1 blocking, 1 to know, 1 in order: not ready\n"), "{text}");
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["findings"][0]["objects"].as_array().unwrap().len(), 20);
        assert_eq!(json["findings"][0]["fix"]["kind"], "sql");
        assert_eq!(json["findings"][0]["severity"], "blocker");
    }
}
