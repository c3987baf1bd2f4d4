//! The watchdog: a small process that serves the clients when the sidecar dies in the middle of a
//! run.
//!
//! ```text
//! replicator run --stdin--> replicator watchdog
//!   journal entries, each before its act; a beat every 250 ms; "over"
//! ```
//!
//! A router that holds its clients holds them although nobody is there any more, and a closed
//! blue stays closed. So before a run's first act on clients the sidecar starts a process in a
//! session of its own, and tells it through a pipe everything that a recovery would read from the
//! journal: the state directory itself can be open in one process only. When the pipe ends without
//! a word, the watchdog does what the next start would do, as far as clients are concerned
//! ([`Scope::Traffic`](cutover::controller::Scope)): it puts everything back if no commit was ever
//! intended, or if it wins the decision row with `abort`; it finishes the flip if the row says
//! `commit`; and it keeps clients waiting, and goes on asking, if nobody can read the row.
//!
//! A sidecar that is silent for [`LEASE`] while clients are held is ended with SIGKILL first, which
//! ends a stopped process, too. Where that is impossible (process 1 of a container) it finds its
//! lease lost when it wakes: what it does next is checked against it.
//!
//! - [`protocol`]: what goes through the pipe. Passwords do, and nowhere else: not through
//!   arguments, the environment or files.
//! - [`guard`]: the sidecar's end. It starts another watchdog when one has died.
//! - [`process`]: the watchdog's end.
//! - [`turn`]: of a state directory only one process acts at a time.
//!
//! The next start waits a moment for a watchdog that still acts, and ends it then: it does the same
//! again. A container whose process 1 is the sidecar ends with it, watchdog included; there it is
//! the next start that recovers.

mod engine;
pub mod guard;
pub mod lease;
pub mod process;
pub mod protocol;
mod told;
pub mod turn;

use std::time::Duration;

pub use guard::Guard;
pub use lease::SidecarLease;
pub use process::run;

/// A sidecar that is silent for so long while clients are held is taken for dead.
pub const LEASE: Duration = Duration::from_secs(2);

/// How often the sidecar says that it lives.
const BEAT: Duration = Duration::from_millis(250);
