//! For how long clients can't write while they are taken to the other server. Cutover and rollback in
//! turn, `BENCH_ROUNDS` of them in all, under a load with a ledger that knows what was acknowledged.
//!
//! `ENGINE` says whose servers: `postgres` (default), `mariadb` or `mysql`. `ROUTER` says what the clients
//! of the last two go through: `embedded` (default) or `haproxy`.
//!
//! `BENCH_TABLES` is how many tables more there are on PostgreSQL (default: none).
//!
//! `BENCH_STAY_S` is how long traffic stays where it was taken before the next run (default: only until
//! it flows).
//!
//! The figure is the controller's own: from the first PAUSE to the last RESUME. What a client saw
//! (the longest time without an acknowledged write of the ledger) is told beside it.

mod mysql;
mod postgres;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::bench::mysql::{MARIADB, MYSQL};
use tests::bench::options::Options;
use tests::bench::report::{Series, percentile};
use tests::ledger::{Ledger, LedgerReport};
use tests::process::{Finished, Process};

const DEADLINE: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(60);

/// Runs the bench and prints its line: it has more fields than the others'.
pub async fn run(options: &Options) -> Result<()> {
    let engine = std::env::var("ENGINE").unwrap_or_default();
    let found = match engine.as_str() {
        "" | "postgres" => postgres::run(options).await?,
        "mariadb" => mysql::run(options, MARIADB).await?,
        "mysql" => mysql::run(options, MYSQL).await?,
        other => bail!("ENGINE is postgres, mariadb or mysql, not {other}"),
    };
    println!("{}", found.line()?);
    Ok(())
}

/// `BENCH_ROUNDS`, or this many.
fn rounds_or(options: &Options, default: usize) -> usize {
    match std::env::var_os("BENCH_ROUNDS") {
        Some(_) => options.rounds,
        None => default,
    }
}

/// All runs under a load that flows already: `cutover` runs the command with its arguments.
async fn change_sides(
    rounds: usize,
    cutover: impl Fn(&[&str]) -> Result<Finished>,
    sidecar: &Process,
    ledger: &Ledger,
    found: &mut Found,
) -> Result<()> {
    let stay = stay()?;
    for round in 0..rounds {
        let is_back = round % 2 == 1;
        let run = change_over(&cutover, sidecar, is_back)?;
        ledger.more_acknowledged(50, SOON).await?;
        found.add(round, is_back, &run.0, ledger.longest_gap(run.1))?;
        tokio::time::sleep(stay).await;
    }
    Ok(())
}

fn stay() -> Result<Duration> {
    let Ok(seconds) = std::env::var("BENCH_STAY_S") else { return Ok(Duration::ZERO) };
    let seconds = seconds.parse().with_context(|| format!("BENCH_STAY_S={seconds}"))?;
    Ok(Duration::from_secs(seconds))
}

/// One run as an operator starts it: its report, and since when clients may have waited.
fn change_over(
    cutover: impl Fn(&[&str]) -> Result<Finished>,
    sidecar: &Process,
    is_back: bool,
) -> Result<(Value, Instant)> {
    let common = ["--yes", "--json", "--quiet", "--for", "1s", "--max-pause", "5s"];
    let which: &[&str] = if is_back { &["rollback"] } else { &["--when-lag", "<1s"] };
    let since = Instant::now();
    let ended = cutover(&[which, &common].concat())?;
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

/// What the runs gave.
#[derive(Default)]
struct Found {
    /// `ENGINE`, where it is not PostgreSQL.
    engine: Option<&'static str>,
    /// The floor that was set for this figure, in the place of a peer: nobody else publishes one.
    floor_ms: f64,
    forth_ms: Vec<f64>,
    back_ms: Vec<f64>,
    /// Of each step inside the pause, milliseconds.
    steps: BTreeMap<String, Vec<f64>>,
    client_errors: usize,
    lost: usize,
}

impl Found {
    /// What the ledger's clients saw, and whether everything is there. Fails unless it is.
    fn judged(&mut self, judged: &LedgerReport) -> Result<()> {
        for line in judged.errors.iter().take(5) {
            eprintln!("  a client saw: {line}");
        }
        judged.ensure_exact()?;
        self.client_errors += judged.client_errors;
        self.lost += judged.lost + judged.duplicated;
        Ok(())
    }

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
        let engine = self.engine.map(|engine| ("engine", json!(engine)));
        let fields = [
            ("bench", json!("cutover_pause")),
            ("ours", tenths(p99)),
            ("p50", json!(percentile(&mut all, 0.5).map(tenths))),
            ("peer", json!(self.floor_ms)),
            ("ratio", tenths(self.floor_ms / p99)),
            ("unit", json!("ms")),
            ("runs", json!(all.len())),
            ("spread", json!(spread.map(|spread| (spread * 100.0).round() / 100.0))),
            ("client_errors", json!(self.client_errors)),
            ("lost", json!(self.lost)),
            ("rollback_p99", json!(percentile(&mut self.back_ms, 0.99).map(tenths))),
        ];
        let fields = fields.into_iter().chain(engine);
        let fields: Vec<_> =
            fields.map(|(name, value)| format!("{}:{value}", json!(name))).collect();
        Ok(format!("{{{}}}", fields.join(",")))
    }
}
