//! Runs between servers of MySQL or MariaDB in which a process dies, or its disk is lost. What dies at
//! every other moment is dealt by `chaos`.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::mysql::{Mysql, Stage, Version};
use tests::proxysql::ProxySql;

use super::SOON;
use super::mysql_cutover::{BACK, GO, Move};

const MARIADB: (Version, Version) = (Version::Mariadb10_11, Version::Mariadb11_8);
const MYSQL: (Version, Version) = (Version::Mysql9_7, Version::Mysql9_7);

/// Everything that a fence may change on a side that serves.
fn settings(stage: &Stage, server: &Mysql) -> Result<String> {
    let sql = match server.version().is_mariadb() {
        true => {
            "select concat_ws(' ', @@global.read_only, @@global.event_scheduler, (select group_concat(
             concat_ws(':', user, host, coalesce(json_value(priv, '$.account_locked'), 0))
             order by 1) from mysql.global_priv))"
        }
        false => {
            "select concat_ws(' ', @@global.read_only, @@global.super_read_only,
             @@global.offline_mode, @@global.event_scheduler, (select group_concat(
             concat_ws(':', user, host, account_locked) order by 1) from mysql.user))"
        }
    };
    stage.mover(server).value(sql)
}

/// What a sidecar does when it comes to this moment. Who is killed there is so once.
fn set(stage: &Stage, moment: &str, what: &str) -> Result<()> {
    std::fs::write(stage.failpoints().join(moment), what).context("a failpoint")
}

/// A move whose clients come through ProxySQL's stand-in.
async fn behind_proxysql(versions: (Version, Version)) -> Result<(Move, ProxySql)> {
    let stage = Stage::start(versions, &[], "")?;
    let proxysql = ProxySql::start(stage.blue.port())?;
    let url = stage.app_url_at(proxysql.port());
    stage.configure(&proxysql.config(&url), "")?;
    Ok((Move::on(stage, url, "").await?, proxysql))
}

/// The servers that clients are led to, in all three tables.
fn leads_to(proxysql: &ProxySql, port: u16) -> Result<()> {
    for table in ["runtime_mysql_servers", "mysql_servers", "disk.mysql_servers"] {
        let rows = proxysql.tell(&format!("SELECT port, status FROM {table}"))?;
        ensure!(rows == [[port.to_string(), "ONLINE".into()]], "{table}: {rows:?}, not {port}");
    }
    Ok(())
}

/// The watchdog lets ProxySQL's clients go on when the sidecar dies while they are held; then there and
/// back.
#[tokio::test(flavor = "multi_thread")]
async fn proxysql_is_let_go_by_the_watchdog_and_leads_to_green_and_back() -> Result<()> {
    let (mut this, proxysql) = behind_proxysql(MARIADB).await?;
    let (blue, green) = (this.stage.blue.port(), this.stage.green.port());
    this.more().await?;
    let plan = this.succeed(&["plan"])?;
    ensure!(plan.stdout.contains("LOAD MYSQL SERVERS TO RUNTIME"), "{}", plan.stdout);
    ensure!(plan.stdout.contains("SAVE MYSQL SERVERS TO DISK"), "{}", plan.stdout);
    ensure!(!plan.stdout.contains("s3cret"), "{}", plan.stdout);

    // It would give up on clients before a pause of this length is over.
    let refused = this.stage.cutover(&GO, 2 * SOON)?;
    let said = format!("{}{}", refused.stdout, refused.stderr);
    ensure!(refused.code() == 3 && said.contains("proxysql-patience"), "{said}");
    for fix in ["SET mysql-connect_timeout_server_max=40000", "LOAD MYSQL VARIABLES TO RUNTIME"] {
        ensure!(said.contains(fix), "{said}");
        proxysql.tell(fix)?;
    }

    set(&this.stage, "act.drain.after", "kill")?;
    let mut lost = GO.to_vec();
    lost.extend(["--reconnect-for", "1s"]);
    let finished = this.stage.cutover(&lost, 2 * SOON)?;
    ensure!(finished.code() != 0, "{}", finished.stdout);
    let said = format!("{}{}", finished.stdout, finished.stderr);
    this.wait_end().await.with_context(|| format!("the command said: {said}"))?;
    // Nobody has started the sidecar again.
    this.more().await.context("the watchdog has not let clients go on")?;
    leads_to(&proxysql, blue)?;

    this.live_on()?;
    this.wait("the next life to stream", |status| status["phase"] == "streaming").await?;
    this.succeed(&GO)?;
    this.more().await?;
    leads_to(&proxysql, green)?;
    let report = this.stage.api().status()?["cutover"]["report"].clone();
    assert_eq!(report["routers"][0]["verified"], true, "{report}");
    this.succeed(&BACK)?;
    this.more().await?;
    leads_to(&proxysql, blue)?;
    this.ledger.rest(SOON).await?;
    let on_blue = this.stage.mover_url(&this.stage.blue);
    this.ledger.check_resting(&on_blue).await?.ensure_exact()
}

