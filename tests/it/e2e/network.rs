//! The network between the sidecar and the databases breaks and comes back.

use anyhow::{Context, Result};
use tests::proxy::{FaultProxy, Mode};
use tests::stage::Stage;

use super::{Move, SOON};

fn proxy(of: &Option<FaultProxy>) -> Result<&FaultProxy> {
    of.as_ref().context("this stage has no proxy")
}

#[tokio::test(flavor = "multi_thread")]
async fn blue_out_of_reach_and_back() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(13, 17).routers(0).proxies()).await?;
    proxy(&this.stage.blue_proxy)?.set(Mode::Cut);
    this.more(100).await?;
    let status = this
        .stage
        .wait_status(&mut this.sidecar, "it says what it waits for", SOON, |status| {
            status["phase"] == "reconnecting" && status["waiting_for"].is_string()
        })
        .await?;
    assert!(status["waiting_for"].to_string().contains("blue"), "{status}");
    proxy(&this.stage.blue_proxy)?.set(Mode::Pass);
    this.wait_streaming().await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()
}

#[tokio::test(flavor = "multi_thread")]
async fn green_out_of_reach_and_back() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17).routers(0).proxies()).await?;
    proxy(&this.stage.green_proxy)?.set(Mode::Cut);
    this.more(100).await?;
    this.stage
        .wait_status(&mut this.sidecar, "it says what it waits for", SOON, |status| {
            status["phase"] == "reconnecting" && status["waiting_for"].to_string().contains("green")
        })
        .await?;
    proxy(&this.stage.green_proxy)?.set(Mode::Pass);
    this.wait_streaming().await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()
}

/// Half open: no error, no data. The old connection may hold the slot on blue; the new one waits
/// for it or ends it.
#[tokio::test(flavor = "multi_thread")]
async fn half_open_to_both_sides_and_back() -> Result<()> {
    let builder = Stage::builder(15, 17).routers(0).proxies();
    let mut this = Move::streaming(builder.blue_setting("wal_sender_timeout", "5s")).await?;
    for side in ["blue", "green"] {
        let frozen = if side == "blue" { &this.stage.blue_proxy } else { &this.stage.green_proxy };
        proxy(frozen)?.set(Mode::Freeze);
        this.more(100).await?;
        proxy(frozen)?.set(Mode::Pass);
        this.wait_streaming().await.with_context(|| format!("after {side} was frozen"))?;
    }
    this.ensure_exact_copy().await?.ensure_unnoticed()
}
