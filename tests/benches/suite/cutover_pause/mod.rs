//! For how long clients can't write while they are taken to the other server: pgbench at 2,000
//! transactions a second through PgBouncer, and a ledger beside it that knows what was acknowledged.
//! Cutover and rollback in turn, `BENCH_ROUNDS` of them in all (default 50).
//!
//! `BENCH_STAY_S` is how long traffic stays where it was taken before the next run (default: only until
//! it flows).
//!
//! The figure is the controller's own: from the first PAUSE to the last RESUME. What a client saw
//! (the longest time without an acknowledged write of the ledger) is told beside it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::bench::options::Options;
use tests::bench::report::{Series, percentile};
use tests::ledger::{self, Ledger};
use tests::pgbench::{self, Pgbench};
use tests::postgres::connect_url;
use tests::process::Process;
use tests::stage::{APP, DATABASE, Stage};

const ROUNDS: usize = 50;
/// Of pgbench, times `BENCH_SCALE`; the ledger's come on top.
const RATE_PER_S: u64 = 2_000;
const CLIENTS: u32 = 8;
/// pgbench's, times `BENCH_SCALE`.
const SCALE: u64 = 10;
const LEDGER_RATE_PER_S: u32 = 100;
/// The floor that was set for this figure, in the place of a peer: nobody else publishes one.
const FLOOR_MS: f64 = 600.0;
const DEADLINE: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(60);

/// Runs the bench and prints its line: it has more fields than the others'.
pub async fn run(options: &Options) -> Result<()> {
    let rounds = match std::env::var_os("BENCH_ROUNDS") {
        Some(_) => options.rounds,
        None => ROUNDS,
    };
    let mut stage = set(options).await?;
    let rate = u32::try_from(options.scaled(RATE_PER_S))?;
    match rounds_on(&stage, rounds, rate).await {
        Ok(found) => {
            println!("{}", found.line()?);
            Ok(())
        }
        Err(error) => {
            let logs = stage.keep_logs()?;
            Err(error.context(format!("logs: {}", logs.display())))
        }
    }
}

async fn set(options: &Options) -> Result<Stage> {
    let mut builder = Stage::builder(options.blue, options.green).config(&options.config);
    for (name, value) in [
        ("synchronous_commit", "off"),
        ("shared_buffers", "256MB"),
        ("max_wal_size", "8GB"),
        ("checkpoint_timeout", "1h"),
        ("max_connections", "200"),
    ] {
        builder = builder.blue_setting(name, value).green_setting(name, value);
    }
    let stage = builder.start().await?;
    let blue = stage.blue.url_as(APP, DATABASE);
    pgbench::init(&blue, u32::try_from(options.scaled(SCALE))?)?;
    let app = connect_url(&blue).await?;
    // It has no key.
    app.batch_execute("ALTER TABLE pgbench_history REPLICA IDENTITY FULL").await?;
    ledger::prepare(&app, 100).await?;
    Ok(stage)
}

async fn rounds_on(stage: &Stage, rounds: usize, rate: u32) -> Result<Found> {
    let mut sidecar = stage.replicator()?;
    stage.wait_streaming(&mut sidecar, 1.0, DEADLINE).await?;
    let url = stage.app_url()?;
    let ledger = ledger::Options { rate: LEDGER_RATE_PER_S, ..ledger::Options::new(url.clone()) };
    let mut ledger = Ledger::start(ledger)?;
    let mut load = Pgbench::start(&url, CLIENTS, rate, &stage.path().join("pgbench"))?;
    ledger.more_acknowledged(100, SOON).await?;
    stage.wait_streaming(&mut sidecar, 1.0, DEADLINE).await?;
    let stay = stay()?;
    let began = Instant::now();
    let mut found = Found::default();
    for round in 0..rounds {
        let is_back = round % 2 == 1;
        let run = change_over(stage, &mut sidecar, is_back)?;
        ledger.more_acknowledged(50, SOON).await?;
        found.add(round, is_back, &run.0, ledger.longest_gap(run.1))?;
        tokio::time::sleep(stay).await;
    }
    let seen = load.stop()?;
    eprintln!(
        "  {:.0} pgbench transactions/s over all, {} errors",
        seen.transactions / began.elapsed().as_secs_f64(),
        seen.errors.len()
    );
    ledger.stop()?;
    let server = if rounds.is_multiple_of(2) { &stage.blue } else { &stage.green };
    let judged = ledger.check(&server.url(DATABASE)).await?;
    judged.ensure_exact()?;
    ensure!(pgbench::check(&server.connect(DATABASE).await?).await? > 0, "no pgbench rows");
    found.client_errors = judged.client_errors + seen.errors.len();
    found.lost = judged.lost + judged.duplicated;
    for line in judged.errors.iter().chain(&seen.errors).take(5) {
        eprintln!("  a client saw: {line}");
    }
    sidecar.terminate()?;
    sidecar.wait(SOON)?;
    Ok(found)
}

