//! A schema that is on green already.

use std::collections::BTreeSet;

use replicator::check::{Fix, Severity, Side};
use replicator::schema::SchemaMode;
use tests::postgres::Postgres;

use crate::support::*;

const GREEN_DIFFERS: &[&str] = &[
    r#"CREATE SCHEMA "Shop""#,
    r#"CREATE TYPE "Shop"."Mood" AS ENUM ('ok')"#,
    r#"CREATE TABLE "Shop"."Täble" (
           "Id" bigint GENERATED ALWAYS AS IDENTITY,
           mood "Shop"."Mood" NOT NULL, amount numeric(8,2), note varchar(20),
           "Extra" integer NOT NULL, more integer)"#,
    "CREATE TABLE public.plain (a integer PRIMARY KEY, b text GENERATED ALWAYS AS ('x') STORED)",
    "INSERT INTO public.plain VALUES (1)",
    "CREATE FUNCTION public.noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    r#"CREATE TRIGGER "Alwäys" BEFORE INSERT ON public.plain FOR EACH ROW EXECUTE FUNCTION noop()"#,
    r#"ALTER TABLE public.plain ENABLE ALWAYS TRIGGER "Alwäys""#,
    "CREATE TABLE public.stranger (a integer)",
    r#"CREATE ROLE "Mover" LOGIN REPLICATION"#,
    r#"GRANT CREATE ON DATABASE postgres TO "Mover""#,
];

/// A schema that is on green already and fits badly.
#[tokio::test]
async fn an_existing_schema_is_compared_piece_by_piece() {
    let blue = Postgres::start_major(13).unwrap();
    let green = Postgres::start_major(17).unwrap();
    run(&blue, "postgres", COMMON).await;
    run(&blue, "postgres", &["CREATE EXTENSION hstore"]).await;
    run(&blue, "postgres", &[r#"CREATE ROLE "Mover" LOGIN SUPERUSER"#]).await;
    run(&green, "postgres", GREEN_DIFFERS).await;
    let mut request = request();
    request.schema = SchemaMode::Existing;
    let (blue_end, green_end) = ((&blue, "postgres"), (&green, "postgres"));
    let report = check_as(&request, "Mover", blue_end, green_end).await;

    use Side::Green;
    assert_findings(
        &report,
        Severity::Blocker,
        [
            (Green, "tables-missing"),
            (Green, "column-types"),
            (Green, "columns-extra-required"),
            (Green, "columns-extra"),
            (Green, "columns-generated"),
            (Green, "enum-labels"),
            (Green, "extensions-missing"),
            (Green, "sequences-missing"),
            (Green, "sequence-update"),
            (Green, "triggers-fire"),
            (Green, "table-write"),
            (Green, "green-tables-unseen"),
        ],
    );
    for id in ["columns-stricter", "column-collations", "keys-missing", "tables-extra"] {
        assert_eq!(at(&report, Green, id).severity, Severity::Warning, "{id}");
    }
    let types = at(&report, Green, "column-types");
    assert!(
        matches!(&types.fix, Some(Fix::Sql { statements, .. }) if statements ==
        &[r#"ALTER TABLE "Shop"."Täble" ALTER COLUMN "amount" TYPE numeric(10,2) USING "amount"::numeric(10,2)"#]),
        "{types:?}"
    );
    let missing = at(&report, Green, "tables-missing");
    assert_eq!(missing.objects, [r#""public"."leaf""#], "the root need not exist");

    let fixed = apply_fixes(&report, blue_end, green_end).await;
    let by_hand = [
        "ALTER TABLE public.plain ALTER COLUMN b DROP EXPRESSION",
        "CREATE TABLE public.leaf (k integer PRIMARY KEY)",
        r#"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON public.leaf TO "Mover""#,
        // Made by a suggested statement, and so by the superuser.
        r#"GRANT SELECT, UPDATE ON SEQUENCE public.lonely TO "Mover""#,
    ];
    run(&green, "postgres", &by_hand).await;
    let report = check_as(&request, "Mover", blue_end, green_end).await;
    let seen: BTreeSet<_> = [Severity::Blocker, Severity::Warning]
        .into_iter()
        .flat_map(|severity| severities(&report, severity))
        .collect();
    let still: Vec<_> = fixed.intersection(&seen).collect();
    assert!(still.is_empty(), "{still:?} are still there:\n{report}");
    assert_findings(&report, Severity::Blocker, [(Green, "green-tables-filled")]);
    run(&green, "postgres", &["TRUNCATE public.plain"]).await;
    let report = check_as(&request, "Mover", blue_end, green_end).await;
    assert_findings(&report, Severity::Blocker, []);
}
