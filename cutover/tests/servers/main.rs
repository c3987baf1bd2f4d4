//! The ports against real servers.

mod fence;
mod flip;
mod router;
mod sequences;
mod support;
