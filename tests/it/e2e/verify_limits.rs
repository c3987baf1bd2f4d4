//! A verification spares those who work: clients of blue, and a stream that is behind.

use std::sync::Mutex;
use std::time::{Duration, Instant};

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

    // It gets on while it spares them.
    let more = wait::until("more rows to be compared", SOON, || async {
        let rows = api.json("/v1/verify/last")?["progress"]["rows_done"].as_u64();
        Ok((rows > Some(100)).then_some(()))
    });
    more.await?;

    this.ledger.stop()?;
    limit(&api, "blue to be idle", |share, by| share == 1.0 && by.is_null()).await?;
    // It finds nothing but the truth.
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

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_to_its_connections_and_its_rate() -> Result<()> {
    let this = Move::streaming_with(Stage::builder(15, 17).routers(0), TABLES).await?;
    let api = this.stage.api();
    let sessions = "SELECT count(*)::int FROM pg_stat_activity
                    WHERE application_name = 'cutover verify' AND datname = current_database()";
    let request = json!({
        "tables": ["many"], "connections": 4, "rows_per_second": 20_000, "chunk_rows": 1_000,
        "unlimited": true
    });
    let began = Instant::now();
    assert_eq!(api.post("/v1/verify", &request)?.status, 202);
    let most = Mutex::new([0, 0]);
    let ended = wait::until("it to end", SOON, || async {
        let status = api.json("/v1/verify/last")?;
        // Who looked at the catalogs has gone by then.
        if status["progress"]["rows_done"].as_u64() > Some(10_000) {
            for (side, server) in [&this.stage.blue, &this.stage.green].into_iter().enumerate() {
                let client = server.connect(DATABASE).await?;
                let found: i32 = client.query_one(sessions, &[]).await?.get(0);
                let mut most = most.lock().unwrap();
                most[side] = found.max(most[side]);
            }
        }
        Ok((status["state"] == "done").then_some(status))
    });
    let ended = ended.await?;
    let took = began.elapsed();
    assert_eq!(ended["report"]["verdict"], "equal", "{ended:#}");
    assert_eq!(most.into_inner()?, [4, 4], "three that compare, and one that finds the chunks");
    // Never faster than it may: 100,000 rows, of which the last chunks need not be paid for.
    assert!(took > Duration::from_millis(4_500), "{took:?}");
    Ok(())
}
