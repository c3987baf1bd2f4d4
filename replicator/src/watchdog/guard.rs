//! The sidecar's end of the pipe: starts the watchdog, tells it everything, and starts another one
//! when it has died.

use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cutover::ports::{Entry, PortError, PortResult};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use super::protocol::{Hello, Line, READY};
use super::{BEAT, LEASE};

/// The longest that a new watchdog may take to listen.
const START_MAX: Duration = Duration::from_secs(5);
/// One that does not take a line within this time is as good as dead.
const SAY_MAX: Duration = Duration::from_millis(500);
/// One that was told that the run is over may take so long to end.
const END_MAX: Duration = Duration::from_secs(1);
/// Pause before another one is started in the place of one that could not be.
const RETRY: Duration = Duration::from_secs(1);

/// The watchdog as the sidecar has it. Clones are the same one. When the last is dropped while a
/// run is under way, the watchdog takes the sidecar for dead, and acts.
#[derive(Clone)]
pub struct Guard {
    orders: mpsc::Sender<Order>,
    heard: Heard,
}

/// What the watchdog thinks of us.
type Heard = Arc<Mutex<Standing>>;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Standing {
    /// No watchdog runs, so none acts either.
    #[default]
    Alone,
    /// It was told at this moment that we live.
    Heard(Instant),
    /// It may have taken us for dead: whatever is said now comes too late. For the rest of the run.
    Lost,
}

impl Standing {
    fn left(self) -> Duration {
        match self {
            Standing::Alone => Duration::MAX,
            Standing::Heard(at) => LEASE.saturating_sub(at.elapsed()),
            Standing::Lost => Duration::ZERO,
        }
    }

    /// It was told, or a successor was, at this moment.
    fn told(&mut self, at: Instant) {
        if !self.left().is_zero() {
            *self = Standing::Heard(at);
        } else {
            *self = Standing::Lost;
        }
    }
}

enum Order {
    Watch(Vec<Entry>, oneshot::Sender<PortResult<()>>),
    Tell(Box<Entry>, oneshot::Sender<()>),
    Over(oneshot::Sender<()>),
}

fn lock(heard: &Heard) -> MutexGuard<'_, Standing> {
    // Every change is one assignment.
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guard {
    /// Starts nothing yet.
    ///
    /// # Errors
    /// What can't be put into words: none of ours.
    pub fn new(hello: Hello) -> PortResult<Guard> {
        let (orders, received) = mpsc::channel(16);
        let heard = Heard::default();
        let hello = written(&Line::Hello(Box::new(hello)))?;
        let keeper = Keeper {
            hello,
            told: Vec::new(),
            running: None,
            is_wanted: false,
            failed: None,
            heard: Arc::clone(&heard),
        };
        // A task of its own: what is half-said when its asker gives up must still be said whole.
        tokio::spawn(keeper.keep(received));
        Ok(Guard { orders, heard })
    }

    /// A run is about to touch clients: starts a watchdog that knows the journal so far, and
    /// returns when it listens.
    ///
    /// # Errors
    /// It can't be started; the run must not go on.
    pub async fn watch(&self, entries: Vec<Entry>) -> PortResult<()> {
        self.ask(|answer| Order::Watch(entries, answer)).await.unwrap_or_else(|| {
            Err(PortError::new("watchdog", "the sidecar is ending")
                .remedy("start it again: replicator run"))
        })
    }

    /// Tells the watchdog an entry, if one is wanted. Returns when it is in its pipe, or when
    /// there is no watchdog and none can be started: that was logged then.
    pub async fn tell(&self, entry: &Entry) {
        let entry = Box::new(entry.clone());
        self.ask(|answer| Order::Tell(entry, answer)).await;
    }

    /// The run is over. Returns when the watchdog was told.
    pub async fn over(&self) {
        self.ask(Order::Over).await;
    }

    /// How long the watchdog certainly does not act.
    pub fn left(&self) -> Duration {
        lock(&self.heard).left()
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).await.ok()?;
        answered.await.ok()
    }
}

