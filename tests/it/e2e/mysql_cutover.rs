//! Whole cutovers between servers of MySQL and MariaDB, and back.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::ledger::{self, Ledger};
use tests::mysql::{Router, Stage, Version};
use tests::process::{Finished, Process};
use tests::wait;

use super::SOON;

const ACCOUNTS: u32 = 30;
pub(super) const GO: [&str; 5] = ["--when-lag", "<1s", "--max-pause", "20s", "--yes"];
pub(super) const BACK: [&str; 4] = ["rollback", "--max-pause", "20s", "--yes"];

/// A move under load: clients with the sessions that they keep, until HAProxy cuts them.
pub(super) struct Move {
    pub stage: Stage,
    pub sidecar: Process,
    pub ledger: Ledger,
}

impl Move {
    /// Between servers with these options, and with more than the ledger on blue.
    pub async fn start(versions: (Version, Version), options: &[&str], more: &str) -> Result<Move> {
        let stage = Stage::start(versions, options, "")?;
        let url = stage.app_url();
        Move::on(stage, url, more).await
    }

    /// The same on a stage that is set, with clients of this URL.
    pub async fn on(stage: Stage, url: String, more: &str) -> Result<Move> {
        stage.on_blue(&ledger::mysql::tables(ACCOUNTS))?;
        stage.on_blue(more)?;
        let mut sidecar = stage.replicator()?;
        let streams = stage.api().wait_streaming(&mut sidecar, 1.0, 2 * SOON).await;
        streams.with_context(|| format!("the log ends:\n{}", sidecar.log_tail()))?;
        if let Router::Embedded(proxy) = &stage.router {
            let answers = wait::until("the proxy", SOON, || async { Ok(proxy.status().ok()) });
            answers.await.with_context(|| sidecar.log_tail())?;
        }
        let options = ledger::Options {
            clients: 4,
            rate: 100,
            accounts: ACCOUNTS,
            ..ledger::Options::new(url)
        };
        let ledger = Ledger::start(options)?;
        Ok(Move { stage, sidecar, ledger })
    }

    /// `kill -9`, and the next life.
    pub fn kill(&mut self) -> Result<()> {
        self.sidecar.kill9()?;
        self.live_on()
    }

    /// The next life of a sidecar that has died.
    pub fn live_on(&mut self) -> Result<()> {
        self.sidecar = self.stage.replicator()?;
        Ok(())
    }

    pub async fn more(&self) -> Result<()> {
        self.ledger.more_acknowledged(50, 2 * SOON).await
    }

    pub async fn wait(&mut self, what: &str, ready: impl Fn(&Value) -> bool) -> Result<Value> {
        self.stage.api().wait_status(&mut self.sidecar, what, 2 * SOON, ready).await
    }

    /// Waits until the sidecar has ended by itself: at a failpoint, or because it has to.
    pub async fn wait_end(&mut self) -> Result<()> {
        let sidecar = &mut self.sidecar;
        wait::until("the sidecar to end", SOON, || {
            let ended = sidecar.ended();
            async { Ok(ended?.map(drop)) }
        })
        .await
        .with_context(|| format!("the log ends:\n{}", self.sidecar.log_tail()))
    }

