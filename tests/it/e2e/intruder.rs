//! What users of the databases and of the host may not do: see [`tests::intruder`].

use anyhow::{Result, ensure};
use tests::intruder;
use tests::mysql::Version;

#[tokio::test(flavor = "multi_thread")]
async fn no_user_of_the_databases_or_the_host_does_harm() -> Result<()> {
    let summary = intruder::run(15, 17).await?;
    let harmed: Vec<_> = summary.harmed().collect();
    ensure!(harmed.is_empty(), "{harmed:#?}");
    ensure!(summary.attempts.len() > 150, "{}", summary.json());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_account_of_mariadb_does_harm() -> Result<()> {
    no_account_does_harm((Version::Mariadb10_11, Version::Mariadb11_8)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_account_of_mysql_does_harm() -> Result<()> {
    no_account_does_harm((Version::Mysql9_7, Version::Mysql9_7)).await
}

async fn no_account_does_harm(versions: (Version, Version)) -> Result<()> {
    let summary = intruder::mysql::run(versions).await?;
    let harmed: Vec<_> = summary.harmed().collect();
    ensure!(harmed.is_empty(), "{harmed:#?}");
    ensure!(summary.attempts.len() > 40, "{}", summary.json());
    Ok(())
}
