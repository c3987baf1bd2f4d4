//! PostgreSQL: pgbench at 2,000 transactions a second through PgBouncer, and a ledger beside it.

use std::time::Instant;

use anyhow::{Result, ensure};
use tests::bench::options::Options;
use tests::ledger::{self, Ledger};
use tests::pgbench::{self, Pgbench};
use tests::postgres::connect_url;
use tests::stage::{APP, DATABASE, Stage};

use super::{DEADLINE, Found, SOON, change_sides, rounds_or};

const ROUNDS: usize = 50;
/// Of pgbench, times `BENCH_SCALE`; the ledger's come on top.
const RATE_PER_S: u64 = 2_000;
const CLIENTS: u32 = 8;
/// pgbench's, times `BENCH_SCALE`.
const SCALE: u64 = 10;
const LEDGER_RATE_PER_S: u32 = 100;
const FLOOR_MS: f64 = 600.0;

pub async fn run(options: &Options) -> Result<Found> {
    let mut stage = set(options).await?;
    let rate = u32::try_from(options.scaled(RATE_PER_S))?;
    match rounds_on(&stage, rounds_or(options, ROUNDS), rate).await {
        Ok(found) => Ok(found),
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
    let began = Instant::now();
    let mut found = Found { floor_ms: FLOOR_MS, ..Found::default() };
    let cutover = |arguments: &[&str]| stage.cutover(arguments, DEADLINE);
    change_sides(rounds, cutover, &sidecar, &ledger, &mut found).await?;
    let seen = load.stop()?;
    eprintln!(
        "  {:.0} pgbench transactions/s over all, {} errors",
        seen.transactions / began.elapsed().as_secs_f64(),
        seen.errors.len()
    );
    ledger.stop()?;
    let server = if rounds.is_multiple_of(2) { &stage.blue } else { &stage.green };
    let judged = ledger.check(&server.url(DATABASE)).await?;
    found.judged(&judged)?;
    ensure!(pgbench::check(&server.connect(DATABASE).await?).await? > 0, "no pgbench rows");
    found.client_errors += seen.errors.len();
    for line in seen.errors.iter().take(5) {
        eprintln!("  a client saw: {line}");
    }
    sidecar.terminate()?;
    ensure!(sidecar.wait(SOON)?.success(), "{}", sidecar.log_tail());
    Ok(found)
}
