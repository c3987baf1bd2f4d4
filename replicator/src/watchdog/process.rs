//! The watchdog itself: listens until the sidecar is gone, and then serves the clients.

use std::os::fd::AsFd;
use std::time::Duration;

use cutover::controller::{Limits, Recovery, Scope, Standing, recover};
use cutover::lease::Uncontested;
use cutover::ports::PortError;
use cutover::switch::Switch;
use cutover::way_back::NoWayBack;
use cutover::world::{Mysql, Postgres};
use cutover::{Databases, Direction, MysqlPair, Pair, PairWorld, Phase, PostgresPair, api};
use decoders::mysql::server::{ServerUrl, is_mysql_url};
use decoders::postgres::conninfo::ConnInfo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid, setsid};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::LEASE;
use super::engine::{Brings, NoEngine};
use super::protocol::{Hello, Line, READY};
use super::told::Told;
use super::turn::Turn;
use crate::pipeline::{Ends, TriggersAlone};
use crate::schema::mysql::Automation;

/// How long the end of a sidecar may take once it was killed, or has closed its pipe.
const END_MAX: Duration = Duration::from_secs(1);
/// What is in the pipe already may be read for so long before a silence counts: it may have been
/// this process that was stopped.
const GRACE: Duration = Duration::from_millis(200);
/// Between two looks at whether the sidecar is gone.
const LOOK: Duration = Duration::from_millis(10);
/// Between two tries at what could not be finished.
const RETRY: Duration = Duration::from_secs(1);
/// After this a person has to start the sidecar; the next start goes on from there.
const PATIENCE: Duration = Duration::from_secs(600);
/// Exit code of one that was started wrongly.
const EXIT_USAGE: u8 = 2;

type Pipe = Lines<BufReader<pipe::Receiver>>;
type World<D> = PairWorld<D, Told, NoEngine, NoWayBack, Uncontested>;

/// The ports of both directions, whatever the engine.
enum Ports {
    Postgres([World<Postgres>; 2]),
    Mysql([World<Mysql>; 2]),
}

/// `replicator watchdog`, started by `replicator run`.
pub async fn run() -> u8 {
    name_ourselves();
    // A session of its own: the terminal's ^C and its end are not meant for it.
    if let Err(error) = setsid() {
        tracing::debug!("no session of its own: {error}");
    }
    ignore_signals();
    match watch().await {
        Ok(()) => 0,
        Err(problem) => {
            tracing::error!("watchdog: {problem}");
            EXIT_USAGE
        }
    }
}

/// As `ps` shows it; it was started by the path of the sidecar's own image.
fn name_ourselves() {
    if let Err(error) = std::fs::write("/proc/self/comm", "repl-watchdog") {
        tracing::debug!("no name: {error}");
    }
}

/// Service managers signal every process of a service when one of them has died. This one ends by
/// itself once clients are served.
fn ignore_signals() {
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        match signal(kind) {
            Ok(mut signals) => drop(tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    tracing::info!("watchdog: it ends by itself, once clients are served");
                }
            })),
            Err(error) => tracing::warn!("watchdog: a signal would end it: {error}"),
        }
    }
}

fn pipe() -> std::io::Result<Pipe> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    Ok(BufReader::new(pipe::Receiver::from_owned_fd(stdin)?).lines())
}

