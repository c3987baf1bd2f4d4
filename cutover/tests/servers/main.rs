//! The ports against real servers.

mod bypass;
mod claim;
mod conformance;
mod fence;
mod flip;
mod lease;
mod proxy;
mod proxy_entrance;
mod proxy_liars;
mod proxy_passwords;
mod proxy_replication;
mod proxy_switch;
mod raw;
mod router;
mod sequences;
mod support;
