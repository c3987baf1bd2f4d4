//! Whose a closed side is: only its closer's acts change it.

use cutover::fence::{PostgresFence, PostgresUndo};
use cutover::lease::{PostgresLease, Tenant};
use cutover::ports::{Epoch, Fence, Lease, LeaseRow, PortError};
use cutover::{Side, api::Severity};

use super::fence::settings;
use super::support::{Login, Postgres, deadline, text};

const SCHEMA: &str = "CREATE TABLE a (id int PRIMARY KEY); CREATE PUBLICATION move FOR ALL TABLES";

fn tenant(holder: &str) -> Tenant {
    Tenant { pipeline: "shop".into(), holder: holder.into() }
}

fn of(login: &Login, holder: &str) -> PostgresFence {
    PostgresFence::new(login.info(), "move").leased_to(tenant(holder))
}

async fn prepared(fence: &PostgresFence, run: &str, epoch: u64) -> PostgresUndo {
    fence.signed(fence.prepare().await.unwrap(), run, Epoch(epoch))
}

async fn raise(fence: &PostgresFence, undo: &PostgresUndo) {
    fence.raise(undo, deadline()).await.unwrap();
}

/// Whatever it tries, nothing changes, and it is told who is in the way.
async fn changes_nothing(fence: &PostgresFence, undo: &PostgresUndo, outside: &Login, who: &str) {
    let before = settings_of(undo, outside).await;
    let refused = |error: PortError| {
        assert!(error.is_superseded(), "{error}");
        assert!(error.what.contains(who), "{error}");
    };
    refused(fence.lower(undo, deadline()).await.unwrap_err());
    refused(fence.reseal(undo, deadline()).await.unwrap_err());
    refused(fence.still_ours(undo, deadline()).await.unwrap_err());
    assert_eq!(settings_of(undo, outside).await, before);
}

async fn settings_of(undo: &PostgresUndo, outside: &Login) -> String {
    let session = outside.open().await;
    let query = format!(
        "SELECT concat_ws(' | ', d.datallowconn, d.datacl, d.xmin, \
                pg_catalog.shobj_description(d.oid, 'pg_database'), (SELECT string_agg(concat( \
                rolname, rolcanlogin, pg_catalog.shobj_description(oid, 'pg_authid')), ' ' \
                ORDER BY rolname) FROM pg_roles)) FROM pg_database d WHERE datname = '{}'",
        undo.database
    );
    text(&session, &query).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_another_run_has_closed_stays_as_it_is() {
    let server = Postgres::start().await;
    let blue = server.database("shop", SCHEMA).await;
    let outside = server.info("postgres");
    let comment = r"COMMENT ON DATABASE shop IS E'in production\nask Ann''s \\team'";
    outside.open().await.batch_execute(comment).await.unwrap();
    let before = settings(&blue, &outside).await;

    // The first is lost with its fence up.
    let first = of(&blue, "host-1:/a");
    let lost = prepared(&first, "aaaa", 4).await;
    raise(&first, &lost).await;
    assert!(
        text(
            &outside.open().await,
            "SELECT shobj_description(oid, 'pg_database') \
        FROM pg_database WHERE datname = 'shop'"
        )
        .await
        .unwrap()
        .starts_with("in production\n")
    );

    // Another one finds it, with all that opening it takes, and without the first's state directory.
    let second = of(&blue, "host-2:/b");
    let own = PostgresUndo { claim: None, ..lost.clone() };
    let own = second.signed(own, "bbbb", Epoch(4));
    changes_nothing(&second, &own, &outside, "host-1:/a").await;
    let found = second.claimed(deadline()).await.unwrap().unwrap();
    assert_eq!(Some(&found.claim), lost.claim.as_ref());
    second.lower(&found.undo, deadline()).await.unwrap();
    assert_eq!(settings(&blue, &outside).await, before);
    assert!(second.claimed(deadline()).await.unwrap().is_none());

    // It closes it for a run of its own; the first comes back and knows nothing of that.
    let undo = prepared(&second, "bbbb", 5).await;
    raise(&second, &undo).await;
    second.leave().await;
    for back in [first, of(&blue, "host-1:/a")] {
        changes_nothing(&back, &lost, &outside, "host-2:/b").await;
        let closed = back.airlock(&lost, deadline()).await.unwrap_err();
        assert!(closed.is_superseded(), "{closed}");
        assert_eq!(blue_door(&outside).await, "f");
    }
    // Nor does an older state of the same directory, nor a version that knows no claims.
    let older = second.signed(undo.clone(), "9999", Epoch(3));
    changes_nothing(&second, &older, &outside, "host-2:/b").await;
    let unsigned = PostgresUndo { claim: None, ..undo.clone() };
    changes_nothing(&PostgresFence::new(blue.info(), "move"), &unsigned, &outside, "host-2").await;

    // Its own next life lets itself in, closes behind itself, and puts everything back.
    let next = of(&blue, "host-2:/b");
    let guard = next.airlock(&undo, deadline()).await.unwrap();
    blue.open().await;
    drop(guard);
    super::support::until("the door is closed", || async { blue_door(&outside).await == "f" })
        .await;
    next.lower(&undo, deadline()).await.unwrap();
    assert_eq!(settings(&blue, &outside).await, before);
    // Once more, and by who was first: there is nothing to do, and nothing is done.
    next.lower(&undo, deadline()).await.unwrap();
    of(&blue, "host-1:/a").lower(&lost, deadline()).await.unwrap();
    let reopened = next.reseal(&undo, deadline()).await.unwrap_err();
    assert!(reopened.is_superseded(), "who has opened it has it open: {reopened}");
    assert_eq!(settings(&blue, &outside).await, before);
}

async fn blue_door(outside: &Login) -> String {
    let query = "SELECT datallowconn::text::char(1) FROM pg_database WHERE datname = 'shop'";
    text(&outside.open().await, query).await.unwrap()
}

/// Opened by hand, and the comment forgotten: the next run says what to type.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_left_is_a_finding() {
    let server = Postgres::start().await;
    let blue = server.database("shop", SCHEMA).await;
    let outside = server.info("postgres").open().await;
    let fence = of(&blue, "host-1:/a");
    let undo = prepared(&fence, "aaaa", 1).await;
    raise(&fence, &undo).await;
    fence.leave().await;
    let open = "ALTER DATABASE shop ALLOW_CONNECTIONS true";
    outside.batch_execute(open).await.unwrap();
    outside.batch_execute("ALTER DATABASE shop RESET default_transaction_read_only").await.unwrap();
    let claim = |checks: Vec<cutover::api::Check>| {
        checks.into_iter().find(|check| check.name == "fence-claim").unwrap()
    };
    let next = of(&blue, "host-1:/a");
    let found = claim(next.inspect().await.unwrap());
    assert_eq!(found.severity, Severity::Fail);
    let fix = found.fix.unwrap();
    let (_, statement) = fix.split_once("then: ").unwrap();
    outside.batch_execute(statement).await.unwrap();
    assert_eq!(claim(next.inspect().await.unwrap()).severity, Severity::Ok);
}

