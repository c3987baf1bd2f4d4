//! Blue's log is not kept for us without end.

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::stage::{DATABASE, Stage};

use super::{Move, SOON};

const CONFIG: &str = "[protect]\nretained_wal_warn_bytes = 16_000_000\n\
                      retained_wal_bytes = 64_000_000\non_wal_limit = 'drop_slot'";
const TABLE: &str = "CREATE TABLE filler (id bigserial PRIMARY KEY, v text)";
const FILL: &str =
    "INSERT INTO filler (v) SELECT repeat(md5(n::text), 30) FROM generate_series(1, 120000) n";

/// Keeps the slot where it is while others write: a transaction that does not end.
#[tokio::test(flavor = "multi_thread")]
async fn at_the_limit_the_slot_is_given_up_and_blue_is_free() -> Result<()> {
    let builder = Stage::builder(13, 17).routers(0).config(CONFIG);
    let mut this = Move::streaming_with(builder, TABLE).await?;
    let open = this.stage.blue.connect(DATABASE).await?;
    open.batch_execute("BEGIN; INSERT INTO filler (v) VALUES ('open')").await?;
    this.stage.on_blue(FILL).await?;
    ensure_given_up(&mut this).await?;
    // It does not start as if nothing had happened.
    this.sidecar.kill9()?;
    this.restart_sidecar()?;
    wait_halted(&mut this, "is gone").await?;
    Ok(())
}

/// The stream is halted, by a row that green refuses: blue's disk is watched all the same.
#[tokio::test(flavor = "multi_thread")]
async fn at_the_limit_the_slot_of_a_halted_stream_is_given_up_too() -> Result<()> {
    let builder = Stage::builder(13, 17).routers(0).config(CONFIG);
    let mut this = Move::streaming_with(builder, TABLE).await?;
    this.stage.green.execute(DATABASE, "INSERT INTO filler VALUES (1, 'intruder')").await?;
    this.stage.on_blue("INSERT INTO filler (v) VALUES ('refused')").await?;
    wait_halted(&mut this, "filler").await?;
    this.stage.on_blue(FILL).await?;
    ensure_given_up(&mut this).await?;
    this.more(20).await
}

async fn wait_halted(this: &mut Move, why: &str) -> Result<Value> {
    let what = format!("a halt that says {why:?}");
    let halted = this.stage.wait_status(&mut this.sidecar, &what, SOON, |status| {
        let told = status["halt"]["what"].as_str();
        status["phase"] == "halted" && told.is_some_and(|told| told.contains(why))
    });
    halted.await
}

async fn ensure_given_up(this: &mut Move) -> Result<()> {
    let status = wait_halted(this, "the slot was dropped").await?;
    let halt = &status["halt"];
    ensure!(halt["what"].as_str().is_some_and(|what| what.contains("Blue is safe")), "{halt}");
    ensure!(halt["data"].as_str().is_some_and(|data| data.contains("green lacks")), "{halt}");
    ensure!(halt["retry_at"].is_null(), "nothing is left to try: {halt}");
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(this.stage.blue.value("postgres", slots).await?, "0");
    Ok(())
}
