//! Cutovers between servers of MySQL and MariaDB through our own proxy.

use anyhow::{Context, Result, bail, ensure};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use serde_json::json;
use tests::ledger::mysql::options;
use tests::mysql::{Stage, Version};

use super::SOON;
use super::mysql_cutover::{BACK, GO, Move};

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_s_clients_are_moved_forth_and_back_and_do_not_notice() -> Result<()> {
    are_moved_forth_and_back((Version::Mariadb10_11, Version::Mariadb11_8)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_s_clients_are_moved_forth_and_back_and_do_not_notice() -> Result<()> {
    are_moved_forth_and_back((Version::Mysql9_7, Version::Mysql9_7)).await
}

async fn port_of(client: &mut Conn) -> Result<u16> {
    client.query_first("select @@port").await?.context("no port")
}

/// No router is named: forth and back with the same client connections, and nobody who can be moved
/// notices anything. Who can't be is told beforehand, and gets one error. The proxy is nobody's child.
async fn are_moved_forth_and_back(versions: (Version, Version)) -> Result<()> {
    let stage = Stage::embedded(versions, &[], "")?;
    let url = stage.app_url();
    let mut this = Move::on(stage, url, "do 1").await?;
    let (blue, green) = (this.stage.blue.port(), this.stage.green.port());
    let name = this.stage.blue.version().name();
    let pid = this.stage.proxy()?.pid()?;
    this.more().await?;
    let mut stays = Conn::new(options(&this.stage.app_url())?).await?;
    stays.query_drop("set time_zone = '+07:00'").await?;
    let prepared = stays.prep("select ? + @@port").await?;
    assert_eq!(port_of(&mut stays).await?, blue);
    let mut tied = Conn::new(options(&this.stage.app_url())?).await?;
    tied.query_drop("set @x = 1").await?;

    let plan = this.stage.cutover(&["plan", "--when-lag", "<1s"], SOON)?;
    ensure!(plan.stdout.contains("proxy"), "{}\n{}", plan.stdout, plan.stderr);
    // Nobody notices a rehearsal, not even who can't be moved.
    this.succeed(&["drill", "--yes", "--for", "1s"]).context(name)?;
    this.more().await?;
    assert_eq!(port_of(&mut stays).await?, blue, "{name}");
    let x: Option<i64> = tied.query_first("select @x").await?;
    assert_eq!(x, Some(1), "{name}");

    this.succeed(&GO).context(name)?;
    this.more().await?;
    assert_eq!(port_of(&mut stays).await?, green, "{name}");
    match tied.query_drop("select @x").await {
        Err(Error::Server(error)) => assert_eq!(error.code, 1053, "{name}"),
        // It was closed before it could ask.
        Err(_) => {}
        Ok(()) => bail!("{name}: the one with a variable of its own must have been cut"),
    }
    assert_eq!(this.stage.target_port()?, green, "{name}");
    let status = this.stage.api().status()?;
    assert_eq!(status["cutover"]["report"]["routers"][0]["verified"], true, "{status}");
    let zone: Option<String> = stays.query_first("select @@time_zone").await?;
    assert_eq!(zone.as_deref(), Some("+07:00"), "{name}");
    let sum: Option<u32> = stays.exec_first(&prepared, (1,)).await?;
    assert_eq!(sum, Some(u32::from(green) + 1), "{name}");

    this.kill()?;
    this.wait("the way back to carry", |status| {
        status["serving"] == "green" && status["streams"][1]["state"] == "carries"
    })
    .await?;
    assert_eq!(this.stage.proxy()?.pid()?, pid, "the one that was there is used");
    this.succeed(&BACK).context(name)?;
    this.more().await?;
    assert_eq!(port_of(&mut stays).await?, blue, "{name}");
    let status = this.stage.proxy()?.status()?;
    assert_eq!((&status["cut"], &status["side"]), (&json!(1), &json!("blue")), "{name}: {status}");
    let on_blue = this.stage.mover_url(&this.stage.blue);
    this.ledger.check(&on_blue).await?.ensure_unnoticed().context(name)?;
    this.sidecar.terminate()?;
    ensure!(this.sidecar.wait(SOON)?.success(), "{}", this.sidecar.log_tail());
    Ok(())
}
