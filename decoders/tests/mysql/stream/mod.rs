//! The stream of a running server: what is delivered, and where it goes on after an interruption.

mod content;
mod described;
mod large;
mod refused;
mod resume;
mod support;
