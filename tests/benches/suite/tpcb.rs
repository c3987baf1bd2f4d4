//! pgbench's own TPC-B script: 3 updates and 1 insert per transaction.

use std::time::Duration;

use anyhow::{Context, Result};
use tests::bench::catchup::Workload;
use tests::bench::pair::{BLUE, Pair};
use tests::paths;
use tests::pgbench;
use tests::process::Launch;

pub const SCALE: u32 = 10;
const TRANSACTIONS: u64 = 400_000;
const CLIENTS: u64 = 8;
const DEADLINE: Duration = Duration::from_secs(1800);

pub struct Tpcb;

impl Workload for Tpcb {
    async fn prepare(&self, pair: &Pair) -> Result<()> {
        prepare(pair).await
    }

    async fn backlog(&self, pair: &Pair) -> Result<u64> {
        let each = pair.options().scaled(TRANSACTIONS).div_ceil(CLIENTS);
        Launch::new(paths::postgres_client("pgbench")?)
            .args(["-n", "-M", "prepared", "-j", "2"])
            .args(["-c", &CLIENTS.to_string(), "-t", &each.to_string()])
            .arg(pair.blue.unix_url(BLUE))
            .run(DEADLINE)?
            .success()
            .context("pgbench")?;
        Ok(each * CLIENTS)
    }

    fn changes_per_unit(&self) -> f64 {
        4.0
    }
}

/// pgbench's tables with their foreign keys.
pub async fn prepare(pair: &Pair) -> Result<()> {
    pgbench::init(&pair.blue.url(BLUE), SCALE)?;
    // It has no key; only inserts come.
    pair.on_blue("ALTER TABLE pgbench_history REPLICA IDENTITY FULL").await
}
