//! Several lanes: transactions go to green side by side, and the copy ends exact.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use tests::postgres::connect_url;
use tests::stage::{APP, DATABASE, Stage};
use tokio::task::JoinHandle;

use super::{Move, SOON};

/// Tables whose transactions meet in every way: rows, unique values that move between rows, foreign
/// keys, keys that change, rows without a key.
const TABLES: &str = "
    CREATE TABLE parent (id int PRIMARY KEY, code int UNIQUE, n int NOT NULL);
    CREATE TABLE child (id serial PRIMARY KEY, parent int NOT NULL REFERENCES parent,
                        slot int UNIQUE, note text);
    CREATE TABLE journal (at bigserial, what text);
    ALTER TABLE journal REPLICA IDENTITY FULL;
    CREATE TABLE shy (id serial PRIMARY KEY, word text);
    CREATE UNIQUE INDEX ON shy (lower(word));
    CREATE SEQUENCE fresh START 1000000;
    INSERT INTO parent SELECT n, n, 0 FROM generate_series(1, 200) n;
    INSERT INTO child (parent, slot) SELECT n % 200 + 1, n FROM generate_series(1, 400) n;

    CREATE FUNCTION work() RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
      pick int := 1 + floor(random() * 200);
      place int := 1 + floor(random() * 60);
      one int; other int; a int; b int;
    BEGIN
      CASE floor(random() * 10)::int
      WHEN 0 THEN UPDATE parent SET n = n + 1 WHERE id = pick;
      WHEN 1 THEN INSERT INTO child (parent, slot) VALUES (pick, nextval('fresh'));
      WHEN 2 THEN
        SELECT min(id) INTO one FROM child WHERE id >= pick * 2;
        DELETE FROM child WHERE id = one;
      -- Two rows swap a unique value.
      WHEN 3 THEN
        SELECT id, slot INTO one, a FROM child WHERE id >= pick LIMIT 1;
        SELECT id, slot INTO other, b FROM child WHERE id > one LIMIT 1;
        IF one IS NOT NULL AND other IS NOT NULL THEN
          UPDATE child SET slot = NULL WHERE id = one;
          UPDATE child SET slot = a WHERE id = other;
          UPDATE child SET slot = b WHERE id = one;
        END IF;
      -- One transaction frees a value, another one takes it.
      WHEN 4, 5 THEN UPDATE child SET slot = nextval('fresh') WHERE slot = place;
      WHEN 6, 7 THEN
        SELECT id INTO one FROM child WHERE id >= pick AND slot > 60 LIMIT 1;
        UPDATE child SET slot = place WHERE id = one;
      WHEN 8 THEN
        INSERT INTO parent VALUES (nextval('fresh'), nextval('fresh'), 0) RETURNING id INTO one;
        INSERT INTO child (parent, slot) VALUES (one, nextval('fresh'));
        UPDATE parent SET id = nextval('fresh')
         WHERE id = (SELECT min(id) FROM parent p WHERE p.id > 200
                     AND NOT EXISTS (SELECT FROM child WHERE parent = p.id));
        DELETE FROM parent p WHERE id = pick
         AND NOT EXISTS (SELECT FROM child WHERE parent = p.id);
      ELSE
        INSERT INTO journal (what) VALUES ('x' || pick);
        INSERT INTO shy (word) VALUES (md5((pick % 40)::text)) ON CONFLICT DO NOTHING;
        DELETE FROM shy WHERE id = (SELECT min(id) FROM shy WHERE id % 3 = pick % 3);
      END CASE;
    END $$";

/// Clients that call `work()` until they are told to stop.
struct Writers {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Writers {
    fn start(stage: &Stage, clients: usize) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..clients).map(|_| {
            let (stop, done) = (stop.clone(), done.clone());
            let url = stage.blue.url_as(APP, DATABASE);
            tokio::spawn(async move {
                let client = connect_url(&url).await?;
                while !stop.load(Ordering::Relaxed) {
                    match client.execute("SELECT work()", &[]).await {
                        Ok(_) => {
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        // Two of them wanted the same value, row or parent: blue refused one.
                        Err(error) if is_refusal(&error) => {}
                        Err(error) => return Err(tests::postgres::describe(&error)),
                    }
                }
                Ok(())
            })
        });
        let tasks = tasks.collect();
        Self { stop, done, tasks }
    }