fn written(line: &Line) -> PortResult<String> {
    line.write().map_err(|error| {
        PortError::new("watchdog", format!("it can't be told: {error}")).caused_by(error)
    })
}

/// Owns the process and its pipe.
struct Keeper {
    hello: String,
    /// Everything it was told since its run began: for its successor.
    told: Vec<String>,
    running: Option<Running>,
    is_wanted: bool,
    /// When the last try to start one failed.
    failed: Option<Instant>,
    heard: Heard,
}

struct Running {
    child: Child,
    pipe: ChildStdin,
}

impl Keeper {
    async fn keep(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(order) => self.carry_out(order).await,
                    None => return,
                },
                _ = beat.tick(), if self.is_wanted => self.say(&Line::Beat).await,
            }
        }
    }

    /// Whoever asked may have gone: what was asked for is done all the same.
    async fn carry_out(&mut self, order: Order) {
        match order {
            Order::Watch(entries, answer) => {
                let _nobody_waits = answer.send(self.watch(entries).await);
            }
            Order::Tell(entry, answer) => {
                if self.is_wanted {
                    self.say(&Line::Entry(entry)).await;
                }
                let _nobody_waits = answer.send(());
            }
            Order::Over(answer) => {
                self.over().await;
                let _nobody_waits = answer.send(());
            }
        }
    }

    async fn watch(&mut self, entries: Vec<Entry>) -> PortResult<()> {
        self.over().await;
        for entry in entries {
            self.told.push(written(&Line::Entry(Box::new(entry)))?);
        }
        let started = self.start().await;
        self.is_wanted = started.is_ok();
        started
    }

    async fn over(&mut self) {
        self.is_wanted = false;
        self.told.clear();
        self.failed = None;
        if let Some(running) = self.running.take() {
            running.leave().await;
        }
        *lock(&self.heard) = Standing::Alone;
    }

    /// What one that has died may have done: one that has ended by itself has acted.
    fn lost(&self, how: &Ended) {
        let mut standing = lock(&self.heard);
        *standing = match standing.left().is_zero() || how.is_in_order {
            true => Standing::Lost,
            false => Standing::Alone,
        };
    }

    /// Says a line, to a new watchdog if the old one has died.
    async fn say(&mut self, line: &Line) {
        let text = match line.write() {
            Ok(text) => text,
            Err(error) => return tracing::error!("the watchdog can't be told: {error}"),
        };
        if matches!(line, Line::Entry(_)) {
            self.told.push(text.clone());
        }
        let sent = Instant::now();
        if let Some(running) = &mut self.running {
            if running.write(&text).await {
                lock(&self.heard).told(sent);
                return;
            }
            if let Some(mut running) = self.running.take() {
                let how = running.end().await;
                self.lost(&how);
                tracing::warn!(
                    "the watchdog has ended ({}); another one takes its place",
                    how.text
                );
            }
        }
        let waits = self.failed.is_some_and(|failed| failed.elapsed() < RETRY);
        if waits && matches!(line, Line::Beat) {
            return;
        }
        if let Err(error) = self.start().await {
            self.failed = Some(Instant::now());
            tracing::error!(
                "NO WATCHDOG: {error}. The run goes on; if the sidecar dies now, clients wait until \
                 it runs again"
            );
        }
    }

    /// Starts one, and tells it everything.
    async fn start(&mut self) -> PortResult<()> {
        let failed = |doing: &str, error: &dyn std::fmt::Display| {
            PortError::new("watchdog", format!("it can't be started: {doing}: {error}"))
                .remedy("is there memory and room for one more process (ulimit -u)?")
        };
        let mut child = command().spawn().map_err(|error| failed("spawn", &error))?;
        let (pipe, answers) = match (child.stdin.take(), child.stdout.take()) {
            (Some(pipe), Some(answers)) => (pipe, answers),
            _ => return Err(failed("spawn", &"it has no pipes")),
        };
        // Only now can it take us for silent: it has heard nothing yet.
        let sent = Instant::now();
        let mut running = Running { child, pipe };
        let starting = async {
            let everything: String =
                std::iter::once(&self.hello).chain(&self.told).cloned().collect();
            running.pipe.write_all(everything.as_bytes()).await?;
            let mut answer = String::new();
            BufReader::new(answers).read_line(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let started = match tokio::time::timeout(START_MAX, starting).await {
            Ok(Ok(answer)) if answer.trim_end() == READY => Ok(()),
            Ok(Ok(_)) => Err(failed("its log says why", &"it has ended")),
            Ok(Err(error)) => Err(failed("telling it", &error)),
            Err(_) => Err(failed("telling it", &"no answer in time")),
        };
        match started {
            Ok(()) => {
                lock(&self.heard).told(sent);
                tracing::info!(pid = running.child.id(), "a watchdog listens");
                self.running = Some(running);
                self.failed = None;
                Ok(())
            }
            Err(error) => {
                running.end().await;
                Err(error)
            }
        }
    }
}

impl Running {
    /// Whether it took the line. If not, the pipe is of no use any more: a part may be in it.
    async fn write(&mut self, text: &str) -> bool {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return false;
        }
        let written = tokio::time::timeout(SAY_MAX, self.pipe.write_all(text.as_bytes())).await;
        matches!(written, Ok(Ok(())))
    }

    /// Its run is over; it is gone when this returns.
    async fn leave(mut self) {
        let told = match Line::Over.write() {
            Ok(over) => self.write(&over).await,
            Err(_) => false,
        };
        let is_gone = told && tokio::time::timeout(END_MAX, self.child.wait()).await.is_ok();
        if !is_gone {
            // It may have taken us for dead at the end, and be acting still.
            let how = self.end().await;
            tracing::warn!("the watchdog did not end with the run; it was ended: {}", how.text);
        }
    }

    /// Ends it *before* its pipe is closed, or it would take us for dead; says how it ended.
    async fn end(&mut self) -> Ended {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Ended { is_in_order: status.success(), text: status.to_string() };
        }
        let killed = |text: String| Ended { is_in_order: false, text };
        if let Err(error) = self.child.start_kill() {
            return killed(format!("it can't be killed: {error}"));
        }
        match tokio::time::timeout(SAY_MAX, self.child.wait()).await {
            Ok(Ok(status)) => killed(format!("it took no more lines, {status}")),
            Ok(Err(error)) => killed(error.to_string()),
            Err(_) => killed("it took no more lines and does not end".into()),
        }
    }
}

