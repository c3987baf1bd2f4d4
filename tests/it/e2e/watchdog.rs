//! The sidecar dies or hangs in the middle of a run: its watchdog serves the clients.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::process::{self, Process};
use tests::stage::{self, APP, DATABASE, Stage};
use tests::wait;

use super::{Move, SOON, set};

/// With a pause that a slow machine keeps, too: what is tested is what comes after the end.
pub const GO: [&str; 5] = ["--when-lag", "<1s", "--max-pause", "30s", "--yes"];

/// Everything of blue's settings that a fence may change.
const SETTINGS: &str = "SELECT concat_ws(' | ', datallowconn, datacl, \
    (SELECT string_agg(concat_ws(' ', setrole, setconfig), ';' ORDER BY setrole) \
     FROM pg_db_role_setting WHERE setdatabase = d.oid), \
    (SELECT string_agg(concat(rolname, rolcanlogin), ' ' ORDER BY rolname) FROM pg_roles), \
    shobj_description(oid, 'pg_database')) \
    FROM pg_database d WHERE datname = 'shop'";

/// A move under load whose sidecar can be caught at named moments.
pub struct Scene {
    pub this: Move,
    settings: String,
    pub operator: Option<Process>,
}

impl Scene {
    async fn set() -> Result<Scene> {
        Scene::set_on(Stage::builder(15, 17)).await
    }

    pub async fn set_on(builder: stage::Builder) -> Result<Scene> {
        let (stage, ledger) =
            set(builder, "CREATE TABLE probe (id bigserial PRIMARY KEY, v int)").await?;
        std::fs::create_dir(stage.path().join("failpoints"))?;
        let sidecar = sidecar(&stage)?;
        let mut this = Move { stage, sidecar, ledger };
        this.wait_streaming().await?;
        let settings = this.stage.blue.value("postgres", SETTINGS).await?;
        Ok(Scene { this, settings, operator: None })
    }

    pub fn point(&self, name: &str) -> PathBuf {
        self.this.stage.path().join("failpoints").join(name)
    }

    /// Starts a run and waits until the sidecar stands at this moment.
    pub async fn stand_at(&mut self, name: &str) -> Result<()> {
        std::fs::write(self.point(name), "pause")?;
        let launch = self.this.stage.cutover_command()?.args(GO);
        self.operator = Some(launch.start(&self.this.stage.path().join("operator"))?);
        let reached = self.point(&format!("{name}.reached"));
        let sidecar = &mut self.this.sidecar;
        wait::until(name, SOON, || {
            let found = sidecar.ended().map(|_| reached.exists().then_some(()));
            async { found }
        })
        .await
        .with_context(|| format!("the log ends:\n{}", self.this.sidecar.log_tail()))?;
        std::fs::remove_file(reached)?;
        Ok(())
    }

    /// The watchdog of the running sidecar.
    pub async fn watchdog(&self) -> Result<u32> {
        let sidecar = self.this.sidecar.pid();
        wait::until("a watchdog", SOON, || async {
            Ok(process::children_of(sidecar).into_iter().find(|pid| {
                let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
                command.is_ok_and(|command| command.contains("watchdog"))
            }))
        })
        .await
    }

    /// Waits until clients write again, and says how long that took.
    pub async fn served(&self, since: Instant, what: &str) -> Result<()> {
        let served = self.this.ledger.more_acknowledged(20, Duration::from_secs(10)).await;
        served.with_context(|| format!("{what}; the log ends:\n{}", self.log()))?;
        println!("{what}: clients are served after {:?}", since.elapsed());
        Ok(())
    }

    fn log(&self) -> String {
        process::tail(self.this.sidecar.log_path(), 40)
    }

