//! `make demo`: a live PostgreSQL moves to a newer major under load, back, and there again, and
//! everything is checked.
//!
//! Exit code 0 only if nothing was lost, nothing is there twice and no client saw an error.

mod catalog;
mod copying;
mod flip;
mod follow;
mod load;
mod story;
mod verdict;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use tests::ledger;
use tests::pgbench;
use tests::postgres::connect_url;
use tests::stage::{APP, DATABASE, Stage};

use copying::{copy, lag_of};
use flip::Flip;
use load::Load;
use story::{Story, count};

/// Moves a live PostgreSQL to another major version on this machine, under load.
#[derive(Debug, Parser)]
struct Options {
    /// Major version to move from.
    #[arg(long, default_value_t = 13)]
    blue: u32,
    /// Major version to move to.
    #[arg(long, default_value_t = 17)]
    green: u32,
    /// pgbench's scale: 100,000 rows each.
    #[arg(long, default_value_t = 10)]
    scale: u32,
    /// Transactions per second of pgbench; the ledger adds two thirds of it.
    #[arg(long, default_value_t = 300)]
    tps: u32,
    /// Seconds of load on blue before the cutover, and on green after it.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// End with green serving, without the rollback and the second cutover.
    #[arg(long)]
    one_way: bool,
    /// Number of PgBouncers that share the clients.
    #[arg(long, default_value_t = 1)]
    routers: usize,
}

/// For one step that depends on the size of the data.
const COPY_DEADLINE: Duration = Duration::from_secs(1800);
const STEP_DEADLINE: Duration = Duration::from_secs(60);
const LEDGER_ACCOUNTS: u32 = 100;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let mut story = Story::new();
    let mut stage = match set_up(&options, &mut story).await {
        Ok(stage) => stage,
        Err(error) => {
            eprintln!("\nFAILED while setting up: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match play(&options, &mut story, &mut stage).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nFAILED after {:.1} s: {error:#}", story.seconds());
            match stage.keep_logs() {
                Ok(directory) => eprintln!("logs: {}", directory.display()),
                Err(error) => eprintln!("the logs could not be kept: {error:#}"),
            }
            ExitCode::FAILURE
        }
    }
}

async fn set_up(options: &Options, story: &mut Story) -> Result<Stage> {
    let stage =
        Stage::builder(options.blue, options.green).routers(options.routers.max(1)).start().await?;
    for (name, server) in [("blue", &stage.blue), ("green", &stage.green)] {
        let version = server.value("postgres", "SHOW server_version").await?;
        story.tell(name, &format!("PostgreSQL {version} on port {}", server.port()));
    }
    for router in &stage.routers {
        let text = format!("PgBouncer on port {}, pointing at blue", router.port());
        story.tell("router", &text);
    }
    Ok(stage)
}

async fn play(options: &Options, story: &mut Story, stage: &mut Stage) -> Result<()> {
    fill(options, story, stage).await?;

    let mut load = Load::start(options, stage)?;
    load.more(options, 1).await?;
    story.tell(
        "load",
        &format!(
            "pgbench ({} tps) and the ledger ({} tps) are writing through PgBouncer",
            options.tps,
            Load::ledger_rate(options)
        ),
    );

    let mut sidecar = stage.replicator()?;
    story.tell("sidecar", &format!("replicator run --config {}", stage.config_file().display()));
    copy(story, stage, &mut sidecar).await?;
    let status = stage.wait_streaming(&mut sidecar, 1.0, COPY_DEADLINE).await?;
    story.tell("streaming", &lag_of(&status));

    catalog::change(stage).await?;
    let changed = catalog::read(&stage.blue).await?;
    story.tell("catalog", "rows inserted, updated, deleted, and a table truncated on blue");
    load.more(options, options.seconds).await?;
    let status = stage.wait_streaming(&mut sidecar, 1.0, STEP_DEADLINE).await?;
    story.tell("streaming", &lag_of(&status));

    let mut flips = vec![Flip::there(options, story, stage, &sidecar, &mut load).await?];
    if !options.one_way {
        flips.push(Flip::back(options, story, stage, &sidecar, &mut load).await?);
        load.ledger.rest(STEP_DEADLINE).await?;
        let report = load.ledger.check_resting(&stage.blue.url(DATABASE)).await?;
        report.ensure_unnoticed().context("the ledger on blue after the rollback")?;
        story.tell("blue", &format!("ledger: {report}"));
        load.ledger.go_on();
        flips.push(Flip::there(options, story, stage, &sidecar, &mut load).await?);
    }
    let seen = load.pgbench.stop()?;
    load.ledger.stop()?;
    story.tell("load", "stopped; checking");

    let verdict = verdict::Verdict {
        ledger: load.ledger.check(&stage.green.url(DATABASE)).await?,
        pgbench: seen,
        pgbench_rows: pgbench::check(&stage.green.connect(DATABASE).await?).await,
        catalog: catalog::compare(&changed, &stage.green).await,
        flips,
        slowest: load.ledger.record().slowest(),
    };
    verdict.print(story);
    verdict.ensure_all_held()
}

/// The data that is there before anything of ours is.
async fn fill(options: &Options, story: &mut Story, stage: &Stage) -> Result<()> {
    let direct = stage.blue.url_as(APP, DATABASE);
    pgbench::init(&direct, options.scale)?;
    // Without a key an UPDATE of this table could not be replicated. pgbench only inserts, but the
    // publication covers everything, so it gets an identity like any table without a key.
    stage.on_blue("ALTER TABLE pgbench_history REPLICA IDENTITY FULL").await?;
    let app = connect_url(&direct).await?;
    ledger::prepare(&app, LEDGER_ACCOUNTS).await?;
    let items = catalog::create(stage).await?;
    story.tell(
        "data",
        &format!(
            "pgbench scale {} ({} accounts), a ledger, a catalog of {} items of every type",
            options.scale,
            count(u64::from(options.scale) * 100_000),
            count(items)
        ),
    );
    story.tell("data", "pgbench_history has no key: ALTER TABLE .. REPLICA IDENTITY FULL");
    Ok(())
}
