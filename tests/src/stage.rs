//! Everything that a move needs, put together: blue with a database, an empty green, routers in
//! front of blue, and a configuration for the sidecar. Used by the demo and the end-to-end tests.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::api::Api;
use crate::embedded::Embedded;
use crate::pgbouncer::PgBouncer;
use crate::ports::Port;
use crate::postgres::{Postgres, connect_url};
use crate::process::{Finished, Launch, Process};
use crate::proxy::FaultProxy;
use crate::scratch::{Scratch, write_private};
use crate::wait;

/// The database that moves.
pub const DATABASE: &str = "shop";
/// The role of the application: owns the database, is no superuser.
pub const APP: &str = "app";

type ServerTweak = Box<dyn FnOnce(crate::postgres::Builder) -> crate::postgres::Builder>;
type RouterTweak = Box<dyn Fn(crate::pgbouncer::Builder) -> crate::pgbouncer::Builder>;

/// How the stage is set.
pub struct Builder {
    blue: u32,
    green: u32,
    routers: usize,
    embedded: bool,
    proxies: bool,
    blue_tweak: ServerTweak,
    green_tweak: ServerTweak,
    router_tweak: RouterTweak,
    config: String,
    /// Of `CREATE DATABASE` on blue.
    blue_options: &'static str,
}

impl Builder {
    /// How many PgBouncers; none is allowed.
    pub fn routers(mut self, count: usize) -> Builder {
        self.routers = count;
        self
    }

    /// No router is configured: the sidecar serves clients with its own proxy.
    pub fn embedded(mut self) -> Builder {
        self.routers = 0;
        self.embedded = true;
        self
    }

    /// Puts a fault proxy between the sidecar and each database. Routers go to blue directly.
    pub fn proxies(mut self) -> Builder {
        self.proxies = true;
        self
    }

    pub fn blue_setting(mut self, name: &'static str, value: &'static str) -> Builder {
        let before = self.blue_tweak;
        self.blue_tweak = Box::new(move |builder| before(builder).setting(name, value));
        self
    }

    pub fn green_setting(mut self, name: &'static str, value: &'static str) -> Builder {
        let before = self.green_tweak;
        self.green_tweak = Box::new(move |builder| before(builder).setting(name, value));
        self
    }

    /// A line that goes before the others in green's `pg_hba.conf`.
    pub fn green_hba(mut self, line: &'static str) -> Builder {
        let before = self.green_tweak;
        self.green_tweak = Box::new(move |builder| before(builder).hba(line));
        self
    }

    pub fn router_setting(mut self, name: &'static str, value: &'static str) -> Builder {
        let before = self.router_tweak;
        self.router_tweak = Box::new(move |builder| before(builder).setting(name, value));
        self
    }

