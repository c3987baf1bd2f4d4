//! The router, switched by hand: what the product must do at least as well.

use std::time::Duration;

use anyhow::Result;
use tests::ledger::{self, Ledger, Options};
use tests::pgbouncer::PgBouncer;
use tests::postgres::Postgres;

#[tokio::test(flavor = "multi_thread")]
async fn pause_reload_resume_is_not_noticed_by_clients() -> Result<()> {
    let server = Postgres::start_major(15)?;
    server.create_role("app").await?;
    for database in ["shop", "shop2"] {
        server.execute("postgres", &format!("CREATE DATABASE {database} OWNER app")).await?;
    }
    let router = PgBouncer::builder(&server, "shop").user("app").start()?;
    assert_eq!(router.target_port().await?, server.port());

    let app = tests::postgres::connect_url(&server.url_as("app", "shop")).await?;
    ledger::prepare(&app, 20).await?;
    drop(app);
    let options = Options { clients: 4, accounts: 20, ..Options::new(router.url_as("app")) };
    let mut ledger = Ledger::start(options)?;
    ledger.more_acknowledged(50, Duration::from_secs(20)).await?;

    router.admin("PAUSE shop").await?;
    // The other database is a copy as of now: nobody writes while the router is paused.
    server.execute("postgres", "DROP DATABASE shop2").await?;
    server.execute("postgres", "CREATE DATABASE shop2 TEMPLATE shop OWNER app").await?;
    let ini = std::fs::read_to_string(router.config_file())?;
    std::fs::write(router.config_file(), ini.replace("dbname=shop", "dbname=shop2"))?;
    router.admin("RELOAD").await?;
    router.admin("RESUME shop").await?;
    ledger.more_acknowledged(50, Duration::from_secs(20)).await?;

    let moved = ledger.check(&server.url("shop2")).await?;
    moved.ensure_unnoticed()?;
    assert!(moved.acknowledged >= 100, "{moved}");
    let left = ledger.check(&server.url("shop")).await?;
    assert!(left.lost >= 50, "writes after the switch are only in the new database: {left}");
    Ok(())
}
