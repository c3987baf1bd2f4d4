//! One change of sides, under load, as an operator does it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tests::process::Process;
use tests::stage::Stage;

use crate::load::Load;
use crate::story::{Story, count};
use crate::{Options, STEP_DEADLINE, follow};

/// What was seen of it.
pub struct Flip {
    /// `there` or `back`.
    pub name: &'static str,
    /// The sidecar's own report of the run.
    pub report: Value,
    /// Between two acknowledged ledger writes, since shortly before.
    pub longest_gap: Duration,
}

impl Flip {
    /// Blue to green.
    pub async fn there(
        options: &Options,
        story: &Story,
        stage: &Stage,
        sidecar: &Process,
        load: &mut Load,
    ) -> Result<Flip> {
        let arguments = ["--when-lag", "<1s", "--yes"];
        story.tell("cutover", "$ cutover --when-lag '<1s' --yes");
        let flip = run("there", &arguments, story, stage, sidecar).await?;
        flip.under(options, story, stage, load, "green", stage.green.port()).await
    }

    /// Green to blue.
    pub async fn back(
        options: &Options,
        story: &Story,
        stage: &Stage,
        sidecar: &Process,
        load: &mut Load,
    ) -> Result<Flip> {
        story.tell("rollback", "$ cutover rollback --yes");
        let flip = run("back", &["rollback", "--yes"], story, stage, sidecar).await?;
        flip.under(options, story, stage, load, "blue", stage.blue.port()).await
    }
}

/// A run that was done; the load has not been asked yet.
struct Done {
    name: &'static str,
    report: Value,
    began: Instant,
}

async fn run(
    name: &'static str,
    arguments: &[&str],
    story: &Story,
    stage: &Stage,
    sidecar: &Process,
) -> Result<Done> {
    let began = Instant::now();
    let command = stage.cutover_command()?.args(arguments.iter().copied());
    let mut command = command.start(&stage.path().join(format!("cutover-{name}")))?;
    let ended = follow::to_the_end(&mut command, story, 3 * STEP_DEADLINE).await?;
    if !ended.success() {
        bail!("the run {name} ended with {ended}; the sidecar said:\n{}", sidecar.log_tail());
    }
    let report = stage.api().status()?["cutover"]["report"].clone();
    Ok(Done { name, report, began })
}

impl Done {
    /// Lets the load go on for a while, and makes sure that it does on `port`.
    async fn under(
        self,
        options: &Options,
        story: &Story,
        stage: &Stage,
        load: &mut Load,
        side: &str,
        port: u16,
    ) -> Result<Flip> {
        let opened = Instant::now();
        load.more(options, options.seconds).await?;
        for router in &stage.routers {
            let target = router.target_port().await.context("asking a router")?;
            if target != port {
                bail!("the router on port {} points at port {target}", router.port());
            }
        }
        let acknowledged = load.ledger.record().acknowledged_since(opened);
        let text = format!("{} ledger writes acknowledged since", count(acknowledged as u64));
        story.tell(side, &text);
        let longest_gap = load.ledger.longest_gap(self.began);
        Ok(Flip { name: self.name, report: self.report, longest_gap })
    }
}
