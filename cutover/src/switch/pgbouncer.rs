//! PgBouncer, any number of members: `PAUSE`, rewrite `[databases]`, `RELOAD`, `RESUME`.
//!
//! What its console does not tell (seen on 1.18):
//! - `PAUSE db` outlives the connection that asked for it, so going back always says `RESUME`.
//! - While it waits, its connection answers nothing else: each `PAUSE` has one of its own.
//! - `RESUME` of a database that is not paused is an error; whether it holds is looked up instead
//!   of believed.
//! - In session mode `PAUSE` waits for clients to *disconnect*: refused beforehand.
//! - A configuration that can't be written is found out beforehand, too.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use decoders::postgres::conninfo::{ConnInfo, HostAddress};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::config::{PgBouncerConfig, SwitchConfigError};
use super::identity::{Identity, identity};
use super::ini::{self, Target};
use crate::api::{Act, Check, Member};
use crate::evidence::Committed;
use crate::ports::{Epoch, PortError, PortResult, SwitchActs, TrafficSwitch};
use crate::sql::{Kind, Slot, SqlError, TextRow, ident, open, soon};

/// The longest a member may take to hold its clients.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Between two looks at a member that has been told something.
const LOOK_PAUSE: Duration = Duration::from_millis(2);

struct Bouncer {
    name: String,
    admin: ConnInfo,
    console: Slot,
    config_file: PathBuf,
    databases: Vec<String>,
    client: ConnInfo,
    target: Target,
}

/// Every PgBouncer in front of blue.
pub struct PgBouncerSwitch {
    members: Vec<Arc<Bouncer>>,
    blue: ConnInfo,
    green: ConnInfo,
}

/// What a member says about a database of it.
struct Entry {
    database: String,
    host: String,
    port: String,
    behind: String,
    pool_mode: Option<String>,
    paused: bool,
}

impl PgBouncerSwitch {
    /// From the configuration.
    pub fn new(
        members: &[PgBouncerConfig],
        blue: &ConnInfo,
        green: &ConnInfo,
    ) -> Result<Self, SwitchConfigError> {
        let members = members
            .iter()
            .map(|config| Bouncer::new(config, green).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok(Self { members, blue: blue.clone(), green: green.clone() })
    }

    /// Does the same with every member at once; the first error in the members' order.
    async fn all<T: Send + 'static, F>(&self, act: impl Fn(Arc<Bouncer>) -> F) -> PortResult<Vec<T>>
    where
        F: Future<Output = PortResult<T>> + Send + 'static,
    {
        let mut set = JoinSet::new();
        for (at, member) in self.members.iter().enumerate() {
            let acting = act(member.clone());
            set.spawn(async move { (at, acting.await) });
        }
        let mut results: Vec<Option<PortResult<T>>> = Vec::new();
        results.resize_with(self.members.len(), || None);
        while let Some(joined) = set.join_next().await {
            let (at, result) = joined.map_err(|error| {
                PortError::new("router", "a router's task has stopped").caused_by(error)
            })?;
            results[at] = Some(result);
        }
        results.into_iter().flatten().collect()
    }
}

impl Bouncer {
    fn new(config: &PgBouncerConfig, green: &ConnInfo) -> Result<Self, SwitchConfigError> {
        let parse = |text: &str, key: &str| {
            ConnInfo::parse(text)
                .map_err(|error| SwitchConfigError(format!("cutover.pgbouncer.{key}: {error}")))
        };
        let admin = parse(&config.admin, "admin")?;
        let (Some(at), Some(green_at)) = (admin.hosts().first(), green.hosts().first()) else {
            return Err(SwitchConfigError("cutover.pgbouncer.admin names no host".into()));
        };
        let first = config.database.first().map(String::as_str).unwrap_or_default();
        let client = match &config.client {
            Some(client) => parse(client, "client")?,
            None => {
                let user = admin.with_dbname(if first == "*" { green.dbname() } else { first });
                user.with_user(green.user(), green.password_for(green_at))
            }
        };
        let green_host = match &green_at.address {
            HostAddress::Name(name) => name.clone(),
            HostAddress::Address { address, .. } => address.to_string(),
            HostAddress::Socket(path) => path.to_string_lossy().into_owned(),
        };
        let name = config.name.clone().unwrap_or_else(|| format!("pgbouncer {at}"));
        Ok(Self {
            console: Slot::new(admin.clone(), "cutover router", name.clone(), Kind::Plain),
            name,
            admin,
            config_file: config.config_file.clone(),
            databases: config.database.clone(),
            client,
            target: Target {
                host: config.green_host.clone().unwrap_or(green_host),
                port: config.green_port.unwrap_or(green_at.port),
                dbname: green.dbname().to_owned(),
            },
        })
    }

