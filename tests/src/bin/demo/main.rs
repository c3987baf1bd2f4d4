//! `make demo`: a live database moves to a newer version under load, back, and there again, and
//! everything is checked.
//!
//! Exit code 0 only if nothing was lost, nothing is there twice and no client saw an error that its
//! router had not to show it: PgBouncer and our own proxy none, HAProxy see [`scene::Way::holds`].

mod copying;
mod flip;
mod follow;
mod load;
mod mysql;
mod play;
mod postgres;
mod scene;
mod story;
mod verdict;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use scene::Scene;
use story::Story;

/// Whose servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    Postgres,
    /// 10.11 to 11.8.
    Mariadb,
    /// 9.7 to 9.7.
    Mysql,
}

/// What clients of MySQL and MariaDB go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Router {
    /// Our own proxy, which makes them wait.
    Embedded,
    /// Which cuts them off.
    Haproxy,
}

/// Moves a live database to another version on this machine, under load.
#[derive(Debug, Parser)]
struct Options {
    #[arg(long, value_enum, default_value_t = Engine::Postgres)]
    engine: Engine,
    /// What clients of MySQL and MariaDB go through; those of PostgreSQL go through PgBouncer.
    #[arg(long, value_enum, default_value_t = Router::Embedded)]
    router: Router,
    /// Major version of PostgreSQL to move from.
    #[arg(long, default_value_t = 13)]
    blue: u32,
    /// Major version of PostgreSQL to move to.
    #[arg(long, default_value_t = 17)]
    green: u32,
    /// pgbench's scale: 100,000 rows each. On MySQL and MariaDB 20,000 rows in tables as sysbench's.
    #[arg(long, default_value_t = 10)]
    scale: u32,
    /// Transactions per second; a ledger adds two thirds of it. On MySQL and MariaDB the ledger writes all.
    #[arg(long, default_value_t = 300)]
    tps: u32,
    /// Seconds of load on blue before the cutover, and on green after it.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// End with green serving, without the rollback and the second cutover.
    #[arg(long)]
    one_way: bool,
    /// Number of PgBouncers that share the clients of PostgreSQL.
    #[arg(long, default_value_t = 1)]
    routers: usize,
}

impl Options {
    /// Of the ledger beside another load, transactions per second.
    fn ledger_rate(&self) -> u32 {
        (self.tps * 2 / 3).max(10)
    }
}

/// For one step that depends on the size of the data.
const COPY_DEADLINE: Duration = Duration::from_secs(1800);
const STEP_DEADLINE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match options.engine {
        Engine::Postgres => show::<postgres::Postgres>(&options).await,
        Engine::Mariadb | Engine::Mysql => show::<mysql::Mysql>(&options).await,
    }
}

async fn show<S: Scene>(options: &Options) -> ExitCode {
    let story = Story::new();
    let mut scene = match S::set(options, &story).await {
        Ok(scene) => scene,
        Err(error) => {
            eprintln!("\nFAILED while setting up: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match play::play(options, &story, &mut scene).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nFAILED after {:.1} s: {error:#}", story.seconds());
            match scene.keep_logs() {
                Ok(directory) => eprintln!("logs: {}", directory.display()),
                Err(error) => eprintln!("the logs could not be kept: {error:#}"),
            }
            ExitCode::FAILURE
        }
    }
}
