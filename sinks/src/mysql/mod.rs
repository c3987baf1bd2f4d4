//! Applying to MySQL and MariaDB.
//!
//! Values travel as the text that the source's own SELECT gives, or as bytes, and become SQL literals
//! of the column's type ([`literal`]): this crate computes with none of them. Statements of a batch go
//! out many at a time in one message ([`script`]); the server's count of rows and of warnings is
//! checked for each. A warning is an error: without one, the value that was sent is the value that is
//! stored.
//!
//! Where green's table has the form of blue's, batches go as row events instead ([`events`]).

mod conflicts;
mod definitions;
mod error;
mod events;
mod json;
mod lane;
mod literal;
pub mod own;
mod plan;
mod prepared;
mod progress;
mod read;
mod repair;
mod script;
mod session;
mod sets;
mod statements;
mod target;

pub use crate::caution::Ways;
pub use events::why_not_as_events;
pub use json::expression as json_expression;
pub use lane::MysqlLane;
pub use progress::BinlogStreamIdentity;
pub use repair::{Fields, Fitted, Repairer, fitted};
pub use session::{Capabilities, logs_cascades};
pub use target::{MysqlTarget, MysqlTargetOptions};
