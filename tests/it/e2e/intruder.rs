//! What users of the databases and of the host may not do: see [`tests::intruder`].

use anyhow::{Result, ensure};
use tests::intruder;

#[tokio::test(flavor = "multi_thread")]
async fn no_user_of_the_databases_or_the_host_does_harm() -> Result<()> {
    let summary = intruder::run(15, 17).await?;
    let harmed: Vec<_> = summary.harmed().collect();
    ensure!(harmed.is_empty(), "{harmed:#?}");
    ensure!(summary.attempts.len() > 40, "{}", summary.json());
    Ok(())
}
