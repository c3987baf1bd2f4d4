//! The proxy that breaks the network.

use std::time::{Duration, Instant};

use anyhow::Result;
use tests::postgres::{Postgres, connect_url, rows};
use tests::proxy::{FaultProxy, Mode};

const SHORT: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn cut_freeze_and_delay_do_what_they_say() -> Result<()> {
    let server = Postgres::start_major(15)?;
    let proxy = FaultProxy::start(server.port())?;
    let url = proxy.url(&server.url("postgres"), server.port());
    let client = connect_url(&url).await?;
    assert_eq!(rows(&client, "SELECT 1").await?.len(), 1);
    assert_eq!(proxy.connections(), 1);

    proxy.set(Mode::Delay(Duration::from_millis(50)));
    let start = Instant::now();
    rows(&client, "SELECT 1").await?;
    assert!(start.elapsed() >= Duration::from_millis(100), "there and back: {:?}", start.elapsed());

    proxy.set(Mode::Freeze);
    let frozen = tokio::time::timeout(SHORT, rows(&client, "SELECT 2")).await;
    assert!(frozen.is_err(), "nothing may arrive through a frozen network");
    let connecting = tokio::time::timeout(SHORT, connect_url(&url)).await;
    assert!(connecting.is_err(), "a new connection hears nothing either");

    proxy.set(Mode::Pass);
    assert_eq!(rows(&client, "SELECT 3").await?.len(), 1, "the same connection goes on");

    proxy.set(Mode::Cut);
    assert!(rows(&client, "SELECT 4").await.is_err());
    assert!(connect_url(&url).await.is_err());

    proxy.set(Mode::Pass);
    assert_eq!(rows(&connect_url(&url).await?, "SELECT 5").await?.len(), 1);
    Ok(())
}
