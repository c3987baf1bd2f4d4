//! Blue's log is not kept for us without end.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::stage::{DATABASE, Stage};

use super::alerts::Receiver;
use super::halts_back::on_closed_blue;
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

/// Once green serves it is green's log that is kept, for the way back: somebody is told, and nothing is given up.
#[tokio::test(flavor = "multi_thread")]
async fn at_the_limit_the_way_back_is_kept_and_told_of() -> Result<()> {
    let receiver = Receiver::start()?;
    let config = format!(
        "{CONFIG}\n[alerts.slot_retained]\nraise = 1.0\nclear = 0.8\nfor_seconds = 0.0\n\
         [alerts.webhook]\nurl = 'http://{}/hook'",
        receiver.address
    );
    let mut this = Move::streaming_with(Stage::builder(15, 17).config(&config), TABLE).await?;
    let finished = this.stage.cutover(&["--when-lag", "<1s", "--yes"], 2 * SOON)?;
    ensure!(finished.code() == 0, "{}", finished.stderr);
    let (blue, green) = (&this.stage.blue, &this.stage.green);
    // Blue refuses what green writes, so green has to keep it.
    on_closed_blue(&this.stage, "ALTER TABLE filler ADD CONSTRAINT short CHECK (length(v) < 9)")
        .await?;
    green.execute(DATABASE, FILL).await?;
    let alert = |is: &'static str| {
        move |_: &str, body: &Value| body["alert"] == "CutoverSlotRetained" && body["status"] == is
    };
    receiver.wait("the alert", alert("firing")).await?;
    tests::wait::until("green's log to be told of", SOON, || async {
        let said = this.sidecar.stderr()?;
        Ok(said.contains("green keeps as much log for us as it may").then_some(()))
    })
    .await?;
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(green.value("postgres", slots).await?, "1", "nothing was given up");
    on_closed_blue(&this.stage, "ALTER TABLE filler DROP CONSTRAINT short").await?;
    tests::wait::until("green to let go of it", SOON, || async {
        green.execute(DATABASE, "CHECKPOINT").await?;
        Ok((receiver.count(alert("resolved")) > 0).then_some(()))
    })
    .await
    .with_context(|| this.sidecar.log_tail())?;
    // Nor is the slot of the stream that stands by, over what came to blue by the way back.
    assert_eq!(blue.value("postgres", slots).await?, "1");
    let said = this.sidecar.stderr()?;
    ensure!(!said.contains("at the limit the slot is dropped"), "{said}");
    let back = this.stage.cutover(&["rollback", "--yes"], 2 * SOON)?;
    ensure!(back.code() == 0, "{}", back.stderr);
    this.more(20).await?;
    this.ledger.stop()?;
    this.ledger.check(&this.stage.blue.url(DATABASE)).await?.ensure_exact()
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
