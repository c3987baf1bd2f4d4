//! Databases full of faults.

use std::collections::BTreeSet;
use std::time::Duration;

use replicator::check::{Fix, Severity, Side};
use tests::postgres::{Postgres, Stop};

use crate::support::*;

const BLUE_FAULTS: &[&str] = &[
    r#"CREATE ROLE "Mover" LOGIN CONNECTION LIMIT 2"#,
    r#"CREATE ROLE "Öwner ""x""" LOGIN NOINHERIT"#,
    r#"CREATE SCHEMA "Größe ""x""""#,
    r#"CREATE TABLE "Größe ""x"""."No Key" (a integer, b integer)"#,
    r#"CREATE TABLE public."Uniqüe" (a integer NOT NULL, b integer NOT NULL, c text)"#,
    r#"CREATE UNIQUE INDEX "By ""A""" ON public."Uniqüe" (a)"#,
    "CREATE TABLE public.nothing (a integer PRIMARY KEY)",
    "ALTER TABLE public.nothing REPLICA IDENTITY NOTHING",
    "CREATE TABLE public.deferred (a integer PRIMARY KEY DEFERRABLE)",
    "CREATE TABLE public.computed (raw text, k text GENERATED ALWAYS AS (lower(raw)) STORED PRIMARY KEY)",
    "CREATE TABLE public.gone (a integer NOT NULL)",
    "CREATE UNIQUE INDEX gone_a ON public.gone (a)",
    "ALTER TABLE public.gone REPLICA IDENTITY USING INDEX gone_a",
    "DROP INDEX public.gone_a",
    "CREATE TABLE public.parted (k integer) PARTITION BY RANGE (k)",
    "CREATE TABLE public.leaf PARTITION OF public.parted FOR VALUES FROM (0) TO (9)",
    "CREATE TABLE public.full_json (a integer PRIMARY KEY, j json)",
    "ALTER TABLE public.full_json REPLICA IDENTITY FULL",
    "CREATE COLLATION public.blurry (provider = icu, locale = 'und', deterministic = false)",
    "CREATE TABLE public.blurred (k text COLLATE public.blurry PRIMARY KEY, r regclass)",
    "CREATE UNLOGGED TABLE public.cache (k integer PRIMARY KEY)",
    "CREATE TABLE public.child (PRIMARY KEY (a)) INHERITS (public.nothing)",
    "CREATE RULE quiet AS ON INSERT TO public.child DO ALSO NOTHING",
    "CREATE FUNCTION public.noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    r#"CREATE TRIGGER "Always" BEFORE INSERT ON public.child FOR EACH ROW EXECUTE FUNCTION noop()"#,
    r#"ALTER TABLE public.child ENABLE ALWAYS TRIGGER "Always""#,
    "CREATE TABLE public.secret (a integer PRIMARY KEY)",
    r#"ALTER TABLE public.secret OWNER TO "Öwner ""x""""#,
    "ALTER TABLE public.secret ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    "CREATE MATERIALIZED VIEW public.summary AS SELECT 1 AS x",
    "CREATE FOREIGN DATA WRAPPER nowhere",
    "CREATE SERVER far FOREIGN DATA WRAPPER nowhere",
    "CREATE FOREIGN TABLE public.abroad (a integer) SERVER far",
    "CREATE SEQUENCE public.lonely",
    "SELECT lo_create(0)",
    "CREATE SUBSCRIPTION incoming CONNECTION 'host=nowhere password=hunter2' PUBLICATION p \
     WITH (connect = false)",
    "CREATE PUBLICATION cutover_main FOR TABLE public.secret",
    "SELECT pg_create_physical_replication_slot('taken', true)",
    "CREATE EVENT TRIGGER blue_ddl ON ddl_command_end EXECUTE FUNCTION event_noop()",
];

fn blue_faults() -> Vec<&'static str> {
    let mut statements = BLUE_FAULTS.to_vec();
    let last = statements.len() - 1;
    statements.insert(
        last,
        "CREATE FUNCTION public.event_noop() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
    );
    statements
}

const GREEN_FAULTS: &[&str] = &[
    r#"CREATE ROLE "Mover" LOGIN"#,
    "CREATE TABLE public.already (a integer PRIMARY KEY)",
    "INSERT INTO public.already VALUES (1)",
    r#"GRANT SELECT ON public.already TO "Mover""#,
    "CREATE VIEW public.seen AS SELECT 1 AS x",
    "CREATE TYPE public.mood AS ENUM ('sad')",
    "CREATE SCHEMA _cutover",
    "CREATE TABLE _cutover.stream (pipeline text)",
    "INSERT INTO _cutover.stream VALUES ('main')",
    r#"GRANT USAGE ON SCHEMA _cutover TO "Mover""#,
    r#"GRANT SELECT ON _cutover.stream TO "Mover""#,
    "CREATE FUNCTION public.event_noop() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
    r#"CREATE EVENT TRIGGER "Nosy" ON ddl_command_end EXECUTE FUNCTION event_noop()"#,
    "ALTER DATABASE postgres SET default_transaction_read_only = on",
];

