//! Copies that fail, are stopped, or lose a server.

use anyhow::Result;
use replicator::backfill::{BackfillError, Phase};
use replicator::schema::SchemaMode;
use tests::compare::{Sequences, ensure_equal};
use tests::wait;

use super::stage::{DATABASE, Stage};
use super::{catalog, fixture};
use crate::SOON;

/// What stands in the way of a constraint stops the second half; removed, it goes on where it stopped.
#[tokio::test(flavor = "multi_thread")]
async fn the_second_half_goes_on_after_a_failure() -> Result<()> {
    let stage = Stage::new(15, 17).await?;
    stage.on_blue(&fixture::sql(15)).await?;
    let snapshot = stage.snapshot().await?;
    stage.pre_data(&snapshot).await?;
    stage.rows(&snapshot).await?;
    drop(snapshot);
    stage.on_green("ALTER TABLE shop.right ADD CONSTRAINT right_l_fkey CHECK (id > 0)").await?;
    let error = stage.post_data().await.unwrap_err();
    assert!(error.to_string().contains("FK CONSTRAINT shop.right"), "{error}");
    stage.on_green("ALTER TABLE shop.right DROP CONSTRAINT right_l_fkey").await?;
    // A crash between a statement and its mark can't be; by hand it can.
    stage.on_green("DELETE FROM _cutover.copy_state WHERE item LIKE 'statement %'").await?;
    let report = stage.post_data().await?;
    assert!(report.statements > 0);
    assert_eq!(stage.post_data().await?.statements, 0, "nothing is left to do");
    catalog::ensure_equal(&stage.blue, &stage.green, DATABASE).await?;
    Ok(())
}

/// Stopped at any statement, the second half goes on with the next.
#[tokio::test(flavor = "multi_thread")]
async fn the_second_half_survives_being_stopped() -> Result<()> {
    let stage = Stage::new(15, 17).await?;
    stage.on_blue(&fixture::sql(15)).await?;
    let snapshot = stage.snapshot().await?;
    stage.pre_data(&snapshot).await?;
    stage.rows(&snapshot).await?;
    drop(snapshot);
    let mut stopped = 0;
    for at in 1.. {
        stage.stop.send_replace(false);
        let mut watch = stage.progress.subscribe();
        let stop = async {
            let mut seen = 0;
            while seen < at && watch.changed().await.is_ok() {
                seen += 1;
            }
            stage.stop.send_replace(true);
            std::future::pending::<()>().await;
        };
        let outcome = tokio::select! {
            outcome = stage.post_data() => outcome,
            () = stop => unreachable!(),
        };
        match outcome {
            Ok(_) => break,
            Err(BackfillError::Cancelled) => stopped += 1,
            Err(error) => return Err(error.into()),
        }
    }
    assert!(stopped > 5, "{stopped}");
    catalog::ensure_equal(&stage.blue, &stage.green, DATABASE).await?;
    Ok(())
}

/// A schema that has changed since it was restored can't be gone on with.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_schema_is_noticed() -> Result<()> {
    let stage = Stage::new(15, 17).await?;
    stage.on_blue("CREATE TABLE t (id int PRIMARY KEY)").await?;
    stage.pre_data(&stage.snapshot().await?).await?;
    assert!(stage.pre_data(&stage.snapshot().await?).await?.was_there);
    stage.on_blue("ALTER TABLE t ADD COLUMN more int").await?;
    let error = stage.pre_data(&stage.snapshot().await?).await.unwrap_err();
    assert!(!error.is_retryable() && error.to_string().contains("changed"), "{error}");
    Ok(())
}

/// The first half is all or nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_first_half_leaves_nothing() -> Result<()> {
    let mut stage = Stage::new(15, 17).await?;
    stage.on_blue("CREATE SCHEMA s; CREATE TABLE s.a (id int); CREATE TABLE s.z (id int)").await?;
    stage.on_green("CREATE SCHEMA s; CREATE TABLE s.z (other int)").await?;
    let error = stage.pre_data(&stage.snapshot().await?).await.unwrap_err();
    assert!(error.to_string().contains("TABLE s.z"), "{error}");
    assert_eq!(stage.green.value(DATABASE, "SELECT to_regclass('s.a') IS NULL").await?, "t");
    stage.on_green("DROP TABLE s.z").await?;
    stage.on_blue("CREATE ROLE only_on_blue; ALTER TABLE s.a OWNER TO only_on_blue").await?;
    let error = stage.pre_data(&stage.snapshot().await?).await.unwrap_err();
    assert!(error.to_string().contains("only_on_blue"), "{error}");
    stage.schema.owners = false;
    stage.pre_data(&stage.snapshot().await?).await?;
    assert_eq!(stage.progress.borrow().phase, Phase::Schema);
    Ok(())
}

