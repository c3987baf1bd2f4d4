//! One or several PgBouncers (the members of one router), in transaction pooling, in front of a
//! server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::ports::Port;
use crate::postgres::{Postgres, Rows, SUPERUSER, connect_url};
use crate::process::{Launch, Process};
use crate::scratch::{Account, Scratch};
use crate::wait;

const START_DEADLINE: Duration = Duration::from_secs(20);

/// Settings of a PgBouncer to be started.
#[derive(Debug, Clone)]
pub struct Builder {
    database: String,
    target_port: u16,
    settings: Vec<(String, String)>,
    users: Vec<String>,
}

impl Builder {
    /// A line of the `[pgbouncer]` section; a later one of the same name wins.
    pub fn setting(mut self, name: &str, value: &str) -> Builder {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A user that may connect, besides the superuser.
    pub fn user(mut self, name: &str) -> Builder {
        self.users.push(name.to_owned());
        self
    }

    pub fn start(self) -> Result<PgBouncer> {
        let program = paths::pgbouncer()?;
        let scratch = Scratch::new()?;
        let directory = scratch.server_dir("pgbouncer")?;
        let port = Port::reserve()?;
        let account = Account::of_servers()?;

        let users = directory.join("userlist.txt");
        let list = std::iter::once(SUPERUSER).chain(self.users.iter().map(String::as_str));
        let list: String = list.map(|user| format!("\"{user}\" \"\"\n")).collect();
        std::fs::write(&users, list)?;
        account.own(&users)?;

        let config = directory.join("pgbouncer.ini");
        std::fs::write(&config, self.ini(port.number(), &users, &directory))?;
        account.own(&config)?;

        let mut bouncer =
            PgBouncer { program, config, port, database: self.database, process: None, scratch };
        bouncer.start()?;
        Ok(bouncer)
    }

    fn ini(&self, port: u16, users: &Path, directory: &Path) -> String {
        let mut text = format!(
            "[databases]\n{} = host=127.0.0.1 port={} dbname={}\n\n[pgbouncer]\n",
            self.database, self.target_port, self.database
        );
        let defaults = [
            ("listen_addr", "127.0.0.1".to_owned()),
            ("listen_port", port.to_string()),
            ("unix_socket_dir", directory.display().to_string()),
            ("auth_type", "trust".to_owned()),
            ("auth_file", users.display().to_string()),
            ("admin_users", SUPERUSER.to_owned()),
            ("pool_mode", "transaction".to_owned()),
            ("default_pool_size", "20".to_owned()),
            ("max_client_conn", "500".to_owned()),
            // What drivers send at the start and a pooler cannot keep per client.
            ("ignore_startup_parameters", "extra_float_digits,options".to_owned()),
        ];
        let overridden = |name: &str| self.settings.iter().any(|(other, _)| other == name);
        for (name, value) in defaults.iter().filter(|(name, _)| !overridden(name)) {
            text.push_str(&format!("{name} = {value}\n"));
        }
        for (name, value) in &self.settings {
            text.push_str(&format!("{name} = {value}\n"));
        }
        text
    }
}

/// A PgBouncer of ours. Dropping it stops it.
#[derive(Debug)]
pub struct PgBouncer {
    program: PathBuf,
    config: PathBuf,
    port: Port,
    database: String,
    process: Option<Process>,
    scratch: Scratch,
}

impl PgBouncer {
    /// A router for this database of this server.
    pub fn builder(server: &Postgres, database: &str) -> Builder {
        PgBouncer::builder_to(server.port(), database)
    }

    /// A router to whatever listens on this port of loopback, a [`crate::proxy::FaultProxy`] for one.
    pub fn builder_to(target_port: u16, database: &str) -> Builder {
        Builder {
            database: database.to_owned(),
            target_port,
            settings: Vec::new(),
            users: Vec::new(),
        }
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    pub fn config_file(&self) -> &Path {
        &self.config
    }

    pub fn log_path(&self) -> PathBuf {
        self.scratch.path().join("log.err")
    }

    /// For clients of the database.
    pub fn url_as(&self, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{}", self.port(), self.database)
    }

    /// For the admin console (manual of PgBouncer, "Admin console").
    pub fn admin_url(&self) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/pgbouncer", self.port())
    }

    /// Runs one command of the admin console.
    pub async fn admin(&self, command: &str) -> Result<Rows> {
        let client = connect_url(&self.admin_url()).await?;
        crate::postgres::rows(&client, command)
            .await
            .with_context(|| format!("PgBouncer refused {command}"))
    }

    /// The port that new server connections go to, as `SHOW DATABASES` tells it.
    pub async fn target_port(&self) -> Result<u16> {
        for row in self.admin("SHOW DATABASES").await? {
            // Columns from 1.18 to 1.24: name, host, port, database, ..
            if let [Some(name), _, Some(port), ..] = row.as_slice()
                && *name == self.database
            {
                return Ok(port.parse()?);
            }
        }
        bail!("PgBouncer does not know database {}", self.database)
    }

    pub fn start(&mut self) -> Result<()> {
        // A child's listening socket is its own; an older one must be gone first.
        self.stop()?;
        let launch = Launch::new(&self.program).arg(&self.config).as_server()?;
        let mut process = launch.start(&self.scratch.path().join("log"))?;
        let port = self.port();
        wait::until_blocking("PgBouncer to listen", START_DEADLINE, || {
            if let Some(status) = process.ended()? {
                bail!("PgBouncer ended with {status}:\n{}", process.log_tail());
            }
            Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop))
        })?;
        self.process = Some(process);
        Ok(())
    }

    pub fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill9(),
            None => Ok(()),
        }
    }
}
