//! Blue's log is not kept for us without end.

use anyhow::{Result, ensure};
use tests::stage::{DATABASE, Stage};

use super::{Move, SOON};

/// Keeps the slot where it is while others write: a transaction that does not end.
#[tokio::test(flavor = "multi_thread")]
async fn at_the_limit_the_slot_is_given_up_and_blue_is_free() -> Result<()> {
    let config = "[protect]\nretained_wal_warn_bytes = 16_000_000\n\
                  retained_wal_bytes = 64_000_000\non_wal_limit = 'drop_slot'";
    let builder = Stage::builder(13, 17).routers(0).config(config);
    let table = "CREATE TABLE filler (id bigserial PRIMARY KEY, v text)";
    let mut this = Move::streaming_with(builder, table).await?;
    let open = this.stage.blue.connect(DATABASE).await?;
    open.batch_execute("BEGIN; INSERT INTO filler (v) VALUES ('open')").await?;
    this.stage
        .on_blue(
            "INSERT INTO filler (v) SELECT repeat(md5(n::text), 30) FROM generate_series(1, 120000) n",
        )
        .await?;
    let status = this.sidecar.wait(SOON)?;
    let log = this.sidecar.log_tail();
    ensure!(!status.success(), "{status}: {log}");
    ensure!(log.contains("the slot was dropped") && log.contains("Blue is safe"), "{log}");
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(this.stage.blue.value("postgres", slots).await?, "0");
    // It does not start as if nothing had happened.
    this.restart_sidecar()?;
    let status = this.sidecar.wait(SOON)?;
    ensure!(!status.success(), "{}", this.sidecar.log_tail());
    ensure!(this.sidecar.log_tail().contains("is gone"), "{}", this.sidecar.log_tail());
    Ok(())
}
