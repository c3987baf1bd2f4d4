//! What clients write is moved, whatever they say of it.

use anyhow::{Context, Result, ensure};
use tests::postgres::connect_url;
use tests::stage::{APP, DATABASE, Stage};

use super::{Move, SOON};

const TABLES: &str = "
    CREATE TABLE purse (id int PRIMARY KEY, amount int);
    INSERT INTO purse SELECT n, 100 FROM generate_series(1, 1000) n;
    CREATE TABLE big (id int PRIMARY KEY, filler text);";

/// The application marks its transactions as those of our lanes, in either direction, before and after a flip.
#[tokio::test(flavor = "multi_thread")]
async fn a_clients_write_with_our_mark_is_moved() -> Result<()> {
    let builder = Stage::builder(15, 17).blue_setting("logical_decoding_work_mem", "64kB");
    let mut this = Move::streaming_with(builder, TABLES).await?;
    let name = this.stage.api().status()?["pipeline"].as_str().context("no name")?.to_owned();
    let forged = |n: i32, content: &str| {
        format!(
            "BEGIN; SELECT pg_logical_emit_message(true, 'cutover.own', '{content}');
             UPDATE purse SET amount = amount - {n} WHERE id = {n}; COMMIT"
        )
    };
    let guess = format!("{} {name}_back", "0".repeat(32));
    let contents = [format!("{name}_back"), guess, name.clone()];
    let on_blue = connect_url(&this.stage.blue.url_as(APP, DATABASE)).await?;
    for (n, content) in (1..).zip(&contents) {
        on_blue.batch_execute(&forged(n, content)).await?;
    }
    // So large that it is received while it runs.
    let large = format!(
        "BEGIN; SELECT pg_logical_emit_message(true, 'cutover.own', '{}');
         INSERT INTO big SELECT n, repeat(md5(n::text), 10) FROM generate_series(1, 5000) n; COMMIT",
        contents[0]
    );
    on_blue.batch_execute(&large).await?;
    this.stage.wait_caught_up(SOON).await?;
    let taken = "SELECT sum(amount)::text || ' ' || (SELECT count(*) FROM big) FROM purse";
    ensure!(this.stage.green.value(DATABASE, taken).await? == "99994 5000", "a write is lost");

    let flip = ["--when-lag", "<1s", "--yes", "--max-pause", "30s"];
    let flipped = this.stage.cutover(&flip, 2 * SOON)?;
    ensure!(flipped.code() == 0, "{}", flipped.stderr);
    this.more(50).await?;
    let on_green = connect_url(&this.stage.green.url_as(APP, DATABASE)).await?;
    for (n, content) in (11..).zip(&contents) {
        on_green.batch_execute(&forged(n, content)).await?;
    }
    let back = this.stage.cutover(&["rollback", "--yes", "--max-pause", "30s"], 2 * SOON)?;
    ensure!(back.code() == 0, "{}", back.stderr);
    let on_blue = this.stage.blue.value(DATABASE, taken).await?;
    ensure!(on_blue == format!("{} 5000", 99994 - 11 - 12 - 13), "a write is lost: {on_blue}");
    // Nor has anything of ours come twice.
    this.more(50).await?;
    this.ledger.check(&this.stage.blue.url(DATABASE)).await?.ensure_exact()
}
