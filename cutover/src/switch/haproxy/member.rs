//! One HAProxy: what it is told, and what is looked up instead of believed.

use std::time::Duration;

use tokio::time::Instant;

use super::socket::StatsSocket;
use super::table::{self, Server};
use crate::api::{Act, Check, Member};
use crate::login::Login;
use crate::ports::{PortError, PortResult, SwitchActs};
use crate::side::Side;
use crate::sql::{SqlError, soon};
use crate::switch::config::{HaProxyConfig, SwitchConfigError};
use crate::switch::identity::{self, Identity};

/// Between two looks whether sessions that were cut are gone.
const LOOK_PAUSE: Duration = Duration::from_millis(2);

/// An HAProxy.
pub(super) struct HaProxy {
    pub name: String,
    socket: StatsSocket,
    backend: String,
    /// Names of blue's and green's server.
    servers: [String; 2],
    client: Login,
}

impl HaProxy {
    /// From the configuration; `end` is a server behind it.
    pub fn new(config: &HaProxyConfig, end: &Login) -> Result<Self, SwitchConfigError> {
        let client = Login::of_client(&config.client, end)
            .map_err(|error| SwitchConfigError(format!("cutover.haproxy.client: {error}")))?;
        Ok(Self {
            name: config.name.clone().unwrap_or_else(|| format!("haproxy {}", config.socket)),
            socket: StatsSocket::parse(&config.socket),
            backend: config.backend.clone(),
            servers: [config.blue.clone(), config.green.clone()],
            client,
        })
    }

    fn server(&self, side: Side) -> &str {
        match side {
            Side::Blue => &self.servers[0],
            Side::Green => &self.servers[1],
        }
    }

    fn error(&self, what: String) -> PortError {
        PortError::new(self.name.clone(), what)
    }

