//! The embedded proxy as a process of its own.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::embedded::Embedded;
use tests::ledger::{self, Ledger};
use tests::pgbench::{self, Pgbench};
use tests::postgres::{self, Postgres};
use tests::process::{self, Launch, Process, Signal};
use tests::scratch::Scratch;
use tests::stage::{APP, DATABASE, Stage};
use tests::wait;

use super::{Move, SOON, from_env};

const GO: [&str; 3] = ["--when-lag", "<1s", "--yes"];

/// Two servers and a proxy in front of them, no sidecar.
struct Bed {
    blue: Postgres,
    green: Postgres,
    proxy: Process,
    embedded: Embedded,
    scratch: Scratch,
}

impl Bed {
    async fn set(blue: u32, green: u32) -> Result<Bed> {
        let (blue, green) = (Postgres::start_major(blue)?, Postgres::start_major(green)?);
        for server in [&blue, &green] {
            server.create_database(DATABASE).await?;
        }
        let scratch = Scratch::new()?;
        let embedded = Embedded::at(scratch.path().join("proxy.sock"))?;
        let config = format!(
            "state_dir = {:?}\n[blue]\nurl = {:?}\n[green]\nurl = {:?}\n\
             [cutover.proxy]\nlisten = \"127.0.0.1:{}\"\n",
            scratch.path(),
            blue.url(DATABASE),
            green.url(DATABASE),
            embedded.port()
        );
        let file = scratch.path().join("proxy.toml");
        std::fs::write(&file, config)?;
        let proxy = Launch::ours("replicator")?.arg("proxy").arg("--config").arg(file);
        let proxy = proxy.start(&scratch.path().join("proxy"))?;
        wait::until("the proxy to answer", SOON, || async { Ok(embedded.status().ok()) }).await?;
        Ok(Bed { blue, green, proxy, embedded, scratch })
    }
}

/// Nobody notices: a workload that somebody else wrote, moved back and forth in each of its
/// protocols. Both servers do without each other's rows; each has to be consistent in itself.
/// `TURNS=200` for the long form.
#[tokio::test(flavor = "multi_thread")]
async fn pgbench_moves_back_and_forth_without_an_error() -> Result<()> {
    let mut bed = Bed::set(15, 17).await?;
    for server in [&bed.blue, &bed.green] {
        pgbench::init(&server.url(DATABASE), 1)?;
    }
    let url = bed.embedded.url_as("postgres", DATABASE);
    let mut serial = 0;
    for protocol in ["simple", "extended", "prepared"] {
        let log = bed.scratch.path().join(format!("pgbench-{protocol}"));
        let mut load = Pgbench::start_as(protocol, &url, 8, 1_000, &log)?;
        for turn in 0..from_env("TURNS", 6) {
            // Something is under way, on the side where it is now.
            let now = if turn % 2 == 0 { &bed.blue } else { &bed.green };
            let count = "SELECT count(*) FROM pgbench_history";
            let before: u64 = now.value(DATABASE, count).await?.parse()?;
            let more = wait::until("pgbench to write", SOON, || async {
                let rows: u64 = now.value(DATABASE, count).await?.parse()?;
                Ok((rows >= before + 30).then_some(()))
            });
            more.await.with_context(|| {
                format!("turn {turn}, {protocol}: {:?}, {:?}", load.seen(), bed.embedded.status())
            })?;
            serial += 1;
            bed.embedded.turn(1, serial, if turn % 2 == 0 { "green" } else { "blue" })?;
        }
        let seen = load.stop()?;
        ensure!(seen.errors.is_empty(), "{protocol}: {:?}", seen.errors);
    }
    let status = bed.embedded.status()?;
    ensure!(status["cut"] == 0, "{status}");
    ensure!(status["moved"].as_u64().is_some_and(|moved| moved > 0), "{status}");
    ensure!(bed.proxy.is_running(), "{}", bed.proxy.log_tail());
    for server in [&bed.blue, &bed.green] {
        pgbench::check(&server.connect(DATABASE).await?).await?;
    }
    Ok(())
}