/// A drill measures, holds and leaves no trace; who cuts it down finds everything as it was.
#[tokio::test(flavor = "multi_thread")]
async fn mysql_is_as_it_was_after_a_drill_and_after_one_that_was_killed() -> Result<()> {
    is_as_it_was_after_a_drill(MYSQL).await
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_is_as_it_was_after_a_drill_and_after_one_that_was_killed() -> Result<()> {
    is_as_it_was_after_a_drill(MARIADB).await
}

async fn is_as_it_was_after_a_drill(versions: (Version, Version)) -> Result<()> {
    let mut this = Move::start(versions, &[], "").await?;
    this.more().await?;
    let before = settings(&this.stage, &this.stage.blue)?;
    let drilled = this.succeed(&[
        "drill",
        "--yes",
        "--for",
        "0s",
        "--rounds",
        "2",
        "--max-pause",
        "20s",
        "--json",
    ])?;
    let predicted: Value = serde_json::from_str(&drilled.stdout).context("no JSON")?;
    assert_eq!(predicted["rounds"], 2, "{predicted}");
    ensure!(predicted["p50_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{predicted}");
    this.more().await?;
    assert_eq!(settings(&this.stage, &this.stage.blue)?, before);
    assert_eq!(this.stage.target_port()?, this.stage.blue.port());

    // The name of the moment is that of the step in whose place a drill measures.
    set(&this.stage, "act.raise_fence.before", "kill")?;
    let request = json!({ "when_lag": "<1s", "for_ms": 0, "max_pause_ms": 20_000, "drill": true,
                          "confirmation": "--yes" });
    let started = this.stage.api().post("/v1/cutover", &request)?;
    ensure!(started.status == 202, "{}: {}", started.status, started.body);
    this.wait_end().await?;
    this.more().await.context("the watchdog has not let clients go on")?;
    this.live_on()?;
    this.wait("the next life to stream", |status| status["phase"] == "streaming").await?;
    this.more().await?;
    assert_eq!(settings(&this.stage, &this.stage.blue)?, before);
    let report = this.stage.api().json("/v1/cutover/last/report")?;
    assert_eq!((&report["outcome"], &report["serving"]), (&json!("aborted"), &json!("blue")));
    // The drills have decided nothing: a run does.
    this.succeed(&GO)?;
    this.more().await?;
    assert_eq!(this.stage.target_port()?, this.stage.green.port());
    let on_green = this.stage.mover_url(&this.stage.green);
    this.ledger.check(&on_green).await?.ensure_exact()
}

/// A sidecar that has lost its state directory after the flip does not know the runs any more; the servers
/// do: it opens nothing, and says who serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_state_directory_after_the_flip_opens_nothing() -> Result<()> {
    let mut this = Move::start(MARIADB, &[], "").await?;
    this.more().await?;
    this.succeed(&GO)?;
    this.more().await?;
    let closed = settings(&this.stage, &this.stage.blue)?;
    this.sidecar.kill9()?;
    std::fs::remove_dir_all(this.stage.state_dir())?;
    this.sidecar = this.stage.replicator()?;
    this.wait_end().await?;
    let said = this.sidecar.stderr()?;
    ensure!(said.contains("green was opened by run"), "{said}");
    ensure!(said.contains("green serves"), "{said}");
    assert_eq!(settings(&this.stage, &this.stage.blue)?, closed, "blue was touched");
    this.more().await.context("clients of green were disturbed")?;
    assert_eq!(this.stage.target_port()?, this.stage.green.port());
    let on_green = this.stage.mover_url(&this.stage.green);
    this.ledger.check(&on_green).await?.ensure_exact()
}
