//! The end of the story: what was found, the timeline, and whether all of it held.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;
use tests::ledger::LedgerReport;
use tests::pgbench::Seen;

use crate::flip::Flip;
use crate::story::{Story, count};

pub struct Verdict {
    pub ledger: LedgerReport,
    pub pgbench: Seen,
    /// Rows of pgbench's history, if its sums agree.
    pub pgbench_rows: Result<u64>,
    /// Rows that are equal on both sides.
    pub catalog: Result<u64>,
    /// Every change of sides, in order; one at least.
    pub flips: Vec<Flip>,
    /// The slowest acknowledged ledger transaction of the whole demo.
    pub slowest: Duration,
}

impl Verdict {
    pub fn print(&self, story: &Story) {
        println!();
        line("ledger", &self.ledger.to_string());
        line(
            "pgbench",
            &match &self.pgbench_rows {
                Ok(rows) => format!(
                    "{} transactions, sums agree, {} errors",
                    count(*rows),
                    self.pgbench.errors.len()
                ),
                Err(error) => format!("{error:#}"),
            },
        );
        line(
            "catalog",
            &match &self.catalog {
                Ok(rows) => format!("{} rows equal on blue and green, sequences too", count(*rows)),
                Err(error) => format!("{error:#}"),
            },
        );
        if let Some(first) = self.flips.first() {
            timeline(&first.report);
        }
        for flip in &self.flips {
            let pause = pause_ms(&flip.report);
            line(
                &format!("pause {}", flip.name),
                &format!(
                    "{} by the sidecar; clients: {} ms between two writes",
                    pause.map_or("unknown".to_owned(), |pause| format!("{pause:.1} ms")),
                    flip.longest_gap.as_millis()
                ),
            );
        }
        line("slowest", &format!("{} ms for a client's write", self.slowest.as_millis()));
        line("took", &format!("{:.1} s", story.seconds()));
    }

    /// Fails with everything that did not hold.
    pub fn ensure_all_held(self) -> Result<()> {
        let mut failures = Vec::new();
        if let Err(error) = self.ledger.ensure_unnoticed() {
            failures.push(format!("{error:#}"));
        }
        if !self.pgbench.errors.is_empty() {
            failures.push(format!("pgbench saw errors: {}", self.pgbench.errors.join("; ")));
        }
        for flip in self.flips.iter().filter(|flip| pause_ms(&flip.report).is_none()) {
            failures.push(format!("the sidecar reports no pause: {}", flip.report));
        }
        for outcome in [self.pgbench_rows, self.catalog] {
            if let Err(error) = outcome {
                failures.push(format!("{error:#}"));
            }
        }
        if !failures.is_empty() {
            bail!("{}", failures.join("\n"));
        }
        println!("\nNothing lost, nothing twice, no client noticed.");
        Ok(())
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
