//! Triggers and scheduled events move with a flip between servers of MySQL or MariaDB, and back.

use anyhow::{Context, Result, ensure};
use tests::mysql::{Mysql, Stage, Version};
use tests::wait;

use super::SOON;
use super::mysql_cutover::{BACK, GO, Move};

/// Each entry is noted by a trigger, in whose order another one looks back; and a clock ticks.
const AUTOMATION: &str = "
    create table noted (id bigint auto_increment primary key, client int not null, seq bigint not null,
      looked int, key (client, seq));
    create trigger note_entry after insert on ledger_entries for each row
      insert into noted (client, seq) values (new.client, new.seq);
    create trigger a_look_back after insert on ledger_entries for each row
      update noted set looked = ifnull(looked, 0) + 1 where client = new.client and seq = new.seq;
    create table tick (id bigint auto_increment primary key, port int not null);
    create event ticking on schedule every 1 second do insert into tick (port) values (@@port);";

const TRIGGERS: &str =
    "select count(*) from information_schema.triggers where trigger_schema = 'shop'";

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_takes_its_triggers_and_events_along() -> Result<()> {
    are_taken_along((Version::Mariadb10_11, Version::Mariadb11_8)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_takes_its_triggers_and_events_along() -> Result<()> {
    are_taken_along((Version::Mysql9_7, Version::Mysql9_7)).await
}

async fn are_taken_along(versions: (Version, Version)) -> Result<()> {
    let mut this = Move::start(versions, &["--event-scheduler=ON"], AUTOMATION).await?;
    this.more().await?;
    for (command, to_green) in [(&GO[..], true), (&BACK[..], false), (&GO[..], true)] {
        this.succeed(command)?;
        this.more().await?;
        let stage = &this.stage;
        let (serves, left) = match to_green {
            true => (&stage.green, &stage.blue),
            false => (&stage.blue, &stage.green),
        };
        let ticks = format!("select count(*) from shop.tick where port = {}", serves.port());
        wait::until("the clock of the side that serves", SOON, || {
            let ticked = stage.mover(serves).value(&ticks);
            async move { Ok((ticked? != "0").then_some(())) }
        })
        .await?;
        this.ledger.rest(SOON).await?;
        each_is_noted_once(stage, serves).context("the side that serves")?;
        let noted = "select count(*) from shop.noted";
        let all = stage.mover(serves).value(noted)?;
        wait::until("the side that was left to have everything", SOON, || {
            let found = stage.mover(left).value(noted);
            let all = all.clone();
            async move { Ok((found? == all).then_some(())) }
        })
        .await?;
        each_is_noted_once(stage, left).context("the side that was left")?;
        assert_eq!(stage.mover(serves).value(TRIGGERS)?, "2");
        assert_eq!(stage.mover(left).value(TRIGGERS)?, "0");
        this.ledger.go_on();
    }
    let on_green = this.stage.mover_url(&this.stage.green);
    this.ledger.check(&on_green).await?.ensure_exact()?;
    this.sidecar.terminate()?;
    ensure!(this.sidecar.wait(SOON)?.success(), "{}", this.sidecar.log_tail());
    Ok(())
}

fn each_is_noted_once(stage: &Stage, server: &Mysql) -> Result<()> {
    let counts = stage.mover(server).rows(
        "select (select count(*) from shop.ledger_entries), count(*), count(distinct client, seq), sum(looked)
         from shop.noted",
    )?;
    let counts: Vec<_> = counts[0].iter().map(|count| String::from_utf8_lossy(count)).collect();
    ensure!(counts.iter().all(|count| *count == counts[0]), "entries, notes, others: {counts:?}");
    Ok(())
}
