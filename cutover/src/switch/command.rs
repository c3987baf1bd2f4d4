//! The operator's own commands as a traffic switch.
//!
//! Each is a program with arguments, no shell, in a process group of its own that is killed at
//! the deadline. What it has to know is in its environment:
//!
//! | Variable | Meaning |
//! |---|---|
//! | `CUTOVER_PHASE` | `hold`, `switch`, `release` or `verify` |
//! | `CUTOVER_EPOCH` | the run's number |
//! | `CUTOVER_KEY` | the same for each repetition of one act: `EPOCH.PHASE` |
//! | `CUTOVER_DEADLINE_MS` | how long it may take |
//! | `CUTOVER_DIRECTION` | `forward` in a cutover, `back` in a rollback |
//! | `CUTOVER_FROM_HOST`, `_PORT`, `_DATABASE` | the side that is closed: blue in a cutover |
//! | `CUTOVER_TO_HOST`, `_PORT`, `_DATABASE` | the side that opens: green in a cutover |
//!
//! Of our own environment they get `PATH`, `HOME`, `LANG`, `LC_ALL`, `TZ` and `TMPDIR`, and what `pass_environment`
//! names; never what may hold a password to a database. Files that they make are for their own user only, unless
//! they set another umask.
//!
//! The same programs and arguments serve both directions, so where to lead has to be taken from
//! `CUTOVER_TO_*`: a side that is named in the arguments is the wrong one in a rollback.
//!
//! A release before the point of no return leads to the side that is not closed after all.
//!
//! `verify` may object, by a status other than 0. That clients reach the right side is seen only
//! through `client`, which every report calls `verified` for.
//!
//! A status other than 0 before the point of no return aborts the run; after it the command is
//! run again until it succeeds or the run is held.

use std::ffi::OsString;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::Instant;

use super::config::{CommandConfig, SwitchConfigError};
use super::place::{Course, Place, Places, leading_to};
use super::{identity, those_that_did};
use crate::api::{Act, Check, Member};
use crate::evidence::Committed;
use crate::login::Login;
use crate::ports::{Epoch, Moves, PortError, PortResult, SwitchActs, SwitchTraits, TrafficSwitch};
use crate::side::{Direction, Side};
use crate::sql::soon;

const ROUTER: &str = "router command";
/// What a command gets of our own environment.
const PASSED: [&str; 6] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"];
/// What it never gets, whatever the configuration says.
const WITHHELD: [&str; 5] =
    ["CUTOVER_BLUE", "CUTOVER_GREEN", "PGPASSWORD", "MYSQL_PWD", "CUTOVER_API_TOKEN"];
/// Bytes of output that are kept for an error or the report.
const OUTPUT_MAX: u64 = 4096;

/// Runs the operator's commands.
pub struct CommandSwitch {
    config: CommandConfig,
    client: Option<Login>,
    ends: [Login; 2],
    places: Places,
    /// The direction of the run that was armed last, for what comes without a proof.
    armed: Mutex<Direction>,
    course: Course,
}

