//! Who writes while everything happens.

use anyhow::{Context, Result, bail};
use tests::ledger::{self, Ledger};
use tests::pgbench::Pgbench;
use tests::stage::{APP, Stage};

use crate::{LEDGER_ACCOUNTS, Options, STEP_DEADLINE};

/// What writes all the time.
pub struct Load {
    pub pgbench: Pgbench,
    pub ledger: Ledger,
}

impl Load {
    pub fn ledger_rate(options: &Options) -> u32 {
        (options.tps * 2 / 3).max(10)
    }

    pub fn start(options: &Options, stage: &Stage) -> Result<Load> {
        let last = stage.routers.last().context("a stage without a router")?;
        Ok(Load {
            pgbench: Pgbench::start(
                &stage.app_url()?,
                4,
                options.tps,
                &stage.path().join("pgbench"),
            )?,
            ledger: Ledger::start(ledger::Options {
                rate: Load::ledger_rate(options),
                accounts: LEDGER_ACCOUNTS,
                log: Some(stage.path().join("ledger.log")),
                ..ledger::Options::new(last.url_as(APP))
            })?,
        })
    }

    /// Waits until the ledger has written for about this many seconds more.
    pub async fn more(&mut self, options: &Options, seconds: u32) -> Result<()> {
        let writes = Load::ledger_rate(options) * seconds;
        self.ledger.more_acknowledged(writes as usize, STEP_DEADLINE * 2).await?;
        if !self.pgbench.is_running() {
            bail!("pgbench ended by itself: {:?}", self.pgbench.seen()?.errors);
        }
        Ok(())
    }
}
