//! A slice of `make chaos`, the same each time: the harness works, and the product ends legally.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::chaos::{self, Engine, Options, Summary};

/// No run begins later than this; the machine may be busy with other tests.
const WITHIN: Duration = Duration::from_secs(120);

async fn slice(engine: Engine, seed: u64, runs: u64, only: Option<&str>) -> Result<Summary> {
    let options = Options {
        engine,
        seed,
        runs,
        at: 0,
        only: only.map(str::to_owned),
        within: Some(WITHIN),
        is_loud: false,
    };
    let summary = chaos::run(&options).await?;
    ensure!(summary.is_clean(), "{}\n{}", summary.wrong().join("\n\n"), summary.json());
    ensure!(summary.played() > 0, "{}", summary.json());
    Ok(summary)
}

#[tokio::test(flavor = "multi_thread")]
async fn four_runs_in_which_something_goes_wrong_end_as_they_may() -> Result<()> {
    slice(Engine::Postgres, 1, 4, Some("kill -9")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_mariadb_in_which_something_goes_wrong_end_as_they_may() -> Result<()> {
    slice(Engine::Mariadb, 1, 3, None).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_mysql_in_which_something_goes_wrong_end_as_they_may() -> Result<()> {
    slice(Engine::Mysql, 1, 3, None).await?;
    Ok(())
}