/// What rotates logs moves them away and sends SIGHUP; clients must not notice.
#[tokio::test(flavor = "multi_thread")]
async fn its_log_is_reopened_on_sighup() -> Result<()> {
    let scratch = Scratch::new()?;
    let embedded = Embedded::at(scratch.path().join("proxy.sock"))?;
    let nowhere = "postgres://postgres@127.0.0.1:1/shop";
    let config = format!(
        "state_dir = {:?}\n[blue]\nurl = {nowhere:?}\n[green]\nurl = {nowhere:?}\n\
         [cutover.proxy]\nlisten = \"127.0.0.1:{}\"\n",
        scratch.path(),
        embedded.port()
    );
    let file = scratch.path().join("proxy.toml");
    std::fs::write(&file, config)?;
    let proxy = Launch::ours("replicator")?.args(["proxy", "--detached", "--config"]).arg(file);
    let mut proxy = proxy.start(&scratch.path().join("started"))?;
    wait::until("the proxy to answer", SOON, || async { Ok(embedded.status().ok()) }).await?;
    let log = scratch.path().join("proxy.log");
    for _ in 0..2 {
        ensure!(!log.exists(), "nobody has asked for it");
        proxy.signal(Signal::SIGHUP)?;
        wait::until("the log to be opened", SOON, || {
            let to = std::fs::read_link(format!("/proc/{}/fd/2", proxy.pid()));
            let is_there = to.is_ok_and(|to| to == log);
            async move { Ok(is_there.then_some(())) }
        })
        .await
        .with_context(|| proxy.log_tail())?;
        std::fs::rename(&log, scratch.path().join("proxy.log.old"))?;
    }
    ensure!(embedded.pid()? == proxy.pid(), "it is still the same");
    Ok(())
}

pub(super) fn embedded(this: &Move) -> Result<&Embedded> {
    this.stage.embedded.as_ref().context("this stage has no proxy")
}

/// A move without any router: the sidecar starts its proxy, and the ledger's clients go through it.
pub(super) async fn without_a_router(failpoints: bool) -> Result<Move> {
    let stage = Stage::builder(15, 17).embedded().start().await?;
    ensure!(!stage.config()?.contains("[cutover"), "a router is configured");
    stage.create_marker().await?;
    let app = postgres::connect_url(&stage.blue.url_as(APP, DATABASE)).await?;
    ledger::prepare(&app, 50).await?;
    drop(app);
    if failpoints {
        std::fs::create_dir(stage.path().join("failpoints"))?;
    }
    let sidecar = sidecar(&stage)?;
    let proxy = stage.embedded.as_ref().context("no proxy")?;
    wait::until("the proxy to answer", SOON, || async { Ok(proxy.status().ok()) })
        .await
        .with_context(|| sidecar.log_tail())?;
    let options =
        ledger::Options { clients: 4, accounts: 50, ..ledger::Options::new(stage.app_url()?) };
    let ledger = Ledger::start(options)?;
    ledger.more_acknowledged(20, SOON).await?;
    let mut this = Move { stage, sidecar, ledger };
    this.wait_streaming().await?;
    Ok(this)
}

/// With the failpoints of this stage, if it has any.
fn sidecar(stage: &Stage) -> Result<Process> {
    let points = stage.path().join("failpoints");
    let launch = stage.replicator_command("run")?;
    let launch = if points.exists() { launch.env("CUTOVER_FAILPOINTS", points) } else { launch };
    launch.start(&stage.path().join("replicator"))
}

fn run(this: &Move, arguments: &[&str]) -> Result<Value> {
    let finished = this.stage.cutover(arguments, 2 * SOON)?;
    ensure!(
        finished.code() == 0,
        "{arguments:?}: {}\n{}\n{}\n{}\n{}",
        finished.code(),
        finished.stdout,
        finished.stderr,
        process::tail(this.sidecar.log_path(), 40),
        process::tail(&this.stage.state_dir().join("proxy.log"), 20)
    );
    Ok(this.stage.api().status()?["cutover"]["report"].clone())
}

