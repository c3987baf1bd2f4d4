//! The lag is a truthful number at all times, or no number at all.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::proxy::Mode;
use tests::stage::{DATABASE, Stage};
use tests::wait;

use super::{Move, SOON, from_env};

/// `IDLE_SECONDS=60` for the long form.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_blue_shows_no_lag_and_pins_no_log() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17).routers(0)).await?;
    this.ledger.stop()?;
    this.stage.wait_caught_up(SOON).await?;
    // Log that concerns no published table: the slot must follow it, too.
    this.stage
        .blue
        .execute("postgres", "CREATE TABLE elsewhere AS SELECT generate_series(1, 1000)")
        .await?;
    let head = this.stage.blue.value("postgres", "SELECT pg_current_wal_lsn()").await?;
    let followed = format!("SELECT confirmed_flush_lsn >= '{head}' FROM pg_replication_slots");
    wait::until("the slot to follow log of other databases", SOON, || async {
        Ok((this.stage.blue.value("postgres", &followed).await? == "t").then_some(()))
    })
    .await?;

    let api = this.stage.api();
    let idle = Duration::from_secs(from_env("IDLE_SECONDS", 3));
    let start = Instant::now();
    wait::until("the idle time to pass", idle + SOON, || async {
        let lag = api.status()?["lag"].clone();
        let seconds = lag["seconds"].as_f64().with_context(|| format!("unknown: {lag}"))?;
        ensure!(seconds < 1.0, "an idle blue shows a lag: {lag}");
        Ok((start.elapsed() > idle).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_green_makes_the_lag_rise_with_real_time() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17).routers(0)).await?;
    let holder = this.stage.green.connect(DATABASE).await?;
    holder.batch_execute("BEGIN; LOCK TABLE ledger.accounts IN ACCESS EXCLUSIVE MODE").await?;
    let locked = Instant::now();

    let api = this.stage.api();
    let mut last = 0.0;
    wait::until("a lag of 4 s", SOON, || {
        let step = (|| {
            let lag = api.status()?["lag"]["seconds"]
                .as_f64()
                .context("a stalled apply is no unknown lag")?;
            let real = locked.elapsed().as_secs_f64();
            ensure!(lag <= real + 1.0, "lag {lag} s after {real} s");
            // A second of grace: what was under way when the lock came.
            ensure!(lag >= real - 1.0 || real < 2.0, "lag {lag} s after {real} s");
            last = lag;
            Ok((lag >= 4.0).then_some(()))
        })();
        async { step }
    })
    .await
    .with_context(|| format!("the last lag was {last} s"))?;

    holder.batch_execute("ROLLBACK").await?;
    this.wait_streaming().await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()
}

/// Frozen, the sidecar's sockets look healthy and hear nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_blind_sensor_shows_no_number() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17).routers(0).proxies()).await?;
    for mode in [Mode::Cut, Mode::Freeze] {
        this.stage.blue_proxy.as_ref().context("no proxy")?.set(mode);
        let status = this
            .stage
            .wait_status(&mut this.sidecar, "an unknown lag", SOON, |status| {
                status["lag"]["known"] == false
            })
            .await
            .with_context(|| format!("{mode:?}"))?;
        assert!(status["lag"]["seconds"].is_null(), "{status}");
        assert!(status["lag"]["reason"].is_string(), "it says why: {status}");
        this.stage.blue_proxy.as_ref().context("no proxy")?.set(Mode::Pass);
        this.wait_streaming().await.with_context(|| format!("after {mode:?}"))?;
    }
    this.ensure_exact_copy().await?.ensure_unnoticed()
}
