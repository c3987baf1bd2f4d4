//! The loop around the judges: follows the runs, takes samples, shows what they come to, and
//! begins the rollback that they ask for.
//!
//! Every monitor samples in a task of its own, so that one that waits holds up no other. What is to
//! be sampled is a [`Stage`]; a sample that was begun in another one is thrown away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::baseline::{Baseline, Gathering};
use super::config::WatchConfig;
use super::decide::{Decision, decide, describe};
use super::judge::{Judge, Verdict};
use super::monitor::Monitor;
use super::probe::Place;
use super::sample::Sample;
use super::stage::{Stage, may_roll_back};
use crate::api::{MonitorAction, MonitorState, MonitorStatus, RunStatus};
use crate::login::Login;
use crate::ports::{Replication, World};
use crate::service::Service;
use crate::side::{Direction, Side};

/// Between two looks at the run and the verdicts.
const LOOK: Duration = Duration::from_millis(100);
/// Between two looks into the journal while a rollback is due.
const DUE: Duration = Duration::from_secs(1);
/// While no run is near, samples are taken so many times more seldom.
const IDLE_FACTOR: u32 = 6;

/// Watches for as long as it is polled. `ends`: blue and green, as the sidecar connects.
pub async fn supervise<W: World + 'static>(
    service: Arc<Service<W>>,
    config: WatchConfig,
    ends: [Login; 2],
) {
    let monitors = Monitor::all(&config);
    let stages = watch::Sender::new(Stage::Still);
    let (sender, mut taken) = mpsc::channel(64);
    // Ends with this future.
    let mut tasks = JoinSet::new();
    for (number, monitor) in monitors.iter().enumerate() {
        let sampler = Sampler {
            number,
            monitor: monitor.clone(),
            service: service.clone(),
            ends: ends.clone(),
            stages: stages.subscribe(),
            to: sender.clone(),
        };
        tasks.spawn(sampler.run());
    }
    let mut supervisor = Supervisor {
        service,
        config,
        gathered: vec![Gathering::default(); monitors.len()],
        gathered_of: None,
        monitors,
        stages,
        judges: Vec::new(),
        shown: BTreeMap::new(),
        said: None,
        serving: None,
        run: None,
        due_at: Instant::now(),
    };
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(taken) = taken.recv() => supervisor.took(taken),
            _ = tick.tick() => supervisor.look().await,
        }
    }
}

/// A sample, and what it is of.
#[derive(Debug)]
struct Taken {
    number: usize,
    stage: Stage,
    at: Instant,
    sample: Sample,
}

/// Takes the samples of one monitor.
struct Sampler<W: World + 'static> {
    number: usize,
    monitor: Monitor,
    service: Arc<Service<W>>,
    ends: [Login; 2],
    stages: watch::Receiver<Stage>,
    to: mpsc::Sender<Taken>,
}

