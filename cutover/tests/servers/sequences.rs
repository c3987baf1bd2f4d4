//! Sequences of every kind, and the decision row.

use cutover::api::Severity;
use cutover::decision::PostgresDecision;
use cutover::phase::Verdict;
use cutover::ports::{Decision, Epoch, Sequences};
use cutover::sequences::PostgresSequences;
use cutover::{Direction, Side};
use decoders::Lsn;

use super::support::{Postgres, deadline, number, text, until};

const SCHEMA: &str = "CREATE TABLE owned (id bigserial PRIMARY KEY); \
    CREATE TABLE identity (id int GENERATED ALWAYS AS IDENTITY (START 7)); \
    CREATE SEQUENCE free; CREATE SEQUENCE \"Odd \"\"näme\"; \
    CREATE SEQUENCE down INCREMENT -5 MAXVALUE -1 MINVALUE -1000 START -10; \
    CREATE SEQUENCE untouched START 100; CREATE SEQUENCE parked; \
    CREATE SEQUENCE small AS smallint CYCLE; \
    CREATE SCHEMA other; CREATE SEQUENCE other.free; \
    DO $$ BEGIN FOR i IN 1..1500 LOOP EXECUTE 'CREATE SEQUENCE many_' || i; END LOOP; END $$";

const NAMES: [&str; 9] = [
    "owned_id_seq",
    "identity_id_seq",
    "free",
    "\"Odd \"\"näme\"",
    "down",
    "untouched",
    "parked",
    "small",
    "other.free",
];

#[tokio::test(flavor = "multi_thread")]
async fn green_gives_the_next_value_that_blue_would_have_given() {
    let server = Postgres::start().await;
    let blue = server.database("blue", SCHEMA).await;
    let green = server.database("green", SCHEMA).await;
    let session = blue.open().await;
    session
        .batch_execute(
            "INSERT INTO owned SELECT FROM generate_series(1, 41); \
             INSERT INTO identity DEFAULT VALUES; \
             SELECT nextval('free') FROM generate_series(1, 1000); \
             SELECT nextval('\"Odd \"\"näme\"'); SELECT nextval('down'); SELECT nextval('down'); \
             SELECT setval('parked', 50, false); SELECT setval('small', 32767); \
             SELECT setval('other.free', 9, true); \
             SELECT nextval('many_' || i) FROM generate_series(1, 700) i",
        )
        .await
        .unwrap();
    // Green was used by somebody: it has to come to blue's value from above, too.
    green.open().await.batch_execute("SELECT setval('untouched', 5000)").await.unwrap();

    let sequences = PostgresSequences::new(blue.info(), green.info(), Direction::Forward);
    let checks = sequences.inspect(false).await.unwrap();
    assert!(checks.iter().all(|check| check.severity == Severity::Ok), "{checks:#?}");
    let report = sequences.carry_ahead(deadline()).await.unwrap();
    assert_eq!(report.count, 1509);
    // What moves behind it, called or not, is left to the pause.
    session
        .batch_execute("SELECT nextval('free'); SELECT setval('parked', 60, false)")
        .await
        .unwrap();
    let report = sequences.copy(deadline()).await.unwrap();
    assert_eq!(report.count, 1509);
    // Again: the same.
    sequences.copy(deadline()).await.unwrap();

    let other = green.open().await;
    for name in NAMES {
        let state = format!("SELECT last_value || ' ' || is_called FROM {name}");
        assert_eq!(text(&session, &state).await, text(&other, &state).await, "{name}");
        let next = format!("SELECT nextval('{}')", name.replace('\'', "''"));
        assert_eq!(text(&session, &next).await, text(&other, &next).await, "{name}");
    }
    assert_eq!(number(&other, "SELECT nextval('many_700')").await, 2);
    assert_eq!(number(&other, "SELECT nextval('many_701')").await, 1);
}

