//! Our own proxy (`replicator proxy`) as a traffic switch: orders over its control socket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use decoders::mysql::server::{ServerUrl, literal};
use tokio::time::Instant;

use super::config::SwitchConfigError;
use super::identity::{self, Identity};
use super::those_that_did;
use crate::api::{Act, Check, Member};
use crate::evidence::Committed;
use crate::login::Login;
use crate::ports::{Epoch, Moves, PortError, PortResult, SwitchActs, SwitchTraits, TrafficSwitch};
use crate::proxy::control::{Answer, Order, VERSION, WAY_OUT, order};
use crate::proxy::{End, InTransaction, ProxyConfig, told, unusable};
use crate::side::Side;
use crate::sql::mysql::MysqlSession;
use crate::sql::{Kind, SqlError, TextRow, open, soon};

const PROXY: &str = "proxy";
/// The longest that transactions may take to end.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Clients go on by themselves this long after the window has ended, to where the proxy leads then.
/// Harmless on either side: the one that must not be written is closed by then.
const HOLD_LIMIT: Duration = Duration::from_secs(60);

/// SQLSTATE of a connection to a database with `ALLOW_CONNECTIONS false`.
const CLOSED: &str = "55000";

/// The embedded proxy.
pub struct EmbeddedSwitch {
    control: PathBuf,
    blue: Login,
    green: Login,
    client: Login,
    /// As a client of blue's or green's user, when no connection string says otherwise.
    client_follows: bool,
    listen: SocketAddr,
    in_transaction: InTransaction,
    implicit: bool,
    serial: AtomicU64,
}

impl EmbeddedSwitch {
    /// From the configuration.
    ///
    /// # Errors
    /// Its control socket is not known, or the client's connection string can't be read.
    pub fn new(
        config: &ProxyConfig,
        blue: &Login,
        green: &Login,
    ) -> Result<Self, SwitchConfigError> {
        let Some(control) = config.control.clone() else {
            return Err(SwitchConfigError("cutover.proxy.control is required".into()));
        };
        let mut at = config.listen;
        if at.ip().is_unspecified() {
            at.set_ip(if at.is_ipv4() {
                [127, 0, 0, 1].into()
            } else {
                [0, 0, 0, 0, 0, 0, 0, 1].into()
            });
        }
        let client = match (&config.client, blue) {
            (Some(client), _) => Login::of_client(client, blue),
            (None, Login::Mysql(url)) => {
                Ok(Login::from(through(url, &at.ip().to_string(), at.port())))
            }
            (None, Login::Postgres(_)) => {
                Login::parse(&format!("hostaddr={} port={} sslmode=prefer", at.ip(), at.port()))
            }
        };
        let client =
            client.map_err(|error| SwitchConfigError(format!("cutover.proxy.client: {error}")))?;
        Ok(Self {
            control,
            blue: blue.clone(),
            green: green.clone(),
            client,
            client_follows: config.client.is_none(),
            listen: config.listen,
            in_transaction: config.in_transaction,
            implicit: config.implicit,
            serial: AtomicU64::new(0),
        })
    }

    /// Sides that let in whoever comes from the proxy's host, for they would let in all of its clients.
    fn unasked(&self, answer: &Answer) -> Vec<Check> {
        let found = answer.opposite.iter().flat_map(|opposite| &opposite.unasked);
        let fail = |(side, users): (&Side, &BTreeSet<String>)| {
            let users: Vec<_> = users.iter().map(String::as_str).collect();
            Check::fail(
                "proxy-trust",
                format!(
                    "{side} lets {} in from the proxy's host without a password, and the proxy \
                     takes clients at {}: everybody who reaches that is let in as they are",
                    users.join(", "),
                    answer.listen
                ),
                "let the server ask the proxy's host for passwords (pg_hba.conf: scram-sha-256; \
                 MySQL: give the accounts one), or let the proxy listen on loopback only",
            )
        };
        found.map(fail).collect()
    }

    /// How long transactions may take to end, so that there is time for what follows: to cut those that
    /// have not, or to say which they are before the window is over.
    fn wait_within(&self, window: Duration) -> Duration {
        let part = match self.in_transaction {
            InTransaction::Wait => window * 4 / 5,
            InTransaction::Cut => window * 2 / 5,
        };
        part.min(WAIT_MAX)
    }

