//! A way back of MySQL and MariaDB that halts: green serves on, and what it writes waits for blue.

use anyhow::{Context, Result, ensure};
use tests::mysql::{Mysql, Stage, Version};

use super::SOON;
use super::alerts::Receiver;
use super::halts::{Watched, config};
use super::mysql_cutover::{BACK, GO, Move};

const TABLES: &str = "create table t(id int primary key, a varchar(20)); \
                      insert into t values (1, 'x'), (2, 'x'), (3, 'x'); \
                      create table u(id int primary key, a varchar(20))";

/// What is done to blue, which is closed and read-only, or to green's accounts, and what green writes then. `shop` is
/// the database that moves.
struct Cause {
    name: &'static str,
    on_blue: &'static str,
    on_green: &'static str,
    /// The error has to say so.
    told: &'static str,
    on_blue_then: &'static str,
    on_green_then: &'static str,
}

const NONE: Cause = Cause {
    name: "",
    on_blue: "do 0",
    on_green: "do 0",
    told: "",
    on_blue_then: "do 0",
    on_green_then: "do 0",
};

const CAUSES: [Cause; 8] = [
    Cause {
        name: "a row that is on blue already",
        on_blue: "insert into shop.t values (100, 'intruder')",
        on_green: "insert into shop.t values (100, 'sesame')",
        told: "1062",
        on_blue_then: "delete from shop.t where id = 100",
        ..NONE
    },
    Cause {
        name: "an update of a row that is not on blue",
        on_blue: "delete from shop.t where id = 1",
        on_green: "update shop.t set a = 'w' where id = 1",
        told: "0 rows were found",
        on_blue_then: "insert into shop.t values (1, 'x')",
        ..NONE
    },
    Cause {
        name: "a delete of a row that is not on blue",
        on_blue: "delete from shop.t where id = 2",
        on_green: "delete from shop.t where id = 2",
        told: "0 rows were found",
        on_blue_then: "insert into shop.t values (2, 'x')",
        ..NONE
    },
    Cause {
        name: "a unique index that only blue has",
        on_blue: "create unique index alone on shop.u (a)",
        on_green: "insert into shop.u values (1, 'same'), (2, 'same')",
        told: "1062",
        on_blue_then: "drop index alone on shop.u",
        ..NONE
    },
    Cause {
        name: "a check that only blue has",
        on_blue: "alter table shop.t add constraint brief check (char_length(a) < 9)",
        on_green: "update shop.t set a = 'much too long' where id = 3",
        told: "CHECK",
        on_blue_then: "alter table shop.t drop constraint brief",
        ..NONE
    },
    Cause {
        name: "a column that was renamed on blue",
        on_blue: "alter table shop.u rename column a to gone",
        on_green: "insert into shop.u values (3, 'c')",
        told: "u",
        on_blue_then: "alter table shop.u rename column gone to a",
        ..NONE
    },
    Cause {
        name: "a table that was renamed on blue",
        on_blue: "rename table shop.u to shop.elsewhere",
        on_green: "insert into shop.u values (4, 'd')",
        told: "u",
        on_blue_then: "rename table shop.elsewhere to shop.u",
        ..NONE
    },
    Cause {
        name: "an account that may not replicate from green any more",
        on_green: "revoke replication slave on *.* from mover@'%'",
        told: "denied",
        on_green_then: "grant replication slave on *.* to mover@'%'",
        ..NONE
    },
];

/// A statement of somebody with every right on the side that is closed. It is in no binlog.
fn on_closed_blue(stage: &Stage, sql: &str) -> Result<()> {
    stage.mover(&stage.blue).run(&format!("set sql_log_bin = 0; {sql}"))
}

/// Whoever reads the binlog has to log in anew.
fn end_the_reader(green: &Mysql) -> Result<()> {
    let reader = "select id from information_schema.processlist \
                  where user = 'mover' and command like 'Binlog%'";
    for row in green.rows(reader)? {
        let id = std::str::from_utf8(row.first().context("a session without a number")?)?;
        green.run(&format!("kill {id}"))?;
    }
    Ok(())
}

async fn a_way_back_halts_and_goes_on(versions: (Version, Version)) -> Result<()> {
    let receiver = Receiver::start()?;
    let config = format!(
        "{}\n[alerts.way_back_broken]\nraise = 0.5\nclear = 0.5\nfor_seconds = 0.0",
        config(&receiver)
    );
    let stage = Stage::start(versions, &[], &config)?;
    let url = stage.app_url();
    let mut this = Move::on(stage, url, TABLES).await?;
    let finished = this.stage.cutover(&GO, 2 * SOON)?;
    ensure!(finished.code() == 0, "{}", finished.stderr);
    this.more().await?;
    for (before, cause) in CAUSES.iter().enumerate() {
        let Move { stage, sidecar, .. } = &mut this;
        let mut watched = Watched { api: stage.api(), sidecar, receiver: &receiver };
        let went = async {
            on_closed_blue(stage, cause.on_blue)?;
            stage.green.run(cause.on_green)?;
            if cause.on_green.starts_with("revoke") {
                end_the_reader(&stage.green)?;
            }
            watched.halts_back(cause.told, before).await?;
            on_closed_blue(stage, cause.on_blue_then)?;
            stage.green.run(cause.on_green_then)?;
            watched.goes_on_back(before).await
        };
        let went = went.await;
        went.with_context(|| format!("{}: {}", cause.name, this.sidecar.log_tail()))?;
    }
    ensure!(!this.sidecar.stderr()?.contains("sesame"));
    this.more().await?;
    let back = this.stage.cutover(&BACK, 2 * SOON)?;
    ensure!(back.code() == 0, "{}", back.stderr);
    this.more().await?;
    this.ledger.rest(SOON).await?;
    for (table, expected) in
        [("t", "1 w,3 much too long,100 sesame"), ("u", "1 same,2 same,3 c,4 d")]
    {
        let rows =
            format!("select group_concat(concat_ws(' ', id, a) order by id) from shop.{table}");
        assert_eq!(this.stage.mover(&this.stage.blue).value(&rows)?, expected, "{table}");
    }
    let on_blue = this.stage.mover_url(&this.stage.blue);
    this.ledger.check(&on_blue).await?.ensure_exact()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_of_mariadb_halts_and_goes_on_by_itself() -> Result<()> {
    a_way_back_halts_and_goes_on((Version::Mariadb10_11, Version::Mariadb11_8)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_of_mysql_halts_and_goes_on_by_itself() -> Result<()> {
    a_way_back_halts_and_goes_on((Version::Mysql9_7, Version::Mysql9_7)).await
}
