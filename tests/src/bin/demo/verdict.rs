//! The end of the story: what was found, the timeline, and whether all of it held.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde_json::Value;
use tests::ledger::LedgerReport;

use crate::flip::Flip;
use crate::scene::Way;
use crate::story::Story;

/// Something that was looked at besides the ledger.
pub struct Finding {
    pub what: &'static str,
    /// What is as it should be, or what is not.
    pub found: Result<String>,
}

pub struct Verdict {
    pub way: Way,
    pub ledger: LedgerReport,
    pub findings: Vec<Finding>,
    /// Every change of sides, in order; one at least.
    pub flips: Vec<Flip>,
    /// The slowest acknowledged ledger transaction of the whole demo.
    pub slowest: Duration,
}

impl Verdict {
    pub fn print(&self, story: &Story) {
        println!();
        line("ledger", &self.ledger.to_string());
        for finding in &self.findings {
            match &finding.found {
                Ok(text) => line(finding.what, text),
                Err(error) => line(finding.what, &format!("{error:#}")),
            }
        }
        if let Some(first) = self.flips.first() {
            timeline(&first.report);
        }
        for flip in &self.flips {
            let pause = pause_ms(&flip.report);
            line(
                &format!("pause {}", flip.name),
                &format!(
                    "{} by the sidecar; clients: {} ms between two writes{}",
                    pause.map_or("unknown".to_owned(), |pause| format!("{pause:.1} ms")),
                    flip.longest_gap.as_millis(),
                    told_of(flip, self.way.holds)
                ),
            );
        }
        line("slowest", &format!("{} ms for a client's write", self.slowest.as_millis()));
        line("took", &format!("{:.1} s", story.seconds()));
    }

    /// Fails with everything that did not hold.
    pub fn ensure_all_held(self) -> Result<()> {
        let mut failures = Vec::new();
        if let Err(error) = ensure_bearable(self.way, &self.ledger, &self.flips) {
            failures.push(format!("{error:#}"));
        }
        for flip in self.flips.iter().filter(|flip| pause_ms(&flip.report).is_none()) {
            failures.push(format!("the sidecar reports no pause: {}", flip.report));
        }
        let found = self.findings.into_iter().map(|finding| finding.found);
        failures.extend(found.filter_map(Result::err).map(|error| format!("{error:#}")));
        if !failures.is_empty() {
            bail!("{}", failures.join("\n"));
        }
        match self.ledger.client_errors {
            0 => println!("\nNothing lost, nothing twice, no client noticed."),
            errors => println!(
                "\nNothing lost, nothing twice. {} can't make clients wait: {errors} errors were seen by \
                 clients, all of them while sides changed, no client more than one transaction cut.",
                self.way.name
            ),
        }
        Ok(())
    }
}

/// Fails unless the ledger is exact, and no client saw an error that the router had not to show it: a
/// router that holds shows none, another one cuts each client off at most once for a change of sides and
/// turns away who comes meanwhile.
pub fn ensure_bearable(way: Way, report: &LedgerReport, flips: &[Flip]) -> Result<()> {
    if way.holds {
        return report.ensure_unnoticed();
    }
    report.ensure_exact()?;
    let explained: usize = flips.iter().map(|flip| flip.noticed.errors()).sum();
    ensure!(
        report.client_errors == explained,
        "clients saw {} errors, {explained} of them while sides changed: {report}",
        report.client_errors
    );
    if let Some(flip) = flips.iter().find(|flip| flip.noticed.cut_of_one > 1) {
        bail!("a client was cut off {} times on the way {}", flip.noticed.cut_of_one, flip.name);
    }
    Ok(())
}

/// What the clients noticed of it.
fn told_of(flip: &Flip, holds: bool) -> String {
    match holds {
        true => String::new(),
        false => format!(
            "; {} transactions cut, {} connections turned away",
            flip.noticed.cut, flip.noticed.turned_away
        ),
    }
}

fn timeline(report: &Value) {
    let steps = report["steps"].as_array();
    for step in steps.into_iter().flatten() {
        let text = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
        let offset =
            step["offset_ms"].as_f64().map_or(" ".repeat(9), |offset| format!("{offset:+9.1}"));
        let took = step["ms"].as_f64().unwrap_or_default();
        println!("  {offset}  {:<9} {took:8.1} ms  {}", text("step"), text("summary"));
    }
}

fn pause_ms(report: &Value) -> Option<f64> {
    report["pause_ms"].as_f64()
}

fn line(what: &str, text: &str) {
    println!("  {what:<12}{text}");
}
