//! `cutover rollback`: back to blue without losing what green has acknowledged, and forth again.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::process::{Finished, Process};
use tests::stage::{APP, DATABASE, Stage};
use tests::{postgres, wait};

use super::{Move, SOON};

/// A machine that other tests are busy on takes its time; how long the pause is, a bench measures.
const GO: [&str; 5] = ["--when-lag", "<1s", "--yes", "--max-pause", "30s"];
const BACK: [&str; 4] = ["rollback", "--yes", "--max-pause", "30s"];
/// A sequence of its own that nothing but the tests moves.
const TICKETS: &str = "CREATE SEQUENCE tickets INCREMENT 3";

/// Runs `cutover ARGUMENTS` to its end and wants this exit code.
pub fn expect(this: &Move, arguments: &[&str], code: i32) -> Result<Finished> {
    let finished = this.stage.cutover(arguments, 2 * SOON)?;
    ensure!(
        finished.code() == code,
        "{arguments:?}: exit code {} instead of {code}\n--- stdout\n{}\n--- stderr\n{}\n--- log\n{}",
        finished.code(),
        finished.stdout,
        finished.stderr,
        this.sidecar.log_tail()
    );
    Ok(finished)
}

/// The routers lead to `serving`, which has everything; the other side lets nobody in.
async fn ensure_serves(this: &mut Move, serving: &str) -> Result<()> {
    this.more(100).await?;
    let stage = &this.stage;
    let (serves, closed) = match serving {
        "blue" => (&stage.blue, &stage.green),
        _ => (&stage.green, &stage.blue),
    };
    for router in &stage.routers {
        assert_eq!(router.target_port().await?, serves.port(), "{serving} should serve");
    }
    let refused = postgres::connect_url(&closed.url_as(APP, DATABASE)).await;
    ensure!(refused.is_err(), "the side that was left must be closed");
    let url = serves.url(DATABASE);
    this.ledger.rest(SOON).await?;
    this.ledger.check_resting(&url).await?.ensure_unnoticed()?;
    this.ledger.go_on();
    Ok(())
}

/// Takes numbers from the sequence through the router; gives the last.
async fn take_tickets(this: &Move) -> Result<i64> {
    let client = postgres::connect_url(&this.stage.app_url()?).await?;
    let sql = "SELECT max(nextval('tickets')) FROM generate_series(1, 100)";
    let rows = postgres::rows(&client, sql).await?;
    let last = rows.first().and_then(|row| row.first()?.as_deref());
    Ok(last.context("no number")?.parse()?)
}

fn report(this: &Move) -> Result<Value> {
    Ok(this.stage.api().status()?["cutover"]["report"].clone())
}

/// The stream of a direction as the status shows it.
fn stream(status: &Value, direction: &str) -> Value {
    let streams = status["streams"].as_array().cloned().unwrap_or_default();
    streams.into_iter().find(|stream| stream["direction"] == direction).unwrap_or_default()
}

async fn forth_and_back_and_forth(blue: u32, green: u32) -> Result<()> {
    let mut this = Move::streaming_with(Stage::builder(blue, green), TICKETS).await?;
    this.more(100).await?;
    let on_blue = take_tickets(&this).await?;
    expect(&this, &GO, 0)?;
    ensure_serves(&mut this, "green").await?;
    let on_green = take_tickets(&this).await?;
    ensure!(on_green > on_blue, "green gave {on_green} after blue's {on_blue}");
    this.more(300).await?;

    let finished = expect(&this, &BACK, 0)?;
    ensure!(finished.stdout.starts_with("rolled back  blue serves"), "{}", finished.stdout);
    ensure_serves(&mut this, "blue").await?;
    let report = report(&this)?;
    assert_eq!(report["outcome"], "rolled_back", "{report}");
    assert_eq!(report["way_back"], true, "{report}");
    let again_on_blue = take_tickets(&this).await?;
    ensure!(again_on_blue > on_green, "blue gave {again_on_blue} after green's {on_green}");
    this.more(300).await?;

    expect(&this, &GO, 0)?;
    ensure_serves(&mut this, "green").await?;
    let again_on_green = take_tickets(&this).await?;
    ensure!(again_on_green > again_on_blue, "green gave {again_on_green} after {again_on_blue}");
    let history = this.stage.api().json("/v1/history")?;
    let runs: Vec<_> = history["runs"].as_array().into_iter().flatten().collect();
    let outcomes: Vec<_> = runs.iter().map(|run| run["outcome"].as_str()).collect();
    assert_eq!(outcomes, [Some("completed"), Some("rolled_back"), Some("completed")]);
    this.ledger.stop()?;
    this.ledger.check(&this.stage.green.url(DATABASE)).await?.ensure_unnoticed()
}

