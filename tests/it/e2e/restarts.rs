//! Anything may stop at any moment; the copy ends exact.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::pgbench::{self, Pgbench};
use tests::postgres::Stop;
use tests::process;
use tests::stage::{APP, DATABASE, Stage};

use super::{Move, SOON, from_env, set};

/// SIGTERM must have worked within this time.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// `KILLS=20 SCALE=20 RATE=500` for the long form.
#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_while_streaming() -> Result<()> {
    let (stage, ledger) = set(Stage::builder(15, 17).routers(0), "SELECT").await?;
    let direct = stage.blue.url_as(APP, DATABASE);
    pgbench::init(&direct, u32::try_from(from_env("SCALE", 1))?)?;
    stage.on_blue("ALTER TABLE pgbench_history REPLICA IDENTITY FULL").await?;
    let rate = u32::try_from(from_env("RATE", 100))?;
    let mut load = Pgbench::start(&direct, 4, rate, &stage.path().join("pgbench"))?;
    let sidecar = stage.replicator()?;
    let mut this = Move { stage, sidecar, ledger };
    this.wait_streaming().await?;

    for kill in 0..from_env("KILLS", 5) {
        // Moments between "has just begun to connect" and "has streamed for a while".
        this.more([1, 5, 20, 60, 150][kill as usize % 5]).await?;
        this.sidecar.kill9()?;
        this.restart_sidecar()?;
        if kill % 2 == 1 {
            this.wait_streaming().await.with_context(|| format!("after kill {kill}"))?;
        }
    }
    let seen = load.stop()?;
    ensure!(seen.errors.is_empty(), "{:?}", seen.errors);
    this.ensure_exact_copy().await?.ensure_unnoticed()?;
    let rows = pgbench::check(&this.stage.green.connect(DATABASE).await?).await?;
    ensure!(rows > 0, "pgbench has written nothing");
    Ok(())
}

const MANY_ROWS: &str = "
    CREATE TABLE large (id int PRIMARY KEY, filler text);
    INSERT INTO large SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 150000) n;
    CREATE INDEX ON large (filler, id)";

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_copying_it_cleans_up_and_starts_over_by_itself() -> Result<()> {
    let mut this = Move::start_with(
        // Slow enough to be caught in the act.
        Stage::builder(15, 17).routers(0).config("[copy]\nrate_limit_bytes_per_s = 30_000_000"),
        MANY_ROWS,
    )
    .await?;
    for _ in 0..2 {
        this.stage
            .wait_status(&mut this.sidecar, "rows being copied", SOON, |status| {
                status["phase"] == "copying"
                    && status["backfill"]["rows"].as_u64().is_some_and(|rows| rows > 0)
            })
            .await?;
        this.sidecar.kill9()?;
        this.restart_sidecar()?;
    }
    this.wait_streaming().await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()?;
    let slots =
        this.stage.blue.value("postgres", "SELECT count(*) FROM pg_replication_slots").await?;
    assert_eq!(slots, "1", "the slots of the attempts that were killed are gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn terminated_it_stops_within_two_seconds_and_resumes() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(14, 16).routers(0)).await?;
    for _ in 0..2 {
        this.more(50).await?;
        let asked = Instant::now();
        this.sidecar.terminate()?;
        let status = this.sidecar.wait(SOON)?;
        let took = asked.elapsed();
        ensure!(status.success(), "{status}: {}", this.sidecar.log_tail());
        ensure!(took < STOP_LIMIT, "it took {took:?}");
        this.restart_sidecar()?;
        this.wait_streaming().await?;
    }
    this.ensure_exact_copy().await?.ensure_unnoticed()
}

#[tokio::test(flavor = "multi_thread")]
async fn terminated_while_copying_it_stops_within_two_seconds() -> Result<()> {
    let mut this = Move::start_with(
        Stage::builder(15, 17).routers(0).config("[copy]\nrate_limit_bytes_per_s = 30_000_000"),
        MANY_ROWS,
    )
    .await?;
    this.stage
        .wait_status(&mut this.sidecar, "rows being copied", SOON, |status| {
            status["backfill"]["rows"].as_u64().is_some_and(|rows| rows > 0)
        })
        .await?;
    let asked = Instant::now();
    this.sidecar.terminate()?;
    this.sidecar.wait(SOON)?;
    let took = asked.elapsed();
    ensure!(took < STOP_LIMIT, "it took {took:?}");
    this.restart_sidecar()?;
    this.wait_streaming().await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()
}

#[tokio::test(flavor = "multi_thread")]
async fn blue_restarts_and_crashes_while_streaming() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(13, 17).routers(0)).await?;
    this.more(50).await?;
    this.stage.blue.restart(Stop::Fast)?;
    this.more(50).await?;
    this.stage.blue.kill9()?;
    this.stage.blue.start()?;
    this.more(50).await?;
    this.wait_streaming().await?;
    this.ensure_exact_copy().await?;
    assert!(this.sidecar.is_running(), "it reconnects, it does not give up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn green_restarts_and_crashes_while_streaming() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 18).routers(0)).await?;
    this.more(50).await?;
    this.stage.green.restart(Stop::Immediate)?;
    this.wait_streaming().await?;
    // Now green's log has only what somebody waits for: what was applied last is lost with a crash.
    let writer = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'";
    let writer: u32 = this.stage.green.value(DATABASE, writer).await?.parse()?;
    process::signal(writer, Signal::SIGSTOP)?;
    this.more(50).await?;
    this.stage.green.kill9()?;
    this.more(50).await?;
    this.stage.green.start()?;
    this.wait_streaming().await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()?;
    assert!(this.sidecar.is_running(), "it reconnects, it does not give up");
    Ok(())
}

