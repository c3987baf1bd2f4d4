//! Triggers that fired for what was applied: their tables are in doubt, whatever fails meanwhile, and nothing of it keeps
//! the watch from looking.

use anyhow::{Context, Result, ensure};
use tests::stage::{DATABASE, Stage};
use tests::wait;

use super::firing_triggers::{DOUBTED, FIRING, GO, OFF, ON, STATES, told, wait_said, wait_states};
use super::rollback::expect;
use super::{Move, SOON};

/// An ordinary trigger, which is none of ours until somebody makes it fire.
const PLAIN: &str = "CREATE TRIGGER plain AFTER INSERT ON probe_1
    FOR EACH ROW EXECUTE PROCEDURE see('plain')";
const STATE_OF_PLAIN: &str = "SELECT tgenabled FROM pg_trigger WHERE tgname = 'plain'";

async fn with_plain() -> Result<Move> {
    let sql = format!("{FIRING}; {PLAIN}");
    Move::streaming_with(Stage::builder(15, 17), &sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_made_to_fire_for_the_first_time_is_doubted() -> Result<()> {
    let mut this = with_plain().await?;
    let enable = "ALTER TABLE probe_1 ENABLE ALWAYS TRIGGER plain";
    this.stage.green.execute(DATABASE, enable).await?;
    wait_said(&mut this, DOUBTED, true).await?;
    assert_eq!(this.stage.green.value(DATABASE, STATE_OF_PLAIN).await?, "D");
    expect(&this, &["verify"], 0)?;
    wait_said(&mut this, DOUBTED, false).await?;
    expect(&this, &GO, 0)?;
    assert_eq!(this.stage.green.value(DATABASE, STATE_OF_PLAIN).await?, "O", "as blue has it");
    Ok(())
}

/// Whoever has switched it off dies before the doubt is written down.
#[tokio::test(flavor = "multi_thread")]
async fn a_doubt_outlives_the_process_that_had_it() -> Result<()> {
    let mut this = with_plain().await?;
    let holder = this.stage.green.connect(DATABASE).await?;
    holder.batch_execute("BEGIN; LOCK TABLE _cutover.catalog IN SHARE MODE").await?;
    let enable = "ALTER TABLE probe_1 ENABLE ALWAYS TRIGGER plain";
    this.stage.green.execute(DATABASE, enable).await?;
    wait::until("it to be off again", SOON, || async {
        Ok((this.stage.green.value(DATABASE, STATE_OF_PLAIN).await? == "D").then_some(()))
    })
    .await?;
    this.sidecar.kill9()?;
    holder.batch_execute("COMMIT").await?;
    this.restart_sidecar()?;
    wait_said(&mut this, DOUBTED, true).await?;
    // Told once: a comparison ends it.
    expect(&this, &["verify"], 0)?;
    wait_said(&mut this, DOUBTED, false).await
}

/// Writers go on beside such a lock, and the trigger fires for what they bring.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_keeps_one_on_does_not_blind_the_watch() -> Result<()> {
    let mut this = with_plain().await?;
    let holder = this.stage.green.connect(DATABASE).await?;
    let both = "BEGIN; ALTER TABLE probe_1 ENABLE ALWAYS TRIGGER see; COMMIT;
                BEGIN; LOCK TABLE probe_1 IN ROW EXCLUSIVE MODE";
    holder.batch_execute(both).await?;
    wait_said(&mut this, "can't be switched off", true).await?;
    wait_said(&mut this, "locked by session", true).await?;
    wait_said(&mut this, DOUBTED, true).await?;
    let differences = told(&this)?.join("; ");
    ensure!(differences.contains("see"), "what fires is compared as it is: {differences}");
    this.stage.on_blue("CREATE TABLE stranger (id int PRIMARY KEY)").await?;
    wait_said(&mut this, "stranger", true).await.context("the watch is blind")?;
    this.stage.on_blue("DROP TABLE stranger").await?;
    holder.batch_execute("COMMIT").await?;
    wait_states(&this.stage.green, "it to be off again", OFF).await?;
    wait_said(&mut this, "can't be switched off", false).await?;
    expect(&this, &["verify"], 0)?;
    wait_said(&mut this, DOUBTED, false).await?;
    expect(&this, &GO, 0)?;
    assert_eq!(this.stage.green.value(DATABASE, STATES).await?, ON);
    Ok(())
}

/// An audit of DDL sees what people do, and not what keeps triggers off.
#[tokio::test(flavor = "multi_thread")]
async fn event_triggers_keep_quiet_about_it() -> Result<()> {
    const LOG: &str = "CREATE TABLE ddl_log (id bigserial PRIMARY KEY, tag text NOT NULL)";
    let this = Move::streaming_with(Stage::builder(15, 17), &format!("{FIRING}; {LOG}")).await?;
    let audit = "CREATE FUNCTION public.audit() RETURNS event_trigger LANGUAGE plpgsql AS
                   'BEGIN INSERT INTO public.ddl_log (tag) VALUES (TG_TAG); END';
                 CREATE EVENT TRIGGER audit ON ddl_command_end WHEN TAG IN ('ALTER TABLE')
                   EXECUTE PROCEDURE public.audit()";
    let green = &this.stage.green;
    green.execute(DATABASE, audit).await?;
    green.execute(DATABASE, "ALTER TABLE probe_1 ENABLE ALWAYS TRIGGER see").await?;
    wait_states(green, "it to be off again", OFF).await?;
    assert_eq!(green.value(DATABASE, "SELECT count(*) FROM ddl_log").await?, "1", "but for ours");
    Ok(())
}