/// The old major version as the target of the way back.
#[tokio::test(flavor = "multi_thread")]
async fn between_13_and_17_nothing_is_lost_and_nobody_notices() -> Result<()> {
    forth_and_back_and_forth(13, 17).await
}

#[tokio::test(flavor = "multi_thread")]
async fn between_10_and_18_nothing_is_lost_and_nobody_notices() -> Result<()> {
    forth_and_back_and_forth(10, 18).await
}

/// What an operator and a monitoring see at each station.
#[tokio::test(flavor = "multi_thread")]
async fn status_metrics_and_readiness_follow_the_clients() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17)).await?;
    let api = this.stage.api();
    let status = api.status()?;
    assert_eq!((&status["serving"], &status["direction"]), (&"blue".into(), &"forward".into()));
    assert_eq!(stream(&status, "forward")["state"], "carries", "{status}");
    assert_eq!(stream(&status, "back")["state"], "not_armed", "{status}");
    let state = |direction: &str, state: &str| {
        let labels = format!("pipeline=\"{DATABASE}\",direction=\"{direction}\",state=\"{state}\"");
        api.metric(&format!("cutover_stream_state{{{labels}}}"))
    };
    assert_eq!(state("forward", "carries")?, Some(1.0));
    assert_eq!(state("back", "not_armed")?, Some(1.0));

    expect(&this, &GO, 0)?;
    let settled = this.stage.wait_status(&mut this.sidecar, "both streams", SOON, |status| {
        stream(status, "back")["state"] == "carries" && stream(status, "forward")["state"] == "hot"
    });
    let status = settled.await?;
    assert_eq!((&status["serving"], &status["sealed"]), (&"green".into(), &"blue".into()));
    assert_eq!(status["direction"], "back", "the lag shown is the way back's");
    assert!(status["lag"]["seconds"].is_number(), "{status}");
    assert_eq!(api.get("/readyz")?.status, 200);
    assert_eq!((state("back", "carries")?, state("back", "hot")?), (Some(1.0), Some(0.0)));
    let serving =
        |side| api.metric(&format!("cutover_serving{{pipeline=\"{DATABASE}\",side=\"{side}\"}}"));
    assert_eq!((serving("blue")?, serving("green")?), (Some(0.0), Some(1.0)));
    let lag = format!("cutover_lag_seconds{{pipeline=\"{DATABASE}\",direction=\"back\"}}");
    ensure!(api.metric(&lag)?.is_some_and(f64::is_finite), "{}", api.get("/metrics")?.body);
    let shown = expect(&this, &["status"], 0)?.stdout;
    ensure!(shown.contains("serves   green  (blue is sealed)"), "{shown}");
    ensure!(shown.contains("way back carries  blue is"), "{shown}");
    let plan = expect(&this, &["plan"], 0)?.stdout;
    ensure!(plan.contains("of a rollback: green serves now"), "{plan}");

    expect(&this, &BACK, 0)?;
    let settled = this.stage.wait_status(&mut this.sidecar, "both streams", SOON, |status| {
        stream(status, "forward")["state"] == "carries" && stream(status, "back")["state"] == "hot"
    });
    let status = settled.await?;
    assert_eq!((&status["serving"], &status["sealed"]), (&"blue".into(), &"green".into()));
    assert_eq!((&status["direction"], &status["phase"]), (&"forward".into(), &"streaming".into()));
    assert_eq!(api.get("/readyz")?.status, 200);
    let shown = expect(&this, &["status"], 0)?.stdout;
    ensure!(shown.contains("way back hot  stands by"), "{shown}");
    this.ledger.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_nothing_to_roll_back_before_a_cutover_nor_twice() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17)).await?;
    let refused = expect(&this, &BACK, 3)?.stderr;
    ensure!(refused.contains("blue serves already"), "{refused}");
    expect(&this, &GO, 0)?;
    let refused = expect(&this, &GO, 3)?.stderr;
    ensure!(refused.contains("green serves already") && refused.contains("rollback"), "{refused}");
    expect(&this, &BACK, 0)?;
    let refused = expect(&this, &BACK, 3)?.stderr;
    ensure!(refused.contains("blue serves already"), "{refused}");
    ensure_serves(&mut this, "blue").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cutover_without_a_way_back_can_not_be_rolled_back() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17)).await?;
    let planned = expect(&this, &["plan", "--no-way-back"], 0)?.stdout;
    ensure!(planned.contains("NONE: no way back is kept"), "{planned}");
    expect(&this, &[&GO[..], &["--no-way-back"]].concat(), 0)?;
    let refused = expect(&this, &BACK, 3)?.stderr;
    ensure!(refused.contains("left no way back to blue"), "{refused}");
    let refused = expect(&this, &["plan"], 3)?.stderr;
    ensure!(refused.contains("left no way back to blue"), "{refused}");
    assert_eq!(this.stage.api().get("/readyz")?.status, 200);
    ensure_serves(&mut this, "green").await?;
    let slots = this.stage.green.value("postgres", "SELECT count(*) FROM pg_replication_slots");
    assert_eq!(slots.await?, "0", "nothing of ours may pin green's log");
    Ok(())
}

