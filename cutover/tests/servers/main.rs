//! The ports against real servers.

mod bypass;
mod fence;
mod flip;
mod proxy;
mod proxy_switch;
mod router;
mod sequences;
mod support;
