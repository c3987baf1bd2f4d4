//! A stop is a state: the process, its API and its alerts outlive whatever halts the stream, and the
//! stream goes on by itself once the cause is gone.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::api::Api;
use tests::ledger::{self, Ledger};
use tests::mysql::{self, Version};
use tests::process::Process;
use tests::stage::{DATABASE, Stage};
use tests::wait;

use super::alerts::Receiver;
use super::mysql_cutover;
use super::{Move, SOON};

const ALERT: &str = "CutoverReplicationHalted";
const BACK_ALERT: &str = "CutoverWayBackBroken";

/// What stops the stream, and what is done about it.
struct Cause {
    name: &'static str,
    green_database: &'static str,
    on_green: &'static str,
    on_blue: &'static str,
    /// The error has to say so.
    told: &'static str,
    remedy_on_green: &'static str,
}

impl Cause {
    const NONE: Cause = Cause {
        name: "",
        green_database: DATABASE,
        on_green: "SELECT",
        on_blue: "SELECT",
        told: "",
        remedy_on_green: "SELECT",
    };
}

/// A sidecar that is watched while its stream halts.
pub(super) struct Watched<'a> {
    pub api: Api,
    pub sidecar: &'a mut Process,
    pub receiver: &'a Receiver,
}

impl Watched<'_> {
    fn told(&self, alert: &str, status: &str) -> usize {
        self.receiver.count(|path, body| {
            path == "/hook" && body["alert"] == alert && body["status"] == status
        })
    }

    pub async fn wait_told(&self, alert: &str, status: &str, times: usize) -> Result<()> {
        wait::until(&format!("{alert} to be {status} {times} times"), SOON, || async {
            Ok((self.told(alert, status) >= times).then_some(()))
        })
        .await
    }

    /// It halts and says why; everything else goes on; somebody is told.
    pub async fn halts(&mut self, told: &str, before: usize) -> Result<Value> {
        let is_it = |status: &Value| {
            status["phase"] == "halted"
                && status["halt"]["what"].as_str().is_some_and(|what| what.contains(told))
        };
        let what = format!("a halt that says {told:?}");
        let status = self.api.wait_status(self.sidecar, &what, SOON, is_it).await?;
        let halt = &status["halt"];
        for field in ["where", "since", "state", "data", "remedy"] {
            ensure!(halt[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {halt}");
        }
        ensure!(halt["data_safe"] == json!(true), "{halt}");
        self.wait_told(ALERT, "firing", before + 1).await?;
        let halted = "cutover_state{pipeline=\"shop\",state=\"halted\"}";
        assert_eq!(self.api.metric(halted)?, Some(1.0));
        let probes = ["/livez", "/startupz", "/readyz"].map(|path| self.api.get(path));
        let probes: Vec<u16> =
            probes.into_iter().map(|answer| Ok(answer?.status)).collect::<Result<_>>()?;
        assert_eq!(probes, [200, 200, 503]);
        Ok(status)
    }

    /// The way back halts, and green serves on; somebody is told.
    pub async fn halts_back(&mut self, told: &str, before: usize) -> Result<Value> {
        let status = self.api.wait_status(self.sidecar, "the way back to halt", SOON, |status| {
            status["halt"]["what"].as_str().is_some_and(|what| what.contains(told))
        });
        let status = status.await?;
        assert_eq!(status["serving"], "green", "whoever serves goes on");
        for field in ["where", "since", "state", "data", "remedy"] {
            let text = status["halt"][field].as_str();
            ensure!(text.is_some_and(|text| !text.is_empty()), "{field}: {status}");
        }
        assert_eq!(self.api.get("/readyz")?.status, 503);
        self.wait_told(BACK_ALERT, "firing", before + 1).await?;
        Ok(status)
    }

    pub async fn goes_on_back(&mut self, before: usize) -> Result<()> {
        let carries =
            |status: &Value| status["halt"].is_null() && status["streams"][1]["state"] == "carries";
        self.api.wait_status(self.sidecar, "the way back to go on", SOON, carries).await?;
        self.wait_told(BACK_ALERT, "resolved", before + 1).await
    }

    /// It goes on by itself, and the alert is over.
    pub async fn goes_on(&mut self, before: usize) -> Result<()> {
        let is_it = |status: &Value| status["phase"] == "streaming" && status["halt"].is_null();
        self.api.wait_status(self.sidecar, "the stream to go on by itself", SOON, is_it).await?;
        self.wait_told(ALERT, "resolved", before + 1).await
    }
}

pub(super) fn config(receiver: &Receiver) -> String {
    format!("[halt]\nretry_first_s = 1\n[alerts.webhook]\nurl = 'http://{}/hook'", receiver.address)
}

pub(super) const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY, a text);
    INSERT INTO t SELECT n, 'x' || n FROM generate_series(1, 50) n;
    CREATE TABLE u (id int PRIMARY KEY, a text);
    CREATE TABLE dropped (id int PRIMARY KEY);
    CREATE TABLE moved (id int PRIMARY KEY);";