/// Starts `cutover ARGUMENTS` and waits until its run is in this phase.
async fn started(this: &mut Move, arguments: &[&str], phase: &str) -> Result<Process> {
    let log = this.stage.path().join(format!("following-{}", arguments.len()));
    let following = this.stage.cutover_command()?.args(arguments).start(&log)?;
    let what = format!("the run to be {phase}");
    let reached = this
        .stage
        .wait_status(&mut this.sidecar, &what, SOON, |status| status["cutover"]["phase"] == phase);
    reached.await.with_context(|| following.log_tail())?;
    Ok(following)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_ends_the_time_of_watching() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17)).await?;
    let watched = [&GO[..], &["--watch", "10m"]].concat();
    let mut following = started(&mut this, &watched, "watching").await?;
    let shown = expect(&this, &["status"], 0)?.stdout;
    ensure!(shown.contains(" left\n") && shown.contains(" watch "), "{shown}");
    let late = expect(&this, &["abort"], 1)?.stderr;
    ensure!(late.contains("can't be aborted") && late.contains("cutover rollback"), "{late}");
    this.more(200).await?;
    expect(&this, &BACK, 0)?;
    let ended = following.wait(SOON)?;
    ensure!(ended.code() == Some(0), "{ended}: {}", following.log_tail());
    ensure_serves(&mut this, "blue").await
}

/// Nobody's terminal decides about a run: not one that is closed, and not ^C but by asking.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_does_not_depend_on_whoever_asked_for_it() -> Result<()> {
    let table = "CREATE TABLE held (id int PRIMARY KEY)";
    let mut this = Move::streaming_with(Stage::builder(15, 17), table).await?;
    expect(&this, &GO, 0)?;
    this.more(100).await?;
    let holder = postgres::connect_url(&this.stage.app_url()?).await?;
    holder.batch_execute("BEGIN; INSERT INTO held VALUES (1)").await?;
    let mut following = started(&mut this, &BACK, "armed").await?;
    following.signal(nix::sys::signal::Signal::SIGINT)?;
    let ended = following.wait(SOON)?;
    ensure!(ended.code() == Some(130), "{ended}: {}", following.log_tail());
    holder.batch_execute("COMMIT").await.context("the holder's transaction must survive")?;
    ensure_serves(&mut this, "green").await?;

    holder.batch_execute("BEGIN; INSERT INTO held VALUES (2)").await?;
    let mut following = started(&mut this, &BACK, "armed").await?;
    following.kill9()?;
    holder.batch_execute("COMMIT").await?;
    drop(holder);
    let over = this.stage.wait_status(&mut this.sidecar, "the end of the run", SOON, |status| {
        status["cutover"]["report"]["outcome"] == "rolled_back"
    });
    over.await?;
    ensure_serves(&mut this, "blue").await
}

/// What was captured for blue outlives the sidecar, and so does the right to go back.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_was_killed_in_between_rolls_back_all_the_same() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(14, 18)).await?;
    this.more(50).await?;
    expect(&this, &GO, 0)?;
    this.more(200).await?;
    this.sidecar.kill9()?;
    this.more(200).await?;
    this.restart_sidecar()?;
    let back = wait::until("the sidecar to answer", SOON, || async {
        let status = this.stage.api().status().ok();
        Ok(status.filter(|status| stream(status, "back")["state"] == "carries"))
    });
    back.await.with_context(|| this.sidecar.log_tail())?;
    expect(&this, &BACK, 0)?;
    ensure_serves(&mut this, "blue").await
}
