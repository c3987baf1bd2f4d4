//! End to end: the programs as an operator runs them, on real servers, under load.

mod alerts;
mod api;
mod audit;
mod bad_input;
mod chaos;
mod check_mysql;
mod continuous;
mod copy_locks;
mod cutover;
mod definitions;
mod definitions_texts;
mod drill;
mod finish;
mod firing_triggers;
mod firing_triggers_doubt;
mod firing_triggers_flip;
mod forged;
mod gate;
mod halts;
mod halts_back;
mod halts_mysql;
mod halts_mysql_back;
mod halts_rights;
mod handover;
mod huge;
mod intruder;
mod lag;
mod lanes;
mod large_objects;
mod matviews;
mod moved_rows;
mod mysql;
mod mysql_automation;
mod mysql_continuous;
mod mysql_crashes;
mod mysql_cutover;
mod mysql_ddl;
mod mysql_flips;
mod mysql_proxy;
mod mysql_repair;
mod network;
mod operators;
mod plan;
mod prometheus;
mod protect;
mod proxy;
mod proxy_versions;
mod repair;
mod restarts;
mod rollback;
mod schema_drift;
mod superseded;
mod switches;
mod tail;
mod tail_binlog;
mod truncate;
mod unseen;
mod verify;
mod verify_chosen;
mod verify_limits;
mod verify_objects;
mod verify_resume;
mod verify_types;
mod watch;
mod watchdog;
mod way_back;
mod width;

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tests::compare::{self, Sequences};
use tests::ledger::{self, Ledger, LedgerReport};
use tests::process::Process;
use tests::stage::{self, APP, DATABASE, Stage};

/// For anything that takes a moment; two cores may be shared by several tests.
pub const SOON: Duration = Duration::from_secs(60);

/// A move that is under way: blue has a ledger under load, the sidecar runs.
pub struct Move {
    pub stage: Stage,
    pub sidecar: Process,
    pub ledger: Ledger,
}

impl Move {
    /// Sets the stage, with the ledger writing and more tables on blue, and starts the sidecar.
    pub async fn start_with(builder: stage::Builder, sql: &str) -> Result<Move> {
        let (stage, ledger) = set(builder, sql).await?;
        let sidecar = stage.replicator()?;
        Ok(Move { stage, sidecar, ledger })
    }

    /// Sets the stage, starts the sidecar and waits until it streams with a small lag.
    pub async fn streaming(builder: stage::Builder) -> Result<Move> {
        Move::streaming_with(builder, "SELECT").await
    }

    pub async fn streaming_with(builder: stage::Builder, sql: &str) -> Result<Move> {
        let mut this = Move::start_with(builder, sql).await?;
        this.wait_streaming().await?;
        Ok(this)
    }

    pub async fn wait_streaming(&mut self) -> Result<Value> {
        self.stage.wait_streaming(&mut self.sidecar, 1.0, 2 * SOON).await
    }

    /// Waits for more acknowledged writes: proof that blue serves, and load for the stream.
    pub async fn more(&self, writes: usize) -> Result<()> {
        self.ledger.more_acknowledged(writes, SOON).await
    }

    pub fn restart_sidecar(&mut self) -> Result<()> {
        self.sidecar = self.stage.replicator()?;
        Ok(())
    }

    /// Waits until the sidecar has ended by itself, and gives its exit code and last words.
    pub async fn wait_end(&mut self) -> Result<(i32, String)> {
        let sidecar = &mut self.sidecar;
        let status = tests::wait::until("the sidecar to stop by itself", SOON, || {
            let ended = sidecar.ended();
            async { ended }
        })
        .await
        .with_context(|| format!("it still runs; its log ends:\n{}", sidecar.log_tail()))?;
        Ok((status.code().unwrap_or(-1), sidecar.stderr()?))
    }

    /// Green serves: the load goes on there, and no client has noticed anything.
    pub async fn ensure_green_serves(mut self) -> Result<()> {
        self.more(50).await?;
        self.ledger.stop()?;
        let report = self.ledger.check(&self.stage.green.url(DATABASE)).await?;
        report.ensure_exact()?;
        report.ensure_unnoticed()
    }

    /// Stops the load, waits until green has caught up, and compares everything.
    pub async fn ensure_exact_copy(&mut self) -> Result<LedgerReport> {
        self.ledger.stop()?;
        let caught_up = self.stage.wait_caught_up(2 * SOON).await;
        caught_up
            .with_context(|| format!("the sidecar's log ends:\n{}", self.sidecar.log_tail()))?;
        let (blue, green) = (self.stage.blue.url(DATABASE), self.stage.green.url(DATABASE));
        compare::ensure_equal(&blue, &green, Sequences::Ignored).await?;
        let report = self.ledger.check(&green).await?;
        report.ensure_exact()?;
        Ok(report)
    }
}

/// Blue with a ledger under load, and whatever else `sql` makes; no sidecar yet.
pub async fn set(builder: stage::Builder, sql: &str) -> Result<(Stage, Ledger)> {
    let stage = builder.start().await?;
    stage.create_marker().await?;
    let direct = stage.blue.url_as(APP, DATABASE);
    let app = tests::postgres::connect_url(&direct).await?;
    ledger::prepare(&app, 50).await?;
    app.batch_execute(sql).await.context("the test's own tables")?;
    let url = stage.app_url().unwrap_or(direct);
    let options = ledger::Options {
        clients: 4,
        accounts: 50,
        log: Some(stage.path().join("ledger.log")),
        ..ledger::Options::new(url)
    };
    let ledger = Ledger::start(options)?;
    ledger.more_acknowledged(20, SOON).await?;
    Ok((stage, ledger))
}

/// Whole tests are repeated this often with another value of this variable.
pub fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
