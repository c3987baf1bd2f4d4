//! The engine and the sidecar.
//!
//! [`pipeline`] is a pipeline's life from the first check to the cutover; [`engine`] is its stream;
//! [`store`] its memory; [`check`], [`schema`] and [`backfill`] its beginning; [`protect`] keeps blue
//! from harm; [`status`] what it
//! knows of itself, which [`http`], [`metrics`] and [`alerts`] pass on. [`sidecar`] puts them
//! together into the commands of [`cli`].

pub mod alerts;
pub mod backfill;
mod cancel;
pub mod check;
pub mod chronicle;
pub mod cli;
pub mod config;
pub mod controller;
pub mod controlling;
pub mod descriptors;
pub mod door;
pub mod engine;
pub mod http;
pub mod metrics;
pub mod own_thread;
pub mod panics;
pub mod pipeline;
pub mod probe;
pub mod protect;
pub mod proxy;
pub mod schema;
pub mod secret;
pub mod sidecar;
pub mod status;
pub mod store;
pub mod tail;
mod triggers;
pub mod verify;
pub mod watchdog;
pub mod way_back;
