//! `cutover finish`: no way back any more, and nothing of ours left behind but the decisions.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::postgres::{self, Postgres};
use tests::stage::{APP, DATABASE, Stage};
use tests::wait;

use super::rollback::expect;
use super::{Move, SOON};

const GO: [&str; 5] = ["--when-lag", "<1s", "--yes", "--max-pause", "30s"];
const FINISH: [&str; 2] = ["finish", "--yes"];

/// What there may be of ours, one a line; tables of schema `_cutover` but the decisions included.
const LEFT: &str = "
    SELECT coalesce(string_agg(what, ', ' ORDER BY what), '') FROM (
        SELECT 'slot ' || slot_name AS what FROM pg_replication_slots
        UNION ALL SELECT 'origin ' || roname FROM pg_replication_origin
        UNION ALL SELECT 'publication ' || pubname FROM pg_publication
        UNION ALL SELECT 'table ' || relname FROM pg_class
            WHERE relnamespace = to_regnamespace('_cutover') AND relkind IN ('r', 'p', 'v')
              AND relname <> 'decision'
        UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgname LIKE '%cutover%'
        UNION ALL SELECT 'function ' || proname FROM pg_proc
            WHERE pronamespace = to_regnamespace('_cutover')) AS found";

async fn ensure_nothing_left(server: &Postgres, name: &str) -> Result<()> {
    let left = server.value(DATABASE, LEFT).await?;
    ensure!(left.is_empty(), "left on {name}: {left}");
    Ok(())
}

/// Green serves for good: nothing is left on it, blue is sealed, and nothing leads back.
async fn ensure_finished(this: &mut Move) -> Result<()> {
    ensure_nothing_left(&this.stage.green, "green").await?;
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(this.stage.blue.value("postgres", slots).await?, "0");
    let refused = postgres::connect_url(&this.stage.blue.url_as(APP, DATABASE)).await;
    ensure!(refused.is_err(), "blue must stay sealed");
    let refused = expect(this, &["rollback", "--yes"], 3)?.stderr;
    ensure!(refused.contains("the move was finished; green serves"), "{refused}");
    let refused = expect(this, &GO, 3)?.stderr;
    ensure!(refused.contains("the move was finished; green serves"), "{refused}");
    let status = this.stage.api().status()?;
    assert_eq!((&status["finish"], &status["serving"]), (&"done".into(), &"green".into()));
    assert_eq!(this.stage.api().get("/readyz")?.status, 200);
    this.more(100).await
}

/// Opens blue as its report says, and looks what is there.
async fn ensure_blue_is_clean(this: &Move, report: &Value) -> Result<()> {
    let reopen = report["reopen"].as_array().context("no way to open blue")?;
    ensure!(!reopen.is_empty(), "{report}");
    for line in reopen {
        let line = line.as_str().context("a line")?;
        let sql = line.strip_prefix("blue: ").with_context(|| format!("not on blue: {line}"))?;
        // From beside it: the database lets nobody in.
        this.stage.blue.execute("postgres", sql).await.with_context(|| line.to_owned())?;
    }
    ensure_nothing_left(&this.stage.blue, "blue").await?;
    this.stage.on_blue("CREATE TABLE writable (x int)").await.context("blue as it was before")
}

/// Tables without a key: one that only the move needs whole rows of, and one of somebody else's publication.
const WHOLE_ROWS: &str = "
    CREATE TABLE keyless (a int); ALTER TABLE keyless REPLICA IDENTITY FULL;
    CREATE TABLE theirs (a int); ALTER TABLE theirs REPLICA IDENTITY FULL";

