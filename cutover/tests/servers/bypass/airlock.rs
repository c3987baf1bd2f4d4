//! Our own sessions come in while blue is closed, and nobody else does.

use cutover::fence::Door;

use super::*;
use crate::support::until;

/// Who may connect, whatever the order.
const GRANTS: &str = "SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM pg_database d, \
    aclexplode(coalesce(datacl, acldefault('d', datdba))) x WHERE datname = 'shop'";

/// `mover` is a member of the owner; clients are the owner itself, roles with grants of their own,
/// and everybody.
const SETUP: &str = "CREATE ROLE own LOGIN; CREATE ROLE mover LOGIN; CREATE ROLE granter LOGIN; \
    CREATE ROLE late LOGIN; GRANT own, granter, pg_signal_backend, pg_read_all_stats TO mover; \
    ALTER DATABASE shop OWNER TO own; GRANT CONNECT ON DATABASE shop TO granter WITH GRANT OPTION; \
    SET ROLE granter; GRANT CONNECT ON DATABASE shop TO late; RESET ROLE";

async fn only_we_come_in(major: &str) {
    let blue = Blue::start(major, "mover", SETUP).await;
    let door = blue.fence.door();
    let server = &blue.server;
    let grants = text(&blue.outside, GRANTS).await.unwrap();
    assert!(!door.enter().await.unwrap().is_needed(), "an open side needs no airlock");

    let raised = blue.raise().await;
    let sealed = || async { blue.refused(&blue.login, "cutover lane").await };
    assert_eq!(sealed().await, "55000");
    let (first, second) = (door.enter().await.unwrap(), door.enter().await.unwrap());
    assert!(first.is_needed() && second.is_needed());
    let lane = blue.login.open_as_ours("cutover lane").await;
    for role in ["app", "own", "granter", "late"] {
        assert_eq!(blue.refused(&server.login(role, "shop"), "app").await, "42501", "{role}");
    }
    drop(first);
    let other = blue.login.open_as_ours("cutover other lane").await;
    drop(second);
    until("the door is closed", || async {
        connect_plain(&blue.login.info(), "cutover lane").await.is_err()
    })
    .await;
    assert_eq!(sealed().await, "55000");
    lane.batch_execute("SELECT 1").await.unwrap();
    other.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(door.slipped(), 0);
    // Coming in that way is no reason to stop.
    blue.seal(&raised).await.unwrap();

    blue.fence.lower(&raised.undo, deadline()).await.unwrap();
    assert_eq!(text(&blue.outside, GRANTS).await.unwrap(), grants);

    // A client under our own role slips in, once, and is thrown out.
    let raised = blue.raise().await;
    let guard = door.enter().await.unwrap();
    let client = blue.login.open().await;
    drop(guard);
    until("it was seen", || async { door.slipped() == 1 }).await;
    assert!(client.batch_execute("SELECT 1").await.is_err());
    let error = blue.seal(&raised).await.unwrap_err();
    assert!(error.contains("writers again"), "{error}");
    blue.fence.lower(&raised.undo, deadline()).await.unwrap();
    assert_eq!(text(&blue.outside, GRANTS).await.unwrap(), grants);
    for role in ["app", "own", "granter", "late", "mover"] {
        server.login(role, "shop").open().await;
    }
    assert!(!door.enter().await.unwrap().is_needed());

    // A superuser can't be thrown out by us: that is said, and the door is closed all the same.
    let raised = blue.raise().await;
    let guard = door.enter().await.unwrap();
    let boss = blue.client("boss").await;
    drop(guard);
    until("it was seen", || async { door.slipped() > 0 }).await;
    assert_eq!(sealed().await, "55000");
    let error = blue.seal(&raised).await.unwrap_err();
    assert!(error.contains("boss"), "{error}");
    boss.batch_execute("SELECT 1").await.unwrap();
    drop(boss);
    blue.fence.lower(&raised.undo, deadline()).await.unwrap();
    assert_eq!(text(&blue.outside, GRANTS).await.unwrap(), grants);
}

/// A crash while the door is ajar, and one before it was closed at all.
async fn a_seal_is_made_whole(major: &str) {
    let blue = Blue::start(major, "postgres", "").await;
    let raised = blue.raise().await;
    let restarted = || PostgresFence::new(blue.login.info(), "move");
    let fence = restarted();
    let guard = fence.airlock(&raised.undo, deadline()).await.unwrap();
    let slipped = blue.client("boss").await;
    std::mem::forget(guard);

    let fence = restarted();
    fence.reseal(&raised.undo, deadline()).await.unwrap();
    assert!(slipped.batch_execute("SELECT 1").await.is_err());
    assert_eq!(blue.refused(&blue.login, "cutover lane").await, "55000");
    // Whole already; and the airlock of the new life works.
    fence.reseal(&raised.undo, deadline()).await.unwrap();
    let guard = fence.door().enter().await.unwrap();
    assert!(guard.is_needed());
    let lane = blue.login.open_as_ours("cutover lane").await;
    drop(guard);
    until("the door is closed", || async {
        connect_plain(&blue.login.info(), "cutover lane").await.is_err()
    })
    .await;
    lane.batch_execute("SELECT 1").await.unwrap();

    // Putting back while the door is ajar: it stays open.
    let guard = fence.door().enter().await.unwrap();
    fence.lower(&raised.undo, deadline()).await.unwrap();
    drop(guard);
    blue.client("app").await;
    assert!(!fence.door().enter().await.unwrap().is_needed());
    blue.client("app").await;

    // Sealed by a run whose closing never happened.
    fence.reseal(&raised.undo, deadline()).await.unwrap();
    assert_eq!(blue.refused(&blue.login, "app").await, "55000");
    fence.lower(&raised.undo, deadline()).await.unwrap();
    blue.client("app").await;

    // Who believes that it is still sealed does not take it from its clients.
    let guard = fence.airlock(&raised.undo, deadline()).await.unwrap();
    blue.client("app").await;
    drop(guard);
    assert!(!fence.door().enter().await.unwrap().is_needed());
    blue.client("app").await;
}

on_versions! { only_we_come_in:
    only_we_come_in_on_10 = "10",
    only_we_come_in_on_13 = "13",
    only_we_come_in_on_15 = "15",
    only_we_come_in_on_16 = "16",
    only_we_come_in_on_17 = "17",
    only_we_come_in_on_18 = "18",
}

on_versions! { a_seal_is_made_whole:
    a_seal_is_made_whole_on_10 = "10",
    a_seal_is_made_whole_on_15 = "15",
    a_seal_is_made_whole_on_18 = "18",
}
