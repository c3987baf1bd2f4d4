//! What a router costs: `pgbench -S` straight to the server, through PgBouncer, and through the
//! embedded proxy, one after the other in each round, in an order that changes with the round.
//! Simple protocol: PgBouncer before 1.21 has no prepared statements in transaction pooling.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::bench::options::Options;
use tests::bench::pair::{BLUE, SOON, server};
use tests::bench::report::Series;
use tests::embedded::Embedded;
use tests::paths;
use tests::pgbench;
use tests::pgbouncer::PgBouncer;
use tests::postgres::SUPERUSER;
use tests::process::Launch;
use tests::scratch::Scratch;
use tests::wait;

/// Clients, each on a connection of its own for the whole time.
const CLIENTS: &str = "8";
/// Seconds of one measurement, at scale 1.
const SECONDS: u64 = 20;
/// Of pgbench's tables: 100,000 accounts each, all in memory.
const TABLES: u32 = 5;

/// Runs it and prints the line of JSON.
pub async fn run(options: &Options) -> Result<()> {
    let major = options.blue;
    let blue = tokio::task::spawn_blocking(move || server(major)).await??;
    blue.create_database(BLUE).await?;
    pgbench::init(&blue.url(BLUE), TABLES)?;
    let bouncer = PgBouncer::builder(&blue, BLUE).start()?;
    let scratch = Scratch::new()?;
    let embedded = Embedded::at(scratch.path().join("proxy.sock"))?;
    let config = scratch.path().join("proxy.toml");
    // The other side is never used: nobody turns the proxy here.
    let text = format!(
        "state_dir = {:?}\n[blue]\nurl = {:?}\n[green]\nurl = {:?}\n\
         [cutover.proxy]\nlisten = \"127.0.0.1:{}\"\n",
        scratch.path(),
        blue.url(BLUE),
        blue.url("postgres"),
        embedded.port()
    );
    std::fs::write(&config, text)?;
    let launch = Launch::ours("replicator")?.arg("proxy").arg("--config").arg(config);
    let _proxy = launch.start(&scratch.path().join("proxy"))?;
    wait::until("the proxy to answer", SOON, || async { Ok(embedded.status().ok()) }).await?;

    let routes = [
        ("direct", blue.url(BLUE)),
        ("pgbouncer", bouncer.url_as(SUPERUSER)),
        ("ours", embedded.url_as(SUPERUSER, BLUE)),
    ];
    let mut series = [(); 3].map(|()| Series::default());
    let seconds = options.scaled(SECONDS);
    for round in 0..options.rounds {
        for turn in 0..routes.len() {
            let at = (turn + round) % routes.len();
            let (name, url) = &routes[at];
            let rate = tps(url, seconds).with_context(|| (*name).to_owned())?;
            eprintln!("  round {} {name:>9}: {rate:.0} tps", round + 1);
            series[at].push(rate);
        }
    }
    let [direct, bouncer, ours] = series;
    let median = |series: &Series| series.median().unwrap_or(f64::NAN);
    println!(
        "{{\"bench\":\"proxy\",\"ours\":{:.0},\"peer\":{:.0},\"ratio\":{:.3},\"direct\":{:.0},\
         \"unit\":\"tps\",\"runs\":{},\"spread\":{:.3}}}",
        median(&ours),
        median(&bouncer),
        median(&ours) / median(&bouncer),
        median(&direct),
        ours.len(),
        ours.spread().unwrap_or(f64::NAN)
    );
    Ok(())
}

/// Transactions a second, without the time to connect.
fn tps(url: &str, seconds: u64) -> Result<f64> {
    let finished = Launch::new(paths::postgres_client("pgbench")?)
        .args(["-n", "-S", "-M", "simple", "-c", CLIENTS, "-j", "2"])
        .args(["-T", &seconds.to_string(), url])
        .run(Duration::from_secs(seconds) + SOON)?
        .success()?;
    let said = format!("{}\n{}", finished.stdout, finished.stderr);
    ensure!(!said.contains("error"), "pgbench: {said}");
    let rate = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
    rate.and_then(|rate| rate.parse().ok()).with_context(|| format!("no rate in: {said}"))
}
