//! A drill holds the clients, measures, and leaves no trace.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::stage::{DATABASE, Stage};

use super::{Move, SOON};

const DRILL: [&str; 5] = ["drill", "--yes", "--for", "1s", "--json"];

fn drill(this: &Move, rounds: &str) -> Result<Value> {
    let mut arguments = DRILL.to_vec();
    arguments.extend(["--rounds", rounds]);
    let drilled = this.stage.cutover(&arguments, 3 * SOON)?;
    ensure!(
        drilled.code() == 0,
        "{}: {}\n{}",
        drilled.code(),
        drilled.stderr,
        this.sidecar.log_tail()
    );
    serde_json::from_str(&drilled.stdout).context("no JSON")
}

fn part<'a>(predicted: &'a Value, step: &str) -> Result<&'a Value> {
    let parts = predicted["parts"].as_array().context("no parts")?;
    parts
        .iter()
        .find(|part| part["step"] == step)
        .with_context(|| format!("no {step}: {predicted}"))
}

async fn settings(this: &Move) -> Result<String> {
    let sql = "SELECT datallowconn::text || coalesce((SELECT string_agg(setconfig::text, ';') \
               FROM pg_db_role_setting WHERE setdatabase = d.oid), '-') \
               FROM pg_database d WHERE datname = current_database()";
    this.stage.blue.value(DATABASE, sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_predicts_the_pause_and_the_run_after_it_is_the_second_one() -> Result<()> {
    let this = Move::streaming(Stage::builder(13, 17).routers(2)).await?;
    this.more(50).await?;
    let before = settings(&this).await?;
    let predicted = drill(&this, "3")?;
    println!("predicted: {predicted}");
    assert_eq!((&predicted["rounds"], &predicted["direction"]), (&json!(3), &json!("forward")));
    for step in ["quiesce", "drain", "open"] {
        assert_eq!(part(&predicted, step)?["source"], "measured", "{predicted}");
    }
    for step in ["fence", "sync", "seal", "commit", "flip"] {
        ensure!(part(&predicted, step)?["source"]["estimated"].is_string(), "{predicted}");
    }
    let total = predicted["p50_ms"].as_f64().context("no sum")?;
    ensure!(total > 0.0 && predicted["max_ms"].as_f64().is_some_and(|max| max >= total));

    // Nothing of it is left, and nobody noticed.
    assert_eq!(settings(&this).await?, before);
    for router in &this.stage.routers {
        assert_eq!(router.target_port().await?, this.stage.blue.port());
    }
    let decided = "SELECT count(*) FROM _cutover.decision";
    assert_eq!(this.stage.green.value(DATABASE, decided).await?, "0");
    this.more(50).await?;
    let status = this.stage.api().status()?;
    assert_eq!(status["cutover"]["report"]["outcome"], "drilled", "{status}");
    let history = this.stage.api().json("/v1/history")?;
    let outcomes: Vec<_> = history["runs"].as_array().context("no runs")?.iter().collect();
    assert!(outcomes.iter().all(|run| run["outcome"] == "drilled"), "{history}");

    let finished = this.stage.cutover(&["--when-lag", "<1s", "--yes"], 2 * SOON)?;
    ensure!(finished.code() == 0, "{}\n{}", finished.stderr, this.sidecar.log_tail());
    let report = this.stage.api().status()?["cutover"]["report"].clone();
    println!("the run: {} ms", report["pause_ms"]);
    this.ensure_green_serves().await
}

/// Who cuts the sidecar down in the middle of a drill finds everything as it was.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_clients_are_held_it_is_put_back() -> Result<()> {
    let (stage, ledger) = super::set(Stage::builder(15, 17), "SELECT").await?;
    let points = stage.path().join("failpoints");
    std::fs::create_dir(&points)?;
    let sidecar = stage
        .replicator_command("run")?
        .env("CUTOVER_FAILPOINTS", &points)
        .start(&stage.path().join("replicator"))?;
    let mut this = Move { stage, sidecar, ledger };
    this.wait_streaming().await?;
    let before = settings(&this).await?;
    // The name of the moment is that of the step in whose place a drill measures.
    std::fs::write(points.join("act.raise_fence.before"), "kill")?;
    let request = json!({ "when_lag": "<1s", "for_ms": 0, "drill": true, "confirmation": "--yes" });
    let started = this.stage.api().post("/v1/cutover", &request)?;
    ensure!(started.status == 202, "{}: {}", started.status, started.body);
    this.wait_end().await?;
    this.restart_sidecar()?;
    this.more(50).await.context("clients must go on")?;
    this.wait_streaming().await?;
    assert_eq!(settings(&this).await?, before);
    let report = this.stage.api().json("/v1/cutover/last/report")?;
    assert_eq!((&report["outcome"], &report["serving"]), (&json!("aborted"), &json!("blue")));
    this.ensure_exact_copy().await?.ensure_unnoticed()
}
