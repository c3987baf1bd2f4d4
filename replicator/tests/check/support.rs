//! How the tests ask and compare.

use std::collections::BTreeSet;
use std::time::Duration;

use replicator::check::{CheckRequest, Finding, Fix, Report, Severity, Side, check};
use tests::postgres::{Postgres, connect_url};

pub fn request() -> CheckRequest {
    let mut request = CheckRequest::new("main");
    request.pg_dump = Ok("pg_dump 18".into());
    request.wal_sample = Duration::from_millis(50);
    request
}

pub async fn check_as(
    request: &CheckRequest,
    role: &str,
    blue: (&Postgres, &str),
    green: (&Postgres, &str),
) -> Report {
    let blue = connect_url(&blue.0.url_as(role, blue.1)).await.unwrap();
    let green = connect_url(&green.0.url_as(role, green.1)).await.unwrap();
    check(request, Ok(&blue), Ok(&green)).await
}

/// Runs statements one by one, each in a transaction of its own, able to write.
pub async fn run(server: &Postgres, database: &str, statements: &[&str]) {
    let client = server.connect(database).await.unwrap();
    client.batch_execute("SET default_transaction_read_only = off").await.unwrap();
    for statement in statements {
        if let Err(error) = client.batch_execute(statement).await {
            panic!("{statement}: {}", tests::postgres::describe(&error));
        }
    }
}

pub fn severities(report: &Report, severity: Severity) -> BTreeSet<(Side, &'static str)> {
    let of = report.findings.iter().filter(|finding| finding.severity == severity);
    of.map(|finding| (finding.side, finding.id)).collect()
}

pub fn at<'a>(report: &'a Report, side: Side, id: &str) -> &'a Finding {
    report
        .findings
        .iter()
        .find(|finding| finding.id == id && finding.side == side)
        .unwrap_or_else(|| panic!("no {id} at {side} in:\n{report}"))
}

/// Everything that is expected and not there, or there and not expected.
pub fn assert_findings(
    report: &Report,
    severity: Severity,
    expected: impl IntoIterator<Item = (Side, &'static str)>,
) {
    let expected: BTreeSet<_> = expected.into_iter().collect();
    let seen = severities(report, severity);
    let missing: Vec<_> = expected.difference(&seen).collect();
    let extra: Vec<_> = seen.difference(&expected).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "missing {missing:?}, not expected {extra:?} in:\n{report}"
    );
}

/// Does what the report says, where it says it in SQL; tells whether a server must be restarted.
pub async fn apply_fixes(
    report: &Report,
    blue: (&Postgres, &str),
    green: (&Postgres, &str),
) -> BTreeSet<(Side, &'static str)> {
    let mut fixed = BTreeSet::new();
    for finding in &report.findings {
        let Some(Fix::Sql { side, statements, .. }) = &finding.fix else { continue };
        let (server, database) = if *side == Side::Blue { blue } else { green };
        let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
        run(server, database, &statements).await;
        fixed.insert((finding.side, finding.id));
    }
    fixed
}

/// A schema that nothing is wrong with.
pub const COMMON: &[&str] = &[
    r#"CREATE SCHEMA "Shop""#,
    r#"CREATE TYPE "Shop"."Mood" AS ENUM ('sad', 'ok', 'it''s fine')"#,
    r#"CREATE TABLE "Shop"."Täble" (
           "Id" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
           mood "Shop"."Mood", amount numeric(10,2) DEFAULT 0, note varchar(20) COLLATE "C")"#,
    "CREATE TABLE public.plain (a integer PRIMARY KEY, b text)",
    "CREATE TABLE public.parted (k integer PRIMARY KEY) PARTITION BY RANGE (k)",
    "CREATE TABLE public.leaf PARTITION OF public.parted FOR VALUES FROM (0) TO (9)",
    "CREATE SEQUENCE public.lonely",
];
