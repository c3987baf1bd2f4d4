//! The engine and the sidecar.

pub mod alerts;
pub mod engine;
pub mod metrics;
pub mod secret;
pub mod store;
