//! MySQL and MariaDB: a ledger at 500 transactions a second through our own proxy, which holds its
//! clients. `ROUTER=haproxy`: through HAProxy, which cuts its clients off and turns away who comes
//! meanwhile; `client_errors` counts both.

use anyhow::{Result, bail, ensure};
use tests::bench::mysql::Versions;
use tests::bench::options::Options;
use tests::ledger::{self, Ledger};
use tests::mysql::{Router, Stage};

use super::{DEADLINE, Found, SOON, change_sides, rounds_or};

const ROUNDS: usize = 20;
/// Times `BENCH_SCALE`.
const RATE_PER_S: u64 = 500;
const FLOOR_MS: f64 = 1_000.0;

pub async fn run(options: &Options, versions: Versions) -> Result<Found> {
    let servers = ["--innodb-buffer-pool-size=256M"];
    let mut stage = match std::env::var("ROUTER").unwrap_or_default().as_str() {
        "" | "embedded" => Stage::embedded(versions, &servers, &options.config)?,
        "haproxy" => Stage::start(versions, &servers, &options.config)?,
        other => bail!("ROUTER is embedded or haproxy, not {other}"),
    };
    let holds = matches!(stage.router, Router::Embedded(_));
    let found = rounds_on(&stage, options).await.and_then(|found| {
        ensure!(!holds || found.client_errors == 0, "clients saw {} errors", found.client_errors);
        Ok(found)
    });
    match found {
        Ok(found) => Ok(found),
        Err(error) => {
            let logs = stage.keep_logs()?;
            Err(error.context(format!("logs: {}", logs.display())))
        }
    }
}

async fn rounds_on(stage: &Stage, options: &Options) -> Result<Found> {
    let rounds = rounds_or(options, ROUNDS);
    let engine = if stage.blue.version().is_mariadb() { "mariadb" } else { "mysql" };
    let mut found = Found { engine: Some(engine), floor_ms: FLOOR_MS, ..Found::default() };
    stage.on_blue(&ledger::mysql::tables(100))?;
    let mut sidecar = stage.replicator()?;
    stage.api().wait_streaming(&mut sidecar, 1.0, DEADLINE).await?;
    let rate = u32::try_from(options.scaled(RATE_PER_S))?;
    let ledger = ledger::Options { rate, ..ledger::Options::new(stage.app_url()) };
    let mut ledger = Ledger::start(ledger)?;
    ledger.more_acknowledged(100, SOON).await?;
    stage.api().wait_streaming(&mut sidecar, 1.0, DEADLINE).await?;
    let cutover = |arguments: &[&str]| stage.cutover(arguments, DEADLINE);
    change_sides(rounds, cutover, &sidecar, &ledger, &mut found).await?;
    ledger.stop()?;
    let server = if rounds.is_multiple_of(2) { &stage.blue } else { &stage.green };
    found.judged(&ledger.check(&stage.mover_url(server)).await?)?;
    sidecar.terminate()?;
    ensure!(sidecar.wait(SOON)?.success(), "{}", sidecar.log_tail());
    Ok(found)
}