async fn watch() -> Result<(), String> {
    let mut lines = pipe().map_err(|error| format!("standard input is no pipe: {error}"))?;
    let first = lines.next_line().await.map_err(|error| error.to_string())?;
    let hello = match first.as_deref().map(Line::read) {
        Some(Ok(Line::Hello(hello))) => *hello,
        _ => return Err("only `replicator run` starts it".into()),
    };
    let told = Told::default();
    let ports = ports(&hello, &told)?;
    // Not waited for yet: a predecessor may still be ending.
    let mut turn = Box::pin(Turn::take(&hello.state_dir));
    let turn_now = tokio::time::timeout(GRACE, &mut turn).await.ok();
    {
        use std::io::Write;
        let mut stdout = std::io::stdout();
        let said = writeln!(stdout, "{READY}").and_then(|()| stdout.flush());
        said.map_err(|error| format!("the sidecar does not listen: {error}"))?;
    }
    let end = listen(&mut lines, &told).await;
    if matches!(end, End::Over) {
        return Ok(());
    }
    let ended = Instant::now();
    // Before the hold nothing was touched; once clients are served the rest needs streams.
    let Some((run, phase)) = unfinished(&told).filter(|_| clients_wait(&told)) else {
        return Ok(());
    };
    let sidecar = Pid::from_raw(hello.sidecar);
    let phase_name = phase.name();
    match end {
        End::Silent => {
            tracing::error!(
                run, phase = phase_name, pid = %sidecar,
                "WATCHDOG: the sidecar is silent for {LEASE:?} and clients wait: it is ended"
            );
            end_sidecar(sidecar);
            // What it had written before it fell silent is read to its end.
            let gone = tokio::time::timeout(END_MAX, to_the_end(&mut lines, &told)).await;
            if gone.is_err() {
                tracing::error!(run, "WATCHDOG: the sidecar does not end; its lease is over");
            }
        }
        End::Gone | End::Over => {
            if !is_orphan(sidecar).await {
                tracing::error!(run, pid = %sidecar, "WATCHDOG: the sidecar is ending; it is ended");
                end_sidecar(sidecar);
            }
            tracing::error!(
                run,
                phase = phase_name,
                "WATCHDOG: the sidecar is gone in the middle of a run; clients are served now"
            );
        }
    }
    let _turn = match turn_now {
        Some(turn) => turn,
        None => turn.await,
    };
    match &ports {
        Ports::Postgres(ports) => act(ports, &told, ended).await,
        Ports::Mysql(ports) => act(ports, &told, ended).await,
    }
    Ok(())
}

/// Why listening has ended.
enum End {
    /// The run is over.
    Over,
    /// The sidecar has closed the pipe without a word.
    Gone,
    /// The sidecar has said nothing for too long.
    Silent,
}

async fn listen(lines: &mut Pipe, told: &Told) -> End {
    let mut heard = Instant::now();
    let mut matters = clients_wait(told);
    loop {
        let line = tokio::select! {
            biased;
            line = lines.next_line() => line,
            () = tokio::time::sleep_until(heard + LEASE), if matters => {
                match tokio::time::timeout(GRACE, lines.next_line()).await {
                    Ok(line) => line,
                    Err(_) => return End::Silent,
                }
            }
        };
        heard = Instant::now();
        match line {
            Ok(Some(text)) => match Line::read(&text) {
                Ok(Line::Over) => return End::Over,
                Ok(Line::Entry(entry)) => {
                    told.add(*entry);
                    matters = clients_wait(told);
                }
                Ok(Line::Beat | Line::Hello(_)) => {}
                // The sidecar's death has cut it short: what it announces has not begun.
                Err(error) => tracing::debug!("watchdog: {error}"),
            },
            Ok(None) => return End::Gone,
            Err(error) => {
                tracing::warn!("watchdog: reading from the sidecar: {error}");
                return End::Gone;
            }
        }
    }
}

/// Reads what is left.
async fn to_the_end(lines: &mut Pipe, told: &Told) {
    while let Ok(Some(text)) = lines.next_line().await {
        if let Ok(Line::Entry(entry)) = Line::read(&text) {
            told.add(*entry);
        }
    }
}

/// The run that has not ended, and how far it has come.
fn unfinished(told: &Told) -> Option<(String, Phase)> {
    match Standing::read(&told.entries()) {
        Ok(standing) => standing.unfinished.map(|run| (run.run, run.reached)),
        Err(error) => {
            tracing::error!("WATCHDOG: {error}");
            None
        }
    }
}

/// Whether clients may be waiting: from the hold on until they were let go.
fn clients_wait(told: &Told) -> bool {
    unfinished(told).is_some_and(|(_, reached)| (Phase::Gate..Phase::Open).contains(&reached))
}

/// SIGKILL, if it still is our parent: its number may be another process's otherwise.
fn end_sidecar(sidecar: Pid) {
    if getppid() == sidecar
        && let Err(error) = kill(sidecar, Signal::SIGKILL)
    {
        tracing::error!("WATCHDOG: the sidecar can't be ended: {error}");
    }
}

