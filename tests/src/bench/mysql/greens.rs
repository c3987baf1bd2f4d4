//! The three servers: filling them, and the replica's own statements.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Versions;
use crate::api::Api;
use crate::bench::options::Options;
use crate::bench::pair::{LONG, stop_replicator};
use crate::mysql::Mysql;
use crate::paths;
use crate::ports::Port;
use crate::process::{Launch, Process};
use crate::scratch::{Scratch, write_private};
use crate::wait;

/// The database that is copied.
pub const DATABASE: &str = "bench";
/// Everybody's account, the replica's too; its password is its name.
const USER: &str = "mover";
/// What is our own stays where it is.
const IGNORED: &str = "--replicate-wild-ignore-table=\\_cutover.%";

/// Of all servers. As in the harness for PostgreSQL: memory enough, and no figure depends on the disk. A
/// replica keeps a binlog of what it applies, as everybody who writes to the other green does.
const SETTINGS: [&str; 4] = [
    "--innodb-buffer-pool-size=512M",
    "--innodb-flush-log-at-trx-commit=0",
    "--sync-binlog=0",
    "--max-connections=100",
];

/// Of all servers, by engine.
fn settings(is_mariadb: bool) -> Vec<&'static str> {
    let own: &[&str] = match is_mariadb {
        true => &["--innodb-log-file-size=2G", "--log-slave-updates=ON", "--skip-slave-start"],
        false => &["--innodb-redo-log-capacity=2G", "--skip-replica-start"],
    };
    SETTINGS.iter().chain(own).copied().collect()
}

/// Blue and both greens.
#[derive(Debug)]
pub struct Greens {
    pub blue: Mysql,
    pub ours: Mysql,
    /// `None` before the first copy.
    native: Option<Mysql>,
    pub api: Api,
    options: Options,
    api_port: Port,
    scratch: Scratch,
    replicator: PathBuf,
}

