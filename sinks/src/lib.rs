//! Change events to a target.
//!
//! This crate owns the contract of a target ([`target`]), the one place that builds SQL for rows,
//! and the progress rows that make applying exactly-once. It knows sources only by the vocabulary
//! of `decoders::change`.

pub mod postgres;
pub mod target;

pub use target::{Applied, Lane, LaneId, Target, TargetError};