    /// Sessions that have something under way for longer than a run would wait for them.
    fn lasting(&self, answer: &Answer, max_pause: Duration) -> Option<Check> {
        let lasting = answer.sessions.iter().filter(|session| session.age() >= max_pause);
        let lasting: Vec<_> = lasting.cloned().collect();
        if lasting.is_empty() {
            return None;
        }
        let who = told(&lasting);
        let (what, fix) = match self.in_transaction {
            InTransaction::Wait => (
                format!(
                    "sessions that last longer than the write pause may, so a run would stop: {who}"
                ),
                "let them come to an end, or end them; cutover.proxy.in_transaction = \"cut\" \
                 gives those an error that do not end in time, and goes on",
            ),
            InTransaction::Cut => (
                format!(
                    "sessions that a run would cut, because they last longer than the write pause may: {who}"
                ),
                "they get one error at the flip and have to connect again",
            ),
        };
        Some(Check::warn("proxy-busy", what, fix))
    }

    fn side(&self, side: Side) -> &Login {
        match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        }
    }

    /// A number larger than any that was used before, also by an earlier process.
    fn next_serial(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let next = |last: u64| Some(now.max(last.saturating_add(1)));
        match self.serial.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next) {
            Ok(last) | Err(last) => now.max(last.saturating_add(1)),
        }
    }

    /// Gives an order. What the proxy itself has to object is in the answer.
    async fn ask(&self, what: &Order, deadline: Instant) -> PortResult<Answer> {
        let remedy = "`replicator run` starts it, if cutover.proxy.start is not false; \
                      see proxy.log in the state directory";
        match tokio::time::timeout_at(deadline, order(&self.control, what)).await {
            Ok(Ok(answer)) => {
                self.serial.fetch_max(answer.serial, Ordering::SeqCst);
                Ok(answer)
            }
            Ok(Err(error)) => Err(PortError::new(
                PROXY,
                format!("it does not answer at {}: {error}", self.control.display()),
            )
            .remedy(remedy)
            .in_doubt()),
            Err(_) => {
                Err(PortError::new(PROXY, "it has not answered in time").remedy(remedy).in_doubt())
            }
        }
    }

    /// Gives an order that has to be carried out.
    async fn carry_out(&self, what: &Order, deadline: Instant) -> PortResult<Answer> {
        let answer = self.ask(what, deadline).await?;
        match &answer.error {
            None => Ok(answer),
            Some(error) if answer.version != VERSION => {
                let what = format!("{error}; {}", of_another_version(&answer));
                Err(PortError::new(PROXY, what).remedy(WAY_OUT))
            }
            Some(error) => Err(PortError::new(PROXY, error.clone())),
        }
    }

    /// Which server a client of the proxy reaches.
    async fn reached(&self, side: Side, deadline: Instant) -> Result<Identity, SqlError> {
        let client = match (self.side(side), &self.client) {
            (Login::Postgres(info), Login::Postgres(client)) if self.client_follows => {
                let password = info.hosts().first().and_then(|host| info.password_for(host));
                let client = client.with_dbname(info.dbname()).with_user(info.user(), password);
                Login::from(client)
            }
            (Login::Mysql(url), Login::Mysql(client)) if self.client_follows => {
                let (host, port) = client.address();
                Login::from(through(url, host, port))
            }
            (_, client) => client.clone(),
        };
        identity::through(&client, "cutover router", deadline).await
    }

    async fn identity_of(&self, side: Side, deadline: Instant) -> PortResult<Identity> {
        identity::of_side(self.side(side), side, deadline).await
    }

    /// Whether the proxy was told the same servers as we were.
    fn told(&self, answer: &Answer) -> Option<Check> {
        let fix = "give both the same connection strings; `replicator proxy --stop` ends the one \
                   that runs, and its clients connect again to the one that is started then";
        for side in Side::ALL {
            if let Some(why) = unusable(self.side(side)) {
                return Some(Check::fail("proxy-hosts", format!("{side}: {why}"), fix));
            }
            let ours = End::of(self.side(side));
            let what = match answer.end(side) {
                Some(theirs) if *theirs == ours => continue,
                Some(theirs) => {
                    format!("{side} is {theirs} to the proxy, and {ours} to the sidecar")
                }
                None => {
                    format!("the proxy is of an earlier version and does not say what {side} is")
                }
            };
            return Some(Check::fail("proxy-ends", what, fix));
        }
        None
    }

    /// Whether the proxy would lead its clients to the same server as the sidecar means by `to`, and
    /// whether they would get in there.
    async fn opposite(&self, to: Side, answer: &Answer) -> Vec<Check> {
        let fail = |what: String| {
            vec![Check::fail(
                "proxy-opposite",
                what,
                format!(
                    "make {to} reachable from where the proxy runs, the same way as for the sidecar"
                ),
            )]
        };
        let wanted = identity::directly(self.side(to), soon()).await;
        let found = answer.opposite.clone().unwrap_or_default();
        let server = found.server.as_ref().map(Identity::of_server);
        let refusal = found.error.unwrap_or_else(|| "it does not say why".into());
        let mut checks = match (wanted, server) {
            (Ok(wanted), Some(server)) if wanted == server => {
                vec![Check::ok("proxy-opposite", format!("{to} is {} to it, too", server.shown))]
            }
            (Ok(wanted), Some(server)) => {
                fail(format!("it would lead to {}, and {to} is {}", server.shown, wanted.shown))
            }
            (Ok(_), None) => fail(format!("{to} does not let the proxy in: {refusal}")),
            // Nobody gets into a database that an earlier run has closed; what the proxy was told
            // was compared.
            (Err(error), None) if error.is(CLOSED) => {
                vec![Check::ok("proxy-opposite", format!("{to} is closed, to the proxy as well"))]
            }
            (Err(error), _) => fail(format!("{to} does not let the sidecar in: {}", error.text)),
        };
        if !found.refused.is_empty() {
            let who: Vec<_> =
                found.refused.iter().map(|(user, why)| format!("{user} ({why})")).collect();
            checks.push(Check::warn(
                "proxy-logins",
                format!(
                    "{to} refuses clients' logins as the proxy would repeat them: {}",
                    who.join(", ")
                ),
                match self.side(to) {
                    Login::Postgres(_) => {
                        format!("give {to} the same roles, passwords (verifiers) and pg_hba.conf rules")
                    }
                    Login::Mysql(_) => format!(
                        "give {to} the same accounts, passwords and grants, for where the proxy runs"
                    ),
                },
            ));
        }
        checks
    }

    /// Sessions on `from` that no client of the proxy has, by application: they would not be held,
    /// but closed.
    async fn beside(
        &self,
        from: Side,
        proxied: &[u32],
        deadline: Instant,
    ) -> PortResult<BTreeMap<String, u64>> {
        let doing = |error: SqlError| error.at(from.name(), "looking for its clients");
        let info = match self.side(from) {
            Login::Postgres(info) => info,
            Login::Mysql(url) => return beside_mysql(url, proxied, deadline).await.map_err(doing),
        };
        let session = open(info, "cutover router", Kind::Server, deadline).await;
        let session = session.map_err(doing)?;
        let proxied: Vec<_> = proxied.iter().map(u32::to_string).collect();
        // Who may not see what others do still sees who is there.
        let sql = format!(
            "SELECT coalesce(nullif(application_name, ''), usename::text, '?') AS who, \
                    count(*) AS count \
             FROM pg_catalog.pg_stat_activity \
             WHERE datname = pg_catalog.current_database() AND usename IS NOT NULL \
               AND (backend_type IS NULL OR backend_type = 'client backend') \
               AND application_name NOT LIKE 'cutover%' \
               AND NOT pid = ANY ('{{{}}}'::int[]) \
             GROUP BY 1 ORDER BY 1",
            proxied.join(",")
        );
        let rows = session.rows(&sql, deadline).await.map_err(doing)?;
        let one = |row: &TextRow| {
            Ok((row.get("who").unwrap_or_default().to_owned(), row.number("count")?))
        };
        rows.iter().map(one).collect::<Result<_, SqlError>>().map_err(doing)
    }

    /// Whether clients use the proxy at all.
    async fn users(&self, from: Side, answer: &Answer) -> PortResult<Option<Check>> {
        let beside = self.beside(from, &answer.servers, soon()).await?;
        if beside.is_empty() {
            return Ok(None);
        }
        let count: u64 = beside.values().sum();
        let what = format!(
            "{count} sessions reach {from} past the proxy ({}); they would be closed, and \
             not find {} by themselves",
            counted(&beside),
            from.other()
        );
        let fix = format!("let them connect to the proxy at {}", self.listen);
        // Nobody has said that the proxy is the router, and nobody uses it.
        Ok(Some(match self.implicit && answer.clients == 0 {
            true => Check::fail(
                "proxy-unused",
                what,
                format!("{fix}; or name the router that they use under [cutover]"),
            ),
            false => Check::warn("proxy-beside", what, fix),
        }))
    }

    fn act(&self, step: &str, text: String) -> Act {
        Act { step: step.into(), place: PROXY.into(), text }
    }
}