/// The port of the server behind the proxy.
async fn port_behind(this: &Move) -> Result<u16> {
    let client = postgres::connect_url(&this.stage.app_url()?).await?;
    port_of(&client).await
}

async fn port_of(client: &tokio_postgres::Client) -> Result<u16> {
    let rows = postgres::rows(client, "SHOW port").await?;
    let port = rows.first().and_then(|row| row.first().cloned().flatten());
    Ok(port.context("no port")?.parse()?)
}

/// No router configured: forth and back with the same client connections, and nobody who can be
/// moved notices anything. Who can't be is told beforehand, and gets one error.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_router_clients_are_moved_forth_and_back_and_do_not_notice() -> Result<()> {
    let mut this = without_a_router(false).await?;
    let (blue, green) = (this.stage.blue.port(), this.stage.green.port());
    let stays = postgres::connect_url(&this.stage.app_url()?).await?;
    stays.batch_execute("SET application_name = 'stays'").await?;
    assert_eq!(port_of(&stays).await?, blue);
    let tied = postgres::connect_url(&this.stage.app_url()?).await?;
    tied.batch_execute("LISTEN news").await?;

    let plan = this.stage.cutover(&["plan", "--when-lag", "<1s"], SOON)?;
    ensure!(plan.stdout.contains("1 LISTEN"), "{}\n{}", plan.stdout, plan.stderr);
    let report = run(&this, &GO)?;
    assert_eq!((&report["outcome"], &report["serving"]), (&json!("completed"), &json!("green")));
    assert_eq!(report["routers"][0]["verified"], true, "{report}");
    this.more(100).await?;
    assert_eq!(port_of(&stays).await?, green);
    assert_eq!(postgres::rows(&stays, "SHOW application_name").await?, [[Some("stays".into())]]);
    let status = embedded(&this)?.status()?;
    assert_eq!((&status["cut"], &status["side"]), (&json!(1), &json!("green")), "{status}");
    ensure!(tied.is_closed(), "the one that listens must have been cut");

    let report = run(&this, &["rollback", "--yes"])?;
    assert_eq!(report["serving"], "blue", "{report}");
    this.more(100).await?;
    assert_eq!(port_of(&stays).await?, blue);
    assert_eq!(embedded(&this)?.status()?["cut"], 1);
    this.ledger.check(&this.stage.blue.url(DATABASE)).await?.ensure_unnoticed()
}

/// The proxy is nobody's child: sidecars come and go, clients stay.
#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_outlives_its_sidecars_and_is_found_again() -> Result<()> {
    let mut this = without_a_router(false).await?;
    let pid = embedded(&this)?.pid()?;
    this.sidecar.kill9()?;
    this.more(30).await?;
    this.restart_sidecar()?;
    this.wait_streaming().await?;
    assert_eq!(embedded(&this)?.pid()?, pid, "the one that was there is used");
    this.sidecar.terminate()?;
    this.sidecar.wait(SOON)?;
    this.more(30).await?;
    this.restart_sidecar()?;
    this.wait_streaming().await?;
    run(&this, &GO)?;
    this.more(30).await?;
    this.ledger.rest(SOON).await?;
    let green = this.stage.green.url(DATABASE);
    this.ledger.check_resting(&green).await?.ensure_unnoticed()?;
    this.ledger.go_on();

    // It dies: another one takes its place, and leads to where clients belong.
    embedded(&this)?.kill9()?;
    let proxy = embedded(&this)?;
    wait::until("another proxy", SOON, || async {
        Ok(proxy.pid().ok().filter(|other| *other != pid))
    })
    .await
    .with_context(|| this.sidecar.log_tail())?;
    this.more(30).await?;
    assert_eq!(port_behind(&this).await?, this.stage.green.port());
    this.ledger.check(&green).await?.ensure_exact()?;

    // Whoever wants it to end says so.
    this.sidecar.kill9()?;
    let stopped = this.stage.replicator_command("proxy")?.arg("--stop").run(SOON)?;
    ensure!(stopped.code() == 0, "{}", stopped.stderr);
    wait::until("the proxy's end", SOON, || async {
        Ok(embedded(&this)?.status().is_err().then_some(()))
    })
    .await
}

