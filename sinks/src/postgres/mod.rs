//! Applying to PostgreSQL.

pub mod catalog;
mod connect;
pub mod copy;
mod error;
mod lane;
mod pipeline;
pub mod sequences;
pub mod session;
mod statements;
mod target;

pub use error::{Refusal, target_error};
pub use lane::PgLane;
pub use session::{Blocker, Capabilities, OriginTracking, TriggerSuppression, blockers};
pub use target::{PgTarget, PgTargetOptions};