fn stay() -> Result<Duration> {
    let Ok(seconds) = std::env::var("BENCH_STAY_S") else { return Ok(Duration::ZERO) };
    let seconds = seconds.parse().with_context(|| format!("BENCH_STAY_S={seconds}"))?;
    Ok(Duration::from_secs(seconds))
}

/// One run as an operator starts it: its report, and since when clients may have waited.
fn change_over(stage: &Stage, sidecar: &mut Process, is_back: bool) -> Result<(Value, Instant)> {
    let common = ["--yes", "--json", "--quiet", "--for", "1s", "--max-pause", "5s"];
    let which: &[&str] = if is_back { &["rollback"] } else { &["--when-lag", "<1s"] };
    let since = Instant::now();
    let ended = stage.cutover(&[which, &common].concat(), DEADLINE)?;
    ensure!(
        ended.code() == 0,
        "exit code {}\n{}\n{}\nthe sidecar's log ends:\n{}",
        ended.code(),
        ended.stdout,
        ended.stderr,
        sidecar.log_tail()
    );
    Ok((serde_json::from_str(&ended.stdout).context("the run's report")?, since))
}

#[derive(Default)]
struct Found {
    forth_ms: Vec<f64>,
    back_ms: Vec<f64>,
    /// Of each step inside the pause, milliseconds.
    steps: BTreeMap<String, Vec<f64>>,
    client_errors: usize,
    lost: usize,
}

impl Found {
    fn add(&mut self, round: usize, is_back: bool, report: &Value, gap: Duration) -> Result<()> {
        let pause_ms = report["pause_ms"].as_f64().context("no pause in the report")?;
        let mut told = String::new();
        let mut last_ms = 0.0;
        for step in report["steps"].as_array().into_iter().flatten() {
            // The steps follow each other: the time up to the end of one is its own and its
            // journal entry's.
            let Some(offset_ms) = step["offset_ms"].as_f64() else { continue };
            let name = step["step"].as_str().context("a step without a name")?.to_owned();
            let took_ms = offset_ms - last_ms;
            last_ms = offset_ms;
            told.push_str(&format!("  {name} {took_ms:.0}"));
            self.steps.entry(name).or_default().push(took_ms);
        }
        let which = if is_back { "back" } else { "forth" };
        eprintln!(
            "  run {:>2} {which:<5}: pause {pause_ms:.1} ms, a client waited {:.1} ms;{told}",
            round + 1,
            gap.as_secs_f64() * 1e3
        );
        if is_back {
            self.back_ms.push(pause_ms)
        } else {
            self.forth_ms.push(pause_ms)
        }
        Ok(())
    }

    fn line(mut self) -> Result<String> {
        for (name, times) in &mut self.steps {
            let median = percentile(times, 0.5).context("no time")?;
            let worst = percentile(times, 1.0).context("no time")?;
            eprintln!("  step {name:<8} median {median:>7.1} ms, worst {worst:>7.1} ms");
        }
        let mut all: Vec<f64> = self.forth_ms.iter().chain(&self.back_ms).copied().collect();
        let spread = all.iter().copied().collect::<Series>().spread();
        let p99 = percentile(&mut all, 0.99).context("no run")?;
        let tenths = |value: f64| json!((value * 10.0).round() / 10.0);
        // One by one: the keys stay in this order, as in the lines of the other benches.
        let fields = [
            ("bench", json!("cutover_pause")),
            ("ours", tenths(p99)),
            ("p50", json!(percentile(&mut all, 0.5).map(tenths))),
            ("peer", json!(FLOOR_MS)),
            ("ratio", tenths(FLOOR_MS / p99)),
            ("unit", json!("ms")),
            ("runs", json!(all.len())),
            ("spread", json!(spread.map(|spread| (spread * 100.0).round() / 100.0))),
            ("client_errors", json!(self.client_errors)),
            ("lost", json!(self.lost)),
            ("rollback_p99", json!(percentile(&mut self.back_ms, 0.99).map(tenths))),
        ];
        let fields = fields.map(|(name, value)| format!("{}:{value}", json!(name)));
        Ok(format!("{{{}}}", fields.join(",")))
    }
}
