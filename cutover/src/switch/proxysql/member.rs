//! One ProxySQL: what it is told, and what is looked up instead of believed.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::console::Console;
use super::table::{self, Address, Entry, Places, Status};
use crate::api::{Act, Member};
use crate::login::Login;
use crate::ports::{PortError, PortResult, SwitchActs};
use crate::side::Side;
use crate::sql::SqlError;
use crate::switch::config::{ProxySqlConfig, SwitchConfigError};
use crate::switch::identity::{self, Identity};

/// For how long sessions may go on that have a server connection when the hold begins, but never longer
/// than a quarter of what is left of the pause: transactions end within it, or are cut with those that
/// keep their connection for another reason.
const GRACE_MAX: Duration = Duration::from_millis(500);
/// Between two looks whether connections are still in use.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

const LOAD: &str = "LOAD MYSQL SERVERS TO RUNTIME";
const SAVE: &str = "SAVE MYSQL SERVERS TO DISK";
/// What ProxySQL does, what LOAD and SAVE take, and what it begins with after a restart.
pub(super) const RUNTIME: &str = "runtime_mysql_servers";
pub(super) const DRAFT: &str = "mysql_servers";
pub(super) const DISK: &str = "disk.mysql_servers";

/// A ProxySQL.
pub(super) struct ProxySql {
    pub name: String,
    pub console: Console,
    pub places: Places,
    client: Login,
}

impl ProxySql {
    /// From the configuration.
    pub fn new(
        config: &ProxySqlConfig,
        blue: &Login,
        green: &Login,
    ) -> Result<Self, SwitchConfigError> {
        let key = |key: &str| {
            let key = key.to_owned();
            move |error: String| SwitchConfigError(format!("cutover.proxysql.{key}: {error}"))
        };
        if blue.postgres().is_some() {
            return Err(SwitchConfigError(
                "cutover.proxysql is for MySQL and MariaDB; for PostgreSQL name a pgbouncer, or let \
                 our own proxy serve clients"
                    .into(),
            ));
        }
        let admin = Login::of_client(&config.admin, blue).map_err(key("admin"))?;
        let Login::Mysql(admin) = admin else {
            return Err(SwitchConfigError("cutover.proxysql.admin must be mysql://..".into()));
        };
        let client = Login::of_client(&config.client, blue).map_err(key("client"))?;
        let place = |given: &Option<String>, end: &Login, key: &str| match given {
            Some(text) => Address::parse(text, key),
            None => {
                let (host, port) = end.address().unwrap_or_default();
                Ok(Address { host: host.to_ascii_lowercase(), port })
            }
        };
        let mut hostgroups = config.hostgroup.clone();
        hostgroups.sort_unstable();
        hostgroups.dedup();
        let places = Places {
            hostgroups,
            blue: place(&config.blue, blue, "blue")?,
            green: place(&config.green, green, "green")?,
        };
        if places.blue == places.green {
            return Err(SwitchConfigError(
                "cutover.proxysql: blue and green must be two servers".into(),
            ));
        }
        let (host, port) = admin.address();
        let name = config.name.clone().unwrap_or_else(|| format!("proxysql {host}:{port}"));
        Ok(Self { console: Console::new(admin, name.clone()), name, places, client })
    }

    fn error(&self, what: impl Into<String>) -> PortError {
        PortError::new(self.name.clone(), what)
    }

    /// The servers in one of its tables.
    pub async fn servers(&self, table: &str, deadline: Instant) -> PortResult<Vec<Entry>> {
        let sql = format!("SELECT hostgroup_id, hostname, port, status FROM {table}");
        let rows = self.console.rows(&sql, deadline).await?;
        table::entries(&rows)
            .map_err(|at| self.error(format!("{table}: row {} can't be read", at + 1)))
    }

    /// What it does.
    pub async fn runtime(&self, deadline: Instant) -> PortResult<Vec<Entry>> {
        self.servers(RUNTIME, deadline).await
    }

    async fn leads(&self, deadline: Instant) -> PortResult<(Side, bool)> {
        let runtime = self.runtime(deadline).await?;
        self.places.leads(&runtime).map_err(|why| {
            self.error(why).remedy(
                "give each of these hostgroups the one server that serves: UPDATE mysql_servers .., \
                 LOAD MYSQL SERVERS TO RUNTIME",
            )
        })
    }

