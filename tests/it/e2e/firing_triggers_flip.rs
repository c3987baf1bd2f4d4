//! What a flip can't switch keeps no client waiting, and is made up for whoever else is gone.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::postgres::Stop;
use tests::stage::DATABASE;
use tests::wait;

use super::firing_triggers::{
    GO, ON, STATES, killed_at, locked, wait_said, wait_states, with_points,
};
use super::{Move, SOON};

const LEFT: &str = "cutover_triggers_off{pipeline=\"shop\"}";

/// A run that stands still at a moment while something is done, and its report.
async fn paused_at(
    this: &mut Move,
    point: &str,
    meanwhile: impl AsyncFnOnce(&Move) -> Result<()>,
) -> Result<Value> {
    let points = this.stage.path().join("failpoints");
    std::fs::write(points.join(point), "pause")?;
    let log = this.stage.path().join("operator");
    let mut operator = this.stage.cutover_command()?.args(GO).start(&log)?;
    let reached = points.join(format!("{point}.reached"));
    let there = wait::until(point, SOON, || async { Ok(reached.exists().then_some(())) }).await;
    there.with_context(|| operator.log_tail())?;
    meanwhile(this).await?;
    std::fs::remove_file(points.join(point))?;
    operator.wait(2 * SOON).with_context(|| this.sidecar.log_tail())?;
    let status = this.stage.api().get("/v1/status")?;
    let status: Value = serde_json::from_str(&status.body)?;
    Ok(status["cutover"]["report"].clone())
}

/// Neither does the flip fail for it, nor is it tried for a minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_about_triggers_keeps_no_client_waiting() -> Result<()> {
    let mut this = with_points().await?;
    let holder = this.stage.green.connect(DATABASE).await?;
    let hang = async |_: &Move| {
        let sql = "BEGIN; LOCK TABLE _cutover.trigger_states IN ACCESS EXCLUSIVE MODE";
        Ok(holder.batch_execute(sql).await?)
    };
    let report = paused_at(&mut this, "act.decide.before", hang).await?;
    assert_eq!(report["outcome"], "completed", "{report}");
    let text = report.to_string();
    ensure!(text.contains("NOT MADE on green") && text.contains("in time"), "{report}");
    let stopped = text.contains("takes too long");
    ensure!(!stopped, "the flip was tried again: {report}");
    this.more(50).await?;
    holder.batch_execute("COMMIT").await?;
    wait_states(&this.stage.green, "the rest to be switched", ON).await?;
    ensure_once_serving(&mut this).await
}

/// Behind the waiting request of somebody else, who waits for one that only reads. Its table has no rule.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_lock_in_front_of_the_flip_is_ended_too() -> Result<()> {
    let mut this = with_points().await?;
    let reader = this.stage.green.connect(DATABASE).await?;
    let waiter = this.stage.green.connect(DATABASE).await?;
    let wait = async |this: &Move| {
        reader.batch_execute("BEGIN; SELECT count(*) FROM ledger.entries").await?;
        let waiting =
            waiter.batch_execute("BEGIN; LOCK TABLE ledger.entries IN ACCESS EXCLUSIVE MODE");
        let queued = wait::until("it to wait", SOON, || async {
            let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted
                       AND mode = 'AccessExclusiveLock' AND relation = 'ledger.entries'::regclass";
            Ok((this.stage.green.value(DATABASE, sql).await? == "1").then_some(()))
        });
        tokio::select! {
            ended = waiting => anyhow::bail!("it did not wait: {ended:?}"),
            queued = queued => queued,
        }
    };
    let report = paused_at(&mut this, "act.decide.before", wait).await?;
    ensure!(!report.to_string().contains("NOT MADE"), "{report}");
    assert_eq!(this.stage.green.value(DATABASE, STATES).await?, ON, "{}", this.sidecar.log_tail());
    reader.batch_execute("COMMIT").await.context("who only reads was ended")?;
    Ok(())
}

/// The old primary is gone: what the flip had to leave off needs only the side that serves.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_off_is_switched_without_the_other_side() -> Result<()> {
    let mut this = with_points().await?;
    let holder = locked(&this.stage.green).await?;
    let report = killed_at(&mut this, "act.decide.after", &GO).await?;
    assert_eq!(report["outcome"], "completed", "{report}");
    this.stage.blue.stop(Stop::Immediate)?;
    wait_said(&mut this, "NOT MADE on green, and tried again", true).await?;
    let left = this.stage.api().metric(LEFT)?;
    ensure!(left.is_some_and(|left| left > 0.0), "{left:?}");
    // One that is gone is nothing that is left.
    holder.batch_execute("DROP TRIGGER never ON probe_1; COMMIT").await?;
    wait_states(&this.stage.green, "the rest to be switched", "note=A rule=A see=A").await?;
    wait_said(&mut this, "NOT MADE on green, and tried again", false).await?;
    let told = wait::until("it to be told", SOON, || async {
        let log = this.sidecar.stderr()?;
        let span = log.lines().any(|line| {
            line.contains("see") && line.contains("clients were served without it from")
        });
        Ok((span && this.stage.api().metric(LEFT)? == Some(0.0)).then_some(()))
    });
    told.await.with_context(|| this.sidecar.log_tail())
}

/// Behind the gate's last comparison of definitions, and before the fence.
#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_trigger_that_is_switched_just_before_the_fence_ends_the_run() -> Result<()> {
    let mut this = with_points().await?;
    let enable = async |this: &Move| {
        this.stage.on_blue("ALTER TABLE ledger.entries ENABLE TRIGGER usual").await
    };
    let disable = async |this: &Move| {
        this.stage.on_blue("ALTER TABLE ledger.entries DISABLE TRIGGER usual").await
    };
    for server in [&this.stage.blue, &this.stage.green] {
        let sql = "CREATE TRIGGER usual AFTER TRUNCATE ON ledger.entries EXECUTE PROCEDURE note()";
        server.execute(DATABASE, sql).await?;
    }
    let report = paused_at(&mut this, "act.hold_traffic.before", disable).await?;
    assert_eq!(report["outcome"], "aborted", "{report}");
    ensure!(report.to_string().contains("usual"), "{report}");
    this.more(20).await?;
    enable(&this).await?;
    // What is a session's own takes no part.
    let session = this.stage.blue.connect(DATABASE).await?;
    let temporary = async |_: &Move| {
        let sql = "CREATE TEMP TABLE own (n int);
                   CREATE TRIGGER own AFTER INSERT ON own EXECUTE PROCEDURE note()";
        Ok(session.batch_execute(sql).await?)
    };
    let report = paused_at(&mut this, "act.hold_traffic.before", temporary).await?;
    assert_eq!(report["outcome"], "completed", "{report}");
    Ok(())
}

async fn ensure_once_serving(this: &mut Move) -> Result<()> {
    // What was written meanwhile set nothing off: only what comes now has to.
    let off = "SELECT count(*) FROM ledger.entries e
               WHERE NOT EXISTS (SELECT FROM noted n WHERE (n.client, n.seq) = (e.client, e.seq))";
    let missed = this.stage.green.value(DATABASE, off).await?;
    this.more(50).await?;
    assert_eq!(this.stage.green.value(DATABASE, off).await?, missed);
    Ok(())
}
