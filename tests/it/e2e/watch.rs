//! After the flip: what monitors find, and what follows from it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::ports::Port;
use tests::process::{Launch, Process};
use tests::stage::{DATABASE, Stage};

use super::alerts::Receiver;
use super::{Move, SOON};

const GO: [&str; 3] = ["--when-lag", "<1s", "--yes"];

/// A health page whose status can be changed.
struct Page {
    url: String,
    status: Arc<AtomicU16>,
}

impl Page {
    fn start() -> Result<Page> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/health", listener.local_addr()?);
        let status = Arc::new(AtomicU16::new(200));
        let answered = status.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut head = BufReader::new(&stream).lines().map_while(Result::ok);
                if head.any(|line| line.is_empty()) {
                    let status = answered.load(Ordering::SeqCst);
                    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                    // A probe that has given up is no failure of the page.
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        });
        Ok(Page { url, status })
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// A monitor that breaches after three bad answers of five, within a second or so.
    fn monitor(&self, action: &str) -> String {
        format!(
            "[[watch.http]]\nname = 'page'\nurl = '{}'\ninterval_s = 0.2\naction = '{action}'\n",
            self.url
        )
    }
}

const WINDOW: &str = "[watch]\nwindow_s = 600\n";

/// How a monitor is shown in a status.
fn monitor<'a>(status: &'a Value, name: &str) -> &'a Value {
    let monitors = status["cutover"]["monitors"].as_array();
    monitors.and_then(|all| all.iter().find(|one| one["name"] == name)).unwrap_or(&Value::Null)
}

impl Move {
    /// `cutover`, which goes on watching.
    fn begin_cutover(&self, log: &str) -> Result<Process> {
        self.stage.cutover_command()?.args(GO).start(&self.stage.path().join(log))
    }

    /// Waits until the run of this command watches.
    async fn wait_watching(&mut self, command: &mut Process) -> Result<Value> {
        let api = self.stage.api();
        let sidecar = &self.sidecar;
        tests::wait::until("the time of watching", 2 * SOON, || {
            let found = (|| {
                if let Some(status) = command.ended()? {
                    bail!("the command ended with {status}");
                }
                let status = api.status().ok();
                Ok(status.filter(|status| status["cutover"]["phase"] == "watching"))
            })();
            async { found }
        })
        .await
        .with_context(|| format!("{}\nthe log ends:\n{}", command.log_tail(), sidecar.log_tail()))
    }

    async fn wait_monitor(&mut self, name: &str, state: &str) -> Result<Value> {
        let what = format!("monitor {name} to be {state}");
        self.stage
            .wait_status(&mut self.sidecar, &what, SOON, |status| {
                monitor(status, name)["state"] == state
            })
            .await
    }

    fn history(&self) -> Result<Vec<Value>> {
        let history = self.stage.api().json("/v1/history")?;
        Ok(history["runs"].as_array().context("a history without runs")?.clone())
    }

    async fn ensure_exact_on(&mut self, url: &str) -> Result<()> {
        self.ledger.stop()?;
        let report = self.ledger.check(url).await?;
        report.ensure_exact()?;
        report.ensure_unnoticed()
    }
}

fn ensure_code(command: &mut Process, code: i32, sidecar: &Process) -> Result<()> {
    let status = command.wait(2 * SOON)?;
    ensure!(
        status.code() == Some(code),
        "it ended with {status}, not {code}\n{}\n{}\nthe sidecar's log:\n{}",
        command.stdout()?,
        command.stderr()?,
        sidecar.stderr()?
    );
    Ok(())
}