    /// TOML that goes before everything else in the configuration file: top-level keys, then
    /// sections that the stage does not write itself (`[tables]`, `[copy]`, `[apply]`, `[alerts]`).
    pub fn config(mut self, toml: &str) -> Builder {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// Of `CREATE DATABASE` on blue.
    pub fn blue_options(mut self, sql: &'static str) -> Builder {
        self.blue_options = sql;
        self
    }

    /// Starts the servers and the routers and writes the configuration.
    pub async fn start(self) -> Result<Stage> {
        // Copying data directories and starting takes time on each: do both at once.
        let blue = (self.blue_tweak)(Postgres::builder(self.blue));
        let green = (self.green_tweak)(Postgres::builder(self.green));
        let (blue, green) = tokio::try_join!(
            tokio::task::spawn_blocking(move || blue.start()),
            tokio::task::spawn_blocking(move || green.start()),
        )?;
        let (blue, green) = (blue.context("blue")?, green.context("green")?);
        for (server, options) in [(&blue, self.blue_options), (&green, "")] {
            server.create_role(APP).await?;
            let create = format!("CREATE DATABASE {DATABASE} OWNER {APP} {options}");
            server.execute("postgres", &create).await?;
        }
        let mut routers = Vec::new();
        for _ in 0..self.routers {
            let builder = PgBouncer::builder(&blue, DATABASE).user(APP);
            routers.push((self.router_tweak)(builder).start()?);
        }
        let (blue_proxy, green_proxy) = if self.proxies {
            (Some(FaultProxy::start(blue.port())?), Some(FaultProxy::start(green.port())?))
        } else {
            (None, None)
        };
        let scratch = Scratch::new()?;
        let control = scratch.path().join("state").join("proxy.sock");
        let embedded = self.embedded.then(|| Embedded::at(control)).transpose()?;
        let stage = Stage {
            blue,
            green,
            routers,
            embedded,
            blue_proxy,
            green_proxy,
            api_port: Port::reserve()?,
            scratch,
            extra_config: self.config,
        };
        stage.write_config()?;
        Ok(stage)
    }
}

/// The stage, set. Dropping it stops everything.
#[derive(Debug)]
pub struct Stage {
    pub blue: Postgres,
    pub green: Postgres,
    pub routers: Vec<PgBouncer>,
    /// The sidecar's own proxy, if asked for.
    pub embedded: Option<Embedded>,
    /// Between the sidecar and blue, if asked for.
    pub blue_proxy: Option<FaultProxy>,
    pub green_proxy: Option<FaultProxy>,
    api_port: Port,
    scratch: Scratch,
    extra_config: String,
}

impl Stage {
    pub fn builder(blue: u32, green: u32) -> Builder {
        Builder {
            blue,
            green,
            routers: 1,
            embedded: false,
            proxies: false,
            blue_tweak: Box::new(|builder| builder),
            green_tweak: Box::new(|builder| builder),
            router_tweak: Box::new(|builder| builder),
            config: String::new(),
            blue_options: "",
        }
    }

    /// A directory for this stage's files.
    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    pub fn config_file(&self) -> PathBuf {
        self.path().join("cutover.toml")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.path().join("state")
    }

    pub fn api(&self) -> Api {
        Api::new(self.api_port.number(), self.state_dir())
    }

    /// For the application, through the first router.
    pub fn app_url(&self) -> Result<String> {
        if let Some(embedded) = &self.embedded {
            return Ok(embedded.url_as(APP, DATABASE));
        }
        Ok(self.routers.first().context("this stage has no router")?.url_as(APP))
    }

    /// Runs statements on blue as the application, directly.
    pub async fn on_blue(&self, sql: &str) -> Result<()> {
        let client = connect_url(&self.blue.url_as(APP, DATABASE)).await?;
        client.batch_execute(sql).await.map_err(|error| crate::postgres::describe(&error))
    }

    /// What the sidecar is told to connect to.
    pub fn sidecar_urls(&self) -> (String, String) {
        let through = |server: &Postgres, proxy: &Option<FaultProxy>| {
            let url = server.url(DATABASE);
            proxy.as_ref().map_or(url.clone(), |proxy| proxy.url(&url, server.port()))
        };
        (through(&self.blue, &self.blue_proxy), through(&self.green, &self.green_proxy))
    }

    /// The configuration as it is written for `replicator run --config`.
    pub fn config(&self) -> Result<String> {
        let (blue, green) = self.sidecar_urls();
        let mut text = format!(
            "name = \"{DATABASE}\"\nstate_dir = {:?}\n\n{}\n\
             [blue]\nurl = {blue:?}\n\n[green]\nurl = {green:?}\n\n\
             [api]\nlisten = \"127.0.0.1:{}\"\n",
            self.state_dir(),
            self.extra_config,
            self.api_port.number()
        );
        if self.routers.is_empty() && self.embedded.is_none() && !text.contains("[cutover") {
            // Its proxy would outlive the test, and all tests would want the same port.
            text.push_str("\n[cutover]\nrouter = \"none\"\n");
        }
        for router in &self.routers {
            text.push_str(&format!(
                "\n[[cutover.pgbouncer]]\nadmin = {:?}\nconfig_file = {:?}\ndatabase = {:?}\n\
                 client = {:?}\n",
                router.admin_url(),
                router.config_file(),
                router.database(),
                router.url_as(APP)
            ));
        }
        Ok(text)
    }

