//! Two servers with a ledger under load, a router, a sidecar, and whoever starts again what dies.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::deck::{Cast, Router};
use super::links::Links;
use super::marked;
use super::points::Points;
use super::server::{self, Kind, Server};
use crate::api::Api;
use crate::compare::{self, Sequences};
use crate::haproxy::HaProxy;
use crate::ledger::{self, Ledger};
use crate::paths;
use crate::pgbouncer::PgBouncer;
use crate::ports::Port;
use crate::process::{self, Launch, Process};
use crate::proxy::FaultProxy;
use crate::proxysql::ProxySql;
use crate::scratch::{Scratch, write_private};
pub use crate::side::Side;
use crate::stage::{APP, DATABASE};
use crate::wait;

/// For what takes a moment on a machine that does other things, too.
pub const SOON: Duration = Duration::from_secs(60);
/// The state directory's disk, where it can be filled.
const DISK_MB: u32 = 384;
const ACCOUNTS: u32 = 50;
/// Clients that come through the router.
pub const CLIENTS: u32 = 4;
/// Their transactions per second: the more, the more often a fault falls into one.
const RATE: u32 = 200;
/// Between two looks at what has died.
const TICK: Duration = Duration::from_millis(10);

/// All of it. Dropping it ends everything.
pub struct Pair {
    /// Who started them: see [`Cast::pair`].
    number: u64,
    pub router: Router,
    pub sidecar: Option<Process>,
    /// When the sidecar was started last.
    started: Option<Instant>,
    /// When it died, if it is down.
    died: Option<Instant>,
    /// After what time it is started again; `None`: not by the supervisor.
    pub restart_after: Option<Duration>,
    /// How often it died since this was set to 0.
    pub deaths: u32,
    pub embedded: Option<Process>,
    pub routers: Vec<PgBouncer>,
    haproxy: Option<HaProxy>,
    proxysql: Option<ProxySql>,
    pub links: Links,
    pub blue: Server,
    pub green: Server,
    pub points: Points,
    pub mark: String,
    /// Each side's settings before anything was done.
    pub baseline: [String; 2],
    /// Who serves, as last seen.
    pub serving: Side,
    /// Green has served once: it is closed whenever blue serves.
    pub green_has_served: bool,
    /// Its stream does not run any more, as expected.
    pub is_broken: bool,
    /// The state directory has a disk of its own, which can be filled.
    pub has_small_disk: bool,
    /// Errors that clients had seen when they were last looked at.
    pub client_errors: usize,
    /// Runs so far.
    pub runs: u64,
    app_url: String,
    api_port: Port,
    client_port: Option<Port>,
    scratch: Scratch,
    /// Last: its clients end once everybody else is gone.
    pub ledger: Ledger,
}

