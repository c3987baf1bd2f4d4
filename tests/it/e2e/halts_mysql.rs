//! What halts a stream of MySQL.

use anyhow::{Context, Result, ensure};
use tests::mysql::{self, Mysql, Version};

use super::SOON;
use super::alerts::Receiver;
use super::halts::{Watched, config};
use super::mysql_cutover::Move;

const VERSIONS: (Version, Version) = (Version::Mysql9_7, Version::Mysql9_7);
const TABLES: &str = "create table t(id int primary key, a varchar(20), n int unique); \
                      insert into t values (1, 'x', 1), (2, 'x', 2), (3, 'x', 3)";

/// Run as root on the stream's source and on its target; `shop` is the database that moves.
struct Cause {
    name: &'static str,
    on_target: &'static str,
    on_source: &'static str,
    /// The error has to say so.
    told: &'static str,
    on_target_then: &'static str,
    on_source_then: &'static str,
}

impl Cause {
    const NONE: Cause = Cause {
        name: "",
        on_target: "select 1",
        on_source: "select 1",
        told: "",
        on_target_then: "select 1",
        on_source_then: "select 1",
    };
}

const FORWARD: [Cause; 11] = [
    Cause {
        name: "a row that is on green already",
        on_target: "insert into shop.t values (100, 'intruder', 100)",
        on_source: "insert into shop.t values (100, 'sesame', 100)",
        told: "1062",
        on_target_then: "delete from shop.t where id = 100",
        ..Cause::NONE
    },
    Cause {
        name: "an update of a row that is not on green",
        on_target: "delete from shop.t where id = 1",
        on_source: "update shop.t set a = 'w' where id = 1",
        told: "0",
        on_target_then: "insert into shop.t values (1, 'x', 1)",
        ..Cause::NONE
    },
    Cause {
        name: "a check that only green has",
        on_target: "alter table shop.t add constraint short check (char_length(a) < 9)",
        on_source: "update shop.t set a = 'much too long' where id = 2",
        told: "3819",
        on_target_then: "alter table shop.t drop check short",
        ..Cause::NONE
    },
    Cause {
        name: "a unique index that only green has",
        on_target: "create unique index alone on shop.t (a)",
        on_source: "insert into shop.t values (4, 'same', 4), (5, 'same', 5)",
        told: "1062",
        on_target_then: "drop index alone on shop.t",
        ..Cause::NONE
    },
    Cause {
        name: "a trigger that refuses on green",
        on_target: "create trigger shop.refuses before insert on shop.t for each row \
                    signal sqlstate '45000' set message_text = 'never'",
        on_source: "insert into shop.t values (6, 'f', 6)",
        told: "trigger",
        on_target_then: "drop trigger shop.refuses",
        ..Cause::NONE
    },
    Cause {
        name: "a column that was renamed on green",
        on_target: "alter table shop.t rename column a to gone",
        on_source: "insert into shop.t values (7, 'g', 7)",
        told: "t",
        on_target_then: "alter table shop.t rename column gone to a",
        ..Cause::NONE
    },
    Cause {
        name: "a green that is read-only",
        on_target: "set global super_read_only = on",
        on_source: "insert into shop.t values (8, 'h', 8)",
        told: "read-only",
        on_target_then: "set global super_read_only = off; set global read_only = off",
        ..Cause::NONE
    },
    Cause {
        name: "a database that is read-only on green",
        on_target: "alter database shop read only = 1",
        on_source: "insert into shop.t values (10, 'j', 10)",
        told: "nobody can write in the database `shop` of green",
        on_target_then: "alter database shop read only = 0",
        ..Cause::NONE
    },
    Cause {
        name: "an account that may not replicate any more",
        on_source: "revoke replication slave on *.* from mover@'%'; \
                    select id into @reader from performance_schema.processlist \
                    where user = 'mover' and command like 'Binlog%' limit 1; kill @reader",
        told: "1045",
        on_source_then: "grant replication slave on *.* to mover@'%'",
        ..Cause::NONE
    },
    Cause {
        name: "a password that was changed on blue",
        on_source: "alter user mover@'%' identified by 'another'; \
                    select id into @reader from performance_schema.processlist \
                    where user = 'mover' and command like 'Binlog%' limit 1; kill @reader",
        told: "1045",
        on_source_then: "alter user mover@'%' identified by 'se cret'",
        ..Cause::NONE
    },
    Cause {
        name: "the progress on green is gone",
        on_target: "create table _cutover.kept like _cutover.progress; start transaction; \
                    select count(*) from _cutover.progress for update; \
                    insert into _cutover.kept select * from _cutover.progress; \
                    delete from _cutover.progress; commit",
        on_source: "insert into shop.t values (9, 'i', 9)",
        told: "progress",
        on_target_then: "insert into _cutover.progress select * from _cutover.kept; drop table _cutover.kept",
        ..Cause::NONE
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_halts_mysql_it_stays_up_and_goes_on_by_itself() -> Result<()> {
    let receiver = Receiver::start()?;
    let stage = mysql::Stage::start(VERSIONS, &[], &config(&receiver))?;
    let url = stage.app_url();
    let mut this = Move::on(stage, url, TABLES).await?;
    let pid = this.sidecar.pid();
    for (before, cause) in FORWARD.iter().enumerate() {
        let Move { stage, sidecar, .. } = &mut this;
        let mut watched = Watched { api: stage.api(), sidecar, receiver: &receiver };
        let went = async {
            stage.green.run(cause.on_target)?;
            stage.blue.run(cause.on_source)?;
            watched.halts(cause.told, before).await?;
            stage.green.run(cause.on_target_then)?;
            stage.blue.run(cause.on_source_then)?;
            watched.goes_on(before).await
        };
        let went = went.await;
        went.with_context(|| format!("{}: {}", cause.name, this.sidecar.log_tail()))?;
    }
    ensure!(this.sidecar.pid() == pid && !this.sidecar.stderr()?.contains("sesame"));
    this.more().await?;
    this.ledger.rest(SOON).await?;
    let rows = |server: &Mysql| {
        this.stage
            .mover(server)
            .value("select group_concat(concat_ws(' ', id, a, n) order by id) from shop.t")
    };
    assert_eq!(rows(&this.stage.green)?, rows(&this.stage.blue)?);
    let on_green = this.stage.mover_url(&this.stage.green);
    this.ledger.check(&on_green).await?.ensure_exact()
}
