//! The fixes of a report as a script (`replicator check --fix`).
//!
//! It is meant for a server in production: a statement that can't get its lock soon gives up instead
//! of letting everybody queue behind it, and may be run again.

use std::fmt::Write as _;

use super::finding::{Finding, Fix, Severity, Side};
use super::report::Report;

/// Which fixes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fixes {
    /// Of everything that is in the way on one side.
    Of(Side),
    /// Of one kind of finding, also if nothing is in the way.
    Named(String),
}

impl std::str::FromStr for Fixes {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "blue" => Fixes::Of(Side::Blue),
            "green" => Fixes::Of(Side::Green),
            name => Fixes::Named(name.to_owned()),
        })
    }
}

impl Fixes {
    fn has(&self, finding: &Finding) -> bool {
        match self {
            Fixes::Of(side) => {
                let is_there =
                    |fix: &Fix| matches!(fix, Fix::Sql { side: there, .. } if there == side);
                finding.severity == Severity::Blocker && finding.fix.as_ref().is_some_and(is_there)
            }
            Fixes::Named(name) => finding.id == name,
        }
    }

    /// The script; `None` if the report has no statements for this.
    pub fn script(&self, report: &Report) -> Option<String> {
        let is_postgres =
            report.blue.starts_with("PostgreSQL") || report.green.starts_with("PostgreSQL");
        let mut script = String::new();
        for side in [Side::Blue, Side::Green] {
            let mut statements = String::new();
            for finding in report.findings.iter().filter(|finding| self.has(finding)) {
                let Some(Fix::Sql { side: there, statements: all, then }) = &finding.fix else {
                    continue;
                };
                if *there != side {
                    continue;
                }
                // Writing to a String can't fail.
                let _ = writeln!(statements, "\n-- {}: {}", finding.id, line(&finding.summary));
                for statement in all {
                    let _ = writeln!(statements, "{statement};");
                }
                if let Some(then) = then {
                    let _ = writeln!(statements, "-- then {}", line(then));
                }
            }
            if !statements.is_empty() {
                let timeout = match is_postgres {
                    true => "SET lock_timeout = '2s';",
                    false => "SET SESSION lock_wait_timeout = 2;",
                };
                let _ = writeln!(
                    script,
                    "-- On {side}. What can't get its lock within 2 s fails and changes nothing: run it again.\n\
                     {timeout}\n{statements}"
                );
            }
        }
        (!script.is_empty()).then_some(script)
    }
}

/// A comment ends with its line.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_has_every_statement_of_its_side_in_order() {
        let many = (0..110).map(|n| format!("ALTER TABLE t{n} REPLICA IDENTITY FULL")).collect();
        let report = Report::new(
            "PostgreSQL 15".into(),
            "PostgreSQL 17".into(),
            vec![
                Finding::blocker("identity-missing", Side::Blue, "no\nidentity")
                    .fix(Fix::sql(Side::Blue, many)),
                Finding::blocker("roles", Side::Both, "roles")
                    .fix(Fix::sql(Side::Green, vec!["CREATE ROLE r".into()])),
                Finding::warning("hint", Side::Blue, "x").fix(Fix::setting_and_restart(
                    Side::Blue,
                    "a",
                    "1",
                )),
            ],
        );
        let script = |what: &str| what.parse::<Fixes>().unwrap().script(&report);
        let blue = script("blue").unwrap();
        assert!(blue.starts_with("-- On blue."), "{blue}");
        assert!(
            blue.contains("SET lock_timeout = '2s';\n\n-- identity-missing: no identity\n"),
            "{blue}"
        );
        assert_eq!(blue.matches("REPLICA IDENTITY FULL;").count(), 110);
        assert!(!blue.contains("CREATE ROLE") && !blue.contains("ALTER SYSTEM"), "{blue}");
        assert!(script("green").unwrap().contains("\nCREATE ROLE r;\n"));
        let named = script("hint").unwrap();
        assert!(named.contains("ALTER SYSTEM SET a = 1;\n-- then restart the server\n"), "{named}");
        assert_eq!(script("nothing"), None);
    }
}
