//! The engine: from a fresh pair of databases to a stream that keeps green equal to blue.

mod ahead;
pub mod apply;
pub mod budget;
pub mod checkpointing;
pub mod copied_at;
mod flight;
pub mod frontier;
pub mod hold;
pub mod intake;
pub mod lanes;
pub mod marker;
pub mod own;
pub mod resume;
pub mod schedule;
pub mod stream;
mod taken;
pub mod totals;
pub mod touched;
pub mod truncation;
pub mod window;
