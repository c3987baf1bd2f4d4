//! Pairs that are ready.

use replicator::check::{Severity, Side};
use tests::postgres::Postgres;

use crate::support::*;

/// Nothing is wrong: nothing is said to be.
#[tokio::test]
async fn clean_pairs_are_ready() {
    for (old, new) in [(15, 15), (10, 18), (14, 16), (17, 18)] {
        let blue = Postgres::start_major(old).unwrap();
        let green = Postgres::start_major(new).unwrap();
        let mut statements = COMMON.to_vec();
        if old == 10 {
            // Partitioned tables have keys of their own since 11 only.
            statements.retain(|statement| !statement.contains("public.parted"));
        }
        run(&blue, "postgres", &statements).await;
        let report =
            check_as(&request(), "postgres", (&blue, "postgres"), (&green, "postgres")).await;
        assert_findings(&report, Severity::Blocker, []);
        // A server that writes nothing to speak of keeps little log.
        assert_findings(&report, Severity::Warning, []);
        assert_eq!(report.exit_code(), 0);
        assert!(report.ok > 20, "{report}");
    }
}

/// The rights that the manual asks for are enough; no superuser on either side.
#[tokio::test]
async fn an_ordinary_role_with_the_documented_rights_is_ready() {
    let blue = Postgres::start_major(15).unwrap();
    let green = Postgres::start_major(16).unwrap();
    for server in [&blue, &green] {
        let rights = [
            "CREATE ROLE app LOGIN",
            "CREATE ROLE mover LOGIN REPLICATION",
            "GRANT app TO mover",
            "GRANT CREATE ON DATABASE postgres TO mover",
        ];
        run(server, "postgres", &rights).await;
    }
    run(&green, "postgres", &["GRANT SET ON PARAMETER session_replication_role TO mover"]).await;
    run(
        &blue,
        "postgres",
        &[
            "CREATE TABLE public.orders (id serial PRIMARY KEY)",
            "ALTER TABLE public.orders OWNER TO app",
            "ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY",
        ],
    )
    .await;
    let report = check_as(&request(), "mover", (&blue, "postgres"), (&green, "postgres")).await;
    assert_findings(&report, Severity::Blocker, []);
    assert_eq!(at(&report, Side::Green, "replica-role").severity, Severity::Ok);
    assert_eq!(
        at(&report, Side::Blue, "row-security").severity,
        Severity::Ok,
        "the owner sees all"
    );
}