impl Pair {
    /// Servers, router, load and sidecar, streaming.
    pub async fn start(cast: &Cast) -> Result<Pair> {
        let (blue, green) = tokio::join!(Server::start(cast.blue), Server::start(cast.green));
        let (blue, green) = (blue.context("blue")?, green.context("green")?);
        blue.fill(ACCOUNTS).await.context("filling blue")?;

        let links = Links::new(&blue, &green, cast.router)?;
        let scratch = Scratch::new()?;
        let mut routers = Vec::new();
        if let Router::PgBouncer { members } = cast.router {
            for _ in 0..members {
                let router = PgBouncer::builder_to(links.of_router()[0].port(), DATABASE).user(APP);
                routers.push(router.start()?);
            }
        }
        let client_port = match cast.router {
            Router::Embedded => Some(Port::reserve()?),
            _ => None,
        };
        let [to_blue, to_green] = links.of_router().each_ref().map(FaultProxy::port);
        let haproxy = match cast.router {
            Router::HaProxy => Some(HaProxy::start(to_blue, to_green)?),
            _ => None,
        };
        let proxysql = match cast.router {
            Router::ProxySql => Some(ProxySql::start(to_blue)?),
            _ => None,
        };
        let port = client_port.as_ref().map(Port::number);
        let port = port.or_else(|| routers.first().map(PgBouncer::port));
        let port = port.or_else(|| haproxy.as_ref().map(HaProxy::port));
        let port = port.or_else(|| proxysql.as_ref().map(ProxySql::port));
        let app_url = blue.app_url_at(port.context("a pair without a router")?);
        let state = scratch.path().join("state");
        std::fs::create_dir_all(&state)?;
        let has_small_disk = marked::mount(&state, DISK_MB);
        let points = Points::new(scratch.path().join("failpoints"))?;
        let options = ledger::Options {
            clients: CLIENTS,
            rate: RATE,
            accounts: ACCOUNTS,
            direct: vec![blue.app_url(), green.app_url()],
            log: Some(scratch.path().join("ledger.log")),
            ..ledger::Options::new(app_url.clone())
        };
        let ledger = Ledger::start(options)?;
        let mut pair = Pair {
            number: cast.pair,
            router: cast.router,
            sidecar: None,
            started: None,
            died: None,
            restart_after: None,
            deaths: 0,
            embedded: None,
            routers,
            haproxy,
            proxysql,
            links,
            blue,
            green,
            points,
            mark: marked::of(scratch.path()),
            baseline: [String::new(), String::new()],
            serving: Side::Blue,
            green_has_served: false,
            is_broken: false,
            has_small_disk,
            client_errors: 0,
            runs: 0,
            app_url,
            api_port: Port::reserve()?,
            client_port,
            scratch,
            ledger,
        };
        pair.write_configuration()?;
        pair.start_embedded()?;
        pair.start_sidecar()?;
        pair.ledger.admit(0, true);
        let streaming = pair
            .until("the sidecar to stream", 2 * SOON, |status| {
                status["phase"] == "streaming" && status["lag"]["known"] == true
            })
            .await;
        if let Err(error) = streaming {
            let kept = pair.keep_logs()?;
            return Err(error.context(format!("logs: {}", kept.display())));
        }
        for side in [Side::Blue, Side::Green] {
            pair.baseline[side as usize] = pair.server(side).settings().await?;
        }
        Ok(pair)
    }

    /// Whether a run can have this pair.
    pub fn fits(&self, cast: &Cast) -> bool {
        let is_fresh_enough = self.runs == 0 || !cast.fault.wants_a_fresh_pair();
        let has_router = self.router == cast.router;
        self.number == cast.pair && !self.is_broken && has_router && is_fresh_enough
    }

    /// Where the application connects.
    pub fn app_url(&self) -> &str {
        &self.app_url
    }

    /// The port by which routers reach that side.
    pub fn router_port(&self, side: Side) -> u16 {
        self.links.of_router()[side as usize].port()
    }

    pub fn server(&self, side: Side) -> &Server {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }

    pub fn server_mut(&mut self, side: Side) -> &mut Server {
        match side {
            Side::Blue => &mut self.blue,
            Side::Green => &mut self.green,
        }
    }

    pub fn api(&self) -> Api {
        Api::new(self.api_port.number(), self.state_dir())
    }

