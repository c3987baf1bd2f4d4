//! One run: the fault is prepared, the run started, the fault done and healed, the end judged.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::deck::{Cast, Direction};
use super::fault::Fault;
use super::judge::{self, Found};
use super::pair::{CLIENTS, Pair, SOON};
use super::report::Told;
use crate::ledger::RECONNECT;
use crate::process::Process;

mod damage;

/// A run that has not ended by then has failed.
const RUN_DEADLINE: Duration = Duration::from_secs(90);
/// The longest pause that a run may make. On MySQL and MariaDB, sessions that keep their server are waited
/// for, and leases are rows of a server that is busy.
const MAX_PAUSE: &str = "3s";
const MAX_PAUSE_OF_MYSQL: &str = "8s";

/// A run under way.
pub struct Scene<'a> {
    pub pair: &'a mut Pair,
    pub cast: &'a Cast,
    pub command: Process,
    /// When the run was asked for.
    pub began: Instant,
    /// When the fault happened, if it did.
    pub struck: Option<Instant>,
    /// From when on somebody could serve again: a dead router, a dead server and two dead guardians
    /// are nobody's delay.
    pub able: Option<Instant>,
    /// Failpoints at which a process died.
    pub killed_at: Vec<&'static str>,
    /// Sessions and processes that belong to the fault.
    pub props: damage::Props,
}

/// Plays one run, whatever it takes to get there.
pub async fn play(pair: &mut Pair, cast: &Cast) -> Told {
    let began = Instant::now();
    let played = play_it(pair, cast).await;
    pair.runs += 1;
    let healed = pair.heal();
    let mut told = match played.and_then(|told| healed.map(|()| told)) {
        Ok(told) => told,
        Err(error) => Told::illegal(cast, &error),
    };
    told.took = began.elapsed();
    told
}

async fn play_it(pair: &mut Pair, cast: &Cast) -> Result<Told> {
    pair.restart_after = Some(Duration::from_millis(200));
    pair.heal()?;
    if cast.fault.needs_small_disk() && !pair.has_small_disk {
        return Ok(Told::skipped(cast, "no file system can be mounted here"));
    }
    if pair.serving != cast.direction.from() {
        let there = clean_run(pair, pair.serving.leaving()).await;
        there.context("the run without a fault that goes before")?;
    }
    pair.points.clear_all()?;
    pair.deaths = 0;
    let props = damage::prepare(pair, cast).await.context("preparing the fault")?;
    let command = start(pair, cast.direction)?;
    let began = Instant::now();
    let mut scene = Scene {
        pair,
        cast,
        command,
        began,
        struck: None,
        able: None,
        killed_at: Vec::new(),
        props,
    };
    let struck = scene.strike().await.with_context(|| cast.fault.to_string());
    let ended = match struck {
        Ok(()) => scene.end().await,
        Err(error) => Err(error),
    };
    let code = ended.with_context(|| scene.sayings())?;
    scene.props.clear(scene.pair).await?;
    scene.pair.points.clear_all_but_trace()?;
    scene.pair.links.heal();
    let Scene { struck, able, killed_at, .. } = scene;
    if cast.fault.breaks_the_pair() && struck.is_some() {
        pair.is_broken = true;
    }
    let since = struck.unwrap_or(began);
    let since = able.map_or(since, |able| able.max(since));
    let found = judge::judge(pair, since).await.context("after the run")?;
    let told = Told::found(pair, cast, code, struck, began, &killed_at, &found);
    if struck.is_none() || cast.fault == Fault::None {
        ensure!(
            code != 0 || found.serving == cast.direction.to(),
            "the command ended with 0, and {} serves",
            found.serving.name()
        );
    }
    Ok(told)
}

/// A run without a fault; it has to get where it goes.
pub async fn clean_run(pair: &mut Pair, direction: Direction) -> Result<Found> {
    let began = Instant::now();
    let mut command = start(pair, direction)?;
    let code = follow(pair, &mut command).await?;
    ensure!(
        code == 0,
        "the command ended with {code}: {}\n{}",
        command.stdout()?,
        command.log_tail()
    );
    let found = judge::judge(pair, began).await?;
    ensure!(found.serving == direction.to(), "{} serves", found.serving.name());
    found.ledger.ensure_exact()?;
    if !pair.blue.kind().is_postgres() {
        // Each is cut once, and turned away while it tries again and again.
        let gap = pair.ledger.longest_gap(began);
        let tries = gap.as_millis().div_ceil(RECONNECT.as_millis());
        let bound = CLIENTS as usize * (3 + usize::try_from(tries)?);
        let seen = found.client_errors;
        ensure!(seen <= bound, "clients saw {seen} errors in a gap of {gap:?}: {}", found.ledger);
    }
    Ok(found)
}

/// The operator's command.
fn start(pair: &Pair, direction: Direction) -> Result<Process> {
    let api = pair.api();
    let launch = api.known_to(pair.launch("cutover")?);
    let launch = match direction {
        Direction::Forward => launch,
        Direction::Back => launch.arg("rollback"),
    };
    let launch = launch.args([
        "--when-lag",
        "<1s",
        "--for",
        "0s",
        "--gate-timeout",
        "20s",
        "--max-pause",
        if pair.blue.kind().is_postgres() { MAX_PAUSE } else { MAX_PAUSE_OF_MYSQL },
        "--reconnect-for",
        "20s",
        "--yes",
    ]);
    let log = pair.path().join(format!("run-{}-{}", pair.runs, direction.name()));
    launch.start(&log)
}

/// Waits for the end of a command and meanwhile does what a supervisor does.
async fn follow(pair: &mut Pair, command: &mut Process) -> Result<i32> {
    let until = Instant::now() + RUN_DEADLINE;
    loop {
        if let Some(status) = command.ended()? {
            return Ok(status.code().unwrap_or(-1));
        }
        if Instant::now() >= until {
            bail!("the command did not end within {RUN_DEADLINE:?}");
        }
        pair.pass(Duration::from_millis(20)).await?;
    }
}

impl Scene<'_> {
    /// Waits for the command's end.
    async fn end(&mut self) -> Result<i32> {
        follow(self.pair, &mut self.command).await
    }

    /// What there is to know of a run that went wrong.
    fn sayings(&mut self) -> String {
        let trace = self.pair.points.trace();
        let last = trace.last().map_or("nowhere", String::as_str);
        format!(
            "the run had come to {last}; the command said: {}",
            self.command.stderr().unwrap_or_default()
        )
    }

    /// Whether the command has ended, which means that the run is over or that nobody can tell.
    pub fn is_over(&mut self) -> Result<bool> {
        Ok(self.command.ended()?.is_some())
    }
}

/// For waits of a fault: longer than any run takes to get there.
pub const GETTING_THERE: Duration = SOON;