/// A statement locks each sequence that it names. Servers of stock settings have room for fewer.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_fit_into_the_locks_of_stock_settings() {
    let many = "DO $$ BEGIN FOR i IN 1..10 LOOP FOR j IN 1..1000 LOOP \
        EXECUTE format('CREATE SEQUENCE many_%s_%s', i, j); END LOOP; COMMIT; END LOOP; END $$";
    let server = Postgres::start().await;
    let blue = server.database("blue", many).await;
    let green = server.database("green", many).await;
    let session = blue.open().await;
    for i in 1..=10 {
        let call = format!("SELECT nextval('many_{i}_' || j) FROM generate_series(1, 700) j");
        session.batch_execute(&call).await.unwrap();
    }
    let sequences = PostgresSequences::new(blue.info(), green.info(), Direction::Forward);
    let checks = sequences.inspect(false).await.unwrap();
    assert!(checks.iter().all(|check| check.severity == Severity::Ok), "{checks:#?}");
    assert_eq!(sequences.carry_ahead(deadline()).await.unwrap().count, 10_000);
    assert_eq!(sequences.copy(deadline()).await.unwrap().count, 10_000);
    let other = green.open().await;
    assert_eq!(number(&other, "SELECT nextval('many_10_700')").await, 2);
    assert_eq!(number(&other, "SELECT nextval('many_10_701')").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_green_lacks_is_found_beforehand() {
    let server = Postgres::start().await;
    let blue = server.database("blue", "CREATE SEQUENCE one; CREATE SEQUENCE two").await;
    let green = server.database("green", "CREATE SEQUENCE two INCREMENT 2").await;
    let sequences = PostgresSequences::new(blue.info(), green.info(), Direction::Forward);
    let checks = sequences.inspect(false).await.unwrap();
    let found: Vec<_> = checks.iter().map(|check| (check.name.as_str(), check.severity)).collect();
    assert_eq!(
        found,
        [("sequences-missing", Severity::Fail), ("sequences-differ", Severity::Warn)]
    );
    let error = sequences.copy(deadline()).await.unwrap_err();
    assert!(error.what.contains("one"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_green_that_is_read_only_by_default_is_found_and_its_sequences_can_be_set() {
    let server = Postgres::start().await;
    let blue = server.database("blue", "CREATE SEQUENCE one; SELECT setval('one', 7)").await;
    let green = server.database("green", "CREATE SEQUENCE one").await;
    let admin = server.info("postgres").open().await;
    admin
        .batch_execute(
            "CREATE ROLE reader; ALTER ROLE reader SET default_transaction_read_only = on; \
             CREATE ROLE app; ALTER ROLE app IN DATABASE green SET default_transaction_read_only = 'Yes'; \
             ALTER ROLE app IN DATABASE green SET search_path = 'x'; \
             ALTER DATABASE green SET default_transaction_read_only = on",
        )
        .await
        .unwrap();
    let sequences = PostgresSequences::new(blue.info(), green.info(), Direction::Forward);
    let checks = sequences.inspect(false).await.unwrap();
    let fixes: Vec<_> = checks.iter().filter_map(|check| check.fix.as_deref()).collect();
    assert_eq!(
        fixes,
        [
            "ALTER DATABASE \"green\" RESET default_transaction_read_only on green",
            "ALTER ROLE \"app\" IN DATABASE \"green\" RESET default_transaction_read_only on green",
        ],
        "{checks:#?}"
    );
    assert_eq!(sequences.copy(deadline()).await.unwrap().count, 1);
    assert_eq!(number(&green.open().await, "SELECT last_value FROM one").await, 7);
    // And the server as a whole.
    admin.batch_execute("ALTER DATABASE green RESET default_transaction_read_only").await.unwrap();
    admin.simple_query("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    admin.simple_query("SELECT pg_reload_conf()").await.unwrap();
    super::support::until("the server says so", || async {
        let checks = PostgresSequences::new(blue.info(), green.info(), Direction::Forward)
            .inspect(false)
            .await
            .unwrap();
        checks.iter().any(|check| check.evidence.contains("the server"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_green_lacks_takes_its_sequences_with_it() {
    let server = Postgres::start().await;
    // Any relation may belong to any extension.
    let schema = "CREATE SEQUENCE shared; CREATE SEQUENCE own; \
        ALTER EXTENSION plpgsql ADD SEQUENCE shared; SELECT setval('own', 3)";
    let more = "CREATE SEQUENCE gone; ALTER EXTENSION plpgsql ADD SEQUENCE gone; \
        SELECT setval('shared', 9)";
    let blue = server.database("blue", &format!("{schema}; {more}")).await;
    let green = server.database("green", schema).await;
    let sequences = PostgresSequences::new(blue.info(), green.info(), Direction::Forward);
    let checks = sequences.inspect(false).await.unwrap();
    assert!(checks.iter().all(|check| check.severity == Severity::Ok), "{checks:#?}");
    assert_eq!(sequences.copy(deadline()).await.unwrap().count, 2);
    assert_eq!(number(&green.open().await, "SELECT last_value FROM shared").await, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_verdict_wins_whoever_gives_it() {
    let server = Postgres::start().await;
    let green = server.database("green", "SELECT 1").await;
    let decision = PostgresDecision::new(green.info(), Side::Green);
    assert_eq!(decision.last_epoch().await.unwrap(), Epoch(0));
    decision.prepare().await.unwrap();
    decision.prepare().await.unwrap();
    assert_eq!(decision.read(Epoch(1), deadline()).await.unwrap(), None);
    let commit = |epoch| decision.commit(Epoch(epoch), Lsn(1), deadline());
    let abort = |epoch| decision.abort(Epoch(epoch), deadline());
    assert_eq!(commit(1).await.unwrap(), Verdict::Commit);
    assert_eq!(abort(1).await.unwrap(), Verdict::Commit);
    assert_eq!(abort(2).await.unwrap(), Verdict::Abort);
    assert_eq!(commit(2).await.unwrap(), Verdict::Abort);
    assert_eq!(decision.last_epoch().await.unwrap(), Epoch(2));
    // Two at once, many times: both are told the same.
    let other = PostgresDecision::new(green.info(), Side::Green);
    for epoch in 10..60 {
        let (one, two) = tokio::join!(
            decision.commit(Epoch(epoch), Lsn(1), deadline()),
            other.abort(Epoch(epoch), deadline()),
        );
        assert_eq!(one.unwrap(), two.unwrap());
    }
}

/// Behind green's name there is another server, or the same one without its last rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_needs_the_session_that_was_there_before_the_drain() {
    let server = Postgres::start().await;
    let green = server.database("green", "SELECT 1").await;
    let decision = PostgresDecision::new(green.info(), Side::Green);
    decision.prepare().await.unwrap();
    let commit = |epoch| decision.commit(Epoch(epoch), Lsn(1), deadline());
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name = 'cutover decision'";
    let gone =
        "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'cutover decision'";
    let operator = green.open().await;
    operator.batch_execute(end).await.unwrap();
    until("the session to have ended", || async {
        text(&operator, gone).await.as_deref() == Some("0")
    })
    .await;
    // A first statement may still find out that the session is gone.
    let _ = decision.read(Epoch(1), deadline()).await;
    let refused = commit(1).await.unwrap_err();
    assert!(!refused.in_doubt && refused.what.contains("was lost"), "{refused}");
    assert_eq!(decision.read(Epoch(1), deadline()).await.unwrap(), None);
    let verdict = decision.abort(Epoch(1), deadline()).await.unwrap();
    assert_eq!(verdict, Verdict::Abort, "going back needs no session of before");
    decision.prepare().await.unwrap();
    assert_eq!(commit(2).await.unwrap(), Verdict::Commit);
}

/// A plan that asks for parallel workers fails there on versions before 13.
#[tokio::test(flavor = "multi_thread")]
async fn sequences_of_a_closed_database_are_read() {
    let server = Postgres::of("10").await;
    let blue = server.database("blue", SCHEMA).await;
    let green = server.database("green", SCHEMA).await;
    let outside = server.info("postgres").open().await;
    for setting in ["min_parallel_table_scan_size", "parallel_setup_cost", "parallel_tuple_cost"] {
        let set = format!("ALTER DATABASE blue SET {setting} = 0");
        outside.batch_execute(&set).await.unwrap();
    }
    let sequences = PostgresSequences::new(blue.info(), green.info(), Direction::Forward);
    sequences.carry_ahead(deadline()).await.unwrap();
    blue.open().await.batch_execute("SELECT nextval('free'), nextval('free')").await.unwrap();
    outside.batch_execute("ALTER DATABASE blue ALLOW_CONNECTIONS false").await.unwrap();
    sequences.copy(deadline()).await.unwrap();
    let green = green.open().await;
    assert_eq!(number(&green, "SELECT last_value FROM free").await, 2);
}
