//! The way back: a stream from green to blue, hot from the first run on, that turns with the flip.

use anyhow::{Context, Result, ensure};
use tests::compare::{self, Sequences};
use tests::postgres::Postgres;
use tests::stage::{DATABASE, Stage};
use tests::wait;

use super::{Move, SOON};

const GO: [&str; 3] = ["--when-lag", "<1s", "--yes"];
/// A gate that can't pass: the run arms everything and gives up.
const ARM_ONLY: [&str; 7] = ["--when-lag", "<1s", "--for", "60s", "--gate-timeout", "15s", "--yes"];
const SLOT: &str = "cutover_shop_back";

/// What blue knows of the way back: nothing of it may move while the stream stands by.
const PROGRESS: &str = "SELECT coalesce(string_agg(concat_ws(' ', lane, end_lsn, transactions, \
    updated_at), ';' ORDER BY lane), '') FROM _cutover.progress WHERE pipeline = 'shop_back'";

async fn confirmed(server: &Postgres) -> Result<String> {
    let sql = format!(
        "SELECT coalesce(max(confirmed_flush_lsn::text), '') FROM pg_replication_slots \
         WHERE slot_name = '{SLOT}' AND active"
    );
    server.value(DATABASE, &sql).await
}

async fn cut_over(this: &Move) -> Result<()> {
    let finished = this.stage.cutover(&GO, 2 * SOON)?;
    ensure!(
        finished.code() == 0,
        "exit code {}\n{}\n{}\nlog:\n{}",
        finished.code(),
        finished.stdout,
        finished.stderr,
        this.sidecar.log_tail()
    );
    Ok(())
}

/// Stops the load on green, lets ourselves into blue, waits until green's last write is there, and
/// compares everything.
async fn ensure_blue_follows(this: &mut Move) -> Result<()> {
    this.ledger.stop()?;
    let token = format!("{:?}", std::time::SystemTime::now());
    let update = format!("UPDATE public.stage_marker SET token = '{token}'");
    this.stage.green.execute(DATABASE, &update).await?;
    let open = format!("ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS true");
    let blue = &this.stage.blue;
    let arrived = wait::until("green's last write on blue", 2 * SOON, || async {
        // The sidecar closes blue behind its own sessions: then it is the next try.
        blue.execute("postgres", &open).await?;
        let seen = blue.value(DATABASE, "SELECT token FROM public.stage_marker").await;
        Ok(seen.is_ok_and(|seen| seen == token).then_some(()))
    });
    let arrived = arrived.await;
    arrived.with_context(|| format!("the sidecar's log ends:\n{}", this.sidecar.log_tail()))?;
    this.sidecar.terminate()?;
    this.sidecar.wait(SOON)?;
    blue.execute("postgres", &open).await?;
    let (blue, green) = (blue.url(DATABASE), this.stage.green.url(DATABASE));
    compare::ensure_equal(&green, &blue, Sequences::Ignored).await?;
    this.ledger.check(&blue).await?.ensure_exact()
}

/// A stream that stands by reads everything that we apply, and writes nothing: no ping-pong.
#[tokio::test(flavor = "multi_thread")]
async fn a_hot_way_back_writes_nothing_and_pins_nothing() -> Result<()> {
    for (blue, green) in [(15, 17), (13, 13)] {
        let mut this = Move::streaming(Stage::builder(blue, green)).await?;
        this.more(50).await?;
        let finished = this.stage.cutover(&ARM_ONLY, 2 * SOON)?;
        ensure!(finished.code() == 4, "{}: {}", finished.code(), finished.stderr);
        let before = this.stage.blue.value(DATABASE, PROGRESS).await?;
        ensure!(!before.is_empty(), "blue does not know the way back");
        let stood = confirmed(&this.stage.green).await?;
        ensure!(!stood.is_empty(), "nobody reads {SLOT}");
        this.more(500).await?;
        let green = &this.stage.green;
        wait::until("the slot of the way back to move on", SOON, || async {
            let sql = format!(
                "SELECT confirmed_flush_lsn - '{stood}'::pg_lsn > 100000 \
                 FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
            );
            Ok((green.value(DATABASE, &sql).await? == "t").then_some(()))
        })
        .await?;
        assert_eq!(this.stage.blue.value(DATABASE, PROGRESS).await?, before);
        this.ensure_exact_copy().await?.ensure_unnoticed()?;
    }
    Ok(())
}

