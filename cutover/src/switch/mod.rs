//! Traffic switches: who holds the clients and sends them to the other side.
//!
//! | Router | Clients in the pause | Their sessions |
//! |---|---|---|
//! | PgBouncer | wait | go on |
//! | ProxySQL | wait | go on, but for those that keep their server connection |
//! | our own proxy | wait | go on, but for those that are tied to their server |
//! | HAProxy | are cut, and refused | connect again |
//! | webhook, command | as the operator's own router does | connect again |

mod command;
mod config;
mod embedded;
mod haproxy;
mod identity;
mod ini;
mod pgbouncer;
mod place;
mod proxysql;
mod several;
mod webhook;

pub use command::CommandSwitch;
pub use config::{
    CommandConfig, HaProxyConfig, PgBouncerConfig, ProxySqlConfig, SwitchConfig, SwitchConfigError,
    Unnamed, WebhookConfig,
};
pub use embedded::EmbeddedSwitch;
pub use haproxy::HaProxySwitch;
pub use pgbouncer::PgBouncerSwitch;
pub use proxysql::ProxySqlSwitch;
pub use webhook::WebhookSwitch;

pub(crate) use identity::{ASK as WHICH_SERVER, which_server};

use std::time::Duration;

use tokio::time::Instant;

use crate::api::{Check, Member};
use crate::evidence::Committed;
use crate::login::Login;
use crate::ports::{Epoch, PortResult, SwitchActs, SwitchTraits, TrafficSwitch};
use crate::side::Side;

/// All routers that clients use. Without any a run fails its prechecks.
pub struct Switch(Vec<Router>);

/// One kind of router, with all of its members.
enum Router {
    PgBouncer(Box<PgBouncerSwitch>),
    HaProxy(Box<HaProxySwitch>),
    ProxySql(Box<ProxySqlSwitch>),
    Webhook(Box<WebhookSwitch>),
    Command(Box<CommandSwitch>),
    Embedded(Box<EmbeddedSwitch>),
}

impl Switch {
    /// From the configuration.
    ///
    /// # Errors
    /// Which key can't be used, and why.
    pub fn new(
        config: &SwitchConfig,
        blue: impl Into<Login>,
        green: impl Into<Login>,
    ) -> Result<Self, SwitchConfigError> {
        config.validate()?;
        let ends: [Login; 2] = [blue.into(), green.into()];
        let [blue, green] = &ends;
        let mut routers = Vec::new();
        if !config.pgbouncer.is_empty() {
            let (Some(blue), Some(green)) = (blue.postgres(), green.postgres()) else {
                return Err(SwitchConfigError(
                    "cutover.pgbouncer is for PostgreSQL; for MySQL and MariaDB name a haproxy, a \
                     webhook or a command, or nothing: our own proxy serves then"
                        .into(),
                ));
            };
            let switch = PgBouncerSwitch::new(&config.pgbouncer, blue, green)?;
            routers.push(Router::PgBouncer(Box::new(switch)));
        }
        if !config.haproxy.is_empty() {
            let switch = HaProxySwitch::new(&config.haproxy, blue, green)?;
            routers.push(Router::HaProxy(Box::new(switch)));
        }
        if !config.proxysql.is_empty() {
            let switch = ProxySqlSwitch::new(&config.proxysql, blue, green)?;
            routers.push(Router::ProxySql(Box::new(switch)));
        }
        if let Some(webhook) = &config.webhook {
            let switch = WebhookSwitch::new(webhook.clone(), blue, green)?;
            routers.push(Router::Webhook(Box::new(switch)));
        }
        if let Some(command) = &config.command {
            let switch = CommandSwitch::new(command.clone(), blue, green)?;
            routers.push(Router::Command(Box::new(switch)));
        }
        if let Some(proxy) = &config.proxy {
            let switch = EmbeddedSwitch::new(proxy, blue, green)?;
            routers.push(Router::Embedded(Box::new(switch)));
        }
        Ok(Self(routers))
    }
}

/// The members that have done it. Why the others have not is only logged: their act is tried again.
fn those_that_did(results: Vec<PortResult<Option<Member>>>) -> Vec<Member> {
    let did = |result: PortResult<Option<Member>>| {
        result.unwrap_or_else(|error| {
            tracing::warn!("{}: {error}", error.place);
            None
        })
    };
    results.into_iter().filter_map(did).collect()
}

/// The same call to whichever it is. Futures are boxed: a run holds one of each act, and all kinds of
/// routers side by side in each of them would be large.
macro_rules! each {
    ($router:expr, $switch:ident => $call:expr) => {
        match $router {
            Router::PgBouncer($switch) => $call,
            Router::HaProxy($switch) => $call,
            Router::ProxySql($switch) => $call,
            Router::Webhook($switch) => $call,
            Router::Command($switch) => $call,
            Router::Embedded($switch) => $call,
        }
    };
}

impl TrafficSwitch for Router {
    fn traits(&self) -> SwitchTraits {
        each!(self, switch => switch.traits())
    }

    async fn inspect(&self, from: Side, max_pause: Duration) -> PortResult<Vec<Check>> {
        each!(self, switch => Box::pin(switch.inspect(from, max_pause)).await)
    }

    async fn arm(&self, to: Side, deadline: Instant) -> PortResult<()> {
        each!(self, switch => Box::pin(switch.arm(to, deadline)).await)
    }

    async fn hold(&self, epoch: Epoch, deadline: Instant) -> PortResult<String> {
        each!(self, switch => Box::pin(switch.hold(epoch, deadline)).await)
    }

    async fn holding(&self, epoch: Epoch, deadline: Instant) -> PortResult<bool> {
        each!(self, switch => Box::pin(switch.holding(epoch, deadline)).await)
    }

    async fn switch(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        each!(self, switch => Box::pin(switch.switch(proof, deadline)).await)
    }

    async fn open_switched(&self, proof: &Committed, deadline: Instant) -> Vec<Member> {
        each!(self, switch => Box::pin(switch.open_switched(proof, deadline)).await)
    }

    async fn release(&self, epoch: Epoch, deadline: Instant) -> PortResult<()> {
        each!(self, switch => Box::pin(switch.release(epoch, deadline)).await)
    }

    async fn verify(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        each!(self, switch => Box::pin(switch.verify(proof, deadline)).await)
    }

    fn name(&self) -> String {
        each!(self, switch => switch.name())
    }

    fn describe(&self, to: Side) -> SwitchActs {
        each!(self, switch => switch.describe(to))
    }
}