async fn finished(blue: u32, green: u32) -> Result<()> {
    let stage = Stage::builder(blue, green);
    let mut this = Move::streaming_with(stage, WHOLE_ROWS).await?;
    let refused = expect(&this, &FINISH, 3)?.stderr;
    ensure!(refused.contains("nothing has been cut over"), "{refused}");
    expect(&this, &GO, 0)?;
    this.more(100).await?;
    this.stage.green.execute(DATABASE, "CREATE PUBLICATION another FOR TABLE theirs").await?;
    let done = expect(&this, &FINISH, 0)?;
    ensure!(done.stderr.contains("drop replication slot cutover_shop_back"), "{}", done.stderr);
    for text in [&done.stderr, &done.stdout] {
        ensure!(
            text.contains("green: ALTER TABLE public.keyless REPLICA IDENTITY DEFAULT"),
            "{text}"
        );
        ensure!(!text.contains("theirs"), "{text}");
    }
    this.stage.green.execute(DATABASE, "DROP PUBLICATION another").await?;
    ensure!(done.stdout.contains("finished  green serves for good"), "{}", done.stdout);
    ensure_finished(&mut this).await?;

    // Once more is no error, also after a restart.
    this.sidecar.terminate()?;
    this.sidecar.wait(SOON)?;
    this.restart_sidecar()?;
    let known = this.stage.wait_status(&mut this.sidecar, "the end to be known", SOON, |status| {
        status["phase"] == "cut_over" && status["finish"] == "done"
    });
    known.await?;
    let again = expect(&this, &["finish", "--yes", "--json"], 0)?;
    ensure_finished(&mut this).await?;
    let report: Value = serde_json::from_str(&again.stdout)?;
    ensure_blue_is_clean(&this, &report).await?;
    this.ledger.stop()?;
    this.ledger.check(&this.stage.green.url(DATABASE)).await?.ensure_unnoticed()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_15_to_17_nothing_of_ours_is_left() -> Result<()> {
    finished(15, 17).await
}

/// Version 10 has markers in a table, and triggers that report TRUNCATE.
#[tokio::test(flavor = "multi_thread")]
async fn from_10_to_18_nothing_of_ours_is_left() -> Result<()> {
    finished(10, 18).await
}

/// After a rollback blue serves for good, and green is the side that stays sealed.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_rollback_blue_serves_for_good() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17)).await?;
    expect(&this, &GO, 0)?;
    this.more(50).await?;
    expect(&this, &["rollback", "--yes", "--max-pause", "30s"], 0)?;
    this.more(50).await?;
    let done = expect(&this, &FINISH, 0)?;
    ensure!(done.stdout.contains("finished  blue serves for good"), "{}", done.stdout);
    ensure_nothing_left(&this.stage.blue, "blue").await?;
    let refused = postgres::connect_url(&this.stage.green.url_as(APP, DATABASE)).await;
    ensure!(refused.is_err(), "green must stay sealed");
    let refused = expect(&this, &GO, 3)?.stderr;
    ensure!(refused.contains("the move was finished; blue serves"), "{refused}");
    this.more(50).await?;
    this.ledger.stop()?;
    this.ledger.check(&this.stage.blue.url(DATABASE)).await?.ensure_unnoticed()
}

/// Killed again and again somewhere between its first and its last act, it is ended by whoever asks
/// again; nothing but that is possible meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_it_is_ended_by_the_next_try() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17)).await?;
    expect(&this, &GO, 0)?;
    this.more(100).await?;
    let mut killed = 0;
    for attempt in 1..=4 {
        let log = this.stage.path().join(format!("finish-{attempt}"));
        let mut following = this.stage.cutover_command()?.args(FINISH).start(&log)?;
        let begun = this.stage.wait_status(&mut this.sidecar, "finish to begin", SOON, |status| {
            status["finish"] == "under_way" || status["finish"] == "done"
        });
        let state = begun.await.with_context(|| following.log_tail())?["finish"].clone();
        this.sidecar.kill9()?;
        following.wait(SOON)?;
        this.restart_sidecar()?;
        let answers = wait::until("the sidecar to answer", SOON, || async {
            Ok(this.stage.api().status().ok().filter(|status| status["finish"] != "not_asked"))
        });
        let status = answers.await.with_context(|| this.sidecar.log_tail())?;
        if status["finish"] == "done" {
            break;
        }
        ensure!(state == "under_way", "{state}");
        killed += 1;
        let refused = expect(&this, &["rollback", "--yes"], 3)?.stderr;
        ensure!(refused.contains("finish was begun and has to be ended"), "{refused}");
        this.more(50).await?;
    }
    ensure!(killed > 0, "it was never caught in the middle");
    let done = expect(&this, &["finish", "--yes", "--json"], 0)?;
    ensure_finished(&mut this).await?;
    let report: Value = serde_json::from_str(&done.stdout)?;
    ensure_blue_is_clean(&this, &report).await?;
    this.ledger.stop()?;
    this.ledger.check(&this.stage.green.url(DATABASE)).await?.ensure_unnoticed()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_green_is_watched_it_takes_force() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17)).await?;
    let log = this.stage.path().join("watched");
    let watched = [&GO[..], &["--watch", "10m"]].concat();
    let mut following = this.stage.cutover_command()?.args(watched).start(&log)?;
    let watching = this.stage.wait_status(&mut this.sidecar, "green being watched", SOON, |s| {
        s["cutover"]["phase"] == "watching"
    });
    watching.await.with_context(|| following.log_tail())?;
    let refused = expect(&this, &FINISH, 8)?.stderr;
    ensure!(refused.contains("still watches how green does"), "{refused}");
    ensure!(refused.contains("finish --force-abandon-rollback"), "{refused}");
    let status = this.stage.api().status()?;
    assert_eq!(
        (&status["finish"], &status["cutover"]["phase"]),
        (&"not_asked".into(), &"watching".into())
    );
    expect(&this, &["finish", "--yes", "--force-abandon-rollback"], 0)?;
    let ended = following.wait(SOON)?;
    ensure!(ended.code() == Some(0), "{ended}: {}", following.log_tail());
    ensure_finished(&mut this).await
}