    fn failed(&self, doing: &str) -> impl Fn(SqlError) -> PortError {
        let (name, doing) = (self.name.clone(), doing.to_owned());
        move |error| error.at(&name, &doing)
    }

    fn ini(&self, error: ini::IniError) -> PortError {
        PortError::new(self.name.clone(), format!("its configuration can't be changed: {error}"))
            .remedy(format!(
                "make {} and its directory writable for the sidecar",
                self.config_file.display()
            ))
    }

    async fn entries(&self, deadline: Instant) -> PortResult<Vec<Entry>> {
        let console = self.console.get(deadline).await?;
        let rows = console.rows("SHOW DATABASES", deadline).await;
        let rows = rows.map_err(self.failed("SHOW DATABASES"))?;
        let text = |row: &TextRow, key: &str| row.get(key).unwrap_or_default().to_owned();
        let mut entries = Vec::new();
        for database in &self.databases {
            // `*` has no row of its own until a client has used it; then one for each name.
            for row in rows.iter().filter(|row| row.get("name") == Some(database)) {
                entries.push(Entry {
                    database: database.clone(),
                    host: text(row, "host"),
                    port: text(row, "port"),
                    behind: text(row, "database"),
                    pool_mode: row.get("pool_mode").map(str::to_owned),
                    paused: row.is_true("paused"),
                });
            }
            if database != "*" && !entries.iter().any(|entry| entry.database == *database) {
                return Err(PortError::new(
                    self.name.clone(),
                    format!("it has no database {database}"),
                )
                .remedy("name the entry of [databases] that clients use"));
            }
        }
        Ok(entries)
    }

    async fn pause(&self, deadline: Instant) -> PortResult<()> {
        let console = open(&self.admin, "cutover pause", Kind::Plain, deadline).await;
        let console = console.map_err(self.failed("connecting to its console"))?;
        for database in &self.databases {
            let pause = format!("PAUSE {}", ident(database));
            match console.run(&pause, deadline).await {
                Ok(()) => {}
                Err(error) if error.timed_out => {
                    let busy = self.busy(database).await;
                    return Err(PortError::new(
                        self.name.clone(),
                        format!("its clients did not come to rest in time: {busy}"),
                    )
                    .remedy("a transaction is open for too long; end it, or allow more with --max-pause"));
                }
                // Paused already: what counts is looked up below.
                Err(error) => {
                    tracing::debug!(member = %self.name, "{pause}: {}", error.text);
                }
            }
        }
        match self.entries(deadline).await?.iter().find(|entry| !entry.paused) {
            Some(entry) => Err(PortError::new(
                self.name.clone(),
                format!("it does not hold the clients of {}", entry.database),
            )
            .remedy("somebody else has typed RESUME; find out who")),
            None => Ok(()),
        }
    }

    /// Server connections that are still in use, for an error.
    async fn busy(&self, database: &str) -> String {
        let deadline = Instant::now() + Duration::from_millis(200);
        let rows = match self.console.get(deadline).await {
            Ok(console) => console.rows("SHOW POOLS", deadline).await,
            Err(error) => return error.to_string(),
        };
        match rows {
            Ok(rows) => {
                let active: u64 = rows
                    .iter()
                    .filter(|row| row.get("database") == Some(database))
                    .filter_map(|row| row.get("sv_active")?.parse::<u64>().ok())
                    .sum();
                format!("{active} server connections of {database} are in a transaction")
            }
            Err(error) => error.text,
        }
    }

    async fn resume(&self, deadline: Instant) -> PortResult<()> {
        let console = self.console.get(deadline).await?;
        for database in &self.databases {
            let resume = format!("RESUME {}", ident(database));
            if let Err(error) = console.run(&resume, deadline).await {
                // Not paused: what counts is looked up below.
                tracing::debug!(member = %self.name, "{resume}: {}", error.text);
            }
        }
        match self.entries(deadline).await?.iter().find(|entry| entry.paused) {
            Some(entry) => Err(PortError::new(
                self.name.clone(),
                format!("it still holds the clients of {}", entry.database),
            )
            .remedy(format!("RESUME {} on its console", ident(&entry.database)))),
            None => Ok(()),
        }
    }