/// The same of MySQL and MariaDB, by account. Ours is nobody else's.
async fn beside_mysql(
    url: &ServerUrl,
    proxied: &[u32],
    deadline: Instant,
) -> Result<BTreeMap<String, u64>, SqlError> {
    let mut session = MysqlSession::open(url, deadline).await?;
    let proxied: Vec<_> = proxied.iter().map(u32::to_string).collect();
    let ids = if proxied.is_empty() { "0".to_owned() } else { proxied.join(",") };
    let of = |table: &str| {
        format!(
            "SELECT user AS who, count(*) AS count FROM {table} \
             WHERE id NOT IN ({ids}) AND user <> {} AND command NOT LIKE 'Binlog Dump%' \
               AND command NOT IN ('Daemon', 'Connect', 'Killed') \
               AND user NOT IN ('system user', 'event_scheduler', 'unauthenticated user') \
             GROUP BY user ORDER BY user",
            literal(url.user())
        )
    };
    // MySQL's other table takes a lock of all sessions, and MariaDB has no such one.
    let rows = match session.run(&of("performance_schema.processlist"), deadline).await {
        Ok(answer) => answer.rows,
        Err(error) if error.is_missing() => {
            session.run(&of("information_schema.processlist"), deadline).await?.rows
        }
        Err(error) => return Err(error.into()),
    };
    let one =
        |row: &TextRow| Ok((row.get("who").unwrap_or_default().to_owned(), row.number("count")?));
    rows.iter().map(one).collect()
}