/// One blue and one green with every fault at once, seen by a role that may do nothing.
#[tokio::test]
async fn every_fault_is_named_and_every_statement_mends_its_fault() {
    let mut blue = Postgres::builder(15)
        .setting("wal_level", "replica")
        .setting("max_replication_slots", "1")
        .setting("max_wal_senders", "0")
        .setting("wal_sender_timeout", "0")
        .setting("max_slot_wal_keep_size", "64MB")
        .start()
        .unwrap();
    let mut green = Postgres::builder(15)
        .setting("wal_level", "replica")
        .setting("synchronous_standby_names", "nobody")
        .setting("synchronous_commit", "off")
        .start()
        .unwrap();
    run(&blue, "postgres", &blue_faults()).await;
    run(&green, "postgres", GREEN_FAULTS).await;
    let open = blue.connect("postgres").await.unwrap();
    open.batch_execute("BEGIN; CREATE TABLE public.open (a integer)").await.unwrap();
    let prepared = blue.connect("postgres").await.unwrap();
    prepared
        .batch_execute(
            "BEGIN; CREATE TABLE public.pending (a integer); PREPARE TRANSACTION 'it''s'",
        )
        .await
        .unwrap();

    let mut request = request();
    request.long_transaction = Duration::ZERO;
    request.refreshes_views = false;
    request.pg_dump = Err("no pg_dump of major version 15 or newer was found".into());
    request.accept = ["large-objects", "wal-level", "nonsense"].map(str::to_owned).into();
    let report = check_as(&request, "Mover", (&blue, "postgres"), (&green, "postgres")).await;

    use Side::{Blue, Both, Green, Here};
    assert_findings(
        &report,
        Severity::Blocker,
        [
            (Here, "pg-dump"),
            (Blue, "wal-level"),
            (Blue, "replication-role"),
            (Blue, "table-select"),
            (Blue, "table-ownership"),
            (Blue, "database-create"),
            (Blue, "row-security"),
            (Blue, "slots-left"),
            (Blue, "senders-left"),
            (Blue, "role-limit"),
            (Blue, "identity-missing"),
            (Blue, "sequence-select"),
            (Blue, "prepared-transactions"),
            (Blue, "leftover-publication"),
            (Green, "database-create"),
            (Green, "green-not-empty"),
            (Green, "green-read-only"),
            (Green, "leftover-schema"),
            (Green, "roles-missing"),
            (Green, "roles-unsettable"),
        ],
    );
    assert_findings(
        &report,
        Severity::Warning,
        [
            (Here, "accept"),
            (Blue, "large-objects"),
            (Blue, "wal-sender-timeout"),
            (Blue, "identity-full"),
            (Blue, "identity-full-incomparable"),
            (Blue, "identity-nondeterministic"),
            (Blue, "unlogged-tables"),
            (Blue, "inheritance"),
            (Blue, "rules"),
            (Blue, "materialized-views"),
            (Blue, "foreign-tables"),
            (Blue, "subscriptions"),
            (Blue, "long-transactions"),
            (Blue, "object-columns"),
            (Blue, "event-triggers-copied"),
            (Blue, "slot-keep-size"),
            (Green, "wal-level"),
            (Green, "green-replication"),
            (Green, "green-fence"),
            (Green, "green-synchronous"),
            (Green, "replica-role"),
            (Green, "event-triggers"),
        ],
    );
    assert_eq!(at(&report, Both, "same-database").severity, Severity::Ok);
    assert_eq!(report.exit_code(), 3);
    let text = format!("{report}{}", serde_json::to_string(&report).unwrap());
    assert!(!text.contains("hunter2"), "a subscription's secret was shown");

    let missing = at(&report, Blue, "identity-missing");
    assert_eq!(missing.objects.len(), 7, "{missing:?}");
    assert!(missing.summary.contains("UPDATE and DELETE"), "{missing:?}");
    let Some(Fix::Sql { statements, .. }) = &missing.fix else { panic!("{missing:?}") };
    for statement in [
        r#"ALTER TABLE "Größe ""x"""."No Key" REPLICA IDENTITY FULL"#,
        r#"ALTER TABLE "public"."Uniqüe" REPLICA IDENTITY USING INDEX "By ""A""""#,
        r#"ALTER TABLE "public"."nothing" REPLICA IDENTITY DEFAULT"#,
        r#"ALTER TABLE "public"."deferred" REPLICA IDENTITY FULL"#,
        r#"ALTER TABLE "public"."leaf" REPLICA IDENTITY FULL"#,
        r#"ALTER TABLE "public"."computed" REPLICA IDENTITY FULL"#,
    ] {
        assert!(statements.iter().any(|s| s == statement), "{statement} is not in {statements:?}");
    }
    assert!(!missing.objects.iter().any(|table| table.contains("parted")));
    let roles = at(&report, Green, "roles-missing");
    assert!(
        matches!(&roles.fix, Some(Fix::Sql { statements, .. })
        if statements == &[r#"CREATE ROLE "Öwner ""x""" LOGIN NOINHERIT"#]),
        "{roles:?}"
    );
    let transactions = at(&report, Blue, "prepared-transactions");
    assert!(
        matches!(&transactions.fix, Some(Fix::Advice { text })
        if text.contains("ROLLBACK PREPARED 'it''s'")),
        "{transactions:?}"
    );
    let objects = &at(&report, Green, "green-not-empty").objects;
    assert!(objects.iter().any(|o| o == r#"table "public"."already" (with rows)"#), "{objects:?}");
    assert!(objects.iter().any(|o| o == r#"type "public"."mood""#), "{objects:?}");

    // What can be done in SQL is done as it is written; the rest by hand, as advised.
    let fixed = apply_fixes(&report, (&blue, "postgres"), (&green, "postgres")).await;
    assert!(fixed.len() >= 18, "{fixed:?}");
    let by_hand = [
        "ROLLBACK PREPARED 'it''s'",
        "DROP PUBLICATION cutover_main",
        "SELECT lo_unlink(oid) FROM pg_largeobject_metadata",
        // A subscription takes a slot's place at every start, if there is one to take.
        "ALTER SUBSCRIPTION incoming SET (slot_name = NONE)",
        "DROP SUBSCRIPTION incoming",
    ];
    run(&blue, "postgres", &by_hand).await;
    let by_hand = [
        "ALTER DATABASE postgres RESET default_transaction_read_only",
        "DROP SCHEMA _cutover CASCADE",
        "DROP TABLE public.already",
        "DROP VIEW public.seen",
        "DROP TYPE public.mood",
        "DROP EVENT TRIGGER \"Nosy\"",
        "DROP FUNCTION public.event_noop()",
    ];
    run(&green, "postgres", &by_hand).await;
    drop(open);
    // ALTER SYSTEM is weaker than nothing: the settings given at the start are in the same file.
    blue.restart(Stop::Fast).unwrap();
    green.restart(Stop::Fast).unwrap();

    request.pg_dump = Ok("pg_dump 15".into());
    request.accept.clear();
    let report = check_as(&request, "Mover", (&blue, "postgres"), (&green, "postgres")).await;
    let after: BTreeSet<_> = [Severity::Blocker, Severity::Warning]
        .into_iter()
        .flat_map(|severity| severities(&report, severity))
        .collect();
    // FULL, which was suggested, is itself worth a warning.
    let still: Vec<_> = fixed
        .iter()
        .filter(|fixed| after.contains(fixed) && !fixed.1.starts_with("identity-full"))
        .collect();
    assert!(still.is_empty(), "{still:?} are still there:\n{report}");
    assert_findings(&report, Severity::Blocker, []);
    assert_eq!(report.exit_code(), 0);
}

const OLD_BLUE: &[&str] = &[
    "CREATE TABLE public.with_oids (a integer PRIMARY KEY) WITH OIDS",
    r#"CREATE TABLE public."Öld" (a integer PRIMARY KEY, "At" abstime, "For" reltime)"#,
    "CREATE FUNCTION public.fac(integer) RETURNS integer LANGUAGE sql AS 'SELECT $1'",
    "CREATE OPERATOR public.!! (LEFTARG = integer, PROCEDURE = public.fac)",
    "CREATE AGGREGATE public.gather(anyelement) (SFUNC = array_append, STYPE = anyarray, \
     INITCOND = '{}')",
];

/// What newer versions no longer have, seen from the oldest to the newest.
#[tokio::test]
async fn what_newer_versions_lack_is_named() {
    let blue = Postgres::start_major(10).unwrap();
    let green = Postgres::start_major(18).unwrap();
    run(&blue, "postgres", OLD_BLUE).await;
    let (blue_end, green_end) = ((&blue, "postgres"), (&green, "postgres"));
    let report = check_as(&request(), "postgres", blue_end, green_end).await;
    use Side::Blue;
    let expected = [
        (Blue, "with-oids"),
        (Blue, "removed-types"),
        (Blue, "postfix-operators"),
        (Blue, "old-polymorphics"),
    ];
    assert_findings(&report, Severity::Blocker, expected);
    apply_fixes(&report, blue_end, green_end).await;
    run(&blue, "postgres", &["DROP AGGREGATE public.gather(anyelement)"]).await;
    let report = check_as(&request(), "postgres", blue_end, green_end).await;
    assert_findings(&report, Severity::Blocker, []);

    // The other way round nothing goes.
    let report = check_as(&request(), "postgres", green_end, blue_end).await;
    assert_eq!(at(&report, Side::Both, "green-older").severity, Severity::Blocker);
}