    /// Writes the configuration file anew.
    pub fn write_config(&self) -> Result<()> {
        write_private(&self.config_file(), self.config()?).context("cannot write cutover.toml")
    }

    /// `replicator run --config FILE`, as a child.
    pub fn replicator(&self) -> Result<Process> {
        self.replicator_command("run")?.start(&self.path().join("replicator"))
    }

    /// `replicator COMMAND --config FILE`, to add to.
    pub fn replicator_command(&self, command: &str) -> Result<Launch> {
        let launch = Launch::ours("replicator")?.arg(command).arg("--config");
        let launch = launch.arg(self.config_file());
        Ok(match &self.embedded {
            Some(embedded) => {
                launch.env("CUTOVER_CLIENT_LISTEN", format!("127.0.0.1:{}", embedded.port()))
            }
            None => launch,
        })
    }

    /// `cutover --api URL`, to add to.
    pub fn cutover_command(&self) -> Result<Launch> {
        self.api().command()
    }

    /// Runs `cutover --api URL ARGUMENTS` to its end.
    pub fn cutover(&self, arguments: &[&str], deadline: Duration) -> Result<Finished> {
        self.cutover_command()?.args(arguments).run(deadline)
    }

    /// Waits until the sidecar streams with a known lag below this many seconds.
    pub async fn wait_streaming(
        &self,
        sidecar: &mut Process,
        lag_seconds: f64,
        deadline: Duration,
    ) -> Result<Value> {
        self.api().wait_streaming(sidecar, lag_seconds, deadline).await
    }

    /// Waits for a status; a sidecar that ends meanwhile ends the wait, with what it said last.
    pub async fn wait_status(
        &self,
        sidecar: &mut Process,
        what: &str,
        deadline: Duration,
        ready: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        self.api().wait_status(sidecar, what, deadline, ready).await
    }

    /// Waits until every transaction that is committed on blue now is on green, by a row that goes
    /// the same way. Needs nothing from the sidecar's own account of its progress.
    pub async fn wait_caught_up(&self, deadline: Duration) -> Result<()> {
        let token = format!("{:?}", std::time::SystemTime::now());
        let table = "public.stage_marker";
        let update = format!("UPDATE {table} SET token = '{}'", token.replace('\'', ""));
        self.on_blue(&update).await.context("the stage's marker table")?;
        let expected = self.blue.value(DATABASE, &format!("SELECT token FROM {table}")).await?;
        let green = self.green.connect(DATABASE).await?;
        wait::until("the marker row on green", deadline, || async {
            let rows = crate::postgres::rows(&green, &format!("SELECT token FROM {table}")).await?;
            Ok((rows == [[Some(expected.clone())]]).then_some(()))
        })
        .await
    }

    /// The table that [`Stage::wait_caught_up`] writes to. Call it before the sidecar starts.
    pub async fn create_marker(&self) -> Result<()> {
        self.on_blue(
            "CREATE TABLE public.stage_marker (id int PRIMARY KEY, token text);
             INSERT INTO public.stage_marker VALUES (1, '')",
        )
        .await
    }

    /// After a failure: copies every log into one directory, leaves that in place and names it.
    pub fn keep_logs(&mut self) -> Result<PathBuf> {
        let servers = [self.blue.log_path(), self.green.log_path()];
        keep_logs(&mut self.scratch, servers, &self.routers)
    }
}

/// Copies the logs of blue, green and their routers into `scratch`, which stays, and names it.
pub(crate) fn keep_logs(
    scratch: &mut Scratch,
    [blue, green]: [PathBuf; 2],
    routers: &[PgBouncer],
) -> Result<PathBuf> {
    let directory = scratch.keep().to_path_buf();
    let mut logs = vec![(blue, "blue.log".to_owned()), (green, "green.log".to_owned())];
    for (number, router) in routers.iter().enumerate() {
        logs.push((router.log_path(), format!("pgbouncer-{}.log", number + 1)));
    }
    for (from, name) in logs {
        std::fs::copy(&from, directory.join(&name))
            .with_context(|| format!("cannot keep {}", from.display()))?;
    }
    Ok(directory)
}
