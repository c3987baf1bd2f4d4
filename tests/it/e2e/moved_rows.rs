//! Rows that blue moves without a word in the stream: a change of the catalog shows them, the table is named and
//! unproven, and no cutover begins before a comparison has found it equal. Harmless maintenance is none of it.

use anyhow::{Context, Result, ensure};
use tests::stage::{APP, DATABASE, Stage};
use tests::wait;

use super::verify::{ensure_equal, verify};
use super::{Move, SOON};

const TABLES: &str = "
    CREATE TABLE calm (id int PRIMARY KEY, v text);
    INSERT INTO calm SELECT n, 'row ' || n FROM generate_series(1, 200) n;
    CREATE TABLE narrow (id int PRIMARY KEY, v int);
    INSERT INTO narrow SELECT n, n FROM generate_series(1, 200) n;
    CREATE TABLE emptied (id int PRIMARY KEY, v text);
    INSERT INTO emptied SELECT n, 'row ' || n FROM generate_series(1, 200) n;
    CREATE TABLE reset (id int PRIMARY KEY, c int);
    INSERT INTO reset SELECT n, n FROM generate_series(1, 200) n;
    CREATE TABLE rewritten (id int PRIMARY KEY, s text);
    INSERT INTO rewritten SELECT n, 'row ' || n FROM generate_series(1, 200) n;
    CREATE TABLE filled (id int PRIMARY KEY);
    INSERT INTO filled SELECT n FROM generate_series(1, 200) n";

