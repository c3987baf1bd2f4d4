//! Traffic switches: who holds the clients and sends them to the other side.

mod command;
mod config;
mod embedded;
mod identity;
mod ini;
mod pgbouncer;

pub use command::CommandSwitch;
pub use config::{CommandConfig, PgBouncerConfig, SwitchConfig, SwitchConfigError};
pub use embedded::EmbeddedSwitch;
pub use pgbouncer::PgBouncerSwitch;

use decoders::postgres::conninfo::ConnInfo;
use tokio::time::Instant;

use crate::api::{Check, Member};
use crate::evidence::Committed;
use crate::ports::{Epoch, Moves, PortError, PortResult, SwitchActs, SwitchTraits, TrafficSwitch};
use crate::side::Side;

/// One of the switches.
pub enum Switch {
    /// PgBouncer, any number of members.
    PgBouncer(Box<PgBouncerSwitch>),
    /// The operator's own commands.
    Command(Box<CommandSwitch>),
    /// Our own proxy.
    Embedded(Box<EmbeddedSwitch>),
    /// None is configured: a run fails its prechecks.
    Missing,
}

impl Switch {
    /// From the configuration.
    pub fn new(
        config: &SwitchConfig,
        blue: &ConnInfo,
        green: &ConnInfo,
    ) -> Result<Self, SwitchConfigError> {
        config.validate()?;
        if let Some(command) = &config.command {
            let switch = CommandSwitch::new(command.clone(), blue, green);
            return Ok(Switch::Command(Box::new(switch)));
        }
        if let Some(proxy) = &config.proxy {
            return Ok(Switch::Embedded(Box::new(EmbeddedSwitch::new(proxy, blue, green)?)));
        }
        if config.pgbouncer.is_empty() {
            return Ok(Switch::Missing);
        }
        Ok(Switch::PgBouncer(Box::new(PgBouncerSwitch::new(&config.pgbouncer, blue, green)?)))
    }
}

fn missing() -> PortError {
    PortError::new("router", "no traffic switch is configured").remedy(
        "add [[cutover.pgbouncer]], [cutover.proxy] or [cutover.command] to the configuration",
    )
}

impl TrafficSwitch for Switch {
    fn traits(&self) -> SwitchTraits {
        match self {
            Switch::PgBouncer(switch) => switch.traits(),
            Switch::Command(switch) => switch.traits(),
            Switch::Embedded(switch) => switch.traits(),
            Switch::Missing => SwitchTraits { holds: false, moves: Moves::ByReconnect, members: 0 },
        }
    }

    async fn inspect(&self, from: Side) -> PortResult<Vec<Check>> {
        match self {
            Switch::PgBouncer(switch) => switch.inspect(from).await,
            Switch::Command(switch) => switch.inspect(from).await,
            Switch::Embedded(switch) => switch.inspect(from).await,
            Switch::Missing => Ok(vec![Check::fail(
                "router",
                "no traffic switch is configured, so clients could not be moved",
                "add [[cutover.pgbouncer]], [cutover.proxy] or [cutover.command] to the configuration",
            )]),
        }
    }

    async fn arm(&self, to: Side, deadline: Instant) -> PortResult<()> {
        match self {
            Switch::PgBouncer(switch) => switch.arm(to, deadline).await,
            Switch::Command(switch) => switch.arm(to, deadline).await,
            Switch::Embedded(switch) => switch.arm(to, deadline).await,
            Switch::Missing => Err(missing()),
        }
    }

    async fn hold(&self, epoch: Epoch, deadline: Instant) -> PortResult<String> {
        match self {
            Switch::PgBouncer(switch) => switch.hold(epoch, deadline).await,
            Switch::Command(switch) => switch.hold(epoch, deadline).await,
            Switch::Embedded(switch) => switch.hold(epoch, deadline).await,
            Switch::Missing => Err(missing()),
        }
    }

    async fn holding(&self, epoch: Epoch, deadline: Instant) -> PortResult<bool> {
        match self {
            Switch::PgBouncer(switch) => switch.holding(epoch, deadline).await,
            Switch::Command(switch) => switch.holding(epoch, deadline).await,
            Switch::Embedded(switch) => switch.holding(epoch, deadline).await,
            Switch::Missing => Err(missing()),
        }
    }

    async fn switch(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        match self {
            Switch::PgBouncer(switch) => switch.switch(proof, deadline).await,
            Switch::Command(switch) => switch.switch(proof, deadline).await,
            Switch::Embedded(switch) => switch.switch(proof, deadline).await,
            Switch::Missing => Err(missing()),
        }
    }

    async fn release(&self, epoch: Epoch, deadline: Instant) -> PortResult<()> {
        match self {
            Switch::PgBouncer(switch) => switch.release(epoch, deadline).await,
            Switch::Command(switch) => switch.release(epoch, deadline).await,
            Switch::Embedded(switch) => switch.release(epoch, deadline).await,
            // Nothing can have been held.
            Switch::Missing => Ok(()),
        }
    }

    async fn verify(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        match self {
            Switch::PgBouncer(switch) => switch.verify(proof, deadline).await,
            Switch::Command(switch) => switch.verify(proof, deadline).await,
            Switch::Embedded(switch) => switch.verify(proof, deadline).await,
            Switch::Missing => Err(missing()),
        }
    }

    fn name(&self) -> String {
        match self {
            Switch::PgBouncer(switch) => switch.name(),
            Switch::Command(switch) => switch.name(),
            Switch::Embedded(switch) => switch.name(),
            Switch::Missing => "none".into(),
        }
    }

    fn describe(&self, to: Side) -> SwitchActs {
        match self {
            Switch::PgBouncer(switch) => switch.describe(to),
            Switch::Command(switch) => switch.describe(to),
            Switch::Embedded(switch) => switch.describe(to),
            Switch::Missing => SwitchActs::default(),
        }
    }
}
