//! One PgBouncer: what its console is told, and what is looked up instead of believed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use decoders::postgres::conninfo::{ConnInfo, HostAddress};
use tokio::time::Instant;

use super::pause::{Pauses, Ticket};
use crate::api::{Act, Member};
use crate::ports::{PortError, PortResult};
use crate::side::Side;
use crate::sql::{Kind, Slot, SqlError, TextRow, ident, open};
use crate::switch::config::{PgBouncerConfig, SwitchConfigError};
use crate::switch::identity::{Identity, identity};
use crate::switch::ini::{self, Place, Target};

/// Between two looks at a member that has been told something.
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// The longest to wait for a `PAUSE` that was sent and not answered, before the `RESUME`.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// A PgBouncer.
pub(super) struct Bouncer {
    pub name: String,
    admin: ConnInfo,
    pub console: Slot,
    pauses: Pauses,
    /// How often failed logins were to be tried again at once.
    pub(super) hastened: AtomicU64,
    pub config_file: PathBuf,
    pub databases: Vec<String>,
    pub client: ConnInfo,
    targets: [Target; 2],
}

/// What it says about a database of it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub database: String,
    pub place: Place,
    pub pool_mode: Option<String>,
    /// Where it differs from the default, on versions that say so.
    pub min_pool_size: Option<u64>,
    pub paused: bool,
}

