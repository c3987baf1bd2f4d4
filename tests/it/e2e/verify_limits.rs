//! A verification spares those who work: clients of blue, and a stream that is behind.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::api::Api;
use tests::stage::{DATABASE, Stage};
use tests::wait;

use super::{Move, SOON};

const TABLES: &str = "
    CREATE TABLE many (id int PRIMARY KEY, v int);
    INSERT INTO many SELECT n, n FROM generate_series(1, 100000) n";

/// How much it may read now, when that is as it should be.
async fn limit(api: &Api, what: &str, is_it: impl Fn(f64, &Value) -> bool) -> Result<f64> {
    let mut last = Value::Null;
    let found = wait::until(what, SOON, || {
        let status = api.json("/v1/verify/last");
        let found = status.map(|status| {
            last = status.clone();
            let limit = &status["progress"]["limit"];
            limit["share"].as_f64().filter(|share| is_it(*share, &limit["held_by"]))
        });
        async { found }
    });
    let found = found.await;
    found.with_context(|| format!("{last:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_works_is_spared() -> Result<()> {
    let mut this = Move::streaming_with(Stage::builder(15, 17).routers(0), TABLES).await?;
    let api = this.stage.api();
    // Long enough for everything below, whatever the share.
    let request = json!({ "tables": ["many"], "rows_per_second": 400, "chunk_rows": 500 });
    let started = api.post("/v1/verify", &request)?;
    assert_eq!(started.status, 202, "{}", started.body);
    let share = limit(&api, "clients to be seen", |_, by| by == "clients").await?;
    assert!((0.0..0.96).contains(&share), "{share}");

    // Green's table is locked against writes, not against our reading: the stream stands.
    let green = this.stage.green.connect(DATABASE).await?;
    green.batch_execute("BEGIN; LOCK TABLE ledger.entries IN EXCLUSIVE MODE").await?;
    limit(&api, "the lag to be seen", |share, by| by == "lag" && share < 0.05).await?;
    green.batch_execute("ROLLBACK").await?;
    limit(&api, "the lag to be over", |_, by| by == "clients").await?;

    this.ledger.stop()?;
    limit(&api, "blue to be idle", |share, by| share == 1.0 && by.is_null()).await?;
    // It has got on all the time, and finds nothing but the truth.
    let status = api.json("/v1/verify/last")?;
    assert!(status["progress"]["rows_done"].as_u64() > Some(100), "{status:#}");
    let stopped = api.post("/v1/verify/last/stop", &json!({}))?;
    let stopped: Value = serde_json::from_str(&stopped.body)?;
    assert_eq!(stopped["report"]["differences"], 0, "{stopped:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_spared_on_request() -> Result<()> {
    let this = Move::streaming_with(Stage::builder(15, 17).routers(0), TABLES).await?;
    let api = this.stage.api();
    let request = json!({ "tables": ["many"], "unlimited": true });
    assert_eq!(api.post("/v1/verify", &request)?.status, 202);
    let ended = api.json("/v1/verify/last?wait_ms=9000")?;
    assert_eq!(ended["report"]["verdict"], "equal", "{ended:#}");
    assert_eq!(ended["progress"]["limit"], json!({ "share": 1.0, "held_by": null }));
    Ok(())
}
