//! One run, from fresh servers to the judgement.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::facts::{self, Facts};
use super::load::Load;
use super::report::Ending;
use super::{Change, Choice, Impact, Moment, base, dump};
use crate::compare::{Content, Sequences};
use crate::process::{Finished, Process};
use crate::stage::{DATABASE, Stage};
use crate::wait;

/// For anything that takes a moment.
const SOON: Duration = Duration::from_secs(60);
/// How long the stream may take to come near blue; then the cutover is tried all the same.
const NEAR: Duration = Duration::from_secs(20);
/// The replicator's exit code where checks before the copy found blockers.
const BLOCKED: i32 = 3;

/// Plays it and judges how it ends.
pub async fn play(choice: &Choice) -> Result<Ending> {
    let (blue, green) = choice.versions;
    let mut stage = Stage::builder(blue, green).start().await?;
    base::prepare(&stage).await?;
    let played = play_on(&stage, choice).await;
    let ending = played.with_context(|| choice.describe())?;
    if ending.is_wrong(choice) {
        let kept = stage.keep_logs()?;
        return Ok(ending.with_logs(&kept));
    }
    Ok(ending)
}

/// What was applied, and how the sidecar fared.
struct Scene<'a> {
    stage: &'a Stage,
    sidecar: Process,
    /// Changes that blue refused, because of another change of the run.
    refused_by_blue: Vec<String>,
}

async fn play_on(stage: &Stage, choice: &Choice) -> Result<Ending> {
    let load = Load::start(stage).await?;
    let mut refused_by_blue = Vec::new();
    for change in of_moment(choice, Moment::Before) {
        apply(stage, change, &mut refused_by_blue).await;
    }
    let sidecar = stage.replicator()?;
    let mut scene = Scene { stage, sidecar, refused_by_blue };
    let outcome = scene.changes(choice).await;
    load.stop().await?;
    if let Some(ending) = outcome? {
        return Ok(ending);
    }
    scene.attempt().await
}

fn of_moment(choice: &Choice, moment: Moment) -> impl Iterator<Item = &Change> {
    choice.changes.iter().filter(move |change| change.moment == moment)
}

async fn apply(stage: &Stage, change: &Change, refused: &mut Vec<String>) {
    if let Err(error) = base::change(stage, change.kind).await {
        refused.push(format!("{}: {error:#}", change.kind.name));
    }
}