/// Without the connection that watches over the copy nobody knows whom it keeps waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_keeper_starts_the_copy_over() -> Result<()> {
    let mut stage = Stage::new(15, 17).await?;
    stage.copy.rate_limit_bytes_per_s = 500_000;
    stage
        .on_blue(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1, 10000) g",
        )
        .await?;
    let snapshot = stage.snapshot().await?;
    stage.pre_data(&snapshot).await?;
    let job = stage.backfill(&snapshot).await?;
    let (progress, cancel) = (stage.progress.clone(), stage.stop.subscribe());
    let copy = tokio::spawn(async move { job.run(&progress, &cancel).await });
    wait::until("rows on their way", SOON, async || {
        Ok((stage.progress.borrow().total.bytes_copied > 0).then_some(()))
    })
    .await?;
    // The one that copies nothing is asked how blue is.
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE application_name = 'cutover copy' AND query NOT LIKE 'COPY %'";
    assert_eq!(stage.blue.value(DATABASE, kill).await?, "1");
    let error = copy.await?.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("watches over"), "{error}");
    Ok(())
}

/// A lost server is worth a new start; what is written is undone by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_green_is_worth_a_new_start() -> Result<()> {
    let mut stage = Stage::new(15, 17).await?;
    stage.copy.rate_limit_bytes_per_s = 500_000;
    stage
        .on_blue(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1, 10000) g",
        )
        .await?;
    let snapshot = stage.snapshot().await?;
    stage.pre_data(&snapshot).await?;
    let job = stage.backfill(&snapshot).await?;
    let (progress, cancel) = (stage.progress.clone(), stage.stop.subscribe());
    let copy = tokio::spawn(async move { job.run(&progress, &cancel).await });
    wait::until("rows on their way", SOON, async || {
        Ok((stage.progress.borrow().total.bytes_copied > 0).then_some(()))
    })
    .await?;
    stage.green.kill9()?;
    let error = copy.await?.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    stage.green.start()?;
    stage.copy.rate_limit_bytes_per_s = 0;
    let summary = stage.rows(&stage.snapshot().await?).await?;
    assert_eq!(summary.rows, 10_000);
    ensure_equal(&stage.blue.url(DATABASE), &stage.green.url(DATABASE), Sequences::Ignored).await?;
    Ok(())
}

/// What green refuses ends the copy of its table whole, and no value of a row is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_green_refuses_is_not_told_and_leaves_nothing() -> Result<()> {
    let mut stage = Stage::new(15, 17).await?;
    stage.schema.mode = SchemaMode::Existing;
    // In COPY's text format, which quotes what it can't read: regclass does not travel in binary.
    let table = |v: &str| format!("CREATE TABLE t (id int, r regclass, v {v})");
    stage.on_blue(&table("text")).await?;
    stage.on_blue("INSERT INTO t VALUES (1, NULL, '1'), (2, NULL, 'secret')").await?;
    let snapshot = stage.snapshot().await?;
    for (v, sqlstate) in
        [("varchar(3)", "22001"), ("text CHECK (v <> 'secret')", "23514"), ("int", "22P02")]
    {
        stage.on_green(&format!("DROP TABLE IF EXISTS t; {}", table(v))).await?;
        let job = stage.backfill(&snapshot).await?;
        let error = job.run(&stage.progress, &stage.stop.subscribe()).await.unwrap_err();
        let told = format!("{error:?}");
        assert!(!error.is_retryable(), "{told}");
        assert!(told.contains(sqlstate) && told.contains("COPY t, line "), "{told}");
        assert!(!told.contains("secret"), "{told}");
        assert_eq!(stage.green.value(DATABASE, "SELECT count(*) FROM t").await?, "0");
    }
    Ok(())
}
