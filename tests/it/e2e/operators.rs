//! What an operator does around a move: aborts, stops, loses a disk, uses his own router commands,
//! tears down.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use tests::pgbouncer::PgBouncer;
use tests::stage::{APP, DATABASE, Stage};
use tests::wait;

use super::{Move, SOON};

/// A transaction that stays open keeps the gate closed: the run waits, for as long as it is wanted.
async fn run_that_waits(this: &Move) -> Result<(tokio_postgres::Client, tests::process::Process)> {
    let holder = tests::postgres::connect_url(&this.stage.app_url()?).await?;
    holder.batch_execute("BEGIN; INSERT INTO held VALUES (1)").await?;
    let run = this
        .stage
        .cutover_command()?
        .args(["--when-lag", "<1s", "--yes", "--gate-timeout", "5m", "--reconnect-for", "1s"])
        .start(&this.stage.path().join("waiting"))?;
    let api = this.stage.api();
    wait::until("a run that waits at its gate", SOON, || async {
        let run = api.status()?["cutover"].clone();
        Ok((run["phase"] == "armed" || run["phase"] == "gate").then_some(()))
    })
    .await?;
    Ok((holder, run))
}

async fn move_with_held_table() -> Result<Move> {
    Move::streaming_with(Stage::builder(15, 17), "CREATE TABLE held (id int PRIMARY KEY)").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_run_leaves_everything_as_it_was() -> Result<()> {
    let mut this = move_with_held_table().await?;
    let (holder, mut run) = run_that_waits(&this).await?;
    let aborted = this.stage.cutover(&["abort", "--reason", "a test"], SOON)?;
    ensure!(aborted.code() == 0, "{}: {}", aborted.code(), aborted.stderr);
    ensure!(run.wait(SOON)?.code() == Some(5), "{}", run.log_tail());
    holder.batch_execute("COMMIT").await.context("the transaction must survive")?;
    this.more(50).await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_stopped_during_a_run_ends_it_first() -> Result<()> {
    let mut this = move_with_held_table().await?;
    let (holder, mut run) = run_that_waits(&this).await?;
    this.sidecar.terminate()?;
    let status = this.sidecar.wait(SOON)?;
    ensure!(status.success(), "{status}: {}", this.sidecar.log_tail());
    ensure!(!run.wait(SOON)?.success(), "{}", run.log_tail());
    holder.batch_execute("COMMIT").await.context("the transaction must survive")?;
    this.more(50).await?;
    this.restart_sidecar()?;
    this.wait_streaming().await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_state_directory_costs_a_re_read() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(14, 17).routers(0)).await?;
    this.more(100).await?;
    // A pipeline that has begun is no obstacle to itself.
    let checked = this.stage.replicator_command("check")?.run(SOON)?;
    ensure!(checked.code() == 0, "{}", checked.stdout);
    this.sidecar.kill9()?;
    this.more(50).await?;
    std::fs::remove_dir_all(this.stage.state_dir())?;
    this.restart_sidecar()?;
    this.wait_streaming().await?;
    let said = this.sidecar.stderr()?;
    ensure!(said.contains("going on with it"), "{said}");
    assert_eq!(said.matches("all rows are on green").count(), 1, "copied again:\n{said}");
    this.ensure_exact_copy().await?.ensure_unnoticed()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_cutover_a_restart_streams_nothing_and_teardown_cleans_up() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(13, 17)).await?;
    this.more(50).await?;
    let finished = this.stage.cutover(&["--when-lag", "<1s", "--yes"], 2 * SOON)?;
    ensure!(finished.code() == 0, "{}", finished.stderr);
    this.sidecar.kill9()?;
    this.restart_sidecar()?;
    this.stage
        .wait_status(&mut this.sidecar, "the cutover to be known", SOON, |status| {
            status["phase"] == "cut_over"
        })
        .await?;
    this.more(50).await?;
    let again = this.stage.cutover(&["--when-lag", "<1s", "--yes"], SOON)?;
    ensure!(again.code() != 0, "a second cutover: {}", again.stdout);
    this.sidecar.terminate()?;
    this.sidecar.wait(SOON)?;

    let torn = this.stage.replicator_command("teardown")?.arg("--yes").run(SOON)?;
    ensure!(torn.code() == 0, "{}", torn.stderr);
    // Blue was sealed, and is so afterwards.
    ensure!(torn.stdout.contains("blue: left closed"), "{}", torn.stdout);
    let opens = format!("ALTER DATABASE \"{DATABASE}\" ALLOW_CONNECTIONS true");
    ensure!(torn.stdout.contains(&opens), "{}", torn.stdout);
    let closed = "SELECT datallowconn FROM pg_database WHERE datname = 'DATABASE'";
    let closed = closed.replace("DATABASE", DATABASE);
    assert_eq!(this.stage.blue.value("postgres", &closed).await?, "f");
    this.stage.blue.execute("postgres", &opens).await?;
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(this.stage.blue.value("postgres", slots).await?, "0");
    for server in [&this.stage.blue, &this.stage.green] {
        let left = server.value(DATABASE, "SELECT to_regnamespace('_cutover') IS NULL").await?;
        assert_eq!(left, "t", "schema _cutover is still there");
    }
    this.ledger.stop()?;
    let report = this.ledger.check(&this.stage.green.url(DATABASE)).await?;
    report.ensure_exact()?;
    report.ensure_unnoticed()
}

