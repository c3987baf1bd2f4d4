//! The judge must be able to find every kind of damage.

use std::time::{Duration, Instant};

use anyhow::Result;
use tests::ledger::{self, Ledger, LedgerReport, Options};
use tests::pgbouncer::PgBouncer;
use tests::postgres::{Postgres, connect_url};

struct Scene {
    server: Postgres,
    router: PgBouncer,
    ledger: Ledger,
}

impl Scene {
    async fn new() -> Result<Scene> {
        let server = Postgres::start_major(15)?;
        server.create_role("app").await?;
        server.execute("postgres", "CREATE DATABASE shop OWNER app").await?;
        let app = connect_url(&server.url_as("app", "shop")).await?;
        ledger::prepare(&app, 20).await?;
        let router = PgBouncer::builder(&server, "shop")
            .user("app")
            // Default 15 s: the time without a login after one that failed.
            .setting("server_login_retry", "1")
            .start()?;
        let options = Options { clients: 4, accounts: 20, ..Options::new(router.url_as("app")) };
        let ledger = Ledger::start(options)?;
        ledger.more_acknowledged(100, Duration::from_secs(20)).await?;
        Ok(Scene { server, router, ledger })
    }

    async fn check(&mut self) -> Result<LedgerReport> {
        self.ledger.check(&self.server.url("shop")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_damage_is_found() -> Result<()> {
    let mut scene = Scene::new().await?;
    let whole = scene.check().await?;
    whole.ensure_unnoticed()?;
    assert!(whole.acknowledged >= 100);

    let damage = |sql: &'static str| {
        let url = scene.server.url("shop");
        async move {
            let client = connect_url(&url).await?;
            client.batch_execute(sql).await?;
            anyhow::Ok(())
        }
    };

    damage("CREATE TABLE kept AS SELECT * FROM ledger.entries WHERE client = 1 AND seq = 3")
        .await?;
    damage("DELETE FROM ledger.entries WHERE client = 1 AND seq = 3").await?;
    let report = scene.ledger.check(&scene.server.url("shop")).await?;
    assert_eq!((report.lost, report.duplicated, report.invented), (1, 0, 0), "{report}");
    assert!(report.to_string().contains("lost: client 1 seq 3"), "{report}");
    assert!(report.ensure_exact().is_err());

    damage("INSERT INTO ledger.entries SELECT * FROM kept").await?;
    scene.ledger.check(&scene.server.url("shop")).await?.ensure_exact()?;

    damage(
        "INSERT INTO ledger.entries (client, seq, from_account, to_account, amount)
         SELECT client, seq, from_account, to_account, amount FROM kept",
    )
    .await?;
    let report = scene.ledger.check(&scene.server.url("shop")).await?;
    assert_eq!((report.lost, report.duplicated, report.invented), (0, 1, 0), "{report}");
    damage("DELETE FROM ledger.entries WHERE id = (SELECT max(id) FROM ledger.entries)").await?;

    damage(
        "INSERT INTO ledger.entries (client, seq, from_account, to_account, amount)
         VALUES (77, 1, 1, 1, 0)",
    )
    .await?;
    let report = scene.ledger.check(&scene.server.url("shop")).await?;
    assert_eq!((report.lost, report.duplicated, report.invented), (0, 0, 1), "{report}");
    damage("DELETE FROM ledger.entries WHERE client = 77").await?;

    damage("UPDATE ledger.accounts SET balance = balance + 5 WHERE id = 1").await?;
    let report = scene.ledger.check(&scene.server.url("shop")).await?;
    assert_eq!((report.wrong_balances, report.money_off), (1, 5), "{report}");

    // Money that moved without an entry: the sum alone would not tell.
    damage("UPDATE ledger.accounts SET balance = balance - 5 WHERE id = 2").await?;
    let report = scene.ledger.check(&scene.server.url("shop")).await?;
    assert_eq!((report.wrong_balances, report.money_off), (2, 0), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_server_costs_errors_but_no_acknowledged_write() -> Result<()> {
    let mut scene = Scene::new().await?;
    let before = Instant::now();
    scene.server.kill9()?;
    scene.server.start()?;
    // PgBouncer logs in again by itself after server_login_retry at the latest.
    scene.ledger.more_acknowledged(50, Duration::from_secs(60)).await?;
    let report = scene.check().await?;
    report.ensure_exact()?;
    assert!(report.client_errors > 0, "{report}");
    assert!(scene.ledger.longest_gap(before) > Duration::from_millis(50));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_router_is_seen_as_a_gap_not_as_an_error() -> Result<()> {
    let mut scene = Scene::new().await?;
    let before = Instant::now();
    scene.router.admin("PAUSE shop").await?;
    let paused = Instant::now();
    tests::wait::until("200 ms of pause", Duration::from_secs(5), || async {
        Ok((paused.elapsed() > Duration::from_millis(200)).then_some(()))
    })
    .await?;
    scene.router.admin("RESUME shop").await?;
    scene.ledger.more_acknowledged(50, Duration::from_secs(20)).await?;
    let gap = scene.ledger.longest_gap(before);
    scene.check().await?.ensure_unnoticed()?;
    assert!(gap >= Duration::from_millis(200), "{gap:?}");
    Ok(())
}
