//! HAProxy in TCP mode, any number of members, over its stats socket ("Runtime API" in its
//! management guide; level `admin`).
//!
//! HAProxy knows nothing of transactions, so it does not hold: both servers go to maintenance,
//! sessions are cut, and whoever connects in the pause is refused. Where a member points while both
//! are closed is kept in HAProxy itself, so that another process can release what a dead one has
//! held: the server that clients belong to has a weight, the other one has weight 0.
//!
//! What is set at run time is lost when HAProxy is started anew, so [`HaProxySwitch::verify`] sets
//! it again where that is missing: by then it is decided.

mod member;
mod socket;
mod table;

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::time::Instant;

use super::config::{HaProxyConfig, SwitchConfigError};
use super::{identity, those_that_did};
use crate::api::{Check, Member};
use crate::evidence::Committed;
use crate::login::Login;
use crate::ports::{Epoch, Moves, PortResult, SwitchActs, SwitchTraits, TrafficSwitch};
use crate::side::Side;
use crate::sql::soon;
use member::HaProxy;

/// Every HAProxy in front of the databases.
pub struct HaProxySwitch {
    members: Vec<HaProxy>,
    ends: [Login; 2],
}

impl HaProxySwitch {
    /// From the configuration.
    ///
    /// # Errors
    /// A connection string can't be read.
    pub fn new(
        members: &[HaProxyConfig],
        blue: &Login,
        green: &Login,
    ) -> Result<Self, SwitchConfigError> {
        let members = members.iter().map(|member| HaProxy::new(member, blue));
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

impl TrafficSwitch for HaProxySwitch {
    fn traits(&self) -> SwitchTraits {
        SwitchTraits { holds: false, moves: Moves::ByReconnect, members: self.members.len() }
    }

    async fn inspect(&self, from: Side, _max_pause: Duration) -> PortResult<Vec<Check>> {
        let serving = identity::of_side(self.end(from), from, soon()).await?;
        let each = self.members.iter().map(|member| member.inspect(from, &serving));
        let checks = join_all(each).await;
        Ok(checks.into_iter().flatten().collect())
    }

    async fn arm(&self, _to: Side, deadline: Instant) -> PortResult<()> {
        try_join_all(self.members.iter().map(|member| member.servers(deadline))).await.map(|_| ())
    }

    async fn hold(&self, _epoch: Epoch, deadline: Instant) -> PortResult<String> {
        let cut = try_join_all(self.members.iter().map(|member| member.close(deadline))).await?;
        let cut: u64 = cut.iter().sum();
        Ok(format!("{0}/{0} haproxys are closed, {cut} sessions cut", self.members.len()))
    }

    async fn holding(&self, _epoch: Epoch, deadline: Instant) -> PortResult<bool> {
        let closed = self.members.iter().map(|member| member.is_closed(deadline));
        Ok(try_join_all(closed).await?.into_iter().all(|closed| closed))
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
        format!("haproxy x{}", self.members.len())
    }

    fn describe(&self, to: Side) -> SwitchActs {
        let mut acts = SwitchActs::default();
        for member in &self.members {
            member.describe(to, &mut acts);
        }
        acts
    }
}
