//! Which two databases these are, whether they answer, and what an earlier run left.

use decoders::postgres::catalog::TableFilter;
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session;
use replicator::check::{ConnectFailure, Fix, Severity, Side, check};
use tests::postgres::{Postgres, connect_url};
use tokio_postgres::Client;

use crate::support::*;

/// One database under several names is one database; another database of the server is not.
#[tokio::test]
async fn the_same_database_is_recognized_under_any_name() {
    let server = Postgres::start_major(15).unwrap();
    server.create_database("other").await.unwrap();
    let tcp = connect_url(&server.url("postgres")).await.unwrap();
    let socket = connect_url(&server.unix_url("postgres")).await.unwrap();
    let other = connect_url(&server.url("other")).await.unwrap();
    let report = check(&request(), Ok(&tcp), Ok(&socket)).await;
    assert_eq!(at(&report, Side::Both, "same-database").severity, Severity::Blocker);
    let report = check(&request(), Ok(&tcp), Ok(&other)).await;
    assert_eq!(at(&report, Side::Both, "same-database").severity, Severity::Ok);
    let held = advisory_locks(&tcp).await;
    assert_eq!(held, 0, "the lock that tells them apart is given back");
}

async fn advisory_locks(client: &Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_catalog.pg_locks WHERE locktype = 'advisory'";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// What is wrong with the one side does not hide what is wrong with the other.
#[tokio::test]
async fn unreachable_and_refused_are_reported_together() {
    let green =
        Postgres::builder(15).hba("host all locked 127.0.0.1/32 scram-sha-256").start().unwrap();
    let right =
        ["SET password_encryption = 'scram-sha-256'", "CREATE ROLE locked LOGIN PASSWORD 'x'"];
    run(&green, "postgres", &right).await;
    let closed = tests::ports::Port::reserve().unwrap();
    let blue_url = format!("postgresql://u:hunter2@127.0.0.1:{}/d", closed.number());
    let green_url = green.url_as("locked:hunter2", "postgres");
    let nowhere = green.url("no such place").replace(' ', "%20");
    let mut results = Vec::new();
    for url in [&blue_url, &green_url, &nowhere] {
        let info = ConnInfo::parse(url).unwrap();
        let failure = session::connect(&info, "check").await.map(drop).unwrap_err();
        results.push(ConnectFailure::from(&failure));
    }
    let report = check(&request(), Err(results[0].clone()), Err(results[1].clone())).await;
    let expected = [(Side::Blue, "unreachable"), (Side::Green, "wrong-credentials")];
    assert_findings(&report, Severity::Blocker, expected);
    assert!(!report.to_string().contains("hunter2"), "{report}");
    let report = check(&request(), Err(results[0].clone()), Err(results[2].clone())).await;
    let expected = [(Side::Blue, "unreachable"), (Side::Green, "no-such-database")];
    assert_findings(&report, Severity::Blocker, expected);
}

/// A lost connection leaves questions without an answer, and none of them is taken for a yes.
#[tokio::test]
async fn a_question_without_an_answer_is_a_blocker() {
    let blue = Postgres::start_major(15).unwrap();
    let mut green = Postgres::start_major(15).unwrap();
    let one = connect_url(&blue.url("postgres")).await.unwrap();
    let other = connect_url(&green.url("postgres")).await.unwrap();
    green.kill9().unwrap();
    let report = check(&request(), Ok(&one), Ok(&other)).await;
    assert_eq!(report.exit_code(), 3);
    let failed = report.findings.iter().filter(|f| f.id == "probe-failed").count();
    assert!(failed > 10, "{report}");
}

/// An earlier run's slot, publication and progress are named; a resuming run expects them.
#[tokio::test]
async fn leftovers_are_named_and_expected_when_resuming() {
    let blue = Postgres::start_major(15).unwrap();
    let green = Postgres::start_major(15).unwrap();
    let remains = [
        "CREATE TABLE public.t (a integer PRIMARY KEY)",
        "CREATE PUBLICATION cutover_main FOR TABLE public.t",
        "SELECT pg_create_logical_replication_slot('cutover_main', 'pgoutput')",
        "SELECT pg_create_logical_replication_slot('other', 'pgoutput')",
    ];
    run(&blue, "postgres", &remains).await;
    run(
        &green,
        "postgres",
        &[
            "CREATE TABLE public.t (a integer PRIMARY KEY)",
            "CREATE SCHEMA _cutover",
            "CREATE TABLE _cutover.stream (pipeline text)",
            "INSERT INTO _cutover.stream VALUES ('main')",
        ],
    )
    .await;
    let ends = ((&blue, "postgres"), (&green, "postgres"));
    let mut request = request();
    let report = check_as(&request, "postgres", ends.0, ends.1).await;
    let expected = [
        (Side::Blue, "leftover-slot"),
        (Side::Blue, "leftover-publication"),
        (Side::Green, "leftover-schema"),
        (Side::Green, "green-not-empty"),
    ];
    assert_findings(&report, Severity::Blocker, expected);
    let teardown = Some(Fix::command("replicator teardown"));
    assert_eq!(at(&report, Side::Blue, "leftover-slot").fix, teardown);
    assert_eq!(at(&report, Side::Blue, "other-consumers").objects, ["other (pgoutput)"]);
    request.resuming = true;
    let report = check_as(&request, "postgres", ends.0, ends.1).await;
    assert_findings(&report, Severity::Blocker, []);
}

/// The filter decides what can be in the way.
#[tokio::test]
async fn what_the_filter_leaves_out_is_no_obstacle() {
    let blue = Postgres::start_major(15).unwrap();
    let green = Postgres::start_major(15).unwrap();
    let tables = [
        "CREATE TABLE public.\"Good\" (a integer PRIMARY KEY)",
        "CREATE TABLE public.bad (a integer)",
    ];
    run(&blue, "postgres", &tables).await;
    let ends = ((&blue, "postgres"), (&green, "postgres"));
    let mut request = request();
    request.filter = TableFilter::parse(&["public.Good"], &[]).unwrap();
    let report = check_as(&request, "postgres", ends.0, ends.1).await;
    assert_findings(&report, Severity::Blocker, []);
    request.filter = TableFilter::parse(&["public.good"], &[]).unwrap();
    let report = check_as(&request, "postgres", ends.0, ends.1).await;
    assert_findings(&report, Severity::Blocker, [(Side::Blue, "no-tables")]);
}

/// Character sets and collations that differ.
#[tokio::test]
async fn character_sets_and_collations_are_compared() {
    let blue = Postgres::start_major(15).unwrap();
    let green = Postgres::start_major(16).unwrap();
    for server in [&blue, &green] {
        for encoding in ["SQL_ASCII", "LATIN1"] {
            let create = format!(
                "CREATE DATABASE {encoding} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
            );
            run(server, "postgres", &[&create]).await;
        }
    }
    run(
        &green,
        "postgres",
        &["CREATE DATABASE icu LOCALE_PROVIDER icu ICU_LOCALE 'de' LOCALE 'C' ENCODING 'UTF8' TEMPLATE template0"],
    )
    .await;
    let mut request = request();
    let mut seen = Vec::new();
    for (one, other) in [
        ("sql_ascii", "postgres"),
        ("latin1", "postgres"),
        ("postgres", "latin1"),
        ("postgres", "icu"),
    ] {
        let report = check_as(&request, "postgres", (&blue, one), (&green, other)).await;
        seen.push((
            at(&report, Side::Both, "encoding").severity,
            at(&report, Side::Both, "collation").severity,
        ));
    }
    use Severity::{Blocker, Ok, Warning};
    assert_eq!(seen, [(Blocker, Ok), (Warning, Ok), (Blocker, Ok), (Ok, Warning)]);
    request.accept = ["encoding".to_owned()].into();
    let report = check_as(&request, "postgres", (&blue, "sql_ascii"), (&green, "postgres")).await;
    assert_findings(&report, Severity::Blocker, []);
}
