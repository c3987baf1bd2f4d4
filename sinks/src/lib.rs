//! Change events to a target.
//!
//! This crate owns the contract of a target ([`target`]), the one place that builds SQL for rows
//! ([`plan`]), and the progress rows that make applying exactly-once ([`progress`], [`mark`]). It
//! knows sources only by the vocabulary of `decoders::change`.

pub mod catalog_record;
mod caution;
pub mod conflicts;
pub mod mark;
pub mod mysql;
pub mod net;
pub mod null;
pub mod own;
pub mod plan;
pub mod postgres;
pub mod progress;
pub mod target;

pub use mark::{Reached, Share};
pub use null::{NullLane, NullTarget};
pub use target::{Applied, FlushedByLanes, Flusher, Lane, LaneId, Target, TargetError};
