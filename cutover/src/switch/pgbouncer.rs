//! PgBouncer, any number of members: `PAUSE`, rewrite `[databases]`, `RELOAD`, `RESUME`.
//!
//! What its console does not tell (seen on 1.18):
//! - `PAUSE db` outlives the connection that asked for it, so going back always says `RESUME`.
//! - While it waits, its connection answers nothing else: each `PAUSE` has one of its own.
//! - `RESUME` of a database that is not paused is an error; whether it holds is looked up instead
//!   of believed.
//! - A `PAUSE` whose sender has gone may still be carried out: see `pause`.
//! - Who connects between RELOAD and RESUME would let everybody wait for `server_login_retry`: see
//!   [`login_retry`].
//! - In session mode `PAUSE` waits for clients to *disconnect*: refused beforehand.
//! - With `min_pool_size` it opens server connections by itself, also while a database is paused:
//!   refused beforehand.
//! - A configuration that can't be written is found out beforehand, too.

mod login_retry;
mod member;
mod pause;
mod precheck;

use std::sync::Arc;
use std::time::Duration;

use decoders::postgres::conninfo::ConnInfo;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::config::{PgBouncerConfig, SwitchConfigError};
use super::identity::{self, Identity};
use super::those_that_did;
use crate::api::{Check, Member};
use crate::evidence::Committed;
use crate::login::Login;
use crate::ports::{Epoch, Moves, PortError, PortResult, SwitchActs, SwitchTraits, TrafficSwitch};
use crate::side::Side;
use crate::sql::{ident, soon};
use member::Bouncer;

/// The longest a member may take to hold its clients.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Every PgBouncer in front of blue.
pub struct PgBouncerSwitch {
    members: Vec<Arc<Bouncer>>,
    blue: ConnInfo,
    green: ConnInfo,
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
            .map(|config| Bouncer::new(config, blue, green).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok(Self { members, blue: blue.clone(), green: green.clone() })
    }

    /// Which server a side is.
    async fn identity_of(&self, side: Side, deadline: Instant) -> PortResult<Identity> {
        let info = match side {
            Side::Blue => &self.blue,
            Side::Green => &self.green,
        };
        identity::of_side(&Login::from(info), side, deadline).await
    }

    /// Does the same with every member at once; the first error in the members' order.
    async fn all<T: Send + 'static, F>(&self, act: impl Fn(Arc<Bouncer>) -> F) -> PortResult<Vec<T>>
    where
        F: Future<Output = PortResult<T>> + Send + 'static,
    {
        self.each(act).await?.into_iter().collect()
    }

    /// The same, with what came of it for each member, in their order.
    async fn each<T: Send + 'static, F>(
        &self,
        act: impl Fn(Arc<Bouncer>) -> F,
    ) -> PortResult<Vec<PortResult<T>>>
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
        Ok(results.into_iter().flatten().collect())
    }
}

impl TrafficSwitch for PgBouncerSwitch {
    fn traits(&self) -> SwitchTraits {
        SwitchTraits { holds: true, moves: Moves::Transparently, members: self.members.len() }
    }

    async fn inspect(&self, from: Side, _max_pause: Duration) -> PortResult<Vec<Check>> {
        let serving = self.identity_of(from, soon()).await?;
        let checks = self
            .all(|member| {
                let serving = serving.clone();
                async move { member.inspect(from, &serving).await }
            })
            .await?;
        Ok(checks.into_iter().flatten().collect())
    }

    async fn arm(&self, _to: Side, deadline: Instant) -> PortResult<()> {
        self.all(|member| async move { member.console.get(deadline).await.map(|_| ()) }).await?;
        Ok(())
    }

    async fn hold(&self, _epoch: Epoch, deadline: Instant) -> PortResult<String> {
        let deadline = deadline.min(Instant::now() + PAUSE_MAX);
        let held = self
            .all(|member| {
                // Here and not in the task: one that outlives this call must not begin anew.
                let ticket = member.begin();
                async move { member.pause(ticket, deadline).await }
            })
            .await?;
        Ok(format!("{0}/{0} pgbouncers hold", held.len()))
    }

    async fn holding(&self, _epoch: Epoch, deadline: Instant) -> PortResult<bool> {
        let hold = self.all(|member| async move { member.holds(deadline).await }).await?;
        Ok(hold.into_iter().all(|holds| holds))
    }

    async fn switch(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        let to = proof.to();
        self.all(|member| async move { member.retarget(to, deadline).await }).await
    }

    async fn open_switched(&self, proof: &Committed, deadline: Instant) -> Vec<Member> {
        let to = proof.to();
        let opened = self.each(|member| async move { member.resume_at(to, deadline).await });
        those_that_did(opened.await.unwrap_or_else(|error| vec![Err(error)]))
    }

    async fn release(&self, _epoch: Epoch, deadline: Instant) -> PortResult<()> {
        self.all(|member| async move { member.resume(deadline).await }).await?;
        Ok(())
    }

    async fn verify(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        let to = proof.to();
        let wanted = self.identity_of(to, deadline).await?;
        let reached = self
            .all(|member| async move {
                let reached = member.probe(deadline).await?;
                Ok((member.name.clone(), reached))
            })
            .await?;
        Ok(reached
            .into_iter()
            .map(|(member, reached)| {
                let verified = reached == wanted;
                let target = if verified { to.name() } else { "unknown" };
                let evidence = format!("a client of it reaches {}", reached.shown);
                Member { member, target: target.into(), verified, evidence }
            })
            .collect())
    }

    fn name(&self) -> String {
        format!("pgbouncer x{}", self.members.len())
    }

    fn describe(&self, to: Side) -> SwitchActs {
        let mut acts = SwitchActs::default();
        for member in &self.members {
            let target = member.target(to);
            for database in &member.databases {
                let name = ident(database);
                acts.hold.push(member.act("quiesce", format!("PAUSE {name}")));
                acts.switch.push(member.act(
                    "flip",
                    format!(
                        "{}: [databases] {database} = host={} port={} dbname={}",
                        member.config_file.display(),
                        target.host,
                        target.port,
                        target.dbname
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
