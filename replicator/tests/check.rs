//! The preflight against real servers: databases full of faults, each of which has to be named,
//! and each suggested statement has to make its finding go away.

use std::collections::BTreeSet;
use std::time::Duration;

use decoders::postgres::catalog::TableFilter;
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session;
use replicator::check::{
    CheckRequest, ConnectFailure, Finding, Fix, Report, Severity, Side, check,
};
use replicator::schema::SchemaMode;
use tests::postgres::{Postgres, Stop, connect_url};
use tokio_postgres::Client;

fn request() -> CheckRequest {
    let mut request = CheckRequest::new("main");
    request.pg_dump = Ok("pg_dump 18".into());
    request.wal_sample = Duration::from_millis(50);
    request
}

async fn check_as(
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
async fn run(server: &Postgres, database: &str, statements: &[&str]) {
    let client = server.connect(database).await.unwrap();
    client.batch_execute("SET default_transaction_read_only = off").await.unwrap();
    for statement in statements {
        if let Err(error) = client.batch_execute(statement).await {
            panic!("{statement}: {}", tests::postgres::describe(&error));
        }
    }
}

fn severities(report: &Report, severity: Severity) -> BTreeSet<(Side, &'static str)> {
    let of = report.findings.iter().filter(|finding| finding.severity == severity);
    of.map(|finding| (finding.side, finding.id)).collect()
}

fn at<'a>(report: &'a Report, side: Side, id: &str) -> &'a Finding {
    report
        .findings
        .iter()
        .find(|finding| finding.id == id && finding.side == side)
        .unwrap_or_else(|| panic!("no {id} at {side} in:\n{report}"))
}

/// Everything that is expected and not there, or there and not expected.
fn assert_findings(
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
async fn apply_fixes(
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
        .setting("max_wal_senders", "1")
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
            (Blue, "triggers-fire"),
            (Blue, "object-columns"),
            (Blue, "event-triggers-copied"),
            (Blue, "wal-room"),
            (Green, "wal-level"),
            (Green, "green-replication"),
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

const COMMON: &[&str] = &[
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
    for id in
        ["columns-extra", "columns-stricter", "column-collations", "keys-missing", "tables-extra"]
    {
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
        // Free disk space can't be seen from here, and says so; 10 to 12 have no limit to set.
        assert_findings(&report, Severity::Warning, [(Side::Blue, "wal-room")]);
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