impl Bouncer {
    /// From the configuration.
    pub fn new(
        config: &PgBouncerConfig,
        blue: &ConnInfo,
        green: &ConnInfo,
    ) -> Result<Self, SwitchConfigError> {
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
                let user = admin.with_dbname(first);
                user.with_user(green.user(), green.password_for(green_at))
            }
        };
        let target = |side: &ConnInfo, host: &Option<String>, port: Option<u16>| {
            let at = side.hosts().first().ok_or_else(|| {
                SwitchConfigError("the connection string of a side names no host".into())
            })?;
            let name = match &at.address {
                HostAddress::Name(name) => name.clone(),
                HostAddress::Address { address, .. } => address.to_string(),
                HostAddress::Socket(path) => path.to_string_lossy().into_owned(),
            };
            Ok::<_, SwitchConfigError>(Target {
                host: host.clone().unwrap_or(name),
                port: port.unwrap_or(at.port),
                dbname: side.dbname().to_owned(),
            })
        };
        let targets = [
            target(blue, &config.blue_host, config.blue_port)?,
            target(green, &config.green_host, config.green_port)?,
        ];
        let name = config.name.clone().unwrap_or_else(|| format!("pgbouncer {at}"));
        Ok(Self {
            console: Slot::new(admin.clone(), "cutover router", name.clone(), Kind::Plain),
            pauses: Pauses::default(),
            hastened: AtomicU64::new(0),
            name,
            admin,
            config_file: config.config_file.clone(),
            databases: config.database.clone(),
            client,
            targets,
        })
    }

    /// Where it leads when it leads to `side`.
    pub fn target(&self, side: Side) -> &Target {
        match side {
            Side::Blue => &self.targets[0],
            Side::Green => &self.targets[1],
        }
    }

    pub(super) fn failed(&self, doing: &str) -> impl Fn(SqlError) -> PortError {
        let (name, doing) = (self.name.clone(), doing.to_owned());
        move |error| error.at(&name, &doing)
    }

    pub(super) fn ini(&self, error: ini::IniError) -> PortError {
        PortError::new(self.name.clone(), format!("its configuration can't be changed: {error}"))
            .remedy(format!(
                "make {} and its directory writable for the sidecar",
                self.config_file.display()
            ))
    }

    /// Every database that it knows, configured here or not. One that only `*` leads to is there
    /// once a client has used it.
    pub(super) async fn shown(&self, deadline: Instant) -> PortResult<Vec<Entry>> {
        let console = self.console.get(deadline).await?;
        let rows = console.rows("SHOW DATABASES", deadline).await;
        let rows = rows.map_err(self.failed("SHOW DATABASES"))?;
        let text = |row: &TextRow, key: &str| row.get(key).unwrap_or_default().to_owned();
        Ok(rows
            .iter()
            .map(|row| Entry {
                database: text(row, "name"),
                place: Place {
                    host: text(row, "host"),
                    port: text(row, "port"),
                    dbname: text(row, "database"),
                },
                pool_mode: row.get("pool_mode").map(str::to_owned),
                min_pool_size: row.get("min_pool_size").and_then(|size| size.parse().ok()),
                paused: row.is_true("paused"),
            })
            .collect())
    }

    /// The configured databases; an error if it does not know one of them.
    pub(super) async fn entries(&self, deadline: Instant) -> PortResult<Vec<Entry>> {
        let entries = self.shown(deadline).await?;
        let unknown = |name: &&String| !entries.iter().any(|entry| entry.database == **name);
        if let Some(name) = self.databases.iter().find(unknown) {
            return Err(PortError::new(self.name.clone(), format!("it has no database {name}"))
                .remedy("name the entry of [databases] that clients use"));
        }
        Ok(entries.into_iter().filter(|entry| self.databases.contains(&entry.database)).collect())
    }

    /// A hold begins; see [`Bouncer::pause`].
    pub fn begin(&self) -> Ticket {
        self.pauses.begin()
    }

    /// Makes its clients wait.
    pub async fn pause(&self, ticket: Ticket, deadline: Instant) -> PortResult<()> {
        let console = open(&self.admin, "cutover pause", Kind::Plain, deadline).await;
        let console = Arc::new(console.map_err(self.failed("connecting to its console"))?);
        for database in &self.databases {
            match self.pauses.send(ticket, console.clone(), database, deadline).await {
                Some(Ok(())) => {}
                // Paused already: what counts is looked up below.
                Some(Err(error)) => {
                    tracing::debug!(member = %self.name, "PAUSE {database}: {}", error.text);
                }
                None => {
                    let busy = self.busy(database).await;
                    return Err(PortError::new(
                        self.name.clone(),
                        format!("its clients did not come to rest in time: {busy}"),
                    )
                    .remedy("a transaction is open for too long; end it, or allow more with --max-pause"));
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

    /// Lets its clients go on.
    pub async fn resume(self: Arc<Self>, deadline: Instant) -> PortResult<()> {
        self.settle(deadline).await;
        let console = self.console.get(deadline).await?;
        let mut paused = self.databases.clone();
        // Twice: what came in together with the RESUME shows at the second look.
        for _ in 0..2 {
            for database in &paused {
                let resume = format!("RESUME {}", ident(database));
                if let Err(error) = console.run(&resume, deadline).await {
                    // Not paused: what counts is looked up below.
                    tracing::debug!(member = %self.name, "{resume}: {}", error.text);
                }
            }
            let entries = self.entries(deadline).await?;
            let held = entries.into_iter().filter(|entry| entry.paused);
            paused = held.map(|entry| entry.database).collect();
        }
        self.hasten().await;
        match paused.first() {
            Some(database) => Err(PortError::new(
                self.name.clone(),
                format!("it still holds the clients of {database}"),
            )
            .remedy(format!("RESUME {} on its console", ident(database)))),
            None => Ok(()),
        }
    }

    /// Lets its clients go on if it leads to `side`.
    pub async fn resume_at(
        self: Arc<Self>,
        side: Side,
        deadline: Instant,
    ) -> PortResult<Option<Member>> {
        let entries = self.entries(deadline).await?;
        if !entries.iter().all(|entry| Self::leads_to(self.target(side), entry)) {
            return Ok(None);
        }
        if entries.iter().any(|entry| entry.paused) {
            self.clone().resume(deadline).await?;
        }
        Ok(Some(self.leading_to(side)))
    }

    fn leading_to(&self, side: Side) -> Member {
        let target = self.target(side);
        Member {
            member: self.name.clone(),
            target: side.name().into(),
            verified: false,
            evidence: format!("SHOW DATABASES: {}:{}", target.host, target.port),
        }
    }

    /// Waits until every `PAUSE` that was sent has been carried out, so that none comes after the
    /// RESUME. Bounded: whatever is in the way, clients are let go.
    async fn settle(&self, deadline: Instant) {
        let mut sent = self.pauses.end();
        let until = deadline.min(Instant::now() + SETTLE_MAX);
        loop {
            sent.retain(|pause| !pause.is_over());
            if sent.is_empty() {
                return;
            }
            // One that waits for a client's transaction is not answered, but it is shown.
            match self.entries(until).await {
                Ok(entries) => sent.retain(|pause| {
                    !entries.iter().any(|entry| entry.paused && entry.database == pause.database)
                }),
                Err(error) => {
                    tracing::warn!(member = %self.name, "looking for a PAUSE that was sent: {error}");
                    return;
                }
            }
            if Instant::now() >= until {
                tracing::warn!(member = %self.name, "a PAUSE was sent and does not show");
                return;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Whether it holds the clients of every database.
    pub async fn holds(&self, deadline: Instant) -> PortResult<bool> {
        Ok(self.entries(deadline).await?.iter().all(|entry| entry.paused))
    }

    fn leads_to(target: &Target, entry: &Entry) -> bool {
        entry.place.host == target.host
            && entry.place.port == target.port.to_string()
            && entry.place.dbname == target.dbname
    }

    /// Writes and loads the configuration that leads to `side`.
    pub async fn retarget(&self, side: Side, deadline: Instant) -> PortResult<Member> {
        let target = self.target(side);
        let text = ini::read(&self.config_file).map_err(|error| self.ini(error))?;
        let edited =
            ini::retarget(&text, &self.databases, target).map_err(|error| self.ini(error))?;
        if edited != text {
            ini::replace(&self.config_file, &edited).map_err(|error| self.ini(error))?;
        }
        let console = self.console.get(deadline).await?;
        console.run("RELOAD", deadline).await.map_err(self.failed("RELOAD"))?;
        loop {
            let entries = self.entries(deadline).await?;
            match entries.iter().find(|entry| !Self::leads_to(target, entry)) {
                None => break,
                Some(entry) if Instant::now() >= deadline => {
                    return Err(PortError::new(
                        self.name.clone(),
                        format!("{} still leads to {} after RELOAD", entry.database, entry.place),
                    )
                    .remedy(format!(
                        "is {} the file that it was started with?",
                        self.config_file.display()
                    )));
                }
                Some(_) => tokio::time::sleep(LOOK_PAUSE).await,
            }
        }
        Ok(self.leading_to(side))
    }

    /// Which server a client of this member reaches.
    pub async fn probe(&self, deadline: Instant) -> PortResult<Identity> {
        let doing = "asking through it which server answers";
        let session = open(&self.client, "cutover probe", Kind::Plain, deadline).await;
        let session = session.map_err(self.failed(doing))?;
        identity(&session, deadline).await.map_err(self.failed(doing))
    }

    /// For the plan.
    pub fn act(&self, step: &str, text: String) -> Act {
        Act { step: step.into(), place: self.name.clone(), text }
    }
}