/// The page breaks after the flip: the clients are taken back once, by nobody's hand. It stays
/// broken: nothing more happens, and the next cutover knows that it was broken before.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_breaks_after_the_flip_takes_the_clients_back_once() -> Result<()> {
    let page = Page::start()?;
    let receiver = Receiver::start()?;
    let config = format!(
        "{WINDOW}{}[alerts.webhook]\nurl = 'http://{}/hook'\n",
        page.monitor("rollback"),
        receiver.address
    );
    let mut this = Move::streaming(Stage::builder(15, 17).config(&config)).await?;
    this.more(100).await?;
    let mut command = this.begin_cutover("first")?;
    this.wait_watching(&mut command).await?;
    let status = this.wait_monitor("page", "healthy").await?;
    assert_eq!(status["cutover"]["serving"], "green", "{status}");
    this.more(200).await?;

    page.answer(503);
    ensure_code(&mut command, 6, &this.sidecar)?;
    this.more(200).await?;
    let history = this.history()?;
    assert_eq!(history.len(), 2, "{history:?}");
    let (back, forward) = (&history[0], &history[1]);
    assert_eq!((&back["outcome"], &back["direction"]), (&"rolled_back".into(), &"back".into()));
    assert_eq!(back["actor"], "watch", "{back}");
    let reason = back["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("monitor page") && reason.contains("503"), "{reason}");
    assert_eq!(forward["outcome"], "completed", "{forward}");
    for alert in ["CutoverWatchBreach", "CutoverRolledBack"] {
        let fires = |_: &str, body: &Value| body["alert"] == alert && body["status"] == "firing";
        receiver.wait(alert, fires).await?;
    }

    let mut command = this.begin_cutover("second")?;
    this.wait_watching(&mut command).await?;
    // Enough bad answers for a breach, were it the flip's doing.
    let status = this
        .stage
        .wait_status(&mut this.sidecar, "the page's state before the flip", SOON, |status| {
            let why = monitor(status, "page")["why"].as_str().unwrap_or_default();
            why.contains("no better before the flip")
        })
        .await?;
    assert_eq!(monitor(&status, "page")["state"], "inconclusive", "{status}");
    this.more(200).await?;
    let status = this.stage.api().status()?;
    assert_eq!(status["cutover"]["phase"], "watching", "{status}");
    assert_eq!(this.history()?.len(), 3);
    command.kill9()?;
    let green = this.stage.green.url(DATABASE);
    this.ensure_exact_on(&green).await
}

/// A Prometheus that scrapes the sidecar.
fn prometheus(stage: &Stage, port: &Port) -> Result<Process> {
    let directory = stage.path().join("prometheus");
    std::fs::create_dir_all(&directory)?;
    let config = directory.join("prometheus.yml");
    std::fs::write(
        &config,
        format!(
            "scrape_configs:\n- job_name: cutover\n  scrape_interval: 1s\n  static_configs:\n  \
             - targets: ['{}']\n  authorization:\n    credentials_file: {:?}\n",
            stage.api().base_url().trim_start_matches("http://"),
            stage.state_dir().join(tests::api::TOKEN),
        ),
    )?;
    Launch::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{}", port.number()))
        .start(&directory.join("log"))
}

/// Monitors that only alert, and one that loses its data, leave the clients where they are. Both
/// are said; a statement that became slow and a page that breaks are breaches.
#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_silence_leave_the_clients_where_they_are() -> Result<()> {
    let page = Page::start()?;
    let receiver = Receiver::start()?;
    let port = Port::reserve()?;
    let config = format!(
        "{WINDOW}{}\
         [[watch.sql]]\nname = 'orders'\nquery = 'SELECT look()'\ninterval_s = 0.5\n\
         every_ms = 20\nfailures = 2\nof = 3\naction = 'alert'\n\
         [[watch.prometheus]]\nname = 'replicator'\nurl = 'http://127.0.0.1:{}'\n\
         query = 'up{{job=\"cutover\"}}'\nbelow = 1\ninterval_s = 0.5\naction = 'rollback'\n\
         [alerts.watch_inconclusive]\nraise = 0.5\nclear = 0.5\nfor_seconds = 1\n\
         [alerts.webhook]\nurl = 'http://{}/hook'\n",
        page.monitor("alert"),
        port.number(),
        receiver.address
    );
    let look = "CREATE FUNCTION look() RETURNS int LANGUAGE sql AS 'SELECT 1'";
    let stage = Stage::builder(15, 17).config(&config);
    let mut this = Move::streaming_with(stage, look).await?;
    let mut watcher = prometheus(&this.stage, &port)?;
    let asked = format!("http://127.0.0.1:{}/api/v1/query?query=up", port.number());
    tests::wait::until("the Prometheus to know the sidecar", SOON, || async {
        let answer =
            ureq::get(&asked).call().and_then(|mut answer| answer.body_mut().read_to_string());
        Ok(answer.ok().filter(|body| body.contains("\"1\"")))
    })
    .await
    .with_context(|| watcher.log_tail())?;

    let mut command = this.begin_cutover("cutover")?;
    this.wait_watching(&mut command).await?;
    for name in ["page", "orders", "replicator", "serving", "way_back"] {
        this.wait_monitor(name, "healthy").await?;
    }
    page.answer(500);
    let slow = "CREATE OR REPLACE FUNCTION look() RETURNS int LANGUAGE sql \
                AS 'SELECT 1 FROM pg_sleep(0.1)'";
    this.stage.green.execute(DATABASE, slow).await?;
    watcher.kill9()?;
    this.wait_monitor("page", "breached").await?;
    this.wait_monitor("orders", "breached").await?;
    this.wait_monitor("replicator", "inconclusive").await?;
    for alert in ["CutoverWatchBreach", "CutoverWatchInconclusive"] {
        let fires = |_: &str, body: &Value| body["alert"] == alert && body["status"] == "firing";
        receiver.wait(alert, fires).await?;
    }
    this.more(200).await?;
    let status = this.stage.api().status()?;
    assert_eq!(status["cutover"]["phase"], "watching", "{status}");
    assert_eq!(this.history()?.len(), 1);
    let breached = "cutover_watch_monitors{pipeline=\"shop\",state=\"breached\"}";
    assert_eq!(this.stage.api().metric(breached)?, Some(2.0));
    command.kill9()?;
    let green = this.stage.green.url(DATABASE);
    this.ensure_exact_on(&green).await
}