/// As a client of our own proxy, which has another certificate than the server.
fn through(url: &ServerUrl, host: &str, port: u16) -> ServerUrl {
    url.at(host, port).preferring_tls()
}

fn of_another_version(answer: &Answer) -> String {
    match answer.version {
        0 => format!(
            "the proxy is of an earlier version, and this sidecar's orders are of {VERSION}"
        ),
        theirs => format!(
            "the proxy takes orders of version {theirs}, and this sidecar's are of {VERSION}"
        ),
    }
}

/// `2 LISTEN, 1 temporary objects`.
fn counted(what: &BTreeMap<String, u64>) -> String {
    let parts: Vec<_> = what.iter().map(|(what, count)| format!("{count} {what}")).collect();
    parts.join(", ")
}

impl TrafficSwitch for EmbeddedSwitch {
    fn traits(&self) -> SwitchTraits {
        SwitchTraits { holds: true, moves: Moves::Transparently, members: 1 }
    }

    async fn inspect(&self, from: Side, max_pause: Duration) -> PortResult<Vec<Check>> {
        let answer = match self.ask(&Order::Survey, soon()).await {
            Ok(answer) => answer,
            Err(error) => {
                let fix = error.remedy.unwrap_or_default();
                return Ok(vec![Check::fail("proxy", error.what, fix)]);
            }
        };
        if answer.version != VERSION {
            return Ok(vec![Check::fail("proxy-version", of_another_version(&answer), WAY_OUT)]);
        }
        let mut checks: Vec<_> = self.told(&answer).into_iter().collect();
        if answer.side != from {
            checks.push(Check::fail(
                "proxy-side",
                format!("it leads to {}, and {from} serves", answer.side),
                "find out who has turned it; `replicator proxy` was started with another state",
            ));
        }
        if answer.holding {
            checks.push(Check::fail(
                "proxy-holding",
                "it holds its clients already",
                "another run is under way; wait, or let it be put back",
            ));
        } else if answer.side == from {
            let wanted = self.identity_of(from, soon()).await?;
            match self.reached(from, soon()).await {
                Ok(reached) if reached == wanted => checks.push(Check::ok(
                    "proxy",
                    format!("{} clients; one of ours reaches {}", answer.clients, reached.shown),
                )),
                Ok(reached) => checks.push(Check::fail(
                    "proxy-target",
                    format!("a client of it reaches {}, which is not {from}", reached.shown),
                    "give the proxy and the sidecar the same configuration",
                )),
                Err(error) => checks.push(Check::fail(
                    "proxy-client",
                    format!("nothing can be asked through it: {}", error.text),
                    "set cutover.proxy.client to what a client would use",
                )),
            }
            checks.extend(self.opposite(from.other(), &answer).await);
        }
        checks.extend(self.users(from, &answer).await?);
        if !answer.pinned.is_empty() {
            let count: u64 = answer.pinned.values().sum();
            checks.push(Check::warn(
                "proxy-pinned",
                format!("{count} clients can't be moved: {}", counted(&answer.pinned)),
                "they get one error at the flip and have to connect again",
            ));
        }
        if answer.unasked > 0 {
            checks.push(Check::warn(
                "proxy-unasked",
                format!(
                    "{} clients are too busy to be asked what ties them to {from}",
                    answer.unasked
                ),
                "who is tied gets one error at the flip and has to connect again; what each is in is \
                 looked at again when clients are held",
            ));
        }
        checks.extend(self.lasting(&answer, max_pause));
        checks.extend(self.unasked(&answer));
        Ok(checks)
    }

