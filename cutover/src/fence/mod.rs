//! Making one side refuse writes, one module per engine.

pub mod door;
pub mod postgres;

pub use door::{Door, DoorGuard, OpenDoor};
pub use postgres::{PostgresDoor, PostgresFence, PostgresUndo};
