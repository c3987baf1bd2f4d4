//! Making one side refuse writes, one module per engine.

pub mod door;
mod held;
mod long;
pub mod mysql;
pub mod postgres;

pub use door::{Door, DoorGuard, OpenDoor};
pub use mysql::{MysqlFence, MysqlUndo};
pub use postgres::{PostgresDoor, PostgresFence, PostgresUndo};
