//! Transactions that are larger than all memory that the sidecar may take.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tests::stage::{DATABASE, Stage};
use tests::wait;

use super::{Move, SOON, from_env};

/// Little memory, so that a transaction of these sizes does not fit by far.
const BUDGET: &str = "[apply]\nmemory_bytes = 33_554_432\nbatch_bytes = 8_388_608\n";

const TABLE: &str = "CREATE TABLE huge (id int PRIMARY KEY, v text)";

/// `HUGE_ROWS=10000000` for the long form. Says what it measures; what it asserts is the copy.
async fn is_applied_exactly(blue: u32, streaming: &str) -> Result<()> {
    let rows = from_env("HUGE_ROWS", 1_000_000);
    let config = format!("{BUDGET}streaming = \"{streaming}\"\n");
    let builder = Stage::builder(blue, 17).routers(0).config(&config);
    let mut this = Move::streaming_with(builder, TABLE).await?;

    let writer = this.stage.blue.connect(DATABASE).await?;
    let green = this.stage.green.connect(DATABASE).await?;
    // Half of it is rolled back: that leaves nothing.
    let insert = |from: u64, to: u64| {
        format!("INSERT INTO huge SELECT n, repeat('x', 80) FROM generate_series({from}, {to}) n")
    };
    writer.batch_execute(&format!("BEGIN; {}; SAVEPOINT s", insert(1, rows / 2))).await?;
    writer.batch_execute(&insert(rows + 1, rows + rows / 2)).await?;
    writer.batch_execute(&format!("ROLLBACK TO s; {}", insert(rows / 2 + 1, rows))).await?;
    // Small ones go on meanwhile.
    this.more(50).await?;
    writer.batch_execute("UPDATE huge SET v = 'y' WHERE id % 10 = 0").await?;
    // A small transaction behind it: what can be received before the commit is here by then.
    this.stage.wait_caught_up(2 * SOON).await?;
    let committing = Instant::now();
    writer.batch_execute("COMMIT").await?;
    let deadline = Duration::from_secs(600);
    wait::until("the first row on green", deadline, || async {
        let found = green.query_opt("SELECT 1 FROM huge WHERE id = 1", &[]).await;
        Ok(found?.map(|_| ()))
    })
    .await?;
    let delay = committing.elapsed();
    this.ensure_exact_copy().await?.ensure_unnoticed()?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", this.sidecar.pid()))?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).context("no VmHWM")?;
    eprintln!(
        "{rows} rows in one transaction, streaming = {streaming}: on green {delay:.1?} after the \
         commit; {peak}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_larger_than_memory_is_received_while_it_runs() -> Result<()> {
    is_applied_exactly(17, "auto").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_larger_than_memory_is_received_after_its_commit() -> Result<()> {
    is_applied_exactly(17, "off").await
}

/// PostgreSQL 13 knows no other way.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_larger_than_memory_comes_from_an_older_server() -> Result<()> {
    is_applied_exactly(13, "auto").await
}