/// The operator's own commands instead of a router that we know.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_switches_the_traffic() -> Result<()> {
    let stage = Stage::builder(15, 17).routers(0).start().await?;
    let router = PgBouncer::builder(&stage.blue, DATABASE).user(APP).start()?;
    let script = stage.path().join("router");
    std::fs::write(
        &script,
        format!(
            r#"#!/bin/bash
set -eu
env > "$0.env"
admin() {{ psql -qAtX -d '{admin}' -c "$1"; }}
case "$CUTOVER_PHASE" in
  hold) admin 'PAUSE {DATABASE}' ;;
  switch) sed -i "s/port=$CUTOVER_FROM_PORT/port=$CUTOVER_TO_PORT/" '{file}'; admin RELOAD ;;
  release) admin 'RESUME {DATABASE}' ;;
  verify) test "$(psql -qAtX -d '{client}' -c 'SELECT inet_server_port()')" = "$CUTOVER_TO_PORT" ;;
esac
"#,
            admin = router.admin_url(),
            file = router.config_file().display(),
            client = router.url_as(APP),
        ),
    )?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let command = |phase: &str| format!("{phase} = [{:?}]\n", script.display().to_string());
    let phases: String = ["hold", "switch", "release", "verify"].map(command).concat();
    let mut config = stage.config()?;
    config.push_str(&format!(
        "\n[cutover.command]\n{phases}pass_environment = ['PASSED', 'PGPASSWORD']\n"
    ));
    std::fs::write(stage.config_file(), config)?;

    stage.create_marker().await?;
    let app = tests::postgres::connect_url(&stage.blue.url_as(APP, DATABASE)).await?;
    tests::ledger::prepare(&app, 50).await?;
    drop(app);
    let options = tests::ledger::Options {
        clients: 4,
        accounts: 50,
        ..tests::ledger::Options::new(router.url_as(APP))
    };
    let ledger = tests::ledger::Ledger::start(options)?;
    let launch = stage.replicator_command("run")?.env("PASSED", "on").env("PGPASSWORD", "hunter2");
    let sidecar = launch.env("OTHER", "off").start(&stage.path().join("replicator"))?;
    let mut this = Move { stage, sidecar, ledger };
    this.wait_streaming().await?;
    this.more(50).await?;
    let finished = this.stage.cutover(&["--when-lag", "<1s", "--yes"], 2 * SOON)?;
    ensure!(finished.code() == 0, "{}\n{}", finished.stderr, this.sidecar.log_tail());
    this.more(50).await?;
    assert_eq!(router.target_port().await?, this.stage.green.port());
    // What is chosen of the sidecar's environment, and never a password.
    let environment = std::fs::read_to_string(script.with_extension("env"))?;
    ensure!(environment.contains("PASSED=on") && environment.contains("PATH="), "{environment}");
    ensure!(!environment.contains("hunter2") && !environment.contains("OTHER="), "{environment}");
    this.ledger.stop()?;
    let report = this.ledger.check(&this.stage.green.url(DATABASE)).await?;
    report.ensure_exact()?;
    report.ensure_unnoticed()
}

/// The rights that docs/reference/privileges.md asks for are enough: nobody is a superuser.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_superuser_moves_everything() -> Result<()> {
    let (stage, ledger) = super::set(Stage::builder(14, 17), "SELECT").await?;
    for server in [&stage.blue, &stage.green] {
        let sql = format!(
            "CREATE ROLE mover LOGIN REPLICATION; GRANT {APP}, pg_signal_backend, \
             pg_read_all_stats TO mover; ALTER DATABASE {DATABASE} OWNER TO mover"
        );
        server.execute("postgres", &sql).await?;
    }
    let grant = "GRANT SET ON PARAMETER session_replication_role TO mover";
    stage.green.execute("postgres", grant).await?;
    let config = stage.config()?;
    let (databases, routers) = config.split_once("[api]").context("the configuration's form")?;
    let databases = databases.replace("//postgres@", "//mover@");
    std::fs::write(stage.config_file(), format!("{databases}[api]{routers}"))?;

    let checked = stage.replicator_command("check")?.run(SOON)?;
    ensure!(checked.code() == 0, "{}", checked.stdout);
    let sidecar = stage.replicator()?;
    let mut this = Move { stage, sidecar, ledger };
    this.wait_streaming().await?;
    this.more(50).await?;
    let finished = this.stage.cutover(&["--when-lag", "<1s", "--yes"], 2 * SOON)?;
    ensure!(finished.code() == 0, "{}\n{}", finished.stderr, this.sidecar.log_tail());
    this.more(50).await?;
    this.ledger.stop()?;
    let report = this.ledger.check(&this.stage.green.url(DATABASE)).await?;
    report.ensure_exact()?;
    report.ensure_unnoticed()
}