fn environment_of(place: &Place, names: [&'static str; 3]) -> Vec<(&'static str, String)> {
    let mut environment = vec![(names[2], place.database.clone())];
    if let Some((host, port)) = &place.address {
        environment.extend([(names[0], host.clone()), (names[1], port.to_string())]);
    }
    environment
}

impl CommandSwitch {
    /// From the configuration.
    ///
    /// # Errors
    /// The client's connection string can't be read.
    pub fn new(
        config: CommandConfig,
        blue: &Login,
        green: &Login,
    ) -> Result<Self, SwitchConfigError> {
        let client =
            config.client.as_deref().map(|client| Login::of_client(client, blue)).transpose();
        let client = client
            .map_err(|error| SwitchConfigError(format!("cutover.command.client: {error}")))?;
        let places = Places::new(blue, green);
        let ends = [blue.clone(), green.clone()];
        let (armed, course) = (Mutex::default(), Course::default());
        Ok(Self { config, client, ends, places, armed, course })
    }

    fn end(&self, side: Side) -> &Login {
        &self.ends[usize::from(side == Side::Green)]
    }

    fn armed(&self) -> Direction {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What of our own environment a command gets.
    fn passed(&self) -> impl Iterator<Item = (&str, OsString)> {
        let names =
            PASSED.into_iter().chain(self.config.pass_environment.iter().map(String::as_str));
        let names = names.filter(|name| !WITHHELD.contains(name));
        names.filter_map(|name| Some((name, std::env::var_os(name)?)))
    }

    fn environment(&self, direction: Direction) -> Vec<(&'static str, String)> {
        let (from, to) = self.places.of(direction);
        let from_names = ["CUTOVER_FROM_HOST", "CUTOVER_FROM_PORT", "CUTOVER_FROM_DATABASE"];
        let to_names = ["CUTOVER_TO_HOST", "CUTOVER_TO_PORT", "CUTOVER_TO_DATABASE"];
        let mut environment = environment_of(from, from_names);
        environment.extend(environment_of(to, to_names));
        environment.push(("CUTOVER_DIRECTION", direction.name().to_owned()));
        environment
    }

    async fn run(
        &self,
        phase: &'static str,
        argv: &[String],
        direction: Direction,
        epoch: Epoch,
        deadline: Instant,
    ) -> PortResult<String> {
        let [program, arguments @ ..] = argv else { return Ok(String::new()) };
        let left = deadline.saturating_duration_since(Instant::now());
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(self.passed())
            .envs(self.environment(direction))
            .env("CUTOVER_PHASE", phase)
            .env("CUTOVER_EPOCH", epoch.to_string())
            .env("CUTOVER_KEY", format!("{epoch}.{phase}"))
            .env("CUTOVER_DEADLINE_MS", left.as_millis().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| {
            PortError::new(ROUTER, format!("{phase}: {program} can't be started: {error}"))
        })?;
        // Kills what the command has started, too, however this function is left.
        let mut group = Group(child.id());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let running = async {
            let (out, err, status) =
                tokio::join!(read_some(stdout), read_some(stderr), child.wait());
            status.map(|status| (status, out, err))
        };
        let (status, out, err) = match tokio::time::timeout_at(deadline, running).await {
            Ok(finished) => finished
                .map_err(|error| PortError::new(ROUTER, format!("{phase}: {program}: {error}")))?,
            Err(_) => {
                return Err(PortError::new(
                    ROUTER,
                    format!("{phase}: {program} did not end in time and was killed"),
                ));
            }
        };
        group.0 = None;
        if status.success() {
            return Ok(out);
        }
        let said = if err.is_empty() { out } else { err };
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        Err(PortError::new(ROUTER, format!("{phase}: {program} failed ({status}){said}")))
    }

    /// One that was told to lead to `to`; what came of it is not known.
    fn member(&self, to: Side, evidence: String) -> Member {
        let (member, target) = (ROUTER.to_owned(), to.name().into());
        Member { member, target, verified: false, evidence }
    }

    fn act(&self, step: &str, argv: &[String]) -> Vec<Act> {
        if argv.is_empty() {
            return Vec::new();
        }
        vec![Act { step: step.into(), place: ROUTER.into(), text: argv.join(" ") }]
    }
}

/// A process group that is killed when it is dropped.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let Some(id) = self.0.and_then(|id| i32::try_from(id).ok()) else { return };
        if let Err(error) = killpg(Pid::from_raw(id), Signal::SIGKILL) {
            tracing::debug!("the command's process group can't be killed: {error}");
        }
    }
}

/// The beginning of the output, on one line; the rest is read and forgotten.
async fn read_some(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut bytes = Vec::new();
    let head = (&mut stream).take(OUTPUT_MAX).read_to_end(&mut bytes).await;
    let rest = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    if let Err(error) = head.and(rest.map(|_| 0)) {
        tracing::debug!("the command's output can't be read: {error}");
    }
    String::from_utf8_lossy(&bytes).split_whitespace().collect::<Vec<_>>().join(" ")
}

impl TrafficSwitch for CommandSwitch {
    fn traits(&self) -> SwitchTraits {
        let holds = !self.config.hold.is_empty();
        SwitchTraits { holds, moves: Moves::ByReconnect, members: 1 }
    }