/// Lanes go on, and the lag is small: somebody has to say that nothing becomes durable.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_green_that_does_not_answer_is_said() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17).routers(0)).await?;
    let green = this.stage.green.connect(DATABASE).await?;
    green.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'away'").await?;
    green.batch_execute("SELECT pg_reload_conf()").await?;
    let said = |status: &serde_json::Value| {
        status["waiting_for"].to_string().contains("is a synchronous standby away?")
    };
    this.stage.wait_status(&mut this.sidecar, "it says what it waits for", SOON, said).await?;
    this.more(50).await?;
    green.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await?;
    green.batch_execute("SELECT pg_reload_conf()").await?;
    let answers = |status: &serde_json::Value| status["waiting_for"].is_null();
    this.stage.wait_status(&mut this.sidecar, "the log answers", SOON, answers).await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()
}

/// Blue waits with its shutdown until the walsender's peer has confirmed everything, log without
/// commits included.
#[tokio::test(flavor = "multi_thread")]
async fn a_fast_shutdown_of_blue_does_not_wait_for_us() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17).routers(0)).await?;
    this.ledger.stop()?;
    this.stage.wait_caught_up(SOON).await?;
    for _ in 0..3 {
        let client = this.stage.blue.connect(DATABASE).await?;
        client.batch_execute("BEGIN; CREATE TABLE never AS SELECT 1 AS a; ROLLBACK").await?;
        drop(client);
        let asked = Instant::now();
        this.stage.blue.stop(Stop::Fast)?;
        ensure!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
        this.stage.blue.start()?;
        this.wait_streaming().await?;
    }
    Ok(())
}

/// As in a power cut of the whole site.
#[tokio::test(flavor = "multi_thread")]
async fn all_three_killed_at_once() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17).routers(0)).await?;
    this.more(100).await?;
    this.sidecar.kill9()?;
    this.stage.green.kill9()?;
    this.stage.blue.kill9()?;
    this.stage.blue.start()?;
    this.stage.green.start()?;
    this.restart_sidecar()?;
    this.more(50).await?;
    this.wait_streaming().await?;
    this.ensure_exact_copy().await?;
    Ok(())
}
