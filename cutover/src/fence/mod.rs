//! Making blue refuse writes, one module per engine.

pub mod postgres;

pub use postgres::{PostgresFence, PostgresUndo};
