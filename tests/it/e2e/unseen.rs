//! A slice of `make unseen`, the same each time: the harness works, and nothing passes unseen.

use anyhow::{Result, ensure};
use tests::unseen::{self, Options, Summary};

async fn slice(runs: u64, only: Option<&str>) -> Result<Summary> {
    let options =
        Options { seed: 1, runs, at: 0, jobs: 2, only: only.map(str::to_owned), is_loud: false };
    let summary = unseen::run(&options).await?;
    ensure!(summary.is_clean(), "{}\n{}", summary.wrong().join("\n\n"), summary.json());
    ensure!(summary.runs() == runs, "{}", summary.json());
    Ok(summary)
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_catalog_never_pass_unseen() -> Result<()> {
    slice(10, None).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_refused_where_nothing_has_changed() -> Result<()> {
    slice(2, Some("none")).await?;
    Ok(())
}
