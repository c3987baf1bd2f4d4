//! The end of the story: what was found, the timeline, and whether all of it held.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;
use tests::ledger::LedgerReport;
use tests::pgbench::Seen;

use crate::story::{Story, count};

pub struct Verdict {
    pub ledger: LedgerReport,
    pub pgbench: Seen,
    /// Rows of pgbench's history, if its sums agree.
    pub pgbench_rows: Result<u64>,
    /// Rows that are equal on both sides.
    pub catalog: Result<u64>,
    /// The sidecar's own report of the run.
    pub report: Value,
    /// Between two acknowledged ledger writes, since shortly before the cutover.
    pub longest_gap: Duration,
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
        self.timeline();
        line(
            "write pause",
            &format!(
                "{} by the sidecar; clients: {} ms between two writes, slowest write {} ms",
                self.pause_ms().map_or("unknown".to_owned(), |pause| format!("{pause:.1} ms")),
                self.longest_gap.as_millis(),
                self.slowest.as_millis()
            ),
        );
        line("took", &format!("{:.1} s", story.seconds()));
    }

    fn timeline(&self) {
        let steps = self.report["steps"].as_array();
        for step in steps.into_iter().flatten() {
            let text = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
            let offset =
                step["offset_ms"].as_f64().map_or(" ".repeat(9), |offset| format!("{offset:+9.1}"));
            let took = step["ms"].as_f64().unwrap_or_default();
            println!("  {offset}  {:<9} {took:8.1} ms  {}", text("step"), text("summary"));
        }
    }

    fn pause_ms(&self) -> Option<f64> {
        self.report["pause_ms"].as_f64()
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
        if self.pause_ms().is_none() {
            failures.push(format!("the sidecar reports no pause: {}", self.report));
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

fn line(what: &str, text: &str) {
    println!("  {what:<12}{text}");
}
