//! Connections against a real server: who gets in, how, and what a refusal says.

mod authentication;
mod liveness;
mod peers;
mod rogue;
mod server;
mod sslmode;
mod streaming;
mod working;