/// A write on green that is not ours keeps the run from passing its gate; it is never applied.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_on_green_before_the_flip_is_seen() -> Result<()> {
    let table = "CREATE TABLE alien (id int PRIMARY KEY)";
    let mut this = Move::streaming_with(Stage::builder(15, 17), table).await?;
    let finished = this.stage.cutover(&ARM_ONLY, 2 * SOON)?;
    ensure!(finished.code() == 4, "{}: {}", finished.code(), finished.stderr);
    this.stage.green.execute(DATABASE, "INSERT INTO alien VALUES (1)").await?;
    let seen = this.stage.wait_status(&mut this.sidecar, "the write to be seen", SOON, |status| {
        status["streams"][1]["foreign"]["changes"] == 1
    });
    seen.await?;
    let shown = this.stage.cutover(&["status"], SOON)?.stdout;
    ensure!(shown.contains("green WAS WRITTEN BY SOMEBODY ELSE: 1 row changes"), "{shown}");
    let mut arguments = GO.to_vec();
    arguments.extend(["--gate-timeout", "15s"]);
    let finished = this.stage.cutover(&arguments, 2 * SOON)?;
    ensure!(finished.code() == 3, "{}: {}", finished.code(), finished.stderr);
    let said = format!("{}{}", finished.stdout, finished.stderr);
    ensure!(said.contains("was written by somebody else") && said.contains("alien"), "{said}");
    ensure!(said.contains(&format!("pg_drop_replication_slot('{SLOT}')")), "{said}");
    this.more(50).await?;
    let on_blue = this.stage.blue.value(DATABASE, "SELECT count(*) FROM alien").await?;
    assert_eq!(on_blue, "0");

    // Done as the check says: green is made right, and the operator says so.
    this.stage.green.execute(DATABASE, "DELETE FROM alien").await?;
    this.sidecar.terminate()?;
    this.sidecar.wait(SOON)?;
    let drop = format!("SELECT pg_drop_replication_slot('{SLOT}')");
    this.stage.green.execute(DATABASE, &drop).await?;
    this.restart_sidecar()?;
    this.wait_streaming().await?;
    cut_over(&this).await?;
    this.more(100).await?;
    let report = this.stage.api().status()?["cutover"]["report"].clone();
    assert_eq!(report["way_back"], true, "{report}");
    ensure_blue_follows(&mut this).await
}

async fn green_serves_and_blue_follows(blue: u32, green: u32) -> Result<()> {
    let mut this = Move::streaming(Stage::builder(blue, green)).await?;
    this.more(100).await?;
    cut_over(&this).await?;
    this.more(300).await?;
    let report = this.stage.api().status()?["cutover"]["report"].clone();
    assert_eq!(report["way_back"], true, "{report}");
    ensure_blue_follows(&mut this).await
}

#[tokio::test(flavor = "multi_thread")]
async fn from_15_to_17_blue_follows_green() -> Result<()> {
    green_serves_and_blue_follows(15, 17).await
}

#[tokio::test(flavor = "multi_thread")]
async fn from_13_to_17_blue_follows_green() -> Result<()> {
    green_serves_and_blue_follows(13, 17).await
}

/// The sidecar dies while green serves: what green writes meanwhile is in the slot, and blue gets
/// it, although blue lets nobody in but us.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_killed_while_green_serves_goes_on() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17)).await?;
    this.more(100).await?;
    cut_over(&this).await?;
    for _ in 0..2 {
        this.more(100).await?;
        this.sidecar.kill9()?;
        this.more(100).await?;
        this.restart_sidecar()?;
        let green = &this.stage.green;
        let read = wait::until("the way back to be read again", SOON, || async {
            Ok((!confirmed(green).await?.is_empty()).then_some(()))
        });
        let read = read.await;
        read.with_context(|| format!("the log ends:\n{}", this.sidecar.log_tail()))?;
    }
    ensure_blue_follows(&mut this).await
}

/// One that only blue has is a difference, whatever it fires for; one that is on both sides is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_only_blue_has_stops_the_cutover() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17)).await?;
    let trigger = "CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql
             AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER again BEFORE INSERT ON ledger.accounts
             FOR EACH ROW EXECUTE FUNCTION public.nothing()";
    let always = "ALTER TABLE ledger.accounts ENABLE ALWAYS TRIGGER again";
    this.stage.blue.execute(DATABASE, &format!("{trigger}; {always}")).await?;
    let finished = this.stage.cutover(&GO, 2 * SOON)?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    ensure!(finished.code() == 3, "{}: {said}", finished.code());
    ensure!(said.contains("again"), "{said}");
    this.more(50).await?;

    let ordinary = "ALTER TABLE ledger.accounts ENABLE TRIGGER again";
    this.stage.blue.execute(DATABASE, ordinary).await?;
    this.stage.green.execute(DATABASE, trigger).await?;
    cut_over(&this).await?;
    this.more(100).await?;
    ensure_blue_follows(&mut this).await
}
