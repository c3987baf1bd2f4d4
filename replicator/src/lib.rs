//! The engine and the sidecar.

pub mod alerts;
pub mod backfill;
pub mod cli;
pub mod config;
pub mod controlling;
pub mod engine;
pub mod metrics;
pub mod pipeline;
pub mod schema;
pub mod secret;
pub mod status;
pub mod store;
pub mod probe;
