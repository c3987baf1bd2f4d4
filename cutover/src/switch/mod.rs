//! Traffic switches: who holds the clients and sends them to green.

mod command;
mod config;
mod identity;
mod ini;
mod pgbouncer;

pub use command::CommandSwitch;
pub use config::{CommandConfig, PgBouncerConfig, SwitchConfig, SwitchConfigError};
pub use pgbouncer::PgBouncerSwitch;

use decoders::postgres::conninfo::ConnInfo;
use tokio::time::Instant;

use crate::api::{Check, Member};
use crate::evidence::Committed;
use crate::ports::{Epoch, PortError, PortResult, SwitchActs, TrafficSwitch};

/// One of the switches.
pub enum Switch {
    /// PgBouncer, any number of members.
    PgBouncer(Box<PgBouncerSwitch>),
    /// The operator's own commands.
    Command(CommandSwitch),
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
            return Ok(Switch::Command(CommandSwitch::new(command.clone(), blue, green)));
        }
        if config.pgbouncer.is_empty() {
            return Ok(Switch::Missing);
        }
        Ok(Switch::PgBouncer(Box::new(PgBouncerSwitch::new(&config.pgbouncer, blue, green)?)))
    }
}

fn missing() -> PortError {
    PortError::new("router", "no traffic switch is configured")
        .remedy("add [[cutover.pgbouncer]] or [cutover.command] to the configuration")
}

impl TrafficSwitch for Switch {
    async fn inspect(&self) -> PortResult<Vec<Check>> {
        match self {
            Switch::PgBouncer(switch) => switch.inspect().await,
            Switch::Command(switch) => switch.inspect().await,
            Switch::Missing => Ok(vec![Check::fail(
                "router",
                "no traffic switch is configured, so clients could not be moved",
                "add [[cutover.pgbouncer]] or [cutover.command] to the configuration",
            )]),
        }
    }

    async fn arm(&self) -> PortResult<()> {
        match self {
            Switch::PgBouncer(switch) => switch.arm().await,
            Switch::Command(switch) => switch.arm().await,
            Switch::Missing => Err(missing()),
        }
    }

    async fn hold(&self, epoch: Epoch, deadline: Instant) -> PortResult<String> {
        match self {
            Switch::PgBouncer(switch) => switch.hold(epoch, deadline).await,
            Switch::Command(switch) => switch.hold(epoch, deadline).await,
            Switch::Missing => Err(missing()),
        }
    }

    async fn switch(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        match self {
            Switch::PgBouncer(switch) => switch.switch(proof, deadline).await,
            Switch::Command(switch) => switch.switch(proof, deadline).await,
            Switch::Missing => Err(missing()),
        }
    }

    async fn release(&self, epoch: Epoch, deadline: Instant) -> PortResult<()> {
        match self {
            Switch::PgBouncer(switch) => switch.release(epoch, deadline).await,
            Switch::Command(switch) => switch.release(epoch, deadline).await,
            // Nothing can have been held.
            Switch::Missing => Ok(()),
        }
    }

    async fn verify(&self, proof: &Committed, deadline: Instant) -> PortResult<Vec<Member>> {
        match self {
            Switch::PgBouncer(switch) => switch.verify(proof, deadline).await,
            Switch::Command(switch) => switch.verify(proof, deadline).await,
            Switch::Missing => Err(missing()),
        }
    }

    fn name(&self) -> String {
        match self {
            Switch::PgBouncer(switch) => switch.name(),
            Switch::Command(switch) => switch.name(),
            Switch::Missing => "none".into(),
        }
    }

    fn describe(&self) -> SwitchActs {
        match self {
            Switch::PgBouncer(switch) => switch.describe(),
            Switch::Command(switch) => switch.describe(),
            Switch::Missing => SwitchActs::default(),
        }
    }
}
