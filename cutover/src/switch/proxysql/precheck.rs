//! What ProxySQL would do to a cutover is found out before anybody is made to wait.

use std::time::Duration;

use tokio::time::Instant;

use super::member::{DISK, DRAFT, ProxySql};
use super::table::{Entry, Status};
use crate::api::Check;
use crate::ports::{PortError, PortResult};
use crate::side::Side;
use crate::sql::{TextRow, soon};
use crate::switch::identity::Identity;

/// Tables by which the monitor moves servers between hostgroups by itself. Not every version has all.
const MOVED_BY_MONITOR: [&str; 4] = [
    "runtime_mysql_replication_hostgroups",
    "runtime_mysql_group_replication_hostgroups",
    "runtime_mysql_galera_hostgroups",
    "runtime_mysql_aws_aurora_hostgroups",
];
/// How long a query waits for a server, in milliseconds.
const PATIENCE: &str = "mysql-connect_timeout_server_max";
const MONITOR: &str = "mysql-monitor_enabled";
const READ_ONLY: &str = "admin-read_only";

impl ProxySql {
    /// All prechecks of this member, which is one of `members`.
    pub async fn inspect(
        &self,
        from: Side,
        serving: &Identity,
        max_pause: Duration,
        members: usize,
    ) -> Vec<Check> {
        let deadline = soon();
        let looking = async {
            let runtime = self.runtime(deadline).await?;
            let variables = self.variables(deadline).await?;
            let mut checks = vec![self.admin(&variables)];
            checks.push(self.hostgroups_lead(from, &runtime));
            checks.extend(self.elsewhere(&runtime));
            checks.extend(self.drafts(&runtime, deadline).await?);
            checks.push(self.patience(&variables, max_pause));
            checks.extend(self.moved_by_monitor(&variables, deadline).await?);
            checks.extend(self.cluster(members, deadline).await?);
            checks.extend(self.scripts(deadline).await?);
            Ok::<_, PortError>((self.places.is_closed(&runtime), checks))
        };
        match looking.await {
            Ok((closed, mut checks)) => {
                // Through one that is closed a probe would only wait.
                if !closed {
                    checks.push(self.probe(from, serving, deadline).await);
                }
                checks
            }
            Err(error) => {
                let fix = error.remedy.clone().unwrap_or_else(|| {
                    "an account of admin-admin_credentials, not of admin-stats_credentials".into()
                });
                vec![Check::fail(self.check("admin"), error.what, fix)]
            }
        }
    }

    fn check(&self, what: &str) -> String {
        format!("proxysql-{what} ({})", self.name)
    }

    async fn variables(&self, deadline: Instant) -> PortResult<Vec<TextRow>> {
        let sql = format!(
            "SELECT variable_name, variable_value FROM runtime_global_variables WHERE \
             variable_name IN ('{PATIENCE}','{MONITOR}','{READ_ONLY}')"
        );
        self.console.rows(&sql, deadline).await
    }

    fn admin(&self, variables: &[TextRow]) -> Check {
        match is_true(variables, READ_ONLY) {
            true => Check::fail(
                self.check("admin"),
                format!("{READ_ONLY} is set: its servers can't be changed"),
                format!("SET {READ_ONLY}='false'; LOAD ADMIN VARIABLES TO RUNTIME"),
            ),
            false => Check::ok(self.check("admin"), "answers"),
        }
    }

