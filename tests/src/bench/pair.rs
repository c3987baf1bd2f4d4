//! Blue with a database, and a green server that has it twice: `ours`, fed by the replicator, and
//! `native`, fed by PostgreSQL's own subscription. The second is a file copy of the first, so both
//! begin with the same pages and the same statistics.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::options::Options;
use crate::api::{Api, TOKEN};
use crate::compare::{Content, Sequences};
use crate::paths;
use crate::ports::Port;
use crate::postgres::Postgres;
use crate::process::{Launch, Process};
use crate::scratch::Scratch;
use crate::wait;

/// The database on blue.
pub const BLUE: &str = "bench";
/// The one on green that the replicator feeds.
pub const OURS: &str = "ours";
/// The one on green that a subscription feeds; also the subscription's name and its slot's.
pub const NATIVE: &str = "native";

/// For a step that depends on the size of the data.
pub const LONG: Duration = Duration::from_secs(3600);
/// For one that does not.
pub const SOON: Duration = Duration::from_secs(60);

/// A server of a bench: Debian's memory settings are too small for any of this, and checkpoints
/// come at the same moments for everybody.
pub fn server(major: u32) -> Result<Postgres> {
    Postgres::builder(major)
        .setting("synchronous_commit", "off")
        .setting("shared_buffers", "512MB")
        .setting("maintenance_work_mem", "256MB")
        .setting("max_wal_size", "32GB")
        .setting("checkpoint_timeout", "1h")
        .setting("log_checkpoints", "off")
        .start()
}

/// The two servers and the configuration of the replicator.
#[derive(Debug)]
pub struct Pair {
    pub blue: Postgres,
    pub green: Postgres,
    pub(super) api: Api,
    scratch: Scratch,
    options: Options,
    api_port: Port,
    replicator: PathBuf,
}

impl Pair {
    /// Starts both servers; blue has an empty database.
    pub async fn start(options: &Options) -> Result<Pair> {
        let (blue, green) = (options.blue, options.green);
        let (blue, green) = tokio::try_join!(
            tokio::task::spawn_blocking(move || server(blue)),
            tokio::task::spawn_blocking(move || server(green)),
        )?;
        let (blue, green) = (blue.context("blue")?, green.context("green")?);
        blue.create_database(BLUE).await?;
        let port = Port::reserve()?;
        let scratch = Scratch::new()?;
        // Each database has a state directory of its own; the token is one.
        let api = Api::new(port.number(), scratch.path());
        write_token(&scratch.path().join(TOKEN))?;
        // A copy: a build that ends meanwhile must not change what is measured.
        let replicator = scratch.path().join("replicator");
        std::fs::copy(paths::our_binary("replicator")?, &replicator)
            .context("cannot copy the replicator")?;
        let options = options.clone();
        Ok(Pair { blue, green, api, scratch, options, api_port: port, replicator })
    }

    /// The size and speed of everything.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// A file of this bench.
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Runs statements on blue.
    pub async fn on_blue(&self, sql: &str) -> Result<()> {
        self.blue.execute(BLUE, sql).await
    }

    /// Copies blue's database to both greens and leaves both streams stopped at the same place.
    /// Nothing may write to blue meanwhile.
    pub async fn copy(&mut self) -> Result<()> {
        self.on_blue(
            "CREATE TABLE public.bench_marker (id int PRIMARY KEY, n bigint NOT NULL);
             INSERT INTO public.bench_marker VALUES (1, 0)",
        )
        .await?;
        self.green.create_database(OURS).await?;
        let mut sidecar = self.start_replicator(OURS)?;
        self.wait_status(&mut sidecar, "the first copy", LONG, |status| {
            status["phase"] == "streaming"
                && status["lag"]["seconds"].as_f64().is_some_and(|lag| lag < 1.0)
        })
        .await?;
        stop_replicator(&mut sidecar)?;
        let template = format!("CREATE DATABASE {NATIVE} TEMPLATE {OURS}");
        self.green.execute("postgres", &template).await?;
        self.green.execute(NATIVE, "DROP SCHEMA _cutover CASCADE").await?;
        self.on_blue(&format!("CREATE PUBLICATION {NATIVE} FOR ALL TABLES")).await?;
        let more = match self.options.native.as_str() {
            "" => String::new(),
            more => format!(", {more}"),
        };
        let subscribe = format!(
            "CREATE SUBSCRIPTION {NATIVE} CONNECTION 'host=127.0.0.1 port={} user=postgres \
             dbname={BLUE}' PUBLICATION {NATIVE} WITH (copy_data = false, enabled = false{more})",
            self.blue.port()
        );
        self.green.execute(NATIVE, &subscribe).await
    }