const CAUSES: [Cause; 12] = [
    Cause {
        name: "a row that is on green already",
        on_green: "INSERT INTO t VALUES (100, 'intruder')",
        on_blue: "INSERT INTO t VALUES (100, 'sesame')",
        told: "\"t\"",
        remedy_on_green: "DELETE FROM t WHERE id = 100",
        ..Cause::NONE
    },
    Cause {
        name: "an update of a row that is not on green",
        on_green: "DELETE FROM t WHERE id = 1",
        on_blue: "UPDATE t SET a = 'w' WHERE id = 1",
        told: "0 rows",
        remedy_on_green: "INSERT INTO t VALUES (1, 'x1')",
        ..Cause::NONE
    },
    Cause {
        name: "a delete of a row that is not on green",
        on_green: "DELETE FROM t WHERE id = 2",
        on_blue: "DELETE FROM t WHERE id = 2",
        told: "0 rows",
        remedy_on_green: "INSERT INTO t VALUES (2, 'x2')",
        ..Cause::NONE
    },
    Cause {
        name: "a check that only green has",
        on_green: "ALTER TABLE t ADD CONSTRAINT short CHECK (length(a) < 9)",
        on_blue: "UPDATE t SET a = 'much too long' WHERE id = 3",
        told: "short",
        remedy_on_green: "ALTER TABLE t DROP CONSTRAINT short",
        ..Cause::NONE
    },
    Cause {
        name: "a unique index that only green has",
        on_green: "CREATE UNIQUE INDEX alone ON u (a)",
        on_blue: "INSERT INTO u VALUES (1, 'same'), (2, 'same')",
        told: "alone",
        remedy_on_green: "DROP INDEX alone",
        ..Cause::NONE
    },
    Cause {
        name: "NOT NULL that only green has",
        on_green: "ALTER TABLE u ALTER a SET NOT NULL",
        on_blue: "INSERT INTO u VALUES (3, NULL)",
        told: "\"u\"",
        remedy_on_green: "ALTER TABLE u ALTER a DROP NOT NULL",
        ..Cause::NONE
    },
    Cause {
        name: "a column that was added on blue",
        on_blue: "ALTER TABLE t ADD b int; INSERT INTO t VALUES (101, 'z', 7)",
        told: "\"t\"",
        remedy_on_green: "ALTER TABLE t ADD b int",
        ..Cause::NONE
    },
    Cause {
        name: "a type that was changed on blue",
        on_blue: "ALTER TABLE u ALTER a TYPE varchar(50); INSERT INTO u VALUES (5, 'e')",
        told: "\"u\"",
        remedy_on_green: "ALTER TABLE u ALTER a TYPE varchar(50)",
        ..Cause::NONE
    },
    Cause {
        name: "a column that was dropped on green",
        on_green: "ALTER TABLE u RENAME a TO gone",
        on_blue: "INSERT INTO u VALUES (6, 'f')",
        told: "\"u\"",
        remedy_on_green: "ALTER TABLE u RENAME gone TO a",
        ..Cause::NONE
    },
    Cause {
        name: "a table that was dropped on blue",
        on_blue: "INSERT INTO dropped VALUES (1); DROP TABLE dropped",
        told: "dropped",
        remedy_on_green: "DROP TABLE dropped",
        ..Cause::NONE
    },
    Cause {
        name: "a table that was renamed on green",
        on_green: "ALTER TABLE moved RENAME TO elsewhere",
        on_blue: "INSERT INTO moved VALUES (1)",
        told: "moved",
        remedy_on_green: "ALTER TABLE elsewhere RENAME TO moved",
        ..Cause::NONE
    },
    Cause {
        name: "a green that lets nobody in",
        green_database: "postgres",
        on_green: "DO $$BEGIN \
                   EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', \
                     format('sed -i ''1i host shop all all reject'' %s', current_setting('hba_file'))); \
                   PERFORM pg_reload_conf(); \
                   PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'shop'; \
                   END$$",
        on_blue: "INSERT INTO u VALUES (7, 'g')",
        told: "reject",
        remedy_on_green: "DO $$BEGIN \
                          EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', \
                            format('sed -i 1d %s', current_setting('hba_file'))); \
                          PERFORM pg_reload_conf(); END$$",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_halts_postgres_it_stays_up_and_goes_on_by_itself() -> Result<()> {
    let receiver = Receiver::start()?;
    let builder = Stage::builder(15, 17).routers(0).config(&config(&receiver));
    let mut this = Move::streaming_with(builder, TABLES).await?;
    let pid = this.sidecar.pid();
    for (done, cause) in CAUSES.iter().enumerate() {
        halts_and_goes_on(&mut this, &receiver, cause, done)
            .await
            .with_context(|| format!("{}: {}", cause.name, this.sidecar.log_tail()))?;
    }
    assert_eq!(this.sidecar.pid(), pid);
    let said = this.sidecar.stderr()?;
    ensure!(!said.contains("sesame"), "a row's value in the log");
    this.ensure_exact_copy().await?.ensure_unnoticed()
}

async fn halts_and_goes_on(
    this: &mut Move,
    receiver: &Receiver,
    cause: &Cause,
    before: usize,
) -> Result<()> {
    let Move { stage, sidecar, .. } = this;
    let mut watched = Watched { api: stage.api(), sidecar, receiver };
    stage.green.execute(cause.green_database, cause.on_green).await?;
    stage.on_blue(cause.on_blue).await?;
    watched.halts(cause.told, before).await?;
    let shown = stage.cutover(&["status"], SOON)?;
    ensure!(shown.code() == 0, "{}", shown.stderr);
    for row in ["\n halted   for ", "\n error    ", "\n   where  ", "\n data     ", "\n next     "]
    {
        ensure!(shown.stdout.contains(row), "{row:?} is missing in:\n{}", shown.stdout);
    }
    stage.green.execute(cause.green_database, cause.remedy_on_green).await?;
    watched.goes_on(before).await
}

const MARIADB: (Version, Version) = (Version::Mariadb10_11, Version::Mariadb11_8);
const ACCOUNTS: u32 = 10;

/// Run as root; `shop.` is the database that moves.
const MARIADB_CAUSES: [Cause; 7] = [
    Cause {
        name: "a row that is on green already",
        on_green: "insert into shop.t values (100, 'intruder')",
        on_blue: "insert into t values (100, 'sesame')",
        told: "1062",
        remedy_on_green: "delete from shop.t where id = 100",
        ..Cause::NONE
    },
    Cause {
        name: "an update of a row that is not on green",
        on_green: "delete from shop.t where id = 1",
        on_blue: "update t set a = 'w' where id = 1",
        told: "t",
        remedy_on_green: "insert into shop.t values (1, 'x')",
        ..Cause::NONE
    },
    Cause {
        name: "a delete of a row that is not on green",
        on_green: "delete from shop.t where id = 2",
        on_blue: "delete from t where id = 2",
        told: "t",
        remedy_on_green: "insert into shop.t values (2, 'x')",
        ..Cause::NONE
    },
    Cause {
        name: "a table that was renamed on green",
        on_green: "rename table shop.u to shop.elsewhere",
        on_blue: "insert into u values (1, 'a')",
        told: "u",
        remedy_on_green: "rename table shop.elsewhere to shop.u",
        ..Cause::NONE
    },
    Cause {
        name: "an account that may not write any more",
        on_green: "revoke insert on *.* from mover@'%'; kill user mover",
        on_blue: "insert into u values (2, 'b')",
        told: "1142",
        remedy_on_green: "grant insert on *.* to mover@'%'",
        ..Cause::NONE
    },
    Cause {
        name: "an account that was locked",
        on_green: "alter user mover@'%' account lock; kill user mover",
        on_blue: "insert into u values (3, 'c')",
        told: "locked",
        remedy_on_green: "alter user mover@'%' account unlock",
        ..Cause::NONE
    },
    Cause {
        name: "a column that was added on blue",
        on_blue: "alter table u add column b int; insert into u values (4, 'd', 4)",
        told: "u",
        remedy_on_green: "alter table shop.u add column b int; \
                          update _cutover.definition set state = 'done' where state = 'waits'",
        ..Cause::NONE
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_halts_mariadb_it_stays_up_and_goes_on_by_itself() -> Result<()> {
    let receiver = Receiver::start()?;
    let stage = mysql::Stage::start(MARIADB, &[], &config(&receiver))?;
    stage.on_blue(
        "create table t(id int primary key, a varchar(20)); insert into t values (1, 'x'), (2, 'x');
         create table u(id int primary key, a varchar(20))",
    )?;
    stage.on_blue(&ledger::mysql::tables(ACCOUNTS))?;
    let mut sidecar = stage.replicator()?;
    stage.api().wait_streaming(&mut sidecar, 1.0, 2 * SOON).await?;
    let options = ledger::Options {
        clients: 2,
        rate: 50,
        accounts: ACCOUNTS,
        ..ledger::Options::new(stage.app_url())
    };
    let ledger = Ledger::start(options)?;
    let mut this = mysql_cutover::Move { stage, sidecar, ledger };
    for (done, cause) in MARIADB_CAUSES.iter().enumerate() {
        let halted = async {
            let mysql_cutover::Move { stage, sidecar, .. } = &mut this;
            let mut watched = Watched { api: stage.api(), sidecar, receiver: &receiver };
            if cause.on_green != Cause::NONE.on_green {
                stage.green.run(cause.on_green)?;
            }
            stage.on_blue(cause.on_blue)?;
            watched.halts(cause.told, done).await?;
            stage.green.run(cause.remedy_on_green)?;
            watched.goes_on(done).await
        };
        let halted = halted.await;
        halted.with_context(|| format!("{}: {}", cause.name, this.sidecar.log_tail()))?;
    }
    this.more().await?;
    this.ledger.rest(SOON).await?;
    for table in ["t", "u"] {
        let rows = |server: &mysql::Mysql| {
            this.stage.mover(server).value(&format!(
                "select group_concat(concat_ws(' ', id, a) order by id) from shop.{table}"
            ))
        };
        assert_eq!(rows(&this.stage.green)?, rows(&this.stage.blue)?, "{table}");
    }
    let on_green = this.stage.mover_url(&this.stage.green);
    this.ledger.check(&on_green).await?.ensure_exact()
}

/// Nobody's rows on green are thrown away in the night: a copy that would begin again waits to be told.
#[tokio::test(flavor = "multi_thread")]
async fn a_halted_copy_waits_to_be_told_and_then_begins_again() -> Result<()> {
    const REFUSED: &str = "
        CREATE FUNCTION is_fine(int) RETURNS bool LANGUAGE sql AS 'SELECT true';
        CREATE TABLE fine (id int PRIMARY KEY CHECK (public.is_fine(id)));
        INSERT INTO fine VALUES (1);
        CREATE OR REPLACE FUNCTION is_fine(int) RETURNS bool LANGUAGE sql AS 'SELECT false'";
    let receiver = Receiver::start()?;
    let builder = Stage::builder(15, 17).routers(0).config(&config(&receiver));
    let mut this = Move::start_with(builder, REFUSED).await?;
    let Move { stage, sidecar, .. } = &mut this;
    let mut watched = Watched { api: stage.api(), sidecar, receiver: &receiver };
    watched.halts("fine", 0).await?;
    // It would have tried again a second after the halt.
    let seconds = |status: &Value, field: &str| -> Option<i64> {
        let text = status.pointer(field)?.as_str()?;
        Some(text.parse::<jiff::Timestamp>().ok()?.as_second())
    };
    let waited = watched.api.wait_status(watched.sidecar, "three seconds of it", SOON, |status| {
        let (now, since) = (seconds(status, "/at"), seconds(status, "/halt/since"));
        now.zip(since).is_some_and(|(now, since)| now - since > 3)
    });
    let halt = waited.await?["halt"].clone();
    assert_eq!((&halt["tries"], &halt["retry_at"]), (&json!(0), &Value::Null), "{halt}");
    let shown = stage.cutover(&["status"], SOON)?;
    ensure!(shown.stdout.contains("it waits for: cutover retry"), "{}", shown.stdout);

    let allow =
        "CREATE OR REPLACE FUNCTION is_fine(int) RETURNS bool LANGUAGE sql AS 'SELECT true'";
    // Blue's definition stays: green's was copied from it.
    stage.green.execute(DATABASE, allow).await?;
    let retried =
        stage.cutover(&["retry", "--json", "--reason", "the function is right now"], SOON)?;
    ensure!(retried.code() == 0, "{}", retried.stderr);
    let retried: Value = serde_json::from_str(&retried.stdout).context("no JSON")?;
    assert_eq!(retried["streams"], json!(["forward"]));
    watched.goes_on(0).await?;
    let restarts = watched.api.metric("cutover_copy_restarts_total{pipeline=\"shop\"}")?;
    assert_eq!(restarts, Some(1.0));
    watched.wait_told("CutoverCopyRestarted", "firing", 1).await?;
    // There is nothing to try again now, and a stream that runs is not disturbed.
    let idle = stage.cutover(&["retry"], SOON)?;
    ensure!(idle.code() == 0 && idle.stdout.contains("no stream waits"), "{}", idle.stdout);
    this.ensure_exact_copy().await?.ensure_unnoticed()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_an_end_gets_one_behind_the_last_alert() -> Result<()> {
    let receiver = Receiver::start()?;
    let builder = Stage::builder(15, 17).routers(0).config(&config(&receiver));
    let mut this = Move::streaming_with(builder, TABLES).await?;
    this.sidecar.terminate()?;
    ensure!(this.sidecar.wait(SOON)?.success(), "{}", this.sidecar.log_tail());
    let ends = this.stage.replicator_command("run")?.arg("--exit-on-halt");
    this.sidecar = ends.start(&this.stage.path().join("replicator"))?;
    this.wait_streaming().await?;
    this.stage.green.execute(DATABASE, "DELETE FROM t WHERE id = 1").await?;
    this.stage.on_blue("UPDATE t SET a = 'w' WHERE id = 1").await?;
    let (code, said) = this.wait_end().await?;
    ensure!(code == 1 && said.contains("0 rows") && said.contains("next:"), "{code}: {said}");
    let told = receiver.count(|_, body| body["alert"] == ALERT && body["status"] == "firing");
    assert_eq!(told, 1, "the alert was delivered before the end");
    Ok(())
}