    fn hostgroups_lead(&self, from: Side, runtime: &[Entry]) -> Check {
        let name = self.check("hostgroups");
        let (serves, other) = (self.places.of(from), self.places.of(from.other()));
        match self.places.leads(runtime) {
            Ok((side, true)) if side == from => Check::ok(name, format!("lead to {serves}")),
            Ok((side, true)) => Check::fail(
                name,
                format!("it leads to {side}, and {from} serves"),
                "correct `blue` and `green` in [[cutover.proxysql]], or find out who has turned it",
            ),
            Ok((_, false)) => Check::fail(
                name,
                format!("{serves} is OFFLINE_SOFT already"),
                "find out why, then UPDATE mysql_servers SET status='ONLINE' .., LOAD MYSQL SERVERS \
                 TO RUNTIME",
            ),
            Err(why) => Check::fail(
                name,
                why,
                format!(
                    "each hostgroup that is named needs {serves} and no other server (not {other} \
                     either: a flip exchanges them); replicas belong into a hostgroup of their own. \
                     Where ProxySQL knows them by other names, `blue` and `green` of \
                     [[cutover.proxysql]] say which"
                ),
            ),
        }
    }

    /// Hostgroups that are not named: their clients would neither be held nor moved.
    fn elsewhere(&self, runtime: &[Entry]) -> Vec<Check> {
        let others = || {
            let other = |entry: &&Entry| {
                !self.places.is_ours(entry.hostgroup) && entry.status != Status::OfflineHard
            };
            runtime.iter().filter(other)
        };
        let is_side =
            |entry: &&Entry| Side::ALL.iter().any(|at| *self.places.of(*at) == entry.address);
        let names = |entries: Vec<&Entry>| {
            let names: Vec<_> = entries.iter().map(ToString::to_string).collect();
            names.join(", ")
        };
        let mut checks = Vec::new();
        let same = names(others().filter(is_side).collect());
        if !same.is_empty() {
            checks.push(Check::fail(
                self.check("elsewhere"),
                format!("blue or green serves other hostgroups, too: {same}"),
                "name these in `hostgroup = [..]`, or take it out of them",
            ));
        }
        let different = names(others().filter(|entry| !is_side(entry)).collect());
        if !different.is_empty() {
            checks.push(Check::warn(
                self.check("others"),
                format!("other hostgroups have servers that stay as they are: {different}"),
                "replicas of the side that closes get nothing new after the flip: replace them by \
                 replicas of the other side",
            ));
        }
        checks
    }

    /// LOAD and SAVE take the whole draft along.
    async fn drafts(&self, runtime: &[Entry], deadline: Instant) -> PortResult<Vec<Check>> {
        let draft = self.servers(DRAFT, deadline).await?;
        let disk = self.servers(DISK, deadline).await?;
        let mut checks = Vec::new();
        if settled(&draft) != settled(runtime) {
            checks.push(Check::fail(
                self.check("draft"),
                "mysql_servers has changes that were not loaded, and a hold would load them",
                "LOAD MYSQL SERVERS TO RUNTIME, or SAVE MYSQL SERVERS FROM RUNTIME to drop them",
            ));
        }
        if settled(&disk) != settled(runtime) {
            checks.push(Check::warn(
                self.check("disk"),
                "a restart would bring other servers than it has now; the flip saves all of them",
                "SAVE MYSQL SERVERS TO DISK, if they are right as they are now",
            ));
        }
        Ok(checks)
    }

    fn patience(&self, variables: &[TextRow], max_pause: Duration) -> Check {
        let name = self.check("patience");
        let known = value(variables, PATIENCE).and_then(|ms| ms.parse().ok());
        let Some(patience) = known.map(Duration::from_millis) else {
            let what = format!("it does not say its {PATIENCE}");
            return Check::fail(name, what, "see its runtime_global_variables");
        };
        let said = format!("queries wait {} ms ({PATIENCE})", patience.as_millis());
        match patience < max_pause {
            true => Check::fail(
                name,
                format!("{said}, and the pause may take {} ms", max_pause.as_millis()),
                format!(
                    "SET {PATIENCE}={}; LOAD MYSQL VARIABLES TO RUNTIME; or a shorter --max-pause",
                    2 * max_pause.as_millis()
                ),
            ),
            false => Check::ok(name, said),
        }
    }