const PARTITIONS: &str = "
    CREATE TABLE m (id int, v int, note text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE p0 PARTITION OF m FOR VALUES FROM (0) TO (1000);
    CREATE TABLE p1 PARTITION OF m FOR VALUES FROM (1000) TO (2000);
    CREATE TABLE p2 PARTITION OF m FOR VALUES FROM (2000) TO (3000);
    CREATE TABLE p3 PARTITION OF m FOR VALUES FROM (3000) TO (4000);
    INSERT INTO m SELECT n, n, 'row ' || n FROM generate_series(0, 3999, 20) n";

/// What stands in the way, as the status says it.
fn said(this: &Move) -> Result<String> {
    Ok(this.stage.api().status()?["waiting_for"].as_str().unwrap_or_default().to_owned())
}

/// Waits until the status says all of this, or, of no words, nothing.
async fn wait_said(this: &Move, words: &[&str]) -> Result<String> {
    let mut last = String::new();
    let waited = wait::until(&format!("a status that says {words:?}"), SOON, || {
        let found = said(this).map(|said| {
            last = said.clone();
            let is_it = match words {
                [] => said.is_empty(),
                words => words.iter().all(|word| said.contains(word)),
            };
            is_it.then_some(said)
        });
        async { found }
    })
    .await;
    waited.with_context(|| format!("it says: {last}\n{}", this.sidecar.log_tail()))
}

/// Waits until blue's file of each table is the one that green's record of it names: the watch has seen it.
async fn wait_kept(this: &Move, tables: &[&str]) -> Result<()> {
    for table in tables {
        let sql = format!("SELECT relfilenode FROM pg_class WHERE relname = '{table}'");
        let node = this.stage.blue.value(DATABASE, &sql).await?;
        let sql = format!(
            "SELECT count(*) FROM _cutover.catalog WHERE table_name = '{table}'
             AND (record::json -> 'relation' ->> 'file_node') = '{node}'"
        );
        wait::until(&format!("{table}'s file in green's record"), SOON, || async {
            let found = this.stage.green.value(DATABASE, &sql).await?;
            Ok((found == "1").then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// Waits until the stream has halted, and gives what is said of it.
async fn halted(this: &mut Move) -> Result<String> {
    let halted = this.stage.wait_status(&mut this.sidecar, "a halt", SOON, |status| {
        status["phase"] == "halted" && !status["halt"].is_null()
    });
    Ok(halted.await?["halt"].to_string())
}

/// A run gives up at its gate, with the table's name, and blue serves on.
async fn ensure_refused(this: &Move, table: &str) -> Result<()> {
    let arguments = ["--when-lag", "<1s", "--yes", "--gate-timeout", "3s"];
    let finished = this.stage.cutover(&arguments, 2 * SOON)?;
    let said = format!("{}\n{}", finished.stdout, finished.stderr);
    ensure!(finished.code() != 0, "it has cut over: {said}");
    ensure!(said.contains(table), "{table} is not named: {said}");
    this.more(20).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_column_and_a_rewrite_are_unproven_and_maintenance_is_not() -> Result<()> {
    let mut this = Move::streaming_with(Stage::builder(15, 17), TABLES).await?;
    let stage = &this.stage;
    stage.wait_caught_up(SOON).await?;
    ensure_equal(verify(stage, &[])?)?;
    let proof = stage.path().join("state").join("verify.json");
    ensure!(proof.exists(), "a whole verification is remembered");
    for sql in [
        "VACUUM FULL calm",
        "VACUUM FULL narrow",
        "CLUSTER calm USING calm_pkey",
        "REINDEX TABLE calm",
        "ANALYZE calm",
        "CREATE INDEX ON calm (v)",
        "TRUNCATE emptied",
    ] {
        stage.blue.execute(DATABASE, sql).await?;
    }
    wait_kept(&this, &["calm", "narrow", "emptied"]).await?;
    // Apart from what gives a table a new file: both between two looks would be in doubt.
    let definition = "ALTER TABLE narrow ALTER v SET DEFAULT 1, ALTER v SET NOT NULL";
    this.stage.blue.execute(DATABASE, definition).await?;
    wait_said(&this, &[]).await?;
    ensure!(proof.exists(), "maintenance moves no row");

    this.stage
        .on_blue(
            "BEGIN;
             ALTER TABLE reset DROP COLUMN c; ALTER TABLE reset ADD COLUMN c int DEFAULT 7;
             ALTER TABLE rewritten ALTER COLUMN s TYPE text USING upper(s);
             COMMIT",
        )
        .await?;
    let said = wait_said(&this, &["\"reset\"", "\"rewritten\"", "cutover verify --table"]).await?;
    ensure!(said.contains("dropped and added again") && said.contains("written anew"), "{said}");
    ensure!(!proof.exists(), "no proof outlives it");
    ensure_refused(&this, "reset").await?;

    // A restart forgets nothing.
    this.sidecar.terminate()?;
    this.wait_end().await?;
    this.restart_sidecar()?;
    this.wait_streaming().await?;
    wait_said(&this, &["\"reset\"", "\"rewritten\""]).await?;
    let (code, report) = verify(&this.stage, &["--table", "reset", "--table", "rewritten"])?;
    ensure!(code == 9, "green keeps the old values: {report:#}");
    let finished = this.stage.cutover(&["repair", "--yes"], 2 * SOON)?;
    ensure!(finished.code() == 0, "{}\n{}", finished.stdout, finished.stderr);
    wait_said(&this, &["\"reset\"", "\"rewritten\""]).await?;
    // The default is no row, and is made as the comparison says.
    let default = "ALTER TABLE reset ALTER COLUMN c SET DEFAULT 7";
    this.stage.green.execute(DATABASE, default).await?;
    ensure_equal(verify(&this.stage, &["--table", "reset"])?)?;
    let said = wait_said(&this, &["\"rewritten\""]).await?;
    wait::until("the compared table to be proven", SOON, || async {
        Ok((!self::said(&this)?.contains("\"reset\"")).then_some(()))
    })
    .await
    .with_context(|| said)?;
    ensure_equal(verify(&this.stage, &["--table", "rewritten"])?)?;
    wait_said(&this, &[]).await?;

    // What the printed remedy leaves different is found, too.
    let fill = "ALTER TABLE filled ADD COLUMN g uuid DEFAULT gen_random_uuid()";
    this.stage.on_blue(&format!("{fill}; INSERT INTO filled VALUES (1000)")).await?;
    let said = halted(&mut this).await?;
    ensure!(said.contains("cutover verify --table"), "{said}");
    this.stage.green.execute(DATABASE, fill).await?;
    this.wait_streaming().await?;
    wait_said(&this, &["\"filled\""]).await?;
    ensure_refused(&this, "filled").await?;
    let (code, report) = verify(&this.stage, &["--table", "filled"])?;
    ensure!(code == 9, "{report:#}");
    Ok(())
}

/// A table that was created after the copy, with rows: what is printed takes it in, and nothing else is needed.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_table_is_taken_in_by_what_is_printed() -> Result<()> {
    const TABLE: &str = "CREATE TABLE late (id int PRIMARY KEY, v text)";
    const CONTENT: &str = "SELECT count(*) || md5(string_agg(id || v, ',' ORDER BY id)) FROM late";
    let this = Move::streaming(Stage::builder(15, 17)).await?;
    this.stage
        .on_blue(&format!(
            "{TABLE}; INSERT INTO late SELECT n, 'before' FROM generate_series(1, 300) n"
        ))
        .await?;
    let said = wait_said(&this, &["\"late\" is on blue and not replicated", "COMMIT;"]).await?;
    ensure_refused(&this, "late").await?;
    let (_, statements) = said.split_once("BEGIN;").context("no statement is printed")?;
    let (statements, _) = statements.split_once("COMMIT;").context("it has no end")?;
    let on_green = format!("{TABLE}; ALTER TABLE late OWNER TO {APP}");
    this.stage.green.execute(DATABASE, &on_green).await?;
    this.stage.blue.execute(DATABASE, &format!("BEGIN; {statements} COMMIT")).await?;
    this.stage
        .on_blue("INSERT INTO late SELECT n, 'since' FROM generate_series(301, 400) n")
        .await?;
    wait_said(&this, &["\"late\" may differ", "cutover verify --table"]).await?;
    ensure_refused(&this, "late").await?;
    let (code, report) = verify(&this.stage, &["--table", "late"])?;
    ensure!(code == 9, "the rows from before are in no stream: {report:#}");
    let finished = this.stage.cutover(&["repair", "--yes"], 2 * SOON)?;
    ensure!(finished.code() == 0, "{}\n{}", finished.stdout, finished.stderr);
    ensure_equal(verify(&this.stage, &["--table", "late"])?)?;
    wait_said(&this, &[]).await?;
    // Differences that were found count until everything is equal.
    ensure_refused(&this, "verification").await?;
    ensure_equal(verify(&this.stage, &[])?)?;
    // Its rows of before are the stream's as any.
    this.stage
        .on_blue("UPDATE late SET v = 'changed' WHERE id < 50; DELETE FROM late WHERE id = 60")
        .await?;
    // Blue is closed after the flip.
    let blue = this.stage.blue.value(DATABASE, CONTENT).await?;
    ensure!(blue.starts_with("399"), "{blue}");
    let finished = this.stage.cutover(&["--when-lag", "<1s", "--yes"], 2 * SOON)?;
    ensure!(finished.code() == 0, "{}\n{}", finished.stdout, finished.stderr);
    ensure!(this.stage.green.value(DATABASE, CONTENT).await? == blue);
    // And what green writes to it comes back.
    let back = "INSERT INTO late VALUES (1000, 'green')";
    this.stage.green.execute(DATABASE, back).await?;
    let finished = this.stage.cutover(&["rollback", "--yes"], 2 * SOON)?;
    ensure!(finished.code() == 0, "{}\n{}", finished.stdout, finished.stderr);
    let there = "SELECT count(*) FROM late WHERE id = 1000";
    ensure!(this.stage.blue.value(DATABASE, there).await? == "1");
    this.more(20).await
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_come_and_go_and_nothing_of_them_is_missed() -> Result<()> {
    let mut this = Move::streaming_with(Stage::builder(15, 17), PARTITIONS).await?;
    let stage = &this.stage;
    // Work on a detached partition, in one go.
    stage
        .on_blue(
            "BEGIN; ALTER TABLE m DETACH PARTITION p1; UPDATE p1 SET v = v + 100000;
             DELETE FROM p1 WHERE id < 1100;
             ALTER TABLE m ATTACH PARTITION p1 FOR VALUES FROM (1000) TO (2000); COMMIT",
        )
        .await?;
    wait_said(&this, &["\"p1\"", "outside of the publication"]).await?;
    // Next month's, with a row at once, and one that is empty for now.
    stage
        .on_blue(
            "CREATE TABLE p4 PARTITION OF m FOR VALUES FROM (4000) TO (5000);
             INSERT INTO m VALUES (4000, 1, 'at once');
             CREATE TABLE p5 (LIKE m INCLUDING ALL);
             ALTER TABLE m ATTACH PARTITION p5 FOR VALUES FROM (5000) TO (6000)",
        )
        .await?;
    this.stage.wait_caught_up(SOON).await.with_context(|| this.sidecar.log_tail())?;
    let rows = "SELECT count(*) FROM m WHERE id >= 4000";
    ensure!(this.stage.green.value(DATABASE, rows).await? == "1");
    let said = self::said(&this)?;
    ensure!(!said.contains("\"p4\""), "{said}");
    wait::until("the empty partition on green", SOON, || async {
        let there = "SELECT count(*) FROM pg_inherits WHERE inhrelid = to_regclass('p5')";
        Ok((this.stage.green.value(DATABASE, there).await? == "1").then_some(()))
    })
    .await?;
    // One that is loaded before it is attached; one that is dropped; one that is detached.
    this.stage
        .on_blue(
            "CREATE TABLE p6 (LIKE m INCLUDING ALL);
             INSERT INTO p6 SELECT n, n, 'before' FROM generate_series(6000, 6099) n;
             ALTER TABLE m ATTACH PARTITION p6 FOR VALUES FROM (6000) TO (7000);
             DROP TABLE p0; ALTER TABLE m DETACH PARTITION p2",
        )
        .await?;
    let remedies = [
        "\"p6\" may differ",
        "CREATE TABLE \"public\".\"p6\" PARTITION OF",
        "DROP TABLE \"public\".\"p0\"",
        "DETACH PARTITION \"public\".\"p2\"",
    ];
    wait_said(&this, &remedies).await?;
    ensure_refused(&this, "p6").await?;
    this.stage
        .green
        .execute(
            DATABASE,
            "CREATE TABLE p6 PARTITION OF m FOR VALUES FROM (6000) TO (7000); DROP TABLE p0;
             ALTER TABLE m DETACH PARTITION p2; DROP TABLE p2",
        )
        .await?;
    this.stage.on_blue("DROP TABLE p2").await?;
    let said = wait_said(&this, &["\"p6\" may differ"]).await?;
    ensure!(said.contains("\"p1\""), "{said}");
    let (code, report) = verify(&this.stage, &["--table", "p6"])?;
    ensure!(code == 9, "the rows from before are in no stream: {report:#}");

    // Dropped while nobody looks.
    this.sidecar.terminate()?;
    this.wait_end().await?;
    this.stage.on_blue("DROP TABLE p3").await?;
    this.restart_sidecar()?;
    this.wait_streaming().await?;
    wait_said(&this, &["DROP TABLE \"public\".\"p3\""]).await?;
    ensure_refused(&this, "p3").await?;
    this.stage.green.execute(DATABASE, "DROP TABLE p3").await?;

    // The nightly reload.
    this.stage
        .on_blue(
            "BEGIN; DROP TABLE p1;
             CREATE TABLE p1 PARTITION OF m FOR VALUES FROM (1000) TO (2000);
             INSERT INTO m SELECT n, n, 'reloaded' FROM generate_series(1500, 1599) n; COMMIT",
        )
        .await?;
    let said = halted(&mut this).await?;
    ensure!(said.contains("p1") && said.contains("TRUNCATE"), "{said}");
    this.stage.green.execute(DATABASE, "TRUNCATE p1").await?;
    this.wait_streaming().await?;
    this.stage.wait_caught_up(SOON).await?;
    wait_said(&this, &["\"p1\"", "made again"]).await?;
    ensure_equal(verify(&this.stage, &["--table", "p1"])?)?;
    let finished = this.stage.cutover(&["verify", "--unlimited", "--table", "p6"], 2 * SOON)?;
    ensure!(finished.code() == 9, "{}", finished.stdout);
    let finished = this.stage.cutover(&["repair", "--yes"], 2 * SOON)?;
    ensure!(finished.code() == 0, "{}\n{}", finished.stdout, finished.stderr);
    ensure_equal(verify(&this.stage, &["--table", "p6"])?)?;
    wait_said(&this, &[]).await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()
}
