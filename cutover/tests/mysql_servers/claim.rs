//! Whose a closed server is, and what is left by who died while it acted.

use cutover::api::Severity;
use cutover::fence::{MysqlFence, MysqlUndo};
use cutover::lease::Tenant;
use cutover::ports::{Epoch, Fence, PortError};
use decoders::mysql::server::{ServerUrl, connect};
use mysql_async::prelude::Queryable;

use super::cut::{Cut, Moment};
use super::support::{Site, Version, deadline, open, settings};

fn of(url: ServerUrl, holder: &str) -> MysqlFence {
    let tenant = Tenant { pipeline: "shop".into(), holder: holder.into() };
    MysqlFence::new(url).leased_to(tenant)
}

async fn prepared(fence: &MysqlFence, run: &str, epoch: u64) -> MysqlUndo {
    fence.signed(fence.prepare().await.unwrap(), run, Epoch(epoch))
}

/// Whatever it tries, nothing changes, and it is told who is in the way.
async fn changes_nothing(fence: &MysqlFence, undo: &MysqlUndo, site: &Site, who: &str) {
    let before = settings(site).await;
    let refused = |error: PortError| {
        assert!(error.is_superseded(), "{error}");
        assert!(error.what.contains(who), "{error}");
    };
    refused(fence.raise(undo, deadline()).await.unwrap_err());
    refused(fence.lower(undo, deadline()).await.unwrap_err());
    refused(fence.reseal(undo, deadline()).await.unwrap_err());
    refused(fence.still_ours(undo, deadline()).await.unwrap_err());
    assert_eq!(settings(site).await, before);
}

async fn a_side_that_another_run_has_closed_stays_as_it_is(version: Version) {
    let site = Site::start(version);
    let before = settings(&site).await;

    // The first is lost with its fence up.
    let first = of(site.mover(), "host-1:/a");
    let lost = prepared(&first, "aaaa", 4).await;
    first.raise(&lost, deadline()).await.unwrap();

    // Another one finds it, with all that opening it takes, and without the first's state directory.
    let second = of(site.mover(), "host-2:/b");
    let own = second.signed(MysqlUndo { claim: None, ..lost.clone() }, "bbbb", Epoch(4));
    changes_nothing(&second, &own, &site, "host-1:/a").await;
    let found = second.claimed(deadline()).await.unwrap().unwrap();
    assert_eq!((Some(&found.claim), &found.undo), (lost.claim.as_ref(), &lost));
    second.lower(&found.undo, deadline()).await.unwrap();
    assert_eq!(settings(&site).await, before);
    assert!(second.claimed(deadline()).await.unwrap().is_none());

    // It closes it for a run of its own; the first comes back and knows nothing of that.
    let undo = prepared(&second, "bbbb", 5).await;
    second.raise(&undo, deadline()).await.unwrap();
    second.leave().await;
    changes_nothing(&first, &lost, &site, "host-2:/b").await;
    changes_nothing(&of(site.mover(), "host-1:/a"), &lost, &site, "host-2:/b").await;
    // Nor does an older state of the same directory, nor somebody without a lease.
    let older = second.signed(undo.clone(), "9999", Epoch(3));
    changes_nothing(&second, &older, &site, "host-2:/b").await;
    let unsigned = MysqlUndo { claim: None, ..undo.clone() };
    changes_nothing(&MysqlFence::new(site.mover()), &unsigned, &site, "host-2:/b").await;
    let checks = second.inspect().await.unwrap();
    let claim = checks.iter().find(|check| check.name == "fence-claim").unwrap();
    assert_eq!(claim.severity, Severity::Fail, "{claim:?}");

    // Its own next life finds it closed, and puts everything back.
    let next = of(site.mover(), "host-2:/b");
    next.still_ours(&undo, deadline()).await.unwrap();
    next.reseal(&undo, deadline()).await.unwrap();
    next.lower(&undo, deadline()).await.unwrap();
    assert_eq!(settings(&site).await, before);
    // Once more, and by who was first: there is nothing to do, and nothing is done.
    next.lower(&undo, deadline()).await.unwrap();
    of(site.mover(), "host-1:/a").lower(&lost, deadline()).await.unwrap();
    let reopened = next.reseal(&undo, deadline()).await.unwrap_err();
    assert!(reopened.is_superseded(), "who has opened it has it open: {reopened}");
    assert_eq!(settings(&site).await, before);
}

/// Closed, or half closed: it says by whom.
async fn says_by_whom(site: &Site, before: &str, at: &str) {
    let fence = of(site.mover(), "host-1:/a");
    let found = fence.claimed(deadline()).await.unwrap();
    assert!(found.is_some() || settings(site).await == before, "{at}: closed by nobody");
}

async fn who_dies_at_any_statement_leaves_what_the_next_life_puts_back(version: Version) {
    let site = Site::start(version);
    let port = site.server.port();
    let before = settings(&site).await;
    let direct = of(site.mover(), "host-1:/a");
    let mut deaths = [0; 4];
    for (act, moment) in [
        ("raise", Moment::Unsent),
        ("raise", Moment::Unanswered),
        ("lower", Moment::Unsent),
        ("lower", Moment::Unanswered),
    ]
    .into_iter()
    .enumerate()
    .map(|(at, (act, moment))| ((at, act), moment))
    {
        for passing in 0.. {
            let at = format!("{} cut at statement {passing}, {moment:?}", act.1);
            let undo = prepared(&direct, "aaaa", 4).await;
            if act.1 == "lower" {
                direct.raise(&undo, deadline()).await.unwrap();
            }
            let cut = Cut::after(passing, moment, port).await;
            let dying = of(site.mover_at(cut.port), "host-1:/a");
            let done = match act.1 {
                "raise" => dying.raise(&undo, deadline()).await.map(|_| ()),
                _ => dying.lower(&undo, deadline()).await,
            };
            // At the very last statement, which lets go of the lock, all is done.
            assert!(done.is_ok() || cut.is_cut(), "{at}: {done:?}");
            deaths[act.0] += usize::from(cut.is_cut());
            says_by_whom(&site, &before, &at).await;
            let next = of(site.mover(), "host-1:/a");
            next.lower(&undo, deadline()).await.unwrap_or_else(|error| panic!("{at}: {error}"));
            assert_eq!(settings(&site).await, before, "{at}");
            let mut app =
                connect(&site.app()).await.unwrap_or_else(|error| panic!("{at}: {error}"));
            app.query_drop("INSERT INTO shop.a (who) VALUES ('open')").await.unwrap();
            if !cut.is_cut() {
                break;
            }
        }
    }
    println!("{version:?} died at {deaths:?} statements");
    assert!(deaths.iter().all(|deaths| *deaths > 10), "{deaths:?}");
    open(&site.boss()).await;
}

on_all_servers!(
    a_side_that_another_run_has_closed_stays_as_it_is,
    who_dies_at_any_statement_leaves_what_the_next_life_puts_back,
);
