//! Schema changes on the way to green, and on the way back, around whole cutovers.

use anyhow::{Context, Result, ensure};
use tests::ledger::{self, Ledger};
use tests::mysql::{Mysql, Stage, Version};
use tests::process::Process;
use tests::wait;

use super::SOON;
use super::mysql_cutover::{BACK, GO, Move};

const APPLY: &str = "[apply]\nddl = \"apply\"\nlanes = 2\n";
const ACCOUNTS: u32 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn mysql_is_altered_on_either_side_of_a_flip() -> Result<()> {
    is_altered_on_either_side((Version::Mysql9_7, Version::Mysql9_7)).await
}

/// Defines things through the application's way in, and waits until the other side has them with the row
/// that comes behind.
async fn changes_arrive(this: &Move, other: &Mysql, sql: &str, wanted: &str) -> Result<()> {
    let stage = &this.stage;
    stage.app().run(&format!("use shop; {sql}"))?;
    wait::until(&format!("{wanted} on the other side"), SOON, || {
        // The table or column may not be there yet.
        let found = stage.mover(other).value(wanted).ok();
        async move { Ok((found.as_deref() == Some("1")).then_some(())) }
    })
    .await
    .with_context(|| this.sidecar.log_tail())
}

async fn is_altered_on_either_side(versions: (Version, Version)) -> Result<()> {
    let stage = Stage::start(versions, &[], APPLY)?;
    stage.on_blue(&ledger::mysql::tables(ACCOUNTS))?;
    stage.on_blue("create table thing(id int primary key)")?;
    let mut sidecar: Process = stage.replicator()?;
    stage.api().wait_streaming(&mut sidecar, 1.0, 2 * SOON).await?;
    let options = ledger::Options {
        clients: 2,
        rate: 50,
        accounts: ACCOUNTS,
        ..ledger::Options::new(stage.app_url())
    };
    let ledger = Ledger::start(options)?;
    let mut this = Move { stage, sidecar, ledger };
    let added = |n: u8| {
        format!(
            "alter table thing add column c{n} varchar(9); insert into thing(id, c{n}) values ({n}, 'c{n}')"
        )
    };
    let arrived = |n: u8| format!("select count(*) from shop.thing where c{n} = 'c{n}'");
    changes_arrive(&this, &this.stage.green, &added(1), &arrived(1)).await?;

    // A tool is at work: no cutover.
    changes_arrive(
        &this,
        &this.stage.green,
        "create table _thing_gho like thing; insert into _thing_gho(id) values (1)",
        "select count(*) from shop._thing_gho",
    )
    .await?;
    let refused = this.stage.cutover(&GO, SOON)?;
    let said = format!("{}{}", refused.stdout, refused.stderr);
    ensure!(refused.code() != 0 && said.contains("shop._thing_gho"), "{said}");
    this.stage.app().run("drop table shop._thing_gho")?;
    this.more().await?;

    this.succeed(&GO)?;
    changes_arrive(&this, &this.stage.blue, &added(2), &arrived(2)).await?;
    // The next life of the way back goes on behind what it has repeated.
    this.sidecar.kill9()?;
    this.sidecar = this.stage.replicator()?;
    changes_arrive(&this, &this.stage.blue, &added(3), &arrived(3)).await?;
    this.stage
        .api()
        .wait_status(&mut this.sidecar, "the way back to carry", SOON, |status| {
            status["streams"][1]["state"] == "carries"
        })
        .await?;
    this.succeed(&BACK)?;
    changes_arrive(&this, &this.stage.green, &added(4), &arrived(4)).await?;
    this.succeed(&GO)?;
    this.more().await?;
    let on_green = this.stage.mover_url(&this.stage.green);
    this.ledger.check(&on_green).await?.ensure_exact()?;
    let columns = "select group_concat(column_name order by ordinal_position)
                   from information_schema.columns where table_name = 'thing'";
    for side in [&this.stage.blue, &this.stage.green] {
        assert_eq!(this.stage.mover(side).value(columns)?, "id,c1,c2,c3,c4", "each once");
    }
    Ok(())
}
