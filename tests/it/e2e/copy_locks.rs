//! Tables that others empty while the copy is under way.

use anyhow::{Result, ensure};
use tests::compare::{self, Sequences};
use tests::stage::{DATABASE, Stage};

use super::{Move, SOON};

const TABLES: &str = "
    CREATE TABLE large (id int PRIMARY KEY, filler text);
    INSERT INTO large SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 40000) n;
    CREATE TABLE staging (id int PRIMARY KEY, v text);
    INSERT INTO staging SELECT n, 'old' FROM generate_series(1, 100) n;
    CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
    CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (100) TO (200);
    INSERT INTO parted SELECT n, 'old' FROM generate_series(1, 199) n";

/// Changes of a table from before it was emptied and from behind it, in one transaction with changes
/// of tables that were copied earlier: each arrives once.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_emptied_before_its_turn_is_copied_from_a_later_snapshot() -> Result<()> {
    let config = "[copy]\nrate_limit_bytes_per_s = 4_000_000\nworkers = 1";
    let stage = Stage::builder(15, 17).routers(0).config(config);
    let mut this = Move::start_with(stage, TABLES).await?;
    this.stage
        .wait_status(&mut this.sidecar, "rows being copied", SOON, |status| {
            status["backfill"]["rows"].as_u64().is_some_and(|rows| rows > 0)
        })
        .await?;
    for round in 0..3 {
        for sql in [
            "UPDATE staging SET v = 'changed' WHERE id % 2 = 0".to_owned(),
            "DELETE FROM staging WHERE id % 5 = 0".to_owned(),
            format!("UPDATE large SET filler = 'r{round}' WHERE id % 1000 = {round}"),
            format!("UPDATE parted SET v = 'r{round}' WHERE id IN (50, 150)"),
            format!(
                "BEGIN; SET LOCAL lock_timeout = '3s'; UPDATE staging SET v = 'goes'; \
                 UPDATE parted SET v = 'together' WHERE id = 51; TRUNCATE staging; \
                 INSERT INTO staging SELECT n, 'r{round}' FROM generate_series(1, 50) n; \
                 TRUNCATE parted_2; INSERT INTO parted VALUES (150, 'r{round}'); COMMIT"
            ),
            "DELETE FROM staging WHERE id = 7".to_owned(),
        ] {
            this.stage.on_blue(&sql).await?;
        }
    }
    this.wait_streaming().await?;
    this.stage.on_blue("UPDATE staging SET v = 'after'; UPDATE parted SET v = 'after'").await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()?;
    let later = "SELECT count(*) FROM _cutover.copy_state WHERE item LIKE 'copied at %'";
    assert_eq!(this.stage.green.value(DATABASE, later).await?, "2", "one partition and a table");
    // What was left out once stays left out when the stream begins anew.
    this.sidecar.kill9()?;
    this.restart_sidecar()?;
    this.wait_streaming().await?;
    this.stage.on_blue("INSERT INTO staging VALUES (999, 'last')").await?;
    this.stage.wait_caught_up(SOON).await?;
    let (blue, green) = (this.stage.blue.url(DATABASE), this.stage.green.url(DATABASE));
    compare::ensure_equal(&blue, &green, Sequences::Ignored).await?;
    let slots = "SELECT count(*) FROM pg_replication_slots";
    ensure!(this.stage.blue.value("postgres", slots).await? == "1", "the later slot is gone");
    Ok(())
}
