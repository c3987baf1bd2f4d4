//! What a run waits for before it holds anybody, and what it refuses to begin with.

use anyhow::{Context, Result, ensure};
use tests::postgres::connect_url;
use tests::process::Process;
use tests::stage::{APP, DATABASE, Stage};
use tests::wait;

use super::{Move, SOON};

const TABLES: &str = "
    CREATE TABLE held (id int PRIMARY KEY);
    CREATE TABLE quiet (id int PRIMARY KEY, note text);
    INSERT INTO quiet SELECT n, 'row ' || n FROM generate_series(1, 500) n";

fn start(this: &Move) -> Result<Process> {
    this.stage
        .cutover_command()?
        .args(["--when-lag", "<1s", "--yes", "--gate-timeout", "5m"])
        .start(&this.stage.path().join("run"))
}

/// Waits until the run says that it waits for something with this in it.
async fn wait_said(this: &Move, run: &mut Process, what: &str) -> Result<String> {
    let api = this.stage.api();
    let mut last = String::new();
    let said = wait::until(&format!("a run that waits for {what}"), SOON, || {
        let found = (|| {
            ensure!(run.ended()?.is_none(), "it ended: {}", run.log_tail());
            last = api.status()?["cutover"]["waiting_for"].as_str().unwrap_or("").to_owned();
            Ok(last.contains(what).then(|| last.clone()))
        })();
        async { found }
    })
    .await;
    said.with_context(|| format!("it says: {last}"))
}

fn ended(run: &mut Process, code: i32) -> Result<()> {
    let status = run.wait(2 * SOON)?;
    ensure!(status.code() == Some(code), "{status} instead of {code}: {}", run.log_tail());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_write_transaction_is_named_and_waited_for() -> Result<()> {
    let this = Move::streaming_with(Stage::builder(15, 17), TABLES).await?;
    let writer = connect_url(&this.stage.blue.url_as(APP, DATABASE)).await?;
    writer.batch_execute("BEGIN; INSERT INTO held VALUES (1)").await?;
    let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    let mut run = start(&this)?;
    let said = wait_said(&this, &mut run, &format!("pid {pid} of role {APP}")).await?;
    ensure!(said.contains("has been writing for"), "{said}");
    this.more(50).await?;
    writer.batch_execute("COMMIT").await.context("nobody may have ended it")?;
    ended(&mut run, 0).with_context(|| this.sidecar.log_tail())?;
    this.ensure_green_serves().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_prepared_meanwhile_is_named_and_waited_for() -> Result<()> {
    let builder = Stage::builder(14, 18).blue_setting("max_prepared_transactions", "10");
    let this = Move::streaming_with(builder, TABLES).await?;
    let app = connect_url(&this.stage.blue.url_as(APP, DATABASE)).await?;
    // The writer keeps the run at its gate until the transaction is prepared.
    app.batch_execute("BEGIN; INSERT INTO held VALUES (1)").await?;
    let mut run = start(&this)?;
    wait_said(&this, &mut run, "has been writing for").await?;
    app.batch_execute("PREPARE TRANSACTION 'left over'").await?;
    wait_said(&this, &mut run, "left over").await?;
    this.more(50).await?;
    app.batch_execute("COMMIT PREPARED 'left over'").await?;
    ended(&mut run, 0).with_context(|| this.sidecar.log_tail())?;
    this.ensure_green_serves().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_green_lacks_is_refused_with_the_tables_name() -> Result<()> {
    let mut this = Move::streaming_with(Stage::builder(13, 17), TABLES).await?;
    this.more(50).await?;
    let planned = this.stage.cutover(&["plan"], SOON)?;
    ensure!(planned.code() == 0, "{}\n{}", planned.stdout, planned.stderr);
    ensure!(planned.stdout.contains("as many rows on green as on blue"), "{}", planned.stdout);

    this.stage.green.execute(DATABASE, "DELETE FROM quiet WHERE id = 7").await?;
    let planned = this.stage.cutover(&["plan"], SOON)?;
    ensure!(planned.code() == 3, "{}: {}", planned.code(), planned.stdout);
    ensure!(planned.stdout.contains("quiet"), "{}", planned.stdout);
    // The command looks at the plan first; a script that does not is refused by the run itself.
    let request = serde_json::json!({ "when_lag": "<1s", "confirmation": "--yes" });
    let started = this.stage.api().post("/v1/cutover", &request)?;
    ensure!(started.status == 202, "{}: {}", started.status, started.body);
    let status = this
        .stage
        .wait_status(&mut this.sidecar, "the run to be over", 2 * SOON, |status| {
            status["cutover"]["report"].is_object()
        })
        .await?;
    let report = &status["cutover"]["report"];
    assert_eq!(report["outcome"], "precheck_failed", "{report}");
    assert_eq!(report["serving"], "blue", "{report}");
    let what = report["error"]["what"].as_str().unwrap_or_default();
    ensure!(what.contains("quiet") && what.contains("500 rows on blue and 499 on green"), "{what}");
    // What is right is not accused, however busy it is.
    assert_eq!(report["checks"]["fail"], 1, "{report}");
    this.more(50).await?;
    this.ledger.stop()?;
    let report = this.ledger.check(&this.stage.blue.url(DATABASE)).await?;
    report.ensure_exact()?;
    report.ensure_unnoticed()
}
