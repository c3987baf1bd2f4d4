//! Applying to real MySQL and MariaDB servers: what is read from one is written to another, and what
//! both select is the same.

mod batches;
mod definitions;
mod events;
mod foreign_keys;
mod limits;
mod once;
mod refused;
mod repair;
mod support;
mod types;
