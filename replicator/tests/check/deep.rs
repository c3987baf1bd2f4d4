//! Rows that break blue's own rules, found before the copy; and indexes that blue does not trust.

use std::time::Duration;

use decoders::postgres::catalog::TableFilter;
use replicator::check::{Finding, Fix, Severity, Side, deep};
use tests::postgres::{Postgres, connect_url};

use crate::support::*;

const TABLES: &[&str] = &[
    "CREATE TABLE parents (id integer PRIMARY KEY)",
    "CREATE TABLE children (id integer PRIMARY KEY, \"Parent\" integer, \
     CONSTRAINT \"children parent\" FOREIGN KEY (\"Parent\") REFERENCES parents)",
    "CREATE TABLE twice (a integer, b text)",
    "CREATE TABLE fine (id integer PRIMARY KEY, b text UNIQUE)",
    "CREATE UNIQUE INDEX \"fine Part\" ON fine (lower(b), id) WHERE id > 1",
    "INSERT INTO parents VALUES (1)",
    "INSERT INTO children VALUES (1, 1), (2, NULL)",
    "INSERT INTO twice VALUES (1, 'x'), (1, 'y'), (2, NULL), (2, NULL)",
    "INSERT INTO fine VALUES (1, NULL), (2, NULL), (3, 'z')",
];
const LATE: Duration = Duration::from_secs(30);

fn find<'a>(findings: &'a [Finding], id: &str) -> &'a Finding {
    let found = findings.iter().find(|finding| finding.id == id);
    found.unwrap_or_else(|| panic!("no {id} in {findings:#?}"))
}

async fn look(blue: &Postgres, timeout: Duration) -> Vec<Finding> {
    let client = connect_url(&blue.url("postgres")).await.unwrap();
    deep::look(&client, &TableFilter::default(), timeout).await.unwrap()
}

async fn rows_that_break_rules(major: u32) {
    let blue = Postgres::start_major(major).unwrap();
    run(&blue, "postgres", TABLES).await;
    let sound = look(&blue, LATE).await;
    assert_eq!((sound.len(), sound[0].id), (1, "rows-keep-rules"), "{sound:#?}");

    let triggers_off = [
        "SET session_replication_role = replica",
        "INSERT INTO children VALUES (3, 4711), (4, 4712)",
    ];
    run(&blue, "postgres", &triggers_off).await;
    let client = blue.connect("postgres").await.unwrap();
    // It fails, and what it has begun stays.
    client
        .batch_execute("CREATE UNIQUE INDEX CONCURRENTLY twice_a ON twice (a)")
        .await
        .unwrap_err();
    let report = check_as(&request(), "postgres", (&blue, "postgres"), (&blue, "template1")).await;
    let invalid = at(&report, Side::Blue, "index-invalid");
    assert_eq!(invalid.severity, Severity::Warning, "{report}");
    assert_eq!(invalid.objects, ["\"public\".\"twice\": public.twice_a"]);

    let found = look(&blue, LATE).await;
    let orphans = find(&found, "rows-without-parent");
    assert_eq!(
        orphans.objects,
        [
            "\"public\".\"children\": foreign key \"children parent\" (\"Parent\"): 2 rows without a parent"
        ]
    );
    let twice = find(&found, "rows-twice");
    assert_eq!(
        twice.objects,
        ["\"public\".\"twice\": unique index \"twice_a\" (a): 2 keys more than once"]
    );
    assert!(!format!("{found:?}").contains("4711"), "no value of a row is told: {found:#?}");
    // The statements find what was counted.
    for finding in [orphans, twice] {
        let Some(Fix::Sql { statements, .. }) = &finding.fix else { panic!("{finding:?}") };
        let rows = client.query(statements[0].as_str(), &[]).await.unwrap();
        assert_eq!(rows.len(), 2, "{}", statements[0]);
    }

    // What could not be looked at is said, and not that it is in order.
    let holder = blue.connect("postgres").await.unwrap();
    holder
        .batch_execute("BEGIN; LOCK TABLE children, fine IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let held = look(&blue, LATE).await;
    let unknown = find(&held, "rows-not-looked-at");
    // Two rules of one, three of the other.
    assert_eq!(unknown.objects.len(), 5, "{unknown:?}");
    let says = |object: &String| object.ends_with("somebody else holds the table");
    assert!(unknown.objects.iter().all(says), "{unknown:?}");
    holder.batch_execute("ROLLBACK").await.unwrap();
    let hurried = look(&blue, Duration::ZERO).await;
    assert_eq!((hurried.len(), hurried[0].id), (1, "rows-not-looked-at"), "{hurried:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_10_that_break_rules_are_counted_and_never_shown() {
    rows_that_break_rules(10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_18_that_break_rules_are_counted_and_never_shown() {
    rows_that_break_rules(18).await;
}
