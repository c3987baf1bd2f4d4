//! The ports against real servers of MySQL and MariaDB.

#[macro_use]
mod support;

mod claim;
mod cut;
mod fence;
mod lease;
mod proxy;
mod proxy_busy;
mod proxy_schemas;
mod proxy_switch;
mod sequences;
