//! Family: transactions that a new slot waits for.

use decoders::postgres::catalog::quote_literal;

use super::facts::{Activity, PreparedTransaction, WritingTransaction};
use super::finding::{Finding, Fix, Side, count};
use super::request::CheckRequest;

/// A new slot is consistent only once every transaction that was writing when it began has ended,
/// in any database of the cluster (PostgreSQL, `snapbuild.c`).
pub(super) fn evaluate(request: &CheckRequest, activity: &Activity) -> Vec<Finding> {
    if request.resuming {
        return Vec::new();
    }
    let mut findings = Vec::new();
    // Ages of other roles' transactions are hidden without pg_read_all_stats: then they are only
    // warned of.
    let old = |limit| move |t: &&WritingTransaction| t.age.is_some_and(|age| age >= limit);
    let stuck: Vec<_> = activity.writing.iter().filter(old(request.stuck_transaction)).collect();
    let long: Vec<_> = activity
        .writing
        .iter()
        .filter(|t| t.age.is_none_or(|age| age >= request.long_transaction))
        .filter(|t| !stuck.contains(t))
        .collect();
    if !stuck.is_empty() {
        findings.push(
            Finding::blocker(
                "stuck-transactions",
                Side::Blue,
                "writing transactions that have been open for very long: a new slot waits until \
                 they end",
            )
            .evidence(count(stuck.len(), "transaction"))
            .objects(stuck.iter().map(|t| describe(t)).collect())
            .fix(terminate(&stuck)),
        );
    }
    if !long.is_empty() {
        findings.push(
            Finding::warning(
                "long-transactions",
                Side::Blue,
                "writing transactions are open: a new slot waits until they end",
            )
            .evidence(count(long.len(), "transaction"))
            .objects(long.iter().map(|t| describe(t)).collect())
            .fix(terminate(&long)),
        );
    }
    // Younger ones are a transaction manager at work.
    let forgotten: Vec<_> =
        activity.prepared.iter().filter(|p| p.age >= request.long_transaction).collect();
    if !forgotten.is_empty() {
        findings.push(prepared(&forgotten));
    }
    if findings.is_empty() {
        let summary = "no transaction holds up the creation of a slot";
        findings.push(Finding::ok("long-transactions", Side::Blue, summary));
    }
    findings
}

fn describe(t: &WritingTransaction) -> String {
    let hidden = || "(hidden)".to_owned();
    let text = |value: &Option<String>| value.clone().unwrap_or_else(hidden);
    let age = t.age.map_or_else(hidden, |age| format!("{} s", age.as_secs()));
    format!(
        "pid {}: {age}, {}, user {}, database {}, application {:?}",
        t.pid,
        text(&t.state),
        text(&t.user),
        text(&t.database),
        text(&t.application)
    )
}

fn terminate(transactions: &[&WritingTransaction]) -> Fix {
    let statements =
        transactions.iter().map(|t| format!("SELECT pg_terminate_backend({})", t.pid)).collect();
    Fix::sql(Side::Blue, statements)
}

fn prepared(prepared: &[&PreparedTransaction]) -> Finding {
    Finding::blocker(
        "prepared-transactions",
        Side::Blue,
        "prepared transactions stay open until somebody ends them, and a new slot waits for them",
    )
    .evidence(count(prepared.len(), "prepared transaction"))
    .objects(
        prepared
            .iter()
            .map(|p| {
                let seconds = p.age.as_secs();
                format!("{:?} in database {:?} by {:?}, {seconds} s", p.gid, p.database, p.owner)
            })
            .collect(),
    )
    .fix(Fix::advice(format!(
        "let the transaction manager finish them, or decide for each, connected to its database: {}",
        prepared
            .iter()
            .map(|p| {
                let gid = quote_literal(&p.gid);
                format!("COMMIT PREPARED {gid} or ROLLBACK PREPARED {gid}")
            })
            .collect::<Vec<_>>()
            .join("; ")
    )))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::finding::Severity;
    use super::*;

    fn writing(pid: i32, age: Option<u64>) -> WritingTransaction {
        WritingTransaction { pid, age: age.map(Duration::from_secs), ..Default::default() }
    }

    #[test]
    fn age_decides_between_patience_and_refusal() {
        let request = CheckRequest::new("main");
        let activity = Activity {
            writing: vec![
                writing(1, Some(1)),
                writing(2, Some(60)),
                writing(3, Some(3600)),
                writing(4, None),
            ],
            prepared: Vec::new(),
        };
        let findings = evaluate(&request, &activity);
        let seen: Vec<_> = findings.iter().map(|f| (f.id, f.severity, f.objects.len())).collect();
        assert_eq!(
            seen,
            [
                ("stuck-transactions", Severity::Blocker, 1),
                ("long-transactions", Severity::Warning, 2)
            ]
        );
        let fix = Fix::sql(Side::Blue, vec!["SELECT pg_terminate_backend(3)".into()]);
        assert_eq!(findings[0].fix, Some(fix));
        let prepared = |age| {
            let age = Duration::from_secs(age);
            let prepared = vec![PreparedTransaction { age, ..Default::default() }];
            evaluate(&request, &Activity { prepared, ..Activity::default() })[0].severity
        };
        assert_eq!(prepared(600), Severity::Blocker);
        assert_eq!(prepared(1), Severity::Ok, "a transaction manager at work");
        let quiet = evaluate(&request, &Activity::default());
        assert_eq!(quiet[0].severity, Severity::Ok);
    }
}