impl<W: World + 'static> Sampler<W> {
    async fn run(mut self) {
        loop {
            let stage = self.stages.borrow_and_update().clone();
            let (side, pause) = match &stage {
                Stage::After { side, .. } => (*side, self.monitor.rule.interval),
                Stage::Before { side, is_near } if self.monitor.has_a_before() => {
                    let factor = if *is_near { 1 } else { IDLE_FACTOR };
                    (*side, self.monitor.rule.interval * factor)
                }
                Stage::Before { .. } | Stage::Still => {
                    if self.stages.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let place = self.place(side);
            let at = Instant::now();
            let sampled = async {
                let sample = self.monitor.take(&place).await;
                let taken = Taken { number: self.number, stage: stage.clone(), at, sample };
                let heard = self.to.send(taken).await;
                tokio::time::sleep_until(at + pause).await;
                heard
            };
            tokio::select! {
                changed = self.stages.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                heard = sampled => {
                    if heard.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn place(&self, side: Side) -> Place {
        let [blue, green] = &self.ends;
        let serving = if side == Side::Blue { blue } else { green };
        let stream = self.service.world_in(Direction::leaving(side));
        Place {
            serving: serving.clone(),
            way_back: stream.map(|world| world.replication().progress()),
        }
    }
}

/// How a monitor was shown last.
#[derive(Debug, Clone)]
struct Shown {
    state: MonitorState,
    since: Timestamp,
    /// Whether it has ever been anything but inconclusive.
    was_conclusive: bool,
}

struct Supervisor<W: World + 'static> {
    service: Arc<Service<W>>,
    config: WatchConfig,
    monitors: Vec<Monitor>,
    stages: watch::Sender<Stage>,
    /// What is known of the time before a flip, by monitor.
    gathered: Vec<Gathering>,
    gathered_of: Option<Side>,
    /// Of the run that is watched, by monitor.
    judges: Vec<Judge>,
    shown: BTreeMap<String, Shown>,
    /// Why a rollback that is due can't be begun, as it was said last.
    said: Option<String>,
    /// Who serves by the journal; `None`: it has not been read yet.
    serving: Option<Side>,
    /// The newest run and whether it was over, as of the last look.
    run: Option<(String, bool)>,
    /// When the journal is to be read for a rollback that is due.
    due_at: Instant,
}

impl<W: World + 'static> Supervisor<W> {
    fn took(&mut self, taken: Taken) {
        if taken.stage != *self.stages.borrow() {
            return;
        }
        let monitor = &self.monitors[taken.number];
        match taken.stage {
            Stage::After { .. } => {
                let judge = &mut self.judges[taken.number];
                let sample = monitor.after(taken.sample, judge.before());
                judge.observe(taken.at, sample);
            }
            Stage::Before { .. } => {
                let sample = monitor.before(&taken.sample);
                let timing = match taken.sample {
                    Sample::Timing(timing) => Some(timing),
                    _ => None,
                };
                self.gathered[taken.number].add(&sample, timing);
                let known =
                    self.monitors.iter().zip(&self.gathered).filter_map(|(monitor, gathered)| {
                        Some((monitor.rule.name.clone(), gathered.before()?))
                    });
                self.service.keep_baseline(Baseline(known.collect()));
            }
            Stage::Still => {}
        }
    }

    async fn look(&mut self) {
        let run = self.service.current();
        self.follow(run.as_ref()).await;
        let Some(serving) = self.serving else { return };
        let stage = Stage::of(run.as_ref(), serving, self.config.window(), Timestamp::now());
        if stage != *self.stages.borrow() {
            self.enter(stage.clone());
        }
        if let (Stage::After { .. }, Some(run)) = (stage, run) {
            self.judge(&run).await;
        }
    }

    /// Reads the journal where a run has begun or ended since, or a rollback is due.
    async fn follow(&mut self, run: Option<&RunStatus>) {
        let now = run.map(|run| (run.run.clone(), run.report.is_some()));
        if self.serving.is_none() || now != self.run {
            match self.service.standing().await {
                Ok(standing) => self.serving = Some(standing.serving),
                Err(error) => {
                    tracing::warn!("the watch can't read the journal: {error}");
                    return;
                }
            }
            self.run = now;
            self.due_at = Instant::now();
        }
        if Instant::now() < self.due_at {
            return;
        }
        let Some(breach) = self.service.due_rollback().await else {
            // Until the next run begins or ends.
            self.due_at = Instant::now() + Duration::from_secs(60);
            return;
        };
        self.due_at = Instant::now() + DUE;
        if let Err(obstacle) = self.service.way_back_obstacle() {
            self.say(&format!(
                "a rollback is due ({}), but not possible now: {obstacle}",
                breach.what
            ));
            return;
        }
        let timeout = self.config.rollback_gate_timeout();
        match self.service.answer_breach(&breach, timeout).await {
            Ok(run) => {
                tracing::error!(run = run.run, "ROLLING BACK by itself: {}", breach.what);
                self.said = None;
            }
            Err(error) => {
                self.say(&format!(
                    "a rollback is due ({}), but could not be begun: {}",
                    breach.what, error.what
                ));
            }
        }
    }

    /// Says something once, until something else is to be said.
    fn say(&mut self, text: &str) -> bool {
        if self.said.as_deref() == Some(text) {
            return false;
        }
        tracing::error!("{text}");
        self.said = Some(text.to_owned());
        true
    }

    fn enter(&mut self, stage: Stage) {
        match &stage {
            Stage::After { run, .. } => {
                let baseline = self.service.baseline_of(run);
                let before = |monitor: &Monitor| baseline.0.get(&monitor.rule.name).cloned();
                self.judges = self
                    .monitors
                    .iter()
                    .map(|monitor| Judge::new(monitor.rule.clone(), before(monitor)))
                    .collect();
                self.shown.clear();
                self.said = None;
                for judge in &self.judges {
                    let rule = judge.rule();
                    if rule.needs_before && judge.before().is_none_or(|before| !before.was_well()) {
                        let text = format!(
                            "monitor {} was not seen to be well before the flip: it can't tell \
                             what the flip has done, and leads to no rollback",
                            rule.name
                        );
                        tracing::warn!(run, "{text}");
                        self.service.remark(run, text);
                    }
                }
            }
            // What was gathered of one side says nothing about the other.
            Stage::Before { side, .. } if self.gathered_of != Some(*side) => {
                self.gathered_of = Some(*side);
                self.gathered.iter_mut().for_each(Gathering::clear);
                self.service.keep_baseline(Baseline::default());
            }
            Stage::Before { .. } | Stage::Still => {}
        }
        self.stages.send_replace(stage);
    }

    async fn judge(&mut self, run: &RunStatus) {
        let now = Instant::now();
        let judged: Vec<_> =
            self.judges.iter().map(|judge| (judge.clone(), judge.verdict(now))).collect();
        let mut monitors = Vec::new();
        for (judge, verdict) in &judged {
            monitors.push(self.show(run, judge, verdict));
        }
        self.service.show_monitors(&run.run, monitors);
        let ready = if may_roll_back(run) {
            self.service.way_back_obstacle()
        } else if run.direction == Direction::Back {
            Err("a rollback is not rolled back by itself".into())
        } else {
            Err("the run left no way back".into())
        };
        let rules = judged.iter().map(|(judge, verdict)| (judge.rule(), verdict));
        match decide(rules, ready) {
            Decision::Stay => self.said = None,
            Decision::CannotRollBack { due, obstacle } => {
                let text = format!("A ROLLBACK IS DUE BUT NOT POSSIBLE: {obstacle} ({due})");
                // What changes with every sample is no news.
                if self.say(&format!("A ROLLBACK IS DUE BUT NOT POSSIBLE: {obstacle}")) {
                    self.service.remark(&run.run, text);
                }
            }
            Decision::RollBack(due) => {
                if self.service.end_by_breach(&run.run, due).await {
                    self.due_at = Instant::now();
                }
            }
        }
    }

    /// One monitor as it is shown; a change is logged and noted.
    fn show(&mut self, run: &RunStatus, judge: &Judge, verdict: &Verdict) -> MonitorStatus {
        let rule = judge.rule();
        let (state, why) = match verdict {
            Verdict::Healthy => (MonitorState::Healthy, None),
            Verdict::Inconclusive(why) => (MonitorState::Inconclusive, Some(why.clone())),
            Verdict::Breached(seen) => (MonitorState::Breached, Some(describe(rule, seen))),
        };
        let shown = self.shown.entry(rule.name.clone()).or_insert_with(|| Shown {
            state: MonitorState::Inconclusive,
            since: Timestamp::now(),
            was_conclusive: false,
        });
        if shown.state != state {
            shown.state = state;
            shown.since = Timestamp::now();
            let is_news = shown.was_conclusive || state == MonitorState::Breached;
            shown.was_conclusive = true;
            if is_news {
                let name = &rule.name;
                let text = match &why {
                    Some(why) if state == MonitorState::Inconclusive => {
                        format!("monitor {name} is inconclusive: {why}")
                    }
                    Some(why) => why.clone(),
                    None => format!("monitor {name} is healthy again"),
                };
                match (state, rule.action) {
                    (MonitorState::Breached, MonitorAction::Alert) => {
                        tracing::error!(run = run.run, "{text}");
                    }
                    _ => tracing::warn!(run = run.run, "{text}"),
                }
                self.service.remark(&run.run, format!("while watching: {text}"));
            }
        }
        let shown = &self.shown[&rule.name];
        MonitorStatus {
            name: rule.name.clone(),
            state,
            action: rule.action,
            since: shown.since,
            seen: judge.newest().map(seen),
            limit: rule.limit.clone(),
            why,
        }
    }
}

fn seen(sample: &Sample) -> String {
    match sample {
        Sample::Good(seen) | Sample::Bad(seen) => seen.clone(),
        Sample::Nothing(why) => format!("nothing: {why}"),
        Sample::Timing(timing) => timing.describe(),
    }
}