    fn leads_to_target(&self, entry: &Entry) -> bool {
        entry.host == self.target.host
            && entry.port == self.target.port.to_string()
            && (entry.database == "*" || entry.behind == self.target.dbname)
    }

    async fn retarget(&self, deadline: Instant) -> PortResult<Member> {
        let text = ini::read(&self.config_file).map_err(|error| self.ini(error))?;
        let edited =
            ini::retarget(&text, &self.databases, &self.target).map_err(|error| self.ini(error))?;
        if edited != text {
            ini::replace(&self.config_file, &edited).map_err(|error| self.ini(error))?;
        }
        let console = self.console.get(deadline).await?;
        console.run("RELOAD", deadline).await.map_err(self.failed("RELOAD"))?;
        loop {
            let entries = self.entries(deadline).await?;
            match entries.iter().find(|entry| !self.leads_to_target(entry)) {
                None => break,
                Some(entry) if Instant::now() >= deadline => {
                    return Err(PortError::new(
                        self.name.clone(),
                        format!(
                            "{} still leads to {}:{} after RELOAD",
                            entry.database, entry.host, entry.port
                        ),
                    )
                    .remedy(format!(
                        "is {} the file that it was started with?",
                        self.config_file.display()
                    )));
                }
                Some(_) => tokio::time::sleep(LOOK_PAUSE).await,
            }
        }
        Ok(Member {
            member: self.name.clone(),
            target: "green".into(),
            verified: false,
            evidence: format!("SHOW DATABASES: {}:{}", self.target.host, self.target.port),
        })
    }

    /// Which server a client of this member reaches.
    async fn probe(&self, deadline: Instant) -> PortResult<Identity> {
        let doing = "asking through it which server answers";
        let session = open(&self.client, "cutover probe", Kind::Plain, deadline).await;
        let session = session.map_err(self.failed(doing))?;
        identity(&session, deadline).await.map_err(self.failed(doing))
    }

    async fn inspect(&self, blue: &Identity) -> PortResult<Vec<Check>> {
        let check = |name: &str| format!("{name} ({})", self.name);
        let deadline = soon();
        let entries = match self.entries(deadline).await {
            Ok(entries) => entries,
            Err(error) => {
                let fix = error.remedy.clone().unwrap_or_else(|| {
                    "let the sidecar log in to its console (admin_users)".into()
                });
                return Ok(vec![Check::fail(check("pgbouncer-console"), error.what, fix)]);
            }
        };
        let mut checks = vec![Check::ok(check("pgbouncer-console"), "answers")];
        checks.push(self.pool_mode(&entries, deadline).await?);
        if let Some(entry) = entries.iter().find(|entry| entry.paused) {
            checks.push(Check::fail(
                check("pgbouncer-paused"),
                format!("{} is paused already", entry.database),
                format!("find out by whom, then RESUME {}", ident(&entry.database)),
            ));
            // A probe would wait for ever.
            return Ok(checks);
        }
        checks.push(match self.try_edit() {
            Ok(()) => Check::ok(check("pgbouncer-config"), self.config_file.display().to_string()),
            Err(error) => {
                let fix = error.remedy.clone().unwrap_or_default();
                Check::fail(check("pgbouncer-config"), error.what, fix)
            }
        });
        checks.push(match self.probe(deadline).await {
            Ok(reached) if reached == *blue => {
                Check::ok(check("pgbouncer-probe"), format!("leads to blue, {}", reached.shown))
            }
            Ok(reached) => Check::fail(
                check("pgbouncer-probe"),
                format!("it does not lead to blue but to {}", reached.shown),
                "name the router that blue's clients use",
            ),
            Err(error) => Check::fail(
                check("pgbouncer-probe"),
                error.what,
                "set cutover.pgbouncer.client to a connection string that works through it",
            ),
        });
        Ok(checks)
    }

    fn try_edit(&self) -> PortResult<()> {
        let text = ini::read(&self.config_file).map_err(|error| self.ini(error))?;
        ini::retarget(&text, &self.databases, &self.target).map_err(|error| self.ini(error))?;
        ini::try_replace(&self.config_file).map_err(|error| self.ini(error))
    }

