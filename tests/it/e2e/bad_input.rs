//! Every mistake is a clear error, and nothing is touched or lost.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::postgres::Postgres;
use tests::process::{Finished, Launch, Process};
use tests::stage::{self, DATABASE, Stage};
use tests::wait;

use super::{Move, SOON, set};

const SHORT: Duration = Duration::from_secs(30);
/// The command line or the configuration makes no sense.
const USAGE: i32 = 2;
/// Something stands in the way; nothing was touched.
const BLOCKED: i32 = 3;

fn ensure_says(finished: &Finished, code: i32, words: &[&str]) -> Result<()> {
    let said = format!("{}\n{}", finished.stdout, finished.stderr);
    ensure!(finished.code() == code, "exit code {} instead of {code}:\n{said}", finished.code());
    for word in words {
        ensure!(said.contains(word), "{word:?} is missing in:\n{said}");
    }
    Ok(())
}

/// `check` and the start of `run` say the same, and neither leaves anything on either side.
async fn ensure_blocked(stage: &Stage, words: &[&str]) -> Result<()> {
    for command in ["check", "run"] {
        let finished = stage.replicator_command(command)?.run(SHORT)?;
        ensure_says(&finished, BLOCKED, words).with_context(|| format!("replicator {command}"))?;
    }
    for count in [
        "SELECT count(*) FROM pg_replication_slots",
        "SELECT count(*) FROM pg_publication",
        "SELECT count(*) FROM pg_namespace WHERE nspname = '_cutover'",
    ] {
        for server in [&stage.blue, &stage.green] {
            assert_eq!(server.value(DATABASE, count).await?, "0", "{count}");
        }
    }
    Ok(())
}