/// Waits a moment until the sidecar is no more; `false`: it still is there.
async fn is_orphan(sidecar: Pid) -> bool {
    let until = Instant::now() + END_MAX;
    while getppid() == sidecar {
        if Instant::now() > until {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}

fn ports(hello: &Hello, told: &Told) -> Result<Ports, String> {
    let wrong = |side: &str, error: &dyn std::fmt::Display| format!("{side}: {error}");
    if is_mysql_url(hello.blue.trim()) {
        let side = |text: &str, side: &str| {
            ServerUrl::parse(text.trim()).map_err(|error| wrong(side, &error))
        };
        let (blue, green) = (side(&hello.blue, "blue")?, side(&hello.green, "green")?);
        let switch = Switch::new(&hello.switch, &blue, &green);
        let switch = switch.map_err(|error| error.to_string())?;
        let brings = |direction: Direction| {
            let [forward, back] = &hello.streams;
            let (name, ends) = match direction {
                Direction::Forward => (forward, [&blue, &green]),
                Direction::Back => (back, [&green, &blue]),
            };
            Brings::Mysql(Box::new(Automation::of(name.clone(), ends, hello.tables.clone())))
        };
        let pair = MysqlPair::new(&blue, &green, switch, told.clone());
        return Ok(Ports::Mysql(both(pair, brings)));
    }
    let side =
        |text: &str, side: &str| ConnInfo::parse(text.trim()).map_err(|error| wrong(side, &error));
    let (blue, green) = (side(&hello.blue, "blue")?, side(&hello.green, "green")?);
    let switch = Switch::new(&hello.switch, &blue, &green).map_err(|error| error.to_string())?;
    let publications = hello.publications.each_ref().map(String::as_str);
    let pair = PostgresPair::new(&blue, &green, publications, switch, told.clone());
    let brings = |direction: Direction| {
        let ends =
            Ends { source: blue.clone(), target: green.clone(), direction: Direction::Forward };
        let [forward, back] = &hello.streams;
        let (name, ends) = match direction {
            Direction::Forward => (forward, ends),
            Direction::Back => (back, ends.reversed()),
        };
        Brings::Postgres(Box::new(TriggersAlone::of(name, hello.tables.clone(), ends)))
    };
    Ok(Ports::Postgres(both(pair, brings)))
}

fn both<D: Databases>(pair: Pair<D, Told>, brings: impl Fn(Direction) -> Brings) -> [World<D>; 2] {
    let pair = std::sync::Arc::new(pair);
    Direction::ALL.map(|direction| {
        let engine = NoEngine::new(brings(direction));
        // What it does is done by whoever recovers, with or without a lease.
        World::new(direction, pair.clone(), engine, NoWayBack, Uncontested)
    })
}

/// Goes back or forward until clients are served, or until the next sidecar takes over.
async fn act<D: Databases>(ports: &[World<D>; 2], told: &Told, ended: Instant) {
    let limits = Limits::default();
    let until = Instant::now() + PATIENCE;
    loop {
        let world_of = |direction: Direction| Some(&ports[direction as usize]);
        let recovered = recover(world_of, &limits, Scope::Traffic, |_| {}).await;
        if is_over(&recovered, told, ended) {
            return;
        }
        if Instant::now() > until {
            tracing::error!(
                "WATCHDOG: giving up. Start the sidecar: it goes on from here (replicator run)"
            );
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Says what has become of it.
fn is_over(recovered: &Result<Recovery, PortError>, told: &Told, ended: Instant) -> bool {
    let took_ms = u64::try_from(ended.elapsed().as_millis()).unwrap_or(u64::MAX);
    match recovered {
        Ok(Recovery::Finished(report)) => {
            let (run, serving) = (&report.run, &report.serving);
            if report.outcome != api::Outcome::Held {
                tracing::warn!(%run, took_ms, "WATCHDOG: everything was put back; {serving} serves");
                return true;
            }
            let why = report.error.as_ref().map_or("", |error| error.what.as_str());
            if report.error.as_ref().is_some_and(|e| e.code == api::ErrorCode::Superseded) {
                tracing::error!(%run, took_ms, "WATCHDOG: nothing is left to do here: {why}");
                return true;
            }
            tracing::error!(%run, took_ms, "WATCHDOG: the run is held, clients wait: {why}");
            for note in &report.notes {
                tracing::error!(%run, "WATCHDOG: {note}");
            }
            false
        }
        Ok(Recovery::Left(phase)) => {
            let standing = Standing::read(&told.entries());
            let run = standing.ok().and_then(|standing| standing.unfinished);
            let (run, to) = run
                .map_or(("?".into(), "the new side"), |run| (run.run, run.direction.to().name()));
            let phase = phase.name();
            tracing::warn!(
                run,
                phase,
                took_ms,
                "WATCHDOG: it was decided; {to} serves. Start the sidecar: the rest of the run \
                 needs its streams"
            );
            true
        }
        Ok(Recovery::Nothing | Recovery::CutOver(_)) => true,
        Err(error) => {
            tracing::error!(took_ms, place = error.place, "WATCHDOG: {error}");
            false
        }
    }
}
