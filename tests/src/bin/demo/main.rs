//! `make demo`: a live PostgreSQL moves to a newer major under load, and everything is checked.
//!
//! Exit code 0 only if nothing was lost, nothing is there twice and no client saw an error.

mod catalog;
mod follow;
mod story;
mod verdict;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::Value;
use tests::ledger::{self, Ledger};
use tests::pgbench::{self, Pgbench};
use tests::postgres::connect_url;
use tests::process::Process;
use tests::stage::{APP, DATABASE, Stage};
use tests::wait;

use story::{Story, count, megabytes};

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

    story.tell("cutover", "$ cutover --when-lag '<1s' --yes");
    let before = Instant::now();
    let mut command = stage
        .cutover_command()?
        .args(["--when-lag", "<1s", "--yes"])
        .start(&stage.path().join("cutover"))?;
    let ended = follow::to_the_end(&mut command, story, 3 * STEP_DEADLINE).await?;
    if !ended.success() {
        bail!("the cutover ended with {ended}; the sidecar said:\n{}", sidecar.log_tail());
    }
    let opened = Instant::now();

    load.more(options, options.seconds).await?;
    for router in &stage.routers {
        let port = router.target_port().await?;
        if port != stage.green.port() {
            bail!("the router on port {} still points at port {port}", router.port());
        }
    }
    let acknowledged = load.ledger.record().acknowledged_since(opened);
    story
        .tell("green", &format!("{} ledger writes acknowledged since", count(acknowledged as u64)));
    let status = stage.api().status()?;
    let gap = load.ledger.longest_gap(before);
    let seen = load.pgbench.stop()?;
    load.ledger.stop()?;
    story.tell("load", "stopped; checking");

    let verdict = verdict::Verdict {
        ledger: load.ledger.check(&stage.green.url(DATABASE)).await?,
        pgbench: seen,
        pgbench_rows: pgbench::check(&stage.green.connect(DATABASE).await?).await,
        catalog: catalog::compare(&changed, &stage.green).await,
        report: status["cutover"]["report"].clone(),
        longest_gap: gap,
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

/// Shows the copy as it goes, until the stream runs.
async fn copy(story: &mut Story, stage: &Stage, sidecar: &mut Process) -> Result<()> {
    let api = stage.api();
    let mut shown = String::new();
    let mut shown_at = Instant::now();
    wait::until("the end of the copy", COPY_DEADLINE, || {
        let step = (|| {
            if let Some(status) = sidecar.ended()? {
                bail!("the sidecar ended with {status}; it said:\n{}", sidecar.log_tail());
            }
            let Ok(status) = api.status() else { return Ok(None) };
            let phase = status["phase"].as_str().unwrap_or_default();
            if phase == "halted" {
                bail!("the sidecar stopped: {}", status["last_error"]);
            }
            let (word, line) = progress(&status);
            // A line a second is enough, and a new phase at once.
            let new_phase = !shown.starts_with(&word);
            if !word.is_empty() && (new_phase || shown_at.elapsed() >= Duration::from_secs(1)) {
                let text = format!("{word} {line}");
                if text != shown {
                    story.tell(&word, &line);
                    shown = text;
                    shown_at = Instant::now();
                }
            }
            Ok(matches!(phase, "streaming" | "catching_up").then_some(()))
        })();
        async { step }
    })
    .await
}

fn progress(status: &Value) -> (String, String) {
    let phase = status["phase"].as_str().unwrap_or_default();
    let copy = &status["backfill"];
    match phase {
        "copying" if !copy.is_null() => {
            let number = |key: &str| copy[key].as_u64().unwrap_or(0);
            let mut line = format!(
                "{}/{} tables, {} rows, {} of {}",
                number("tables_done"),
                number("tables_total"),
                count(number("rows")),
                megabytes(number("bytes")),
                megabytes(number("bytes_total"))
            );
            if let Some(eta) = copy["eta_seconds"].as_f64() {
                line.push_str(&format!(", {eta:.0} s left"));
            }
            ("copying".into(), line)
        }
        "indexing" => ("indexing".into(), copy["doing"].as_str().unwrap_or_default().to_owned()),
        "catching_up" => ("catching up".into(), lag_of(status)),
        _ => (String::new(), String::new()),
    }
}

fn lag_of(status: &Value) -> String {
    match status["lag"]["seconds"].as_f64() {
        Some(lag) => format!("lag {lag:.2} s"),
        None => "lag unknown".to_owned(),
    }
}

/// What writes all the time.
struct Load {
    pgbench: Pgbench,
    ledger: Ledger,
}

impl Load {
    fn ledger_rate(options: &Options) -> u32 {
        (options.tps * 2 / 3).max(10)
    }

    fn start(options: &Options, stage: &Stage) -> Result<Load> {
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
    async fn more(&mut self, options: &Options, seconds: u32) -> Result<()> {
        let writes = Load::ledger_rate(options) * seconds;
        self.ledger.more_acknowledged(writes as usize, STEP_DEADLINE * 2).await?;
        if !self.pgbench.is_running() {
            bail!("pgbench ended by itself: {:?}", self.pgbench.seen()?.errors);
        }
        Ok(())
    }
}