async fn quiet_stage(builder: stage::Builder, sql: &str) -> Result<Stage> {
    let (stage, mut ledger) = set(builder.routers(0), sql).await?;
    ledger.stop()?;
    Ok(stage)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_named_with_its_line() -> Result<()> {
    let stage = Stage::builder(15, 15).routers(0).config("[apply]\nbatch_byte = 1").start().await?;
    for command in ["check", "run"] {
        let finished = stage.replicator_command(command)?.run(SHORT)?;
        ensure_says(&finished, USAGE, &["batch_byte", "line"])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn several_mistakes_are_told_at_once() -> Result<()> {
    let config = "[apply]\nmemory_bytes = 1\nbatch_transactions = 0";
    let stage = Stage::builder(15, 15).routers(0).config(config).start().await?;
    let command = stage.replicator_command("check")?.args(["--name", "No Such Name!"]);
    ensure_says(&command.run(SHORT)?, USAGE, &["name", "apply.memory_bytes", "batch_transactions"])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_database_twice_is_refused() -> Result<()> {
    let server = Postgres::start_major(15)?;
    // Two ways to write it, so comparing text is not enough.
    let (one, other) = (server.url("postgres"), server.unix_url("postgres"));
    let state = tests::scratch::Scratch::new()?;
    for command in ["check", "run"] {
        let finished = Launch::ours("replicator")?
            .args([command, "--blue", &one, "--green", &other, "--state-dir"])
            .arg(state.path().join("state"))
            .run(SHORT)?;
        ensure_says(&finished, BLOCKED, &["same"])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_green_with_data_is_refused_and_left_alone() -> Result<()> {
    let stage =
        quiet_stage(Stage::builder(15, 17), "CREATE TABLE mine (id int PRIMARY KEY)").await?;
    stage
        .green
        .execute(DATABASE, "CREATE TABLE mine (id int PRIMARY KEY); INSERT INTO mine VALUES (1)")
        .await?;
    ensure_blocked(&stage, &["mine"]).await?;
    assert_eq!(stage.green.value(DATABASE, "SELECT count(*) FROM mine").await?, "1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_obstacle_is_told_at_once_with_its_fix() -> Result<()> {
    let stage = quiet_stage(
        Stage::builder(13, 17).blue_setting("wal_level", "replica"),
        "CREATE TABLE keyless (a int); CREATE TABLE \"Other One\" (a int)",
    )
    .await?;
    ensure_blocked(
        &stage,
        &["ALTER SYSTEM SET wal_level", "keyless", "\"Other One\"", "REPLICA IDENTITY"],
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_and_not_shown() -> Result<()> {
    let hba = "host all keeper 127.0.0.1/32 scram-sha-256";
    let blue = Postgres::builder(15).hba(hba).start()?;
    let green = Postgres::start_major(17)?;
    blue.execute(
        "postgres",
        "SET password_encryption = 'scram-sha-256'; CREATE ROLE keeper LOGIN SUPERUSER PASSWORD 'right'",
    )
    .await?;
    let state = tests::scratch::Scratch::new()?;
    let url = format!("postgres://keeper:hunter2@127.0.0.1:{}/postgres", blue.port());
    for command in ["check", "run"] {
        let finished = Launch::ours("replicator")?
            .args([command, "--green", &green.url("postgres"), "--state-dir"])
            .arg(state.path().join("state"))
            .env("CUTOVER_BLUE", &url)
            .run(SHORT)
            .with_context(|| format!("replicator {command}"))?;
        ensure!(matches!(finished.code(), 1 | BLOCKED), "{}", finished.code());
        ensure_says(&finished, finished.code(), &["password", "keeper"])?;
        ensure!(!finished.stderr.contains("hunter2") && !finished.stdout.contains("hunter2"));
        // Typed it would be seen by everybody.
        let finished = Launch::ours("replicator")?
            .args([command, "--blue", &url, "--green", &green.url("postgres")])
            .run(SHORT)?;
        ensure_says(&finished, USAGE, &["ps", "CUTOVER_BLUE", "PGPASSFILE"])?;
        ensure!(!finished.stderr.contains("hunter2") && !finished.stdout.contains("hunter2"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sidecar_for_the_same_pipeline_is_refused() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17).routers(0)).await?;
    let second = this.stage.replicator_command("run")?.run(SHORT)?;
    ensure!(second.code() != 0, "{}", second.stderr);
    ensure!(second.stderr.contains("state"), "it says what is taken: {}", second.stderr);
    this.more(20).await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_somebody_dropped_stops_the_stream() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17).routers(0)).await?;
    this.sidecar.kill9()?;
    let drop_slot = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
    wait::until("the slot to be free", SOON, || async {
        Ok(this.stage.blue.execute(DATABASE, drop_slot).await.ok())
    })
    .await?;
    this.more(20).await?;
    this.restart_sidecar()?;
    let halted = this.stage.wait_status(&mut this.sidecar, "the halt", SOON, |status| {
        let told = status["halt"]["what"].as_str();
        told.is_some_and(|told| told.contains("slot"))
    });
    let halt = halted.await?["halt"].clone();
    ensure!(halt["data"].as_str().is_some_and(|data| data.contains("green lacks")), "{halt}");
    ensure!(halt["remedy"].as_str().is_some_and(|remedy| remedy.contains("teardown")), "{halt}");
    Ok(())
}

/// The state directory lies on a file system of its own, which somebody else fills.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_state_directory_stops_it_and_nothing_is_lost() -> Result<()> {
    let (stage, ledger) = set(Stage::builder(15, 17).routers(0), "SELECT").await?;
    let disk = SmallDisk::mount(&stage.state_dir())?;
    let start = |stage: &Stage| -> Result<Process> {
        disk.launch(&tests::paths::our_binary("replicator")?)
            .args(["run", "--config"])
            .arg(stage.config_file())
            .start(&stage.path().join("replicator"))
    };
    let sidecar = start(&stage)?;
    let mut this = Move { stage, sidecar, ledger };
    this.wait_streaming().await?;

    let filler = disk.seen_from_outside.join("filler");
    let full = wait::until("the disk to be full", SOON, || async {
        let mut file = std::fs::File::options().create(true).append(true).open(&filler)?;
        Ok(file.write_all(&vec![0; 1 << 20]).err())
    })
    .await?;
    ensure!(full.kind() == std::io::ErrorKind::StorageFull, "{full}");
    // What the store has reserved for its log is still used up first, and a busy machine does that slowly.
    let halted = this.stage.wait_status(&mut this.sidecar, "the halt", 3 * SOON, |status| {
        let told = status["halt"]["what"].as_str();
        told.is_some_and(|told| told.contains("No space left"))
    });
    let halt = halted.await?["halt"].clone();
    ensure!(halt["where"] == "state directory", "{halt}");

    std::fs::remove_file(&filler)?;
    this.more(50).await?;
    // The store takes no writes again before it is opened anew, as the remedy says.
    ensure!(halt["remedy"].as_str().is_some_and(|next| next.contains("stop and start")), "{halt}");
    this.sidecar.terminate()?;
    this.wait_end().await?;
    this.sidecar = start(&this.stage)?;
    this.wait_streaming().await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()
}

/// A file system of 64 MB in a mount namespace that a process of ours holds open, so that nothing
/// outside of the test sees it and nothing is left of it.
struct SmallDisk {
    holder: Process,
    seen_from_outside: PathBuf,
    _log: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(directory: &Path) -> Result<SmallDisk> {
        std::fs::create_dir(directory)?;
        let log = tempfile::tempdir()?;
        let script = format!(
            "mount -t tmpfs -o size=64M,mode=0700 tmpfs '{}' && echo mounted && exec sleep 3600",
            directory.display()
        );
        let user: &[&str] = if is_root() { &[] } else { &["--map-root-user"] };
        let holder = Launch::new("unshare")
            .args(user)
            .args(["--mount", "sh", "-c", &script])
            .start(&log.path().join("disk"))?;
        let mut disk = SmallDisk { seen_from_outside: PathBuf::new(), holder, _log: log };
        wait::until_blocking("the small disk", SOON, || {
            ensure!(disk.holder.is_running(), "{}", disk.holder.log_tail());
            Ok(disk.holder.stdout()?.contains("mounted").then_some(()))
        })?;
        disk.seen_from_outside =
            PathBuf::from(format!("/proc/{}/root{}", disk.holder.pid(), directory.display()));
        // The API's token lies on the disk; this leads everybody outside of it there.
        std::os::unix::fs::symlink(
            disk.seen_from_outside.join(tests::api::TOKEN),
            directory.join(tests::api::TOKEN),
        )?;
        Ok(disk)
    }

    /// A program that sees the disk.
    fn launch(&self, program: &Path) -> Launch {
        let namespaces = format!("/proc/{}/ns", self.holder.pid());
        let mut launch = Launch::new("nsenter").arg(format!("--mount={namespaces}/mnt"));
        if !is_root() {
            launch = launch.arg(format!("--user={namespaces}/user")).arg("--preserve-credentials");
        }
        launch.arg("--").arg(program)
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
