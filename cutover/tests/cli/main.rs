//! The built command against a sidecar that says what each test wants.

mod back;
mod canned;
mod command;
mod looking;
mod running;
mod server;
mod trap;

use std::time::Duration;

/// Nothing here takes longer, however busy the machine is.
const DEADLINE: Duration = Duration::from_secs(60);
