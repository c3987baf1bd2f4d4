//! The sidecar sees to it that a proxy runs: it finds the one that an earlier sidecar has left, or
//! starts one, and starts another when that dies.
//!
//! A proxy is nobody's child for long: it has a session of its own, writes its log to
//! `proxy.log` in the state directory, and stays when the sidecar ends, whichever way. What would
//! end it with the sidecar is a supervisor that kills everything it can find (systemd's
//! `KillMode=control-group`, a container whose first process the sidecar is): there, run
//! `replicator proxy` as a service of its own, with `cutover.proxy.start = false`.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use cutover::Side;
use cutover::proxy::End;
use cutover::proxy::control::{Answer, Order, VERSION, order};
use tokio::process::{Child, Command};

use super::{Pulse, log};
use crate::cli::PipelineArgs;
use crate::config::Config;

/// Between two looks at a proxy that runs, whoever has started it.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long one that was just started may take to answer.
const START_MAX: Duration = Duration::from_secs(10);
/// Between two looks at it meanwhile.
const START_LOOK: Duration = Duration::from_millis(20);
/// Before one that could not start is tried again; doubles up to the maximum.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(15);
/// An answer takes longer than this only on a machine that is badly overloaded.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What a proxy of this pipeline is started with.
#[derive(Debug, Clone)]
pub struct Keeper {
    control: PathBuf,
    log: PathBuf,
    listen: String,
    /// Blue and green, if their connection strings can be read.
    ends: Option<[End; 2]>,
    /// Else somebody else does, and it is only looked at.
    starts: bool,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, String)>,
    pulse: Pulse,
}

/// Whether somebody answers at the control socket.
enum Found {
    Answer(Box<Answer>),
    /// Somebody is there, but did not answer.
    Mute(String),
    Nobody,
}

impl Keeper {
    /// `None`: no proxy is configured.
    pub fn new(args: &PipelineArgs, config: &Config) -> Option<Self> {
        let proxy = config.cutover.proxy.as_ref()?;
        let mut arguments: Vec<OsString> = vec!["proxy".into(), "--detached".into()];
        let mut give = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
        if let Some(path) = &args.config {
            give("--config", path.into());
        }
        give("--name", config.name.clone().into());
        give("--state-dir", config.state_dir.clone().into());
        give("--client-listen", proxy.listen.to_string().into());
        // Not as arguments: everybody may read those.
        let mut environment = Vec::new();
        for (name, url) in [("CUTOVER_BLUE", &args.blue), ("CUTOVER_GREEN", &args.green)] {
            environment.extend(url.clone().map(|url| (name, url)));
        }
        Some(Self {
            control: proxy.control.clone().unwrap_or_else(|| config.proxy_socket()),
            log: log::path(config),
            listen: proxy.listen.to_string(),
            ends: match (config.blue.login("blue"), config.green.login("green")) {
                (Ok(blue), Ok(green)) => Some([&blue, &green].map(End::of)),
                // Whoever needs them says so.
                _ => None,
            },
            starts: proxy.start,
            arguments,
            environment,
            pulse: Pulse::default(),
        })
    }