    async fn more(&self, transactions: u64) -> Result<()> {
        let goal = self.done.load(Ordering::Relaxed) + transactions;
        tests::wait::until("more transactions on blue", SOON, || async {
            Ok((self.done.load(Ordering::Relaxed) >= goal).then_some(()))
        })
        .await
    }

    async fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.context("a writer")??;
        }
        Ok(())
    }
}

fn is_refusal(error: &tokio_postgres::Error) -> bool {
    let code = error.code().map_or("", |code| code.code());
    code.starts_with("23") || code.starts_with("40")
}

fn set_lanes(stage: &Stage, lanes: u32) -> Result<()> {
    let text = std::fs::read_to_string(stage.config_file())?;
    let lines = text.lines().map(|line| match line.starts_with("lanes = ") {
        true => format!("lanes = {lanes}"),
        false => line.to_owned(),
    });
    std::fs::write(stage.config_file(), lines.collect::<Vec<_>>().join("\n"))?;
    Ok(())
}

fn metric(stage: &Stage, name: &str) -> Result<f64> {
    let series = format!("{name}{{pipeline=\"{DATABASE}\",direction=\"forward\"}}");
    stage.api().metric(&series)?.with_context(|| format!("no {series}"))
}

async fn begin(green: u32, lanes: u32) -> Result<(Move, Writers)> {
    let config = format!("[apply]\nlanes = {lanes}");
    let this =
        Move::streaming_with(Stage::builder(15, green).routers(0).config(&config), TABLES).await?;
    let writers = Writers::start(&this.stage, 6);
    Ok((this, writers))
}

/// Stops the load and compares. A row on green says nothing of the other lanes, so what is waited
/// for is the position up to which all of them are done, as a cutover does.
async fn ensure_exact_copy(this: &mut Move, writers: Writers) -> Result<()> {
    writers.stop().await?;
    this.ledger.stop()?;
    let head = this.stage.blue.value(DATABASE, "SELECT pg_current_wal_insert_lsn()").await?;
    let head = position(&head)?;
    let Move { stage, sidecar, .. } = this;
    stage
        .wait_status(sidecar, "everything applied", 2 * SOON, |status| {
            let applied = status["positions"]["applied"]["lsn"].as_str();
            applied.and_then(|lsn| position(lsn).ok()).is_some_and(|applied| applied >= head)
        })
        .await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()
}

/// Both halves of an LSN, to compare.
fn position(text: &str) -> Result<(u64, u64)> {
    let (high, low) = text.split_once('/').context("not an LSN")?;
    Ok((u64::from_str_radix(high, 16)?, u64::from_str_radix(low, 16)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn four_lanes_under_concurrent_writers_end_in_an_exact_copy() -> Result<()> {
    let (mut this, writers) = begin(17, 4).await?;
    writers.more(2_000).await?;
    // A backlog, so that windows are large.
    this.sidecar.terminate()?;
    this.sidecar.wait(SOON)?;
    writers.more(3_000).await?;
    this.restart_sidecar()?;
    this.wait_streaming().await?;
    writers.more(500).await?;
    let shared = metric(&this.stage, "cutover_windows_shared_total")?;
    let refused = metric(&this.stage, "cutover_lane_conflicts_total")?;
    eprintln!("windows shared out: {shared}; shares refused beside the others: {refused}");
    ensure_exact_copy(&mut this, writers).await?;
    ensure!(shared > 0.0, "no window was ever shared out");
    let lanes = this
        .stage
        .green
        .value(DATABASE, "SELECT count(*) FROM _cutover.progress WHERE transactions > 0")
        .await?;
    assert_eq!(lanes, "4");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_restarted_with_another_number_of_lanes() -> Result<()> {
    let (mut this, writers) = begin(16, 4).await?;
    for lanes in [2, 1, 3, 4] {
        writers.more(1_000).await?;
        this.sidecar.kill9()?;
        // A backlog; the second kill then comes in the middle of catching up.
        writers.more(1_000).await?;
        set_lanes(&this.stage, lanes)?;
        this.restart_sidecar()?;
        let before = this.stage.green.value(DATABASE, "SELECT sum(n) FROM parent").await?;
        tests::wait::until("green to move", 2 * SOON, || async {
            let now = this.stage.green.value(DATABASE, "SELECT sum(n) FROM parent").await?;
            Ok((now != before).then_some(()))
        })
        .await?;
        this.sidecar.kill9()?;
        this.restart_sidecar()?;
        this.wait_streaming().await.with_context(|| format!("with {lanes} lanes"))?;
    }
    ensure_exact_copy(&mut this, writers).await
}