    /// Blue serves, and everything is as it was before the run.
    pub async fn ensure_put_back(&self) -> Result<()> {
        let stage = &self.this.stage;
        // Who writes again may do so a moment before the last setting was looked at.
        wait::until("blue's settings as they were", SOON, || async {
            let now = stage.blue.value("postgres", SETTINGS).await?;
            Ok((now == self.settings).then_some(()))
        })
        .await
        .with_context(|| self.log())?;
        stage.on_blue("INSERT INTO probe (v) VALUES (1)").await?;
        assert_eq!(stage.routers[0].target_port().await?, stage.blue.port());
        let committed = "SELECT count(*) FROM _cutover.decision WHERE verdict = 'commit'";
        assert_eq!(stage.green.value(DATABASE, committed).await?, "0");
        Ok(())
    }

    /// Green serves, blue lets nobody in.
    pub async fn ensure_flipped(&self) -> Result<()> {
        let stage = &self.this.stage;
        assert_eq!(stage.routers[0].target_port().await?, stage.green.port());
        ensure!(stage.on_blue("INSERT INTO probe (v) VALUES (1)").await.is_err(), "blue is open");
        Ok(())
    }

    /// The next life of the sidecar, with nothing in its way.
    async fn next_life(&mut self, name: &str) -> Result<()> {
        if let Some(mut operator) = self.operator.take() {
            operator.kill9()?;
        }
        std::fs::remove_file(self.point(name)).context("the failpoint's wish")?;
        self.this.sidecar.kill9()?;
        self.this.sidecar = sidecar(&self.this.stage)?;
        Ok(())
    }

    /// Waits for the report of the run that was interrupted.
    async fn report(&mut self) -> Result<Value> {
        let stage = &self.this.stage;
        let sidecar = &mut self.this.sidecar;
        let status = stage
            .wait_status(sidecar, "the interrupted run's end", 2 * SOON, |status| {
                !status["cutover"]["report"].is_null()
            })
            .await?;
        Ok(status["cutover"]["report"].clone())
    }

    pub async fn ensure_exact_on_green(&mut self) -> Result<()> {
        self.this.more(50).await?;
        let green = self.this.stage.green.url(DATABASE);
        self.this.ledger.check(&green).await?.ensure_exact()
    }
}

pub fn sidecar(stage: &Stage) -> Result<Process> {
    let points = stage.path().join("failpoints");
    stage
        .replicator_command("run")?
        .env("CUTOVER_FAILPOINTS", points)
        .start(&stage.path().join("replicator"))
}

/// Whatever the run was about to do or had done: before the decision blue serves again, without
/// anybody's help, and the next sidecar goes on as if nothing had been.
#[tokio::test(flavor = "multi_thread")]
async fn the_sidecar_is_killed_before_the_decision_and_blue_serves() -> Result<()> {
    let mut scene = Scene::set().await?;
    for point in [
        "act.hold_traffic.after",
        "act.raise_fence.after",
        "act.drain.after",
        "act.sync_sequences.after",
        "act.seal.after",
        "journal.decide.after",
        "act.decide.before",
    ] {
        scene.stand_at(point).await?;
        scene.this.sidecar.kill9()?;
        scene.served(Instant::now(), &format!("killed at {point}")).await?;
        scene.ensure_put_back().await.with_context(|| point.to_owned())?;
        scene.next_life(point).await?;
        scene.this.wait_streaming().await.with_context(|| point.to_owned())?;
        scene.ensure_put_back().await.with_context(|| format!("after {point}"))?;
    }
    let finished = scene.this.stage.cutover(&GO, 2 * SOON)?;
    ensure!(finished.code() == 0, "{}: {}", finished.code(), finished.stderr);
    scene.ensure_flipped().await?;
    scene.ensure_exact_on_green().await
}