    /// `replicator run` from blue to this database of green.
    pub fn start_replicator(&self, database: &str) -> Result<Process> {
        let config = self.file(&format!("{database}.toml"));
        let text = format!(
            "name = {database:?}\nstate_dir = {:?}\n\n[blue]\nurl = {:?}\n\n[green]\nurl = {:?}\n\n\
             [api]\nlisten = \"127.0.0.1:{}\"\ntoken_file = {:?}\n\n[cutover]\nrouter = \"none\"\n\n{}\n",
            self.file(&format!("state-{database}")),
            self.blue.url(BLUE),
            self.green.url(database),
            self.api_port.number(),
            self.file(TOKEN),
            self.options.config,
        );
        std::fs::write(&config, text).context("cannot write the replicator's configuration")?;
        let launch = self.replicator().arg("run").arg("--config").arg(config);
        launch.start(&self.file("replicator-log"))
    }

    /// The program that is measured.
    pub fn replicator(&self) -> Launch {
        Launch::new(&self.replicator)
    }

    /// The replicator's API.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// What the replicator says about itself; `None` while it does not answer.
    pub fn status(&self) -> Option<Value> {
        self.api.status().ok()
    }

    /// Waits for a status of the replicator, which must not end meanwhile.
    pub async fn wait_status(
        &self,
        sidecar: &mut Process,
        what: &str,
        deadline: Duration,
        ready: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = None;
        let outcome = wait::until(what, deadline, || {
            let found = (|| {
                ensure_running(sidecar)?;
                last = self.status().or(last.take());
                Ok(last.clone().filter(&ready))
            })();
            async { found }
        })
        .await;
        outcome.with_context(|| {
            let status = last.map_or("it never answered".into(), |last| last.to_string());
            format!("the replicator's last status: {status}; its log:\n{}", sidecar.log_tail())
        })
    }

    /// Both servers have written out what they hold and no autovacuum runs: the one that is
    /// measured first has no advantage, and none pays for the other.
    pub async fn settle(&self) -> Result<()> {
        for server in [&self.blue, &self.green] {
            server.execute("postgres", "CHECKPOINT").await?;
            let client = server.connect("postgres").await?;
            let busy = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'";
            wait::until("autovacuum to pause", LONG, || async {
                let found = crate::postgres::rows(&client, busy).await?;
                Ok(found.is_empty().then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// What a database has: [`BLUE`] of blue, any other of green.
    pub async fn content(&self, database: &str) -> Result<Content> {
        let server = if database == BLUE { &self.blue } else { &self.green };
        Content::read(&server.url(database)).await
    }

    /// Fails unless these databases of green are exact copies of blue's; gives the rows of one.
    pub async fn ensure_exact(&self, greens: &[&str]) -> Result<u64> {
        let blue = self.content(BLUE).await?;
        for green in greens {
            let content = self.content(green).await?;
            blue.ensure_equal(&content, Sequences::Ignored)
                .with_context(|| format!("{green} is no exact copy"))?;
        }
        Ok(blue.rows())
    }

    /// After a failure: the replicator's log, in place for a look.
    pub fn keep(&mut self) -> PathBuf {
        self.scratch.keep().to_path_buf()
    }
}

/// Fails with the last words of a process that has ended.
pub(super) fn ensure_running(process: &mut Process) -> Result<()> {
    if let Some(status) = process.ended()? {
        bail!("{} ended with {status}:\n{}", process.name(), process.log_tail());
    }
    Ok(())
}

/// SIGTERM, and an orderly end.
pub fn stop_replicator(sidecar: &mut Process) -> Result<()> {
    ensure_running(sidecar)?;
    sidecar.terminate()?;
    let status = sidecar.wait(SOON)?;
    ensure!(status.success(), "the replicator ended with {status}:\n{}", sidecar.log_tail());
    Ok(())
}

fn write_token(path: &Path) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file.write_all(b"a-token-for-measuring")?)
}
