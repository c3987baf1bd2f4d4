//! A verification that the sidecar's end has interrupted goes on where it was.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::stage::{DATABASE, Stage};
use tests::wait;

use super::verify::{ensure_equal, rows, verify};
use super::{Move, SOON};

const TABLES: &str = "
    CREATE TABLE many (id int PRIMARY KEY, v int);
    INSERT INTO many SELECT n, n FROM generate_series(1, 20000) n";

/// Slow enough to be interrupted: 100 chunks, 10 s.
fn slowly(mode: &str) -> Value {
    json!({ "mode": mode, "tables": ["many"], "unlimited": true, "rows_per_second": 2000,
            "chunk_rows": 200 })
}

async fn rows_done(this: &Move, more_than: u64) -> Result<u64> {
    let api = this.stage.api();
    wait::until("some progress", SOON, || {
        let rows = api.json("/v1/verify/last").map(|s| s["progress"]["rows_done"].as_u64());
        async { Ok(rows?.filter(|rows| *rows > more_than)) }
    })
    .await
}

async fn on_green(this: &Move, sql: &str) -> Result<()> {
    this.stage.green.execute(DATABASE, sql).await
}

async fn goes_on_after_a_crash(mode: &str) -> Result<()> {
    let mut this = Move::streaming_with(Stage::builder(15, 17).routers(0), TABLES).await?;
    this.stage.wait_caught_up(SOON).await?;
    on_green(&this, "UPDATE many SET v = 0 WHERE id = 150").await?;
    let started = this.stage.api().post("/v1/verify", &slowly(mode))?;
    assert_eq!(started.status, 202, "{}", started.body);
    let first: Value = serde_json::from_str(&started.body)?;
    let done = rows_done(&this, 3000).await?;
    this.sidecar.kill9()?;
    // One in a chunk that is done, one far behind it: only what was not read is read.
    on_green(&this, "UPDATE many SET v = 0 WHERE id IN (250, 19000)").await?;
    this.restart_sidecar()?;
    this.wait_streaming().await?;
    let (code, report) = verify(&this.stage, &["--mode", mode, "--table", "many"])?;
    let differs = |id: u32| format!(r#""public"."many" different id={id} [v]"#);
    assert_eq!((code, rows(&report)), (9, vec![differs(150), differs(19000)]), "{report:#}");
    assert_eq!((&report["rows"], &report["id"]), (&json!(20000), &first["id"]), "{report:#}");
    assert_eq!(report["started"], first["started"]);
    let before = report["resumed"]["rows"].as_u64().context("it has not gone on")?;
    assert!(before + 400 >= done && before < 20_000, "{before} of {done} rows: {report:#}");
    assert_eq!(report["tables"][0]["rows_before"], before);
    // It has come to its end: the next one reads everything.
    let (code, report) = verify(&this.stage, &["--mode", mode, "--table", "many"])?;
    let all = vec![differs(150), differs(19000), differs(250)];
    assert_eq!((code, rows(&report)), (9, all), "{report:#}");
    assert!(report["resumed"].is_null(), "{report:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn checksum_goes_on_after_a_crash() -> Result<()> {
    goes_on_after_a_crash("checksum").await
}

#[tokio::test(flavor = "multi_thread")]
async fn full_goes_on_after_a_crash() -> Result<()> {
    goes_on_after_a_crash("full").await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_question_starts_anew() -> Result<()> {
    let this = Move::streaming_with(Stage::builder(15, 17).routers(0), TABLES).await?;
    let stage = &this.stage;
    let interrupted = || async {
        let started = stage.api().post("/v1/verify", &slowly("checksum"))?;
        assert_eq!(started.status, 202, "{}", started.body);
        rows_done(&this, 1000).await?;
        verify(stage, &["--stop"])?;
        anyhow::Ok(())
    };
    for other in [
        vec!["--table", "many", "--fresh"],
        vec!["--table", "many", "--mode", "full"],
        vec!["--table", "many", "--where", "many: id > 0"],
        vec![],
    ] {
        interrupted().await?;
        let report = ensure_equal(verify(stage, &other)?)?;
        assert!(report["resumed"].is_null(), "{other:?}: {report:#}");
    }
    interrupted().await?;
    let report = ensure_equal(verify(stage, &["--table", "many"])?)?;
    assert!(report["resumed"]["rows"].as_u64() > Some(500), "a stopped one goes on: {report:#}");
    Ok(())
}
