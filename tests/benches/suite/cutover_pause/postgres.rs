//! PostgreSQL: pgbench at 2,000 transactions a second through PgBouncer, and a ledger beside it. With
//! `BENCH_TABLES` there are so many tables more, each with a row and a sequence, to which nobody writes.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
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

/// Tables that are made in one transaction, each of which takes some locks until its end.
const MADE_AT_ONCE: usize = 100;
/// `max_locks_per_transaction` of a green that is to take more tables than this at once: its schema is restored
/// in one transaction.
const MANY_TABLES: usize = 1_000;
const LOCKS_OF_MANY: &str = "512";

pub async fn run(options: &Options) -> Result<Found> {
    let tables = tables()?;
    let mut stage = set(options, tables).await?;
    let rate = u32::try_from(options.scaled(RATE_PER_S))?;
    match rounds_on(&stage, rounds_or(options, ROUNDS), rate).await {
        Ok(found) => Ok(found),
        Err(error) => {
            let logs = stage.keep_logs()?;
            Err(error.context(format!("logs: {}", logs.display())))
        }
    }
}

fn tables() -> Result<usize> {
    let Ok(tables) = std::env::var("BENCH_TABLES") else { return Ok(0) };
    tables.parse().with_context(|| format!("BENCH_TABLES={tables}"))
}

async fn set(options: &Options, tables: usize) -> Result<Stage> {
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
    if tables > MANY_TABLES {
        builder = builder.green_setting("max_locks_per_transaction", LOCKS_OF_MANY);
    }
    let stage = builder.start().await?;
    let blue = stage.blue.url_as(APP, DATABASE);
    pgbench::init(&blue, u32::try_from(options.scaled(SCALE))?)?;
    let app = connect_url(&blue).await?;
    // It has no key.
    app.batch_execute("ALTER TABLE pgbench_history REPLICA IDENTITY FULL").await?;
    ledger::prepare(&app, 100).await?;
    for from in (0..tables).step_by(MADE_AT_ONCE) {
        let to = tables.min(from + MADE_AT_ONCE) - 1;
        let make = format!(
            "DO $$ BEGIN FOR i IN {from}..{to} LOOP \
             EXECUTE format('CREATE TABLE many_%s (id bigserial PRIMARY KEY, who text)', i); \
             EXECUTE format('INSERT INTO many_%s (who) VALUES (NULL)', i); END LOOP; END $$"
        );
        app.batch_execute(&make).await?;
    }
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