/// How a watchdog has ended.
struct Ended {
    /// By itself, without an error.
    is_in_order: bool,
    text: String,
}

/// `replicator watchdog`, the very program that runs here even if its file was replaced.
fn command() -> Command {
    let own = std::path::Path::new("/proc/self/exe");
    let program = match std::env::current_exe() {
        _ if own.exists() => own.to_path_buf(),
        Ok(path) => path,
        Err(_) => "replicator".into(),
    };
    let mut command = Command::new(program);
    command
        .arg0("replicator")
        .arg("watchdog")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    // What a test wants this process to stumble over is not meant for that one.
    if let Some(directory) = std::env::var_os("CUTOVER_FAILPOINTS") {
        let directory = std::path::Path::new(&directory).join("watchdog");
        match directory.is_dir() {
            true => command.env("CUTOVER_FAILPOINTS", directory),
            false => command.env_remove("CUTOVER_FAILPOINTS"),
        };
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_too_late_does_not_count() {
        let mut standing = Standing::default();
        assert_eq!(standing.left(), Duration::MAX);
        let now = Instant::now();
        standing.told(now);
        assert!(standing.left() > LEASE / 2);
        // Stopped for a while.
        standing = Standing::Heard(now - LEASE);
        assert_eq!(standing.left(), Duration::ZERO);
        standing.told(now);
        assert_eq!(standing, Standing::Lost, "the watchdog may be acting by now");
        standing.told(Instant::now());
        assert_eq!(standing.left(), Duration::ZERO);
    }
}
