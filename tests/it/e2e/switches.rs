//! Whole cutovers through routers other than PgBouncer, and what is refused beforehand.

use anyhow::{Context, Result, ensure};
use tests::haproxy::HaProxy;
use tests::ledger::{self, Ledger};
use tests::postgres;
use tests::stage::{APP, DATABASE, Stage};

use super::{Move, SOON};

const GO: [&str; 3] = ["--when-lag", "<1s", "--yes"];

/// The stage stands, and the ledger's tables are on blue.
async fn stage_of(builder: tests::stage::Builder) -> Result<Stage> {
    let stage = builder.start().await?;
    stage.create_marker().await?;
    let app = postgres::connect_url(&stage.blue.url_as(APP, DATABASE)).await?;
    ledger::prepare(&app, 50).await?;
    Ok(stage)
}

/// A router that can't make anybody wait: clients get errors, and nothing is lost. Back again, too.
#[tokio::test(flavor = "multi_thread")]
async fn haproxy_leads_clients_to_green_and_back_and_nothing_is_lost() -> Result<()> {
    let stage = stage_of(Stage::builder(15, 17).routers(0)).await?;
    let haproxy = HaProxy::start(stage.blue.port(), stage.green.port())?;
    let mut config = stage.config()?.replace("\n[cutover]\nrouter = \"none\"\n", "\n");
    config.push_str(&haproxy.config(APP, DATABASE));
    std::fs::write(stage.config_file(), config)?;
    let sidecar = stage.replicator()?;
    let url = haproxy.url_as(APP, DATABASE);
    let options = ledger::Options { clients: 4, accounts: 50, ..ledger::Options::new(url.clone()) };
    let mut this = Move { stage, sidecar, ledger: Ledger::start(options)? };
    this.wait_streaming().await?;
    this.more(50).await?;
    let port = || async {
        let client = postgres::connect_url(&url).await?;
        let rows = postgres::rows(&client, "SHOW port").await?;
        let port = rows.first().and_then(|row| row.first().cloned().flatten());
        Ok::<_, anyhow::Error>(port.context("no port")?.parse::<u16>()?)
    };
    assert_eq!(port().await?, this.stage.blue.port());

    let finished = this.stage.cutover(&GO, 2 * SOON)?;
    ensure!(finished.code() == 0, "{}\n{}", finished.stderr, this.sidecar.log_tail());
    this.more(50).await?;
    assert_eq!(port().await?, this.stage.green.port());
    let report = this.stage.api().status()?["cutover"]["report"].clone();
    assert_eq!(report["routers"][0]["verified"], true, "{report}");

    let finished = this.stage.cutover(&["rollback", "--yes"], 2 * SOON)?;
    ensure!(finished.code() == 0, "{}\n{}", finished.stderr, this.sidecar.log_tail());
    this.more(50).await?;
    assert_eq!(port().await?, this.stage.blue.port());
    this.ledger.check(&this.stage.blue.url(DATABASE)).await?.ensure_exact()
}

/// What PgBouncer would do to its clients in the pause is found before anybody waits.
#[tokio::test(flavor = "multi_thread")]
async fn pgbouncer_that_keeps_connections_by_itself_is_refused_with_the_fix() -> Result<()> {
    let builder = Stage::builder(15, 17).router_setting("min_pool_size", "2");
    let mut this = Move::streaming(builder).await?;
    let finished = this.stage.cutover(&GO, 2 * SOON)?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    ensure!(finished.code() == 3, "{}: {said}", finished.code());
    ensure!(said.contains("min_pool_size = 2"), "{said}");
    this.more(20).await?;
    // As the fix says.
    let file = this.stage.routers[0].config_file().to_owned();
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replace("min_pool_size = 2", "min_pool_size = 0"))?;
    this.stage.routers[0].admin("RELOAD").await?;
    let finished = this.stage.cutover(&GO, 2 * SOON)?;
    ensure!(finished.code() == 0, "{}", finished.stderr);
    this.more(20).await?;
    this.ledger.check(&this.stage.green.url(DATABASE)).await?.ensure_unnoticed()
}
