//! The story: live servers are copied, followed, cut over, rolled back and cut over again.

use std::time::Duration;

use anyhow::{Context, Result};
use tests::process::Process;
use tests::wait;

use crate::copying::{copy, lag_of};
use crate::flip::{Flip, Stand};
use crate::load::Load;
use crate::scene::{Scene, Side};
use crate::story::Story;
use crate::verdict::{Verdict, ensure_bearable};
use crate::{COPY_DEADLINE, Options, STEP_DEADLINE};

/// Plays it to its end. Fails unless everything held.
pub async fn play<S: Scene>(options: &Options, story: &Story, scene: &mut S) -> Result<()> {
    scene.fill(options, story).await?;

    let way = scene.way();
    let (mut load, mut sidecar) = match way.needs_sidecar {
        false => {
            let load = begin_load(options, story, scene).await?;
            (load, start_sidecar(story, scene)?)
        }
        true => {
            let sidecar = start_sidecar(story, scene)?;
            let opens = wait::until("the proxy to lead to blue", STEP_DEADLINE, || async {
                Ok(scene.reached().await.ok())
            });
            opens.await.with_context(|| sidecar.log_tail())?;
            (begin_load(options, story, scene).await?, sidecar)
        }
    };
    let api = scene.api();
    copy(story, &api, &mut sidecar).await?;
    let mut streaming = async |deadline: Duration| -> Result<()> {
        let status = api.wait_streaming(&mut sidecar, 1.0, deadline).await?;
        story.tell("streaming", &lag_of(&status));
        Ok(())
    };
    streaming(COPY_DEADLINE).await?;

    scene.change().await?;
    story.tell("catalog", "rows inserted, updated, deleted, and a table truncated on blue");
    load.more(options.seconds).await?;
    streaming(STEP_DEADLINE).await?;

    let mut stand = Stand { options, story, scene: &*scene, sidecar: &sidecar, load: &mut load };
    let mut flips = vec![Flip::there(&mut stand).await?];
    if !options.one_way {
        flips.push(Flip::back(&mut stand).await?);
        let ledger = &stand.load.ledger;
        ledger.rest(STEP_DEADLINE).await?;
        let report = ledger.check_resting(&scene.judge_url(Side::Blue)).await?;
        ensure_bearable(way, &report, &flips).context("the ledger on blue after the rollback")?;
        story.tell("blue", &format!("ledger: {report}"));
        stand.load.ledger.go_on();
        flips.push(Flip::there(&mut stand).await?);
    }
    load.stop().await?;
    story.tell("load", "stopped; checking");

    let findings = scene.findings(&load).await?;
    let verdict = Verdict {
        way,
        ledger: load.ledger.check(&scene.judge_url(Side::Green)).await?,
        findings,
        flips,
        slowest: load.ledger.record().slowest(),
    };
    verdict.print(story);
    verdict.ensure_all_held()
}

async fn begin_load<S: Scene>(options: &Options, story: &Story, scene: &S) -> Result<Load> {
    let mut load = scene.load(options)?;
    load.more(1).await?;
    let writing = if load.told().contains(" and ") { "are" } else { "is" };
    story.tell("load", &format!("{} {writing} writing through {}", load.told(), scene.way().name));
    Ok(load)
}

fn start_sidecar<S: Scene>(story: &Story, scene: &S) -> Result<Process> {
    let sidecar = scene.sidecar()?;
    story.tell("sidecar", &format!("replicator run --config {}", scene.config_file().display()));
    Ok(sidecar)
}