    async fn inspect(&self, from: Side, _max_pause: Duration) -> PortResult<Vec<Check>> {
        let mut checks = Vec::new();
        if self.config.hold.is_empty() {
            checks.push(Check::warn(
                "router-hold",
                "there is no command that makes clients wait: they get errors in the pause",
                "set cutover.command.hold",
            ));
        } else if self.config.release.is_empty() {
            checks.push(Check::fail(
                "router-release",
                "clients are held by a command, and no command lets them go on",
                "set cutover.command.release",
            ));
        }
        if let Some(client) = &self.client {
            let serving = identity::of_side(self.end(from), from, soon()).await?;
            match identity::through(client, "cutover probe", soon()).await {
                Ok(reached) if reached == serving => checks
                    .push(Check::ok("router-probe", format!("leads to {from}, {}", reached.shown))),
                Ok(reached) => checks.push(Check::fail(
                    "router-probe",
                    format!("the router does not lead to {from} but to {}", reached.shown),
                    format!("name the router that {from}'s clients use"),
                )),
                Err(error) => checks.push(Check::fail(
                    "router-probe",
                    error.text,
                    "set cutover.command.client to what a client would use",
                )),
            }
        } else {
            let what = match self.config.verify.is_empty() {
                true => "nothing shows which side clients reach afterwards",
                false => {
                    "which side clients reach afterwards is what the `verify` command says, and \
                     not looked at"
                }
            };
            let fix = "set cutover.command.client to what a client would use";
            checks.push(Check::warn("router-verify", what, fix));
        }
        if checks.is_empty() {
            checks.push(Check::ok("router", "commands are configured"));
        }
        Ok(checks)
    }

    async fn arm(&self, to: Side, _deadline: Instant) -> PortResult<()> {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = leading_to(to);
        Ok(())
    }

    async fn hold(&self, epoch: Epoch, deadline: Instant) -> PortResult<String> {
        let said = self.run("hold", &self.config.hold, self.armed(), epoch, deadline).await?;
        Ok(if said.is_empty() { "held by command".into() } else { said })
    }

    /// What the operator's command does can't be looked up.
    async fn holding(&self, _epoch: Epoch, _deadline: Instant) -> PortResult<bool> {
        Ok(true)
    }

    async fn switch(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        let (direction, epoch) = (leading_to(proof.to()), proof.epoch());
        if self.course.is_open(epoch) {
            return Ok(vec![self.member(proof.to(), "switched before".into())]);
        }
        let evidence = self.run("switch", &self.config.switch, direction, epoch, deadline).await?;
        self.course.switched(epoch);
        Ok(vec![self.member(proof.to(), evidence)])
    }

    async fn open_switched(&self, proof: &Committed, deadline: Instant) -> Vec<Member> {
        let epoch = proof.epoch();
        let opened = async {
            if !self.course.is_switched(epoch) {
                return Ok(None);
            }
            if !self.course.is_open(epoch) {
                self.release(epoch, deadline).await?;
                self.course.opened(epoch);
            }
            Ok(Some(self.member(proof.to(), "switched".into())))
        };
        those_that_did(vec![opened.await])
    }

    async fn release(&self, epoch: Epoch, deadline: Instant) -> PortResult<()> {
        let release = &self.config.release;
        self.run("release", release, self.armed(), epoch, deadline).await.map(|_| ())
    }

    async fn verify(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        let (direction, epoch) = (leading_to(proof.to()), proof.epoch());
        let evidence = self.run("verify", &self.config.verify, direction, epoch, deadline).await?;
        if let Some(client) = &self.client {
            let to = proof.to();
            let member = identity::verified(client, ROUTER, self.end(to), to, deadline).await?;
            return Ok(vec![member]);
        }
        // A status is no evidence: a command that looks at nothing ends with 0, too.
        let evidence = match self.config.verify.is_empty() {
            true => "not looked at".to_owned(),
            false => format!("`verify` ended with 0 {evidence}").trim_end().to_owned(),
        };
        Ok(vec![self.member(proof.to(), evidence)])
    }

    fn name(&self) -> String {
        "command".into()
    }

    fn describe(&self, _to: Side) -> SwitchActs {
        SwitchActs {
            hold: self.act("quiesce", &self.config.hold),
            switch: self.act("flip", &self.config.switch),
            release: self.act("open", &self.config.release),
            verify: self.act("open", &self.config.verify),
        }
    }
}