impl Scene<'_> {
    /// Everything that happens on blue. An ending if the sidecar has ended meanwhile.
    async fn changes(&mut self, choice: &Choice) -> Result<Option<Ending>> {
        if of_moment(choice, Moment::Copying).next().is_some() {
            self.until("a copy that has begun", |phase| phase != "starting").await?;
            for change in of_moment(choice, Moment::Copying) {
                apply(self.stage, change, &mut self.refused_by_blue).await;
            }
        }
        self.near().await?;
        if let Some(ending) = self.dead()? {
            return Ok(Some(ending));
        }
        for change in of_moment(choice, Moment::Streaming) {
            apply(self.stage, change, &mut self.refused_by_blue).await;
        }
        if of_moment(choice, Moment::Down).next().is_some() {
            if let Some(ending) = self.dead()? {
                return Ok(Some(ending));
            }
            self.sidecar.terminate()?;
            self.sidecar.wait(SOON)?;
            for change in of_moment(choice, Moment::Down) {
                apply(self.stage, change, &mut self.refused_by_blue).await;
            }
            self.sidecar = self.stage.replicator()?;
        }
        self.near().await?;
        self.dead()
    }

    /// Waits until the sidecar says that phase, or has ended.
    async fn until(&mut self, what: &str, ready: impl Fn(&str) -> bool) -> Result<()> {
        let api = self.stage.api();
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
        let api = self.stage.api();
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
        let dump = dump::keep(self.stage)?;
        let blue = &self.stage.blue;
        let before = Facts::read(blue).await?;
        let rows = Content::read(&blue.url(DATABASE)).await?;
        let counters = facts::counters(blue).await?;
        let plan = self.stage.cutover(&["plan", "--when-lag", "<1s"], SOON)?;
        let told = format!("{}{}", plan.stdout, plan.stderr);
        let go = ["--when-lag", "<1s", "--for", "1s", "--yes", "--gate-timeout", "15s"];
        let finished = self.stage.cutover(&go, 2 * SOON)?;
        if let Some(ending) = self.dead()? {
            return Ok(ending);
        }
        match finished.code() {
            0 => {}
            3..=5 | 9 => return Ok(Ending::refused(&self.words(), &text(&finished))),
            // Nothing streams: a run can't begin.
            10 | 11 => return Ok(Ending::refused("nothing streams", &text(&finished))),
            code => return Ok(Ending::wrong(&format!("exit code {code}: {}", text(&finished)))),
        }
        let found = self.differences(&dump, &before, &rows, &counters).await?;
        Ok(judge(found, &told))
    }

    fn words(&self) -> String {
        match self.refused_by_blue.is_empty() {
            true => "the run".into(),
            false => format!("the run (blue refused: {})", self.refused_by_blue.join("; ")),
        }
    }

    /// All in which green is not what blue was right before the cutover.
    async fn differences(
        &self,
        dump: &PathBuf,
        before: &Facts,
        rows: &Content,
        counters: &std::collections::BTreeMap<String, i64>,
    ) -> Result<BTreeSet<Difference>> {
        let green = &self.stage.green;
        let mut found = BTreeSet::new();
        let content = Content::read(&green.url(DATABASE)).await?;
        for what in rows.differences(&content, Sequences::Ignored) {
            found.insert(Difference { what, is_rows: true });
        }
        let after = facts::counters(green).await?;
        for (name, value) in counters {
            if after.get(name).is_some_and(|there| there < value) {
                found.insert(Difference { what: format!("sequence {name}"), is_rows: true });
            }
        }
        let mut other = |what: String| {
            found.insert(Difference { what, is_rows: false });
        };
        before.differences(&Facts::read(green).await?).into_iter().for_each(&mut other);
        let reference = dump::reference(self.stage, dump).await?;
        let there = dump::of_green(self.stage)?;
        for name in reference.differences(&there) {
            other(format!("{name}: {} | {}", reference.of(&name).trim(), there.of(&name).trim()));
        }
        Ok(found)
    }
}

/// One difference between blue as it was and green as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    pub what: String,
    /// Of rows: no word of a plan makes these acceptable.
    pub is_rows: bool,
}

impl Difference {
    /// Whether the plan named the object: by the last part of its name.
    fn is_told(&self, told: &str) -> bool {
        let name = self.what.split(": ").next().unwrap_or(&self.what);
        let name = name.split('(').next().unwrap_or(name);
        let last = name.rsplit(['.', ' ', '/']).find(|part| !part.is_empty());
        !self.is_rows && last.is_some_and(|last| told.contains(last.trim_matches('"')))
    }
}

fn judge(found: BTreeSet<Difference>, told: &str) -> Ending {
    let (named, silent): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|difference| difference.is_told(told));
    let words = |all: Vec<Difference>| all.into_iter().map(|one| one.what).collect::<Vec<_>>();
    if !silent.is_empty() {
        return Ending::silent(&words(silent));
    }
    match named.is_empty() {
        true => Ending::equal(),
        false => Ending::told(&words(named)),
    }
}

fn text(finished: &Finished) -> String {
    format!("exit code {}\n{}\n{}", finished.code(), finished.stdout, finished.stderr)
}

impl Ending {
    /// Whether it is a defect of the product.
    pub fn is_wrong(&self, choice: &Choice) -> bool {
        self.is_defect() || (self.is_refused() && choice.is_harmless())
    }

    /// Whether what was told may be left to a person: it changes neither rows, rights nor results.
    pub fn may_be_told(choice: &Choice) -> bool {
        choice.changes.iter().any(|change| change.kind.impact == Impact::Minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(what: &str, is_rows: bool) -> Difference {
        Difference { what: what.into(), is_rows }
    }

    #[test]
    fn what_was_named_is_not_silent_but_rows_always_are() {
        let plan = "WARN definitions: comment on item; wide_a";
        let one = |what: &str, is_rows| judge(BTreeSet::from([difference(what, is_rows)]), plan);
        assert!(one("COMMENT public.item: a | b", false).is_told());
        assert!(one("INDEX public.wide_a: a | b", false).is_told());
        assert!(one("FUNCTION public.tax(numeric): a | b", false).is_defect());
        assert!(one("public.item: 3 and 4 rows", true).is_defect());
        assert!(!judge(BTreeSet::new(), "").is_defect());
    }
}
