//! Sessions that want to come in behind the fence, by every door that a client may find.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::support::until;

/// Every login is refused, and nothing that was tried from elsewhere has left a trace.
async fn all_are_refused(blue: &Blue, raised: &Raised, when: &str) {
    let options = "&options=-c%20default_transaction_read_only%3Doff";
    let logins = [
        (blue.server.login("app", "shop"), "app"),
        (Login(format!("{}{options}", blue.server.login("app", "shop").0)), "app"),
        (blue.server.login("rw_role", "shop"), "app"),
        (blue.server.login("boss", "shop"), "app"),
        (Login(format!("{}{options}", blue.server.login("boss", "shop").0)), "app"),
        (blue.login.clone(), "app"),
        (blue.login.clone(), "cutover fence of shop"),
        (blue.server.login("fresh", "shop"), "app"),
    ];
    for (login, name) in &logins {
        assert_eq!(blue.refused(login, name).await, "55000", "{} {when}", login.0);
    }
    let dblink = format!(
        "SELECT dblink_exec('host=127.0.0.1 port={} user=boss dbname=shop', \
         'INSERT INTO u (who) VALUES (''dblink'')')",
        blue.server.port
    );
    assert!(blue.outside.batch_execute(&dblink).await.is_err(), "dblink {when}");
    // Not from here: a prepared transaction belongs to its database.
    assert!(blue.outside.batch_execute("COMMIT PREPARED 'late'").await.is_err());
    assert_eq!(blue.traces().await, raised.traces, "{when}");
    assert_eq!(blue.clients_inside().await, 0, "{when}");
}

async fn nobody_comes_in(major: &str) {
    let blue = Blue::start(
        major,
        "postgres",
        "CREATE ROLE rw_role LOGIN; ALTER ROLE rw_role SET default_transaction_read_only = off; \
         CREATE EXTENSION dblink",
    )
    .await;
    // Superusers, many, who do nothing but connect and write to what is not replicated.
    let stop = Arc::new(AtomicBool::new(false));
    let (tries, writes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let storm: Vec<_> = (0..45)
        .map(|_| {
            let login = blue.server.login("boss", "shop");
            let (stop, tries, writes) = (stop.clone(), tries.clone(), writes.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    tries.fetch_add(1, Ordering::SeqCst);
                    let Ok(session) = connect_plain(&login.info(), "storm").await else { continue };
                    let write = "BEGIN READ WRITE; SELECT nextval('s'); COMMIT";
                    if session.batch_execute(write).await.is_ok() {
                        writes.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    until("the storm writes", || async { writes.load(Ordering::SeqCst) > 50 }).await;
    let raised = blue.raise().await;
    let written = writes.load(Ordering::SeqCst);
    let goal = tries.load(Ordering::SeqCst) + 200;
    until("the storm goes on", || async { tries.load(Ordering::SeqCst) >= goal }).await;
    assert_eq!(writes.load(Ordering::SeqCst), written);

    // A new role, with every right, made where nobody can keep anybody from it.
    blue.outside.batch_execute("CREATE ROLE fresh LOGIN SUPERUSER").await.unwrap();
    all_are_refused(&blue, &raised, "after the marker").await;
    blue.seal(&raised).await.unwrap();
    all_are_refused(&blue, &raised, "after the seal").await;
    stop.store(true, Ordering::SeqCst);
    for task in storm {
        task.await.unwrap();
    }
    blue.outside.batch_execute("DROP ROLE fresh").await.unwrap();
    blue.lower(&raised).await;
}

on_versions! { nobody_comes_in:
    nobody_comes_in_on_10 = "10",
    nobody_comes_in_on_13 = "13",
    nobody_comes_in_on_15 = "15",
    nobody_comes_in_on_16 = "16",
    nobody_comes_in_on_17 = "17",
    nobody_comes_in_on_18 = "18",
}
