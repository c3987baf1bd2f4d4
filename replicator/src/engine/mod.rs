//! The engine: from a fresh pair of databases to a stream that keeps green equal to blue.

pub mod apply;
pub mod checkpointing;
pub mod frontier;
pub mod intake;
pub mod marker;
pub mod resume;
pub mod stream;
pub mod truncation;