    async fn moved_by_monitor(
        &self,
        variables: &[TextRow],
        deadline: Instant,
    ) -> PortResult<Option<Check>> {
        if !is_true(variables, MONITOR) {
            return Ok(None);
        }
        for table in MOVED_BY_MONITOR {
            for row in self.console.rows_if_there(table, deadline).await? {
                let Some((group, role)) = self.named_in(&row) else { continue };
                let draft = table.trim_start_matches("runtime_");
                return Ok(Some(Check::fail(
                    self.check("monitor"),
                    format!(
                        "hostgroup {group} is the {role} of a row in {draft}: its monitor moves \
                         servers out of it and back by itself when their read_only changes, as it \
                         does when a side closes and opens"
                    ),
                    format!(
                        "DELETE FROM {draft} WHERE {role}={group}; LOAD MYSQL SERVERS TO RUNTIME; \
                         for the time between cutover and finish"
                    ),
                )));
            }
        }
        Ok(None)
    }

    /// Which of our hostgroups a row names, and as what.
    fn named_in(&self, row: &TextRow) -> Option<(u32, String)> {
        row.fields().find_map(|(name, value)| {
            let group = value?.parse().ok().filter(|group| self.places.is_ours(*group))?;
            name.ends_with("hostgroup").then(|| (group, name.to_owned()))
        })
    }

    /// Nodes of its cluster take servers over from each other, but only after seconds.
    async fn cluster(&self, members: usize, deadline: Instant) -> PortResult<Option<Check>> {
        let nodes = self.console.rows_if_there("runtime_proxysql_servers", deadline).await?;
        Ok((nodes.len() > members).then(|| {
            Check::fail(
                self.check("cluster"),
                format!(
                    "its cluster has {} nodes, and the configuration names {members}: clients of \
                     the others would neither be held nor moved in time",
                    nodes.len()
                ),
                "a [[cutover.proxysql]] for each node of runtime_proxysql_servers",
            )
        }))
    }

    /// Programs that ProxySQL runs by itself.
    async fn scripts(&self, deadline: Instant) -> PortResult<Option<Check>> {
        let rows = self.console.rows_if_there("runtime_scheduler", deadline).await?;
        let active = rows.iter().filter(|row| row.get("active") == Some("1"));
        let names: Vec<_> = active.filter_map(|row| row.get("filename")).collect();
        Ok((!names.is_empty()).then(|| {
            Check::warn(
                self.check("scheduler"),
                format!("it runs programs by itself: {}", names.join(", ")),
                "those that change mysql_servers have to rest during a cutover",
            )
        }))
    }

    async fn probe(&self, from: Side, serving: &Identity, deadline: Instant) -> Check {
        let name = self.check("probe");
        match self.reached(deadline).await {
            Ok(reached) if reached == *serving => {
                Check::ok(name, format!("leads to {from}, {}", reached.shown))
            }
            Ok(reached) => Check::fail(
                name,
                format!("it does not lead to {from} but to {}", reached.shown),
                format!("name the router that {from}'s clients use; see its mysql_query_rules"),
            ),
            Err(error) => Check::fail(
                name,
                error.text,
                "set cutover.proxysql.client to what a client would use",
            ),
        }
    }
}

/// What somebody has decided about each server: that one is left alone for a moment is no decision,
/// and one that was taken out is only gone.
fn settled(entries: &[Entry]) -> Vec<Entry> {
    let mut settled: Vec<_> = entries
        .iter()
        .filter(|entry| entry.status != Status::OfflineHard)
        .map(|entry| match entry.status {
            Status::Shunned => Entry { status: Status::Online, ..entry.clone() },
            _ => entry.clone(),
        })
        .collect();
    settled.sort_unstable();
    settled
}

fn value<'a>(variables: &'a [TextRow], name: &str) -> Option<&'a str> {
    let row = variables.iter().find(|row| row.get("variable_name") == Some(name))?;
    row.get("variable_value")
}

fn is_true(variables: &[TextRow], name: &str) -> bool {
    value(variables, name).is_some_and(|value| matches!(value, "true" | "1"))
}