/// A rollback is watched where that is asked for, over the side that it has opened. What a monitor finds then is
/// told, and nothing is moved by itself again.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_is_watched_too_and_never_rolled_back_by_itself() -> Result<()> {
    let (page, receiver) = (Page::start()?, Receiver::start()?);
    let config = format!(
        "[watch]\nwindow_s = 0\n[watch.way_back]\ninterval_s = 0.2\n{}\
         [alerts.webhook]\nurl = 'http://{}/hook'",
        page.monitor("rollback"),
        receiver.address
    );
    let mut this = Move::streaming(Stage::builder(15, 17).config(&config)).await?;
    this.stage.cutover(&GO, 2 * SOON)?.success()?;
    this.more(50).await?;
    let rollback = this.stage.cutover_command()?.args(["rollback", "--yes", "--watch", "10m"]);
    let mut rollback = rollback.start(&this.stage.path().join("rollback"))?;
    let watching = this.wait_watching(&mut rollback).await?;
    assert_eq!(
        (&watching["cutover"]["direction"], &watching["serving"]),
        (&"back".into(), &"blue".into())
    );
    for name in ["page", "way_back"] {
        this.wait_monitor(name, "healthy").await?;
    }
    page.answer(503);
    this.wait_monitor("page", "breached").await?;
    receiver
        .wait("the breach", |_, body| {
            body["alert"] == "CutoverWatchBreach" && body["status"] == "firing"
        })
        .await?;
    this.more(50).await?;
    assert_eq!(this.history()?.len(), 2, "nothing was begun by itself");
    assert_eq!(this.stage.api().status()?["serving"], "blue");
    rollback.kill9()?;
    let blue = this.stage.blue.url(DATABASE);
    this.ensure_exact_on(&blue).await
}

/// A new sidecar goes on with the time that is left and with what the old one knew of the time
/// before the flip.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_watching_for_the_time_that_is_left() -> Result<()> {
    let page = Page::start()?;
    let config = format!("{WINDOW}{}", page.monitor("rollback"));
    let mut this = Move::streaming(Stage::builder(15, 17).config(&config)).await?;
    this.more(100).await?;
    let mut command = this.begin_cutover("cutover")?;
    this.wait_watching(&mut command).await?;
    let before = this.wait_monitor("page", "healthy").await?["cutover"].clone();

    this.sidecar.kill9()?;
    this.restart_sidecar()?;
    this.wait_watching(&mut command).await?;
    let after = this.wait_monitor("page", "healthy").await?["cutover"].clone();
    assert_eq!(before["run"], after["run"]);
    let until = |run: &Value| run["watch_until"].as_str().unwrap_or("unknown").to_owned();
    let later = format!(
        "SELECT extract(epoch FROM '{}'::timestamptz - '{}'::timestamptz)",
        until(&after),
        until(&before)
    );
    let later: f64 = this.stage.green.value(DATABASE, &later).await?.parse()?;
    ensure!(later.abs() < 2.0, "the window ends {later} s later than before the restart");

    // What can't end in another server does not end the watch, and with it the rollback.
    let api = this.stage.api();
    let begun = json!({ "when_lag": "<1s", "for_ms": 0, "confirmation": "--yes" });
    let with = |key: &str, value: Value| {
        let mut request = begun.clone();
        request[key] = value;
        request
    };
    for (refused, code) in
        [(with("drill", true.into()), 409), (with("plan_hash", "of another world".into()), 412)]
    {
        let answer = api.post("/v1/rollback", &refused)?;
        assert_eq!(answer.status, code, "{}", answer.body);
    }
    let run = api.status()?["cutover"].clone();
    assert_eq!((&run["run"], run["phase"].as_str()), (&after["run"], Some("watching")));

    this.more(100).await?;
    page.answer(503);
    ensure_code(&mut command, 6, &this.sidecar)?;
    this.more(100).await?;
    assert_eq!(this.history()?.len(), 2);
    let blue = this.stage.blue.url(DATABASE);
    this.ensure_exact_on(&blue).await
}