/// After the decision there is only one way, whoever goes it.
async fn decided(point: &str) -> Result<()> {
    let mut scene = Scene::set().await?;
    scene.stand_at(point).await?;
    scene.this.sidecar.kill9()?;
    scene.served(Instant::now(), &format!("killed at {point}")).await?;
    scene.ensure_flipped().await?;
    scene.next_life(point).await?;
    let report = scene.report().await?;
    assert_eq!((&report["outcome"], &report["serving"]), (&"completed".into(), &"green".into()));
    assert_eq!(report["way_back"], true, "{report}");
    scene.ensure_flipped().await?;
    scene.ensure_exact_on_green().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sidecar_is_killed_right_after_the_decision_and_green_serves() -> Result<()> {
    decided("act.decide.after").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sidecar_is_killed_before_the_flip_and_green_serves() -> Result<()> {
    decided("act.flip.before").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sidecar_is_killed_before_the_release_and_green_serves() -> Result<()> {
    decided("act.release.before").await
}

/// One that hangs is ended: when it wakes it must not go on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_stopped_is_ended_and_clients_are_served() -> Result<()> {
    let mut scene = Scene::set().await?;
    for point in ["act.hold_traffic.after", "act.drain.after", "act.decide.before"] {
        scene.stand_at(point).await?;
        scene.this.sidecar.freeze()?;
        scene.served(Instant::now(), &format!("stopped at {point}")).await?;
        scene.ensure_put_back().await.with_context(|| point.to_owned())?;
        let ended = scene.this.sidecar.wait(SOON)?;
        ensure!(!ended.success(), "{ended}");
        scene.next_life(point).await?;
        scene.this.wait_streaming().await?;
    }
    let point = "act.decide.after";
    scene.stand_at(point).await?;
    scene.this.sidecar.freeze()?;
    scene.served(Instant::now(), &format!("stopped at {point}")).await?;
    scene.ensure_flipped().await?;
    scene.next_life(point).await?;
    assert_eq!(scene.report().await?["outcome"], "completed");
    scene.ensure_exact_on_green().await
}

/// A watchdog that dies is replaced; both at once: the next start does it.
#[tokio::test(flavor = "multi_thread")]
async fn a_watchdog_that_is_killed_is_replaced_and_both_at_once_are_recovered() -> Result<()> {
    let mut scene = Scene::set().await?;
    let point = "act.raise_fence.after";
    scene.stand_at(point).await?;
    let first = scene.watchdog().await?;
    process::kill_all(&[first]);
    wait::until("another watchdog", SOON, || async {
        let next = format!("a watchdog listens pid={}", scene.watchdog().await?);
        Ok((!next.ends_with(&format!("={first}")) && scene.log().contains(&next)).then_some(()))
    })
    .await?;
    scene.this.sidecar.kill9()?;
    scene.served(Instant::now(), "the first watchdog was killed, then the sidecar").await?;
    scene.ensure_put_back().await?;
    scene.next_life(point).await?;
    scene.this.wait_streaming().await?;

    scene.stand_at(point).await?;
    let watchdog = scene.watchdog().await?;
    // Stopped, it can't start another one.
    scene.this.sidecar.freeze()?;
    process::kill_all(&[watchdog]);
    scene.this.sidecar.kill9()?;
    scene.next_life(point).await?;
    scene.served(Instant::now(), "both were killed, the sidecar was started again").await?;
    scene.ensure_put_back().await?;
    scene.this.wait_streaming().await?;
    scene.this.more(50).await?;
    scene.this.ensure_exact_copy().await?;
    Ok(())
}

/// The run goes on without a hitch when its watchdog dies, and no watchdog outlives its run.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_survives_its_watchdog_and_leaves_none_behind() -> Result<()> {
    let mut scene = Scene::set().await?;
    let point = "act.hold_traffic.before";
    scene.stand_at(point).await?;
    let watchdog = scene.watchdog().await?;
    process::kill_all(&[watchdog]);
    std::fs::remove_file(scene.point(point))?;
    assert_eq!(scene.report().await?["outcome"], "completed");
    scene.ensure_flipped().await?;
    let sidecar = scene.this.sidecar.pid();
    wait::until("the end of every watchdog", SOON, || async {
        Ok(process::children_of(sidecar).is_empty().then_some(()))
    })
    .await?;
    ensure!(scene.this.sidecar.is_running());
    let app = scene.this.stage.blue.url_as(APP, DATABASE);
    ensure!(tests::postgres::connect_url(&app).await.is_err(), "blue is open");
    scene.ensure_exact_on_green().await
}