    pub fn state_dir(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    pub fn path(&self) -> &std::path::Path {
        self.scratch.path()
    }

    fn config_file(&self) -> PathBuf {
        self.path().join("cutover.toml")
    }

    fn write_configuration(&self) -> Result<()> {
        let url = |server: &Server, proxy: &FaultProxy| server.own_url_at(proxy.port());
        let text = |links: &[FaultProxy; 2], state: &std::path::Path, api: u16| {
            format!(
                "name = \"{DATABASE}\"\nstate_dir = {state:?}\n\n[blue]\nurl = {:?}\n\n[green]\n\
                 url = {:?}\n\n[api]\nlisten = \"127.0.0.1:{api}\"\n",
                url(&self.blue, &links[0]),
                url(&self.green, &links[1]),
            )
        };
        let mut routers = String::new();
        for router in &self.routers {
            routers.push_str(&format!(
                "\n[[cutover.pgbouncer]]\nadmin = {:?}\nconfig_file = {:?}\ndatabase = {:?}\n\
                 client = {:?}\nblue_port = {}\ngreen_port = {}\n",
                router.admin_url(),
                router.config_file(),
                router.database(),
                router.url_as(APP),
                self.links.of_router()[0].port(),
                self.links.of_router()[1].port(),
            ));
        }
        if let Some(haproxy) = &self.haproxy {
            routers.push_str(&format!("\n{}", haproxy.config_for(&self.app_url)));
        }
        if let Some(proxysql) = &self.proxysql {
            let [blue, green] = self.links.of_router().each_ref().map(FaultProxy::port);
            routers.push_str(&format!(
                "\n{}blue = \"127.0.0.1:{blue}\"\ngreen = \"127.0.0.1:{green}\"\n",
                proxysql.config(&self.app_url)
            ));
        }
        if let Some(port) = &self.client_port {
            routers.push_str(&format!(
                "\n[cutover.proxy]\nlisten = \"127.0.0.1:{}\"\ncontrol = {:?}\nclient = {:?}\n\
                 start = false\n",
                port.number(),
                self.path().join("proxy.sock"),
                format!("postgres://{APP}@127.0.0.1:{}/{DATABASE}", port.number()),
            ));
        }
        let api = self.api_port.number();
        let own = text(&self.links.sidecar, &self.state_dir(), api) + &routers;
        write_private(&self.config_file(), own)?;
        // The same pipeline as the router reaches it.
        let routed = text(self.links.of_router(), &self.state_dir(), api) + &routers;
        write_private(&self.path().join("proxy.toml"), routed)?;
        Ok(())
    }

    /// One of our programs, with the mark of this pair.
    pub fn launch(&self, program: &str) -> Result<Launch> {
        // Its pg_dump is looked for where the servers are.
        let launch = Launch::ours(program)?.env("CUTOVER_SERVERS", paths::servers());
        Ok(launch.env(marked::MARK, &self.mark))
    }

    pub fn start_sidecar(&mut self) -> Result<()> {
        let launch = self.launch("replicator")?.arg("run").arg("--config").arg(self.config_file());
        let launch = launch.env("CUTOVER_FAILPOINTS", self.points.directory());
        self.sidecar = Some(launch.start(&self.path().join("replicator"))?);
        self.started = Some(Instant::now());
        self.died = None;
        Ok(())
    }

    /// A second one of the same configuration; with a state directory of its own, if wanted.
    pub fn second_sidecar(&self, elsewhere: bool) -> Result<Process> {
        let mut launch =
            self.launch("replicator")?.arg("run").arg("--config").arg(self.config_file());
        if elsewhere {
            let state = self.path().join(format!("state-{}", self.runs));
            launch = launch.arg("--state-dir").arg(state).args(["--listen", "127.0.0.1:0"]);
        }
        launch.start(&self.path().join("second"))
    }

    pub fn start_embedded(&mut self) -> Result<()> {
        let Some(port) = self.client_port.as_ref().map(Port::number) else { return Ok(()) };
        let launch = self.launch("replicator")?.arg("proxy").arg("--config");
        let launch = launch.arg(self.path().join("proxy.toml"));
        let mut process = launch.start(&self.path().join("proxy"))?;
        wait::until_blocking("the proxy to listen", SOON, || {
            if let Some(status) = process.ended()? {
                bail!("the proxy ended with {status}:\n{}", process.log_tail());
            }
            Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop))
        })?;
        self.embedded = Some(process);
        Ok(())
    }

    /// `kill -9` of the router.
    pub fn kill_router(&mut self) -> Result<()> {
        for router in &mut self.routers {
            router.stop()?;
        }
        if let Some(haproxy) = &mut self.haproxy {
            haproxy.kill()?;
        }
        if let Some(proxysql) = &mut self.proxysql {
            proxysql.kill();
        }
        if let Some(mut process) = self.embedded.take() {
            process.kill9()?;
        }
        Ok(())
    }

    /// Starts what [`Pair::kill_router`] has killed.
    pub fn start_router(&mut self) -> Result<()> {
        for router in &mut self.routers {
            router.start()?;
        }
        if let Some(haproxy) = &mut self.haproxy {
            haproxy.revive()?;
        }
        if let Some(proxysql) = &mut self.proxysql {
            proxysql.revive()?;
        }
        if self.embedded.is_none() {
            self.start_embedded()?;
        }
        Ok(())
    }

    /// What an operator does once it is known who serves: HAProxy is told in its configuration, because
    /// it forgets the rest.
    pub fn serves(&mut self, side: Side) -> Result<()> {
        self.serving = side;
        self.haproxy.as_ref().map_or(Ok(()), |haproxy| haproxy.lead_to(side))
    }

    /// Sees who has died, and starts the sidecar again when it is time.
    pub fn tend(&mut self) -> Result<()> {
        if let Some(sidecar) = &mut self.sidecar
            && sidecar.ended()?.is_some()
        {
            self.sidecar = None;
            self.died = Some(Instant::now());
            self.deaths += 1;
        }
        if let (Some(died), Some(after)) = (self.died, self.restart_after)
            && died.elapsed() >= after
        {
            self.start_sidecar()?;
        }
        Ok(())
    }

    /// When the sidecar died, while it is down.
    pub fn died(&self) -> Option<Instant> {
        self.died
    }

    /// When it was, or will be, started again by the supervisor.
    pub fn starts_at(&self) -> Option<Instant> {
        match self.died {
            Some(died) => self.restart_after.map(|after| died + after),
            None => self.started,
        }
    }

    /// Waits for a while as a supervisor does.
    pub async fn pass(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.tend()?;
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    /// The sidecar's status, if it answers.
    pub fn status(&mut self) -> Option<Value> {
        let runs = self.sidecar.as_mut().is_some_and(Process::is_running);
        if runs { self.api().status().ok() } else { None }
    }

    /// Waits for a status, and meanwhile does what a supervisor does.
    pub async fn until(
        &mut self,
        what: &str,
        deadline: Duration,
        mut ready: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let until = Instant::now() + deadline;
        let mut last = Value::Null;
        loop {
            self.tend()?;
            if self.died.is_some() && self.restart_after.is_none() {
                let log = process::tail(&self.path().join("replicator.err"), 15);
                bail!("the sidecar ended while it was waited for: {what}; its log ends:\n{log}");
            }
            if let Some(status) = self.status() {
                if ready(&status) {
                    return Ok(status);
                }
                last = status;
            }
            ensure!(
                Instant::now() < until,
                "waited {deadline:?} in vain for {what}; the sidecar's last status: {}",
                brief(&last)
            );
            tokio::time::sleep(2 * TICK).await;
        }
    }

    /// Nothing is set to go wrong any more.
    pub fn heal(&mut self) -> Result<()> {
        self.links.heal();
        self.points.clear_all()
    }

    /// Waits until the slot that the other side is fed from has passed everything that is on the
    /// serving side now: the sidecar reports only what is durable over there.
    pub async fn until_carried(&mut self, deadline: Duration) -> Result<()> {
        if !self.blue.kind().is_postgres() {
            return self.until_seen(deadline).await;
        }
        let (server, slot) = (self.serving, self.serving.slot());
        let now = "SELECT pg_current_wal_insert_lsn()";
        let goal = self.server(server).postgres()?.value("postgres", now).await?;
        let passed = format!(
            "SELECT coalesce(bool_or(confirmed_flush_lsn >= '{goal}'), false), \
             coalesce(max(confirmed_flush_lsn::text), 'no such slot') \
             FROM pg_replication_slots WHERE slot_name = '{slot}'"
        );
        let until = Instant::now() + deadline;
        loop {
            self.tend()?;
            let rows = self.server(server).postgres()?.rows("postgres", &passed).await?;
            let seen = rows.first().and_then(|row| row.get(1).cloned().flatten());
            if rows.first().is_some_and(|row| row.first() == Some(&Some("t".into()))) {
                return Ok(());
            }
            if Instant::now() >= until {
                bail!(
                    "what {} wrote does not arrive on the other side: {slot} stands at {}, {goal} \
                     was to be reached; status: {}",
                    server.name(),
                    seen.unwrap_or_default(),
                    self.status().map_or("no answer".into(), |status| brief(&status))
                );
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// The same where no server keeps a log for its reader: a row that is written now is seen there.
    async fn until_seen(&mut self, deadline: Duration) -> Result<()> {
        let (from, to) = (self.serving, self.serving.other());
        let token = format!("{} carries {:?}", from.name(), std::time::SystemTime::now());
        let token = token.replace(['\'', '{', '}'], "");
        let insert = format!("insert into probe values ('{token}')");
        server::run(&self.server(from).own_url(), &insert).await?;
        let count = format!("select count(*) from probe where token = '{token}'");
        let until = Instant::now() + deadline;
        while server::value(&self.server(to).own_url(), &count).await? != "1" {
            self.tend()?;
            if Instant::now() >= until {
                bail!(
                    "what {} wrote does not arrive on the other side; status: {}",
                    from.name(),
                    self.status().map_or("no answer".into(), |status| brief(&status))
                );
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    /// Ends the sidecar in order, opens the closed side and compares everything.
    pub async fn ensure_sides_equal(&mut self) -> Result<()> {
        self.ledger.rest(SOON).await?;
        self.until_carried(2 * SOON).await?;
        if let Some(mut sidecar) = self.sidecar.take() {
            sidecar.terminate()?;
            sidecar.wait(SOON)?;
        }
        if !self.blue.kind().is_postgres() {
            let (blue, green) = (self.blue.contents().await?, self.green.contents().await?);
            ensure!(blue == green, "blue has {blue}; green has {green}");
            return Ok(());
        }
        let closed = self.server(self.serving.other());
        let open = format!("ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS true");
        closed.postgres()?.execute("postgres", &open).await?;
        let (blue, green) = (self.blue.own_url(), self.green.own_url());
        compare::ensure_equal(&blue, &green, Sequences::Ignored).await?;
        Ok(())
    }

    /// For messages: `13 -> 17 through pgbouncer x2`.
    pub fn describe(&self) -> String {
        describe(self.blue.kind(), self.green.kind(), self.router)
    }

    /// After a failure: copies every log into one directory, leaves that in place and names it.
    pub fn keep_logs(&mut self) -> Result<PathBuf> {
        let servers = [self.blue.log_path(), self.green.log_path()];
        crate::stage::keep_logs(&mut self.scratch, servers, &self.routers)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.sidecar = None;
        self.embedded = None;
        marked::kill(&self.mark);
        if self.has_small_disk {
            marked::unmount(&self.state_dir());
        }
    }
}

pub fn describe(blue: Kind, green: Kind, router: Router) -> String {
    let router = match router {
        Router::PgBouncer { members } => format!("pgbouncer x{members}"),
        Router::Embedded => "embedded proxy".into(),
        Router::HaProxy => "haproxy".into(),
        Router::ProxySql => "proxysql's stand-in".into(),
    };
    format!("{} -> {} through {router}", blue.name(), green.name())
}

/// What of a status says how it stands.
pub fn brief(status: &Value) -> String {
    let run = &status["cutover"];
    let parts = [
        ("phase", &status["phase"]),
        ("waiting for", &status["waiting_for"]),
        ("lag known", &status["lag"]["known"]),
        ("last error", &status["last_error"]),
        ("run's phase", &run["phase"]),
        ("run waits for", &run["waiting_for"]),
        ("outcome", &run["report"]["outcome"]),
        ("error", &run["report"]["error"]),
    ];
    let shown = parts.iter().filter(|(_, value)| !value.is_null());
    shown.map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join(", ")
}
