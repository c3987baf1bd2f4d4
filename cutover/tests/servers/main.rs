//! The ports against real servers.

mod bypass;
mod conformance;
mod fence;
mod flip;
mod lease;
mod proxy;
mod proxy_switch;
mod router;
mod sequences;
mod support;