    async fn pool_mode(&self, entries: &[Entry], deadline: Instant) -> PortResult<Check> {
        let name = format!("pgbouncer-pool-mode ({})", self.name);
        let console = self.console.get(deadline).await?;
        let config = console.rows("SHOW CONFIG", deadline).await;
        let config = config.map_err(self.failed("SHOW CONFIG"))?;
        let default = config
            .iter()
            .find(|row| row.get("key") == Some("pool_mode"))
            .and_then(|row| row.get("value"))
            .unwrap_or("session")
            .to_owned();
        let of = |entry: &Entry| {
            let own = entry.pool_mode.clone().filter(|mode| !mode.is_empty());
            own.unwrap_or_else(|| default.clone())
        };
        let session = entries.iter().find(|entry| of(entry) == "session");
        Ok(match session {
            Some(entry) => Check::fail(
                name,
                format!(
                    "{} is in session mode, where PAUSE waits until every client disconnects",
                    entry.database
                ),
                "pool_mode = transaction",
            ),
            None if entries.is_empty() && default == "session" => {
                Check::fail(name, "session mode", "pool_mode = transaction")
            }
            None => Check::ok(name, entries.first().map_or(default.clone(), of)),
        })
    }

    fn act(&self, step: &str, text: String) -> Act {
        Act { step: step.into(), place: self.name.clone(), text }
    }
}

impl TrafficSwitch for PgBouncerSwitch {
    async fn inspect(&self) -> PortResult<Vec<Check>> {
        let deadline = soon();
        let doing =
            |place: &'static str| move |e: SqlError| e.at(place, "asking which server it is");
        let blue = open(&self.blue, "cutover router", Kind::Server, deadline).await;
        let blue =
            identity(&blue.map_err(doing("blue"))?, deadline).await.map_err(doing("blue"))?;
        let checks = self
            .all(|member| {
                let blue = blue.clone();
                async move { member.inspect(&blue).await }
            })
            .await?;
        Ok(checks.into_iter().flatten().collect())
    }

    async fn arm(&self) -> PortResult<()> {
        self.all(|member| async move { member.console.get(soon()).await.map(|_| ()) }).await?;
        Ok(())
    }

    async fn hold(&self, _epoch: Epoch, deadline: Instant) -> PortResult<String> {
        let deadline = deadline.min(Instant::now() + PAUSE_MAX);
        let held = self.all(|member| async move { member.pause(deadline).await }).await?;
        Ok(format!("{0}/{0} pgbouncers hold", held.len()))
    }

    async fn switch(&self, _proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        self.all(|member| async move { member.retarget(deadline).await }).await
    }

    async fn release(&self, _epoch: Epoch, deadline: Instant) -> PortResult<()> {
        // A pause that was interrupted leaves its statement behind on a connection of its own.
        self.all(|member| async move { member.resume(deadline).await }).await?;
        Ok(())
    }

    async fn verify(&self, _proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        let doing = |e: SqlError| e.at("green", "asking which server it is");
        let green = open(&self.green, "cutover router", Kind::Server, deadline).await;
        let green = identity(&green.map_err(doing)?, deadline).await.map_err(doing)?;
        let reached = self
            .all(|member| async move {
                let reached = member.probe(deadline).await?;
                Ok((member.name.clone(), reached))
            })
            .await?;
        Ok(reached
            .into_iter()
            .map(|(member, reached)| {
                let target = if reached == green { "green" } else { "unknown" };
                let evidence = format!("a client of it reaches {}", reached.shown);
                Member { member, target: target.into(), verified: reached == green, evidence }
            })
            .collect())
    }

    fn name(&self) -> String {
        format!("pgbouncer x{}", self.members.len())
    }

    fn describe(&self) -> SwitchActs {
        let mut acts = SwitchActs::default();
        for member in &self.members {
            for database in &member.databases {
                let name = ident(database);
                acts.hold.push(member.act("quiesce", format!("PAUSE {name}")));
                acts.switch.push(member.act(
                    "flip",
                    format!(
                        "{}: [databases] {database} = host={} port={} dbname={}",
                        member.config_file.display(),
                        member.target.host,
                        member.target.port,
                        member.target.dbname
                    ),
                ));
                acts.release.push(member.act("open", format!("RESUME {name}")));
            }
            acts.switch.push(member.act("flip", "RELOAD".into()));
            acts.verify.push(
                member.act("open", format!("connect as a client to {}", member.client.redacted())),
            );
        }
        acts
    }
}
