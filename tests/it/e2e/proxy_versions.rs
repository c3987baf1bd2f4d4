//! A proxy and a sidecar that are not of one version: nothing is begun, the way out is told, and clients go on.
//!
//! There is no proxy of another release to start. So a relay stands at the control socket and lets the proxy
//! seem to be of another version; orders of other versions go to the proxy itself.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::process::Finished;

use super::proxy::{embedded, without_a_router};
use super::{Move, SOON};

/// The version of the orders that this release gives.
const OURS: u64 = 2;
const GO: [&str; 3] = ["--when-lag", "<1s", "--yes"];
const WAY_OUT: &str = "`replicator proxy --stop` ends the proxy that runs";

/// Answers at `control` in the place of the proxy at `behind`, which is of this version then. It ends with the
/// test.
fn relay(control: &Path, behind: PathBuf, version: u64) -> Result<()> {
    let listener = UnixListener::bind(control)?;
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // Who hangs up asks again.
            let _ = pass_on(&client, &behind, version);
        }
    });
    Ok(())
}

fn pass_on(mut client: &UnixStream, behind: &Path, version: u64) -> Result<()> {
    let mut order = String::new();
    BufReader::new(client).read_line(&mut order)?;
    let mut proxy = UnixStream::connect(behind)?;
    proxy.write_all(order.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(&proxy).read_line(&mut answer)?;
    let mut answer: Value = serde_json::from_str(&answer)?;
    answer["version"] = version.into();
    Ok(client.write_all(format!("{answer}\n").as_bytes())?)
}

/// Stops the sidecar and starts one that meets the proxy as `meets` has left its socket.
async fn another_sidecar(this: &mut Move, meets: impl FnOnce() -> Result<()>) -> Result<()> {
    this.sidecar.terminate()?;
    this.sidecar.wait(SOON)?;
    meets()?;
    this.restart_sidecar()?;
    this.wait_streaming().await?;
    Ok(())
}

fn ensure_refused(finished: &Finished, version: u64) -> Result<()> {
    let said = format!("{}{}", finished.stdout, finished.stderr);
    ensure!(finished.code() == 3, "{}: {said}", finished.code());
    for part in ["proxy-version", WAY_OUT, &format!("version {version}")] {
        ensure!(said.contains(part), "{part:?} is missing: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_another_version_serves_on_and_no_run_begins() -> Result<()> {
    let mut this = without_a_router(false).await?;
    let pid = embedded(&this)?.pid()?;
    let control = embedded(&this)?.control().to_owned();
    let aside = control.with_file_name("aside.sock");
    for version in [OURS - 1, OURS + 1] {
        let (there, here) = (aside.clone(), control.clone());
        another_sidecar(&mut this, move || {
            std::fs::rename(&here, &there)?;
            relay(&here, there, version)
        })
        .await?;
        let log = this.sidecar.stderr()?;
        ensure!(log.contains("takes orders of another version"), "{log}");
        ensure_refused(&this.stage.cutover(&["plan", "--when-lag", "<1s"], SOON)?, version)?;
        ensure_refused(&this.stage.cutover(&GO, SOON)?, version)?;
        this.more(30).await?;
        std::fs::rename(&aside, &control)?;
    }
    another_sidecar(&mut this, || Ok(())).await?;

    // Orders of another version change nothing, and are told the way out.
    let before = embedded(&this)?.status()?;
    for version in [OURS + 1, OURS + 40, 0] {
        for order in [
            json!({"cmd": "hold", "epoch": 9, "serial": 9, "wait_ms": 1, "limit_ms": 9_000}),
            json!({"cmd": "route", "epoch": 9, "side": "green", "news": 1}),
            json!({"cmd": "what_nobody_knows_yet"}),
        ] {
            let mut order = order;
            order["version"] = version.into();
            let answer = embedded(&this)?.order(&order)?;
            let why = answer["error"].as_str().context("it was taken")?;
            ensure!(why.contains(&version.to_string()) && why.contains(WAY_OUT), "{why}");
            ensure!(why.contains("nothing was changed"), "{why}");
        }
    }
    let after = embedded(&this)?.status()?;
    for field in ["side", "epoch", "serial", "holding", "cut", "pid"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    this.more(30).await?;
    let finished = this.stage.cutover(&GO, 2 * SOON)?;
    ensure!(finished.code() == 0, "{}", finished.stderr);
    assert_eq!(embedded(&this)?.pid()?, pid, "it was the same all the time");
    this.ensure_green_serves().await
}
