//! Others who want tables that are being copied, or have them.

use anyhow::Result;
use replicator::backfill::Setting;
use tests::compare::{Sequences, ensure_equal};
use tests::wait;

use super::stage::{DATABASE, Stage};
use crate::SOON;

/// Longer than anybody waits for a chunk, and far less than the copy takes.
const IN_TIME: &str = "SET lock_timeout = '6s'";

/// A table that is copied first and takes seconds, and others that wait for their turn.
async fn slow_copy() -> Result<Stage> {
    let mut stage = Stage::new(15, 17).await?;
    stage.copy.workers = Setting::Fixed(1);
    stage.copy.rate_limit_bytes_per_s = 1_000_000;
    stage
        .on_blue(
            "CREATE TABLE large (id int PRIMARY KEY, v text);
             INSERT INTO large SELECT g, repeat('x', 500) FROM generate_series(1, 12000) g;
             CREATE TABLE late (id int PRIMARY KEY);
             INSERT INTO late SELECT generate_series(1, 10);
             CREATE TABLE other (id int PRIMARY KEY);
             INSERT INTO other SELECT generate_series(1, 10)",
        )
        .await?;
    Ok(stage)
}

async fn rows_on_their_way(stage: &Stage) -> Result<()> {
    wait::until("rows on their way", SOON, async || {
        Ok((stage.progress.borrow().total.bytes_copied > 0).then_some(()))
    })
    .await
}

/// Whoever empties or alters a table waits for its own chunk at most, and everything else is copied
/// once.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_the_copy_and_only_what_was_emptied_is_left() -> Result<()> {
    let stage = slow_copy().await?;
    let snapshot = stage.snapshot().await?;
    stage.pre_data(&snapshot).await?;
    let mut job = stage.backfill(&snapshot).await?;
    let (progress, cancel) = (stage.progress.clone(), stage.stop.subscribe());
    let copy = tokio::spawn({
        let job = job.clone();
        async move { job.run(&progress, &cancel).await }
    });
    rows_on_their_way(&stage).await?;
    stage.on_blue(&format!("{IN_TIME}; TRUNCATE late; INSERT INTO late VALUES (77)")).await?;
    stage.on_blue(&format!("{IN_TIME}; ALTER TABLE other ALTER id SET DEFAULT 0")).await?;
    let copied = stage.progress.borrow().total.tables_copied;
    assert_eq!(copied, 0, "nothing of ours holds a table whose turn has not come");
    // The one that is being read: its chunk is broken off.
    stage.on_blue(&format!("{IN_TIME}; ALTER TABLE large ALTER v SET STORAGE EXTERNAL")).await?;
    let summary = copy.await??;
    let left: Vec<&str> = summary.left.iter().map(|table| table.name.name.as_str()).collect();
    assert_eq!(left, ["late"]);
    assert_eq!(summary.rows, 12_010);
    assert_eq!(stage.progress.borrow().total.rows_copied, 12_010, "what was broken off counts not");

    let later = stage.snapshot().await?;
    job.snapshot = later.name.clone();
    job.tables = summary.left.iter().map(|table| table.id).collect();
    job.expected = Some(summary.columns);
    let summary = job.run(&stage.progress, &stage.stop.subscribe()).await?;
    assert_eq!((summary.rows, summary.left.len()), (1, 0));
    stage.post_data().await?;
    ensure_equal(&stage.blue.url(DATABASE), &stage.green.url(DATABASE), Sequences::Ignored).await?;
    Ok(())
}

/// A lock that somebody keeps is waited for by name, and not for longer than the snapshot is worth.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_stays_locked_is_named_and_left_for_a_later_snapshot() -> Result<()> {
    let mut stage = slow_copy().await?;
    (stage.copy.rate_limit_bytes_per_s, stage.copy.lock_timeout_s) = (0, 1);
    let snapshot = stage.snapshot().await?;
    stage.pre_data(&snapshot).await?;
    let holder = stage.blue.connect(DATABASE).await?;
    holder.batch_execute("BEGIN; LOCK TABLE late IN ACCESS EXCLUSIVE MODE").await?;
    let pid: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    let job = stage.backfill(&snapshot).await?;
    let (progress, cancel) = (stage.progress.clone(), stage.stop.subscribe());
    let copy = tokio::spawn(async move { job.run(&progress, &cancel).await });
    let said =
        wait::until("the reason", SOON, async || Ok(stage.progress.borrow().waiting_for.clone()))
            .await?;
    assert!(said.contains("\"late\"") && said.contains(&format!("pid {pid}")), "{said}");
    let summary = copy.await??;
    let left: Vec<&str> = summary.left.iter().map(|table| table.name.name.as_str()).collect();
    assert_eq!((left, summary.rows), (vec!["late"], 12_010));
    Ok(())
}

/// Green's definitions are of the first snapshot: a table that was altered since can't be filled
/// from a later one.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_altered_meanwhile_starts_the_copy_over() -> Result<()> {
    let stage = Stage::new(15, 17).await?;
    stage.on_blue("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await?;
    let snapshot = stage.snapshot().await?;
    stage.pre_data(&snapshot).await?;
    stage.on_blue("ALTER TABLE t ALTER id TYPE bigint").await?;
    let mut job = stage.backfill(&snapshot).await?;
    let summary = job.run(&stage.progress, &stage.stop.subscribe()).await?;
    assert_eq!((summary.left.len(), summary.rows), (1, 0), "an old snapshot sees it empty");
    let later = stage.snapshot().await?;
    (job.snapshot, job.expected) = (later.name.clone(), Some(summary.columns));
    let error = job.run(&stage.progress, &stage.stop.subscribe()).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("was altered"), "{error}");
    Ok(())
}