async fn roles_say_whose_they_are(major: &str) {
    let server = Postgres::of(major).await;
    let shop = server.database("shop", SCHEMA).await;
    let outside = server.info("postgres");
    let admin = outside.open().await;
    for statement in [
        "CREATE ROLE app LOGIN",
        "COMMENT ON ROLE app IS 'the shop'",
        "CREATE ROLE mover LOGIN CREATEROLE",
        "GRANT pg_signal_backend, pg_read_all_stats TO mover",
    ] {
        admin.batch_execute(statement).await.unwrap();
    }
    if major.parse::<u32>().unwrap() >= 16 {
        admin.batch_execute("GRANT app TO mover WITH ADMIN OPTION").await.unwrap();
    }
    shop.open().await.batch_execute("GRANT UPDATE ON a TO mover").await.unwrap();
    let before = settings(&shop, &outside).await;
    let login = server.login("mover", "shop");
    let (first, second) = (of(&login, "host-1:/a"), of(&login, "host-2:/b"));
    let lost = prepared(&first, "aaaa", 4).await;
    assert_eq!(lost.roles, ["app"]);
    raise(&first, &lost).await;
    first.leave().await;
    let own = second.signed(PostgresUndo { claim: None, ..lost.clone() }, "bbbb", Epoch(4));
    changes_nothing(&second, &own, &outside, "host-1:/a").await;
    let found = second.claimed(deadline()).await.unwrap().unwrap();
    second.lower(&found.undo, deadline()).await.unwrap();
    assert_eq!(settings(&shop, &outside).await, before);
    let undo = prepared(&second, "bbbb", 5).await;
    raise(&second, &undo).await;
    second.leave().await;
    changes_nothing(&first, &lost, &outside, "host-2:/b").await;
    second.lower(&undo, deadline()).await.unwrap();
    assert_eq!(settings(&shop, &outside).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_say_whose_they_are_on_15() {
    roles_say_whose_they_are("15").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_say_whose_they_are_on_17() {
    roles_say_whose_they_are("17").await;
}

/// The lease of a dead one goes over to who ends its run, and to nobody while it lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_inherited_from_exactly_its_run() {
    let server = Postgres::start().await;
    let green = server.database("green", "SELECT").await;
    let lease = |holder: &str| PostgresLease::new(green.info(), Side::Green, tenant(holder));
    let row = |epoch, holder: &str| LeaseRow { epoch: Epoch(epoch), holder: holder.into() };
    let second = lease("two");
    assert_eq!(second.look(deadline()).await.unwrap(), None, "there is no table yet");
    assert!(!second.inherit(&row(7, "one")).await.unwrap());
    let first = lease("one");
    first.acquire(Epoch(7)).await.unwrap();
    let alive = second.inherit(&row(7, "one")).await.unwrap_err();
    assert!(alive.is_superseded() && alive.what.contains("one"), "{alive}");
    assert!(!second.inherit(&row(6, "one")).await.unwrap(), "another run");
    assert!(!second.inherit(&row(7, "three")).await.unwrap(), "another sidecar");
    assert_eq!(second.look(deadline()).await.unwrap(), Some(row(7, "one")));
    drop(first);
    assert!(second.inherit(&row(7, "one")).await.unwrap());
    assert_eq!(second.look(deadline()).await.unwrap(), Some(row(7, "two")));
    // Its next life goes on with it.
    assert!(lease("two").inherit(&row(7, "one")).await.unwrap());
}
