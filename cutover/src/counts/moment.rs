//! Row counts of both sides at one moment, where the engine can see one: no rule about rows that move
//! is needed, and what differs differs.

use decoders::QualifiedName;
use tokio::time::Instant;

use super::{COUNTED_BYTES, Counts, NAME, copied_anew, named};
use crate::api::Check;
use crate::ports::{PortResult, Replication};
use crate::side::Direction;

/// What an engine has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Each table with its rows on the source and on the target, at one moment.
    pub tables: Vec<(QualifiedName, [u64; 2])>,
    /// Tables that the target does not have.
    pub lacking: Vec<QualifiedName>,
    /// Tables whose engine knows no moment.
    pub unseen: Vec<QualifiedName>,
    /// Tables that are too large to be counted.
    pub large: Vec<QualifiedName>,
    /// Tables for which there was no time.
    pub late: Vec<QualifiedName>,
    /// Why nothing was counted: no moment was found at which both sides could be seen.
    pub blind: Option<String>,
}

/// The row counts of one direction, taken by the engine: see [`Replication::count_rows`].
#[derive(Debug, Clone, Copy)]
pub struct MomentCounts {
    from: &'static str,
    to: &'static str,
}

impl MomentCounts {
    /// Of this direction.
    pub fn new(direction: Direction) -> Self {
        Self { from: direction.from().name(), to: direction.to().name() }
    }

    fn findings(&self, counted: &Counted) -> Vec<Check> {
        let (from, to) = (self.from, self.to);
        let mut findings = Vec::new();
        for name in &counted.lacking {
            let evidence = format!("{name} is replicated, and {to} does not have it");
            findings.push(Check::fail(NAME, evidence, copied_anew(from, to)));
        }
        let mut equal = 0;
        for (name, [here, there]) in &counted.tables {
            let what = match here.cmp(there) {
                std::cmp::Ordering::Equal => {
                    equal += 1;
                    continue;
                }
                std::cmp::Ordering::Greater => format!("missing on {to}"),
                std::cmp::Ordering::Less => format!("too many on {to}"),
            };
            let evidence = format!(
                "{name} has {here} rows on {from} and {there} on {to}: {} {what}, at one moment of the \
                 stream",
                here.abs_diff(*there)
            );
            findings.push(Check::fail(NAME, evidence, copied_anew(from, to)));
        }
        let all = |names: &[QualifiedName]| named(&names.iter().collect::<Vec<_>>());
        if !counted.late.is_empty() {
            let evidence = format!("time was too short to count {}", all(&counted.late));
            findings.push(Check::warn(NAME, evidence, "cutover verify --mode count"));
        }
        if !counted.unseen.is_empty() {
            let evidence = format!(
                "not counted, because their engine knows no moment: {}",
                all(&counted.unseen)
            );
            findings.push(Check::warn(NAME, evidence, "count them by hand while nobody writes"));
        }
        if let Some(why) = &counted.blind {
            let what = format!("the rows of both sides could not be counted at one moment: {why}");
            findings.push(Check::warn(NAME, what, "cutover verify --mode count"));
            return findings;
        }
        let mut said = vec![format!("{equal} tables have as many rows on {to} as on {from}")];
        if !counted.large.is_empty() {
            said.push(format!(
                "{} are too large to be counted here, which cutover verify --mode count does: {}",
                counted.large.len(),
                all(&counted.large)
            ));
        }
        findings.push(Check::ok(NAME, said.join("; ")));
        findings
    }
}

impl Counts for MomentCounts {
    /// The engine's sessions get in by themselves: a side that is closed lets our account in.
    async fn open(&self, _deadline: Instant) -> PortResult<()> {
        Ok(())
    }

    async fn compare<R: Replication>(
        &self,
        stream: &R,
        deadline: Instant,
    ) -> PortResult<Vec<Check>> {
        Ok(self.findings(&stream.count_rows(COUNTED_BYTES, deadline).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Severity;

    fn table(name: &str) -> QualifiedName {
        QualifiedName::new("shop", name)
    }

    fn found(counted: &Counted) -> Vec<(Severity, String)> {
        let findings = MomentCounts::new(Direction::Forward).findings(counted);
        findings.into_iter().map(|check| (check.severity, check.evidence)).collect()
    }

    #[test]
    fn what_differs_at_one_moment_is_a_failure() {
        let counted = Counted {
            tables: vec![(table("a"), [7, 7]), (table("b"), [7, 6]), (table("c"), [7, 9])],
            lacking: vec![table("d")],
            ..Counted::default()
        };
        let found = found(&counted);
        let failed: Vec<&str> = found
            .iter()
            .filter(|(severity, _)| *severity == Severity::Fail)
            .map(|(_, evidence)| evidence.as_str())
            .collect();
        assert_eq!(failed.len(), 3, "{found:?}");
        assert!(failed[1].contains("7 rows on blue and 6 on green: 1 missing on green"));
        assert!(failed[2].contains("2 too many on green"));
        let (severity, said) = found.last().unwrap();
        assert!(*severity == Severity::Ok && said.starts_with("1 tables have as many"), "{said}");
    }

    #[test]
    fn what_was_not_counted_is_said() {
        let blind = Counted { blind: Some("a statement runs".into()), ..Counted::default() };
        assert!(
            matches!(&found(&blind)[..], [(Severity::Warn, said)] if said.contains("a statement"))
        );
        let counted = Counted {
            large: vec![table("l")],
            late: vec![table("t")],
            unseen: vec![table("u")],
            ..Counted::default()
        };
        let found = found(&counted);
        let warned = found.iter().filter(|(severity, _)| *severity == Severity::Warn).count();
        assert_eq!(warned, 2, "{found:?}");
        assert!(found.last().unwrap().1.contains("1 are too large"), "{found:?}");
    }
}