    /// Whether the proxy answers, as of its last look.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    async fn look(&self) -> Found {
        match tokio::time::timeout(ANSWER_MAX, order(&self.control, &Order::Status)).await {
            Ok(Ok(answer)) => Found::Answer(Box::new(answer)),
            Ok(Err(error)) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Found::Nobody,
                _ => Found::Mute(error.to_string()),
            },
            Err(_) => Found::Mute(format!("no answer in {ANSWER_MAX:?}")),
        }
    }

    fn start(&self) -> io::Result<Child> {
        let log = log::append(&self.log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        command.spawn()
    }

    /// Waits until the one that was just started answers. `false`: it has ended, or does not.
    async fn answers(&self, child: &mut Child) -> bool {
        let answering = async {
            loop {
                if matches!(self.look().await, Found::Answer(answer) if Some(answer.pid) == child.id())
                {
                    return true;
                }
                match child.try_wait() {
                    Ok(None) => tokio::time::sleep(START_LOOK).await,
                    Ok(Some(status)) => {
                        tracing::warn!(log = %self.log.display(), "the proxy has ended: {status}");
                        return false;
                    }
                    Err(error) => {
                        tracing::warn!("the proxy can't be waited for: {error}");
                        return false;
                    }
                }
            }
        };
        tokio::time::timeout(START_MAX, answering).await.unwrap_or(false)
    }

    /// Looks at it until it has ended. One that is there and does not answer is lost to its clients, too.
    async fn watch(&self, child: &mut Child) -> io::Result<ExitStatus> {
        loop {
            tokio::select! {
                ended = child.wait() => return ended,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            match self.look().await {
                Found::Answer(_) => self.pulse.answers(),
                Found::Mute(why) => {
                    if self.pulse.is_lost() {
                        tracing::warn!("the proxy does not answer: {why}");
                    }
                }
                // Its end is told by itself.
                Found::Nobody => {}
            }
        }
    }

    fn greet(&self, answer: &Answer) {
        tracing::info!(pid = answer.pid, listen = answer.listen, side = %answer.side, "the proxy runs");
        if answer.version != VERSION {
            tracing::error!(
                proxy = answer.version,
                sidecar = VERSION,
                "the proxy that runs takes orders of another version: no cutover can begin; \
                 `replicator proxy --stop`, and one of this version will be started"
            );
        }
        if !answer.listen.is_empty() && answer.listen != self.listen {
            tracing::warn!(
                listen = answer.listen,
                configured = self.listen,
                "the proxy that runs listens elsewhere; `replicator proxy --stop`, and one with \
                 the configuration as it is now will be started"
            );
        }
        for (side, ours) in Side::ALL.into_iter().zip(self.ends.iter().flatten()) {
            if let Some(theirs) = answer.end(side).filter(|theirs| *theirs != ours) {
                tracing::error!(
                    "{side} is {theirs} to the proxy that runs, and {ours} to the configuration: \
                     no cutover can begin; `replicator proxy --stop`, and one with the \
                     configuration as it is now will be started"
                );
            }
        }
    }
}

/// Sees to it, for as long as it is polled.
pub async fn keep(keeper: Keeper) {
    let mut known = None;
    let mut retry = RETRY_FIRST;
    loop {
        match keeper.look().await {
            Found::Answer(answer) => {
                retry = RETRY_FIRST;
                keeper.pulse.answers();
                if known != Some(answer.pid) {
                    known = Some(answer.pid);
                    keeper.greet(&answer);
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
                continue;
            }
            // A second one could not bind anything; this one may come back to its senses.
            Found::Mute(why) => {
                if keeper.pulse.is_lost() {
                    tracing::warn!("the proxy does not answer: {why}");
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
                continue;
            }
            Found::Nobody => {}
        }
        if let Some(pid) = known.take() {
            keeper.pulse.is_lost();
            tracing::error!(pid, "the proxy is gone, and its clients' connections with it");
        }
        if !keeper.starts {
            keeper.pulse.is_lost();
            tokio::time::sleep(LOOK_INTERVAL).await;
            continue;
        }
        match keeper.start() {
            Ok(mut child) => {
                if keeper.answers(&mut child).await {
                    retry = RETRY_FIRST;
                    known = child.id();
                    keeper.pulse.answers();
                    if let Found::Answer(answer) = keeper.look().await {
                        keeper.greet(&answer);
                    }
                    // It has nobody else to be waited for by; only its end is news.
                    match keeper.watch(&mut child).await {
                        Ok(status) => tracing::warn!("the proxy has ended: {status}"),
                        Err(error) => tracing::warn!("the proxy can't be waited for: {error}"),
                    }
                    continue;
                }
            }
            Err(error) => tracing::error!("the proxy can't be started: {error}"),
        }
        keeper.pulse.is_lost();
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY_MAX);
    }
}
