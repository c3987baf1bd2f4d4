//! One run, from fresh servers to the judgement.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::difference::{Difference, judge, told};
use super::load::Load;
use super::report::Ending;
use super::{Change, Choice, Kind, Moment};
use crate::api::Api;
use crate::process::{Finished, Process};
use crate::wait;

/// For anything that takes a moment.
const SOON: Duration = Duration::from_secs(60);
/// How long the stream may take to come near blue; then the cutover is tried all the same.
const NEAR: Duration = Duration::from_secs(20);
/// The replicator's exit code where checks before the copy found blockers.
const BLOCKED: i32 = 3;

/// Blue and green of an engine, what happens on them, and who judges.
pub trait Pair: Sized {
    /// All that blue was.
    type Judged;
    /// More arguments of the cutover.
    const GO: &[&str];

    /// Fresh servers; blue holds one of each kind of object that a change may touch.
    async fn start(choice: &Choice) -> Result<Self>;
    fn replicator(&self) -> Result<Process>;
    fn cutover(&self, arguments: &[&str], deadline: Duration) -> Result<Finished>;
    fn api(&self) -> Api;
    fn keep_logs(&mut self) -> Result<PathBuf>;
    /// Writes rows on blue.
    async fn load(&self) -> Result<Load>;
    /// Makes one change on blue.
    async fn change(&self, kind: &Kind) -> Result<()>;
    /// Reads blue.
    async fn judged(&self) -> Result<Self::Judged>;
    /// All in which green is not what blue was.
    async fn differences(&self, blue: &Self::Judged) -> Result<BTreeSet<Difference>>;
}

/// Plays it and judges how it ends.
pub async fn play<P: Pair>(choice: &Choice) -> Result<Ending> {
    let mut pair = P::start(choice).await?;
    let played = play_on(&pair, choice).await;
    let ending = played.with_context(|| choice.describe())?;
    if ending.is_wrong(choice) {
        let kept = pair.keep_logs()?;
        return Ok(ending.with_logs(&kept));
    }
    Ok(ending)
}

/// What was applied, and how the sidecar fared.
struct Scene<'a, P> {
    pair: &'a P,
    sidecar: Process,
    /// Changes that blue refused, because of another change of the run.
    refused_by_blue: Vec<String>,
}

async fn play_on<P: Pair>(pair: &P, choice: &Choice) -> Result<Ending> {
    let load = pair.load().await?;
    let mut refused_by_blue = Vec::new();
    for change in choice.at(Moment::Before) {
        apply(pair, change, &mut refused_by_blue).await;
    }
    let sidecar = pair.replicator()?;
    let mut scene = Scene { pair, sidecar, refused_by_blue };
    let outcome = scene.changes(choice).await;
    load.stop().await?;
    if let Some(ending) = outcome? {
        return Ok(ending);
    }
    if choice.needs_verification() {
        pair.cutover(&["verify"], 2 * SOON)?;
    }
    scene.attempt().await
}

async fn apply<P: Pair>(pair: &P, change: &Change, refused: &mut Vec<String>) {
    if let Err(error) = pair.change(change.kind).await {
        refused.push(format!("{}: {error:#}", change.kind.name));
    }
}

impl<P: Pair> Scene<'_, P> {
    /// Everything that happens on blue. An ending if the sidecar has ended meanwhile.
    async fn changes(&mut self, choice: &Choice) -> Result<Option<Ending>> {
        if choice.at(Moment::Copying).next().is_some() {
            self.until("a copy that has begun", |phase| phase != "starting").await?;
            for change in choice.at(Moment::Copying) {
                apply(self.pair, change, &mut self.refused_by_blue).await;
            }
        }
        self.near().await?;
        if let Some(ending) = self.dead()? {
            return Ok(Some(ending));
        }
        for change in choice.at(Moment::Streaming) {
            apply(self.pair, change, &mut self.refused_by_blue).await;
        }
        if choice.at(Moment::Down).next().is_some() {
            if let Some(ending) = self.dead()? {
                return Ok(Some(ending));
            }
            self.sidecar.terminate()?;
            self.sidecar.wait(SOON)?;
            for change in choice.at(Moment::Down) {
                apply(self.pair, change, &mut self.refused_by_blue).await;
            }
            self.sidecar = self.pair.replicator()?;
        }
        self.near().await?;
        self.dead()
    }

    /// Waits until the sidecar says that phase, or has ended.
    async fn until(&mut self, what: &str, ready: impl Fn(&str) -> bool) -> Result<()> {
        let api = self.pair.api();
        wait::until(what, SOON, || {
            let found = (|| {
                if self.sidecar.ended()?.is_some() {
                    return Ok(Some(()));
                }
                let status = api.status().ok();
                let phase = status.as_ref().and_then(|status| status["phase"].as_str());
                Ok(phase.is_some_and(&ready).then_some(()))
            })();
            async { found }
        })
        .await
    }

    /// Waits until the stream is near blue, has stopped, or does not come near in time: all three
    /// are worth a try of a cutover.
    async fn near(&mut self) -> Result<()> {
        let api = self.pair.api();
        let waited = wait::until("a stream near blue", NEAR, || {
            let found = (|| {
                if self.sidecar.ended()?.is_some() {
                    return Ok(Some(()));
                }
                let Ok(status) = api.status() else { return Ok(None) };
                let near = status["phase"] == "streaming"
                    && status["lag"]["seconds"].as_f64().is_some_and(|lag| lag < 1.0);
                Ok((near || status["phase"] == "halted").then_some(()))
            })();
            async { found }
        });
        if let Err(error) = waited.await
            && !error.to_string().starts_with("waited")
        {
            return Err(error);
        }
        Ok(())
    }

    fn dead(&mut self) -> Result<Option<Ending>> {
        let Some(status) = self.sidecar.ended()? else { return Ok(None) };
        let said = self.sidecar.log_tail();
        Ok(Some(match status.code() {
            Some(BLOCKED) => Ending::refused("checks before the copy", &said),
            _ => Ending::dead(&format!("{status}: {said}")),
        }))
    }

    async fn attempt(&mut self) -> Result<Ending> {
        let blue = self.pair.judged().await?;
        let plan = self.pair.cutover(&["plan", "--when-lag", "<1s", "--json"], SOON)?;
        let go = ["--when-lag", "<1s", "--for", "1s", "--yes", "--gate-timeout", "15s"];
        let go = [&go[..], P::GO].concat();
        let finished = self.pair.cutover(&go, 2 * SOON)?;
        if let Some(ending) = self.dead()? {
            return Ok(ending);
        }
        match finished.code() {
            0 => {}
            3..=5 | 9 => return Ok(Ending::refused(&self.words(), &text(&finished))),
            // Nothing streams: a run can't begin.
            11 => return Ok(Ending::refused("nothing streams", &text(&finished))),
            code => return Ok(Ending::wrong(&format!("exit code {code}: {}", text(&finished)))),
        }
        let told = told(&plan.stdout).with_context(|| plan.stderr.clone())?;
        Ok(judge(self.pair.differences(&blue).await?, &told).with_changes(&self.refused_by_blue))
    }

    fn words(&self) -> String {
        match self.refused_by_blue.is_empty() {
            true => "the run".into(),
            false => format!("the run (blue refused: {})", self.refused_by_blue.join("; ")),
        }
    }
}

fn text(finished: &Finished) -> String {
    format!("exit code {}\n{}\n{}", finished.code(), finished.stdout, finished.stderr)
}