    /// Makes it lead to `side` and let clients through, or not. Told again if a statement of somebody
    /// who has died came in between.
    async fn put(&self, side: Side, status: Status, deadline: Instant) -> PortResult<()> {
        loop {
            let draft = self.servers(DRAFT, deadline).await?;
            for statement in self.places.statements(&draft, side, status) {
                self.console.run(&statement, deadline).await?;
            }
            self.console.run(LOAD, deadline).await?;
            let runtime = self.runtime(deadline).await?;
            let said = match self.places.leads(&runtime) {
                Ok(found) if found == (side, status == Status::Online) => return Ok(()),
                Ok((found, open)) => {
                    format!("it leads to {found}, {}", if open { "open" } else { "held" })
                }
                Err(why) => why,
            };
            if Instant::now() + LOOK_PAUSE >= deadline {
                return Err(self.error(format!(
                    "after {LOAD} it should lead to {side} as {}, but: {said}",
                    status.name()
                )));
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Sees to it that a restart changes nothing; why it would, if that can't be helped. Clients wait
    /// for nobody's disk.
    async fn keep(&self, side: Side, open: bool, deadline: Instant) -> Option<String> {
        let kept = async {
            let disk = self.servers(DISK, deadline).await?;
            match self.places.leads(&disk) {
                Ok(found) if found == (side, open) => Ok(()),
                _ => self.console.run(SAVE, deadline).await,
            }
        };
        let error = kept.await.err()?;
        tracing::warn!(member = %self.name, "a restart of it would forget where it leads: {error}");
        Some(error.what)
    }

    /// Nobody gets through, and no connection is in use. How many sessions were cut for that.
    pub async fn hold(&self, deadline: Instant) -> PortResult<usize> {
        if let (side, true) = self.leads(deadline).await? {
            self.put(side, Status::OfflineSoft, deadline).await?;
        }
        let began = Instant::now();
        let until = began + GRACE_MAX.min(deadline.saturating_duration_since(began) / 4);
        let mut cut = BTreeSet::new();
        loop {
            let used = self.used(deadline).await?;
            if used == 0 {
                return Ok(cut.len());
            }
            let now = Instant::now();
            if now + LOOK_PAUSE >= deadline {
                let what = format!("{used} connections to servers are still in use");
                return Err(self.error(what).remedy("see its stats_mysql_processlist"));
            }
            if now >= until {
                cut.extend(self.cut(deadline).await?);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Connections to servers of ours that sessions have taken.
    async fn used(&self, deadline: Instant) -> PortResult<u64> {
        let sql = "SELECT hostgroup, ConnUsed FROM stats_mysql_connection_pool";
        let rows = self.console.rows(sql, deadline).await?;
        let mut used = 0;
        for row in &rows {
            let hostgroup = row.number("hostgroup").map_err(|error| error.at(&self.name, sql))?;
            if self.places.is_ours(hostgroup) {
                let here = row.number::<u64>("ConnUsed");
                used += here.map_err(|error| error.at(&self.name, sql))?;
            }
        }
        Ok(used)
    }

    /// Ends the sessions that have one.
    async fn cut(&self, deadline: Instant) -> PortResult<Vec<u64>> {
        let sql = "SELECT SessionID, hostgroup, srv_host FROM stats_mysql_processlist";
        let rows = self.console.rows(sql, deadline).await?;
        let mut ended = Vec::new();
        for row in &rows {
            let (Ok(id), Ok(hostgroup)) = (row.number("SessionID"), row.number("hostgroup")) else {
                continue;
            };
            // Whoever waits has no server.
            let has_one = row.get("srv_host").is_some_and(|host| !host.is_empty());
            if self.places.is_ours(hostgroup) && has_one {
                self.console.kill(id, deadline).await?;
                ended.push(id);
            }
        }
        Ok(ended)
    }

    /// Whether nobody gets through.
    pub async fn holds(&self, deadline: Instant) -> PortResult<bool> {
        Ok(self.places.is_closed(&self.runtime(deadline).await?))
    }

    /// Clients belong to `side` from now on; they still wait, unless they were let through by
    /// [`ProxySql::open_at`].
    pub async fn point(&self, side: Side, deadline: Instant) -> PortResult<Member> {
        let runtime = self.runtime(deadline).await?;
        if self.places.leads(&runtime) == Ok((side, true)) {
            return Ok(self.pointing_at(side, None));
        }
        self.put(side, Status::OfflineSoft, deadline).await?;
        let unkept = self.keep(side, false, deadline).await;
        Ok(self.pointing_at(side, unkept))
    }

    fn pointing_at(&self, side: Side, unkept: Option<String>) -> Member {
        let at = self.places.of(side);
        let groups = self.hostgroups();
        let mut evidence = format!("{at} is the only server of hostgroup {groups}");
        if let Some(why) = unkept {
            evidence += &format!("; until its next restart: {why}");
        }
        let target = side.name().to_owned();
        Member { member: self.name.clone(), target, verified: false, evidence }
    }

    fn hostgroups(&self) -> String {
        let names: Vec<_> = self.places.hostgroups.iter().map(u32::to_string).collect();
        names.join(", ")
    }

    /// Lets clients go on if they belong to `side`.
    pub async fn open_at(&self, side: Side, deadline: Instant) -> PortResult<Option<Member>> {
        if self.leads(deadline).await?.0 != side {
            return Ok(None);
        }
        self.open(deadline).await?;
        Ok(Some(self.pointing_at(side, None)))
    }

    /// Lets clients go on, to where they belong.
    pub async fn open(&self, deadline: Instant) -> PortResult<()> {
        let (side, open) = self.leads(deadline).await?;
        let draft = self.servers(DRAFT, deadline).await?;
        // A hold that was given up half-way may be in the draft alone, and the next LOAD would do it.
        if !open || self.places.leads(&draft) != Ok((side, true)) {
            self.put(side, Status::Online, deadline).await?;
        }
        self.keep(side, true, deadline).await;
        Ok(())
    }

    /// Which server a client reaches. What ProxySQL has forgotten is set again.
    pub async fn verify(
        &self,
        to: Side,
        wanted: &Identity,
        deadline: Instant,
    ) -> PortResult<Member> {
        let runtime = self.runtime(deadline).await?;
        if self.places.leads(&runtime) != Ok((to, true)) {
            tracing::warn!(member = %self.name, "it has forgotten where it leads; set again");
            self.put(to, Status::Online, deadline).await?;
        }
        let unkept = self.keep(to, true, deadline).await;
        let reached = self.reached(deadline).await;
        let reached = reached.map_err(|error| error.at(&self.name, "asking through it"))?;
        let verified = reached == *wanted;
        let target = if verified { to.name() } else { "unknown" };
        let mut evidence = format!("a client of it reaches {}", reached.shown);
        if let Some(why) = unkept {
            evidence += &format!("; until its next restart: {why}");
        }
        Ok(Member { member: self.name.clone(), target: target.into(), verified, evidence })
    }

    pub(super) async fn reached(&self, deadline: Instant) -> Result<Identity, SqlError> {
        identity::through(&self.client, "cutover probe", deadline).await
    }

    /// For the plan.
    pub fn describe(&self, to: Side, acts: &mut SwitchActs) {
        let act =
            |step: &str, text: String| Act { step: step.into(), place: self.name.clone(), text };
        let groups = || self.places.hostgroups.iter().copied();
        let hold = groups().map(|group| self.places.set(group, to.other(), Status::OfflineSoft));
        acts.hold.extend(hold.chain([LOAD.into()]).map(|text| act("quiesce", text)));
        let cut = format!(
            "KILL CONNECTION of each session that still has a server after {} ms at most",
            GRACE_MAX.as_millis()
        );
        acts.hold.push(act("quiesce", cut));
        let switch = groups().map(|group| self.places.exchange(group, to, Status::OfflineSoft));
        let switch = switch.chain([LOAD.into(), SAVE.into()]);
        acts.switch.extend(switch.map(|text| act("flip", text)));
        let release = groups().map(|group| self.places.set(group, to, Status::Online));
        let release = release.chain([LOAD.into(), SAVE.into()]);
        acts.release.extend(release.map(|text| act("open", text)));
        let client = format!("connect as a client to {}", self.client.redacted());
        acts.verify.push(act("open", client));
    }
}
