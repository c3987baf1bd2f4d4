//! Databases of more tables than a server's lock table has room for at once.

use anyhow::{Context, Result, ensure};
use tests::stage::{DATABASE, Stage};
use tests::{wait, wide};

use super::SOON;

const TABLES: usize = 800;

/// Green has room for about 800 locks, a quarter of what its tables take if they are made in one transaction.
/// Blue has room for pg_dump's.
fn narrow() -> tests::stage::Builder {
    let mut builder = Stage::builder(15, 17).routers(0);
    builder = builder.blue_setting("max_locks_per_transaction", "32");
    builder = builder.green_setting("max_locks_per_transaction", "10");
    for (name, value) in
        [("max_connections", "30"), ("max_prepared_transactions", "0"), ("max_wal_senders", "6")]
    {
        builder = builder.blue_setting(name, value).green_setting(name, value);
    }
    builder
}

/// How many tables of the application are on green, and what is written down of the schema.
async fn restored(stage: &Stage) -> Result<(usize, String)> {
    let there = "SELECT to_regclass('_cutover.copy_state') IS NOT NULL";
    if stage.green.value(DATABASE, there).await? != "t" {
        return Ok((0, String::new()));
    }
    let tables = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
                  WHERE nspname = 'public' AND relkind = 'r' AND relname ~ '^t[0-9]'";
    let noted = "SELECT coalesce(string_agg(item, '; ' ORDER BY item), '') FROM _cutover.copy_state \
                 WHERE item LIKE 'schema %'";
    let tables = stage.green.value(DATABASE, tables).await?.parse()?;
    Ok((tables, stage.green.value(DATABASE, noted).await?))
}

/// The restore takes several transactions. Killed between two of them it goes on behind the last one; with
/// another schema it says so, and nothing is restored twice or left out.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_wider_than_the_lock_table_is_restored_across_a_kill() -> Result<()> {
    let stage = narrow().start().await?;
    stage.create_marker().await?;
    wide::make(&stage.blue, TABLES).await?;
    let views = "CREATE MATERIALIZED VIEW first AS SELECT count(*) AS n FROM t1; \
                 CREATE VIEW between_them AS SELECT n + 1 AS n FROM first; \
                 CREATE MATERIALIZED VIEW another AS SELECT n FROM between_them; \
                 CREATE MATERIALIZED VIEW unfilled AS SELECT 1 AS n WITH NO DATA";
    stage.blue.execute(DATABASE, views).await?;

    let mut sidecar = stage.replicator()?;
    let half = wait::until("a part of the schema on green", 2 * SOON, || async {
        let (tables, noted) = restored(&stage).await?;
        Ok((tables > TABLES / 4).then_some((tables, noted)))
    })
    .await;
    let half = half.with_context(|| sidecar.log_tail())?;
    sidecar.kill9()?;
    ensure!(half.0 < TABLES, "all tables came at once");
    assert_eq!(half.1, "schema before the rows, so far");

    // Another schema than the one of which green has a part.
    stage.blue.execute(DATABASE, "ALTER TABLE t1 ADD COLUMN another int").await?;
    let mut sidecar = stage.replicator()?;
    let status =
        stage.wait_status(&mut sidecar, "a halt", SOON, |status| !status["halt"].is_null()).await?;
    ensure!(
        status.to_string().contains("has restored a part of blue's schema on green"),
        "{status}"
    );
    let (tables, noted) = restored(&stage).await?;
    ensure!(tables < TABLES && noted == half.1, "{tables} tables; {noted}");
    stage.blue.execute(DATABASE, "ALTER TABLE t1 DROP COLUMN another").await?;
    stage.cutover(&["retry"], SOON)?.success()?;

    stage.wait_streaming(&mut sidecar, 1.0, 5 * SOON).await?;
    ensure!(sidecar.stderr()?.contains("where an earlier run broke off"), "it began anew");
    let done = "schema after the rows; schema before the rows";
    assert_eq!(restored(&stage).await?, (TABLES, done.to_owned()));
    let filled = "SELECT string_agg(relname || ' ' || relispopulated, ', ' ORDER BY relname) \
                  FROM pg_class WHERE relkind = 'm'";
    let expected = "another true, first true, unfilled false";
    assert_eq!(stage.green.value(DATABASE, filled).await?, expected);

    let rows = "UPDATE t1 SET name = 'c'; INSERT INTO t800 (name) VALUES ('last')";
    stage.blue.execute(DATABASE, rows).await?;
    stage.wait_caught_up(SOON).await?;
    ensure_same_rows(&stage).await
}

/// A statement a table: one transaction that reads them all has no room for its locks either.
async fn ensure_same_rows(stage: &Stage) -> Result<()> {
    let (blue, green) = (stage.blue.connect(DATABASE).await?, stage.green.connect(DATABASE).await?);
    for n in 1..=TABLES {
        let sql =
            format!("SELECT coalesce(string_agg(t::text, ',' ORDER BY t::text), '') FROM t{n} t");
        let of_blue: String = blue.query_one(&sql, &[]).await?.get(0);
        let of_green: String = green.query_one(&sql, &[]).await?.get(0);
        ensure!(of_blue == of_green, "t{n}: {of_blue:?} on blue, {of_green:?} on green");
    }
    Ok(())
}