    /// Runs the command, which has to succeed.
    pub fn succeed(&self, arguments: &[&str]) -> Result<Finished> {
        let finished = self.stage.cutover(arguments, 2 * SOON)?;
        ensure!(
            finished.code() == 0,
            "{arguments:?}: {}\n{}\n{}\nthe sidecar's log:\n{}",
            finished.code(),
            finished.stdout,
            finished.stderr,
            self.sidecar.log_tail()
        );
        Ok(finished)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_is_cut_over_and_back_and_nothing_is_lost() -> Result<()> {
    is_cut_over_and_back((Version::Mariadb10_11, Version::Mariadb11_8)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_is_cut_over_and_back_and_nothing_is_lost() -> Result<()> {
    is_cut_over_and_back((Version::Mysql9_7, Version::Mysql9_7)).await
}

async fn is_cut_over_and_back(versions: (Version, Version)) -> Result<()> {
    let mut this = Move::start(versions, &[], "").await?;
    let (blue, green) = (this.stage.blue.port(), this.stage.green.port());
    let name = this.stage.blue.version().name();
    this.more().await?;
    let plan = this.succeed(&["plan"])?;
    let closes = match this.stage.blue.version().is_mariadb() {
        true => "ACCOUNT LOCK",
        false => "offline_mode",
    };
    ensure!(plan.stdout.contains(closes), "{}", plan.stdout);
    assert_eq!(this.stage.target_port()?, blue, "{name}");

    this.succeed(&GO).context(name)?;
    this.more().await?;
    assert_eq!(this.stage.target_port()?, green, "{name}");
    let status = this.stage.api().status()?;
    assert_eq!(status["serving"], "green", "{status}");
    assert_eq!(status["sealed"], "blue", "{status}");
    let report = &status["cutover"]["report"];
    assert_eq!(report["routers"][0]["verified"], true, "{report}");
    let refused = this.stage.blue.login(blue, "app", "app").run("select 1");
    ensure!(refused.is_err(), "{name}: a client gets into the closed side");

    // The next life knows who serves, and what each stream is for.
    this.kill()?;
    this.wait("the way back to carry", |status| {
        status["serving"] == "green" && status["streams"][1]["state"] == "carries"
    })
    .await?;
    this.more().await?;
    this.succeed(&BACK).context(name)?;
    this.more().await?;
    assert_eq!(this.stage.target_port()?, blue, "{name}");
    assert_eq!(this.stage.api().status()?["serving"], "blue");
    this.ledger.rest(SOON).await?;
    let on_blue = this.stage.mover_url(&this.stage.blue);
    this.ledger.check_resting(&on_blue).await?.ensure_exact().context(name)?;
    this.ledger.go_on();

    // And once more, over what the first run and its rollback have left.
    this.succeed(&GO).context(name)?;
    this.more().await?;
    assert_eq!(this.stage.target_port()?, green, "{name}");
    let on_green = this.stage.mover_url(&this.stage.green);
    this.ledger.check(&on_green).await?.ensure_exact().context(name)?;
    // What came last is on the way back.
    let count = "select count(*) from shop.ledger_entries";
    let all = this.stage.mover(&this.stage.green).value(count)?;
    wait::until("blue to have everything", SOON, || {
        let found = this.stage.mover(&this.stage.blue).value(count);
        let all = all.clone();
        async move { Ok((found? == all).then_some(())) }
    })
    .await?;
    this.succeed(&["finish", "--yes"]).context(name)?;
    let left = "select group_concat(table_name order by 1) from information_schema.tables
                where table_schema = '_cutover'";
    assert_eq!(this.stage.mover(&this.stage.blue).value(left)?, "decision,fence", "{name}");
    this.sidecar.terminate()?;
    ensure!(this.sidecar.wait(SOON)?.success(), "{}", this.sidecar.log_tail());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_green_lacks_is_refused_with_the_tables_name() -> Result<()> {
    const QUIET: &str = "create table shop.quiet (id int primary key, note varchar(20));
        insert into shop.quiet values (1, 'a'), (2, 'b'), (3, 'c'), (7, 'd')";
    for versions in
        [(Version::Mariadb10_11, Version::Mariadb11_8), (Version::Mysql9_7, Version::Mysql9_7)]
    {
        let mut this = Move::start(versions, &[], QUIET).await?;
        let name = this.stage.blue.version().name();
        this.more().await?;
        let planned = this.succeed(&["plan"]).context(name)?;
        // All of them: those that clients write are seen at one moment, too.
        let tables = "select count(*) from information_schema.tables where table_schema = 'shop'
                      and table_type = 'BASE TABLE'";
        let tables = this.stage.mover(&this.stage.blue).value(tables)?;
        let equal = format!("{tables} tables have as many rows on green as on blue");
        ensure!(planned.stdout.contains(&equal), "{name}: {}", planned.stdout);

        this.stage.mover(&this.stage.green).run("delete from shop.quiet where id = 7")?;
        let planned = this.stage.cutover(&["plan"], 2 * SOON)?;
        ensure!(planned.code() == 3, "{name}: {}: {}", planned.code(), planned.stdout);
        let said = "has 4 rows on blue and 3 on green: 1 missing on green";
        ensure!(planned.stdout.contains(said), "{name}: {}", planned.stdout);
        // A script that does not look at the plan is refused by the run itself.
        let request = serde_json::json!({ "when_lag": "<1s", "confirmation": "--yes" });
        let started = this.stage.api().post("/v1/cutover", &request)?;
        ensure!(started.status == 202, "{name}: {}: {}", started.status, started.body);
        let over = |status: &Value| status["cutover"]["report"].is_object();
        let status = this.wait("the run to be over", over).await?;
        let report = &status["cutover"]["report"];
        assert_eq!(report["outcome"], "precheck_failed", "{name}: {report}");
        assert_eq!((&report["serving"], &report["checks"]["fail"]), (&"blue".into(), &1.into()));
        let what = report["error"]["what"].as_str().unwrap_or_default();
        ensure!(what.contains("quiet") && what.contains(said), "{name}: {what}");

        // Not for the way back that stands by since the run.
        let back = "set session sql_log_bin = 0; insert into shop.quiet values (7, 'd')";
        this.stage.mover(&this.stage.green).run(back)?;
        this.succeed(&GO).context(name)?;
        this.more().await?;
        let on_green = this.stage.mover_url(&this.stage.green);
        this.ledger.check(&on_green).await?.ensure_exact().context(name)?;
    }
    Ok(())
}
