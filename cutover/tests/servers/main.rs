//! The ports against real servers.

mod fence;
mod flip;
mod sequences;
mod support;
