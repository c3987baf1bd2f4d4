//! From the acknowledged commit on blue to the row being visible on green, at 500 transactions a
//! second: pgbench's TPC-B at 400, and a probe that inserts 100 rows a second. Green is asked for
//! the newest probe every millisecond by one connection, the same way for both sides.
//!
//! blue commits with `synchronous_commit = on` here: with `off`, the WAL writer's 200 ms would be
//! all that one sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::bench::options::Options;
use tests::bench::pair::{BLUE, Pair, SOON};
use tests::bench::report::{Better, Report, Series, percentile};
use tests::bench::sides::{Running, Side};
use tests::pgbench::Pgbench;
use tests::postgres::connect_url;

use super::tpcb;

const LOAD_PER_S: u32 = 400;
const PROBES_PER_S: u32 = 100;
const PROBES: u64 = 2_000;
/// The first second is not measured.
const WARM_UP_PROBES: usize = 100;
const POLL: Duration = Duration::from_millis(1);

pub async fn run(options: &Options) -> Result<Report> {
    let mut pair = Pair::start(options).await?;
    match rounds(&mut pair).await {
        Ok(report) => Ok(report),
        Err(error) => Err(error.context(format!("logs: {}", pair.keep().display()))),
    }
}

async fn rounds(pair: &mut Pair) -> Result<Report> {
    tpcb::prepare(pair).await?;
    pair.on_blue(
        "CREATE TABLE probe (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())",
    )
    .await?;
    pair.copy().await.context("the first copy")?;
    pair.on_blue(&format!("ALTER DATABASE {BLUE} SET synchronous_commit = on")).await?;
    let (mut ours, mut native) = (Series::default(), Series::default());
    let mut next = 1;
    for round in 0..pair.options().rounds {
        for side in Side::order(pair.options().sides, round) {
            // What the other side has left is worked off before the clock starts.
            let mut running = Running::start(pair, side).await?;
            running.wait_applied(pair, pair.mark().await?).await?;
            pair.settle().await?;
            let probes = pair.options().scaled(PROBES) + WARM_UP_PROBES as u64;
            let mut delays_ms = measure(pair, side, next, probes).await?;
            next += probes;
            let marker = pair.mark().await?;
            running.wait_applied(pair, marker).await?;
            running.stop(pair).await?;
            let shares = [0.5, 0.99, 0.999, 1.0]
                .map(|share| percentile(&mut delays_ms, share).unwrap_or(f64::NAN));
            eprintln!(
                "  round {} {:>6}: {} probes, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
                round + 1,
                side.database(),
                delays_ms.len(),
                shares[0],
                shares[1],
                shares[2],
                shares[3]
            );
            match side {
                Side::Ours => ours.push(shares[1]),
                Side::Native => native.push(shares[1]),
            }
        }
    }
    // Both have to see what came while they were down.
    for side in [Side::Ours, Side::Native] {
        let mut running = Running::start(pair, side).await?;
        running.wait_applied(pair, pair.mark().await?).await?;
        running.stop(pair).await?;
    }
    Ok(Report { bench: "latency", ours, peer: native, unit: "ms p99", better: Better::Less })
}

/// Delays in milliseconds, without the warm-up.
async fn measure(pair: &Pair, side: Side, first: u64, probes: u64) -> Result<Vec<f64>> {
    let log = pair.file("pgbench");
    let mut load = Pgbench::start(&pair.blue.url(BLUE), 4, LOAD_PER_S, &log)?;
    let stop = Arc::new(AtomicBool::new(false));
    let green = pair.green.url(side.database());
    let poller = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || watch(&green, first, probes, &stop)
    });
    let blue = pair.blue.url(BLUE);
    let written = std::thread::spawn(move || write(&blue, first, probes));
    let written = join(written).await;
    if written.is_err() {
        stop.store(true, Ordering::Relaxed);
    }
    let (written, seen) = (written?, join(poller).await?);
    let stopped = load.stop()?;
    ensure!(stopped.errors.is_empty(), "pgbench: {:?}", stopped.errors);
    ensure!(written.len() == seen.len(), "{} probes, {} seen", written.len(), seen.len());
    let delays = written.iter().zip(&seen).skip(WARM_UP_PROBES);
    Ok(delays
        .map(|(written, seen)| seen.saturating_duration_since(*written).as_secs_f64() * 1e3)
        .collect())
}

async fn join<T: Send + 'static>(thread: std::thread::JoinHandle<Result<T>>) -> Result<T> {
    let joined = tokio::task::spawn_blocking(move || thread.join()).await?;
    joined.map_err(|_| anyhow!("a thread of the bench panicked"))?
}

/// One commit every 10 ms; gives the moments at which blue had acknowledged them.
fn write(url: &str, first: u64, probes: u64) -> Result<Vec<Instant>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(connect_url(url))?;
    let insert = runtime.block_on(client.prepare("INSERT INTO probe (id) VALUES ($1)"))?;
    let interval = Duration::from_secs(1) / PROBES_PER_S;
    let start = Instant::now();
    let mut moments = Vec::new();
    for (turn, id) in (first..first + probes).enumerate() {
        let due = start + interval * u32::try_from(turn)?;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        runtime.block_on(client.execute(&insert, &[&i64::try_from(id)?]))?;
        moments.push(Instant::now());
    }
    Ok(moments)
}

/// The moments at which green first showed each of them.
fn watch(url: &str, first: u64, probes: u64, stop: &AtomicBool) -> Result<Vec<Instant>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(connect_url(url))?;
    // What one side's copy knows of a table that was empty then must not choose the plan: by its index
    // on both sides, or looking costs one of them twice as much.
    runtime.block_on(client.batch_execute("SET enable_seqscan = off"))?;
    let newest = "SELECT coalesce(max(id), 0) FROM probe WHERE id >= $1";
    let newest = runtime.block_on(client.prepare(newest))?;
    let from = i64::try_from(first)?;
    let mut moments = Vec::new();
    let mut progress = Instant::now();
    while (moments.len() as u64) < probes && !stop.load(Ordering::Relaxed) {
        let row = runtime.block_on(client.query_one(&newest, &[&from]))?;
        let now = Instant::now();
        let seen = row.get::<_, i64>(0) - from + 1;
        if seen > moments.len() as i64 {
            moments.resize(usize::try_from(seen)?, now);
            progress = now;
        }
        ensure!(progress.elapsed() < SOON, "no probe has come to green for {SOON:?}");
        std::thread::sleep(POLL);
    }
    Ok(moments)
}
