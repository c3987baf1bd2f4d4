//! Two hosts for one pipeline: the first is lost in the middle of a run, the second takes the
//! pipeline up with an empty state directory, and the first comes back.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use tests::api::Api;
use tests::ports::Port;
use tests::process::{self, Process, Signal};
use tests::stage::{DATABASE, Stage};
use tests::wait;

use super::SOON;
use super::watchdog::{GO, Scene, sidecar};

/// Blue's door, and whose it is.
const DOOR: &str = "SELECT concat_ws(' ', datallowconn, shobj_description(oid, 'pg_database')) \
                    FROM pg_database WHERE datname = 'shop'";

/// Another host: the same configuration, and nothing else of the first.
struct Elsewhere {
    port: Port,
    state_dir: PathBuf,
    sidecar: Process,
}

impl Elsewhere {
    fn start(stage: &Stage) -> Result<Elsewhere> {
        let port = Port::reserve()?;
        let state_dir = stage.path().join("elsewhere");
        let sidecar = stage
            .replicator_command("run")?
            .arg("--state-dir")
            .arg(&state_dir)
            .args(["--listen", &format!("127.0.0.1:{}", port.number())])
            .start(&stage.path().join("elsewhere-log"))?;
        Ok(Elsewhere { port, state_dir, sidecar })
    }

    fn api(&self) -> Api {
        Api::new(self.port.number(), &self.state_dir)
    }

    async fn streams(&mut self) -> Result<()> {
        let api = self.api();
        let sidecar = &mut self.sidecar;
        wait::until("the other host to stream", 2 * SOON, || {
            let found = sidecar.ended().and_then(|ended| {
                ensure!(ended.is_none(), "it has ended: {ended:?}");
                let status = api.status().ok();
                let lag = status.as_ref().and_then(|status| status["lag"]["seconds"].as_f64());
                let streams = status.is_some_and(|status| status["phase"] == "streaming");
                Ok((streams && lag.is_some_and(|lag| lag < 1.0)).then_some(()))
            });
            async { found }
        })
        .await
        .with_context(|| format!("its log ends:\n{}", process::tail(self.sidecar.log_path(), 40)))
    }

    fn cutover(&self, arguments: &[&str]) -> Result<process::Finished> {
        self.api().command()?.args(arguments).run(2 * SOON)
    }
}

/// It ends by itself, has changed nothing, and says who serves.
async fn ensure_refused(scene: &mut Scene, door: &str) -> Result<()> {
    let (code, said) = scene.this.wait_end().await?;
    ensure!(code != 0, "exit code {code}: {said}");
    let last: String = said.lines().rev().take(12).collect::<Vec<_>>().join("\n");
    ensure!(said.contains("green was opened by run"), "{last}");
    ensure!(said.contains("stop this sidecar for good; green serves"), "{last}");
    assert_eq!(scene.this.stage.blue.value("postgres", DOOR).await?, door, "blue was touched");
    scene.ensure_flipped().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_lost_in_the_pause_comes_back_to_a_pipeline_that_is_not_its_own()
-> Result<()> {
    let mut scene = Scene::set_on(Stage::builder(15, 17)).await?;
    let point = "act.raise_fence.after";
    scene.stand_at(point).await?;
    let watchdog = scene.watchdog().await?;
    // Stopped, it can't start another one.
    scene.this.sidecar.freeze()?;
    process::kill_all(&[watchdog]);
    scene.this.sidecar.kill9()?;
    std::fs::remove_file(scene.point(point))?;
    drop(scene.operator.take());
    let closed = scene.this.stage.blue.value("postgres", DOOR).await?;
    ensure!(closed.starts_with("f ") && closed.contains("pipeline shop"), "{closed}");

    let mut elsewhere = Elsewhere::start(&scene.this.stage)?;
    // Nobody was told anything: it has found blue closed, and the lease run out.
    scene.this.more(20).await.context("the other host has not opened blue")?;
    elsewhere.streams().await?;
    scene.ensure_put_back().await?;
    let finished = elsewhere.cutover(&GO)?;
    ensure!(finished.code() == 0, "{}: {}", finished.code(), finished.stderr);
    scene.ensure_flipped().await?;
    scene.this.more(50).await?;
    let door = scene.this.stage.blue.value("postgres", DOOR).await?;
    ensure!(door.starts_with("f ") && door != closed, "{door}");

    for _ in 0..2 {
        scene.this.sidecar = sidecar(&scene.this.stage)?;
        ensure_refused(&mut scene, &door).await?;
    }

    // The way back carries, and the first host has not disturbed it.
    let back =
        elsewhere.cutover(&["rollback", "--when-lag", "<1s", "--max-pause", "30s", "--yes"])?;
    ensure!(back.code() == 0, "{}: {}", back.code(), back.stderr);
    scene.this.more(50).await?;
    scene.this.sidecar = sidecar(&scene.this.stage)?;
    let (code, said) = scene.this.wait_end().await?;
    ensure!(code != 0 && said.contains("blue was opened by run"), "{code}: {said}");
    scene.this.more(50).await?;
    let blue = scene.this.stage.blue.url(DATABASE);
    scene.this.ledger.stop()?;
    scene.this.ledger.check(&blue).await?.ensure_exact()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stood_still_in_the_pause_wakes_up_after_another_has_changed_over() -> Result<()>
{
    // What a machine that stands still had open is found out sooner.
    let stage = Stage::builder(15, 17)
        .blue_setting("wal_sender_timeout", "4s")
        .green_setting("wal_sender_timeout", "4s");
    let mut scene = Scene::set_on(stage).await?;
    let point = "act.raise_fence.after";
    scene.stand_at(point).await?;
    let watchdog = scene.watchdog().await?;
    // Both at once, as a machine stands still.
    process::signal(watchdog, Signal::SIGSTOP)?;
    scene.this.sidecar.freeze()?;
    std::fs::remove_file(scene.point(point))?;
    drop(scene.operator.take());

    let mut elsewhere = Elsewhere::start(&scene.this.stage)?;
    // Nobody was told anything: it has found blue closed, and the lease run out.
    scene.this.more(20).await.context("the other host has not opened blue")?;
    elsewhere.streams().await?;
    let finished = elsewhere.cutover(&GO)?;
    ensure!(finished.code() == 0, "{}: {}", finished.code(), finished.stderr);
    scene.ensure_flipped().await?;
    scene.this.more(50).await?;
    let door = scene.this.stage.blue.value("postgres", DOOR).await?;

    for each in [scene.this.sidecar.pid(), watchdog] {
        process::signal(each, Signal::SIGCONT)?;
    }
    // By itself, or by its watchdog, which finds it silent.
    let ended = scene.this.sidecar.wait(SOON)?;
    ensure!(!ended.success(), "{ended}");
    wait::until("the watchdog's end", SOON, || async {
        Ok((!process::is_alive(watchdog)).then_some(()))
    })
    .await?;
    let said = scene.this.sidecar.stderr()?;
    let told = said.contains("closed by somebody else") || said.contains("green was opened by run");
    ensure!(told, "{}", process::tail(scene.this.sidecar.log_path(), 30));
    scene.this.more(50).await?;
    assert_eq!(scene.this.stage.blue.value("postgres", DOOR).await?, door, "blue was touched");
    scene.ensure_flipped().await?;

    scene.this.sidecar = sidecar(&scene.this.stage)?;
    ensure_refused(&mut scene, &door).await?;
    ensure!(elsewhere.sidecar.is_running(), "{}", elsewhere.sidecar.log_tail());
    scene.ensure_exact_on_green().await
}
