//! `cutover verify --continuous`: what is written is looked at again, so that a proof stays young.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::stage::{APP, DATABASE, Stage};
use tests::wait;
use tokio_postgres::Client;

use super::{Move, SOON};

/// `big` is stored beside the row, so an update of `v` does not send it, nor mend it.
const TABLES: &str = "
    CREATE TABLE hot (id int PRIMARY KEY, v bigint NOT NULL, big text NOT NULL);
    ALTER TABLE hot ALTER COLUMN big SET STORAGE EXTERNAL;
    INSERT INTO hot SELECT n, 0, repeat(md5(n::text), 200) FROM generate_series(1, 200) n;
    CREATE TABLE named (name text, at timestamptz, v int, PRIMARY KEY (name, at));
    INSERT INTO named SELECT 'n' || n, '2024-01-01', n FROM generate_series(1, 50) n;
    CREATE TABLE bag (a int, b text);
    ALTER TABLE bag REPLICA IDENTITY FULL;
    INSERT INTO bag SELECT n % 50, 'b' FROM generate_series(1, 500) n;
";

/// Everything that a stream brings, over and over.
async fn churn(client: Client, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut done = 0u64;
    while !stop.load(Ordering::SeqCst) {
        let n = done * 7919 % 150 + 1;
        let sql = format!(
            "UPDATE hot SET v = v + 1 WHERE id = {n};
             UPDATE named SET name = name || 'x' WHERE name = 'n{n}';
             UPDATE named SET name = 'n{n}' WHERE name = 'n{n}x';
             INSERT INTO hot VALUES (1000 + {n}, 0, 'small') ON CONFLICT (id) DO NOTHING;
             DELETE FROM hot WHERE id = 1000 + {n} - 5"
        );
        client.batch_execute(&sql).await.map_err(|error| tests::postgres::describe(&error))?;
        done += 1;
    }
    Ok(done)
}

fn expect(this: &Move, arguments: &[&str], code: i32) -> Result<Value> {
    let finished = this.stage.cutover(&[arguments, &["--json"]].concat(), 3 * SOON)?;
    ensure!(
        finished.code() == code,
        "{arguments:?}: exit code {} instead of {code}\n--- stdout\n{}\n--- stderr\n{}\n--- log\n{}",
        finished.code(),
        finished.stdout,
        finished.stderr,
        this.sidecar.log_tail()
    );
    serde_json::from_str(&finished.stdout).with_context(|| finished.stdout)
}

/// Waits until the verification that goes on is as `is` wants it.
async fn until(this: &Move, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
    let api = this.stage.api();
    let seen = wait::until(what, SOON, || {
        let status = api.status().map(|status| status["verification"].clone());
        let fits = status.map(|status| is(&status).then_some(status));
        async { fits }
    });
    seen.await.with_context(|| format!("{:#}", api.status().unwrap_or_default()))
}

fn number(status: &Value, name: &str) -> u64 {
    status[name].as_u64().unwrap_or_default()
}