    async fn ask(&self, command: &str, deadline: Instant) -> PortResult<String> {
        let remedy = "is it up, and may the sidecar use its stats socket (level admin)?";
        match tokio::time::timeout_at(deadline, self.socket.ask(command)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                Err(self.error(format!("{command}: {error}")).remedy(remedy).in_doubt())
            }
            Err(_) => Err(self.error(format!("{command}: no answer in time")).in_doubt()),
        }
    }

    /// A command that answers with nothing, or with a number of what it did, unless it fails.
    async fn tell(&self, command: &str, deadline: Instant) -> PortResult<()> {
        let answer = self.ask(command, deadline).await?;
        match answer.as_str() {
            "" => Ok(()),
            refusal => Err(self
                .error(format!("{command}: {refusal}"))
                .remedy("`stats socket .. level admin` in its configuration")),
        }
    }

    /// Blue's and green's server.
    pub async fn servers(&self, deadline: Instant) -> PortResult<[Server; 2]> {
        let command = format!("show servers state {}", self.backend);
        let answer = self.ask(&command, deadline).await?;
        let all = table::servers(&answer)
            .ok_or_else(|| self.error(format!("{command}: {}", answer.replace('\n', " "))))?;
        let find = |name: &String| {
            let found = all.iter().find(|server| server.name == *name).cloned();
            found.ok_or_else(|| {
                let what = format!("backend {} has no server {name}", self.backend);
                self.error(what).remedy("correct `blue` or `green` in [[cutover.haproxy]]")
            })
        };
        let [blue, green] = &self.servers;
        Ok([find(blue)?, find(green)?])
    }

    async fn sessions(&self, server: &Server, deadline: Instant) -> PortResult<u64> {
        let (backend, id) = server.ids;
        // Type 4: a server.
        let command = format!("show stat {backend} 4 {id}");
        let answer = self.ask(&command, deadline).await?;
        table::sessions(&answer).ok_or_else(|| {
            self.error(format!("{command}: an answer that can't be read: {}", answer.len()))
        })
    }

    async fn set(&self, side: Side, what: &str, deadline: Instant) -> PortResult<()> {
        let command = format!("set server {}/{} {what}", self.backend, self.server(side));
        self.tell(&command, deadline).await
    }

    /// Where clients belong is noted as weights.
    async fn note(&self, side: Side, servers: &[Server; 2], deadline: Instant) -> PortResult<()> {
        let [blue, green] = servers;
        let (server, other) = match side {
            Side::Blue => (blue, green),
            Side::Green => (green, blue),
        };
        if server.weight == 0 {
            let weight = format!("weight {}", server.configured.max(1));
            self.set(side, &weight, deadline).await?;
        }
        if other.weight > 0 {
            self.set(side.other(), "weight 0", deadline).await?;
        }
        Ok(())
    }

    /// Where clients belong.
    fn noted(servers: &[Server; 2]) -> Option<Side> {
        match servers.each_ref().map(|server| server.weight > 0) {
            [true, false] => Some(Side::Blue),
            [false, true] => Some(Side::Green),
            _ => None,
        }
    }

    /// Which servers take clients.
    fn open_sides(servers: &[Server; 2]) -> Vec<Side> {
        let open = |side: &Side| !servers[usize::from(*side == Side::Green)].is_closed();
        Side::ALL.into_iter().filter(open).collect()
    }

    /// No server takes clients, and no session is left. How many were cut.
    pub async fn close(&self, deadline: Instant) -> PortResult<u64> {
        let servers = self.servers(deadline).await?;
        match Self::open_sides(&servers)[..] {
            [] => {}
            [side] => self.note(side, &servers, deadline).await?,
            _ => {
                let what = format!("{} sends clients to both servers", self.backend);
                return Err(self.error(what).remedy("put the one that does not serve to maint"));
            }
        }
        for side in Side::ALL {
            self.set(side, "state maint", deadline).await?;
        }
        let mut cut = 0;
        for server in &servers {
            let mut left = self.sessions(server, deadline).await?;
            cut += left;
            while left > 0 {
                let shutdown = format!("shutdown sessions server {}/{}", self.backend, server.name);
                self.tell(&shutdown, deadline).await?;
                left = self.sessions(server, deadline).await?;
                if left > 0 {
                    if Instant::now() >= deadline {
                        let what = format!("{left} sessions of {} do not end", server.name);
                        return Err(self.error(what));
                    }
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
            }
        }
        Ok(cut)
    }

    /// Whether no server takes clients, and no session is left.
    pub async fn is_closed(&self, deadline: Instant) -> PortResult<bool> {
        let servers = self.servers(deadline).await?;
        if !Self::open_sides(&servers).is_empty() {
            return Ok(false);
        }
        for server in &servers {
            if self.sessions(server, deadline).await? > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Clients belong to `side` from now on; nobody is let in yet, unless they were by
    /// [`HaProxy::open_at`]. Closes it first if it was started anew and has forgotten that.
    pub async fn point(&self, side: Side, deadline: Instant) -> PortResult<Member> {
        let mut servers = self.servers(deadline).await?;
        let is_open_there = Self::open_sides(&servers)[..] == [side];
        if is_open_there && Self::noted(&servers) == Some(side) {
            return Ok(self.pointing_at(side));
        }
        if !Self::open_sides(&servers).is_empty() {
            for side in Side::ALL {
                self.set(side, "state maint", deadline).await?;
            }
            for name in &self.servers {
                let shutdown = format!("shutdown sessions server {}/{name}", self.backend);
                self.tell(&shutdown, deadline).await?;
            }
            servers = self.servers(deadline).await?;
        }
        self.note(side, &servers, deadline).await?;
        let noted = Self::noted(&self.servers(deadline).await?);
        if noted != Some(side) {
            return Err(self.error(format!("its weights do not lead to {}", self.server(side))));
        }
        Ok(self.pointing_at(side))
    }

    fn pointing_at(&self, side: Side) -> Member {
        let evidence = format!("{}/{} has the weight", self.backend, self.server(side));
        let target = side.name().to_owned();
        Member { member: self.name.clone(), target, verified: false, evidence }
    }

    /// Lets clients go on if they belong to `side`.
    pub async fn open_at(&self, side: Side, deadline: Instant) -> PortResult<Option<Member>> {
        if Self::noted(&self.servers(deadline).await?) != Some(side) {
            return Ok(None);
        }
        self.open(deadline).await?;
        Ok(Some(self.pointing_at(side)))
    }

    /// Lets clients go on, to where they belong.
    pub async fn open(&self, deadline: Instant) -> PortResult<()> {
        let servers = self.servers(deadline).await?;
        let side = match (Self::noted(&servers), &Self::open_sides(&servers)[..]) {
            // Open as it was, or opened already, or started anew.
            (noted, [open]) if noted.is_none_or(|noted| noted == *open) => return Ok(()),
            (Some(noted), _) => noted,
            (None, _) => {
                let what = "both servers are closed, and nothing says which one clients belong to";
                return Err(self.error(what.into()).remedy(format!(
                    "`set server {}/NAME state ready` for the one that serves",
                    self.backend
                )));
            }
        };
        // First the other one: never are both open.
        self.set(side.other(), "state maint", deadline).await?;
        self.set(side, "state ready", deadline).await?;
        match Self::open_sides(&self.servers(deadline).await?)[..] {
            [open] if open == side => Ok(()),
            _ => Err(self.error(format!("{} is not open", self.server(side)))),
        }
    }

    /// Which server a client reaches. What HAProxy has forgotten is set again.
    pub async fn verify(
        &self,
        to: Side,
        wanted: &Identity,
        deadline: Instant,
    ) -> PortResult<Member> {
        let servers = self.servers(deadline).await?;
        if Self::open_sides(&servers)[..] != [to] {
            tracing::warn!(member = %self.name, "it has forgotten where it leads; set again");
            self.point(to, deadline).await?;
            self.open(deadline).await?;
        }
        let reached = self.reached(deadline).await;
        let reached = reached.map_err(|error| error.at(&self.name, "asking through it"))?;
        let verified = reached == *wanted;
        let target = if verified { to.name() } else { "unknown" };
        let evidence = format!("a client of it reaches {}", reached.shown);
        Ok(Member { member: self.name.clone(), target: target.into(), verified, evidence })
    }

    async fn reached(&self, deadline: Instant) -> Result<Identity, SqlError> {
        identity::through(&self.client, "cutover probe", deadline).await
    }

    /// All prechecks of this member.
    pub async fn inspect(&self, from: Side, serving: &Identity) -> Vec<Check> {
        let deadline = soon();
        let check = |what: &str| format!("haproxy-{what} ({})", self.name);
        let (servers, level) =
            match tokio::try_join!(self.servers(deadline), self.ask("show cli level", deadline)) {
                Ok(found) => found,
                Err(error) => {
                    let fix = error.remedy.clone().unwrap_or("name its backend".into());
                    return vec![Check::fail(check("socket"), error.what, fix)];
                }
            };
        let mut checks = Vec::new();
        checks.push(match level.contains("admin") {
            true => Check::ok(check("socket"), "answers"),
            false => Check::fail(
                check("socket"),
                format!("its socket is of level {level:?}, which may change nothing"),
                "`stats socket .. level admin` in its configuration",
            ),
        });
        checks.push(match &Self::open_sides(&servers)[..] {
            [open] if *open == from => {
                Check::ok(check("servers"), format!("only {} takes clients", self.server(from)))
            }
            [open] => Check::fail(
                check("servers"),
                format!("it leads to {open}, and {from} serves"),
                "exchange `blue` and `green` in [[cutover.haproxy]], or find out who has turned it",
            ),
            [] => Check::fail(
                check("servers"),
                "both servers are in maintenance already",
                format!("find out why, then open {}", self.server(from)),
            ),
            _ => Check::fail(
                check("servers"),
                "both servers take clients",
                format!("`disabled` for {} in its configuration", self.server(from.other())),
            ),
        });
        let [blue, green] = &servers;
        let (serves, other) = if from == Side::Blue { (blue, green) } else { (green, blue) };
        if other.is_kept_closed() {
            checks.push(Check::fail(
                check("maintenance"),
                format!("{} is kept in maintenance by its configuration", other.name),
                "`track` another server or a name that can't be resolved: correct that",
            ));
        }
        if !serves.running {
            checks.push(Check::warn(
                check("health"),
                format!("its own checks say that {} is down", serves.name),
                "see `show stat`",
            ));
        }
        checks.push(Check::warn(
            check("hold"),
            "it can't make clients wait: each gets one error and has to connect again, and new \
             ones are refused in the pause",
            "PgBouncer or the embedded proxy in front of it, if that is not acceptable",
        ));
        checks.push(match self.reached(deadline).await {
            Ok(reached) if reached == *serving => {
                Check::ok(check("probe"), format!("leads to {from}, {}", reached.shown))
            }
            Ok(reached) => Check::fail(
                check("probe"),
                format!("it does not lead to {from} but to {}", reached.shown),
                format!("name the router that {from}'s clients use"),
            ),
            Err(error) => Check::fail(
                check("probe"),
                error.text,
                "set cutover.haproxy.client to what a client would use",
            ),
        });
        checks
    }

    /// For the plan.
    pub fn describe(&self, to: Side, acts: &mut SwitchActs) {
        let act =
            |step: &str, text: String| Act { step: step.into(), place: self.name.clone(), text };
        let set = |side: Side, what: &str| {
            format!("set server {}/{} {what}", self.backend, self.server(side))
        };
        for side in Side::ALL {
            acts.hold.push(act("quiesce", set(side, "state maint")));
        }
        let from = self.server(to.other());
        let shutdown = format!("shutdown sessions server {}/{from}", self.backend);
        acts.hold.push(act("quiesce", shutdown));
        acts.switch.push(act("flip", set(to, "weight 1")));
        acts.switch.push(act("flip", set(to.other(), "weight 0")));
        acts.release.push(act("open", set(to, "state ready")));
        let client = format!("connect as a client to {}", self.client.redacted());
        acts.verify.push(act("open", client));
    }
}