/// Starts a run and waits until the sidecar stands at this moment.
async fn stand_at(this: &mut Move, name: &str) -> Result<Process> {
    let point = |name: &str| this.stage.path().join("failpoints").join(name);
    std::fs::write(point(name), "pause")?;
    let operator =
        this.stage.cutover_command()?.args(GO).start(&this.stage.path().join("operator"))?;
    let reached = point(&format!("{name}.reached"));
    let there = wait::until(name, SOON, || async { Ok(reached.exists().then_some(())) }).await;
    there.with_context(|| this.sidecar.log_tail())?;
    std::fs::remove_file(&reached)?;
    Ok(operator)
}

fn go_on(path: &Path, name: &str) -> Result<()> {
    std::fs::remove_file(path.join("failpoints").join(name)).context("the failpoint's wish")
}

/// The sidecar dies while clients are held: they are let go, and notice nothing but the pause.
#[tokio::test(flavor = "multi_thread")]
async fn the_sidecar_is_killed_while_the_proxy_holds_and_nobody_notices() -> Result<()> {
    let mut this = without_a_router(true).await?;
    for point in ["act.hold_traffic.after", "act.raise_fence.after", "act.drain.after"] {
        let mut operator = stand_at(&mut this, point).await?;
        assert_eq!(embedded(&this)?.status()?["holding"], true, "{point}");
        this.sidecar.kill9()?;
        this.more(20).await.with_context(|| point.to_owned())?;
        assert_eq!(port_behind(&this).await?, this.stage.blue.port());
        operator.kill9()?;
        go_on(this.stage.path(), point)?;
        this.sidecar = sidecar(&this.stage)?;
        this.wait_streaming().await.with_context(|| point.to_owned())?;
    }
    run(&this, &GO)?;
    this.more(50).await?;
    assert_eq!(embedded(&this)?.status()?["cut"], 0);
    this.ledger.check(&this.stage.green.url(DATABASE)).await?.ensure_unnoticed()
}

/// The proxy dies while it holds: the run goes back, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_is_killed_while_it_holds_and_blue_serves() -> Result<()> {
    let mut this = without_a_router(true).await?;
    let mut operator = stand_at(&mut this, "act.drain.after").await?;
    embedded(&this)?.kill9()?;
    go_on(this.stage.path(), "act.drain.after")?;
    let ended = operator.wait(SOON)?;
    ensure!(ended.code() == Some(5), "{ended}: {}", operator.log_tail());
    this.more(30).await?;
    assert_eq!(port_behind(&this).await?, this.stage.blue.port());
    this.wait_streaming().await?;
    run(&this, &GO)?;
    this.more(30).await?;
    this.ledger.check(&this.stage.green.url(DATABASE)).await?.ensure_exact()
}

/// A router that nobody has asked for, and that nobody uses, moves nobody.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_past_an_unused_proxy_stop_the_run() -> Result<()> {
    let mut this = without_a_router(false).await?;
    this.ledger.stop()?;
    let direct = postgres::connect_url(&this.stage.blue.url_as(APP, DATABASE)).await?;
    let proxy = embedded(&this)?;
    wait::until("the ledger's clients to leave", SOON, || async {
        Ok((proxy.status()?["clients"] == 0).then_some(()))
    })
    .await?;
    let finished = this.stage.cutover(&GO, SOON)?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    ensure!(finished.code() == 3 && said.contains("past the proxy"), "{}: {said}", finished.code());
    assert_eq!(port_of(&direct).await?, this.stage.blue.port());
    Ok(())
}
