//! Without the right to close the database: roles lose LOGIN, and what superusers do is counted.

use super::*;
use crate::support::until;

async fn roles_are_locked_out(major: &str) {
    let admin = if major.parse::<u32>().unwrap() >= 16 {
        "GRANT app TO mover WITH ADMIN OPTION"
    } else {
        ""
    };
    let setup = format!(
        "CREATE ROLE mover LOGIN CREATEROLE; GRANT pg_signal_backend, pg_read_all_stats TO mover; \
         ALTER SYSTEM SET autovacuum = off; {admin}"
    );
    // ALTER SYSTEM wants to be alone.
    let parts: Vec<_> = setup.split("; ").collect();
    let blue = Blue::start(major, "mover", parts[0]).await;
    for part in &parts[1..] {
        blue.outside.batch_execute(part).await.unwrap();
    }
    blue.outside.batch_execute("SELECT pg_reload_conf()").await.unwrap();

    // Whoever else uses our own role can't be locked out.
    let name = "fence-own-role";
    let found = |checks: Vec<cutover::api::Check>| {
        checks.into_iter().find(|check| check.name == name).unwrap().severity
    };
    assert_eq!(found(blue.fence.inspect().await.unwrap()), cutover::api::Severity::Ok);
    let namesake = blue.client("mover").await;
    assert_eq!(found(blue.fence.inspect().await.unwrap()), cutover::api::Severity::Fail);
    drop(namesake);
    until("nobody is inside", || async { blue.clients_inside().await == 0 }).await;

    // Nobody else: a seal as good as the other one.
    let client = blue.client("app").await;
    let raised = blue.raise().await;
    assert_eq!(raised.undo.roles, ["app"]);
    assert!(client.batch_execute("SELECT 1").await.is_err());
    assert_eq!(blue.refused(&blue.server.login("app", "shop"), "app").await, "28000");
    blue.seal(&raised).await.unwrap();
    assert_eq!(blue.refused(&blue.server.login("app", "shop"), "app").await, "28000");
    blue.lower(&raised).await;

    // A superuser comes and goes.
    let raised = blue.raise().await;
    let boss = blue.client("boss").await;
    boss.batch_execute("BEGIN; SELECT lo_create(4711); SELECT lo_unlink(4711); COMMIT")
        .await
        .unwrap();
    drop(boss);
    until("nobody is inside", || async { blue.clients_inside().await == 0 }).await;
    let error = blue.seal(&raised).await.unwrap_err();
    assert!(error.contains("1 transactions on blue's server are not ours"), "{error}");
    blue.lower(&raised).await;

    // To make a role that may log in takes a transaction.
    let raised = blue.raise().await;
    blue.outside.batch_execute("CREATE ROLE fresh LOGIN").await.unwrap();
    let error = blue.seal(&raised).await.unwrap_err();
    assert!(error.contains("are not ours"), "{error}");
    blue.outside.batch_execute("DROP ROLE fresh").await.unwrap();
    blue.lower(&raised).await;
}

on_versions! { roles_are_locked_out:
    roles_are_locked_out_on_10 = "10",
    roles_are_locked_out_on_13 = "13",
    roles_are_locked_out_on_15 = "15",
    roles_are_locked_out_on_16 = "16",
    roles_are_locked_out_on_17 = "17",
    roles_are_locked_out_on_18 = "18",
}
