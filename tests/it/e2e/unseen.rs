//! A slice of `make unseen`, the same each time: the harness works, and nothing passes unseen.

use anyhow::{Result, ensure};
use tests::unseen::{self, Engine, Options, Summary};

async fn slice(engine: Engine, runs: u64, only: Option<&str>) -> Result<Summary> {
    let only = only.map(str::to_owned);
    let options =
        Options { engine, seed: 1, runs, at: 0, jobs: 2, only, is_alone: false, is_loud: false };
    let summary = unseen::run(&options).await?;
    ensure!(summary.is_clean(), "{}\n{}", summary.wrong().join("\n\n"), summary.json());
    ensure!(summary.runs() == runs, "{}", summary.json());
    Ok(summary)
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_catalog_never_pass_unseen() -> Result<()> {
    slice(Engine::Postgres, 10, None).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_refused_where_nothing_has_changed() -> Result<()> {
    slice(Engine::Postgres, 2, Some("none")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_mariadb_never_pass_unseen() -> Result<()> {
    slice(Engine::Mariadb, 3, None).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_mysql_never_pass_unseen() -> Result<()> {
    slice(Engine::Mysql, 3, None).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_refused_on_mysql_and_mariadb_where_nothing_has_changed() -> Result<()> {
    for engine in [Engine::Mariadb, Engine::Mysql] {
        slice(engine, 1, Some("none")).await?;
    }
    Ok(())
}
