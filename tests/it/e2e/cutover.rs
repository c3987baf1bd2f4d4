//! `cutover` flips the traffic, or leaves everything as it was.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::process::Finished;
use tests::proxy::Mode;
use tests::stage::{DATABASE, Stage};

use super::{Move, SOON};

const GO: [&str; 3] = ["--when-lag", "<1s", "--yes"];

fn expect_code(finished: &Finished, code: i32) -> Result<()> {
    ensure!(
        finished.code() == code,
        "exit code {} instead of {code}\n--- stdout\n{}\n--- stderr\n{}",
        finished.code(),
        finished.stdout,
        finished.stderr
    );
    Ok(())
}

async fn ensure_routers_point_at(stage: &Stage, port: u16) -> Result<()> {
    for router in &stage.routers {
        assert_eq!(router.target_port().await?, port);
    }
    Ok(())
}

/// Blue serves, the load runs on, green has lost nothing, no client noticed anything.
async fn ensure_untouched(mut this: Move) -> Result<()> {
    this.more(50).await?;
    ensure_routers_point_at(&this.stage, this.stage.blue.port()).await?;
    this.wait_streaming().await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()
}

async fn flip(mut this: Move) -> Result<Value> {
    this.more(100).await?;
    let before = Instant::now();
    let finished = this.stage.cutover(&GO, 2 * SOON)?;
    expect_code(&finished, 0)
        .with_context(|| format!("the sidecar's log ends:\n{}", this.sidecar.log_tail()))?;
    this.more(100).await?;
    ensure_routers_point_at(&this.stage, this.stage.green.port()).await?;

    let report = this.stage.api().status()?["cutover"]["report"].clone();
    assert_eq!(report["outcome"], "completed", "{report}");
    assert_eq!(report["serving"], "green", "{report}");
    let pause = report["pause_ms"].as_f64().context("no pause in the report")?;
    let gap = this.ledger.longest_gap(before);
    assert!(pause < 2_000.0, "{report}");
    assert!(gap < Duration::from_secs(3), "clients saw {gap:?}");

    let refused = this.stage.on_blue("CREATE TABLE late (x int)").await;
    assert!(refused.is_err(), "blue must not take writes any more");
    let green = this.stage.green.url(DATABASE);
    this.ledger.check(&green).await?.ensure_unnoticed()?;
    Ok(report)
}

#[tokio::test(flavor = "multi_thread")]
async fn from_13_to_17_nothing_is_lost_and_nobody_notices() -> Result<()> {
    flip(Move::streaming(Stage::builder(13, 17)).await?).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn from_10_to_18_through_two_routers() -> Result<()> {
    let report = flip(Move::streaming(Stage::builder(10, 18).routers(2)).await?).await?;
    let routers = report["routers"].as_array().context("no routers in the report")?;
    assert_eq!(routers.len(), 2, "{report}");
    assert!(routers.iter().all(|member| member["verified"] == true), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_touches_nothing() -> Result<()> {
    let this = Move::streaming(Stage::builder(15, 17)).await?;
    let mut arguments = GO.to_vec();
    arguments.push("--dry-run");
    let finished = this.stage.cutover(&arguments, SOON)?;
    expect_code(&finished, 0)?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    for part in ["PAUSE", "RELOAD", "RESUME"] {
        assert!(said.contains(part), "{part} is missing in the plan:\n{said}");
    }
    ensure_untouched(this).await
}

/// A transaction that stays open keeps PgBouncer from pausing: the run gives up in time, and works
/// once the transaction has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_stays_open_aborts_the_run_and_blue_serves_on() -> Result<()> {
    let this =
        Move::streaming_with(Stage::builder(15, 17), "CREATE TABLE held (id int PRIMARY KEY)")
            .await?;
    let holder = tests::postgres::connect_url(&this.stage.app_url()?).await?;
    holder.batch_execute("BEGIN; INSERT INTO held VALUES (1)").await?;

    let mut arguments = GO.to_vec();
    arguments.extend(["--max-pause", "1s", "--gate-timeout", "5s"]);
    let finished = this.stage.cutover(&arguments, 2 * SOON)?;
    // 3 if the precheck saw the transaction, 4 if the gate waited for its end, 5 if the pause ran
    // out. All leave blue serving.
    ensure!(matches!(finished.code(), 3..=5), "{}: {}", finished.code(), finished.stderr);
    holder.batch_execute("COMMIT").await.context("the holder's transaction must survive")?;
    drop(holder);
    this.more(50).await?;
    ensure_routers_point_at(&this.stage, this.stage.blue.port()).await?;

    flip(this).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lag_that_is_unknown_passes_no_gate() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17).proxies()).await?;
    let proxy = this.stage.blue_proxy.as_ref().context("no proxy")?;
    proxy.set(Mode::Cut);
    this.stage
        .wait_status(&mut this.sidecar, "an unknown lag", SOON, |status| {
            status["lag"]["known"] == false && status["lag"]["seconds"].is_null()
        })
        .await?;
    let mut arguments = GO.to_vec();
    arguments.extend(["--gate-timeout", "2s"]);
    let finished = this.stage.cutover(&arguments, SOON)?;
    // A precheck may say first that blue is unreachable.
    ensure!(matches!(finished.code(), 3 | 4), "{}: {}", finished.code(), finished.stderr);
    let proxy = this.stage.blue_proxy.as_ref().context("no proxy")?;
    proxy.set(Mode::Pass);
    ensure_untouched(this).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_shell_makes_of_an_unquoted_lag_is_refused() -> Result<()> {
    let this = Move::streaming(Stage::builder(15, 17)).await?;
    let wrong: [&[&str]; 5] = [
        &["--when-lag", "--yes"],
        &["--when-lag", ">1s", "--yes"],
        &["--when-lag", "<0s", "--yes"],
        &["--when-lag", "<1parsec", "--yes"],
        &["--yes"],
    ];
    for arguments in wrong {
        let finished = this.stage.cutover(arguments, SOON)?;
        expect_code(&finished, 2).with_context(|| format!("{arguments:?}"))?;
        assert!(!finished.stderr.is_empty());
    }
    // Nobody there to type the database's name, and no --yes.
    let finished = this.stage.cutover(&["--when-lag", "<1s"], SOON)?;
    assert_ne!(finished.code(), 0, "{}", finished.stderr);
    ensure_untouched(this).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_not_there_is_exit_code_10() -> Result<()> {
    let stage = Stage::builder(15, 15).start().await?;
    expect_code(&stage.cutover(&GO, SOON)?, 10)?;
    expect_code(&stage.cutover(&["status"], SOON)?, 10)
}
