//! Who writes while everything happens.

use anyhow::{Result, bail};
use tests::ledger::{self, Ledger};
use tests::pgbench::{Pgbench, Seen};

use crate::STEP_DEADLINE;
use crate::scene::Scene;

/// The accounts of the ledger.
pub const ACCOUNTS: u32 = 100;

/// What writes all the time.
pub struct Load {
    pub ledger: Ledger,
    pgbench: Option<Pgbench>,
    /// What pgbench saw until it was stopped.
    pub seen: Option<Seen>,
    /// Of the ledger, transactions per second.
    rate: u32,
    told: String,
}

impl Load {
    /// A ledger at this rate behind this URL.
    pub fn start(scene: &impl Scene, url: String, rate: u32) -> Result<Load> {
        let log = Some(scene.path().join("ledger.log"));
        let options =
            ledger::Options { rate, accounts: ACCOUNTS, log, ..ledger::Options::new(url) };
        let ledger = Ledger::start(options)?;
        let told = format!("the ledger ({rate} tps)");
        Ok(Load { ledger, pgbench: None, seen: None, rate, told })
    }

    /// The same with a pgbench beside it.
    pub fn and_pgbench(self, pgbench: Pgbench, rate: u32) -> Load {
        let told = format!("pgbench ({rate} tps) and {}", self.told);
        Load { pgbench: Some(pgbench), told, ..self }
    }

    /// Who they are.
    pub fn told(&self) -> &str {
        &self.told
    }

    /// Waits until the ledger has written for about this many seconds more.
    pub async fn more(&mut self, seconds: u32) -> Result<()> {
        let writes = self.rate * seconds;
        self.ledger.more_acknowledged(writes as usize, STEP_DEADLINE * 2).await?;
        if let Some(pgbench) = &mut self.pgbench
            && !pgbench.is_running()
        {
            bail!("pgbench ended by itself: {:?}", pgbench.seen()?.errors);
        }
        Ok(())
    }

    /// Ends pgbench, and lets the ledger's clients end what they have begun.
    pub async fn stop(&mut self) -> Result<()> {
        self.seen = self.pgbench.take().map(|mut pgbench| pgbench.stop()).transpose()?;
        self.ledger.rest(STEP_DEADLINE).await
    }
}