    async fn arm(&self, _to: Side, deadline: Instant) -> PortResult<()> {
        // Who is idle now and stays so need not be asked in the window.
        self.carry_out(&Order::Survey, deadline).await.map(|_| ())
    }

    async fn hold(&self, epoch: Epoch, deadline: Instant) -> PortResult<String> {
        let window = deadline.saturating_duration_since(Instant::now());
        let wait = self.wait_within(window);
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let order = Order::Hold {
            epoch: epoch.0,
            serial: self.next_serial(),
            wait_ms: milliseconds(wait),
            limit_ms: milliseconds(window + HOLD_LIMIT),
        };
        let answer = self.carry_out(&order, deadline + Duration::from_secs(1)).await;
        let answer = answer.map_err(|error| match error.remedy {
            Some(_) => error,
            None => error.remedy(
                "a transaction is open for too long, or its client waits for another session of \
                 its own that is held: end it, and try again; or set \
                 cutover.proxy.in_transaction = \"cut\"",
            ),
        })?;
        let mut text = format!("the proxy holds {} clients", answer.held + answer.entering);
        if !answer.pinned.is_empty() {
            text += &format!(" ({} can't be moved)", counted(&answer.pinned));
        }
        Ok(text)
    }

    async fn holding(&self, _epoch: Epoch, deadline: Instant) -> PortResult<bool> {
        Ok(self.carry_out(&Order::Status, deadline).await?.holding)
    }

    async fn switch(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        let order = Order::Route { epoch: proof.epoch().0, side: proof.to() };
        let answer = self.carry_out(&order, deadline).await?;
        let evidence = format!("it leads {} clients there", answer.clients);
        let target = answer.side.name().to_owned();
        Ok(vec![Member { member: PROXY.into(), target, verified: false, evidence }])
    }

    async fn open_switched(&self, proof: &Committed, deadline: Instant) -> Vec<Member> {
        let opened = async {
            let answer = self.carry_out(&Order::Status, deadline).await?;
            if (answer.side, answer.epoch) != (proof.to(), proof.epoch().0) {
                return Ok(None);
            }
            if answer.holding {
                self.release(proof.epoch(), deadline).await?;
            }
            let target = answer.side.name().to_owned();
            let evidence = format!("it leads {} clients there", answer.clients);
            Ok(Some(Member { member: PROXY.into(), target, verified: false, evidence }))
        };
        those_that_did(vec![opened.await])
    }

    async fn release(&self, epoch: Epoch, deadline: Instant) -> PortResult<()> {
        let order = Order::Release { epoch: epoch.0, serial: self.next_serial() };
        self.carry_out(&order, deadline).await.map(|_| ())
    }

    async fn verify(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        let to = proof.to();
        let wanted = self.identity_of(to, deadline).await?;
        let reached = self.reached(to, deadline).await;
        let reached = reached.map_err(|error| error.at(PROXY, "asking through it"))?;
        let answer = self.carry_out(&Order::Status, deadline).await?;
        let verified = reached == wanted;
        let target = if verified { to.name() } else { "unknown" };
        let evidence = format!(
            "a client of it reaches {}; {} sessions moved, {} cut since it was started",
            reached.shown, answer.moved, answer.cut
        );
        Ok(vec![Member { member: PROXY.into(), target: target.into(), verified, evidence }])
    }

    fn name(&self) -> String {
        "embedded proxy".into()
    }

    fn describe(&self, to: Side) -> SwitchActs {
        SwitchActs {
            hold: vec![self.act("quiesce", "hold".into())],
            switch: vec![self.act("flip", format!("route to {to}"))],
            release: vec![self.act("open", "release".into())],
            verify: vec![
                self.act("open", format!("connect as a client to {}", self.client.redacted())),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_grow_past_what_the_proxy_knows() {
        let mut config = ProxyConfig::new(([0, 0, 0, 0], 6432).into());
        let info = Login::parse("postgresql://u@h/d").unwrap();
        assert!(EmbeddedSwitch::new(&config, &info, &info).is_err());
        config.control = Some("/nowhere/proxy.sock".into());
        let switch = EmbeddedSwitch::new(&config, &info, &info).unwrap();
        let first = switch.next_serial();
        assert!(switch.next_serial() > first);
        let ahead = first + 1_000_000_000_000;
        switch.serial.store(ahead, Ordering::SeqCst);
        assert_eq!(switch.next_serial(), ahead + 1);
        assert!(switch.client.redacted().contains("127.0.0.1"), "{}", switch.client.redacted());
    }
}
