//! The slot's two readers take turns, under load and through crashes in either: every row comes
//! once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::postgres::rows;
use tests::proxy::Mode;
use tests::stage::{DATABASE, Stage};
use tests::wait;

use super::{Move, SOON};

/// `plain` has no key: what came twice would stay there twice.
const TABLES: &str = "
    CREATE TABLE journal (id bigserial PRIMARY KEY, note text NOT NULL);
    CREATE TABLE plain (n bigint);
    ALTER TABLE plain REPLICA IDENTITY FULL;
    CREATE TABLE counter (id int PRIMARY KEY, n bigint NOT NULL);
    INSERT INTO counter SELECT n, 0 FROM generate_series(0, 99) n";

/// Each of the backlog's transactions is about 1 KiB of log.
const BACKLOG: u32 = 20_000;

/// 64 KiB each time: the stream falls behind, and a gulp takes a while.
const SLOW: Mode = Mode::Delay(Duration::from_millis(60));

/// Far behind is 1 MiB here, so that backlogs are soon made.
async fn begin(blue: u32, green: u32, lanes: u32) -> Result<Move> {
    let config = format!("[apply]\nfar_behind_bytes = 1_048_576\nlanes = {lanes}");
    let builder = Stage::builder(blue, green).routers(0).proxies().config(&config);
    Move::streaming_with(builder, TABLES).await
}

async fn backlog(this: &Move) -> Result<()> {
    let sql = format!(
        "DO $$ BEGIN FOR i IN 1..{BACKLOG} LOOP
             INSERT INTO journal (note) VALUES (repeat(md5(i::text), 16));
             INSERT INTO plain VALUES (i % 7);
             UPDATE counter SET n = n + 1 WHERE id = i % 100;
             COMMIT;
         END LOOP; END $$"
    );
    this.stage.on_blue(&sql).await
}

fn set_network(this: &Move, mode: Mode) -> Result<()> {
    this.stage.blue_proxy.as_ref().context("this stage has no proxy")?.set(mode);
    Ok(())
}

/// The readers that the log names, in order, of all of the sidecar's lives.
fn readers(this: &Move) -> Result<Vec<&'static str>> {
    let log = this.sidecar.stderr()?;
    let names = log.lines().filter_map(|line| {
        ["gulps", "stream"].into_iter().find(|name| line.contains(&format!("reader=\"{name}\"")))
    });
    Ok(names.collect())
}

/// Waits until so many readers have been named, and says which the last of them is.
async fn wait_reader(this: &Move, count: usize) -> Result<&'static str> {
    let what = format!("reader number {count}");
    let found = wait::until(&what, 2 * SOON, || {
        let found = readers(this).map(|readers| readers.get(count - 1).copied());
        async { found }
    });
    found.await.with_context(|| this.sidecar.log_tail())
}

/// The readers from the one after `seen` on are these.
async fn ensure_readers(this: &Move, seen: &mut usize, expected: &[&str]) -> Result<()> {
    for name in expected {
        *seen += 1;
        let found = wait_reader(this, *seen).await?;
        ensure!(found == *name, "reader {seen} is {found}: {:?}", readers(this)?);
    }
    Ok(())
}

async fn on_green(this: &Move) -> Result<u64> {
    Ok(this.stage.green.value(DATABASE, "SELECT count(*) FROM journal").await?.parse()?)
}

async fn wait_green_moves(this: &Move, before: u64) -> Result<()> {
    let moved = wait::until("rows on green", 2 * SOON, || async {
        Ok((on_green(this).await? > before).then_some(()))
    });
    moved.await.with_context(|| this.sidecar.log_tail())
}

fn restart(this: &mut Move) -> Result<()> {
    this.sidecar.kill9()?;
    this.restart_sidecar()
}

/// Both halves of an LSN, to compare.
fn position(text: &str) -> Result<(u64, u64)> {
    let (high, low) = text.split_once('/').context("not an LSN")?;
    Ok((u64::from_str_radix(high, 16)?, u64::from_str_radix(low, 16)?))
}

/// A row on green says nothing of the other lanes: what is waited for is the position of them all.
async fn wait_applied(this: &mut Move) -> Result<()> {
    let head = this.stage.blue.value(DATABASE, "SELECT pg_current_wal_insert_lsn()").await?;
    let head = position(&head)?;
    let Move { stage, sidecar, .. } = this;
    let applied = stage.wait_status(sidecar, "everything applied", 2 * SOON, |status| {
        let applied = status["positions"]["applied"]["lsn"].as_str();
        applied.and_then(|lsn| position(lsn).ok()).is_some_and(|applied| applied >= head)
    });
    applied.await.map(drop)
}

async fn readers_take_turns(blue: u32, green: u32, lanes: u32) -> Result<()> {
    let mut this = begin(blue, green, lanes).await?;
    let mut seen = 0;
    ensure_readers(&this, &mut seen, &["stream"]).await?;

    // Killed as a stream. The backlog is for gulps, which end near the tip by themselves.
    this.sidecar.kill9()?;
    backlog(&this).await?;
    this.restart_sidecar()?;
    ensure_readers(&this, &mut seen, &["gulps", "stream"]).await?;
    this.more(50).await?;

    // A stream that can't keep up gives way by itself. Killed between two gulps or in one.
    set_network(&this, SLOW)?;
    backlog(&this).await?;
    ensure_readers(&this, &mut seen, &["gulps"]).await?;
    let before = on_green(&this).await?;
    wait_green_moves(&this, before).await?;
    restart(&mut this)?;
    ensure_readers(&this, &mut seen, &["gulps"]).await?;
    let before = on_green(&this).await?;
    wait_green_moves(&this, before).await?;
    set_network(&this, Mode::Pass)?;
    ensure_readers(&this, &mut seen, &["stream"]).await?;
    this.more(50).await?;

    // Nothing is applied for a while. Killed with much received that is not on green.
    let lock = this.stage.green.connect(DATABASE).await?;
    lock.batch_execute("BEGIN; LOCK TABLE journal, counter IN SHARE MODE").await?;
    backlog(&this).await?;
    restart(&mut this)?;
    ensure_readers(&this, &mut seen, &["gulps"]).await?;
    restart(&mut this)?;
    ensure_readers(&this, &mut seen, &["gulps"]).await?;
    lock.batch_execute("COMMIT").await?;
    ensure_readers(&this, &mut seen, &["stream"]).await?;

    // Killed at the tip, the stream goes on.
    this.more(50).await?;
    this.wait_streaming().await?;
    restart(&mut this)?;
    ensure_readers(&this, &mut seen, &["stream"]).await?;
    this.more(50).await?;

    this.ledger.stop()?;
    wait_applied(&mut this).await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()?;
    let counts = "SELECT (SELECT count(*) FROM journal), (SELECT count(*) FROM plain),
                         (SELECT sum(n) FROM counter)";
    let client = this.stage.green.connect(DATABASE).await?;
    let all = (3 * BACKLOG).to_string();
    assert_eq!(rows(&client, counts).await?, [vec![Some(all); 3]]);
    // The copies that were read from are gone with their sessions.
    wait::until("no slot but ours", SOON, || async {
        let count = "SELECT count(*) FROM pg_replication_slots";
        Ok((this.stage.blue.value("postgres", count).await? == "1").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_take_turns_15_to_17() -> Result<()> {
    readers_take_turns(15, 17, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_take_turns_in_lanes_13_to_18() -> Result<()> {
    readers_take_turns(13, 18, 3).await
}
