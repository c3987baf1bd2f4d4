//! What a run asks before it touches clients, of few tables and of many: how long the comparison of
//! definitions, rights, settings and logins takes, and the whole plan of which it is a part. The gate's last look
//! is the same comparison. Both servers have stock settings, as far as locks go.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::bench::options::Options;
use tests::bench::report::Series;
use tests::process::Process;
use tests::stage::Stage;
use tests::wide;

/// Tables of the two databases that are compared, before `BENCH_SCALE`.
const TABLES: [u64; 2] = [10, 10_000];
/// A database of thousands of tables is made and copied in minutes.
const DEADLINE: Duration = Duration::from_secs(1800);
/// What the sidecar says of each comparison.
const SAID: &str = "definitions, rights and settings compared";

/// For each width, a line of JSON: the comparison's median as `ours`, the plan's beside it.
pub async fn run(options: &Options) -> Result<()> {
    for tables in TABLES {
        let tables = if tables > 100 { options.scaled(tables) } else { tables };
        let mut stage = stage(options).await?;
        if let Err(error) = measure(&stage, options, tables).await {
            let logs = stage.keep_logs()?;
            return Err(error.context(format!("logs: {}", logs.display())));
        }
    }
    Ok(())
}

async fn stage(options: &Options) -> Result<Stage> {
    let mut builder = Stage::builder(options.blue, options.green).routers(0);
    for (name, value) in [
        ("max_locks_per_transaction", "64"),
        ("max_connections", "100"),
        ("max_prepared_transactions", "0"),
    ] {
        builder = builder.blue_setting(name, value).green_setting(name, value);
    }
    builder.config(&options.config).start().await
}

async fn measure(stage: &Stage, options: &Options, tables: u64) -> Result<()> {
    let began = Instant::now();
    wide::make(&stage.blue, tables as usize).await.context("blue's tables")?;
    eprintln!("  {tables} tables made in {:.0} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    let mut sidecar = stage.replicator()?;
    stage.wait_streaming(&mut sidecar, 1.0, DEADLINE).await?;
    eprintln!("  {tables} tables on green after {:.0} s", began.elapsed().as_secs_f64());
    let (mut plans, before) = (Series::default(), compared(&sidecar)?.len());
    for round in 0..options.rounds {
        let began = Instant::now();
        let planned = stage.api().post_within("/v1/plan", &json!({}), DEADLINE)?;
        plans.push(began.elapsed().as_secs_f64());
        ensure!(planned.status == 200, "{}: {}", planned.status, planned.body);
        let plan: Value = serde_json::from_str(&planned.body)?;
        let checks = plan["checks"].as_array().context("no checks")?;
        let told = |check: &&Value| check["name"] == "definitions" && check["severity"] != "ok";
        let differences: Vec<_> = checks.iter().filter(told).collect();
        ensure!(differences.is_empty(), "round {round}: {differences:?}");
    }
    let found: Series = compared(&sidecar)?.into_iter().skip(before).collect();
    ensure!(found.len() == options.rounds, "{} comparisons are in the log", found.len());
    sidecar.terminate()?;
    ensure!(sidecar.wait(DEADLINE)?.success(), "{}", sidecar.log_tail());
    let rounded = |seconds: Option<f64>| json!(seconds.map(|s| (s * 1000.0).round() / 1000.0));
    println!(
        "{{\"bench\":\"definitions\",\"tables\":{tables},\"ours\":{},\"plan\":{},\"unit\":\"s\",\"runs\":{}}}",
        rounded(found.median()),
        rounded(plans.median()),
        found.len()
    );
    Ok(())
}

/// Seconds of each comparison so far.
fn compared(sidecar: &Process) -> Result<Vec<f64>> {
    let log = std::fs::read_to_string(sidecar.log_path())?;
    let said = log.lines().filter(|line| line.contains(SAID));
    let taken = said.map(|line| {
        let digits = |rest: &str| -> String {
            rest.chars()
                .filter(|c| *c != '\u{1b}')
                .skip_while(|c| !c.is_ascii_digit())
                .take_while(char::is_ascii_digit)
                .collect()
        };
        let (_, rest) = line.split_once("duration_ms").context("a line without a duration")?;
        Ok(digits(rest).parse::<f64>()? / 1000.0)
    });
    taken.collect()
}
