//! ProxySQL, any number of members, over the admin interface (port 6032): the protocol of MySQL, the
//! statements of SQLite ("Main (runtime)" and "Admin Commands" in its documentation).
//!
//! A hostgroup whose only server is `OFFLINE_SOFT` lets transactions end and makes every other query
//! wait, for `mysql-connect_timeout_server_max` at most. So each hostgroup of ours has one server: where
//! clients belong is which one that is, whether they wait is its status. Another process, or ProxySQL
//! itself when it is started anew, reads both from there.
//!
//! What its tables do not tell:
//! - `mysql_servers` is a draft. What counts is `runtime_mysql_servers`, after LOAD; what is left after a
//!   restart is `disk.mysql_servers`, after SAVE. Each is read, none believed.
//! - LOAD and SAVE take the whole draft along, somebody else's unfinished edits, too: refused beforehand.
//! - Sessions with temporary tables, locks or variables keep their server connection without a
//!   transaction, for ever (threads #624, #1632). After a moment they are cut.
//! - A server that was taken out stays `OFFLINE_HARD` at run time while a session keeps a connection to it;
//!   it takes no queries.
//! - Its monitor moves servers between the hostgroups of `mysql_replication_hostgroups` when their
//!   `read_only` changes, which our fence does: refused beforehand.
//! - Every refusal has the number 1045.

mod console;
mod member;
mod precheck;
mod table;

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::time::Instant;

use super::config::{ProxySqlConfig, SwitchConfigError};
use super::{identity, those_that_did};
use crate::api::{Check, Member};
use crate::evidence::Committed;
use crate::login::Login;
use crate::ports::{Epoch, Moves, PortResult, SwitchActs, SwitchTraits, TrafficSwitch};
use crate::side::Side;
use crate::sql::soon;
use member::ProxySql;

/// Every ProxySQL in front of the databases.
pub struct ProxySqlSwitch {
    members: Vec<ProxySql>,
    ends: [Login; 2],
}

impl ProxySqlSwitch {
    /// From the configuration.
    ///
    /// # Errors
    /// The databases are of PostgreSQL, or a URL or an address can't be read.
    pub fn new(
        members: &[ProxySqlConfig],
        blue: &Login,
        green: &Login,
    ) -> Result<Self, SwitchConfigError> {
        let members = members.iter().map(|member| ProxySql::new(member, blue, green));
        let members = members.collect::<Result<_, _>>()?;
        Ok(Self { members, ends: [blue.clone(), green.clone()] })
    }

    fn end(&self, side: Side) -> &Login {
        match side {
            Side::Blue => &self.ends[0],
            Side::Green => &self.ends[1],
        }
    }
}

impl TrafficSwitch for ProxySqlSwitch {
    fn traits(&self) -> SwitchTraits {
        SwitchTraits { holds: true, moves: Moves::Transparently, members: self.members.len() }
    }

    async fn inspect(&self, from: Side, max_pause: Duration) -> PortResult<Vec<Check>> {
        let serving = identity::of_side(self.end(from), from, soon()).await?;
        let members = self.members.len();
        let each =
            self.members.iter().map(|member| member.inspect(from, &serving, max_pause, members));
        Ok(join_all(each).await.into_iter().flatten().collect())
    }

    async fn arm(&self, _to: Side, deadline: Instant) -> PortResult<()> {
        try_join_all(self.members.iter().map(|member| member.runtime(deadline))).await.map(|_| ())
    }

    async fn hold(&self, _epoch: Epoch, deadline: Instant) -> PortResult<String> {
        let cut = try_join_all(self.members.iter().map(|member| member.hold(deadline))).await?;
        let cut: usize = cut.iter().sum();
        Ok(format!("{0}/{0} proxysqls hold, {cut} sessions cut", self.members.len()))
    }

    async fn holding(&self, _epoch: Epoch, deadline: Instant) -> PortResult<bool> {
        let holding = self.members.iter().map(|member| member.holds(deadline));
        Ok(try_join_all(holding).await?.into_iter().all(|holds| holds))
    }

    async fn switch(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        let to = proof.to();
        // All to their end: one that can't be told must not keep another from it.
        let pointed = self.members.iter().map(|member| member.point(to, deadline));
        join_all(pointed).await.into_iter().collect()
    }

    async fn open_switched(&self, proof: &Committed, deadline: Instant) -> Vec<Member> {
        let to = proof.to();
        let opened = self.members.iter().map(|member| member.open_at(to, deadline));
        those_that_did(join_all(opened).await)
    }

    async fn release(&self, _epoch: Epoch, deadline: Instant) -> PortResult<()> {
        let opened = self.members.iter().map(|member| member.open(deadline));
        join_all(opened).await.into_iter().collect()
    }

    async fn verify(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        let to = proof.to();
        let wanted = identity::of_side(self.end(to), to, deadline).await?;
        let each = self.members.iter().map(|member| member.verify(to, &wanted, deadline));
        try_join_all(each).await
    }

    fn name(&self) -> String {
        format!("proxysql x{}", self.members.len())
    }

    fn describe(&self, to: Side) -> SwitchActs {
        let mut acts = SwitchActs::default();
        for member in &self.members {
            member.describe(to, &mut acts);
        }
        acts
    }
}