impl Greens {
    /// Starts blue, with an empty database, and the green that the replicator feeds.
    pub fn start(options: &Options, versions: Versions) -> Result<Greens> {
        let settings = settings(versions.0.is_mariadb());
        let blue = Mysql::start(versions.0, &settings).context("blue")?;
        let ours = Mysql::start(versions.1, &settings).context("green")?;
        for server in [&blue, &ours] {
            server.run(&format!(
                "create user '{USER}'@'%' identified by '{USER}'; grant all on *.* to '{USER}'@'%';"
            ))?;
        }
        blue.run(&format!("create database {DATABASE}"))?;
        let (scratch, api_port) = (Scratch::new()?, Port::reserve()?);
        let api = Api::new(api_port.number(), scratch.path().join("state"));
        // A copy: a build that ends meanwhile must not change what is measured.
        let replicator = scratch.path().join("replicator");
        std::fs::copy(paths::our_binary("replicator")?, &replicator)
            .context("cannot copy the replicator")?;
        let options = options.clone();
        Ok(Greens { blue, ours, native: None, api, options, api_port, scratch, replicator })
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// A URL of this server's database, for our own clients.
    pub fn url(&self, server: &Mysql) -> String {
        format!("mysql://{USER}:{USER}@127.0.0.1:{}/{DATABASE}", server.port())
    }

    pub fn native(&self) -> Result<&Mysql> {
        self.native.as_ref().context("the replica is not there yet")
    }

    /// `replicator run` from blue to our green.
    pub fn start_replicator(&self) -> Result<Process> {
        let config = self.scratch.path().join("cutover.toml");
        let scheme = if self.blue.version().is_mariadb() { "mariadb" } else { "mysql" };
        let url = |server: &Mysql| {
            format!("{scheme}://{USER}:{USER}@127.0.0.1:{}/{DATABASE}", server.port())
        };
        let text = format!(
            "name = {DATABASE:?}\nstate_dir = {:?}\n\n[blue]\nurl = {:?}\n\n[green]\nurl = {:?}\n\n\
             [api]\nlisten = \"127.0.0.1:{}\"\n\n[cutover]\nrouter = \"none\"\n\n{}\n",
            self.scratch.path().join("state"),
            url(&self.blue),
            url(&self.ours),
            self.api_port.number(),
            self.options.config,
        );
        write_private(&config, text).context("cannot write the replicator's configuration")?;
        let launch = Launch::new(&self.replicator).args(["run", "--config"]).arg(config);
        launch.start(&self.scratch.path().join("replicator-log"))
    }

    /// Copies blue to both greens, and leaves both streams stopped at the same place. Nothing may write to
    /// blue's database meanwhile.
    pub async fn copy(&mut self) -> Result<()> {
        let mut sidecar = self.start_replicator()?;
        self.api.wait_streaming(&mut sidecar, 1.0, LONG).await?;
        stop_replicator(&mut sidecar)?;
        self.ours.stop()?;
        let mut settings = settings(self.blue.version().is_mariadb());
        settings.push(IGNORED);
        let native = self.ours.copy(&settings).context("the replica")?;
        self.ours.start_again()?;
        native.run(&self.attachment()?).context("attaching the replica")?;
        self.native = Some(native);
        Ok(())
    }

    /// Statements that make a copy of our green a replica of blue, from where blue stands.
    fn attachment(&self) -> Result<String> {
        let (port, more) = (self.blue.port(), &self.options.native);
        let more = if more.is_empty() { String::new() } else { format!("{more};") };
        if self.blue.version().is_mariadb() {
            let position = self.blue.value("select @@gtid_binlog_pos")?;
            return Ok(format!(
                "reset master; set global gtid_slave_pos = '{position}';
                 set global slave_parallel_threads = 4;
                 set global slave_parallel_mode = 'optimistic';
                 change master to master_host = '127.0.0.1', master_port = {port},
                     master_user = '{USER}', master_password = '{USER}', master_ssl = 0,
                     master_ssl_verify_server_cert = 0, master_use_gtid = slave_pos; {more}"
            ));
        }
        let position = self.blue.value("select replace(@@gtid_executed, '\\n', '')")?;
        Ok(format!(
            "reset binary logs and gtids; set global gtid_purged = '{position}';
             set global replica_parallel_workers = 4;
             change replication source to source_host = '127.0.0.1', source_port = {port},
                 source_user = '{USER}', source_password = '{USER}', source_ssl = 0,
                 get_source_public_key = 1, source_auto_position = 1; {more}"
        ))
    }

    /// Starts or stops the replica.
    pub fn turn(&self, what: &str) -> Result<()> {
        let word = if self.blue.version().is_mariadb() { "slave" } else { "replica" };
        self.native()?.run(&format!("{what} {word}"))
    }

    /// Fails with its own words if the replica has stopped.
    pub fn ensure_replicating(&self) -> Result<()> {
        let native = self.native()?;
        if self.blue.version().is_mariadb() {
            for row in native.rows("show slave status\\G")? {
                let line = String::from_utf8_lossy(&row.join(&b'\t')).into_owned();
                if let Some((name, error)) = line.split_once(": ")
                    && ["Last_IO_Error", "Last_SQL_Error"].contains(&name.trim())
                    && !error.is_empty()
                {
                    bail!("the replica has stopped: {error}");
                }
            }
            return Ok(());
        }
        let tables =
            ["connection_status", "applier_status_by_coordinator", "applier_status_by_worker"];
        for table in tables {
            let sql = format!(
                "select last_error_message from performance_schema.replication_{table}
                 where last_error_number <> 0"
            );
            if let Some(error) = native.rows(&sql)?.first().and_then(|row| row.first()) {
                bail!("the replica has stopped: {}", String::from_utf8_lossy(error));
            }
        }
        Ok(())
    }

    /// All servers have written out what they hold: the one that is measured first has no advantage.
    pub async fn settle(&self) -> Result<()> {
        for server in [&self.blue, &self.ours].into_iter().chain(&self.native) {
            let before = server.value("select @@global.innodb_max_dirty_pages_pct")?;
            server.run("set global innodb_max_dirty_pages_pct = 0")?;
            let dirty = "select variable_value + 0 from STATUS
                         where variable_name = 'innodb_buffer_pool_pages_dirty'";
            let schema = match server.version().is_mariadb() {
                true => "information_schema.global_status",
                false => "performance_schema.global_status",
            };
            let dirty = dirty.replace("STATUS", schema);
            wait::until("dirty pages to be written", LONG, || async {
                let left: f64 = server.value(&dirty)?.parse()?;
                Ok((left < 100.0).then_some(()))
            })
            .await?;
            server.run(&format!("set global innodb_max_dirty_pages_pct = {before}"))?;
        }
        Ok(())
    }

    /// Fails unless this green's tables are exact copies of blue's; gives their rows.
    pub fn ensure_exact(&self, green: &Mysql, tables: &[String]) -> Result<u64> {
        let mut all = 0;
        for table in tables {
            // A hash of each row; 60 bits, so that the sum stays an exact number.
            let sql = format!(
                "select count(*), coalesce(sum(cast(conv(left(sha2(concat_ws('|', id, k, c, pad), 256), 15), \
                 16, 10) as unsigned)), 0) from {DATABASE}.{table}"
            );
            let (blue, green) = (self.blue.rows(&sql)?, green.rows(&sql)?);
            ensure!(blue == green, "{table} is no exact copy: {blue:?}, {green:?}");
            let count = blue.first().and_then(|row| row.first()).context("no count")?;
            all += String::from_utf8(count.clone())?.parse::<u64>()?;
        }
        Ok(all)
    }

    /// Our green is empty, and no life of the replicator has left anything.
    ///
    /// # Errors
    /// A database or the state directory can't be removed.
    pub fn clear(&self) -> Result<()> {
        self.ours.run(&format!("drop database if exists {DATABASE}"))?;
        for server in [&self.blue, &self.ours] {
            server.run("drop database if exists _cutover")?;
        }
        let state = self.scratch.path().join("state");
        match state.exists() {
            true => std::fs::remove_dir_all(state).context("the replicator's state"),
            false => Ok(()),
        }
    }

    /// A client's options for this server, as everybody; the password goes in `MYSQL_PWD`.
    pub fn login(server: &Mysql) -> [String; 4] {
        [
            "--host=127.0.0.1".to_owned(),
            format!("--port={}", server.port()),
            format!("--user={USER}"),
            format!("--password={USER}"),
        ]
    }

    /// After a failure: the replicator's log and the servers' in place for a look.
    pub fn keep(&mut self) -> PathBuf {
        let directory = self.scratch.keep().to_path_buf();
        let mut servers = vec![(&self.blue, "blue.log"), (&self.ours, "ours.log")];
        servers.extend(self.native.iter().map(|native| (native, "native.log")));
        for (server, name) in servers {
            // Best effort: it is the failure itself that matters.
            drop(std::fs::copy(server.log_path(), directory.join(name)));
        }
        directory
    }
}

/// Between two looks at a green.
pub const POLL: Duration = Duration::from_millis(5);
