//! What the stream cannot carry stops it before green differs, with the remedy; after the remedy it
//! goes on without a loss.

use anyhow::{Result, ensure};
use tests::stage::{DATABASE, Stage};

use super::Move;

const TABLE: &str = "CREATE TABLE drifting (id int PRIMARY KEY, a text);
                     INSERT INTO drifting VALUES (1, 'x'), (2, 'y')";

async fn start() -> Result<Move> {
    let builder = Stage::builder(15, 17).routers(0).config("[halt]\nexit_on_halt = true");
    Move::streaming_with(builder, TABLE).await
}

/// It stopped with an error that names the table and a remedy, and says that the data is safe.
async fn ensure_stopped_with(this: &mut Move, words: &[&str]) -> Result<()> {
    let (code, said) = this.wait_end().await?;
    ensure!(code == 1, "exit code {code}: {said}");
    for word in words.iter().chain(&["drifting", "next:", "data:"]) {
        ensure!(said.contains(word), "{word:?} is missing in:\n{said}");
    }
    Ok(())
}

async fn ensure_goes_on(mut this: Move) -> Result<()> {
    this.restart_sidecar()?;
    this.wait_streaming().await?;
    this.more(20).await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_added_on_blue_stops_the_stream_until_green_has_it() -> Result<()> {
    let mut this = start().await?;
    this.stage
        .on_blue("ALTER TABLE drifting ADD b int; INSERT INTO drifting VALUES (3, 'z', 7)")
        .await?;
    ensure_stopped_with(&mut this, &["ALTER TABLE"]).await?;
    this.stage.green.execute(DATABASE, "ALTER TABLE drifting ADD b int").await?;
    ensure_goes_on(this).await
}

/// What was done on green first is not to be done there again.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_added_on_green_first_is_dropped_there_or_added_on_blue() -> Result<()> {
    let mut this = start().await?;
    this.stage.green.execute(DATABASE, "ALTER TABLE drifting ADD b int").await?;
    let remedies = ["DROP COLUMN \"b\"", "ADD COLUMN \"b\" integer; on blue"];
    ensure_stopped_with(&mut this, &remedies).await?;
    this.stage
        .on_blue("ALTER TABLE drifting ADD b int; INSERT INTO drifting VALUES (3, 'z', 7)")
        .await?;
    ensure_goes_on(this).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_type_stops_the_stream_until_green_has_it() -> Result<()> {
    let mut this = start().await?;
    this.stage
        .on_blue("ALTER TABLE drifting ALTER a TYPE varchar(50); UPDATE drifting SET a = 'w' WHERE id = 1")
        .await?;
    ensure_stopped_with(&mut this, &["ALTER TABLE"]).await?;
    this.stage.green.execute(DATABASE, "ALTER TABLE drifting ALTER a TYPE varchar(50)").await?;
    ensure_goes_on(this).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_dropped_on_blue_stops_the_stream_until_green_drops_it() -> Result<()> {
    let mut this = start().await?;
    this.stage.on_blue("UPDATE drifting SET a = 'w' WHERE id = 1; DROP TABLE drifting").await?;
    ensure_stopped_with(&mut this, &["dropped"]).await?;
    this.stage.green.execute(DATABASE, "DROP TABLE drifting").await?;
    ensure_goes_on(this).await
}

/// Somebody wrote to green. A silent "upsert" would hide it.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_matches_no_row_on_green_stops_the_stream() -> Result<()> {
    let mut this = start().await?;
    this.stage.green.execute(DATABASE, "DELETE FROM drifting WHERE id = 2").await?;
    this.stage.on_blue("UPDATE drifting SET a = 'w' WHERE id = 2").await?;
    ensure_stopped_with(&mut this, &["0 rows"]).await?;
    this.stage.green.execute(DATABASE, "INSERT INTO drifting VALUES (2, 'y')").await?;
    ensure_goes_on(this).await
}

/// A row of blue that is already on green. The error must not print the values.
#[tokio::test(flavor = "multi_thread")]
async fn an_insert_that_is_already_on_green_stops_the_stream() -> Result<()> {
    let mut this = start().await?;
    this.stage.green.execute(DATABASE, "INSERT INTO drifting VALUES (9, 'intruder')").await?;
    this.stage.on_blue("INSERT INTO drifting VALUES (9, 'sesame')").await?;
    ensure_stopped_with(&mut this, &[]).await?;
    let said = this.sidecar.stderr()?;
    assert!(!said.contains("sesame") && !said.contains("intruder"), "{said}");
    this.stage.green.execute(DATABASE, "DELETE FROM drifting WHERE id = 9").await?;
    ensure_goes_on(this).await
}
