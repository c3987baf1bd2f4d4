//! The story: live servers are copied, followed, cut over, rolled back and cut over again.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::copying::{copy, lag_of};
use crate::flip::{Flip, Stand};
use crate::scene::{Scene, Side};
use crate::story::Story;
use crate::verdict::{Verdict, ensure_bearable};
use crate::{COPY_DEADLINE, Options, STEP_DEADLINE};

/// Plays it to its end. Fails unless everything held.
pub async fn play<S: Scene>(options: &Options, story: &Story, scene: &mut S) -> Result<()> {
    scene.fill(options, story).await?;

    let mut load = scene.load(options)?;
    load.more(1).await?;
    let writing = if load.told().contains(" and ") { "are" } else { "is" };
    story.tell("load", &format!("{} {writing} writing through {}", load.told(), S::ROUTER));

    let mut sidecar = scene.sidecar()?;
    story.tell("sidecar", &format!("replicator run --config {}", scene.config_file().display()));
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
        ensure_bearable::<S>(&report, &flips).context("the ledger on blue after the rollback")?;
        story.tell("blue", &format!("ledger: {report}"));
        stand.load.ledger.go_on();
        flips.push(Flip::there(&mut stand).await?);
    }
    load.stop().await?;
    story.tell("load", "stopped; checking");

    let findings = scene.findings(&load).await?;
    let verdict = Verdict {
        ledger: load.ledger.check(&scene.judge_url(Side::Green)).await?,
        findings,
        flips,
        slowest: load.ledger.record().slowest(),
    };
    verdict.print::<S>(story);
    verdict.ensure_all_held::<S>()
}