fn the_check(plan: &Value) -> Result<Value> {
    let checks = plan["checks"].as_array().context("no checks")?;
    let found = checks.iter().find(|check| check["name"] == "verification");
    Ok(found.context("no such check")?.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_stays_young_while_rows_are_written() -> Result<()> {
    let this = Move::streaming_with(Stage::builder(15, 17), TABLES).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let client = tests::postgres::connect_url(&this.stage.blue.url_as(APP, DATABASE)).await?;
    let writer = tokio::spawn(churn(client, Arc::clone(&stop)));
    let (blue, green) = (&this.stage.blue, &this.stage.green);

    let check = the_check(&expect(&this, &["plan"], 0)?)?;
    assert_eq!(check["severity"], "warn", "{check}");
    expect(&this, &["plan", "--require-verified", "1h"], 3)?;
    let report = expect(&this, &["verify", "--continuous"], 0)?;
    until(&this, "the whole to be proven", |status| status["is_proven"] == true).await?;
    let seen = until(&this, "rows to be looked at again", |s| number(s, "rechecked") > 500).await?;
    assert_eq!((&seen["differences"], &seen["id"]), (&0.into(), &report["id"]), "{seen:#}");

    // Older than what is asked for, and yet a proof: what was written since is younger.
    let since = Instant::now();
    let is_young = |status: &Value| status["oldest_seconds"].as_f64().is_none_or(|age| age < 8.0);
    let later = |status: &Value| since.elapsed() > Duration::from_secs(11) && is_young(status);
    until(&this, "only the last seconds to be unproven", later).await?;
    let plan = expect(&this, &["plan", "--require-verified", "10s"], 0)?;
    let check = the_check(&plan)?;
    assert!(check["severity"] == "ok" && check["evidence"].to_string().contains("continuous"));

    // A table without a key is compared again as a whole.
    let before = number(&until(&this, "the count", |_| true).await?, "rechecked");
    blue.execute(DATABASE, "INSERT INTO bag SELECT n, 'new' FROM generate_series(1, 9) n").await?;
    until(&this, "the table to be clean again", |status| {
        let is_clean = status["dirty"].as_array().is_some_and(Vec::is_empty);
        is_clean && number(status, "rechecked") > before + 509
    })
    .await?;

    // Behind the stream's back, in a row that is written: the next look at it finds it.
    green.execute(DATABASE, "UPDATE hot SET big = 'x' || big WHERE id = 8").await?;
    until(&this, "the difference", |status| number(status, "differences") > 0).await?;
    let refused = the_check(&expect(&this, &["plan"], 3)?)?;
    assert!(refused["evidence"].to_string().contains("1 differences"), "{refused}");
    expect(&this, &["--when-lag", "<1s", "--yes"], 3)?;
    let repaired = expect(&this, &["repair", "--yes"], 0)?;
    assert_eq!(repaired["tables"][0]["verified"], 1, "{repaired:#}");
    expect(&this, &["verify", "--continuous"], 0)?;
    until(&this, "the whole to be proven again", |status| status["is_proven"] == true).await?;
    expect(&this, &["plan"], 0)?;

    expect(&this, &["verify", "--stop"], 0)?;
    assert_eq!(this.stage.api().status()?["verification"], Value::Null);
    expect(&this, &["plan"], 0)?;
    stop.store(true, Ordering::SeqCst);
    let done = writer.await??;
    assert!(done > 200, "{done} transactions have shown nothing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cutover_goes_by_a_proof_that_went_on() -> Result<()> {
    let this = Move::streaming_with(Stage::builder(15, 17).routers(1), TABLES).await?;
    expect(&this, &["verify", "--continuous"], 0)?;
    this.more(100).await?;
    let go = ["--when-lag", "<1s", "--max-pause", "30s", "--require-verified", "1h", "--yes"];
    expect(&this, &go, 0)?;
    until(&this, "it to end with the direction", Value::is_null).await?;
    let report = expect(&this, &["report"], 0)?;
    let proof = report["findings"].as_array().context("no findings")?;
    let proof = proof.iter().filter(|check| check["name"] == "verification");
    assert_eq!(proof.count(), 1, "{report:#}");
    let audit = expect(&this, &["audit"], 0)?.to_string();
    assert!(audit.contains("verification at the fence: "), "{audit}");
    this.more(50).await?;
    this.ensure_green_serves().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_that_is_found_while_a_run_waits_ends_it() -> Result<()> {
    let mut this = Move::streaming_with(Stage::builder(15, 17), TABLES).await?;
    expect(&this, &["verify", "--continuous"], 0)?;
    until(&this, "the whole to be proven", |status| status["is_proven"] == true).await?;
    let log = this.stage.path().join("waiting");
    let patient = ["--when-lag", "<1s", "--for", "20m", "--gate-timeout", "30m", "--yes"];
    let mut waiting = this.stage.cutover_command()?.args(patient).start(&log)?;
    let gate = |status: &Value| {
        let phase = &status["cutover"]["phase"];
        phase == "armed" || phase == "gate"
    };
    let armed = this.stage.wait_status(&mut this.sidecar, "the run to wait", SOON, gate).await;
    armed.with_context(|| waiting.log_tail())?;
    let (blue, green) = (&this.stage.blue, &this.stage.green);
    green.execute(DATABASE, "UPDATE hot SET big = 'x' || big WHERE id = 8").await?;
    blue.execute(DATABASE, "UPDATE hot SET v = v + 1 WHERE id = 8").await?;
    let ended = waiting.wait(3 * SOON)?;
    let said = waiting.log_tail();
    ensure!(ended.code() == Some(3), "{ended}: {said}");
    ensure!(said.contains("1 differences") && said.contains("nothing was touched"), "{said}");
    // Clients were never kept out.
    this.more(50).await
}
