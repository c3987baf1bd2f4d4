//! Watching the side that opened: samples in, a verdict out, and at most one rollback.
//!
//! - [`config`] is the operator's `[watch]`; a [`Monitor`] is one line of it: what to look at
//!   ([`probe`]), and the [`rule`] by which it is judged.
//! - [`judge`] says of the newest samples whether they are healthy, a breach or inconclusive.
//!   What gave no sample is never healthy, and never a breach. A monitor that compares, or whose
//!   limit could have been passed before the flip already, is held against the [`baseline`] from
//!   before the flip; without one it is inconclusive.
//! - [`decide`] says what follows from all verdicts.
//! - [`supervisor`] is the loop around these: it follows the runs, takes samples, and begins the
//!   rollback. A run can be rolled back so only while it watches, and it watches once: after a
//!   rollback nothing happens by itself until an operator's next cutover.
//!
//! All but `probe` and `supervisor` are pure.

pub mod baseline;
pub mod config;
pub mod decide;
pub mod judge;
mod monitor;
pub mod probe;
pub mod rule;
pub mod sample;
mod stage;
pub mod supervisor;

pub use baseline::Baseline;
pub use config::WatchConfig;
pub use monitor::Monitor;
pub use supervisor::supervise;
