//! One change of sides, under load, as an operator does it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tests::ledger::Noticed;
use tests::process::Process;

use crate::load::Load;
use crate::scene::{Scene, Side};
use crate::story::{Story, count};
use crate::{Options, STEP_DEADLINE, follow};

/// Who takes part in it.
pub struct Stand<'a, S> {
    pub options: &'a Options,
    pub story: &'a Story,
    pub scene: &'a S,
    pub sidecar: &'a Process,
    pub load: &'a mut Load,
}

/// What was seen of it.
pub struct Flip {
    /// `there` or `back`.
    pub name: &'static str,
    /// The sidecar's own report of the run.
    pub report: Value,
    /// Between two acknowledged ledger writes, since shortly before.
    pub longest_gap: Duration,
    /// By the ledger's clients, from the start of the command to its end.
    pub noticed: Noticed,
}

impl Flip {
    /// Blue to green.
    pub async fn there<S: Scene>(stand: &mut Stand<'_, S>) -> Result<Flip> {
        stand.story.tell("cutover", "$ cutover --when-lag '<1s' --yes");
        let flip = stand.run("there", &["--when-lag", "<1s", "--yes"]).await?;
        flip.under(stand, Side::Green).await
    }

    /// Green to blue.
    pub async fn back<S: Scene>(stand: &mut Stand<'_, S>) -> Result<Flip> {
        stand.story.tell("rollback", "$ cutover rollback --yes");
        let flip = stand.run("back", &["rollback", "--yes"]).await?;
        flip.under(stand, Side::Blue).await
    }
}

/// A run that was done; the load has not been asked yet.
struct Done {
    name: &'static str,
    report: Value,
    began: Instant,
    ended: Instant,
}

impl<S: Scene> Stand<'_, S> {
    async fn run(&self, name: &'static str, arguments: &[&str]) -> Result<Done> {
        let began = Instant::now();
        let api = self.scene.api();
        let command = api.command()?.args(arguments);
        let mut command = command.start(&self.scene.path().join(format!("cutover-{name}")))?;
        let status = follow::to_the_end(&mut command, self.story, 3 * STEP_DEADLINE).await?;
        if !status.success() {
            let said = self.sidecar.log_tail();
            bail!("the run {name} ended with {status}; the sidecar said:\n{said}");
        }
        let ended = Instant::now();
        let report = api.status()?["cutover"]["report"].clone();
        Ok(Done { name, report, began, ended })
    }
}

impl Done {
    /// Lets the load go on for a while, and makes sure that it does on this side.
    async fn under<S: Scene>(self, stand: &mut Stand<'_, S>, side: Side) -> Result<Flip> {
        stand.load.more(stand.options.seconds).await?;
        let port = stand.scene.port(side);
        for reached in stand.scene.reached().await.context("asking a router")? {
            if reached != port {
                bail!("a router leads to port {reached}, and {} has {port}", side.name());
            }
        }
        let record = stand.load.ledger.record();
        let acknowledged = record.acknowledged_since(self.ended);
        let text = format!("{} ledger writes acknowledged since", count(acknowledged as u64));
        stand.story.tell(side.name(), &text);
        let longest_gap = record.longest_gap(self.began);
        let noticed = record.noticed(&(self.began..self.ended));
        Ok(Flip { name: self.name, report: self.report, longest_gap, noticed })
    }
}
